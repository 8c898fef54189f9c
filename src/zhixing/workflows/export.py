"""A model taken elsewhere: as a folder for `transformers` and `peft`, with its adapters folded in, or as a GGUF file;
each export goes through the parity gate."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zhixing.checkpoints.adapters import is_adapter, is_prompt, made_from
from zhixing.checkpoints.card import carried_card, merged_card
from zhixing.checkpoints.describe import describe
from zhixing.checkpoints.folder import ModelFolder, save_folder
from zhixing.checkpoints.gguf.write import KINDS, write_gguf
from zhixing.checkpoints.opening import open_model
from zhixing.checkpoints.places import check_place
from zhixing.checkpoints.references import resolve
from zhixing.core.errors import BadInput, MissingResource, unknown_name
from zhixing.core.files import atomic_folder, os_fault, put_in_place, sync_folder
from zhixing.native.choice import choose
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.workflows.parity import CHATS, TOLERANCES, Chat, Parity, ParityFault, View, check_parity

FORMS = ("hf", "gguf", "merged")


@dataclass(frozen=True)
class Exported:
    """What an export came to.

    Attributes:
        path: The new folder or file.
        size: Its bytes.
        parity: What the gate found; None where it was left out.
        notes: What the user should know, in sentences.
    """

    path: Path
    size: int
    parity: Parity | None
    notes: list[str]


def export(
    ref: str | Path, to: str, out: Path, *, kind: str = "q8_0", chats: Sequence[Chat] = CHATS, gate: bool = True
) -> Exported:
    """Exports a model and holds the export against it.

    Args:
        ref: A model reference; an adapter's too.
        to: "hf": the layout that `transformers` opens, or `peft` where it is an adapter; "merged": adapters folded in;
            "gguf": one file, likewise.
        out: Where to; an earlier model there is replaced, once the new one has passed the gate.
        kind: For GGUF: how matrices are stored (`gguf.write.KINDS`).
        chats: What goes through the gate.
        gate: Whether to hold the export against the model at all.

    Raises:
        BadInput: The model cannot be expressed in this form, or would be written over itself or over other things.
        MissingResource: It is not there.
        ParityFault: The export does not do what the model does; it is kept beside its place, to be looked at.
    """
    if to not in FORMS:
        raise unknown_name("form", to, FORMS, where="--to")
    source, kind = resolve(ref), kind.lower()
    if kind not in KINDS:
        raise unknown_name("GGUF format", kind, KINDS, where="--type")
    if is_adapter(source) and is_prompt(source):
        return _export_prompt(source, to, out)
    models = made_from(source)
    check_place(out, models, file=to == "gguf", replace=True)
    opened = open_model(source, compact=False)
    if opened.family is None or opened.tokenizer is None:
        raise BadInput("only decoders with a published layout and a tokenizer are exported", where=str(source))
    notes = list(opened.notes)
    # It is written and held against the model beside its place: what is there stays until the new one is proved.
    built = out.with_name(f".{out.stem}.{os.getpid()}.new{out.suffix if to == 'gguf' else ''}")
    try:
        if to == "gguf":
            notes += write_gguf(built, opened, kind, licence=describe(source).licence).notes
        elif to == "hf" and is_adapter(source):
            _copy(source, built)
        else:
            *adapters, base = models
            text = merged_card(base, [(one, 1.0) for one in reversed(adapters)]) if adapters else carried_card(source)
            save_folder(
                built, opened.model, opened.tokenizer, opened.family.name, card=text, generation=opened.generation
            )  # fmt: skip
        found = None
        if gate:
            found = check_export(opened, opened.tokenizer, built, kind if to == "gguf" else "f32", chats)
            if found.faults:
                kept = _free(out)
                built.rename(kept)
                raise ParityFault(
                    "the export does not do what the model does:\n  " + "\n  ".join(found.lines()),
                    where=str(out),
                    remedy=f"it was kept as {kept} to be looked at; do not use it",
                )
        _put(built, out)
    finally:
        _remove(built)
    return Exported(out, _size(out), found, notes)


def _free(out: Path) -> Path:
    """Returns a name beside an export's place that nothing has."""
    names = (f"{out.stem}-failed{f'-{n}' if n > 1 else ''}{out.suffix}" for n in itertools.count(1))
    return next(place for place in (out.with_name(name) for name in names) if not place.exists())


def _put(built: Path, out: Path) -> None:
    try:
        if built.is_dir():
            put_in_place(built, out)
        else:
            built.replace(out)
            sync_folder(out.parent)
    except OSError as error:
        raise os_fault(error, out, "writing") from error


def _remove(built: Path) -> None:
    if built.is_dir():
        shutil.rmtree(built, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            built.unlink(missing_ok=True)


def _size(out: Path) -> int:
    return out.stat().st_size if out.is_file() else sum(file.stat().st_size for file in out.rglob("*"))


def check_export(opened: ModelFolder, tokenizer: Tokenizer, out: Path, kind: str, chats: Sequence[Chat]) -> Parity:
    """Holds an export, and the engine, against a model as it was trained."""
    name = "GGUF file" if out.is_file() else "HF folder"
    views = [View("the model", opened.model, tokenizer, 0.0)]
    engine = choose(opened.model).network
    if engine is not None:
        views.append(View("the engine", engine, tokenizer, TOLERANCES["engine"]))
    again = open_model(out, compact=False)
    if again.tokenizer is None:
        raise MissingResource("the export has no tokenizer", where=str(out))
    views.append(View(f"the {name}", again.model, again.tokenizer, TOLERANCES.get(kind, 4.0)))
    return check_parity(views, chats)


def _export_prompt(source: Path, to: str, out: Path) -> Exported:
    """Copies a learned prompt, which only PEFT's layout holds; nothing here writes with it, so there is no gate."""
    if to != "hf":
        raise BadInput(
            "learned prompt tokens are inputs and no weights: no other form holds them",
            where=str(source),
            remedy="export it for peft: --to hf",
        )
    check_place(out, [source], file=False, replace=True)
    _copy(source, out)
    return Exported(out, _size(out), None, ["a learned prompt is used through peft: the parity gate does not apply"])


def _copy(source: Path, out: Path) -> None:
    """Copies an adapter folder, which is in PEFT's layout already."""
    with atomic_folder(out) as part:
        for file in sorted(source.iterdir()):
            if file.is_file():
                shutil.copy2(file, part / file.name)
