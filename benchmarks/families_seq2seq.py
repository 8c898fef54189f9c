"""Parity of encoder-decoders with `transformers`: the greatest difference between logits, on tiny random models.

    python benchmarks/families_seq2seq.py [--json]

For each: its folder opened here, a batch of sources and targets of unequal lengths; saved here and opened there; token
by token through the cache. The roof is 1e-4; a larger difference ends the command with exit code 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from common import Measurement, report
from zhixing.checkpoints.seq2seq_folder import load_seq2seq, save_seq2seq
from zhixing.models.ragged import Ragged

MOST = 1e-4
SIDES = {
    "vocab_size": 61, "d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 40, "max_position_embeddings": 40,
    "dropout": 0.0, "init_std": 0.3, "pad_token_id": 1, "eos_token_id": 2, "bos_token_id": 0,
    "decoder_start_token_id": 2,
}  # fmt: skip
T5 = {
    "vocab_size": 61, "d_model": 32, "d_kv": 6, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 16, "decoder_start_token_id": 0,
}  # fmt: skip
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "t5": ("T5Config", "T5ForConditionalGeneration", T5),
    "t5 v1.1": ("T5Config", "T5ForConditionalGeneration",
                {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "bart": ("BartConfig", "BartForConditionalGeneration", SIDES),
    "marian": ("MarianConfig", "MarianMTModel", {**SIDES, "scale_embedding": True, "activation_function": "swish"}),
    "marian, two vocabularies": ("MarianConfig", "MarianMTModel",
                                 {**SIDES, "decoder_vocab_size": 53, "share_encoder_decoder_embeddings": False}),
}  # fmt: skip
SOURCES = [[*range(3, 18), 2], [3, 2], [4, 4, 9, 30, 2]]
TARGETS = [[12, 13], [9, 8, 7, 6, 5, 4, 3], []]


def their_logits(model: Any, inputs: list[list[int]]) -> list[Tensor]:
    """Returns the peer's logits of padded batches, without the padding."""
    rows = [torch.tensor([row + [1] * (max(map(len, side)) - len(row)) for row in side]) for side in (SOURCES, inputs)]
    mask = torch.tensor([[1] * len(row) + [0] * (rows[0].shape[1] - len(row)) for row in SOURCES])
    logits = model(input_ids=rows[0], attention_mask=mask, decoder_input_ids=rows[1], use_cache=False).logits
    return [logits[index, : len(row)] for index, row in enumerate(inputs)]


def most(left: list[Tensor], right: list[Tensor]) -> float:
    """Returns the greatest difference."""
    return max(float((one - other).abs().max()) for one, other in zip(left, right, strict=True))


@torch.no_grad()
def measure(name: str) -> dict[str, float]:
    """Returns the greatest difference of each way."""
    config_class, model_class, values = CASES[name]
    torch.manual_seed(3)
    theirs = getattr(transformers, model_class)(getattr(transformers, config_class)(**values)).eval()
    if name == "t5 v1.1":
        theirs.lm_head.weight = torch.nn.Parameter(torch.randn_like(theirs.lm_head.weight))
    with tempfile.TemporaryDirectory() as place:
        theirs.save_pretrained(Path(place) / "theirs")
        opened = load_seq2seq(Path(place) / "theirs")
        assert opened.family is not None
        inputs = [[opened.model.config.start, *target] for target in TARGETS]
        wanted, batch = their_logits(theirs, inputs), Ragged.of(inputs)
        found = {"opened here": most(list(batch.split(opened.model(Ragged.of(SOURCES), batch))), wanted)}
        network = opened.model.reading(Ragged.of(SOURCES))
        cache, steps = network.new_cache(len(inputs), 16), []
        for step in range(max(map(len, inputs))):
            tokens = torch.tensor([[row[min(step, len(row) - 1)]] for row in inputs])
            steps.append(network.next_logits(tokens, cache))
        cached = [torch.stack([one[row] for one in steps[: len(fed)]]) for row, fed in enumerate(inputs)]
        found["with cache"] = most(cached, wanted)
        save_seq2seq(Path(place) / "ours", opened.model, None, opened.family.name)
        again = getattr(transformers, model_class).from_pretrained(Path(place) / "ours").eval()
        found["saved back"] = most(their_logits(again, inputs), wanted)
    return found


def main() -> int:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    results = {name: measure(name) for name in CASES}
    measurements = [
        Measurement(f"{name}, {way}", value, "greatest difference", "transformers")
        for name, ways in results.items()
        for way, value in ways.items()
    ]
    report(measurements, options.json)
    return int(any(not item.value <= MOST for item in measurements))


if __name__ == "__main__":
    sys.exit(main())
