"""The C++ core for CPUs, and its binding: packed weights, kernels, plans of whole models.

The core is a plain shared library (`csrc/`), loaded with ctypes; it is built when the package is installed and a C++17
compiler is there, and everything works without it, slower. What is not here: the networks themselves (`models`), which
stay the single source of truth, and choosing tokens (`generation`).
"""

from zhixing.native.library import absence, is_available

__all__ = ["absence", "is_available"]
