"""Where a new model may be written: never over, into or around the models it is made from, nor over other things."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from zhixing.checkpoints.gguf.header import is_gguf
from zhixing.core.errors import BadInput

MARKS = ("config.json", "adapter_config.json")
"""Files of which a folder that is a model has one."""


def check_place(out: Path, sources: Sequence[Path], *, file: bool, replace: bool) -> None:
    """Refuses a place for a new model before any work is done for it.

    Args:
        out: Where the new model is to be.
        sources: The folders or files that it is made from.
        file: Whether it is one file (GGUF), and no folder.
        replace: Whether an earlier model may be replaced; nothing else is in any case.

    Raises:
        BadInput: Something would be damaged, or stands in the way.
    """
    if file and not out.name:
        raise BadInput("this is a folder, and the new model is a file", where=str(out), remedy="give it a name in it")
    place = out.resolve()
    for source in sources:
        old = source.resolve()
        if place == old or old.is_relative_to(place):
            raise BadInput(
                f"the new model would replace the old one ({source})",
                where=str(out),
                remedy="choose another place",
            )
        if old.is_dir() and place.is_relative_to(old):
            raise BadInput(
                f"the new model would lie inside the old one ({source})",
                where=str(out),
                remedy="choose another place",
            )
    blocking = next((folder for folder in place.parents if folder.exists()), None)
    if blocking is not None and not blocking.is_dir():
        raise BadInput(f"{blocking} is a file, and no folder", where=str(out), remedy="choose another place")
    if out.is_dir():
        _check_folder(out, place, file, replace)
    elif out.exists() or out.is_symlink():
        if not file:
            raise BadInput("a file of this name is in the way", where=str(out), remedy="choose another place")
        if not replace:
            raise BadInput("there is something already", where=str(out), remedy="choose another place, or --force")
        if not is_gguf(out):
            raise BadInput(
                "the file that is there is no model, so it is not replaced", where=str(out), remedy="remove it yourself"
            )


def _check_folder(out: Path, place: Path, file: bool, replace: bool) -> None:
    """Refuses a folder that is there, unless it is empty, or an earlier model that may be replaced."""
    if file:
        raise BadInput(
            "this is a folder, and the new model is a file",
            where=str(out),
            remedy=f"give it a name, such as {out / 'model.gguf'}",
        )
    if Path.cwd().resolve().is_relative_to(place):
        raise BadInput("the folder that you are in is not replaced", where=str(out), remedy="name a new folder in it")
    if not any(out.iterdir()):
        return
    if not replace:
        raise BadInput("there is something already", where=str(out), remedy="choose another place, or --force")
    if not any((out / name).is_file() for name in MARKS):
        raise BadInput(
            "the folder that is there is no model, so it is not replaced",
            where=str(out),
            remedy="choose another place, or remove it yourself",
        )
