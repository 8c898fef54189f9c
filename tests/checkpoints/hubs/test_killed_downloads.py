"""Real processes: one that is killed while it downloads, and two that want the same."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.checkpoints.hubs.conftest import FILES

PULL = "from zhixing.checkpoints.references import resolve; import sys; print(resolve(sys.argv[1]))"
WEIGHTS = bytes(random.Random(0).randbytes(400_000))


@pytest.fixture
def start(hub, modelscope, tmp_path):
    for server in (hub, modelscope):
        server.files["model.safetensors"] = WEIGHTS
        send = server.send

        def slowly(handler, status, headers, body, cut=None, send=send):
            if handler.command == "GET" and len(body) > 100_000 and cut is None:
                end = handler.wfile.write

                def write(data):
                    for place in range(0, len(data), 20_000):
                        end(data[place : place + 20_000])
                        time.sleep(0.01)

                handler.wfile.write = write
            return send(handler, status, headers, body, cut)

        server.send = slowly
    environment = os.environ | {
        "HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "hub"), "ZHIXING_CACHE": str(tmp_path / "cache"),
        "MODELSCOPE_ENDPOINT": modelscope.url,
    }  # fmt: skip

    def start(ref):
        words = [sys.executable, "-c", PULL, ref]
        return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


def sent_before(server, deadline=20.0):
    """Waits until the server is asked for the weights."""
    count = len(server.asked("model.safetensors"))
    end = time.monotonic() + deadline
    while len(server.asked("model.safetensors")) == count and time.monotonic() < end:
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize("ref", ["hf:org/tiny", "ms:org/tiny"])
def test_killed_again_and_again(start, hub, modelscope, tmp_path, ref):
    server = hub if ref.startswith("hf:") else modelscope
    chance = random.Random(1)
    for _ in range(4):
        process = start(ref)
        sent_before(server)
        time.sleep(chance.uniform(0.01, 0.06))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    output, errors = start(ref).communicate(timeout=60)
    assert output, errors
    folder = Path(output.strip())
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert (folder / "config.json").read_bytes() == FILES["config.json"]
    asked = [request for request in server.asked("model.safetensors") if "/resolve/" not in request[1]]
    starts = [headers.get("Range") for _, _, _, headers in asked]
    places = [int(text[6:-1]) for text in starts if text]
    assert places == sorted(places)  # never back to the start
    assert len(places) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("ref", ["hf:org/tiny", "ms:org/tiny"])
def test_two_processes_fetch_it_once(start, hub, modelscope, ref):
    server = hub if ref.startswith("hf:") else modelscope
    both = [start(ref), start(ref)]
    outputs = [process.communicate(timeout=60) for process in both]
    assert outputs[0][0] == outputs[1][0] != ""
    assert sum("waiting for it" in errors for _, errors in outputs) <= 1
    names = [query.get("FilePath") or path.rpartition("/")[2] for _, path, query, _ in server.requests]
    assert names.count("model.safetensors") == (2 if server is hub else 1)  # the hub redirects
