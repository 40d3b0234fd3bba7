"""The runtime's table of contents, the blob ``toc``: type, 2-D shape and scale of each tensor.

Spec: spec/gemma.md, toc.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from blobstore.codecs.element_types import OWN_FROM, by_number
from blobstore.container.keys import TOC_KEY
from blobstore.errors import FormatError
from blobstore.gemma.field_types import F32, STRING, U32, Cursor, bytes_of, words_of
from blobstore.gemma.records import Record, of
from blobstore.index.records import MAX_ELEMENTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from blobstore.codecs.element_types import ElementType


@dataclass(frozen=True, kw_only=True)
class TocEntry(Record):
    """What the runtime knows of one tensor.

    Attributes:
        name: Its key.
        type_number: Of its element type, 1 to 31; a number that is not known here is a newer type of the runtime.
        element_bytes: Bytes of one stored element, rounded up.
        num_elements: Stored elements; for types with groups (i8, q4_0, …), stored bytes.
        rows: Every tensor is 2-D: ``[a, b, c]`` is a·b rows.
        cols: A vector is one row.
        scale: Decoded values are multiplied by it.
        stride: Elements from one row to the next, the same as cols; 0 in older files.

    Example:
        >>> _ = blobstore.convert("checkpoint", "gemma.sbs")
        >>> entry = blobstore.gemma.parse_toc(blobstore.BlobReader("gemma.sbs")["toc"])[0]
        >>> entry.name, entry.type, entry.rows, entry.cols, entry.nbytes
        ('c_embedding', bf16, 96, 20, 3840)
    """

    name: str = of(STRING, "")
    type_number: int = of(U32)
    element_bytes: int = of(U32)
    num_elements: int = of(U32)
    rows: int = of(U32)
    cols: int = of(U32)
    scale: float = of(F32, 1.0)
    stride: int = of(U32)

    @property
    def type(self) -> ElementType:
        """Its element type."""
        return by_number(self.type_number)

    @property
    def nbytes(self) -> int:
        """Size of its blob, by type and shape; 0 for a type that is newer than this version."""
        return self.type.nbytes(self.rows * self.cols)

    def fits(self, nbytes: int) -> bool:
        """Whether its blob can have this size: in a type that is newer than this version any, if it has elements."""
        if self.type.bits:
            return nbytes == self.nbytes
        return 0 < self.rows * self.cols <= MAX_ELEMENTS


def toc_entry(name: str, element_type: ElementType, rows: int, cols: int, scale: float = 1.0) -> TocEntry:
    """Return the entry that the runtime's writer would make for a tensor."""
    element_bytes = -(-element_type.bits // 8)
    stored = element_type.nbytes(rows * cols) // element_bytes if element_type.group else rows * cols
    return TocEntry(
        name=name,
        type_number=element_type.number,
        element_bytes=element_bytes,
        num_elements=stored,
        rows=rows,
        cols=cols,
        scale=scale,
        stride=cols,
    )


def parse_toc(raw: bytes | memoryview) -> list[TocEntry]:
    """Check a ``toc`` blob.

    Raises:
        FormatError: ``fields-…``; ``toc-type`` for a number that can't be a type of the runtime; ``toc-duplicate``
            for a name that appears twice.

    Example:
        >>> _ = blobstore.convert("checkpoint", "gemma.sbs")
        >>> entries = blobstore.gemma.parse_toc(blobstore.BlobReader("gemma.sbs")["toc"])
        >>> len(entries), entries[0].name
        (26, 'c_embedding')
    """
    words = words_of(raw)
    cursor = Cursor(words, 0, len(words))
    entries: list[TocEntry] = []
    seen: set[str] = set()
    while cursor.position < len(words):
        at = 4 * cursor.position
        entry = TocEntry.read(cursor)
        if not 1 <= entry.type_number < OWN_FROM:
            raise FormatError("toc-type", f"{entry.name!r} has type {entry.type_number}, at offset {at}", at)
        if entry.name in seen:
            raise FormatError("toc-duplicate", f"{entry.name!r} appears twice, again at offset {at}", at)
        seen.add(entry.name)
        entries.append(entry)
    return entries


def odd_strides(entries: Iterable[TocEntry]) -> list[TocEntry]:
    """Return the entries whose rows don't follow one another without padding.

    A migration tool of the runtime wrote them: it stored the padding between the rows of a matrix as values, which are
    wrong for every reader.
    """
    return [entry for entry in entries if entry.stride not in (0, entry.cols)]


def stride_fault(entry: TocEntry) -> str:
    """Say what is wrong with one of `odd_strides`, and what to do."""
    fix = f"leave it out with blobstore rewrite FILE -o OUT --drop {entry.name}, or convert the model again"
    return (
        f"the rows of {entry.name!r} are {entry.stride} elements apart, expected {entry.cols}: padding was stored "
        f"among its values, which are wrong: {fix}"
    )


def odd_strides_in(blobs: Mapping[str, memoryview]) -> list[TocEntry]:
    """Return `odd_strides` of a file's ``toc``; an empty list if it can't be read."""
    try:
        return odd_strides(parse_toc(blobs[TOC_KEY])) if TOC_KEY in blobs else []
    except FormatError:
        return []


def build_toc(entries: Iterable[TocEntry]) -> bytes:
    """Return the bytes of a ``toc`` blob.

    Raises:
        UsageError: ``bad-field``.

    Example:
        >>> _ = blobstore.convert("checkpoint", "gemma.sbs")
        >>> toc = blobstore.BlobReader("gemma.sbs")["toc"]
        >>> blobstore.gemma.build_toc(blobstore.gemma.parse_toc(toc)) == toc
        True
    """
    words: list[int] = []
    for entry in entries:
        entry.write(words)
    return bytes_of(words)
