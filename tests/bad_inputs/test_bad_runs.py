"""Runs in trouble: damaged, interrupted, locked, on full or read-only disks. Nothing is lost, the way on is said."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.bad_inputs.support import RECIPE, TEXT, check, content, cut, main_code, remove, replace
from zhixing.data.split import document_hash, held_out

EARLIER, NEWEST = "run/checkpoints/step-000000002", "run/checkpoints/step-000000003"


def edit_recipe(old, new):
    path = Path("run/recipe.yaml")
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def prepend(path, data):
    Path(path).write_bytes(data + Path(path).read_bytes())


def edit_state(checkpoint=NEWEST, **changes):
    path = Path(checkpoint, "state.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_checkpoint(name, change):
    tensors = load_file(Path(NEWEST, name))
    change(tensors)
    save_file(tensors, Path(NEWEST, name))


def byte_tokenizer():
    from zhixing.tokenization.train import train_tokenizer

    train_tokenizer([], "byte").tokenizer.save("run/tokenizer")


def lose_shards_and_text():
    shutil.rmtree("run/shards")
    Path("text.txt").write_text(TEXT + " and more")


ON = ["step 3 is damaged", "go on from step 2", "rm -r run/checkpoints/step-000000003 && zhixing resume run"]
MISFIT = ["step 3 does not fit the recipe", "recipe.yaml"]
GENERATORS = "optimizer.safetensors"
RUNS = {
    "recipe is broken": (replace("run/recipe.yaml", b"model: {dept: 1}"), 2, ["run/recipe.yaml", "model.depth"]),
    "recipe is another": (replace("run/recipe.yaml", RECIPE.encode()), 2, ["run/recipe.yaml", "not the complete"]),
    "width is another": (
        lambda: (edit_recipe("width: 16", "width: 32"), edit_recipe("head_dim: 8", "head_dim: 16")), 2, MISFIT,
    ),
    "optimizer is another": (lambda: edit_recipe("name: muon", "name: adamw"), 2, MISFIT),
    "average is new": (lambda: edit_recipe("average_decay: null", "average_decay: 0.9"), 2, MISFIT),
    "seed is another": (lambda: edit_recipe("seed: 0\n  device", "seed: 1\n  device"), 2, ["seed 0", "this run 1"]),
    "state is broken": (replace("run/state.json", b"{"), 2, ["run/state.json:1", "rm run/state.json"]),
    "state is a list": (replace("run/state.json", b"[]"), 2, ["not a mapping", "rm run/state.json"]),
    "facts are broken": (replace("run/facts.json", b"{"), 2, ["run/facts.json:1", "rm run/facts.json"]),
    "a record is broken": (
        lambda: prepend("run/metrics.jsonl", b"{broken\n"), 2, ["metrics.jsonl:1", "remove the line"],
    ),
    "a record is none": (
        lambda: prepend("run/metrics.jsonl", b'{"kind": "train"}\n'), 2, ["metrics.jsonl:1", "remove the line"],
    ),
    "records are binary": (lambda: prepend("run/metrics.jsonl", b"\xff\xfe\n"), 2, ["metrics.jsonl:1"]),
    "weights are missing": (remove(f"{NEWEST}/weights.safetensors"), 3, ON),
    "weights are cut": (lambda: cut(f"{NEWEST}/weights.safetensors", 0.5), 2, ON),
    "optimizer is missing": (remove(f"{NEWEST}/optimizer.safetensors"), 3, ON),
    "optimizer is cut": (lambda: cut(f"{NEWEST}/optimizer.safetensors", 0.9), 2, ON),
    "counters are missing": (remove(f"{NEWEST}/state.json"), 3, ON),
    "counters are cut": (lambda: cut(f"{NEWEST}/state.json", 0.5), 2, ON),
    "counters are few": (replace(f"{NEWEST}/state.json", b'{"step": 3}'), 2, [*ON, "'tokens'"]),
    "counters are odd": (lambda: edit_state(sampler=4), 2, [*ON, "'sampler'"]),
    "step is another": (lambda: edit_state(step=9), 2, ON),
    "a weight is missing": (
        lambda: edit_checkpoint("weights.safetensors", lambda t: t.pop("head.weight")), 2, [*MISFIT, "head.weight"],
    ),
    "a weight is of another shape": (
        lambda: edit_checkpoint("weights.safetensors", lambda t: t.update({"head.weight": torch.ones(3)})), 2, MISFIT,
    ),
    "generators are missing": (
        lambda: edit_checkpoint(GENERATORS, lambda t: t.pop("generator.cpu")), 2, ["random-number", ON[-1]],
    ),
    "generators are short": (
        lambda: edit_checkpoint(GENERATORS, lambda t: t.update({"generator.cpu": torch.zeros(3)})), 2,
        ["random-number", ON[-1]],
    ),
    "checkpoint is a file": (lambda: (shutil.rmtree(NEWEST), Path(NEWEST).touch()), 3, ON),
    "tokenizer is broken": (replace("run/tokenizer/tokenizer.json", b"{"), 2, ["rm -r run/tokenizer"]),
    "tokenizer is another": (byte_tokenizer, 2, ["(byte, 257 tokens) is not the one", "run/model"]),
    "shards are gone and the text changed": (lose_shards_and_text, 2, ["the text has changed", "the old text back"]),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "code", "words"), RUNS.values(), ids=RUNS)
def test_damaged_runs(place, call, damage, code, words):
    damage()
    before = content(place / "run")
    check(call("resume", "run"), code, *words)
    assert content(place / "run") == before, "what is whole stays"
    assert call("report", "run").code == 0
    assert "run" in call("runs", "run").out


def test_the_remedy_for_a_damaged_checkpoint_works(place, call):
    whole = (place / "run/model/model.safetensors").read_bytes()
    cut(f"{NEWEST}/weights.safetensors", 0.5)
    check(call("resume", "run"), 2, *ON)
    shutil.rmtree(NEWEST)
    ended = call("resume", "run")
    assert ended.code == 0, ended.err
    assert (place / "run/model/model.safetensors").read_bytes() == whole, "the step was repeated bit for bit"


HARMLESS = {
    "a record was cut by a crash": lambda: cut("run/metrics.jsonl", 0.99),
    "records are gone": remove("run/metrics.jsonl"),
    "state is gone": remove("run/state.json"),
    "facts are gone": remove("run/facts.json"),
    "shards are gone": lambda: shutil.rmtree("run/shards"),
    "a shard is cut": lambda: cut("run/shards/train-00000.tokens", 0.5),
    "tokenizer is gone": lambda: shutil.rmtree("run/tokenizer"),
    "best checkpoint is unknown": lambda: edit_state(EARLIER, best=None),
    "best checkpoint is gone": lambda: edit_state(EARLIER, best={"step": 7, "loss": 0.1}),
    "text has changed": lambda: Path("text.txt").write_text("other words"),
    "text is gone": remove("text.txt"),
    "a crash left half a checkpoint": lambda: shutil.copytree(EARLIER, "run/checkpoints/.step-000000003.1.part"),
}


@pytest.mark.parametrize("damage", HARMLESS.values(), ids=HARMLESS)
def test_runs_that_go_on_all_the_same(place, call, damage):
    shutil.rmtree(NEWEST)
    shutil.rmtree("run/model")
    damage()
    ended = call("resume", "run")
    assert ended.code == 0, ended.err
    assert json.loads(Path("run/state.json").read_text())["state"] == "finished"
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "train"][-1] == 3
    assert call("generate", "run", "hi", "--max-tokens", "2").code == 0


def test_going_on_without_the_text_is_said(place, call, monkeypatch, capsys):
    Path("text.txt").write_text("other words")
    monkeypatch.setattr(sys, "argv", ["zhixing", "resume", "run"])
    assert main_code() == 0
    assert "The text has changed since this run began" in capsys.readouterr().err
    Path("text.txt").unlink()
    assert main_code() == 0
    assert "out of reach (no such file or folder)" in capsys.readouterr().err


def test_a_single_document_may_fall_to_the_held_out_part(place):
    assert held_out(document_hash(TEXT.encode()), 0.2), "the shared run is of such a text"
    facts = json.loads(Path("run/facts.json").read_text())
    assert 0 < facts["tokenizer"]["bytes_seen"] < 0.82 * len(TEXT.encode()), "its end is held out"
    assert facts["data"]["validation"]["tokens"] > 0


def test_the_best_checkpoint_is_kept_between_saves(place, call):
    changes = ["train.steps=12", "train.validate_every=1", "train.save_every=100", "optimizer.matrix_learning_rate=30"]
    changes += ["optimizer.learning_rate=20", "schedule.shape=constant", "train.keep=1", "train.spike=1000"]
    words = [word for change in changes for word in ("--set", change)]
    assert call("train", "tiny.yaml", "--run", "wild", *words).code == 0
    best = json.loads(Path("wild/state.json").read_text())["best"]["step"]
    assert best < 12, "the test needs a run that gets worse"
    assert Path(f"wild/checkpoints/step-{best:09d}").is_dir()


# Interruption


def interrupt(*arguments, **keywords):
    os.kill(os.getpid(), signal.SIGINT)
    raise AssertionError("not interrupted")


@pytest.mark.parametrize("phase", ["tokenizer", "shards", "model"])
def test_ctrl_c_while_a_run_is_prepared(place, call, monkeypatch, phase):
    target = {
        "tokenizer": "zhixing.workflows.prepare.document_hash",
        "shards": "zhixing.data.build.document_hash",
        "model": "zhixing.workflows.pretrain.ops.matmul_peak",
    }[phase]
    with monkeypatch.context() as patch:
        patch.setattr(target, interrupt)
        check(call("train", "tiny.yaml", "--run", "a new run"), 130, "stopped", "zhixing resume 'a new run'")
    assert json.loads(Path("a new run/state.json").read_text())["state"] == "interrupted"
    assert not list(Path("a new run").glob("*.part"))
    ended = call("resume", "a new run")
    assert ended.code == 0, ended.err
    assert Path("a new run/model/model.safetensors").read_bytes() == Path("run/model/model.safetensors").read_bytes()


def test_ctrl_c_elsewhere(place, call, monkeypatch):
    monkeypatch.setattr("zhixing.evaluation.language_modelling.cut_document", interrupt)
    check(call("eval", "run", "text.txt"), 130, "stopped")
    monkeypatch.setattr("zhixing.tokenization.train._read_sample", interrupt)
    check(call("tokenizer", "train", "text.txt", "--out", "tokenizer"), 130, "stopped")
    assert not Path("tokenizer").exists()


def test_memory_runs_out(place, call, monkeypatch):
    def fail(*arguments, **keywords):
        torch.empty(1 << 60, dtype=torch.uint8)

    monkeypatch.setattr("zhixing.evaluation.language_modelling.cut_document", fail)
    check(call("eval", "run", "text.txt"), 3, "not enough memory")


# Other processes, full and read-only disks


def test_a_second_process_on_the_same_run(place, call):
    code = (
        "import sys, pathlib; from zhixing.core.files import FolderLock;"
        "lock = FolderLock(pathlib.Path('run')); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        before = content(place / "run")
        check(call("resume", "run"), 2, f"another process (pid {holder.pid})", "wait for it")
        check(call("train", "tiny.yaml", "--run", "run"), 2, "already holds a run")
        assert content(place / "run") == before
        assert call("report", "run").code == 0
        assert call("generate", "run", "hi", "--max-tokens", "2").code == 0
    finally:
        holder.communicate()
    assert call("resume", "run").code == 0


def command(*arguments):
    return [sys.executable, "-m", "zhixing.cli.main", *arguments]


def test_closed_output_is_no_fault(place):
    process = subprocess.Popen(command("runs", "."), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_to_a_full_disk(place):
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(command("runs", "."), stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 3
    assert "the disk is full" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "Exception" not in ended.stderr


@pytest.fixture
def disk(tmp_path_factory):
    """Makes file systems in memory of a given size; only the administrator can."""
    mounted = []

    def make(size):
        folder = tmp_path_factory.mktemp("disk")
        asked = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
        if os.geteuid() != 0 or not shutil.which("mount") or subprocess.run(asked, capture_output=True).returncode:
            pytest.skip("may not mount a file system")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=False)


@pytest.mark.parametrize(
    ("size", "made", "words"),
    [
        ("8k", [], ["the disk is full"]),
        ("40k", ["tokenizer"], ["the disk is full", "free some space", "then go on: zhixing resume"]),
        ("140k", ["tokenizer", "shards"], ["step-000000001", "the disk is full", "then go on: zhixing resume"]),
        ("280k", ["shards", "checkpoints/step-000000001"], ["step-000000002", "the disk is full", "zhixing resume"]),
    ],
)
def test_full_disk(place, call, disk, size, made, words):
    folder = disk(size)
    check(call("train", "tiny.yaml", "--run", folder / "run"), 3, *words)
    for part in made:
        assert (folder / "run" / part).is_dir()
    assert not [path for path in folder.rglob("*") if path.suffix in (".part", ".old")]
    if not made:
        assert not (folder / "run").exists()
        return
    subprocess.run(["mount", "-o", "remount,size=20m", str(folder)], check=True)
    ended = call("resume", folder / "run")
    assert ended.code == 0, ended.err
    whole = (place / "run/model/model.safetensors").read_bytes()
    assert (folder / "run/model/model.safetensors").read_bytes() == whole


def test_full_disk_under_a_report_and_a_tokenizer(place, call, disk):
    folder = disk("1m")
    shutil.copytree("run", folder / "run")
    old = (folder / "run/report.html").read_bytes()
    with contextlib.suppress(OSError):
        (folder / "filling").write_bytes(bytes(2_000_000))
    check(call("report", folder / "run"), 3, "report.html", "the disk is full")
    assert (folder / "run/report.html").read_bytes() == old
    check(call("tokenizer", "train", "text.txt", "--out", folder / "tokenizer"), 3, "the disk is full")
    check(call("resume", folder / "run"), 3, "the disk is full")
    assert content(folder / "run").keys()


def test_read_only(place, call, disk):
    folder = disk("5m")
    shutil.copytree("run", folder / "run")
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    for arguments in (
        ["resume", folder / "run"],
        ["report", folder / "run"],
        ["train", "tiny.yaml", "--run", folder / "new"],
        ["tokenizer", "train", "text.txt", "--out", folder / "new"],
    ):
        check(call(*arguments), 3, str(folder), "read-only", "another disk")
    assert call("generate", folder / "run", "hi", "--max-tokens", "2").code == 0
    assert "finished" in call("runs", folder).out


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind the administrator")
def test_no_permission(place, call):
    Path("run").chmod(0o500)
    try:
        check(call("report", "run"), 3, "no permission", "chmod")
    finally:
        Path("run").chmod(0o700)
