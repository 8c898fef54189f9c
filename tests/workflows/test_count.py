"""An n-gram model from recipe to report: counted, measured, published, and going on after an interruption."""

import json
import random
from pathlib import Path

import pytest

import zhixing
from zhixing.cli.main import main
from zhixing.core.errors import BadInput, Interrupted
from zhixing.models.ngram import counting
from zhixing.workflows.pretrain import Outcome, resume_run


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = random.Random(0)
    words = ["the", "cat", "dog", "sees", "runs", "and", "知行", "合一", "a", "red"]
    lines = [" ".join(generator.choices(words, range(10, 0, -1), k=generator.randint(3, 12))) for _ in range(400)]
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("\n\n".join(lines), encoding="utf-8")
    return file


def train(text: Path, run: Path, **sections: object) -> Outcome:
    recipe = {
        "data": {"paths": [str(text)], "split": "tail", "validation_fraction": 0.1},
        "tokenizer": {"kind": "character"},
        "model": {"family": "ngram", "order": 4},
        **sections,
    }
    return zhixing.train(recipe, run)


def test_a_whole_run(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = train(text, tmp_path / "run")
    assert outcome.score.bits_per_byte < min(yardstick.bits_per_byte for yardstick in outcome.yardsticks)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if row["kind"] == "validation"]
    assert len(losses) == 4
    assert losses == sorted(losses, reverse=True)
    facts = json.loads((tmp_path / "run" / "facts.json").read_text())
    assert facts["model"]["order"] == 4
    assert facts["model"]["parameters"] > 100
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Kneser-Ney" in page
    assert not (tmp_path / "run" / "checkpoints" / "counts").exists()
    model = zhixing.load(tmp_path / "run")
    assert set(model.generate("the ", max_tokens=30, seed=1).split()) & {"the", "cat", "dog", "sees", "runs", "and"}
    again = resume_run(tmp_path / "run")
    assert again.score == outcome.score
    with pytest.raises(BadInput, match="no training steps"):
        resume_run(tmp_path / "run", prove_first=True)


def test_an_interrupted_count_goes_on_to_the_same_model(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(text, tmp_path / "whole")
    original = counting._Counter.count

    def stop(self: counting._Counter, order: int) -> object:
        if order == 3:
            raise KeyboardInterrupt
        return original(self, order)

    with monkeypatch.context() as patch:
        patch.setattr(counting._Counter, "count", stop)
        with pytest.raises(Interrupted, match="what is done is kept"):
            train(text, tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "counts" / "order-2.counts").exists()
    seen: list[int] = []

    def note(self: counting._Counter, order: int, index: int) -> object:
        seen.append(order)
        return run_of(self, order, index)

    run_of = counting._Counter._run
    monkeypatch.setattr(counting._Counter, "_run", note)
    outcome = resume_run(tmp_path / "run")
    assert min(seen) == 3
    assert outcome.score == whole.score
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "run" / "model" / name).read_bytes() == (tmp_path / "whole" / "model" / name).read_bytes()


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": {"family": "ngram", "depth": 3}}, "model.depth means nothing"),
        ({"train": {"steps": 3}}, "train.steps means nothing"),
        ({"optimizer": {"name": "adamw"}}, "optimizer.name means nothing"),
        ({"model": {"family": "ngram", "order": 33}}, "at most 32"),
        ({"model": {"family": "llama", "order": 3}}, "model.order is of n-gram models"),
    ],
)
def test_fields_without_meaning_are_refused(
    sections: dict[str, object], message: str, text: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=message):
        train(text, tmp_path / "run", **sections)
    assert not (tmp_path / "run").exists()


def test_documents_end_where_they_end(tmp_path: Path) -> None:
    """With an end-of-text token, the model learns where documents end and begin."""
    folder = tmp_path / "text"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number}.txt").write_text(f"ab{'cd'[number % 2]}", encoding="utf-8")
    sections = {"data": {"paths": [str(folder)], "validation_fraction": 0.2}}
    train(folder, tmp_path / "run", **sections)
    model = zhixing.load(tmp_path / "run")
    answer = model.complete("ab", temperature=0.0, max_tokens=5)[0]
    assert answer.text in ("c", "d")
    assert answer.finish_reason == "stop"


def test_the_commands(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train(text, tmp_path / "run")
    capsys.readouterr()
    for words in (
        ["generate", str(tmp_path / "run"), "the ", "--max-tokens", "9", "--seed", "1", "--top-k", "5"],
        ["eval", str(tmp_path / "run"), str(text)],
        ["runs", str(tmp_path)],
        ["report", str(tmp_path / "run")],
    ):
        monkeypatch.setattr("sys.argv", ["zhixing", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0, capsys.readouterr()
        assert capsys.readouterr().out


def test_count_memory_changes_nothing(text: Path, tmp_path: Path) -> None:
    train(text, tmp_path / "one")
    train(text, tmp_path / "many", model={"family": "ngram", "order": 4, "count_memory": 1})
    one, many = (tmp_path / name / "model" / "model.safetensors" for name in ("one", "many"))
    assert one.read_bytes() == many.read_bytes()
