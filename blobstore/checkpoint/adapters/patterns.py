"""The patterns of module names in adapter_config.json. They are foreign regular expressions.

peft matches such a pattern with a module's whole name, or with the end of it behind a dot; the first match counts. Most
are plain names. Of the others, what people write is understood here in time proportional to pattern and name: an engine
that backtracks could be kept busy for ever.
"""

from __future__ import annotations

import re
from itertools import product
from typing import TYPE_CHECKING

from blobstore.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PLAIN = re.compile(r"\^?\w(?:[\w./-]|\\\.)*\$?")  # a dot may be a dot
_CLASSES = {"d": "0123456789", "w": "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"}
_MAX_PATTERNS = 64  # that are not plain names
_MAX_LENGTH = 512  # of one that isn't a plain name
_MAX_BRANCHES = 64  # that its alternatives multiply to


class Patterns:
    """Patterns of module names, and a number for each."""

    def __init__(self, values: Mapping[str, float], what: str) -> None:
        """Read them.

        Args:
            values: Pattern → number, in the order in which they are tried.
            what: Names them in errors.

        Raises:
            CheckpointError: ``adapter-config`` for a pattern that can't be understood here.
        """
        self._values = list(values.values())
        self._plain: dict[str, int] = {}  # a name → the place of its pattern
        self._anchored: dict[str, int] = {}
        self._others: list[tuple[int, list[_Branch]]] = []
        for place, pattern in enumerate(values):
            if _PLAIN.fullmatch(pattern):
                name = pattern.removesuffix("$").replace("\\.", ".")
                (self._anchored if name.startswith("^") else self._plain).setdefault(name.removeprefix("^"), place)
            else:
                self._others.append((place, _branches(pattern, what)))
        if len(self._others) > _MAX_PATTERNS:
            fault = f"{what}: {len(self._others)} patterns that are not names, more than {_MAX_PATTERNS}"
            raise CheckpointError("adapter-config", f"{fault}: write the modules' names instead")

    def value_of(self, module: str) -> float | None:
        """Return the number of the first pattern that a module's name matches; None when there is none."""
        places = [self._plain[end] for end in _ends(module) if end in self._plain] if self._plain else []
        if module in self._anchored:
            places.append(self._anchored[module])
        first = min(places, default=len(self._values))
        for place, branches in self._others:
            if place > first:
                break
            if any(branch.matches(module) for branch in branches):
                first = place
                break
        return self._values[first] if first < len(self._values) else None


def _ends(module: str) -> Iterator[str]:
    """Yield a name, and what follows each of its dots."""
    yield module
    place = module.find(".")
    while place >= 0:
        yield module[place + 1 :]
        place = module.find(".", place + 1)


class _Branch:
    """One alternative: sets of characters, each of which stands once, or as often as its sign says."""

    def __init__(self, *, anchored: bool) -> None:
        self._anchored = anchored
        self._steps: list[tuple[str | None, str]] = []  # None for any character; then "", "?", "*" or "+"

    def add(self, characters: str | None, sign: str) -> None:
        self._steps.append((characters, sign))

    def matches(self, name: str) -> bool:
        """Whether it matches a whole name, or one of its ends behind a dot."""
        places = self._skipped({0})
        for character in name:
            following = {one for place in places for one in self._after(place, character)}
            if character == "." and not self._anchored:
                following.add(0)
            places = self._skipped(following)
        return len(self._steps) in places

    def _after(self, place: int, character: str) -> Iterator[int]:
        if place < len(self._steps):
            characters, sign = self._steps[place]
            if characters is None or character in characters:
                yield place + 1
                if sign in ("*", "+"):
                    yield place

    def _skipped(self, places: set[int]) -> set[int]:
        """Add the places that are reached without another character."""
        found = set(places)
        for start in places:
            place = start
            while place < len(self._steps) and self._steps[place][1] in ("?", "*"):
                place += 1
                found.add(place)
        return found


def _branches(pattern: str, what: str) -> list[_Branch]:
    """Read a pattern of characters, sets of them, and alternatives in one level of brackets."""
    try:
        if len(pattern) > _MAX_LENGTH:
            raise ValueError(f"it has more than {_MAX_LENGTH} characters")
        body = pattern[:-1] if pattern.endswith("$") and not pattern.endswith("\\$") else pattern
        # A sign for the beginning belongs to its alternative: in '^a|b', b is not at the beginning.
        return [_branch(text.removeprefix("^"), anchored=text.startswith("^")) for text in _expanded(body)]
    except ValueError as error:
        fault = f"{what}: the pattern {pattern[:80]!r} can't be read: {error}: write the modules' names instead"
        raise CheckpointError("adapter-config", fault) from None


_SIGNS_IN_A_SET = re.compile(r"(?<!\\)\[[^\]]*[()|]")


def _expanded(body: str) -> list[str]:
    """Return each combination of a pattern's alternatives."""
    if _SIGNS_IN_A_SET.search(body):
        raise ValueError("a set has brackets or '|'")
    parts: list[list[str]] = []
    count = 1
    for place, part in enumerate(re.split(r"(?<!\\)\((?:\?:)?([^()]*)(?<!\\)\)", body)):
        parts.append(part.split("|") if place % 2 else [part])
        count *= len(parts[-1])
        if count > _MAX_BRANCHES:
            raise ValueError(f"its alternatives have more than {_MAX_BRANCHES} combinations")
        if place % 2 and part.startswith("?"):
            raise ValueError(f"'({part[:8]}' is not understood")
        if place % 2 == 0 and place and part[:1] in tuple("?*+{"):
            raise ValueError("brackets are repeated")
    if any("|" in text for part in parts[0::2] for text in part):
        if len(parts) > 1:
            raise ValueError("it has alternatives inside and outside of brackets")
        return body.split("|")
    return ["".join(chosen) for chosen in product(*parts)]


_STEP = re.compile(r"(?:\[([^\]\\^]+)\]|\\(.)|([^\\\[\]()|^$*+?{}]))([?*+]?)(?![?*+{])", re.DOTALL)


def _branch(text: str, *, anchored: bool) -> _Branch:
    branch = _Branch(anchored=anchored)
    place = 0
    while place < len(text):
        step = _STEP.match(text, place)
        if step is None:
            raise ValueError(f"{text[place : place + 8]!r} is not a name, '.', a set like [0-3], or '?', '*', '+'")
        chosen, escaped, plain, sign = step.groups()
        branch.add(_characters(chosen, escaped, plain), sign)
        place = step.end()
    return branch


def _characters(chosen: str | None, escaped: str | None, plain: str | None) -> str | None:
    """Return the characters that a step stands for; None for any."""
    if chosen is not None:
        return re.sub(r"(.)-(.)", lambda ends: _range(ends[1], ends[2]), chosen, flags=re.DOTALL)
    if escaped is not None:
        if escaped.isalnum() and escaped not in _CLASSES:
            raise ValueError(f"'\\{escaped}' is not understood")
        return _CLASSES.get(escaped, escaped)
    return None if plain == "." else plain


def _range(first: str, last: str) -> str:
    if not first <= last <= "\x7f":
        raise ValueError(f"'{first}-{last}' is not a range")
    return "".join(map(chr, range(ord(first), ord(last) + 1)))
