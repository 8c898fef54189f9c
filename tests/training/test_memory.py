"""Training's memory is flat: what a step takes, it gives back."""

import sys
from pathlib import Path

import pytest


def resident_bytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_memory_does_not_grow_with_steps(make_trainer, optimizer):
    trainer = make_trainer(
        model={"width": 32, "heads": 2, "dropout": 0.1}, optimizer={"name": optimizer}, steps=1000, batch_size=16,
        accumulate=2, average_decay=0.99,
    )  # fmt: skip
    for _ in range(40):
        trainer.step()
    before = resident_bytes()
    for _ in range(150):
        trainer.step()
    # One leaked activation of (batch, time, 4 * width) a step would be 20 MB or more.
    assert resident_bytes() - before < 8_000_000
