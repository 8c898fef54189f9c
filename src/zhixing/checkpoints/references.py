"""From what a user calls a model to the folder it is in.

A reference is the path of a model folder, of a run folder, whose model/ is taken, or of a GGUF file.
"""

from __future__ import annotations

from pathlib import Path

from zhixing.core.errors import BadInput, MissingResource, nearest

REMOTE = ("hf:", "ms:", "pypi:")
RUNS = Path("runs")


def resolve(ref: str | Path) -> Path:
    """Returns the model folder, or the GGUF file, that a reference names.

    Raises:
        MissingResource: There is no such folder, or the run has no model yet.
        BadInput: The reference names something else than a model folder or a run folder.
    """
    if isinstance(ref, str) and ref.startswith(REMOTE):
        raise BadInput(
            f"models are not fetched from {ref.partition(':')[0]!r} by this version",
            where=ref,
            remedy="download the model in the Hugging Face layout, and give the path of its folder",
        )
    if not str(ref):
        raise BadInput("the model reference is empty", remedy="give the path of a model folder or of a run folder")
    path = Path(ref).expanduser()
    if path.is_file():
        if path.suffix == ".gguf":
            return path
        raise BadInput("a model is a folder, this is a file", where=str(ref), remedy=f"try its folder: {path.parent}")
    if not path.is_dir():
        raise MissingResource("no such model or run folder", where=str(ref), remedy=_suggestion(path))
    for folder in (path, path / "model"):
        if (folder / "config.json").is_file():
            return folder
    if (path / "recipe.yaml").is_file():
        raise MissingResource(
            "this run has no model yet", where=str(path), remedy=f"train it to the end: zhixing resume {path}"
        )
    inside = sorted(child.parent.name for child in path.glob("*/config.json"))
    inside += sorted(child.parents[1].name for child in path.glob("*/model/config.json"))
    remedy = f"models inside: {', '.join(str(path / name) for name in inside[:5])}" if inside else None
    raise BadInput("this is neither a model folder nor a run folder (no config.json)", where=str(path), remedy=remedy)


def _suggestion(path: Path) -> str:
    """Names what is nearest to a path that is not there, among its neighbours and the runs."""
    places = [path.parent, RUNS] if path.parent != RUNS else [RUNS]
    found = {
        child.name: child for place in places if place.is_dir() for child in sorted(place.iterdir()) if child.is_dir()
    }
    guess = path.name if path.name in found else nearest(path.name, found)
    hint = f"did you mean {found[guess]}? " if guess else ""
    return f"{hint}`zhixing runs` lists your own models"
