"""Runs Python code that nobody has read, such as what a model wrote, without letting it reach anything.

`run_python` runs a program, `run_tests` judges code by unit tests. The code sees no network (loopback neither), no file
but Python's own library and an empty folder, no other process, and has bounds on processor time, wall time, memory,
processes, files and output. Linux does this in one of two ways, both without being root:

- **namespaces**: a process tree, mounts and a network of its own (`namespaces`);
- **landlock**: the kernel's rules for unprivileged processes (`landlock`), where containers forbid namespaces;

and under both a filter of system calls (`seccomp`) and resource limits (`limits`). Where neither can be had (macOS,
Windows, old kernels) running code is refused, unless the caller asks for `isolation="limits"`: resource limits alone.

What is not here: what a verdict is worth (`training.rewards`).
"""

from zhixing.core.sandbox.limits import Limits
from zhixing.core.sandbox.run import SandboxResult, available_isolation, run_python
from zhixing.core.sandbox.unit_tests import TestVerdict, run_tests

__all__ = ["Limits", "SandboxResult", "TestVerdict", "available_isolation", "run_python", "run_tests"]
