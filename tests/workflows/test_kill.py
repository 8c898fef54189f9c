"""`kill -9` at random steps: a resumed run repeats an uninterrupted one bit for bit."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest

RECIPE = """
name: killed
data: {{paths: [text.txt], validation_fraction: 0.2}}
tokenizer: {{kind: byte-bpe, vocab_size: 300}}
model: {{depth: 2, width: 16, heads: 2, context: 16, dropout: 0.1}}
optimizer: {{name: {optimizer}}}
train:
  {{steps: {steps}, batch_size: 2, accumulate: {accumulate}, save_every: 7, validate_every: 20, average_decay: 0.99,
   matmul: torch}}
"""


def write_inputs(folder, optimizer, accumulate, steps):
    generator = random.Random(1)
    words = [f"w{generator.randrange(200)}" for _ in range(8000)]
    paragraphs = [" ".join(words[i : i + 40]) for i in range(0, len(words), 40)]
    (folder / "text.txt").write_text("\n\n".join(paragraphs), encoding="utf-8")
    (folder / "recipe.yaml").write_text(RECIPE.format(optimizer=optimizer, accumulate=accumulate, steps=steps))


def start(folder, *arguments):
    command = [sys.executable, "-m", "zhixing.cli.main", "--quiet", *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process, seconds=240):
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == 0, err
    return out


def losses(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if row["kind"] == "train"}, rows


def wait_for_steps(run, process, steps):
    """Waits until the run has logged so many steps; returns False when it ended before."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        metrics = run / "metrics.jsonl"
        if metrics.exists() and metrics.read_bytes().count(b'"kind": "train"') >= steps:
            return True
        time.sleep(0.005)
    return False


def kill_and_resume(tmp_path, optimizer, accumulate, steps, kills, seed=0):
    write_inputs(tmp_path, optimizer, accumulate, steps)
    finish(start(tmp_path, "train", "recipe.yaml", "--run", "whole"))
    expected, _ = losses(tmp_path / "whole")
    assert sorted(expected) == list(range(1, steps + 1))
    generator = random.Random(seed)
    run = tmp_path / "killed"
    process = start(tmp_path, "train", "recipe.yaml", "--run", "killed")
    done = 0
    killed = 0
    for number in range(kills):
        done = max(done + 1, min(steps - 1, done + generator.randint(1, 2 * steps // kills)))
        if not wait_for_steps(run, process, done):
            break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += 1
        logged = run / "metrics.jsonl"
        done = logged.read_bytes().count(b'"kind": "train"')
        prove = ["--prove"] if (run / "checkpoints").is_dir() and any((run / "checkpoints").glob("step-*")) else []
        process = start(tmp_path, "resume", "killed", *(prove if number % 3 == 0 else []))
    finish(process)
    resumed, rows = losses(run)
    assert resumed == expected
    steps_logged = [row["step"] for row in rows if row["kind"] == "train"]
    assert steps_logged == sorted(set(steps_logged)), "every step stands once, in order"
    out = finish(start(tmp_path, "resume", "killed", "--prove", "--json"))
    assert json.loads(out)["proof"]["losses"] > 0
    whole, again = ((tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "killed"))
    assert whole == again
    return killed


def test_two_kills_change_nothing(tmp_path):
    assert kill_and_resume(tmp_path, "muon", 2, steps=60, kills=2) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "accumulate"), [("muon", 3), ("adamw", 1)])
def test_twenty_kills_change_nothing(tmp_path, optimizer, accumulate):
    assert kill_and_resume(tmp_path, optimizer, accumulate, steps=1500, kills=20, seed=7) >= 18


def test_ctrl_c_saves_and_says_how_to_resume(tmp_path):
    write_inputs(tmp_path, "muon", 1, 4000)
    process = start(tmp_path, "train", "recipe.yaml", "--run", "stopped")
    assert wait_for_steps(tmp_path / "stopped", process, 5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "zhixing resume stopped" in err
    assert "Traceback" not in err
    state = json.loads((tmp_path / "stopped" / "state.json").read_text())
    assert state["state"] == "interrupted"
    logged, _ = losses(tmp_path / "stopped")
    assert max(logged) == state["step"]  # nothing was lost
    assert (tmp_path / "stopped" / "report.html").exists()
