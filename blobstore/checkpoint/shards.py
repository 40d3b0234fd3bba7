"""How a checkpoint of several files names them, and the index that says which tensor is in which."""

from __future__ import annotations

import os
import re
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from blobstore.container.foreign import HEAD_NBYTES, foreign_format
from blobstore.errors import CheckpointError
from blobstore.index.strict_json import parse_json, text_map

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SAFETENSORS = ".safetensors"
INDEX = ".index.json"
_INTERRUPTED = "interrupted"
# The index while shards are replaced: without any, readers would join old ones and new ones.
INTERRUPTED = b'{"%s": "the files are being replaced, or were when that was interrupted"}\n' % _INTERRUPTED.encode()
_SHARD = re.compile(r"(.+)-([0-9]{1,6})-of-([0-9]{1,6})(\.[A-Za-z]+)").fullmatch
_SHOWN = 8


class ShardName(NamedTuple):
    """The parts of a name such as ``model-00001-of-00003.safetensors``: the numbers as they are written."""

    stem: str
    number: str
    total: str
    suffix: str


class ShardSet(NamedTuple):
    """Files that are numbered as shards of one checkpoint.

    Attributes:
        first: The name of one of them.
        names: Number → name, in the order of the numbers.
    """

    first: ShardName
    names: Mapping[int, str]

    @property
    def total(self) -> int:
        """How many there have to be."""
        return int(self.first.total)

    @property
    def files(self) -> list[str]:
        """The names of those that are there, in order."""
        return [name for number, name in self.names.items() if number in self._numbers]

    @property
    def is_complete(self) -> bool:
        """Whether all are there."""
        return len(self.files) == self.total

    def missing(self) -> str:
        """Name those that are missing; of many, the first ones."""
        stem, digits, suffix = self.first.stem, len(self.first.number), self.first.suffix
        absent = (number for number in self._numbers if number not in self.names)
        shown = [f"{stem}-{number:0{digits}}-of-{self.first.total}{suffix}" for number in islice(absent, _SHOWN)]
        more = self.total - len(self.files) - len(shown)
        return ", ".join(shown) + (f" and {more} more" if more else "")

    @property
    def _numbers(self) -> range:
        start = 0 if 0 in self.names else 1  # some writers count from 0
        return range(start, start + self.total)


def shard_name(stem: str, number: int, total: int) -> str:
    """Return the usual name of a shard; numbers begin with 1."""
    return f"{stem}-{number:05}-of-{total:05}{SAFETENSORS}"


def index_name(stem: str) -> str:
    """Return the name of the index of such shards."""
    return stem + SAFETENSORS + INDEX


def parse_shard_name(name: str) -> ShardName | None:
    """Return the parts of a shard's name; None for the name of another file."""
    found = _SHARD(name)
    return ShardName(*found.groups()) if found and int(found[3]) else None


def shard_sets(names: Iterable[str]) -> list[ShardSet]:
    """Return the sets of shards among some names."""
    sets: dict[tuple[str, str, str], tuple[ShardName, dict[int, str]]] = {}
    for name in sorted(names):
        parts = parse_shard_name(name)
        if parts:
            key = parts.stem, parts.total, parts.suffix
            sets.setdefault(key, (parts, {}))[1][int(parts.number)] = name
    return [ShardSet(first, dict(sorted(numbered.items()))) for first, numbered in sets.values()]


def parse_shard_index(path: str, raw: bytes) -> dict[str, str]:
    """Return which file each tensor is in, by an index of shards.

    Raises:
        CheckpointError: ``bad-shard-index``: it isn't one, or lists a file that isn't beside it.
    """
    try:
        index = parse_json(raw)
        weight_map = index.get("weight_map") if isinstance(index, dict) else None
        if isinstance(index, dict) and _INTERRUPTED in index:
            raise ValueError("an export to here was interrupted, or is being done: export again")
        if not isinstance(weight_map, dict):
            raise ValueError("it has no weight_map, which lists the file of each tensor")
        weight_map = text_map(weight_map)
    except ValueError as error:
        known = foreign_format(raw[:HEAD_NBYTES])
        what = f"{path!r} is {known or f'not an index of shards: {error}'}"
        raise CheckpointError("bad-shard-index", what) from None
    for shard in set(weight_map.values()):
        # A file from outside must not choose what is opened elsewhere.
        if os.path.basename(shard) != shard or shard in ("", ".", "..") or "\0" in shard:
            raise CheckpointError("bad-shard-index", f"{path!r} lists {shard[:300]!r}, which is not a file beside it")
    return weight_map
