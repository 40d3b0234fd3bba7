"""The reader in C++ (spec/cpp) on the same file, where there is a g++."""

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
# As package data of an installed package, which the build copies; in a working copy where it is written.
_INCLUDE = (os.path.join(_HERE, "..", "include"), os.path.join(_HERE, "..", "..", "spec", "cpp"))


class Told(dict[str, Any]):
    """What the program has measured of itself."""


def include_folder() -> str | None:
    """Return the folder that blobstore.hpp is in."""
    return next((one for one in _INCLUDE if os.path.isfile(os.path.join(one, "blobstore.hpp"))), None)


def build(folder: str) -> str:
    """Compile the program → its path.

    Raises:
        BlobStoreError: ``no-compiler``, ``no-header``, ``compiler``: why there is none.
    """
    compiler, include = shutil.which("g++"), include_folder()
    if compiler is None:
        raise BlobStoreError("no-compiler", "no g++ is installed")
    if include is None:
        raise BlobStoreError("no-header", "blobstore.hpp is neither in the package nor in a working copy")
    program = os.path.join(folder, "touch")
    done = subprocess.run(  # noqa: S603 (the compiler, on a file of this package)
        [compiler, "-std=c++17", "-O2", f"-I{include}", "-o", program, os.path.join(_HERE, "touch.cpp")],
        capture_output=True,
        check=False,
        text=True,
    )
    if done.returncode:
        lines = [one for one in done.stderr.splitlines() if "error" in one] or ["it said nothing"]
        raise BlobStoreError("compiler", f"g++ failed: {lines[0]}")
    return program


def run(program: str, case: str, path: str, names: Sequence[str]) -> Told:
    """Run the program.

    Raises:
        BlobStoreError: ``cpp-failed``.
    """
    # Names may have any character in them: each is preceded by its size.
    encoded = [name.encode("utf-8", "surrogateescape") for name in names]
    done = subprocess.run(  # noqa: S603 (compiled by `build`)
        [program, case, path],
        input=b"".join(b"%d\n%b" % (len(name), name) for name in encoded),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise BlobStoreError("cpp-failed", done.stderr.decode(errors="replace").strip() or "it said nothing")
    return Told(json.loads(done.stdout))
