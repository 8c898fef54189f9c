"""Data that a run makes for itself, into its own folder: generated pictures with captions (`data.pictures`)."""

from __future__ import annotations

from zhixing.core.progress import progress_bar
from zhixing.data.pictures import make_pictures
from zhixing.training.run import Run

FOLDER = "pictures"


def draw_pictures(run: Run) -> None:
    """Draws the pictures that the recipe asks for, unless the run has them, and names them as its data."""
    data = run.recipe.data
    wanted, folder = data.pictures, run.folder / FOLDER
    if wanted is None:
        return
    if not folder.is_dir():
        with progress_bar("Drawing", wanted.count + wanted.unseen) as bar:
            make_pictures(
                folder, wanted.count, unseen=wanted.unseen, seed=wanted.seed, side=wanted.side,
                language=wanted.language, advance=bar.advance,
            )  # fmt: skip
    data.paths, data.validation_paths = [str(folder / "train.jsonl")], [str(folder / "unseen.jsonl")]
    run.save_recipe()
