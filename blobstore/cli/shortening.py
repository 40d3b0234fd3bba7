"""Names that fit a width, and can still be told apart."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

_ELLIPSIS = "…"
_PARTS = re.compile(r"(?<=[./])")
_ROUNDS = 3  # what tells two names apart may, once shown, take the place of what told apart two others


def shortened(names: Sequence[str], width: int, length: Callable[[str], int] = len) -> list[str]:
    """Return names that fit a width: parts in the middle give way to an ellipsis.

    ``model.layers.0.self_attn.q_proj.weight`` becomes ``model.layers.0.….q_proj.weight``. Numbers and the last parts
    stay longest. Different names stay different, if the width allows it.

    Args:
        names: The names, which are shown together.
        width: In columns of a terminal.
        length: Of a text, in columns.
    """
    long = dict.fromkeys(name for name in names if length(name) > width)
    uses = Counter(part for name in dict.fromkeys(names) for part in set(_PARTS.split(name)))
    wanted: dict[str, set[str]] = {name: set() for name in long}
    for _ in range(_ROUNDS):
        short = {name: _shorten(name, width, uses, wanted[name], length) for name in long}
        alike: dict[str, list[str]] = {}
        for name, text in short.items():
            alike.setdefault(text, []).append(name)
        ambiguous = [group for group in alike.values() if len(group) > 1]
        if not ambiguous:
            break
        for group in ambiguous:
            common = set.intersection(*(set(_PARTS.split(name)) for name in group))
            for name in group:
                wanted[name] |= set(_PARTS.split(name)) - common
    return [short[name] if name in long else name for name in names]


def _shorten(name: str, width: int, uses: Counter[str], wanted: Collection[str], length: Callable[[str], int]) -> str:
    parts = _PARTS.split(name)
    last = len(parts) - 1
    number = [part.rstrip("./").isdigit() for part in parts] + [False]

    def value(i: int) -> tuple[object, ...]:
        """Return how late a part is left out: those that most names have in common first."""
        tells = number[i] or i == last - 1
        return tells, parts[i] in wanted, i == last, number[i + 1], i == 0, -uses[parts[i]], i

    order = sorted(range(len(parts)), key=value)
    kept = set(order)
    for i in order:
        if length(_joined(parts, kept)) <= width:
            break
        kept.discard(i)
    for i in reversed(order):
        if length(_joined(parts, kept | {i})) <= width:
            kept.add(i)
    return _joined(parts, kept) if kept else _middle(name, width, length)


def _joined(parts: Sequence[str], kept: Collection[int]) -> str:
    """Return the parts that are kept, with one ellipsis for each run of the others."""
    text = ""
    for i, part in enumerate(parts):
        if i in kept:
            text += part
        elif i == 0 or i - 1 in kept:
            text += _ELLIPSIS
            following = next((j for j in range(i, len(parts)) if j in kept), None)
            text += parts[following - 1][-1] if following is not None else ""
    return text


def _middle(text: str, width: int, length: Callable[[str], int] = len) -> str:
    """Return a text of one long part with an ellipsis in its middle."""
    size = max(width - 1, 0)
    while True:
        head = size // 3
        short = text[:head] + _ELLIPSIS + (text[-(size - head) :] if size > head else "")
        if length(short) <= width or not size:
            return short
        size -= 1
