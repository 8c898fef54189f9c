"""Model folders of encoders: BERT and its kin with a head, and sentence-transformers folders.

The pooling of a sentence-transformers folder is read from its `modules.json`, as data: which modules there are is
compared with the few that are known, and nothing is imported. Decoders are in `checkpoints.folder`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from zhixing.checkpoints.model_tokenizer import tokenizer_of
from zhixing.checkpoints.own.recurrent_encoder import NAME as RECURRENT
from zhixing.checkpoints.own.recurrent_encoder import read_recurrent_encoder, recurrent_encoder_values
from zhixing.checkpoints.tensor_files import open_weights
from zhixing.checkpoints.tensors import MODEL_TYPES, stream, write_tensors
from zhixing.core.errors import BadInput, MissingResource, unknown_name
from zhixing.core.files import atomic_folder, read_json, write_json
from zhixing.data.shapes.schemes import allowed, find_scheme
from zhixing.families.base import Weights
from zhixing.families.encoders import EncoderFamily
from zhixing.families.registry import ENCODERS, FAMILIES, SEQ2SEQ, encoder_named
from zhixing.models.crf import IMPOSSIBLE
from zhixing.models.heads import EncoderModel, HeadConfig, PoolingMode, TokenHead
from zhixing.models.recurrent_encoder import RecurrentEncoder
from zhixing.tokenization.tokenizer import Tokenizer

MODULES = "modules.json"
LENGTH_FILE = "sentence_bert_config.json"
POOLING_FOLDER = "1_Pooling"

MODES: dict[str, PoolingMode] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "first",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt",
}
"""Published switches, and what they mean here."""

NAMED_MODES: dict[str, PoolingMode] = {
    "mean": "mean",
    "cls": "first",
    "max": "max",
    "mean_sqrt_len_tokens": "mean_sqrt",
}
HARMLESS_POOLING = {"word_embedding_dimension", "embedding_dimension", "include_prompt"}
MISFIT = "config.json and the weights are of different models, or the file is damaged: copy both again"


@dataclass
class EncoderFolder:
    """An encoder read from a folder, with everything that belongs to it.

    Attributes:
        model: The network, in evaluation mode.
        tokenizer: Its tokenizer.
        family: The published layout; None for a recurrent encoder, which has none.
        path: The folder.
        longest: Tokens that it reads at most, special ones included.
        unused: Weights of the layout that nothing here uses; they are written back with the rest.
        notes: What the user should know, in sentences.
    """

    model: EncoderModel
    tokenizer: Tokenizer | None
    family: EncoderFamily | None
    path: Path
    longest: int
    unused: Weights = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def is_encoder(folder: Path) -> bool:
    """Tells whether a folder's config.json is of a known family of encoders."""
    path = folder / "config.json"
    values = read_json(path) if path.is_file() else {}
    return isinstance(values, dict) and (values.get("model_type") in ENCODERS or values.get("model_type") == RECURRENT)


def load_encoder(folder: Path, dtype: torch.dtype = torch.float32) -> EncoderFolder:
    """Opens the folder of an encoder.

    Args:
        folder: In the Hugging Face layout, with or without the files of sentence-transformers.
        dtype: Number type of the weights in memory.

    Raises:
        MissingResource: A file is missing.
        BadInput: A file is damaged, the architecture is not known, or the parts do not fit together.
    """
    values = read_json(folder / "config.json") if (folder / "config.json").is_file() else None
    if values is None:
        raise MissingResource("not a model folder: it has no config.json", where=str(folder))
    if not isinstance(values, dict) or not isinstance(values.get("model_type"), str):
        raise BadInput("no 'model_type' field: this is not a model's config.json", where=str(folder / "config.json"))
    kind = values["model_type"]
    if kind == RECURRENT:
        recurrent = read_recurrent_encoder(values, folder, dtype).eval()
        tokenizer = tokenizer_of(folder, recurrent.config.vocab_size)
        _reset_buffers(recurrent)
        return EncoderFolder(recurrent, tokenizer, None, folder, recurrent.config.context)
    if kind in FAMILIES or kind in SEQ2SEQ:
        raise BadInput(
            f"this model (family {kind!r}) writes text; an encoder is needed, which reads it",
            where=str(folder),
            remedy="choose an encoder, such as minilm",
        )
    if kind not in ENCODERS:
        raise unknown_name("encoder family", kind, [*ENCODERS, RECURRENT], where=str(folder / "config.json"))
    family = encoder_named(kind)
    config, head = family.config_from(values, str(folder / "config.json"))
    head = _with_pooling(folder, head)
    files, _ = open_weights(folder)
    published = {name: tensor for file in files for name, tensor in stream(file)}
    weights, unused = family.weights_from(published, head.kind, str(folder))
    with torch.device("meta"):
        model = EncoderModel(config, head)
    if config.tied:
        weights.pop("head.decoder.weight", None)
    notes = _check(model, weights, head, str(folder))
    model = model.to_empty(device="cpu").to(dtype)
    model.load_state_dict(weights, strict=False)
    if notes:
        model.initialise_head(torch.Generator().manual_seed(0))
    _reset_buffers(model)
    tokenizer = tokenizer_of(folder, config.vocab_size)
    longest = _longest(folder, config.context)
    return EncoderFolder(model.eval(), tokenizer, family, folder, longest, unused, notes)


def _reset_buffers(model: EncoderModel) -> None:
    """Fills the buffers that no file holds; memory that was made empty has chance values."""
    for name, buffer in model.named_buffers():
        if "forbidden" in name:
            buffer.zero_()
    forbid_transitions(model)


def forbid_transitions(model: EncoderModel) -> None:
    """Forbids a CRF what the scheme of its tags does not have (I-PER after B-LOC); classes follow each other freely."""
    labels = model.head_config.labels
    if not isinstance(model.head, TokenHead) or model.head.crf is None or find_scheme([labels]) == "none":
        return
    crf = model.head.crf
    for buffer, table in zip((crf.forbidden, crf.forbidden_first, crf.forbidden_last), allowed(labels), strict=True):
        buffer.copy_(torch.where(torch.tensor(table), 0.0, IMPOSSIBLE))


def _check(model: EncoderModel, weights: Weights, head: HeadConfig, where: str) -> list[str]:
    """Checks names and shapes; returns a note when only the head is missing, as where an encoder gets a new one."""
    expected = {name: tensor.shape for name, tensor in model.named_parameters()}
    missing, unknown = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    for what, names in (("unknown", unknown), ("missing", [name for name in missing if not name.startswith("head.")])):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise BadInput(f"{what} tensors: {', '.join(names[:3])}{more}", where=where, remedy=MISFIT)
    for name, tensor in weights.items():
        if tensor.dtype not in MODEL_TYPES:
            raise BadInput(
                f"the tensor {name!r} has the unsupported type {tensor.dtype}",
                where=where,
                remedy="weights are float32, float16 or bfloat16",
            )
        if tensor.shape != expected[name]:
            raise BadInput(
                f"the tensor {name!r} has shape {tuple(tensor.shape)}, config.json asks for {tuple(expected[name])}",
                where=where,
                remedy=MISFIT,
            )
    if not missing:
        return []
    if any(name.startswith("head.") for name in weights):
        raise BadInput(f"missing tensors: {', '.join(missing[:3])}", where=where, remedy=MISFIT)
    return [f"{where}: the weights of the head ({head.kind}) are not there; it begins untrained"]


def _with_pooling(folder: Path, head: HeadConfig) -> HeadConfig:
    """Reads modules.json and what it names; without it the head stays as it is."""
    path = folder / MODULES
    if not path.is_file():
        return head
    modules = read_json(path)
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise BadInput("not a list of modules", where=str(path))
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        raise BadInput(
            f"the modules {', '.join(kinds)} are not supported (only Transformer, Pooling and Normalize)",
            where=str(path),
        )
    inside = str(modules[1].get("path", POOLING_FOLDER))
    if not inside or Path(inside).name != inside:
        raise BadInput(f"the pooling's path {inside!r} leads out of the folder", where=str(path))
    settings = read_json(folder / inside / "config.json")
    mode = _mode(settings, str(folder / inside / "config.json"))
    return dataclasses.replace(head, kind="pool", pooling=mode, normalise=kinds[2:] == ["Normalize"])


def _mode(settings: object, where: str) -> PoolingMode:
    if not isinstance(settings, Mapping):
        raise BadInput("not a mapping", where=where)
    named = settings.get("pooling_mode")
    chosen = [MODES[key] for key in MODES if settings.get(key) is True]
    if isinstance(named, str) and named in NAMED_MODES:
        chosen = [NAMED_MODES[named]]
    known = {*MODES, *HARMLESS_POOLING, "pooling_mode"}
    others = [key for key, value in settings.items() if key not in known and value not in (None, False)]
    if len(chosen) != 1 or others:
        raise BadInput(f"this pooling is not supported: {', '.join(others) or 'one mode must be on'}", where=where)
    return chosen[0]


def _longest(folder: Path, context: int) -> int:
    path = folder / LENGTH_FILE
    if not path.is_file():
        return context
    settings = read_json(path)
    length = settings.get("max_seq_length") if isinstance(settings, dict) else None
    if length is None:
        return context
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise BadInput(f"max_seq_length must be a whole number above 0, got {length!r}", where=str(path))
    return min(length, context)


def save_encoder(
    folder: Path,
    model: EncoderModel,
    tokenizer: Tokenizer | None,
    family: str,
    *,
    card: str = "",
    longest: int | None = None,
    unused: Weights | None = None,
    weights: Weights | None = None,
) -> None:
    """Writes the folder of an encoder, which `transformers` and sentence-transformers open unchanged.

    Args:
        folder: Where to; replaced if it exists, and there whole or not at all.
        model: The network.
        tokenizer: Its tokenizer, or None.
        family: The published layout; without meaning for a recurrent encoder.
        card: Text of README.md.
        longest: Tokens that it reads at most; None means the context.
        unused: Weights of the layout that nothing here uses.
        weights: Weights to write instead of the model's own.
    """
    head, state = model.head_config, weights if weights is not None else dict(model.named_parameters())
    published = {name: tensor.detach() for name, tensor in state.items()}
    if isinstance(model.encoder, RecurrentEncoder):
        values = recurrent_encoder_values(model)
    else:
        layout = encoder_named(family)
        values, published = layout.config_to(model.config, head), layout.weights_to(published, head.kind)
    if tokenizer is not None and family != "roberta":
        values["pad_token_id"] = tokenizer.pad_id
    values["dtype"] = str(next(iter(state.values())).dtype).removeprefix("torch.")
    with atomic_folder(folder) as temporary:
        write_json(temporary / "config.json", values)
        if tokenizer is not None:
            tokenizer.save(temporary)
        if card:
            (temporary / "README.md").write_text(card, encoding="utf-8")
        if head.kind == "pool" and not isinstance(model.encoder, RecurrentEncoder):
            _write_modules(temporary, model, longest)
        write_tensors(temporary / "model.safetensors", {**(unused or {}), **published}, {"format": "pt"})


def _write_modules(folder: Path, model: EncoderModel, longest: int | None) -> None:
    head = model.head_config
    package = "sentence_transformers.models"
    modules = [("", "Transformer"), (POOLING_FOLDER, "Pooling"), *([("2_Normalize", "Normalize")] * head.normalise)]
    write_json(
        folder / MODULES,
        [
            {"idx": index, "name": str(index), "path": path, "type": f"{package}.{kind}"}
            for index, (path, kind) in enumerate(modules)
        ],
    )
    (folder / POOLING_FOLDER).mkdir()
    switches = {key: mode == head.pooling for key, mode in MODES.items()}
    write_json(folder / POOLING_FOLDER / "config.json", {"word_embedding_dimension": model.config.width, **switches})
    write_json(folder / LENGTH_FILE, {"max_seq_length": longest or model.config.context, "do_lower_case": False})
