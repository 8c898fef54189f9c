"""Where new models may be written: every source, and everything that is no model, stays as it was."""

import hashlib
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.bad_inputs.support import make_models
from tests.command_line import app
from zhixing.checkpoints.places import check_place
from zhixing.core.errors import BadInput
from zhixing.workflows import export as exporting
from zhixing.workflows.export import export
from zhixing.workflows.parity import ParityFault


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_models(tmp_path / "made")


def state(root: Path) -> dict[str, str]:
    return {
        str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(root.rglob("*"))
        if file.is_file()
    }


@pytest.mark.parametrize("to", ["hf", "merged", "gguf"])
@pytest.mark.parametrize("command", ["export", "convert"])
def test_no_command_writes_over_or_into_its_model(model: Path, tmp_path: Path, to: str, command: str) -> None:
    (tmp_path / "link").symlink_to(model)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    before = state(tmp_path)
    places = [model, model.parent, tmp_path / "link", model / "inside", tmp_path / "file", tmp_path / "file" / "x"]
    places += [tmp_path / "mine", Path()]
    words = ["export", str(model), "--to", to, "--out"]
    if command == "convert":
        words = ["models", "convert", str(model)]
        places = [model / "m.gguf", tmp_path / "file" / "x.gguf"] if to == "gguf" else places
    for out in places:
        result = CliRunner().invoke(app, [*words, str(out), "--force"])
        assert isinstance(result.exception, BadInput), (out, result.exception, result.output)
        assert result.exception.where == str(out)
        assert state(tmp_path) == before


def test_an_earlier_model_is_replaced_only_when_asked(model: Path, tmp_path: Path) -> None:
    old = make_models(tmp_path / "old")
    with pytest.raises(BadInput, match="there is something already"):
        check_place(old, [model], file=False, replace=False)
    check_place(old, [model], file=False, replace=True)
    (tmp_path / "empty").mkdir()
    check_place(tmp_path / "empty", [model], file=False, replace=False)
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    check_place(tmp_path / "x.gguf", [model], file=True, replace=True)


@pytest.mark.parametrize("to", ["hf", "gguf"])
@pytest.mark.parametrize("how", ["fault", "stop", "write"])
def test_what_fails_leaves_the_earlier_export(
    model: Path, tmp_path: Path, to: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    out = place / ("m.gguf" if to == "gguf" else "m")
    export(model, to, out)
    before = state(place)

    class Found:
        faults = ("one",)

        def lines(self) -> list[str]:
            return ["parity: FAILED"]

    def gate(*args: object) -> Found:
        if how == "stop":
            raise KeyboardInterrupt
        return Found()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "check_export", gate)
    if how == "write":
        monkeypatch.setattr(os, "fsync", full)
    with pytest.raises((ParityFault, KeyboardInterrupt, Exception)) as caught:
        export(model, to, out)
    after = state(place)
    if how == "fault":
        kept = place / ("m-failed.gguf" if to == "gguf" else "m-failed")
        assert str(kept) in str(caught.value)
        assert kept.exists()
    assert {name: value for name, value in after.items() if "-failed" not in name} == before
    assert not list(place.glob(".*"))
