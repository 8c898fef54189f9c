"""Perplexity of a model on a text, beside `transformers` with the same weights, tokenizer file and windows.

    python benchmarks/perplexity.py MODEL TEXT [--peer transformers] [--window 1024] [--stride 512] [--quick] [--json]

MODEL is any reference; of a GGUF file the expanded weights are compared. The peer opens the folder that Zhixing writes,
encodes the text with its own tokenizer, and sums the losses of the same windows. --quick takes the first 20,000
characters. Equal to four digits is what is wanted; the last column is the ratio of the two perplexities.
"""

from __future__ import annotations

import argparse
import gzip
import math
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

from common import Measurement, report
from zhixing.api import LanguageModel
from zhixing.checkpoints.folder import save_folder
from zhixing.checkpoints.opening import open_model
from zhixing.checkpoints.references import resolve
from zhixing.evaluation.windows import TokenDocument, cut_document
from zhixing.generation.opening import Opened
from zhixing.models import ops

QUICK = 20_000


def theirs(folder: Path, text: str, start: int | None, window: int, stride: int) -> float:
    """Returns the peer's perplexity."""
    import numpy as np
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False)["input_ids"]
    total, count = 0.0, 0
    for part in cut_document(TokenDocument(np.asarray(tokens), len(text.encode())), start, window, stride):
        with torch.inference_mode():
            logits = model(torch.from_numpy(part.inputs)[None]).logits[0]
        losses = F.cross_entropy(logits.float(), torch.from_numpy(part.targets), reduction="none")
        total += float(losses[part.skip :].double().sum())
        count += len(losses) - part.skip
    return math.exp(total / count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text", type=Path)
    parser.add_argument("--peer", choices=["transformers"])
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--stride", type=int, default=512)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    raw = options.text.read_bytes()
    raw = gzip.decompress(raw) if options.text.suffix == ".gz" else raw
    text = raw.decode("utf-8")[: QUICK if options.quick else None]
    folder = open_model(resolve(options.model), compact=False)
    ops.select_matmul()
    model = LanguageModel(Opened.by_torch(folder))
    assert model.tokenizer is not None
    score = model.evaluate([text], window=options.window, stride=options.stride)
    peer_value = None
    if options.peer:
        tokenizer = model.tokenizer
        start = tokenizer.begin_id if tokenizer.begin_id is not None else tokenizer.end_of_text_id
        with tempfile.TemporaryDirectory() as temporary:
            save_folder(Path(temporary) / "model", folder.model, tokenizer, folder.family.name)
            peer_value = theirs(Path(temporary) / "model", text, start, options.window, options.stride)
    rows = [
        Measurement(
            "perplexity", score.perplexity, "per token", options.peer, peer_value,
            None if peer_value is None else peer_value / score.perplexity,
        ),
        Measurement("bits_per_byte", score.bits_per_byte, "bits"),
        Measurement("tokens", score.tokens, "tokens"),
    ]  # fmt: skip
    report(rows, options.json)


if __name__ == "__main__":
    main()
