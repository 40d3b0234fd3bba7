"""Sizes in bytes, as people write them."""

from __future__ import annotations

import re

from blobstore.errors import UsageError

MAX_NBYTES = 1 << 63  # what a file system counts
_UNITS = {"": 1, "B": 1} | {
    f"{letter}{unit}": base**power
    for power, letter in enumerate("KMGTP", 1)
    for unit, base in (("B", 1000), ("", 1000), ("iB", 1024))
}
_FACTORS = {unit.lower(): factor for unit, factor in _UNITS.items()}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([a-z]*)", re.IGNORECASE | re.ASCII)


def parse_size(size: int | str) -> int:
    """Return a number of bytes.

    Args:
        size: A number of bytes; or text such as ``5GB`` or ``512 MiB``: kB, MB, GB, TB, PB count by 1,000, KiB and so
            on by 1,024.

    Raises:
        UsageError: ``bad-size``.
    """
    nbytes = 0
    if isinstance(size, str):
        match = _SIZE.fullmatch(size.strip())
        if match and match[2].lower() in _FACTORS:
            nbytes = int(float(match[1]) * _FACTORS[match[2].lower()]) if "." in match[1] else 0
            nbytes = nbytes or int(match[1].partition(".")[0]) * _FACTORS[match[2].lower()]
    elif isinstance(size, int) and not isinstance(size, bool):
        nbytes = size
    if not 1 <= nbytes < MAX_NBYTES:
        raise UsageError("bad-size", f"{size!r} is not a size: expected bytes, or text such as 5GB or 512MiB")
    return nbytes
