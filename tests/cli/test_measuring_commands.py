"""`zhixing eval`, `report` and `runs`, through small applications of their own."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner, Result

from zhixing.checkpoints.folder import save_folder
from zhixing.checkpoints.references import resolve
from zhixing.cli import evaluate, report, runs
from zhixing.core.errors import BadInput, MissingResource, ZhixingError
from zhixing.core.files import FolderLock
from zhixing.evaluation.language_modelling import evaluate_text
from zhixing.families.llama import FIXED
from zhixing.models.config import TransformerConfig
from zhixing.models.transformer import Transformer
from zhixing.tokenization.train import train_tokenizer

TEXT = "To know and to do. 知行合一。\n"


def run_command(command: Callable[..., None], *arguments: str) -> Result:
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, list(arguments))
    if isinstance(result.exception, ZhixingError):
        raise result.exception
    return result


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a model of random weights."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    tokenizer = train_tokenizer([], "byte").tokenizer
    sizes = {"width": 16, "layers": 1, "heads": 2, "kv_heads": 2, "head_dim": 8, "mlp_width": 16, "context": 16}
    model = Transformer(TransformerConfig(vocab_size=tokenizer.vocab_size, **sizes, **FIXED))
    model.initialise(torch.Generator().manual_seed(0))
    folder.mkdir()
    save_folder(folder / "model", model.eval(), tokenizer, "llama")
    (folder / "recipe.yaml").write_text("name: first\n")
    return folder


def write_run(folder: Path, state: str, loss: float | None = None, step: int = 0) -> Path:
    folder.mkdir(parents=True)
    best = {"step": step, "loss": loss, "bits_per_byte": loss / 2} if loss is not None else None
    (folder / "state.json").write_text(json.dumps({"state": state, "step": step, "steps": 100, "best": best}))
    (folder / "recipe.yaml").write_text(f"name: {folder.name}\n")
    record = {"kind": "train", "step": step, "loss": 3.0, "tokens": 100 * step, "seconds": 1.5}
    (folder / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    return folder


def test_eval_gives_what_the_library_gives(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "b.txt").write_text(TEXT * 2, encoding="utf-8")
    (tmp_path / "c.txt").write_text("")
    result = run_command(
        evaluate.command, str(trained), str(tmp_path), "--window", "8", "--stride", "3", "--json", "--by-file"
    )
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    from zhixing.checkpoints.folder import load_folder

    loaded = load_folder(trained / "model")
    assert loaded.tokenizer is not None
    expected = evaluate_text(loaded.model, loaded.tokenizer, [TEXT, TEXT * 2], window=8, stride=3)
    assert values["loss"] == pytest.approx(expected.loss, rel=1e-5)
    assert values["bytes"] == 3 * len(TEXT.encode())
    assert values["problems"]["counts"] == {"empty": 1}
    assert [Path(name).name for name in values["files"]] == ["a.txt", "b.txt"]


def test_eval_for_people(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": TEXT}) + "\n")
    result = run_command(evaluate.command, str(trained / "model"), str(tmp_path / "a.jsonl"), "--by-file")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[1].endswith("a.jsonl")
    assert any(line.startswith("bits per byte  ") for line in lines)
    assert "per token of byte, 257 tokens" in result.stdout
    assert "window 16, stride 8" in result.stdout


def test_eval_of_nothing(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingResource, match="no such file"):
        run_command(evaluate.command, str(trained), str(tmp_path / "missing.txt"))
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(BadInput, match="no text"):
        run_command(evaluate.command, str(trained), str(tmp_path))
    (tmp_path / "a.txt").write_text(TEXT)
    with pytest.raises(BadInput, match="the model's context of 16"):
        run_command(evaluate.command, str(trained), str(tmp_path), "--window", "64")


def test_references(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve(trained) == resolve(str(trained / "model")) == trained / "model"
    with pytest.raises(BadInput, match="this is another file"):
        resolve(trained / "model" / "config.json")
    with pytest.raises(BadInput, match="neither a model folder"):
        resolve(tmp_path)
    with pytest.raises(MissingResource, match="no model yet"):
        resolve(write_run(tmp_path / "young", "running"))
    monkeypatch.chdir(trained.parent.parent)
    monkeypatch.setattr("zhixing.checkpoints.references.RUNS", Path(trained.parent.name))
    with pytest.raises(MissingResource, match=r"did you mean .*first"):
        resolve("frist")


def test_report_prints_the_path_of_what_it_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "runs" / "one", "finished", 2.0, 100)
    monkeypatch.chdir(tmp_path)
    for name in ("runs/one", "one"):
        result = run_command(report.command, name)
        assert result.stdout == "runs/one/report.html\n"
    assert "<!doctype html>" in (tmp_path / "runs/one/report.html").read_text(encoding="utf-8")
    values = json.loads(run_command(report.command, "one", "--json").stdout)
    assert (values["bits_per_byte"], values["step"], values["report"]) == (1.0, 100, "runs/one/report.html")
    with pytest.raises(MissingResource, match="did you mean runs/one"):
        run_command(report.command, "onne")
    with pytest.raises(BadInput, match="not a run folder"):
        run_command(report.command, "runs")


def test_runs_tell_the_dead_from_the_living(tmp_path: Path) -> None:
    alive = write_run(tmp_path / "alive", "running", 2.5, 10)
    write_run(tmp_path / "dead", "running", 1.5, 20)
    write_run(tmp_path / "done", "finished", 2.0, 100)
    write_run(tmp_path / "new", "preparing")
    write_run(tmp_path / "a-run-with-quite-a-long-name-and-知行合一", "failed", 9.0, 3)
    (tmp_path / "not-a-run").mkdir()
    with FolderLock(alive):
        result = run_command(runs.command, str(tmp_path), "--json", "--by", "bits_per_byte")
        shown = run_command(runs.command, str(tmp_path)).stdout
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(row["name"], row["state"]) for row in rows] == [
        ("dead", "stopped"),
        ("done", "finished"),
        ("alive", "running"),
        ("a-run-with-quite-a-long-name-and-知行合一", "failed"),
        ("new", "stopped"),
    ]
    assert not (tmp_path / "dead" / ".lock").exists(), "looking must change nothing"
    assert "stopped, resumable" in shown
    assert "20/100" in shown
    assert len(shown.splitlines()) == 6, "one line a run where the output is no terminal"
    assert "a-run-with-quite-a-long-name-and-知行合一  failed" in shown


def test_runs_as_a_leaderboard(tmp_path: Path) -> None:
    for name, accuracy, bleu in (("a", 0.8, None), ("b", 0.9, 20.0), ("c", 0.9, 30.0), ("d", None, None)):
        folder = write_run(tmp_path / name, "finished", 2.0, 100)
        scores = [{"measure": "accuracy", "value": accuracy, "interval": {"low": 0.7, "high": 0.95}}]
        measures = {key: value for key, value in (("accuracy", accuracy), ("bleu", bleu), ("ter", bleu)) if value}
        if measures:
            facts = {"evaluation": {"loss": 1.0, "measures": measures, "scores": scores}}
            (folder / "facts.json").write_text(json.dumps(facts))
    found = run_command(runs.command, str(tmp_path), "--json", "--by", "accuracy").stdout.splitlines()
    assert [(row["name"], row.get("rank")) for row in map(json.loads, found)] == [
        ("b", 1), ("c", 1), ("a", 3), ("d", None),
    ]  # fmt: skip
    shown = run_command(runs.command, str(tmp_path), "--by", "accuracy").stdout.splitlines()
    assert shown[0].split()[:4] == ["#", "run", "state", "accuracy"]
    assert "0.9 [0.7, 0.95]" in shown[1]
    lowest = run_command(runs.command, str(tmp_path), "--json", "--by", "ter").stdout.splitlines()
    assert json.loads(lowest[0])["name"] == "b"
    with pytest.raises(BadInput, match="did you mean 'accuracy'"):
        run_command(runs.command, str(tmp_path), "--by", "acuracy")


def test_runs_name_what_is_damaged_and_show_the_rest(tmp_path: Path) -> None:
    write_run(tmp_path / "good", "finished", 2.0, 100)
    (write_run(tmp_path / "bad", "finished") / "state.json").write_text("{")
    result = run_command(runs.command, str(tmp_path))
    assert "good" in result.stdout
    assert "bad" in result.stdout
    assert "state.json is not valid JSON" in result.stderr


def test_no_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "zhixing quickstart" in run_command(runs.command).stdout
    with pytest.raises(MissingResource, match="no such folder"):
        run_command(runs.command, "elsewhere")
    with pytest.raises(BadInput, match="did you mean 'tokens'"):
        run_command(runs.command, "--by", "token")
