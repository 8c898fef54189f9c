"""A model written as GGUF: its tokens beside llama.cpp's on the same file, and what each kind of block costs.

    python benchmarks/gguf_export.py MODEL [--peer PYTHON] [--kinds f16,q8_0,q4_k] [--tokens 64] [--quick] [--json]

MODEL is any reference; it is written as GGUF in each kind. Two things are measured. The error: the logits of the file
read back against those of the original, as a share of the logits' deviation, beside the error of the weights alone.
And with --peer, a Python that has llama-cpp-python: greedy answers to ten prompts by both programs on the same file,
token by token from the same token ids. Where they part, the gap between the two candidates' logits is given: near-ties
are decided by rounding. --quick takes three prompts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import torch

import common
import zhixing
from zhixing.api import LanguageModel
from zhixing.checkpoints.convert import to_gguf
from zhixing.checkpoints.opening import open_model
from zhixing.checkpoints.references import resolve

PROMPTS = [
    "The capital of France is", "Once upon a time, in a village by the sea,", "Water boils at", "def fibonacci(n):",
    "The three primary colours are", "In 1969, the first man", "To bake bread you need", "My favourite animal is",
    "The opposite of hot is", "知行合一是",
]  # fmt: skip
PEER = """
import json, sys
from llama_cpp import Llama
path, prompts, count = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
model = Llama(model_path=path, n_ctx=512, n_threads=int(sys.argv[4]), verbose=False, logits_all=False)
answers = []
for prompt in prompts:
    model.reset()
    tokens = []
    for token in model.generate(prompt, temp=0.0, top_k=1, repeat_penalty=1.0):
        tokens.append(int(token))
        if len(tokens) == count:
            break
    answers.append(tokens)
print(json.dumps(answers))
"""


def peer_answers(python: str, file: Path, prompts: list[list[int]], count: int) -> list[list[int]]:
    """Returns llama.cpp's greedy tokens."""
    words = [python, "-c", PEER, str(file), json.dumps(prompts), str(count), str(torch.get_num_threads())]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    answers: list[list[int]] = json.loads(done.stdout.splitlines()[-1])
    return answers


def our_answers(model: LanguageModel, prompts: list[list[int]], count: int) -> list[list[int]]:
    """Returns our greedy tokens; what ends an answer does not end it here."""
    answers = model.complete(prompts, temperature=0, max_tokens=count, end_tokens=())
    return [answer.tokens for answer in answers]


def agreement(model: LanguageModel, prompts: list[list[int]], ours: list[list[int]], theirs: list[list[int]]) -> str:
    """Says how many answers are equal, and of each other one where they part and by how little."""
    partings = []
    for prompt, mine, other in zip(prompts, ours, theirs, strict=True):
        place = next((at for at, pair in enumerate(zip(mine, other, strict=True)) if pair[0] != pair[1]), None)
        if place is not None:
            cache = model.model.new_cache(1, len(prompt) + place + 1)
            with torch.inference_mode():
                logits = model.model.next_logits(torch.tensor([prompt + mine[:place]]), cache)[0]
            gap = float(logits[mine[place]] - logits[other[place]])
            partings.append(f"token {place + 1} (logits {gap:.4f} apart)")
    equal = len(prompts) - len(partings)
    return f"{equal} of {len(prompts)} answers are equal" + (f"; parting at {', '.join(partings)}" if partings else "")


def logits_of(model: torch.nn.Module, prompts: list[list[int]]) -> torch.Tensor:
    """Returns the logits of all positions of all prompts, (tokens, vocab)."""
    with torch.inference_mode():
        return torch.cat([model(torch.tensor([prompt]))[0] for prompt in prompts])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--peer", help="a Python that has llama-cpp-python")
    parser.add_argument("--kinds", default="f32,f16,bf16,q8_0,q4_0,q4_k")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--quick", action="store_true", help="three prompts")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args()
    path = resolve(options.model)
    original = open_model(path, torch.float32, compact=False)
    assert original.tokenizer is not None
    texts = PROMPTS[:3] if options.quick else PROMPTS
    prompts = [original.tokenizer.encode(text) for text in texts]
    wanted = logits_of(original.model, prompts)
    rows, lines = [], []
    with tempfile.TemporaryDirectory() as name:
        for kind in options.kinds.split(","):
            file = Path(name) / f"{kind}.gguf"
            to_gguf(path, file, kind)
            back = open_model(file, torch.float32, compact=False).model
            error = float((logits_of(back, prompts) - wanted).std() / wanted.std())
            pairs = zip(back.parameters(), original.model.parameters(), strict=True)
            weights = [float((a - b).detach().norm() / b.norm()) for a, b in pairs if a.dim() == 2]
            rows.append(common.Measurement(f"{kind}.logits_error", error, "of their deviation"))
            rows.append(common.Measurement(f"{kind}.weight_error", max(weights), "of their norm, the largest"))
            rows.append(common.Measurement(f"{kind}.size", file.stat().st_size / 1e6, "MB"))
            if options.peer:
                model = zhixing.load(file)
                ours = our_answers(model, prompts, options.tokens)
                theirs = peer_answers(options.peer, file, prompts, options.tokens)
                same = sum(a == b for pair in zip(ours, theirs, strict=True) for a, b in zip(*pair, strict=True))
                share = same / (len(prompts) * options.tokens)
                rows.append(common.Measurement(f"{kind}.same_tokens", share, "share", "llama.cpp", None))
                lines.append(f"{kind}: {agreement(model, prompts, ours, theirs)}")
            file.unlink()
    common.report(rows, options.json)
    if not options.json:
        print("\n".join(lines))


if __name__ == "__main__":
    main()
