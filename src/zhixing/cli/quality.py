"""`zhixing models quality`: what a file's number format, or one that the core makes, costs against float32."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zhixing.cli.models import KV_CACHE, MODEL

ANSWER = 64
"""Tokens of an answer that both continue with."""


def command(
    model: Annotated[str, typer.Argument(help=MODEL)],
    text: Annotated[Path, typer.Argument(help="A text to compare on; .gz and .zst are read, too.")],
    quantize: Annotated[
        str | None, typer.Option("--quantize", help="q8 or q4: what the core would make of weights that are not.")
    ] = None,
    kv_cache: KV_CACHE = None,
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="Positions to compare.")] = 4096,
    answers: Annotated[
        int, typer.Option("--answers", min=0, help="Lines of the text to continue greedily by both, 64 tokens each.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare the native core with float32: perplexity, likeliest tokens, near ties.

    Example: zhixing models quality smollm2-135m notes.txt --answers 20
    """
    import json
    from dataclasses import asdict

    from zhixing.checkpoints.opening import open_model
    from zhixing.checkpoints.references import resolve
    from zhixing.core.errors import BadInput, MissingResource
    from zhixing.data.problems import Problems
    from zhixing.data.readers import read_documents
    from zhixing.data.sources import find_sources
    from zhixing.evaluation.greedy import beginnings, partings
    from zhixing.evaluation.quantisation import compare
    from zhixing.models.transformer import Transformer
    from zhixing.native.choice import choose

    path = resolve(model)
    reference = open_model(path, compact=False)
    if reference.tokenizer is None:
        raise MissingResource("the model has no tokenizer", where=str(path))
    if not isinstance(reference.model, Transformer):
        raise BadInput("only Transformers run on the native core", where=str(path))
    packed = open_model(path, compact=True)
    choice = choose(packed.model, "native", quantize, kv_cache)
    assert choice.network is not None
    problems = Problems()
    sources = find_sources([text], problems)
    texts = (document.text for document in read_documents(sources, problems))
    found = compare(reference.model, choice.network, reference.tokenizer, texts, tokens)
    prompts = beginnings(reference.tokenizer, (one.text for one in read_documents(sources, problems)), answers)
    parted = partings(reference.model, choice.network, reference.tokenizer, prompts, ANSWER) if prompts else []
    if as_json:
        where = {"answers": len(prompts), "partings": [asdict(one) for one in parted]} if answers else {}
        print(json.dumps({"model": str(path), "quantize": quantize, "kv_cache": kv_cache, **found.to_json(), **where}))
        return
    print(choice.note)
    print(f"perplexity {found.perplexity:.4f}, float32 {found.reference:.4f} ({found.change:+.2%})")
    print(f"the same likeliest token at {found.agreement:.2%} of {found.tokens} positions")
    print(f"another one where float32 is nearly tied: {found.near_ties:.2%}; widest gap {found.widest:.3f} logits")
    print(f"mean divergence {found.divergence:.5f} nats")
    if answers:
        print(f"{len(prompts) - len(parted)} of {len(prompts)} greedy answers of {ANSWER} tokens are equal")
        for one in parted:
            print(f"  {one}")
