"""The peer of `seq2seq_decoding.py`: CTranslate2 in a process of its own, on a folder in Marian's layout.

    PYTHON benchmarks/seq2seq_peers.py FOLDER CONVERTED int8 | float32 THREADS

The folder is converted by CTranslate2's own converter for Marian. Two things are left out of it that hold for the
published Opus-MT models and not for every folder: that the start token has a row of zeros, and that the last token is
one for padding, whose row is dropped. Tokens are named by their numbers, so that no tokenizer is needed.

It reads one JSON object a line, {"sources": [[ids]], "batch": N, "beams": N, "penalty": P, "most": N, "length": N or
null}, and answers {"seconds": S, "answers": [[ids]]}. CTranslate2 itself forms the batches.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import ctranslate2


def convert(folder: str, target: str, quantisation: str | None) -> None:
    """Converts a folder."""
    import transformers
    from ctranslate2.converters.transformers import BartLoader, MarianMTLoader

    class Loader(MarianMTLoader):
        def get_model_spec(self, model: Any) -> Any:
            model.config.normalize_before = model.config.normalize_embedding = False
            return BartLoader.get_model_spec(self, model)

        def set_decoder(self, spec: Any, decoder: Any) -> None:
            BartLoader.set_decoder(self, spec, decoder)

        def set_config(self, config: Any, model: Any, tokenizer: Any) -> None:
            end = model.generation_config.eos_token_id
            config.eos_token = config.unk_token = str(end)
            config.decoder_start_token = str(model.config.decoder_start_token_id)

        def get_vocabulary(self, model: Any, tokenizer: Any) -> list[str]:
            return [str(token) for token in range(model.config.vocab_size)]

    model = transformers.MarianMTModel.from_pretrained(folder).eval()
    for parameter in model.parameters():
        parameter.requires_grad = False
    spec = Loader()(model, None)
    spec.validate()
    spec.optimize(quantization=quantisation)
    Path(target).mkdir()
    spec.save(target)


def main() -> None:
    folder, converted, compute, threads = sys.argv[1:5]
    target = f"{converted}-{compute}"
    if not Path(target).exists():
        convert(folder, target, None if compute == "float32" else compute)
    translator = ctranslate2.Translator(
        target, device="cpu", compute_type=compute, intra_threads=int(threads), inter_threads=1
    )
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        sources = [[str(token) for token in source] for source in order["sources"]]
        lengths = {"max_decoding_length": order["length"] or order["most"]}
        if order["length"]:
            lengths["min_decoding_length"] = order["length"]
        start = time.perf_counter()
        results = translator.translate_batch(
            sources, beam_size=order["beams"], length_penalty=order["penalty"], max_batch_size=order["batch"],
            max_input_length=0, **lengths,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        answers = [[int(token) for token in result.hypotheses[0]] for result in results]
        print(json.dumps({"seconds": seconds, "answers": answers}), flush=True)


if __name__ == "__main__":
    main()
