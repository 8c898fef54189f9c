"""What a model is, from its headers alone: family, sizes, number types, context, tokenizer, licence, files.

Looking reads no weights and needs no torch, so that it takes a fraction of a second for a model of any size. Whether
everything in it fits together is `check.check_model`'s to say.
"""

from __future__ import annotations

import mmap
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from zhixing.checkpoints.gguf.describe import describe_gguf
from zhixing.checkpoints.gguf.header import is_gguf
from zhixing.checkpoints.tensor_files import open_tensors, open_weights
from zhixing.core.errors import BadInput, ZhixingError
from zhixing.core.files import os_fault, read_json

SIZES: dict[str, tuple[str, ...]] = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "block_count", "encoder_layers", "num_layers"),
    "decoder_layers": ("decoder_layers", "num_decoder_layers"),
    "width": ("hidden_size", "n_embd", "dim", "embedding_length", "d_model"),
    "heads": (
        "num_attention_heads",
        "n_head",
        "n_heads",
        "attention.head_count",
        "encoder_attention_heads",
        "num_heads",
    ),
    "kv_heads": ("num_key_value_heads", "attention.head_count_kv"),
    "head_dim": ("head_dim", "attention.key_length", "d_kv"),
    "mlp_width": ("intermediate_size", "n_inner", "hidden_dim", "feed_forward_length", "encoder_ffn_dim", "d_ff"),
    "vocab_size": ("vocab_size",),
}
"""Our names of a model's sizes, and what published files call them."""

KNOWN_TOKENIZERS = (
    ("tokenizer.model", "SentencePiece"), ("spiece.model", "SentencePiece"), ("source.spm", "SentencePiece"),
    ("vocab.json", "BPE"), ("vocab.txt", "WordPiece"),
)  # fmt: skip
"""Files that hold a tokenizer where there is no tokenizer.json, and of which kind it is."""

CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx", "context_length")
WHOLE_TOKENIZER = 4 << 20
"""Bytes up to which a tokenizer.json is parsed, to count its tokens; larger ones are only searched."""
TOP_OF_CARD = 64 << 10


@dataclass(frozen=True)
class ModelFacts:
    """What a model is.

    Attributes:
        path: The folder or file.
        format: How it is stored.
        family: The `model_type` of its config.json, or the architecture of its GGUF file.
        name: What its maker calls it, where the file says so.
        parameters: How many there are, as stored: a head that shares the embedding's table is not counted twice.
        types: Bytes of the weights by number type, the most first.
        sizes: Layers, width and so on, as far as they are said.
        context: Tokens it was made for, or None.
        tokenizer: Its kind and number of tokens, in words, or None.
        template: Characters of its chat template; 0 without one.
        licence: Under which terms it may be used, where that is said.
        files: Every file with its bytes.
        notes: What the user should know, in sentences.
    """

    path: Path
    format: str
    family: str
    name: str | None
    parameters: int
    types: dict[str, int]
    sizes: dict[str, int]
    context: int | None
    tokenizer: str | None
    template: int
    licence: str | None
    files: dict[str, int]
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Returns the facts for JSON."""
        return {**asdict(self), "path": str(self.path)}


def describe(path: Path) -> ModelFacts:
    """Looks at a model folder or a GGUF file.

    Raises:
        MissingResource: A file is missing.
        BadInput: The configuration or a header is damaged.
    """
    if is_gguf(path):
        return _describe_gguf(path)
    adapter = (path / "adapter_config.json").is_file() and not (path / "config.json").is_file()
    return _describe_adapter(path) if adapter else _describe_folder(path)


def _describe_adapter(folder: Path) -> ModelFacts:
    """Looks at an adapter in PEFT's layout; what its base is, its base says."""
    values = read_json(folder / "adapter_config.json")
    if not isinstance(values, dict):
        raise BadInput("adapter_config.json is not a mapping", where=str(folder / "adapter_config.json"))
    file = open_tensors(folder / "adapter_model.safetensors")
    types: Counter[str] = Counter()
    for entry in file.entries.values():
        types[entry.dtype] += entry.size
    notes: list[str] = []
    base = _text(values.get("base_model_name_or_path")) or "a base that it does not name"
    return ModelFacts(
        folder, "adapter (PEFT)", f"{_text(values.get('peft_type')).lower()} on {base}",
        None, sum(entry.values for entry in file.entries.values()), dict(types), {}, None, _tokenizer(folder),
        _template(folder, _optional_json(folder / "tokenizer_config.json", notes)), _licence(folder, {}),
        _files(folder), notes,
    )  # fmt: skip


def _describe_folder(folder: Path) -> ModelFacts:
    values = read_json(folder / "config.json")
    if not isinstance(values, dict):
        raise BadInput("config.json is not a mapping", where=str(folder / "config.json"))
    text = values.get("text_config", values.get("decoder"))
    inner = {**values, **text} if isinstance(text, dict) else values
    files, notes = open_weights(folder)
    types: Counter[str] = Counter()
    parameters = 0
    for file in files:
        for entry in file.entries.values():
            types[entry.dtype] += entry.size
            parameters += 0 if entry.dtype in ("I64", "BOOL") else entry.values  # positions and masks are no weights
    config = _optional_json(folder / "tokenizer_config.json", notes)
    shards = f", {len(files)} files" if len(files) > 1 else ""
    kind = "sentence encoder" if (folder / "modules.json").is_file() else "model folder"
    return ModelFacts(
        folder, f"{kind}, safetensors{shards}", _text(values.get("model_type")) or "unknown",
        _text(values.get("_name_or_path")) or None, parameters, dict(types.most_common()),
        _sizes(inner) | _image_sizes(values),
        _first(inner, CONTEXT), _tokenizer(folder), _template(folder, config),
        _licence(folder, values), _files(folder), notes,
    )  # fmt: skip


def _describe_gguf(path: Path) -> ModelFacts:
    found = describe_gguf(path)
    prefix = f"{found.architecture}."
    own = {key.removeprefix(prefix): value for key, value in found.metadata.items() if key.startswith(prefix)}
    sizes = _sizes(own)
    if found.vocabulary:
        sizes["vocab_size"] = found.vocabulary
    return ModelFacts(
        path, "GGUF", found.architecture or "unknown", found.name or None, found.parameters, found.kinds, sizes,
        found.context, f"{found.tokenizer}, {found.vocabulary:,} tokens" if found.vocabulary else None,
        len(_text(found.metadata.get("tokenizer.chat_template"))),
        _text(found.metadata.get("general.license")) or None, {path.name: found.size},
    )  # fmt: skip


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _first(values: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    found = (values.get(name) for name in names)
    return next((value for value in found if isinstance(value, int) and not isinstance(value, bool)), None)


def _sizes(values: Mapping[str, Any]) -> dict[str, int]:
    return {ours: size for ours, names in SIZES.items() if (size := _first(values, names)) is not None}


def _image_sizes(values: Mapping[str, Any]) -> dict[str, int]:
    """Returns the sizes of the side that reads images, where there is one."""
    side = values.get("encoder", values)
    if not isinstance(side, Mapping) or "patch_size" not in side:
        return {}
    names = {"image_size": ("image_size",), "patch_size": ("patch_size",), "image_layers": ("num_hidden_layers",)}
    return {ours: size for ours, theirs in names.items() if (size := _first(side, theirs)) is not None}


def _optional_json(path: Path, notes: list[str]) -> dict[str, Any]:
    """Reads a file that a model may do without; one that is damaged is said, and does not end the looking."""
    if not path.is_file():
        return {}
    try:
        values = read_json(path)
    except ZhixingError as error:
        notes.append(str(error))
        return {}
    return values if isinstance(values, dict) else {}


def _tokenizer(folder: Path) -> str | None:
    path = folder / "tokenizer.json"
    if path.is_file():
        kind, count = _tokenizer_json(path)
        return f"{kind}, {count:,} tokens" if count else kind
    for name, kind in KNOWN_TOKENIZERS:
        if (folder / name).is_file():
            return f"{kind} ({name})"
    return None


def _tokenizer_json(path: Path) -> tuple[str, int]:
    """Returns the kind of a tokenizer, and its number of tokens when the file is small enough to be parsed."""
    if path.stat().st_size <= WHOLE_TOKENIZER:
        values = read_json(path)
        model = values.get("model") if isinstance(values, dict) else None
        vocabulary = model.get("vocab") if isinstance(model, dict) else None
        if isinstance(vocabulary, dict | list) and isinstance(model, dict):
            names = set(vocabulary) if isinstance(vocabulary, dict) else {str(item[0]) for item in vocabulary if item}
            added = values.get("added_tokens")
            names |= {str(token.get("content")) for token in added or [] if isinstance(token, dict)}
            return _text(model.get("type")) or "BPE", len(names)
        return "damaged", 0
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found = re.search(rb'"model"\s*:\s*\{\s*"type"\s*:\s*"(\w+)"', content)
            return (found[1].decode() if found else "unknown kind"), 0
    except OSError as error:
        raise os_fault(error, path, "reading") from error


def _template(folder: Path, config: Mapping[str, Any]) -> int:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.stat().st_size
    given = config.get("chat_template")
    if isinstance(given, list):  # several, by name
        given = next((item.get("template") for item in given if isinstance(item, dict)), None)
    return len(_text(given))


def _licence(folder: Path, values: Mapping[str, Any]) -> str | None:
    """Returns the licence from the head of the model card, from config.json, or the name of a licence file."""
    card = folder / "README.md"
    if card.is_file():
        with card.open(encoding="utf-8", errors="replace") as file:
            top = file.read(TOP_OF_CARD)
        front = top.split("\n---")[0] if top.startswith("---") else ""
        fields: dict[str, str] = dict(re.findall(r"^(license\w*):[ \t]*['\"]?([^'\"\n]+?)['\"]?[ \t]*$", front, re.M))
        if fields.get("license") == "other" and "license_name" in fields:
            return fields["license_name"]
        if "license" in fields:
            return fields["license"]
    if said := _text(values.get("license")):
        return said
    return next((f"see {path.name}" for path in sorted(folder.glob("LICENSE*"))), None)


def _files(folder: Path) -> dict[str, int]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in found}
