"""Encoder-decoders: `transformers` and this program open each other's folders and compute the same, texts included."""

import json

import pytest
import torch

from zhixing.checkpoints.seq2seq_folder import load_seq2seq, save_seq2seq
from zhixing.core.errors import BadInput
from zhixing.generation import Generator, SamplingOptions
from zhixing.generation.sources import NOT_HERE
from zhixing.models.ragged import Ragged

transformers = pytest.importorskip("transformers")

BART_SIZES = {
    "vocab_size": 61, "d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 40, "max_position_embeddings": 40,
    "dropout": 0.0, "init_std": 0.6,
}  # fmt: skip
T5_SIZES = {
    "vocab_size": 61, "d_model": 32, "d_kv": 6, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 16, "decoder_start_token_id": 0,
    "initializer_factor": 1.0,
}  # fmt: skip
SPECIAL = {"pad_token_id": 1, "eos_token_id": 2, "bos_token_id": 0, "decoder_start_token_id": 2}
CASES = {
    "bart": ("Bart", {**BART_SIZES, **SPECIAL, "forced_eos_token_id": 2}),
    "bart, scaled": ("Bart", {**BART_SIZES, **SPECIAL, "scale_embedding": True, "activation_function": "relu"}),
    "marian": ("Marian", {**BART_SIZES, **SPECIAL, "scale_embedding": True, "activation_function": "swish"}),
    "marian, two vocabularies": (
        "Marian",
        {**BART_SIZES, **SPECIAL, "decoder_vocab_size": 53, "share_encoder_decoder_embeddings": False},
    ),
    "t5": ("T5", {**T5_SIZES}),
    "t5, version 1.1": ("T5", {**T5_SIZES, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "t5, gated silu": ("T5", {**T5_SIZES, "feed_forward_proj": "gated-silu"}),
}  # fmt: skip
CLASSES = {"Bart": "BartForConditionalGeneration", "Marian": "MarianMTModel", "T5": "T5ForConditionalGeneration"}
SOURCES = [[5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 2], [3, 2], [4, 4, 9, 30, 2]]
TARGETS = [[12, 13, 2], [9, 8, 7, 6, 5, 4, 3, 2], [2]]


def theirs(case, folder):
    family, values = CASES[case]
    torch.manual_seed(3)
    config = getattr(transformers, f"{family}Config")(**values)
    model = getattr(transformers, CLASSES[family])(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
            if "relative_attention_bias" in name:
                parameter.normal_(0, 1.5)
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.normal_(0, 0.5)
        if case == "t5, version 1.1":
            model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    model.save_pretrained(folder)
    return model


def padded(rows, fill):
    longest = max(map(len, rows))
    tokens = torch.tensor([row + [fill] * (longest - len(row)) for row in rows])
    return tokens, torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])


def their_logits(model, sources, inputs):
    tokens, mask = padded(sources, model.config.pad_token_id)
    fed, _ = padded(inputs, model.config.pad_token_id)
    with torch.no_grad():
        logits = model(input_ids=tokens, attention_mask=mask, decoder_input_ids=fed, use_cache=False).logits
    return [logits[row, : len(one)] for row, one in enumerate(inputs)]


def our_logits(model, sources, inputs):
    batch = Ragged.of(inputs)
    with torch.no_grad():
        return batch.split(model(Ragged.of(sources), batch))


@pytest.mark.parametrize("case", CASES)
def test_both_ways(case, tmp_path):
    reference = theirs(case, tmp_path / "theirs")
    folder = load_seq2seq(tmp_path / "theirs")
    inputs = [[folder.model.config.start, *target[:-1]] for target in TARGETS]
    wanted = their_logits(reference, SOURCES, inputs)
    for ours, one in zip(our_logits(folder.model, SOURCES, inputs), wanted, strict=True):
        torch.testing.assert_close(ours, one, atol=1e-4, rtol=1e-4)
    # Through the cache, token by token.
    network = folder.model.reading(Ragged.of(SOURCES))
    cache = network.new_cache(3, 8)
    with torch.no_grad():
        for place in range(max(map(len, inputs))):
            tokens = torch.tensor([[row[min(place, len(row) - 1)]] for row in inputs])
            step = network.next_logits(tokens, cache)
            for row, one in enumerate(wanted):
                if place < len(one):
                    torch.testing.assert_close(step[row], one[place], atol=1e-4, rtol=1e-4)
    # And back.
    family = folder.family.name
    save_seq2seq(tmp_path / "ours", folder.model, None, family, generation=folder.generation)
    again = getattr(transformers, CLASSES[CASES[case][0]]).from_pretrained(tmp_path / "ours").eval()
    for one, other in zip(wanted, their_logits(again, SOURCES, inputs), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    reopened = load_seq2seq(tmp_path / "ours").model
    for name, parameter in folder.model.named_parameters():
        assert torch.equal(parameter, dict(reopened.named_parameters())[name])


STRATEGIES = {
    "greedy": ({"num_beams": 1, "do_sample": False}, {"temperature": 0.0}),
    "beams": ({"num_beams": 4, "do_sample": False}, {"num_beams": 4, "temperature": 0.0}),
    "beams, all returned, short": (
        {"num_beams": 4, "do_sample": False, "length_penalty": 0.3, "num_return_sequences": 4},
        {"num_beams": 4, "temperature": 0.0, "length_penalty": 0.3, "n": 4},
    ),
    "beams, early, no repeats": (
        {"num_beams": 3, "do_sample": False, "early_stopping": True, "no_repeat_ngram_size": 2},
        {"num_beams": 3, "temperature": 0.0, "early_stopping": True, "no_repeat_ngram_size": 2},
    ),
    "forced and banned": (
        {"num_beams": 2, "do_sample": False, "forced_bos_token_id": 7, "forced_eos_token_id": 2,
         "bad_words_ids": [[1], [9, 8]], "suppress_tokens": [30]},
        {"num_beams": 2, "temperature": 0.0, "forced_bos_token_id": 7, "forced_eos_token_id": (2,),
         "bad_words": [(1,), (9, 8)], "suppress_tokens": (30,)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("case", ["bart", "marian", "t5"])
def test_texts_are_those_of_generate(case, strategy, tmp_path):
    reference = theirs(case, tmp_path)
    reference.generation_config.forced_eos_token_id = None
    settings, options = STRATEGIES[strategy]
    tokens, mask = padded(SOURCES, reference.config.pad_token_id)
    written = reference.generate(
        input_ids=tokens,
        attention_mask=mask,
        max_new_tokens=9,
        eos_token_id=2,
        pad_token_id=1,
        use_cache=case != "t5",
        **settings,
    )[:, 1:]
    generator = Generator(load_seq2seq(tmp_path).model, None)
    answers = generator.generate(SOURCES, SamplingOptions(max_tokens=9, end_tokens=(2,), **options))
    assert len(answers) == len(written)
    for answer, row in zip(answers, written.tolist(), strict=True):
        assert answer.tokens == row[: len(answer.tokens)]
        assert set(row[len(answer.tokens) :]) <= {1, 2}
    assert answers[0].prompt_tokens == len(SOURCES[0])


def test_what_a_source_cannot_be(tmp_path):
    theirs("bart", tmp_path)
    generator = Generator(load_seq2seq(tmp_path).model, None)
    for source, message in (([], "the source is empty"), ([61], "outside of the vocabulary of 61"),
                            ([3] * 41, "the source has 41 tokens"), ("text", "no tokenizer")):  # fmt: skip
        with pytest.raises(BadInput, match=message):
            generator.generate([source])
    wrong = {
        "guidance_scale": {"guidance_scale": 2.0}, "sliding": {"sliding": True},
        "penalty_alpha": {"penalty_alpha": 0.5, "top_k": 4}, "encoder_no_repeat_ngram_size": {
            "encoder_no_repeat_ngram_size": 2}, "encoder_repetition_penalty": {"encoder_repetition_penalty": 1.3},
    }  # fmt: skip
    assert wrong.keys() == NOT_HERE.keys()
    for name, options in wrong.items():
        with pytest.raises(BadInput, match=rf"{name} = \S+ is not for encoder-decoders: \w") as caught:
            generator.generate([[3]], SamplingOptions(temperature=0.0, **options))
        assert caught.value.remedy.startswith("leave it out")
        assert NOT_HERE[name][1] in caught.value.remedy


@pytest.mark.parametrize("case", ["bart", "marian", "t5"])
def test_unread_fields_and_wrong_weights_are_refused_by_name(case, tmp_path):
    theirs(case, tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "mystery": 3}))
    with pytest.raises(BadInput, match="mystery"):
        load_seq2seq(tmp_path)
    other = {"bart": ("normalize_before", True), "marian": ("static_position_embeddings", False),
             "t5": ("feed_forward_proj", "gated-tan")}[case]  # fmt: skip
    path.write_text(json.dumps({**values, other[0]: other[1]}))
    with pytest.raises(BadInput, match=other[0]):
        load_seq2seq(tmp_path)
    path.write_text(json.dumps({**values, "architectures": ["T5ForTokenClassification"]}))
    with pytest.raises(BadInput, match="T5ForTokenClassification"):
        load_seq2seq(tmp_path)
    path.write_text(json.dumps({**values, "d_model": 64}))
    with pytest.raises(BadInput, match="shape"):
        load_seq2seq(tmp_path)
