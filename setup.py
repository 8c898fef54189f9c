"""Builds the optional C++ core: a plain shared library, loaded with ctypes, so that one build serves every Python.

Everything else about the package is in pyproject.toml. Without a compiler the package installs all the same, and
`zhixing doctor` says what that costs.
"""

import concurrent.futures
import runpy
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

FOLDER = Path("src/zhixing/native/csrc")
SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")


def source_hash() -> str:
    """Returns the hash that the loader compares: `source_hash` of native/hashing.py, which imports nothing else."""
    return runpy.run_path("src/zhixing/native/hashing.py")["source_hash"](FOLDER)


class BuildLibrary(build_ext):
    """Compiles the core with whatever compiler setuptools finds."""

    def build_extension(self, ext):
        """Compiles the files side by side, as the library's name without any Python's tag in it."""
        compiler = self.compiler
        windows = compiler.compiler_type == "msvc"
        ext.extra_compile_args = ["/std:c++17", "/O2", "/EHsc"] if windows else [
            "-std=c++17", "-O3", "-fvisibility=hidden", "-fno-math-errno", "-ffp-contract=off", "-pthread", "-g0",
            "-Wno-maybe-uninitialized", "-Wno-uninitialized",
        ]  # fmt: skip
        if not windows:
            ext.extra_link_args = ["-pthread"]
        ext.define_macros = [("ZX_SOURCES", f'"{source_hash()}"')]
        single = compiler.compile

        def compile_all(sources, **options):
            with concurrent.futures.ThreadPoolExecutor() as several:
                return [item for part in several.map(lambda one: single([one], **options), sources) for item in part]

        compiler.compile = compile_all
        super().build_extension(ext)

    def get_ext_filename(self, fullname):
        """Names the file without a Python version."""
        *package, name = fullname.split(".")
        return str(Path(*package, name + SUFFIX))

    def get_export_symbols(self, ext):
        """Exports what the sources mark; there is no module to initialise."""
        return []


class AnyPython(bdist_wheel):
    """Tags the wheel for the platform, but for every Python 3."""

    def get_tag(self):
        """Returns the tag."""
        return ("py3", "none", super().get_tag()[2])


setup(
    ext_modules=[
        Extension(
            "zhixing.native.libzhixing_native",
            sources=sorted(str(path) for path in FOLDER.glob("*.cpp")),
            depends=sorted(str(path) for path in FOLDER.iterdir()),
            language="c++",
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": AnyPython},
)
