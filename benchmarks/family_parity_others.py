"""Tiny random encoders, encoder-decoders and describers of images, and how far they are from those of `transformers`.

The counterpart of `family_parity` for all that is no decoder; `benchmarks/families.py` prints both. Every batch has
sequences of unequal lengths, which the peer pads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from zhixing.checkpoints.encoder_folder import load_encoder, save_encoder
from zhixing.checkpoints.seq2seq_folder import load_seq2seq, save_seq2seq
from zhixing.checkpoints.vision_folder import load_vision, save_vision
from zhixing.models.ragged import Ragged

WAYS = {"load": "opened here", "save": "saved back", "cache": "with cache"}
Differences = dict[str, float]

SEQUENCES = [[5, 9, 33, 60, 7], [3] * 9, list(range(3, 12)), [44], [8, 7]]
SOURCES = [[*range(3, 18), 2], [3, 2], [4, 4, 9, 30, 2]]
TARGETS = [[12, 13], [9, 8, 7, 6, 5, 4, 3], []]

ENCODER: dict[str, Any] = {
    "vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 24, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
DISTILLED: dict[str, Any] = {
    "vocab_size": 61, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 24,
    "dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0,
}  # fmt: skip
HEADS = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
SIDES: dict[str, Any] = {
    "vocab_size": 61, "d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 40, "max_position_embeddings": 40,
    "dropout": 0.0, "init_std": 0.3, "pad_token_id": 1, "eos_token_id": 2, "bos_token_id": 0,
    "decoder_start_token_id": 2,
}  # fmt: skip
T5: dict[str, Any] = {
    "vocab_size": 61, "d_model": 32, "d_kv": 6, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 16, "decoder_start_token_id": 0,
}  # fmt: skip
SCALED = {**SIDES, "scale_embedding": True, "activation_function": "swish"}
VIT: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "image_size": 16,
    "patch_size": 4,
}  # fmt: skip
GPT2: dict[str, Any] = {
    "vocab_size": 61, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 24, "add_cross_attention": True,
    "is_decoder": True, "bos_token_id": 3, "eos_token_id": 0, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
}  # fmt: skip


def greatest(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Returns the greatest difference; infinite where a number is missing."""
    pairs = zip(ours, theirs, strict=True)
    return max(float((one - other).abs().nan_to_num(nan=float("inf")).max()) for one, other in pairs)


def draw(model: Any) -> None:
    """Makes every weight random, norms and biases far from their neutral values; tables of sinusoids stay."""
    for name, parameter in model.named_parameters():
        if "embed_positions" in name and "Marian" in type(model).__name__:
            continue
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
        else:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)


def padded(rows: Sequence[Sequence[int]], fill: int) -> tuple[Tensor, Tensor]:
    """Returns sequences filled up to one length, and which of it is real."""
    longest = max(map(len, rows))
    tokens = torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])
    return tokens, torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])


def reopened(kind: Any, folder: Path) -> Any:
    """Opens a folder in `transformers`.

    Raises:
        ValueError: It lacks weights, or has too many.
    """
    model, report = kind.from_pretrained(folder, output_loading_info=True)
    if report["missing_keys"] or report["unexpected_keys"]:
        raise ValueError(f"missing: {report['missing_keys']}, unexpected: {report['unexpected_keys']}")
    return model.eval()


def encoder(name: str, values: dict[str, Any], heads: Sequence[str], place: Path) -> Differences:
    """Compares the scores of every head of an encoder."""
    found = {"load": 0.0, "save": 0.0}
    for head in heads:
        torch.manual_seed(3)
        labels = 2 if head == "ForQuestionAnswering" else 3
        config = getattr(transformers, f"{name}Config")(**values, num_labels=labels)
        theirs = getattr(transformers, name + head)(config).eval()
        draw(theirs)
        theirs.save_pretrained(place / head)
        opened = load_encoder(place / head)
        wanted = _scores(theirs, head)
        found["load"] = max(found["load"], greatest([opened.model(Ragged.of(SEQUENCES))], [wanted]))
        assert opened.family is not None
        save_encoder(place / f"{head}-ours", opened.model, None, opened.family.name, unused=opened.unused)
        again = reopened(type(theirs), place / f"{head}-ours")
        found["save"] = max(found["save"], greatest([_scores(again, head)], [wanted]))
    return found


def _scores(model: Any, head: str) -> Tensor:
    tokens, mask = padded(SEQUENCES, model.config.pad_token_id)
    out = model(input_ids=tokens, attention_mask=mask)
    if head == "ForQuestionAnswering":
        scores = torch.stack((out.start_logits, out.end_logits), -1)
    else:
        scores = out.last_hidden_state if head == "Model" else out.logits
    return scores if head == "ForSequenceClassification" else scores[mask.bool()]


def seq2seq(kind: str, cases: Sequence[dict[str, Any]], place: Path) -> Differences:
    """Compares the logits of encoder-decoders."""
    found = dict.fromkeys(WAYS, 0.0)
    config, network = (
        kind + name for name in ("Config", "MTModel" if kind == "Marian" else "ForConditionalGeneration")
    )
    for number, values in enumerate(cases):
        torch.manual_seed(3)
        theirs = getattr(transformers, network)(getattr(transformers, config)(**values)).eval()
        if not values.get("tie_word_embeddings", True):
            theirs.lm_head.weight = torch.nn.Parameter(theirs.lm_head.weight.clone())
        draw(theirs)
        theirs.save_pretrained(place / f"{number}")
        opened = load_seq2seq(place / f"{number}")
        assert opened.family is not None
        inputs = [[opened.model.config.start, *target] for target in TARGETS]
        wanted, batch = _logits(theirs, inputs), Ragged.of(inputs)
        ours = {"load": list(batch.split(opened.model(Ragged.of(SOURCES), batch)))}
        ours["cache"] = step_by_step(opened.model.reading(Ragged.of(SOURCES)), inputs)
        save_seq2seq(place / f"{number}-ours", opened.model, None, opened.family.name)
        ours["save"] = _logits(reopened(type(theirs), place / f"{number}-ours"), inputs)
        found = {way: max(found[way], greatest(ours[way], wanted)) for way in WAYS}
    return found


def _logits(model: Any, inputs: list[list[int]]) -> list[Tensor]:
    """Returns the peer's logits of padded batches, without the padding."""
    (sources, mask), (fed, _) = padded(SOURCES, 1), padded(inputs, 1)
    logits = model(input_ids=sources, attention_mask=mask, decoder_input_ids=fed, use_cache=False).logits
    return [logits[index, : len(row)] for index, row in enumerate(inputs)]


def step_by_step(network: Any, inputs: list[list[int]]) -> list[Tensor]:
    """Returns the logits of every row, token by token through the cache."""
    cache, steps = network.new_cache(len(inputs), 16), []
    for step in range(max(map(len, inputs))):
        tokens = torch.tensor([[row[min(step, len(row) - 1)]] for row in inputs])
        steps.append(network.next_logits(tokens, cache))
    return [torch.stack([one[row] for one in steps[: len(fed)]]) for row, fed in enumerate(inputs)]


def vision(place: Path) -> Differences:
    """Compares the logits of a network that describes images."""
    torch.manual_seed(5)
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.ViTConfig(**VIT), transformers.GPT2Config(**GPT2)
    )
    config.decoder_start_token_id, config.pad_token_id = 3, 0
    theirs = transformers.VisionEncoderDecoderModel(config=config).eval()
    draw(theirs)
    theirs.decoder.tie_weights()
    theirs.save_pretrained(place / "theirs")
    opened = load_vision(place / "theirs")
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    inputs = [[3, *target] for target in TARGETS]
    wanted, batch = _described(theirs, images, inputs), Ragged.of(inputs)
    save_vision(
        place / "ours", opened.model, None, opened.processor, generation=opened.generation, unused=opened.unused
    )
    return {
        "load": greatest(list(batch.split(opened.model(images, batch))), wanted),
        "cache": greatest(step_by_step(opened.model.reading(images), inputs), wanted),
        "save": greatest(_described(reopened(type(theirs), place / "ours"), images, inputs), wanted),
    }


def _described(model: Any, images: Tensor, inputs: list[list[int]]) -> list[Tensor]:
    rows = zip(images, inputs, strict=True)
    return [model(pixel_values=image[None], decoder_input_ids=torch.tensor([row])).logits[0] for image, row in rows]


OTHERS: dict[str, tuple[str, str, Callable[[Path], Differences]]] = {
    "bert": ("BERT, MiniLM and other sentence encoders", "post-norm, segments, four heads",
             partial(encoder, "Bert", ENCODER, HEADS)),
    "roberta": ("RoBERTa, XLM-R base and large", "positions behind the padding's, no segments",
                partial(encoder, "Roberta", ENCODER, HEADS)),
    "distilbert": ("DistilBERT", "no segments, no pooler", partial(encoder, "DistilBert", DISTILLED, HEADS)),
    "electra": ("ELECTRA", "narrow embeddings, a head that finds replaced words",
                partial(encoder, "Electra", {**ENCODER, "embedding_size": 16}, (*HEADS, "ForPreTraining"))),
    "t5": ("T5, T5 v1.1, Flan-T5", "relative buckets, plain or gated feed-forward, tied or separate head",
           partial(seq2seq, "T5", [T5, {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}])),
    "bart": ("BART, DistilBART", "learned positions behind two unused rows, a bias on the logits",
             partial(seq2seq, "Bart", [SIDES, SCALED])),
    "marian": ("Opus-MT", "sinusoids, one vocabulary or two", partial(seq2seq, "Marian", [
        SCALED, {**SIDES, "decoder_vocab_size": 53, "share_encoder_decoder_embeddings": False}])),
    "vision-encoder-decoder": ("ViT-GPT2", "image patches read by a GPT-2 with cross-attention", vision),
}  # fmt: skip
"""By `model_type`: published models, what is particular, and what compares a tiny one in a folder."""
