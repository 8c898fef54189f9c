"""A whole life on a little text, English and Chinese: what comes out opens in `transformers` and writes."""

import json
import random

import pytest
import torch

import zhixing
from zhixing.core.errors import BadInput
from zhixing.core.progress import set_quiet
from zhixing.core.recipe import build_recipe
from zhixing.data.shards import TokenStore
from zhixing.tokenization.train import train_tokenizer
from zhixing.workflows.pretrain import resume_run, start_run
from zhixing.workflows.quickstart import free_folder, quickstart_recipe
from zhixing.workflows.samples import sample_prompts

transformers = pytest.importorskip("transformers")

WORDS = {
    "english": "the a king queen walks speaks slowly to of and night day river mountain said: never always".split(),
    "chinese": "天 地 人 知 行 山水 明月 春风 学而时习之 不亦说乎 ， 。 有朋自远方来 道可道".split(),
}
TINY = ["model.depth=2", "model.width=32", "train.steps=30", "train.batch_size=4", "tokenizer.vocab_size=400"]


def write_texts(folder, language):
    generator = random.Random(language)
    folder.mkdir()
    joint = " " if language == "english" else ""
    for number in range(30):
        lines = [joint.join(generator.choices(WORDS[language], k=12)) for _ in range(40)]
        (folder / f"{number}.txt").write_text("\n".join(lines), encoding="utf-8")


@pytest.fixture(scope="module", params=WORDS)
def outcome(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    write_texts(folder / "texts", request.param)
    set_quiet(True)
    yield start_run(quickstart_recipe([str(folder / "texts")], 1.0, TINY), folder / "run")
    set_quiet(False)


def test_the_run_folder_is_complete(outcome):
    names = {path.name for path in outcome.folder.iterdir()}
    assert {"recipe.yaml", "metrics.jsonl", "facts.json", "state.json", "report.html", "model", "checkpoints"} <= names
    assert json.loads((outcome.folder / "state.json").read_text())["state"] == "finished"
    card = (outcome.folder / "model" / "README.md").read_text(encoding="utf-8")
    assert f"{outcome.score.bits_per_byte:.4f} bits per byte" in card
    report = (outcome.folder / "report.html").read_text(encoding="utf-8")
    assert "http://" not in report.replace("http://www.w3.org", "")
    assert "https://" not in report


def test_it_learned_something(outcome):
    unigram = next(yardstick for yardstick in outcome.yardsticks if yardstick.name == "unigram")
    assert outcome.score.bits_per_byte < unigram.bits_per_byte
    assert all(sample["text"] for sample in outcome.samples)


def test_transformers_opens_it_with_the_same_tokens_and_logits(outcome):
    folder = outcome.folder / "model"
    ours = zhixing.load(outcome.folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for text in ("the king walks slowly: never!", "有朋自远方来，不亦说乎。", "  tabs\tand\n\nlines 12345 🙂"):
        ids = ours.tokenizer.encode(text)
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids
        assert tokenizer.decode(ids) == ours.tokenizer.decode(ids) == text
        tokens = torch.tensor([ids])
        with torch.no_grad():
            torch.testing.assert_close(ours.model(tokens), theirs(tokens).logits, atol=1e-4, rtol=1e-4)


def test_greedy_text_equals_theirs(outcome):
    ours = zhixing.load(outcome.folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(outcome.folder / "model").eval()
    prompt = ours.tokenizer.encode(outcome.samples[0]["prompt"])[:20]
    expected = theirs.generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False)[0, len(prompt) :].tolist()
    answer = ours.complete([prompt], temperature=0, max_tokens=20)[0].tokens
    assert answer == expected


def test_a_finished_run_resumes_to_the_same_result(outcome):
    before = (outcome.folder / "model" / "model.safetensors").read_bytes()
    again = resume_run(outcome.folder, prove_first=True)
    assert again.score == outcome.score
    assert again.proof is not None
    assert again.proof.losses > 0
    assert (outcome.folder / "model" / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
def test_every_layout_trains_and_opens_in_transformers(tmp_path, family):
    write_texts(tmp_path / "texts", "english")
    set_quiet(True)
    try:
        recipe = quickstart_recipe([str(tmp_path / "texts")], 1.0, [*TINY, f"model.family={family}"])
        outcome = start_run(recipe, tmp_path / "run")
    finally:
        set_quiet(False)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(outcome.folder / "model").eval()
    assert theirs.config.model_type == family
    ours = zhixing.load(outcome.folder)
    tokens = torch.tensor([ours.tokenizer.encode("the king speaks slowly to the river")])
    with torch.no_grad():
        torch.testing.assert_close(ours.model(tokens), theirs(tokens).logits, atol=1e-4, rtol=1e-4)


def test_what_the_family_could_not_save_is_refused_before_training(tmp_path):
    write_texts(tmp_path / "texts", "english")
    recipe = quickstart_recipe([str(tmp_path / "texts")], 1.0, [*TINY, "model.family=gpt2", "model.head_dim=64"])
    with pytest.raises(BadInput, match="width = heads"):
        start_run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_train_takes_a_dictionary(tmp_path):
    write_texts(tmp_path / "texts", "english")
    set_quiet(True)
    try:
        values = {
            "name": "from-python",
            "data": {"paths": [str(tmp_path / "texts")]},
            "tokenizer": {"kind": "byte"},
            "model": {"depth": 1, "width": 16, "heads": 2, "context": 32},
            "train": {"steps": 4, "batch_size": 2},
        }
        outcome = zhixing.train(values, tmp_path / "run")
    finally:
        set_quiet(False)
    assert build_recipe(values).name == "from-python"
    assert zhixing.load(outcome.folder).config.layers == 1


def test_a_taken_folder_gets_a_number(tmp_path):
    assert free_folder(tmp_path / "quickstart").name == "quickstart"
    (tmp_path / "quickstart").mkdir()
    assert free_folder(tmp_path / "quickstart").name == "quickstart-2"


def test_a_prompt_leaves_half_of_its_document_to_write():
    tokenizer = train_tokenizer(["text"], "byte").tokenizer
    documents = [
        tokenizer.encode(text) for text in ("春眠不覺曉處處聞啼鳥", "short one", "a third text", "and a fourth")
    ]
    prompts = sample_prompts(tokenizer, TokenStore.from_documents(documents), context=64)
    assert len(prompts) == 3
    assert all(0 < len(prompt) <= len(document) / 2 for prompt, document in zip(prompts, documents, strict=False))
