"""What holds for every strategy: batches as one by one, streams as whole answers, stop texts and whole characters."""

import functools
import json

import pytest
from oracle import models

from zhixing.core.errors import BadInput
from zhixing.generation import Generator, RewardGuidance, SamplingOptions
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.tokenization.train import train_tokenizer

pytest.importorskip("transformers")
TEXTS = ["知之为知之，不知为不知，是知也。\n", "To know is to act, and to act is to know.\n"]
PROMPTS = ["知之", "To know is to act", "a", ""]
STRATEGIES = {
    "greedy": {"temperature": 0},
    "drawn": {"seed": 3, "temperature": 0.7, "top_p": 0.9, "n": 3},
    "penalised": {
        "seed": 3,
        "presence_penalty": 1.0,
        "no_repeat_ngram_size": 2,
        "bad_words": ["know"],
        "min_tokens": 4,
    },
    "beams": {"num_beams": 4, "n": 3},
    "groups": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5, "n": 2},
    "drawn beams": {"num_beams": 3, "beam_sampling": True, "seed": 4},
    "contrastive": {"penalty_alpha": 0.6, "top_k": 4},
    "best of": {"best_of": 4, "n": 2, "seed": 5},
    "guided": {"temperature": 0, "guidance_scale": 1.7, "negative_prompt": "To act"},
    "guided samples": {"seed": 3, "n": 2, "guidance_scale": 1.7},
    "guided beams": {"num_beams": 3, "guidance_scale": 1.7, "repetition_penalty": 1.3},
}


def sentencepiece_like(folder) -> Tokenizer:
    """A tokenizer as Llama's: spaces as ▁, bytes for what has no piece, the first space dropped."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcknotwi知", "kn", "▁a"]
    definition = {
        "version": "1.0", "truncation": None, "padding": None, "pre_tokenizer": None, "post_processor": None,
        "added_tokens": [
            {"id": number, "content": pieces[number], "special": True, "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False}
            for number in range(3)
        ],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
                  "vocab": {piece: number for number, piece in enumerate(pieces)}, "merges": [["k", "n"], ["▁", "a"]]},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(definition), encoding="utf-8")
    return Tokenizer.load(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sentencepiece")


@pytest.fixture(params=["byte-bpe", "unigram", "byte", "sentencepiece"])
def generator(request, folder):
    return make(request.param, folder)


@functools.cache
def make(kind, folder):
    if kind == "sentencepiece":
        tokenizer = sentencepiece_like(folder)
    else:
        size = None if kind == "byte" else 320
        tokenizer = train_tokenizer(TEXTS * 3, kind, size, special_tokens=["<|endoftext|>"])[0]
    return Generator(models(tokenizer.vocab_size)[1], tokenizer)


def facts(answer):
    return answer.text, answer.tokens, answer.finish_reason


@pytest.mark.parametrize("generator", ["byte-bpe", "sentencepiece"], indirect=True)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_batch_of_unequal_prompts_gives_what_each_gives_alone(generator, strategy):
    prompts = PROMPTS[: 4 if generator.tokenizer.end_of_text_id is not None else 3]
    options = SamplingOptions(max_tokens=7, stop=("e", "知也"), **STRATEGIES[strategy])
    together = generator.generate(prompts, options)
    alone = [answer for prompt in prompts for answer in generator.generate([prompt], options)]
    assert list(map(facts, together)) == list(map(facts, alone))
    assert len(together) == len(prompts) * options.n
    for answer in together:
        text = generator.tokenizer.decode(answer.tokens, skip_special=True)
        assert not any(stop in answer.text for stop in options.stop)
        if answer.finish_reason == "length" and answer.prompt < 3:
            assert text.strip() == answer.text.strip()


@pytest.mark.parametrize("strategy", ["greedy", "drawn", "penalised", "contrastive", "guided"])
@pytest.mark.parametrize("stop", [(), ("o", "知也", "a")])
def test_a_stream_is_the_whole_answer_and_cuts_no_character(generator, strategy, stop):
    for seed in range(2):
        chosen = {**STRATEGIES[strategy], "n": 1}
        options = SamplingOptions(
            **{**chosen, **({"seed": seed} if "seed" in chosen else {})}, stop=stop, max_tokens=30
        )
        stream = generator.stream("知之 to know", options)
        pieces = list(stream)
        whole = generator.generate(["知之 to know"], options)[0]
        assert "".join(pieces) == whole.text == stream.generation.text
        assert all(pieces)
        assert not any(text in whole.text for text in stop)


def test_whole_characters_of_several_bytes_are_streamed_whole(generator):
    """A character that has no token of its own comes byte by byte, and only its last byte shows it."""
    tokenizer = generator.tokenizer
    wanted = tokenizer.encode("知行合一🙂a")

    class Dictate:
        def __call__(self, logits, context):
            only = logits.new_full(logits.shape, float("-inf"))
            only[:, wanted[context.written]] = 0.0
            return only

    dictated = Generator(generator.model, tokenizer, processors=[Dictate()])
    options = SamplingOptions(temperature=0, max_tokens=len(wanted))
    pieces = list(dictated.stream("to", options))
    assert "".join(pieces).strip() == "知行合一🙂a"
    assert all("\ufffd" not in piece for piece in pieces)
    cut = list(dictated.stream("to", options.replace(stop=("合一🙂",))))
    assert "".join(cut).strip() == "知行"


@pytest.mark.parametrize("generator", ["byte-bpe"], indirect=True)
def test_samples_of_every_strategy_share_one_reading(generator):
    read = []

    class Counting(Generator):
        def read(self, prompts, room):
            read.append(len(prompts))
            return super().read(prompts, room)

    counting = Counting(generator.model, generator.tokenizer)
    for strategy, times in (("drawn", 1), ("beams", 1), ("best of", 1), ("guided samples", 2)):
        read.clear()
        counting.generate(["to", "know"], SamplingOptions(max_tokens=2, **STRATEGIES[strategy]))
        assert read == [2] * times


@pytest.mark.parametrize("generator", ["byte-bpe"], indirect=True)
def test_rewards_go_with_every_strategy(generator):
    def brief(beginnings):
        return [-len(beginning.text) for beginning in beginnings]

    guided = Generator(
        generator.model, generator.tokenizer, processors=[RewardGuidance(brief, tokenizer=generator.tokenizer, count=4)]
    )
    for strategy in ("greedy", "drawn", "beams", "contrastive"):
        options = SamplingOptions(max_tokens=4, **{**STRATEGIES[strategy], "n": 1})
        together = guided.generate(["to", "知知知"], options)
        alone = [guided.generate([prompt], options)[0] for prompt in ("to", "知知知")]
        assert list(map(facts, together)) == list(map(facts, alone))


@pytest.mark.parametrize("generator", ["byte-bpe"], indirect=True)
def test_a_model_that_predicts_no_numbers_says_so_whatever_the_strategy(generator):
    class Broken:
        def __call__(self, logits, context):
            return logits * float("nan")

    broken = Generator(generator.model, generator.tokenizer, processors=[Broken()])
    for strategy in ("greedy", "drawn", "beams", "contrastive", "best of"):
        with pytest.raises(BadInput, match="not numbers"):
            broken.generate(["to"], SamplingOptions(max_tokens=3, **STRATEGIES[strategy]))


@pytest.mark.parametrize("strategy", sorted(set(STRATEGIES) - {"contrastive"}))
def test_the_native_core_writes_the_same(strategy):
    """Its cache is made of shared pages, and its rows are brought into new orders all the same."""
    from zhixing.native.network import NativeNetwork, why_not

    model = models()[1]
    if reason := why_not(model):
        pytest.skip(reason)
    chosen = {name: value for name, value in STRATEGIES[strategy].items() if not isinstance(value, str | list)}
    options = SamplingOptions(max_tokens=30, end_tokens=(7, 31), **chosen)
    prompts = [[5, 4, 22, 3, 9, 5, 9], [0], [9, 5]]
    expected = Generator(model, None).generate(prompts, options)
    written = Generator(NativeNetwork(model), None).generate(prompts, options)
    assert [answer.tokens for answer in written] == [answer.tokens for answer in expected]
