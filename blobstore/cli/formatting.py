"""Values as text: names, sizes, shapes, durations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.errors import shown as shown  # noqa: PLC0414 (for the commands)

if TYPE_CHECKING:
    from collections.abc import Sequence

_STEP = 1000.0
_ROUNDS_UP = 999.5  # from here on three digits would read 1e+03


def size(nbytes: float) -> str:
    """Return a size in words: 1.3 GB."""
    if nbytes < _STEP:
        return f"{nbytes:.0f} bytes"
    for unit in ("kB", "MB", "GB", "TB"):
        nbytes /= _STEP
        if nbytes < _ROUNDS_UP:
            return f"{nbytes:.3g} {unit}"
    return f"{nbytes:.0f} TB"


def rate(nbytes: float, seconds: float = 1.0) -> str:
    """Return how fast bytes were processed, in words: 1.3 GB/s."""
    return f"{size(nbytes / seconds)}/s" if seconds > 0 else "at once"


def shape(dimensions: Sequence[int]) -> str:
    """Return a shape as ``[2, 3]``."""
    return f"[{', '.join(str(dimension) for dimension in dimensions)}]"


def duration(seconds: float) -> str:
    """Return a duration in words: 1.3 ms."""
    for unit, factor in (("µs", 1e6), ("ms", 1e3)):
        if seconds * factor < _ROUNDS_UP:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s" if seconds < _ROUNDS_UP else f"{seconds:.0f} s"
