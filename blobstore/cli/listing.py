"""What ``blobstore ls`` lists: tensors by name, or blobs by key."""

from __future__ import annotations

import fnmatch
import os
import re
import sys
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from blobstore.checkpoint.formats import format_of
from blobstore.cli.contents import open_contents, stored_nbytes
from blobstore.cli.formatting import shape, size
from blobstore.cli.newer import tell_newer
from blobstore.cli.output import note, print_json
from blobstore.cli.progress import progress
from blobstore.cli.tables import print_table
from blobstore.errors import UsageError
from blobstore.index.locate import lost_index
from blobstore.index.sets import open_reader
from blobstore.store.base import refuse_needless_base
from blobstore.store.reader import Store

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Sequence

    from blobstore.cli.contents import Contents, Entry
    from blobstore.compare.statistics import Statistics

    _Item = TypeVar("_Item", Entry, "_Blob")

_STATS = ("min", "max", "mean", "std", "nan", "inf")
_DIGITS = re.compile(r"([0-9]+)")


def list_names(options: argparse.Namespace) -> int:
    """List tensors by name."""
    with ExitStack() as stack:
        opened = [stack.enter_context(open_contents(path, options.base)) for path in options.files]
        refuse_needless_base(*(contents.source for contents in opened if isinstance(contents.source, Store)))
        for contents in opened:
            if isinstance(contents.source, Store):
                tell_newer(contents.source.reader)
                for text in lost_index(contents.source.reader):
                    note(text)
            for text in contents.notes:
                note(text)
        listed = [
            (contents, entry)
            for contents in opened
            for entry in _sorted(contents.entries, options.sort)
            if fnmatch.fnmatchcase(entry.name, options.pattern)
        ]
        entries = [entry for _, entry in listed]
        measured = _measure(listed) if options.stats else None
        nbytes = stored_nbytes(listed)
    if options.json:
        print_json(
            [
                entry._asdict() | ({"stats": stats and asdict(stats)} if measured else {})
                for entry, stats in zip(entries, measured or [None] * len(entries), strict=True)
            ]
        )
        return 0
    if listed:
        _print_names(listed, measured)
    _tell_count(options, len(entries), "tensor", nbytes)
    return 0


def _print_names(listed: Sequence[tuple[Contents, Entry]], measured: Sequence[Statistics | None] | None) -> None:
    terminal = sys.stdout.isatty()
    # On a terminal each file of the command line is a heading, and only the shards of a checkpoint need a column.
    grouped = terminal and len({contents.path for contents, _ in listed}) > 1
    several = len({(contents.path if grouped else "", entry.file) for contents, entry in listed})
    file = several > (len({contents.path for contents, _ in listed}) if grouped else 1)
    stats = _STATS if measured else ()
    rows = [
        (
            *([contents.path] if grouped else ()),
            entry.name,
            "-" if entry.key is None else entry.key,
            entry.type,
            shape(entry.shape),
            entry.nbytes,
            entry.offset,
            *([os.path.basename(entry.file) if terminal else entry.file] if file else ()),
            *(_cells(measured[i], _short if terminal else str) if measured else ()),
        )
        for i, (contents, entry) in enumerate(listed)
    ]
    columns = ("name", "key", "type", "shape", "size", "offset", *(["file"] if file else ()), *stats)
    print_table(
        ("input", *columns) if grouped else columns,
        rows,
        right=("size", "offset", *stats),
        sizes=("size",),
        grouped=grouped,
        spare=("key", *(["file"] if file else ()), "offset", *(("size", "shape", "type") if measured else ())),
    )


def _cells(stats: Statistics | None, digits: Callable[[Any], str]) -> list[str]:
    if stats is None:
        return ["-"] * len(_STATS)
    return ["-" if value is None else digits(value) for value in asdict(stats).values()]


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def _measure(listed: Sequence[tuple[Contents, Entry]]) -> list[Statistics | None]:
    """Return the statistics of each tensor; None for one that can't be decoded."""
    from blobstore.compare.statistics import statistics  # noqa: PLC0415 (for --stats only)

    measured: list[Statistics | None] = []
    with progress(sum(entry.nbytes for _, entry in listed), "reading") as advance:
        for contents, entry in listed:
            chunks = contents.chunks(entry.name)
            measured.append(None if chunks is None else statistics(chunks))
            advance(entry.nbytes)
    return measured


def list_keys(options: argparse.Namespace) -> int:
    """List blobs by key."""
    blobs = []
    for path in options.files:
        if format_of(path) != "sbs":
            raise UsageError("no-keys", f"{path!r} is not an .sbs file, and only these have keys: leave out --keys")
        with open_reader(path) as reader:
            found = [
                _Blob(key, nbytes, start, file)
                for place, key in enumerate(reader.directory.all_keys)
                if fnmatch.fnmatchcase(key, options.pattern)
                for offset, nbytes in (reader.directory.range(place),)
                for file, start in (reader.file_at(offset),)
            ]
            tell_newer(reader)
        blobs += _sorted(found, options.sort)
    if options.json:
        print_json([blob._asdict() for blob in blobs])
        return 0
    columns, several = ("key", "size", "offset"), len(options.files) > 1 or len({blob.file for blob in blobs}) > 1
    if several and sys.stdout.isatty():
        rows: list[tuple[object, ...]] = [(blob.file, *blob[:3]) for blob in blobs]
        print_table(("file", *columns), rows, right=columns[1:], sizes=("size",), grouped=True)
    else:
        rows = [blob if several else blob[:3] for blob in blobs]
        print_table(columns + ("file",) * several, rows, right=columns[1:], sizes=("size",))
    _tell_count(options, len(blobs), "blob", sum(blob.nbytes for blob in blobs))
    return 0


class _Blob(NamedTuple):
    """A blob: what ``ls --keys --json`` prints."""

    key: str
    nbytes: int
    offset: int
    file: str


def _sorted(items: Iterable[_Item], by: str | None) -> list[_Item]:
    """Return tensors or blobs of one file in the order that was asked for."""

    def order(item: Entry | _Blob) -> tuple[Any, ...]:
        if by == "size":
            return (-item.nbytes,)
        if by == "offset":
            return item.file, item.offset
        name = item.key if isinstance(item, _Blob) else item.name
        return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in _DIGITS.split(name) if part)

    return sorted(items, key=order) if by else list(items)


def _tell_count(options: argparse.Namespace, count: int, what: str, nbytes: int) -> None:
    """Print the totals on a terminal, and say what an empty list means."""
    if count and sys.stdout.isatty():
        files = f" in {len(options.files)} files" if len(options.files) > 1 else ""
        print(f"{count} {what}{'s' * (count != 1)}, {size(nbytes)}{files}")
    if not count and options.pattern != "*":
        wild = set("*?[") & {*options.pattern}
        missing = "" if wild else ", and it is not the path of a file"
        note(f"nothing in {', '.join(options.files)} matches {options.pattern!r}{missing}")
    elif not count:
        note("no tensors")
