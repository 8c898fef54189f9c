import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from zhixing.core.errors import BadInput, MissingResource
from zhixing.core.files import FolderLock
from zhixing.core.recipe import Recipe
from zhixing.evaluation.report import render_report, write_report
from zhixing.evaluation.report_facts import INPUTS_SHOWN, problem_rows
from zhixing.evaluation.run_folder import read_run

FACTS: dict[str, Any] = {
    "data": {
        "train": {"tokens": 9_500, "documents": 20, "bytes": 40_000},
        "validation": {"tokens": 500, "documents": 2, "bytes": 2_000},
        "options": {"seed": 7},
        "problems": {
            "counts": {"hidden": 2, "undecodable": 3},
            "examples": [{"kind": "undecodable", "source": "<i>坏.txt", "line": 4, "message": "not UTF-8"}],
        },
    },
    "tokenizer": {"kind": "byte-bpe", "vocab_size": 8192, "fingerprint": "ab" * 32},
    "model": {"family": "nanochat", "parameters": 1_234_567, "layers": 4, "width": 128, "tied": False},
    "machine": {"processor": "some CPU", "torch": "2.13.0", "matmul_gflops": 138.2},
    "evaluation": {
        "bits_per_byte": 1.25,
        "perplexity": 12.5,
        "yardsticks": {"xz_bits_per_byte": 2.0, "unigram_bits_per_byte": 2.5},
        "yardstick_descriptions": {"xz": "`xz -9e` on the held-out text alone"},
    },
    "samples": [
        {"prompt": "知行", "text": "知行合一 </script><script>alert(1)</script> & <b>bold</b>", "temperature": 0.8},
        {"prompt": None, "text": "half a character: \ud83d"},
    ],
}


class Page(HTMLParser):
    """Reads a page: its words, its tags, and whether every tag is closed."""

    VOID = frozenset({"meta", "link", "input", "br", "rect", "path"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words, self.tags, self.open = "", [], []
        self.scripts = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("script", "style"):
            self.scripts += data
        else:
            self.words += data


def write_run(
    folder: Path,
    *,
    state: dict[str, Any] | None = None,
    facts: dict[str, Any] | None = None,
    steps: int = 0,
    validate: bool = False,
    extra: str = "",
) -> Path:
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(Recipe(name="a").to_yaml(), encoding="utf-8")
    lines = []
    for step in range(1, steps + 1):
        lines.append(
            {"kind": "train", "step": step, "loss": 5 - step / steps, "learning_rate": 1.0, "gradient_norm": 0.5}
            | {"tokens": 1000 * step, "seconds": step * 0.5, "tokens_per_second": 2000.0, "matmul_share": 0.61}
        )
        if validate and step % 10 == 0:
            lines.append({"kind": "validation", "step": step, "loss": 4.5, "bits_per_byte": 1.5, "perplexity": 90.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + extra, encoding="utf-8")
    if state is not None:
        (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
    if facts is not None:
        (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder


def page_of(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def test_a_finished_run_shows_everything(tmp_path: Path) -> None:
    state = {"state": "finished", "step": 100, "steps": 100, "best": {"step": 90, "loss": 4.5, "bits_per_byte": 1.5}}
    page = page_of(write_run(tmp_path / "one", state=state, facts=FACTS, steps=100, validate=True))
    words = " ".join(page.words.split())
    for part in (
        "1.250",  # the final measurement, not the best validation
        "38 % below xz -9e, 50 % below unigram",
        "12.5",
        "per token of byte-bpe, 8,192 tokens",
        "A 4-layer nanochat model of 1.23 M parameters trained on 42.0 KB of text in 50 s.",
        "step 100 of 100",
        "of 138 GFLOP/s measured",
        "best: 4.5000",
        "3 text(s) skipped that do not decode",
        "<i>坏.txt:4: not UTF-8",
        "and 2 more",
        "some CPU",
        "options: seed",
        "epochs 轮数10.526",
        "zhixing resume",
        "vocab_size:",
        "知行合一 </script><script>alert(1)</script> & <b>bold</b>",
        "half a character: ?",
    ):
        assert part in words, part
    bars = [
        attributes["style"] for tag, attributes in page.tags if tag == "i" and "width" in str(attributes.get("style"))
    ]
    assert bars == ["width:100.0%", "width:80.0%", "width:50.0%"]


def test_nothing_from_the_run_becomes_markup_and_nothing_is_loaded(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "<u>one", facts=FACTS, steps=30, validate=True))
    assert "alert" not in page.scripts
    assert not [tag for tag, _ in page.tags if tag in ("u", "img", "iframe")]
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    for tag, attributes in page.tags:
        address = attributes.get("href") or attributes.get("src") or ""
        assert tag == "a" or address == "" or address.startswith("data:"), (tag, attributes)
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest", page.scripts)
    policy = next(attributes["content"] for _, attributes in page.tags if "http-equiv" in attributes)
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_the_pointer_reads_real_points(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "one", steps=100, validate=True))
    plots = [attributes for _, attributes in page.tags if "data-points" in attributes]
    assert len(plots) == 2 + 4
    rows = json.loads(str(plots[0]["data-points"]))
    assert rows[9] == [10, 4.9, pytest.approx(4.9, abs=0.01), 4.5, 1.5]
    assert json.loads(str(plots[0]["data-names"])) == ["train", "smoothed", "validation", "bits per byte"]


@pytest.mark.parametrize("state", ["preparing", "running", "interrupted", "failed", "finished", None])
@pytest.mark.parametrize("steps", [0, 1, 2, 30])
def test_any_state_and_any_number_of_steps(tmp_path: Path, state: str | None, steps: int) -> None:
    values = {"state": state, "step": steps, "steps": 100, "reason": "the loss is not a number", "best": None}
    page = page_of(write_run(tmp_path / "run", state=values if state else None, steps=steps))
    shown = {"preparing": "stopped", "running": "stopped", None: "no state"}.get(state, state)
    assert f"{shown} " in page.words
    assert ("No step has been recorded yet" in page.words) == (steps == 0)
    assert ("The loss is not a number" in page.words) == (state is not None)


def test_a_run_that_lives_is_running(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", state={"state": "running", "step": 5, "steps": 10}, steps=5)
    with FolderLock(folder):
        assert read_run(folder).status == "running"
        assert "This run is going on" in page_of(folder).words
    assert read_run(folder).status == "stopped"


def test_half_written_and_broken_files_are_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", steps=5, extra='{"kind": "train", "st')
    assert read_run(folder).faults == [], "a writer that was killed leaves half a line: no fault"
    folder = write_run(tmp_path / "other", steps=5, extra='nonsense\n[1]\n{"kind":"train","step":6,"loss":NaN}\n')
    (folder / "facts.json").write_text("[1, 2")
    (folder / "state.json").write_bytes(b"\xff\xfe")
    run = read_run(folder)
    assert len(run.faults) == 3
    assert "2 line(s) of metrics.jsonl cannot be read: 6, 7" in run.faults[2]
    assert "facts.json is not valid JSON" in page_of(folder).words
    assert run.summary()["train_loss"] is None, "not a number is no figure"


def test_wrong_types_in_facts_are_survived(tmp_path: Path) -> None:
    facts = {
        "data": [1],
        "model": {"parameters": "many", "layers": None, "deep": {"a": {"b": [1, 2]}}},
        "evaluation": {"bits_per_byte": float("nan"), "yardsticks": {"xz_bits_per_byte": None}},
        "samples": ["x", {"text": 5}],
    }
    page = page_of(write_run(tmp_path / "run", facts=facts, state={"state": "finished", "updated": "yesterday"}))
    assert "many" in page.words
    assert "'updated' is not a time: 'yesterday'" in page.words


def test_steps_that_were_repeated_replace_the_first_ones(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    steps = [*range(1, 11), *range(6, 9)]
    lines = [{"kind": "train", "step": step, "loss": index} for index, step in enumerate(steps)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [(row["step"], row["loss"]) for row in read_run(folder).train][-4:] == [(5, 4), (6, 10), (7, 11), (8, 12)]


def test_inputs_of_the_shards_are_listed_and_the_rest_counted(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "shards").mkdir()
    inputs = [{"path": f"/t/{index}.txt", "size": 10, "sha256": f"{index:064x}"} for index in range(INPUTS_SHOWN + 5)]
    (folder / "shards" / "inputs.json").write_text(json.dumps(inputs))
    words = page_of(folder).words
    assert "/t/0.txt" in words
    assert f"{7:064x}" in words
    assert "and 5 more, all in shards/inputs.json" in words


def test_problems_without_examples(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", facts={"data": {"problems": {"binary": 2, "json": 1, "empty": 0}}}))
    assert [(row.count, row.harmless) for row in problem_rows(run)] == [(1, False), (2, True)]


def test_chinese_samples_are_set_as_prose(tmp_path: Path) -> None:
    chinese = {"samples": [{"prompt": "学", "text": "学而时习之，不亦说乎？"}]}
    assert 'data-language="zh"' in render_report(read_run(write_run(tmp_path / "一", facts=chinese)))
    assert 'data-language="en"' in render_report(read_run(write_run(tmp_path / "two")))


def test_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="not a run folder"):
        write_report(tmp_path)
    with pytest.raises(MissingResource, match="no such run"):
        write_report(tmp_path / "nowhere")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    folder.chmod(0o555)
    with pytest.raises(MissingResource, match="no permission"):
        write_report(folder)
    folder.chmod(0o755)
