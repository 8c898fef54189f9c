"""A model folder: config.json, model.safetensors, tokenizer files, generation_config.json, README.md.

Reading checks everything before it is used; nothing in a folder ever selects code to run. What is not here: how a name
becomes a folder (`checkpoints.references`), and the training state of a run (`training.state`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from zhixing.checkpoints.companions import GENERATION, companions_beside
from zhixing.checkpoints.own import OWN, kind_of
from zhixing.checkpoints.tensor_files import TensorFile, open_weights
from zhixing.checkpoints.tensors import MAX_SHARD_SIZE, check_match, check_types, shape_of, stream, write_weights
from zhixing.core.device import check_memory
from zhixing.core.errors import BadInput, MissingResource
from zhixing.core.files import atomic_folder, read_json, write_json
from zhixing.families import Family, family_for_config, family_named
from zhixing.families.base import Weights
from zhixing.models.config import TransformerConfig
from zhixing.models.network import CausalNetwork
from zhixing.models.transformer import Transformer
from zhixing.tokenization.tokenizer import Tokenizer


@dataclass
class ModelFolder:
    """A model read from a folder or a file, with everything that belongs to it.

    Attributes:
        model: The network.
        tokenizer: Its tokenizer, or None.
        family: Its published architecture; None for a network of our own (`checkpoints.own`).
        path: The folder, or the GGUF file.
        generation: How it writes unless told otherwise: the content of generation_config.json.
        details: How it was opened, in sentences for those who ask.
        notes: What the user should know, in sentences.
    """

    model: CausalNetwork
    tokenizer: Tokenizer | None
    family: Family | None
    path: Path
    generation: dict[str, Any]
    details: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def transformer(self) -> Transformer:
        """The network, for work that only a Transformer can be used for.

        Raises:
            BadInput: It is something else.
        """
        if not isinstance(self.model, Transformer):
            raise BadInput(
                f"this needs a Transformer, which the model is not ({self.model.config.describe()})",
                where=str(self.path),
            )
        return self.model


def fitting(model: Transformer, weights: Weights, where: str, source: str = "config.json") -> Weights:
    """Returns the weights that belong into a model, after checking that names and shapes match exactly.

    The model may be on the meta device: what config.json asks for is not allocated before it is known to be there.

    Args:
        model: Says what is expected.
        weights: What there is.
        where: The folder or file, for messages.
        source: What describes the model, for messages.
    """
    expected = {name: tensor.shape for name, tensor in model.named_parameters()}
    if model.head is None and "head.weight" in weights:
        weights = {name: tensor for name, tensor in weights.items() if name != "head.weight"}
    if model.head is not None and "head.weight" not in weights and "embedding.weight" in weights:
        raise BadInput(
            f"the output head is missing, and {source} does not say that it is tied",
            where=where,
            remedy="if it shares the embedding's table, set tie_word_embeddings to true in config.json",
        )
    check_match(expected, weights, where, source)
    return weights


def read_values(folder: Path) -> dict[str, Any]:
    """Reads config.json.

    Raises:
        MissingResource: There is none.
        BadInput: It is not a mapping.
    """
    if not folder.is_dir():
        raise MissingResource("no such model folder", where=str(folder), remedy="`zhixing runs` lists your own models")
    path = folder / "config.json"
    if not path.exists():
        hint = "a run's model is in its model/ folder" if (folder / "recipe.yaml").exists() else None
        raise MissingResource("not a model folder: it has no config.json", where=str(folder), remedy=hint)
    values = read_json(path)
    if not isinstance(values, dict):
        raise BadInput("config.json is not a mapping", where=str(path))
    return values


def read_config(folder: Path) -> tuple[Family, TransformerConfig]:
    """Reads config.json and returns the family and our configuration."""
    values, where = read_values(folder), str(folder / "config.json")
    family = family_for_config(values, where)
    return family, family.config_from(values, where)


def load_folder(folder: Path, dtype: torch.dtype = torch.float32) -> ModelFolder:
    """Opens a model folder.

    Args:
        folder: The folder.
        dtype: Number type of the weights in memory.

    Raises:
        MissingResource: A file is missing.
        BadInput: A file is damaged, or the parts do not fit together.
    """
    values = read_values(folder)
    family: Family | None = None
    notes: list[str] = []
    if (own := OWN.get(str(values.get("model_type")))) is not None:
        model = own.read(values, folder, dtype)
    else:
        family, model, notes = _load_published(folder, dtype)
    beside = companions_beside(folder, model.config.vocab_size)
    return ModelFolder(model.eval(), beside.tokenizer, family, folder, beside.generation, notes=notes)


def check_folder(folder: Path) -> list[str]:
    """Does all that `load_folder` does, except reading the weights of a published layout.

    Returns:
        What the user should know, in sentences.

    Raises:
        MissingResource: A file is missing.
        BadInput: A file is damaged, or the parts do not fit together.
    """
    if str(read_values(folder).get("model_type")) in OWN:
        return load_folder(folder).notes
    _, model, _, _, notes = _open_published(folder, torch.float32)
    companions_beside(folder, model.config.vocab_size)
    return notes


def _places(model: Transformer, files: list[TensorFile], family: Family, folder: Path) -> dict[str, str]:
    """Holds names and shapes of all tensors against the model, by the headers alone.

    Returns:
        The full published name of each tensor: some files leave the first part of the names out.

    Raises:
        BadInput: They are not the weights of this model.
    """
    shapes = {name: shape_of(entry) for file in files for name, entry in file.entries.items()}
    full = family.complete(shapes)
    fitting(model, family.weights_from(full, model.config, str(folder)), str(folder))
    return dict(zip(shapes, full, strict=True))


def _open_published(
    folder: Path, dtype: torch.dtype
) -> tuple[Family, Transformer, list[TensorFile], dict[str, str], list[str]]:
    """Reads the configuration and the headers, and builds the model without memory."""
    family, config = read_config(folder)
    files, notes = open_weights(folder)
    notes += check_types(files)
    with torch.device("meta"):
        model = Transformer(config).to(dtype)
    return family, model, files, _places(model, files, family, folder), notes


def _load_published(folder: Path, dtype: torch.dtype) -> tuple[Family, Transformer, list[str]]:
    family, model, files, places, notes = _open_published(folder, dtype)
    check_memory(sum(tensor.numel() for tensor in model.parameters()) * dtype.itemsize, "this model", where=str(folder))
    model = model.to_empty(device="cpu")
    parameters = dict(model.named_parameters())
    for file in files:
        for name, tensor in stream(file):  # one at a time: the file is never in memory beside the model
            for ours, piece in family.weights_from({places[name]: tensor}, model.config, str(folder)).items():
                if ours in parameters:
                    parameters[ours].data.copy_(piece)
    return family, model, notes


def save_folder(
    folder: Path,
    model: CausalNetwork,
    tokenizer: Tokenizer | None,
    family: str,
    card: str = "",
    weights: Weights | None = None,
    generation: Mapping[str, Any] | None = None,
    max_shard_size: int = MAX_SHARD_SIZE,
) -> None:
    """Writes a model folder; the folder appears whole or not at all. `transformers` opens published layouts unchanged.

    Args:
        folder: Where to; replaced if it exists.
        model: The network.
        tokenizer: Its tokenizer, or None. Its chat template is written with it.
        family: The published layout to write; without meaning for a network of our own.
        card: Text of README.md, the model card.
        weights: Weights to write instead of the model's own (an average of them, for example).
        generation: generation_config.json of the model that this one was made from, which is kept; special tokens are
            taken from it. Without it, the tokenizer's end of text ends the writing, and the other fields are mild.
        max_shard_size: Bytes of weights in one file; larger models are written in several, with an index.
    """
    state = weights if weights is not None else dict(model.named_parameters())
    values = (
        kind_of(model).values(model)
        if not isinstance(model, Transformer)
        else family_named(family).config_to(model.config)
    )
    if generation is None:
        ends = tokenizer.end_of_text_id if tokenizer else None
        generation = {"do_sample": True, "temperature": 0.8, "top_p": 0.95, "eos_token_id": ends, "pad_token_id": ends}
        # A model that was trained here may be small: what it writes is to be readable all the same.
        generation["whole_characters"] = True
        generation = {key: value for key, value in generation.items() if value is not None}
        values |= dict.fromkeys(SPECIAL, ends)
    else:
        values |= {key: generation.get(key) for key in SPECIAL}
    if state:
        values["dtype"] = str(next(iter(state.values())).dtype).removeprefix("torch.")
    with atomic_folder(folder) as temporary:
        write_json(temporary / "config.json", values)
        write_json(temporary / GENERATION, dict(generation))
        if tokenizer is not None:
            tokenizer.save(temporary)
        if card:
            (temporary / "README.md").write_text(card, encoding="utf-8")
        tensors = {name: tensor.detach() for name, tensor in state.items()}
        if isinstance(model, Transformer):
            published = family_named(family).weights_to(tensors, model.config)
            write_weights(temporary, published, max_shard_size)
        else:
            kind_of(model).write(model, temporary, tensors)


SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")
