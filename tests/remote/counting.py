"""``counted://``: fsspec's file system in memory, which notes what it is asked for, and can fail on request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

if TYPE_CHECKING:
    from pathlib import Path


class CountedFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """In memory. All of its objects share what they note.

    Attributes:
        fetched: Path, first byte and end of what was read.
        failures: What the next reads do instead: raise an error, or return so many bytes less.
    """

    protocol = "counted"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    fetched: ClassVar[list[tuple[str, int, int]]] = []
    failures: ClassVar[list[Exception | int]] = []

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        stripped: str = MemoryFileSystem._strip_protocol(path.replace("counted://", "memory://"))
        return stripped

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:  # noqa: ANN401
        data: bytes = self.store[self._strip_protocol(path)].getvalue()[start:end]
        first = start or 0
        self.fetched.append((path, first, first + len(data)))
        failure = self.failures.pop() if self.failures else 0
        if isinstance(failure, Exception):
            raise failure
        return data[: len(data) - failure]


fsspec.register_implementation("counted", CountedFileSystem, clobber=True)


def put(url: str, path: Path) -> None:
    """Copy a file, or what is in a folder, to a URL."""
    file_system, place = fsspec.core.url_to_fs(url)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    for file in files:
        name = place if path.is_file() else f"{place}/{file.relative_to(path).as_posix()}"
        file_system.pipe_file(name, file.read_bytes())


def contents(url: str) -> bytes:
    """Return the bytes of an object."""
    file_system, place = fsspec.core.url_to_fs(url)
    data: bytes = file_system.store[place].getvalue()
    return data


def clear() -> None:
    """Remove everything from both file systems in memory."""
    for kind in (MemoryFileSystem, CountedFileSystem):
        kind.store.clear()
        kind.pseudo_dirs[:] = [""]
    CountedFileSystem.fetched.clear()
    CountedFileSystem.failures.clear()
