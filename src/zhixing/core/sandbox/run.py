"""The supervisor: starts a program locked in, watches its clock, memory, files and output, and kills all of it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zhixing.core.errors import BadInput, MissingResource, unknown_name
from zhixing.core.sandbox.limits import STARTED, Limits

Isolation = Literal["namespaces", "landlock", "limits"]
ISOLATIONS: tuple[Isolation, ...] = ("namespaces", "landlock")
"""The safe ways, in the order in which they are tried."""

REPORT_BYTES = 1 << 20
WATCH_SECONDS = 0.1
"""Between two looks at the memory and the files of a running program."""

NOT_STARTED = "the launcher did not start the program"
FIRST_USER = 1 << 30
"""Root runs each program as a user of its own, drawn from as many numbers beyond this one, whom no one else is."""


@dataclass(frozen=True)
class SandboxResult:
    """What became of a program.

    Attributes:
        ending: "exit", or what it was killed for: "time", "memory", "files", "output".
        exit_code: Its exit code; 128 + N after signal N; None when it was killed from here.
        output: Standard output and error together, up to the limit.
        report: What it wrote to descriptor 3.
        seconds: How long it ran.
        isolation: How it was locked in.
    """

    ending: Literal["exit", "time", "memory", "files", "output"]
    exit_code: int | None
    output: str
    report: bytes
    seconds: float
    isolation: str


class SetupFailed(Exception):
    """The sandbox could not be built in the way that was tried."""


def run_python(
    source: str, *, files: Mapping[str, str] | None = None, limits: Limits | None = None, isolation: str = "auto"
) -> SandboxResult:
    """Runs a Python program in the sandbox.

    It starts in a folder that holds `files` and nothing else, with the standard library alone and an empty input.

    Args:
        source: The program.
        files: More files of its folder, by name.
        limits: What it may take.
        isolation: "auto", the best there is; "namespaces" or "landlock"; "limits" runs without any wall, with
            resource limits alone, and is for code that is trusted.

    Raises:
        MissingResource: This system can build no sandbox.
        BadInput: No such isolation, or a file's name leads out of the folder.
    """
    limits = limits or Limits()
    chosen = available_isolation() if isolation == "auto" else isolation
    if chosen not in (*ISOLATIONS, "limits"):
        raise unknown_name("isolation", chosen, ("auto", *ISOLATIONS, "limits"))
    contents = {"program.py": source, **(files or {})}
    for name in contents:
        if not name or "/" in name or name.startswith("."):
            raise BadInput(f"{name!r} is not a plain file name", where="files")
    try:
        return _run(contents, limits, chosen)
    except SetupFailed as error:
        raise MissingResource(f"the sandbox cannot be built ({chosen}): {error}", remedy=_remedy()) from error


@functools.cache
def available_isolation() -> str:
    """Returns the best way of isolation that works here, having tried it.

    Raises:
        MissingResource: None does.
    """
    reasons = []
    for way in ISOLATIONS if sys.platform == "linux" else ():
        try:
            _run({"program.py": ""}, Limits(), way)
        except SetupFailed as error:
            reasons.append(f"{way}: {error}")
        else:
            return way
    why = "; ".join(reasons) or f"{sys.platform} has neither namespaces nor Landlock"
    raise MissingResource(f"code cannot be run safely on this system ({why})", remedy=_remedy())


def _remedy() -> str:
    return "Linux 6.2 or later, or a container that allows user namespaces; trusted code can run with isolation: limits"


def _run(files: Mapping[str, str], limits: Limits, isolation: str) -> SandboxResult:
    if os.name != "posix":
        raise SetupFailed("this system has no resource limits")
    base = os.path.realpath(tempfile.mkdtemp(prefix="zhixing-sandbox-"))
    os.chmod(base, 0o755)  # Landlock runs as another user where the caller is root
    report, status = os.pipe(), os.pipe()
    order = {
        "isolation": isolation, "base": base, "limits": dataclasses.asdict(limits), "files": dict(files),
        "program": "program.py", "user": FIRST_USER + secrets.randbelow(FIRST_USER) if isolation != "limits" else 0,
    }  # fmt: skip
    root = Path(__file__).parents[3]
    ours = [report[0], status[0]]
    try:
        try:
            process = _popen(root, base, report[1], status[1])
        finally:
            os.close(report[1])
            os.close(status[1])
        return _Watch(process, ours[0], ours[1], base, limits, isolation).follow(json.dumps(order).encode())
    finally:
        for descriptor in ours:
            os.close(descriptor)
        _remove(base)


def _popen(root: Path, base: str, report: int, status: int) -> subprocess.Popen[bytes]:
    """Starts the launcher in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-P", "-s", "-S", "-m", "zhixing.core.sandbox.launch", str(report), str(status)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=(report, status),
        start_new_session=True, cwd=base, env={"PYTHONPATH": str(root), "LANG": "C.UTF-8"},
    )  # fmt: skip


@dataclass
class _Watch:
    """One running program, seen from outside."""

    process: subprocess.Popen[bytes]
    reading: int
    status: int
    base: str
    limits: Limits
    isolation: str

    def follow(self, order: bytes) -> SandboxResult:
        """Hands the order over and stays until the end."""
        begun = time.monotonic()
        output, report = bytearray(), bytearray()
        try:
            with contextlib.suppress(BrokenPipeError):
                assert self.process.stdin is not None
                self.process.stdin.write(order)
                self.process.stdin.close()
            ending = self._read(output, report, begun)
        finally:
            code = self._end()
        if fault := _fault(self.status):
            raise SetupFailed(fault if fault != NOT_STARTED else bytes(output[-300:]).decode(errors="replace").strip())
        if ending == "exit" and code == 128 + signal.SIGXCPU:
            ending = "time"  # of the processor's
        text = bytes(output[: self.limits.output]).decode("utf-8", errors="replace")
        known = code if ending == "exit" else None
        return SandboxResult(ending, known, text, bytes(report), time.monotonic() - begun, self.isolation)

    def _read(
        self, output: bytearray, report: bytearray, begun: float
    ) -> Literal["exit", "time", "memory", "files", "output"]:
        """Collects output and report until the program ends or goes too far."""
        assert self.process.stdout is not None
        look = begun + WATCH_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ, (output, self.limits.output))
            selector.register(self.reading, selectors.EVENT_READ, (report, REPORT_BYTES))
            while True:
                now = time.monotonic()
                if now - begun > self.limits.wall_seconds:
                    return "time"
                if now >= look:
                    look = now + WATCH_SECONDS
                    if fault := self._overuse():
                        return fault
                for key, _ in selector.select(timeout=WATCH_SECONDS / 2 if selector.get_map() else 0):
                    into, most = key.data
                    piece = os.read(key.fd, 1 << 16)
                    if not piece:
                        selector.unregister(key.fileobj)
                    into += piece
                    if len(into) > most:
                        return "output"
                # A child may keep the pipes open after the program: its end is what counts.
                if self._over():
                    self._drain(selector)
                    return "output" if len(output) > self.limits.output else "exit"
                if not selector.get_map():
                    time.sleep(0.005)

    def _drain(self, selector: selectors.BaseSelector) -> None:
        """Takes what a program left in its pipes when it ended."""
        for key in list(selector.get_map().values()):
            os.set_blocking(key.fd, False)
            into, most = key.data
            with contextlib.suppress(BlockingIOError):
                while len(into) <= most and (piece := os.read(key.fd, 1 << 16)):
                    into += piece

    def _over(self) -> bool:
        """Tells whether the launcher has ended, without taking its number away: its group must still be found."""
        return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _end(self) -> int:
        """Kills the whole group, whatever is left of it; returns the launcher's exit code."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        code = self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code if code >= 0 else 128 - code

    def _overuse(self) -> Literal["memory", "files"] | None:
        if sys.platform == "linux" and _resident_bytes(self.process.pid) > self.limits.memory:
            return "memory"
        if self.isolation != "namespaces":  # there a file system of fixed size holds the files
            count = size = 0
            for folder, _, names in os.walk(self.base):
                count += 1 + len(names)
                for name in names:
                    with contextlib.suppress(OSError):
                        size += os.lstat(os.path.join(folder, name)).st_size
                if count > self.limits.files + 2 or size > self.limits.file_bytes:
                    return "files"
        return None


def _resident_bytes(session: int) -> int:
    """Returns the resident memory of all processes of a session, the launcher's own included."""
    total = 0
    page = os.sysconf("SC_PAGE_SIZE")
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                fields = Path("/proc", name, "stat").read_bytes().rpartition(b")")[2].split()
                if int(fields[3]) == session:
                    total += int(fields[21]) * page
    return total


def _fault(status: int) -> str:
    """Returns what the launcher says went wrong; empty when all was well. The judged code cannot write there."""
    os.set_blocking(status, False)
    try:
        said = os.read(status, 4096)
    except BlockingIOError:  # killed early, while it was open
        said = b""
    return "" if said == STARTED else said.removeprefix(STARTED).decode(errors="replace").strip() or NOT_STARTED


def _remove(base: str) -> None:
    """Removes the folder, however deep it has been made and whatever rights its parts have."""
    if os.listdir(base):
        subprocess.run(["/bin/chmod", "-R", "u+rwX", base], stderr=subprocess.DEVNULL, check=False)
        subprocess.run(["/bin/rm", "-rf", "--", base], stderr=subprocess.DEVNULL, check=False)
    else:
        os.rmdir(base)
