"""Model folders rewritten: pickled weights to safetensors, another number type, other shards.

Folders go tensor by tensor, so that a model larger than the memory can be converted. What is new appears whole or not
at all. How GGUF files are read and written is in `checkpoints.gguf`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zhixing.checkpoints.card import carried_card
from zhixing.checkpoints.describe import describe
from zhixing.checkpoints.folder import read_values, save_folder
from zhixing.checkpoints.gguf.header import is_gguf
from zhixing.checkpoints.gguf.write import write_gguf
from zhixing.checkpoints.hubs.needed import is_needed
from zhixing.checkpoints.opening import check_model, open_model
from zhixing.checkpoints.tensor_files import INDEX, TensorFile, open_tensors, open_weights
from zhixing.checkpoints.tensors import (
    DTYPES,
    MAX_SHARD_SIZE,
    TensorWriter,
    plan_shards,
    shard_names,
    stream,
    write_index,
)
from zhixing.core.errors import BadInput, MissingResource, ZhixingError
from zhixing.core.files import atomic_folder, check_room, os_fault, read_json
from zhixing.core.progress import Bar, human_bytes, progress_bar

PICKLE_INDEX = "pytorch_model.bin.index.json"


@dataclass
class Conversion:
    """What a conversion has done.

    Attributes:
        path: The new folder.
        size: Bytes of its weights.
        files: How many files they are in.
        notes: What the user should know, in sentences.
    """

    path: Path
    size: int = 0
    files: int = 1
    notes: list[str] = field(default_factory=list)


def convert_folder(
    folder: Path, out: Path, dtype: torch.dtype | None = None, max_shard_size: int = MAX_SHARD_SIZE
) -> Conversion:
    """Writes a model folder anew: safetensors where it had pickled weights, another number type, other shards.

    Args:
        folder: A model folder.
        out: The new one; replaced if it exists.
        dtype: Number type of the weights; as they are when not given.
        max_shard_size: Bytes of weights in one file.

    Raises:
        MissingResource: A file is missing, or the disk is full.
        BadInput: The weights are damaged or would run code, or do not fit into the number type.
    """
    values = read_values(folder)
    done = Conversion(out)
    pickles = pickle_files(folder)
    if not pickles:
        files, done.notes = open_weights(folder)
        with atomic_folder(out) as place:
            _write(files, place, dtype, max_shard_size, done)
            _copy(folder, place, values, dtype, done)
        return done
    check_room(out.parent, 2 * sum(path.stat().st_size for path in pickles), "the conversion")
    tied = bool(values.get("tie_word_embeddings", True))  # the published default
    with atomic_folder(out) as place, tempfile.TemporaryDirectory(dir=out.parent, prefix=".unpickled-") as name:
        files = [unpickle(path, Path(name) / f"{n}.safetensors", tied, done) for n, path in enumerate(pickles)]
        _write(files, place, dtype, max_shard_size, done)
        _copy(folder, place, values, dtype, done)
    return done


def gguf_to_folder(path: Path, out: Path, dtype: torch.dtype, max_shard_size: int = MAX_SHARD_SIZE) -> Conversion:
    """Writes the model of a GGUF file as a folder in the Hugging Face layout, its weights expanded.

    Args:
        path: The file.
        out: The new folder; replaced if it exists.
        dtype: Number type of the weights; float32 keeps what the blocks say, exactly.
        max_shard_size: Bytes of weights in one file.

    Raises:
        MissingResource: It is not there, or the disk or the memory is too small.
        BadInput: It is damaged, or holds what is not supported.
    """
    opened = open_model(path, dtype, compact=False)
    if opened.family is None:
        raise BadInput("this model has no published layout", where=str(path))
    save_folder(
        out, opened.transformer, opened.tokenizer, opened.family.name, card=carried_card(path),
        generation=opened.generation, max_shard_size=max_shard_size,
    )  # fmt: skip
    files, _ = open_weights(out)
    return Conversion(out, sum(file.size for file in files), len(files), opened.notes)


def to_gguf(path: Path, out: Path, kind: str) -> Conversion:
    """Writes a model folder, or another GGUF file, as a GGUF file.

    Args:
        path: The model.
        out: The new file; replaced if it exists.
        kind: How its matrices are stored, one of `gguf.write.KINDS`.

    Raises:
        MissingResource: A file is missing, or the disk is full.
        BadInput: GGUF cannot express the model or its tokenizer, or there is no such kind.
    """
    if is_gguf(path):
        opened = open_model(path, compact=True)
    else:
        types = {entry.dtype for file in open_weights(path)[0] for entry in file.entries.values()}
        (only,) = types if len(types) == 1 else ("F32",)
        opened = open_model(path, DTYPES[only] if only in ("BF16", "F16") else torch.float32)
    written = write_gguf(out, opened, kind, licence=describe(path).licence)
    return Conversion(out, written.size, 1, [*opened.notes, *written.notes])


def reshard(folder: Path, out: Path, max_shard_size: int | None) -> Conversion:
    """Merges the shards of a model folder into one file, or cuts its weights into shards; all else stays.

    Args:
        folder: A model folder.
        out: The new one; may be the same, which is then replaced.
        max_shard_size: Bytes of weights in one file; None for a single file.

    Raises:
        MissingResource: A shard is missing, or the disk is full.
        BadInput: The weights are damaged.
    """
    files, notes = open_weights(folder)
    done = Conversion(out, notes=notes)
    old = {file.path.name for file in files} | {INDEX}
    with atomic_folder(out) as place:
        _write(files, place, None, max_shard_size or sum(file.size for file in files) or 1, done)
        for path in sorted(folder.iterdir()):
            if path.name in old:
                continue
            if path.is_dir():
                shutil.copytree(path, place / path.name)
            else:
                shutil.copy2(path, place / path.name)
    return done


def pickle_files(folder: Path) -> list[Path]:
    """Returns the files of pickled weights that a folder has instead of safetensors; none when it has those.

    Raises:
        MissingResource: One that the index names is missing.
        BadInput: The index is damaged, or there are several files that could be meant.
    """
    if (folder / INDEX).exists() or list(folder.glob("model*.safetensors")):
        return []
    index = folder / PICKLE_INDEX
    if index.exists():
        values = read_json(index)
        table = values.get("weight_map") if isinstance(values, dict) else None
        if not isinstance(table, dict) or not table:
            raise BadInput("the index has no 'weight_map'", where=str(index))
        names = sorted({str(name) for name in table.values()})
        for name in names:
            if Path(name).name != name:
                raise BadInput(f"the index names a file outside the folder: {name!r}", where=str(index))
            if not (folder / name).is_file():
                raise MissingResource(f"the shard {name!r} is missing", where=str(folder))
        return [folder / name for name in names]
    if (folder / "pytorch_model.bin").is_file():
        return [folder / "pytorch_model.bin"]
    others = sorted([*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")])
    others = [path for path in others if path.name != "training_args.bin"]
    if len(others) > 1:
        raise BadInput(
            f"several files could be the weights: {', '.join(path.name for path in others[:5])}",
            where=str(folder),
            remedy="leave only the one that is meant, or copy their index (pytorch_model.bin.index.json) there",
        )
    return others


def unpickle(source: Path, target: Path, tied: bool, done: Conversion) -> TensorFile:
    """Converts one file of pickled weights in a process of its own, within bounds.

    Args:
        source: The file.
        target: The safetensors file to write.
        tied: Whether an output head that is the same memory as the embedding is left out.
        done: Takes what the user should know.

    Raises:
        BadInput: It is damaged, holds something else, or would run code.
    """
    words = [sys.executable, "-m", "zhixing.checkpoints.unpickle", str(source), str(target)]
    ended = subprocess.run(
        [*words, "--tied"] if tied else words,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    lines = ended.stdout.strip().splitlines()
    try:
        result = json.loads(lines[-1]) if lines else {}
    except ValueError:
        result = {}
    if ended.returncode or "tensors" not in result:
        last = (ended.stderr.strip().splitlines() or [f"the process ended with code {ended.returncode}"])[-1]
        raise BadInput(
            f"the pickled weights are refused: {result.get('cause') or last[:300]}",
            where=str(source),
            remedy="take a release with safetensors; a file that wants to run code should not be opened at all",
        )
    if result["skipped"]:
        done.notes.append(f"{source.name}: what is no tensor was left out: {', '.join(result['skipped'][:8])}")
    return open_tensors(target)


def _write(files: list[TensorFile], place: Path, dtype: torch.dtype | None, limit: int, done: Conversion) -> None:
    """Writes the weights of some files into new shards, tensor by tensor."""
    specs: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    for file in files:
        for entry in sorted(file.entries.values(), key=lambda entry: entry.start):
            if entry.dtype not in DTYPES:
                raise BadInput(f"the tensor {entry.name!r} has the type {entry.dtype}", where=str(file.path))
            if entry.name in specs:
                raise BadInput(f"the tensor {entry.name!r} is in two files", where=str(file.path))
            own = DTYPES[entry.dtype]
            specs[entry.name] = (dtype if dtype is not None and own.is_floating_point else own, entry.shape)
    sizes = {name: torch.Size(shape).numel() * kind.itemsize for name, (kind, shape) in specs.items()}
    shards = plan_shards(sizes, limit)
    done.size, done.files = sum(sizes.values()), len(shards)
    check_room(place, done.size, "the new weights")
    with progress_bar("writing weights", done.size) as bar:
        tensors = (item for file in files for item in stream(file))
        for file_name, names in zip(shard_names(len(shards)), shards, strict=True):
            with TensorWriter(place / file_name, {name: specs[name] for name in names}, {"format": "pt"}) as writer:
                for _ in names:
                    _pass(tensors, writer, specs, bar)
    if len(shards) > 1:
        write_index(place, shards, done.size)


def _pass(
    tensors: Iterator[tuple[str, Tensor]],
    writer: TensorWriter,
    specs: dict[str, tuple[torch.dtype, tuple[int, ...]]],
    bar: Bar,
) -> None:
    name, tensor = next(tensors)
    kind = specs[name][0]
    converted = tensor.to(kind)
    if kind != tensor.dtype and bool((~torch.isfinite(converted) & torch.isfinite(tensor)).any()):
        raise BadInput(
            f"the tensor {name!r} has values up to {tensor.abs().max():.3g}, beyond what "
            f"{str(kind).removeprefix('torch.')} can hold",
            remedy="convert to bfloat16 or float32",
        )
    writer.write(name, converted)
    bar.advance(converted.nbytes, human_bytes(converted.nbytes))


def _copy(folder: Path, place: Path, values: dict[str, Any], dtype: torch.dtype | None, done: Conversion) -> None:
    """Copies what belongs to a model beside the weights, and looks whether the new folder can be used."""
    left = []
    try:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = path.relative_to(folder).as_posix()
            weights = name == INDEX or ("/" not in name and path.suffix == ".safetensors")
            if is_needed(name) and not weights and name != "config.json":
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, place / name)
            elif (
                not weights and name not in ("config.json", PICKLE_INDEX) and path.suffix not in (".bin", ".pt", ".pth")
            ):
                left.append(name)
        if dtype is not None:
            named = str(dtype).removeprefix("torch.")
            values = values | ({"torch_dtype": named} if "torch_dtype" in values else {"dtype": named})
        text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
        (place / "config.json").write_text(text, encoding="utf-8")
    except OSError as error:
        raise os_fault(error, place, "writing") from error
    if left:
        more = f" and {len(left) - 5} more" if len(left) > 5 else ""
        done.notes.append(f"not copied, because no model needs it: {', '.join(left[:5])}{more}")
    try:
        done.notes += [note for note in check_model(place) if note not in done.notes]
    except ZhixingError as error:
        done.notes.append(f"converted, but it cannot be used here: {error.cause}")
