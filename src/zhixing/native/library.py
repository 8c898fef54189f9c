"""Finding, checking and loading the shared library; threads and kernels it uses."""

from __future__ import annotations

import ctypes
import os
import sys
from ctypes import c_char_p, c_double, c_float, c_int, c_int64, c_uint32, c_uint64, c_void_p
from functools import cache
from pathlib import Path

from zhixing.core.device import usable_threads
from zhixing.core.errors import BadInput, MissingResource
from zhixing.native.hashing import source_hash

ABI = 8
"""Must equal zx_abi() in csrc/api.cpp."""

SOURCES = Path(__file__).parent / "csrc"
SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
PATH = Path(__file__).parent / f"libzhixing_native{SUFFIX}"
KERNELS = ("auto", "avx512", "avx2", "scalar")

KERNELS_VARIABLE = "ZHIXING_KERNELS"
THREADS_VARIABLE = "ZHIXING_THREADS"

_TOKENS = [c_int64, c_void_p]
"""How many, and their ids. Then `inputs` in `zx_step`, instead of ids."""
_PLACES = [c_void_p, c_void_p, c_int64, c_void_p, c_int64, c_int64, c_void_p, c_void_p]
"""sequence, position, sequences, pages, page_stride, outputs, rows, out: as for `step_of` in csrc/api_model.cpp."""
_ON = [c_void_p, c_int]
"""How PyTorch's threads are started, and how many: see csrc/openmp.h."""
_NARROW = [c_void_p, c_int64, c_int64]
"""A matrix of few columns: where it is, and its two strides."""
_SOURCES_READ = [c_int64, c_void_p, c_void_p, c_void_p, c_int64]
"""sources, owner, source_lengths, source_pages, source_page_stride."""

_SIGNATURES: dict[str, tuple[type | None, list[type]]] = {
    "zx_abi": (c_int, []),
    "zx_sources": (c_char_p, []),
    "zx_error": (c_char_p, []),
    "zx_supports": (c_int, [c_char_p]),
    "zx_kernels": (c_char_p, []),
    "zx_use_kernels": (c_int, [c_char_p]),
    "zx_threads": (c_int, []),
    "zx_set_threads": (c_int, [c_int, c_int]),
    "zx_packed_bytes": (c_int64, [c_int, c_int64, c_int64]),
    "zx_kind_of_ggml": (c_int, [c_int]),
    "zx_pack_ggml": (c_int, [c_int, c_void_p, c_int64, c_void_p, c_int64, c_int64, c_void_p, c_int64]),
    "zx_pack_float": (c_int, [c_int, c_void_p, c_int64, c_int64, c_void_p, c_int64]),
    "zx_unpack": (c_int, [c_int, c_void_p, c_int64, c_int64, c_int64, c_int64, c_int64, c_void_p]),
    "zx_product": (c_int, [c_int, c_void_p, c_int64, c_int64, c_int64, c_void_p, c_int64, c_void_p, c_int, c_void_p]),
    "zx_model_new": (c_void_p, [c_void_p, c_int64, c_void_p, c_int64, c_void_p, c_int64]),
    "zx_model_free": (None, [c_void_p]),
    "zx_model_table": (c_int, [c_void_p, c_int64, c_void_p, c_void_p, c_int64]),
    "zx_page_bytes": (c_int64, [c_void_p, c_int]),
    "zx_cache_new": (c_void_p, [c_void_p, c_int64, c_int]),
    "zx_cache_free": (None, [c_void_p]),
    "zx_candidates": (c_int, [c_void_p, c_int64, c_int64, c_int64, c_int, c_void_p, c_void_p]),
    "zx_cache_copy_pages": (c_int, [c_void_p, c_void_p, c_int64, c_void_p, c_void_p]),
    "zx_cache_copy": (c_int, [c_void_p, c_void_p, c_int64, c_int64]),
    "zx_step": (c_int, [c_void_p, c_void_p, *_TOKENS, c_void_p, *_PLACES]),
    "zx_write": (c_int, [c_void_p, c_void_p, *_TOKENS, *_PLACES, c_int64, c_void_p, c_void_p, c_int64, c_void_p]),
    "zx_step_reading": (c_int, [c_void_p, c_void_p, c_void_p, *_TOKENS, *_PLACES, *_SOURCES_READ]),
    "zx_pack_coarse": (c_int, [c_int, c_void_p, c_int64, c_int64, c_int64, c_void_p, c_int64, c_void_p]),
    "zx_choose": (c_int, [c_void_p, c_int64, c_int64, c_void_p, c_void_p]),
    "zx_memory_new": (c_void_p, [c_int64]),
    "zx_memory_at": (c_void_p, [c_void_p]),
    "zx_memory_free": (None, [c_void_p]),
    "zx_bandwidth": (c_double, [c_int64, c_int]),
    "zx_round_activations": (c_int, [c_void_p, c_int64, c_int64, c_void_p]),
    "zx_place_heads": (
        c_int,
        [*_ON, c_void_p, c_void_p, *[c_int64] * 5, c_void_p, c_void_p, c_int64, c_float, c_float, *[c_void_p] * 4],
    ),
    "zx_place_heads_gradient": (
        c_int,
        [*_ON, *[c_void_p] * 7, *[c_int64] * 5, c_void_p, c_void_p, c_int64, c_int, c_float, c_void_p],
    ),
    "zx_take_heads": (c_int, [*_ON, c_void_p, c_void_p, *[c_int64] * 4, c_void_p]),
    "zx_take_heads_gradient": (c_int, [*_ON, c_void_p, c_void_p, *[c_int64] * 4, c_void_p]),
    "zx_norm_rows": (c_int, [*_ON, c_void_p, c_int64, c_int64, c_float, c_void_p, c_void_p]),
    "zx_norm_rows_gradient": (c_int, [*_ON, c_void_p, c_void_p, c_void_p, c_int64, c_int64, c_void_p]),
    "zx_scaled_norm_rows": (c_int, [*_ON, c_void_p, c_void_p, c_int64, c_int64, c_float, c_void_p, c_void_p]),
    "zx_scaled_norm_rows_gradient": (c_int, [*_ON, *[c_void_p] * 4, c_int64, c_int64, c_void_p]),
    "zx_square_positive": (c_int, [*_ON, c_void_p, c_int64, c_void_p]),
    "zx_square_positive_gradient": (c_int, [*_ON, c_void_p, c_void_p, c_int64, c_void_p]),
    "zx_drop": (c_int, [*_ON, c_void_p, c_int64, c_uint64, c_uint32, c_void_p]),
    "zx_causal_weights": (c_int, [*_ON, c_void_p, *[c_int64] * 4]),
    "zx_gate": (c_int, [*_ON, c_void_p, c_int64, c_int64, c_void_p]),
    "zx_gate_by": (c_int, [*_ON, c_void_p, c_void_p, c_int64]),
    "zx_gate_gradient": (c_int, [*_ON, c_void_p, c_void_p, c_int64, c_int64, c_void_p]),
    "zx_low_rank_parts": (c_int64, [c_int64, c_int64, c_int64]),
    "zx_low_rank_sums": (c_int, [*_ON, c_void_p, *[c_int64] * 4, c_float, *_NARROW * 4, c_void_p]),
    "zx_causal_kept": (c_int64, [c_int64]),
    "zx_causal": (c_int, [*_ON, c_void_p, *[c_void_p, c_int64] * 2, *[c_int64] * 4, c_void_p, c_void_p]),
    "zx_causal_gradient": (c_int, [*_ON, *[c_void_p] * 5, *[c_int64] * 4, *[c_void_p] * 3]),
    "zx_causal_weights_gradient": (c_int, [*_ON, c_void_p, c_void_p, *[c_int64] * 4]),
}


@cache
def _load() -> ctypes.CDLL | str:
    """Returns the library, or a sentence that says why it cannot be used."""
    if not PATH.exists():
        return "the C++ core is not built: no C++17 compiler was found when Zhixing was installed"
    try:
        library = ctypes.CDLL(str(PATH))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        return f"the C++ core cannot be loaded ({error})"
    if library.zx_abi() != ABI:
        return f"the C++ core is of another version (interface {library.zx_abi()}, needed {ABI})"
    if SOURCES.is_dir() and library.zx_sources().decode() != source_hash(SOURCES):
        return "the C++ core was built from other sources than those beside it"
    _configure(library)
    return library


def _configure(library: ctypes.CDLL) -> None:
    wanted = os.environ.get(KERNELS_VARIABLE, "auto")
    if wanted not in KERNELS:
        raise BadInput(f"no kernels {wanted!r}", where=KERNELS_VARIABLE, remedy=f"use one of {', '.join(KERNELS)}")
    if library.zx_use_kernels(wanted.encode()):
        raise MissingResource(library.zx_error().decode(), where=KERNELS_VARIABLE, remedy="unset it, or use auto")
    threads = os.environ.get(THREADS_VARIABLE, "")
    if threads and not (threads.isdecimal() and 1 <= int(threads) <= 1024):
        raise BadInput(f"not a number of threads: {threads!r}", where=THREADS_VARIABLE, remedy="use 1 to 1024")
    processors = usable_threads()
    library.zx_set_threads(int(threads) if threads else processors, processors)


def absence() -> str | None:
    """Returns a sentence that says why the core cannot be used, or None when it can."""
    found = _load()
    return found if isinstance(found, str) else None


def is_available() -> bool:
    """Tells whether the core is there and fits this package."""
    return absence() is None


REMEDY = "install a C++17 compiler (Debian: apt install g++), then: pip install --force-reinstall --no-deps zhixing"


def library() -> ctypes.CDLL:
    """Returns the loaded library.

    Raises:
        MissingResource: It is not there, or does not fit.
    """
    found = _load()
    if isinstance(found, str):
        raise MissingResource(found, remedy=REMEDY)
    return found


def check(result: int) -> int:
    """Passes a result on, or raises what the library says went wrong: a fault of the caller's code, not of a user."""
    if result < 0:
        raise ValueError(library().zx_error().decode())
    return result


def kernels() -> str:
    """Returns the name of the kernels in use."""
    name: str = library().zx_kernels().decode()
    return name


def use_kernels(name: str) -> None:
    """Chooses kernels for all further work: "auto", "avx512", "avx2" or "scalar"."""
    check(library().zx_use_kernels(name.encode()))


def supported_kernels() -> list[str]:
    """Returns the kernels that this processor can run, the best first."""
    return [name for name in KERNELS[1:] if library().zx_supports(name.encode())]


def set_threads(threads: int) -> None:
    """Chooses the number of threads, the calling one counted. Not while work is under way in another thread."""
    check(library().zx_set_threads(threads, usable_threads()))


def threads() -> int:
    """Returns the number of threads that compute."""
    count: int = library().zx_threads()
    return count
