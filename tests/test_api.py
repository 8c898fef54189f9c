"""The library in a few lines: load, generate, stream, evaluate; and that importing it costs nothing."""

import json
import subprocess
import sys

import pytest
import torch

import zhixing
from zhixing import native
from zhixing.checkpoints.folder import save_folder
from zhixing.core.errors import BadInput, MissingResource
from zhixing.families.llama import FIXED
from zhixing.models.config import TransformerConfig
from zhixing.models.transformer import Transformer
from zhixing.native.runtime import PAGE
from zhixing.tokenization.train import train_tokenizer


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "first"
    tokenizer = train_tokenizer([], "byte").tokenizer
    sizes = {"width": 16, "layers": 1, "heads": 2, "kv_heads": 2, "head_dim": 8, "mlp_width": 16, "context": 64}
    model = Transformer(TransformerConfig(vocab_size=tokenizer.vocab_size, **sizes, **FIXED))
    model.initialise(torch.Generator().manual_seed(0))
    folder.mkdir()
    save_folder(folder / "model", model.eval(), tokenizer, "llama")
    return folder


@pytest.fixture
def model(run):
    return zhixing.load(run)


def test_importing_takes_no_torch_and_little_time():
    code = (
        "import sys, time; start = time.process_time(); import zhixing; spent = time.process_time() - start\n"
        "print(spent, 'torch' in sys.modules, zhixing.__version__)"
    )
    seconds, torch_there, version = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert torch_there == "False" and version == zhixing.__version__
    assert float(seconds) < 0.05


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = zhixing.lode
    assert {"load", "LanguageModel", "__version__"} <= set(dir(zhixing))


def test_one_prompt_gives_a_text_and_several_give_a_list(model, run):
    options = {"temperature": 0, "max_tokens": 8}
    one = model.generate("知行", **options)
    assert isinstance(one, str)
    assert model.generate(["知行", "to know"], **options)[0] == one
    assert "".join(model.stream("知行", **options)) == one
    answers = model.complete(["知行", [1, 2]], n=2, max_tokens=3)
    assert [(answer.prompt, answer.sample) for answer in answers] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert model.complete([1, 2], max_tokens=3)[0].prompt_tokens == 2
    assert model.generate([], **options) == []
    assert model.path == run / "model" and "parameters" in repr(model)


def test_the_folders_options_are_in_force_and_can_be_changed(run, tmp_path):
    model = zhixing.load(run)
    written = json.loads((run / "model" / "generation_config.json").read_text())
    assert model.options.temperature == written["temperature"] and model.options.top_p == written["top_p"]
    assert model.complete("a", max_tokens=3)[0].tokens
    assert model.generate("a", temperature=0, max_tokens=5) == model.generate("a", temperature=0, max_tokens=5, seed=9)


def test_mistakes_are_named(model, run):
    with pytest.raises(BadInput, match="did you mean 'max_tokens'"):
        model.generate("a", max_token=3)
    with pytest.raises(BadInput, match=r"use complete"):
        model.generate("a", n=2)
    with pytest.raises(BadInput, match="the model's context is 64"):
        model.generate("x" * 100)
    with pytest.raises(BadInput, match="unknown number type 'float8'"):
        zhixing.load(run, dtype="float8")
    with pytest.raises(MissingResource):
        zhixing.load(run / "nowhere")


def test_half_precision_writes(run):
    assert zhixing.load(run, dtype="bfloat16").model.embedding.weight.dtype == torch.bfloat16
    assert len(zhixing.load(run, dtype="bfloat16").complete("a", max_tokens=4, end_tokens=())[0].tokens) == 4


def test_evaluate_delegates(model):
    from zhixing.evaluation.language_modelling import evaluate_text

    texts = ["To know and to do.", "知行合一"]
    assert model.evaluate(texts, window=16) == evaluate_text(model.model, model.tokenizer, texts, window=16)


@pytest.fixture(scope="module")
def talker(tmp_path_factory):
    from tests.generation.chat_model import chat_network, chat_tokenizer

    folder, tokenizer = tmp_path_factory.mktemp("talker"), chat_tokenizer("qwen2.5-tools")
    save_folder(folder / "model", chat_network(tokenizer, 1024), tokenizer, "llama")
    return zhixing.load(folder / "model")


def test_chat_answers_messages(talker):
    options = {"temperature": 0, "max_tokens": 6}
    messages = [{"role": "user", "content": "知行?"}]
    reply = talker.chat(messages, **options)
    assert reply.message == {"role": "assistant", "content": reply.text} and messages == messages[:1]
    assert talker.chat("知行?", **options).text == reply.text
    stream = talker.stream_chat(messages, **options)
    assert "".join(stream) == reply.text == stream.reply.text
    block = PAGE if native.is_available() else 1  # the engine finds whole blocks again
    known = reply.generation.prompt_tokens // block * block
    assert talker.chat([*messages, reply.message, *messages], **options).reused >= known
    ends = talker.chat_format.end_tokens(talker.options.end_tokens)
    assert talker.tokenizer.vocabulary["<|im_end|>"] in ends
    whole = talker.chat(messages, num_beams=2, max_tokens=4)
    assert len(whole.generation.tokens) <= 4


def test_a_conversation_goes_on(talker):
    def weather(city: str) -> str:
        """The weather.

        Args:
            city: Where.
        """
        return city

    chat = talker.conversation(system="Be brief.", tools=[weather], max_tokens=3, temperature=0)
    first = "".join(chat.say("Hello"))
    assert [message["role"] for message in chat.messages] == ["system", "user", "assistant"]
    assert chat.messages[-1]["content"] == first
    assert '"name": "weather"' in chat.prompt().text and chat.options.max_tokens == 3
    assert talker.conversation().options.max_tokens == 1024
    assert talker.conversation().options.temperature == 0.8  # as its file says


def test_a_conversation_is_not_drawn_from_everything(tmp_path):
    from tests.generation.chat_model import chat_network, chat_tokenizer

    tokenizer = chat_tokenizer("chatml")
    save_folder(tmp_path / "model", chat_network(tokenizer, 64), tokenizer, "llama")
    (tmp_path / "model" / "generation_config.json").write_text("{}")
    model = zhixing.load(tmp_path / "model")
    options = model.conversation().options
    assert (options.temperature, options.min_p) == (0.7, 0.1)
    for said in ({"temperature": 1.0}, {"top_k": 5}, {"num_beams": 2}):  # who says anything decides all of it
        options = model.conversation(**said).options
        assert (options.temperature, options.min_p) == (1.0, 0.0)


def test_a_model_that_was_not_made_for_conversations_says_so(model):
    with pytest.raises(BadInput, match="no chat template"):
        model.chat("Hello")
    with pytest.raises(BadInput, match="did you mean 'max_tokens'"):
        model.generate("a", max_token=3)
