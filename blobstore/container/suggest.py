"""Names that are close to one that doesn't exist."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_MOST_COMPARED = 500  # difflib takes about 20 µs per pair
_SHOWN = 3


def close_to(wanted: str, names: Sequence[str]) -> str:
    """Return ``": did you mean 'x' or 'y'?"``, or nothing when no name is close."""
    closest = _closest(wanted, names)
    return f": did you mean {' or '.join(map(repr, closest))}?" if closest else ""


def _closest(wanted: str, names: Sequence[str]) -> list[str]:
    import difflib  # noqa: PLC0415 (only needed for errors; import blobstore stays cheap)

    lowered = wanted.lower()
    contained = [name for name in names if lowered in name.lower()] if len(wanted) > 2 else []
    # In long lists names that share the last part (weight, bias) and differ least in length are compared first.
    last = wanted.rpartition(".")[2]
    near = sorted(names, key=lambda name: (not name.endswith(last), abs(len(name) - len(wanted))))
    similar = difflib.get_close_matches(wanted, near[:_MOST_COMPARED], _SHOWN, cutoff=0.7)
    return list(dict.fromkeys([*similar, *sorted(contained, key=len)]))[:_SHOWN]
