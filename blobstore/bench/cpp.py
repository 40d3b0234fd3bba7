"""The C++ reader (spec/cpp) on the same file, if there is a g++."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

from blobstore.errors import BlobStoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = "blobstore.hpp"
CASES = ("open", "lookup", "map")
_HERE = os.path.dirname(os.path.abspath(__file__))
_PACKAGE = os.path.dirname(_HERE)
# Package data of an installed package, which the build copies; the source in a working copy.
_INCLUDE = (os.path.join(_PACKAGE, "include"), os.path.join(os.path.dirname(_PACKAGE), "spec", "cpp"))


class Measured(dict[str, Any]):
    """The program's measurements of itself."""


def include_folder() -> str:
    """Return the folder of blobstore.hpp and of its CMake package.

    Raises:
        BlobStoreError: ``no-header``.
    """
    for folder in _INCLUDE:
        if os.path.isfile(os.path.join(folder, NAME)):
            return folder
    raise BlobStoreError("no-header", f"{NAME} is neither in the package nor in a working copy")


def build(folder: str) -> str:
    """Compile the program → its path.

    Raises:
        BlobStoreError: ``no-compiler``, ``no-header``, ``compiler``: it can't be compiled.
    """
    compiler = shutil.which("g++")
    if compiler is None:
        raise BlobStoreError("no-compiler", "no g++ is installed")
    include = include_folder()
    program = os.path.join(folder, "touch")
    done = subprocess.run(  # noqa: S603 (the compiler, on a file of this package)
        [compiler, "-std=c++17", "-O2", f"-I{include}", "-o", program, os.path.join(_HERE, "touch.cpp")],
        capture_output=True,
        check=False,
        text=True,
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
        raise BlobStoreError("compiler", f"g++ failed: {lines[0]}")
    return program


def run(program: str, case: str, path: str, names: Sequence[str]) -> Measured:
    """Run the program.

    Raises:
        BlobStoreError: ``cpp-failed``.
    """
    # Names may contain any character, so each is preceded by its size.
    encoded = [name.encode("utf-8", "surrogateescape") for name in names]
    done = subprocess.run(  # noqa: S603 (compiled by `build`)
        [program, case, path],
        input=b"".join(b"%d\n%b" % (len(name), name) for name in encoded),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise BlobStoreError("cpp-failed", done.stderr.decode(errors="replace").strip() or "no message")
    return Measured(json.loads(done.stdout))
