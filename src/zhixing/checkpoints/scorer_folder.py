"""Reward models as folders: the layout that `transformers` reads as sequence classification with one label."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from zhixing.checkpoints.folder import fitting, read_values
from zhixing.checkpoints.tensor_files import open_weights
from zhixing.checkpoints.tensors import stream, write_weights
from zhixing.core.errors import BadInput
from zhixing.core.files import atomic_folder
from zhixing.families import family_named
from zhixing.families.registry import family_for_config
from zhixing.models.scorer import Scorer
from zhixing.models.transformer import Transformer
from zhixing.tokenization.tokenizer import Tokenizer

SUFFIX = "ForSequenceClassification"
SCORE = "score.weight"


def is_scorer(values: Mapping[str, Any]) -> bool:
    """Tells whether a config.json is that of a decoder with a score."""
    names = values.get("architectures")
    return isinstance(names, list) and any(str(name).endswith(SUFFIX) for name in names)


def save_scorer(folder: Path, model: Scorer, tokenizer: Tokenizer, family: str, card: str = "") -> None:
    """Writes a reward model; the folder appears whole or not at all."""
    published = family_named(family)
    values = published.config_to(model.config)
    architecture = str(values["architectures"][0]).replace("ForCausalLM", "").replace("LMHeadModel", "")
    end = tokenizer.end_of_text_id
    values |= {
        "architectures": [architecture + SUFFIX], "num_labels": 1, "id2label": {"0": "reward"},
        "label2id": {"reward": 0}, "pad_token_id": end, "eos_token_id": end, "dtype": "float32",
    }  # fmt: skip
    own = {name: tensor.detach() for name, tensor in model.network.named_parameters()}
    weights = published.weights_to(own, model.config)
    with atomic_folder(folder) as part:
        (part / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        tokenizer.save(part)
        if card:
            (part / "README.md").write_text(card, encoding="utf-8")
        write_weights(part, {**weights, SCORE: model.score.weight.detach()})


def load_scorer(folder: Path) -> tuple[Scorer, Tokenizer]:
    """Opens a reward model.

    Raises:
        MissingResource: A file is missing.
        BadInput: It is no reward model, or it is damaged.
    """
    values = read_values(folder)
    if not is_scorer(values) or values.get("num_labels", len(values.get("id2label", ()))) != 1:
        raise BadInput(
            "this is no reward model: it does not give a text one figure",
            where=str(folder),
            remedy="train one with train.objective: reward_model",
        )
    where = str(folder / "config.json")
    plain = {
        key: value
        for key, value in values.items()
        if key not in ("architectures", "id2label", "label2id", "num_labels")
    }
    family = family_for_config(plain, where)
    config = family.config_from(plain, where)
    files, _ = open_weights(folder)
    tensors = dict(pair for file in files for pair in stream(file))
    score = tensors.pop(SCORE, None)
    with torch.device("meta"):
        network = Transformer(config)
    if score is None or tuple(score.shape) != (1, config.width):
        raise BadInput(f"the score ({SCORE}) is missing or of another shape", where=str(folder))
    if network.head is not None:
        # transformers leaves the output head out; nothing reads it here either.
        tensors.setdefault("lm_head.weight", torch.zeros(config.vocab_size, config.width))
    own = fitting(network, family.weights_from(tensors, config, str(folder)), str(folder))
    network = network.to_empty(device="cpu")
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(own[name])
        network_and_score = Scorer(network)
        network_and_score.score.weight.copy_(score)
    return network_and_score, Tokenizer.load(folder)
