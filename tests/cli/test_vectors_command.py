"""`zhixing vectors`: train, nearest, analogy, show, convert, and faults in one line."""

import json
import random
from pathlib import Path

import pytest
from tests.command_line import app
from typer.testing import CliRunner

from zhixing.core.errors import BadInput, MissingResource

pytest.importorskip("gensim")


def run(*words: object) -> str:
    result = CliRunner().invoke(app, ["vectors", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = random.Random(0)
    words = "king queen man woman rules walks the a 知 行".split()
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("\n\n".join(" ".join(generator.choices(words, k=8)) for _ in range(300)), encoding="utf-8")
    return file


def test_a_life_of_vectors(text: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "mine"
    run("train", text, folder, "--size", 8, "--min-count", 1, "--epochs", 1)
    found = json.loads(run("nearest", folder, "知", "--top", 3, "--json"))
    assert len(found) == 3
    assert all(-1 <= entry["cosine"] <= 1 for entry in found)
    assert len(run("nearest", folder, "king", "-n", 4).splitlines()) == 4
    answer = run("analogy", folder, "man", "king", "woman", "-n", 9)
    assert not {"man", "king", "woman"} & set(answer.split())
    assert json.loads(run("show", folder, "--json"))["words"] == 10
    assert "by characters" in run("show", folder)
    for name in ("v.vec", "v.bin", "folder"):
        run("convert", folder, tmp_path / name)
        assert json.loads(run("nearest", tmp_path / name, "知", "--top", 3, "--json")) == found


def test_faults(text: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="unknown kind of word vectors 'glove'"):
        run("train", text, tmp_path / "x", "--kind", "glove")
    with pytest.raises(BadInput, match="already"):
        run("train", text, tmp_path)
    with pytest.raises(MissingResource):
        run("train", tmp_path / "none.txt", tmp_path / "x")
    with pytest.raises(MissingResource):
        run("nearest", tmp_path / "none", "word")
    assert not (tmp_path / "x").exists()
