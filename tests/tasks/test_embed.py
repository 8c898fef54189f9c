"""`embed`: vectors of texts of any length."""

from pathlib import Path

import numpy as np
import pytest

from zhixing.core.errors import BadInput
from zhixing.tasks.embed import open_embedder


def test_windows_of_a_long_text_are_averaged(models: Path) -> None:
    embedder = open_embedder(models / "pool")
    long = " ".join(["a film", "awful"] * 20)
    found = embedder([long, "a film", long])
    assert found.windows == (4, 1, 4)
    assert np.allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-5)
    assert np.allclose(found.vectors[0], found.vectors[2])
    assert np.array_equal(found.vectors[1], embedder(["a film"]).vectors[0])


def test_no_text_has_no_vectors(models: Path) -> None:
    assert open_embedder(models / "pool")([]).vectors.shape == (0, 32)


def test_a_classifier_does_not_embed(models: Path) -> None:
    with pytest.raises(BadInput, match="minilm"):
        open_embedder(models / "classifier")
