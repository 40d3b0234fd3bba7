"""The differences between two files: tensors by name, then blobs and metadata."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from blobstore.compare.blobs import blob_differences, file_differences, metadata_differences
from blobstore.compare.chunks import CHUNK, first_byte, values_of
from blobstore.compare.renames import find_renamed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blobstore.compare.blobs import FileDifference
    from blobstore.compare.sides import Side
    from blobstore.compare.tensors import Facts, Tensor
    from blobstore.compare.values import Tolerance, Values
    from blobstore.fileio.types import Progress

Kind = Literal[
    "same",
    "close",
    "alias",
    "renamed",
    "added",
    "removed",
    "shape",
    "type",
    "values",
    "bytes",
    "blob",
    "file",
    "metadata",
]
_EQUAL = ("same", "close", "alias", "metadata")


@dataclass(frozen=True)
class Difference:
    """How one tensor, blob, file or metadata key differs between the two sides.

    Attributes:
        name: Of the tensor or the file; key of the blob, or of the metadata.
        kind: - ``same``: type, shape, scale and every bit are the same;
            - ``alias``: another name, which one or both sides have, for the tensor that is compared as `other`;
            - ``renamed``: only the first side has this name, and only the second has `other`, for the same type, shape
              and bits;
            - ``added``, ``removed``: only the second side has it, only the first side has it;
            - ``shape``: the shapes differ; values are not compared;
            - ``values``: some values differ (beyond the tolerance), whatever the types;
            - ``type``: the types differ, and all values are equal, or one side can't be decoded;
            - ``bytes``: stored bytes or scales differ, and all values are equal (0.0 and -0.0, NaNs) or can't be
              decoded;
            - ``close``: only with a tolerance: not the same, but no value differs beyond it, whatever the types;
            - ``blob``: one of the runtime's own blobs differs; see `detail`;
            - ``file``: a file that one of them carries, such as config.json: the other has other bytes, or doesn't have
              it; see `detail`;
            - ``metadata``: see `detail`.
        differs: Whether it counts as a difference: all kinds but same, close, alias and metadata; a file only if
            both have it. With a tolerance, a blob that only describes how tensors are stored doesn't count either (toc;
            config if only its weight type differs).
        a: How the first side stores it; None if that side doesn't have it, and for blobs and metadata.
        b: The same for the second side.
        other: The other name.
        values: How far the values differ, if they were compared and not every bit is the same.
        detail: Anything else, in words.
    """

    name: str
    kind: Kind
    differs: bool
    a: Facts | None = None
    b: Facts | None = None
    other: str = ""
    values: Values | None = None
    detail: str = ""


def compare(
    a: Side,
    b: Side,
    *,
    tolerance: Tolerance | None = None,
    progress: Progress = lambda _: None,
    chunk: int = CHUNK,
) -> Iterator[Difference]:
    """Compare two sides in constant memory: a few chunks of at most 4 MB each.

    A tensor under a name that only one side has is matched, by its values, with those of the same type and shape under
    names that only the other side has.

    Args:
        a: The first side, open.
        b: The second side, open.
        tolerance: Differences up to this don't count, and neither do types whose values are within it. None compares
            what is stored: another type or other bytes are a difference, even for the same value.
        progress: Called with the number of further bytes done, of ``a.nbytes + b.nbytes``.
        chunk: Elements compared at once; a multiple of every encoding's group.

    Yields:
        One for each name of either side, in the order of the names, also if nothing differs; then the blobs, the files
        and the metadata that differ.

    Raises:
        TruncatedError: A file has shrunk.
        CodecError: ``sfp-reserved-code``: the bytes can't be decoded; the message names the tensor.
        OSError: A file can't be read.
    """
    lost = [name for name in sorted(a.tensors) if not b.names.intersection(a.same_as(name))]
    new = [name for name in sorted(b.tensors) if not a.names.intersection(b.same_as(name))]
    renamed = find_renamed(a, lost, b, new)
    before = {after: name for name, after in renamed.items()}
    elsewhere_in_a, elsewhere_in_b = _Elsewhere(a, b.names | set(renamed)), _Elsewhere(b, a.names | set(before))
    for name in sorted(a.names | b.names):
        if name in a.names and name in b.names:
            target = a.aliases.get(name)
            if target and b.aliases.get(name) == target:
                yield Difference(name, "alias", differs=False, other=target)
            else:
                yield _difference(name, a[name], b[name], tolerance, progress=progress, chunk=chunk)
        elif name in renamed:
            after = renamed[name]
            progress(a[name].facts.nbytes + b[after].facts.nbytes)
            yield Difference(name, "renamed", differs=True, a=a[name].facts, b=b[after].facts, other=after)
        elif name not in before:
            if name in a.names:
                yield _only_in(a, name, elsewhere_in_a, "removed", progress)
            else:
                yield _only_in(b, name, elsewhere_in_b, "added", progress)
    yield from _beside_tensors(a, b, tolerance)


def _beside_tensors(a: Side, b: Side, tolerance: Tolerance | None) -> Iterator[Difference]:
    """Yield the blobs, the files and the metadata that differ."""
    if a.store and b.store:
        for blob in blob_differences(a.store, b.store):
            counts = tolerance is None or not blob.storage_only
            yield Difference(blob.name, "blob", differs=counts, detail=blob.what)
    for file in _files_that_differ(a, b):
        yield Difference(file.name, "file", differs=file.in_both, detail=file.what)
    for entry in metadata_differences(a.metadata, b.metadata):
        yield Difference(entry.name, "metadata", differs=False, detail=entry.what)


def _files_that_differ(a: Side, b: Side) -> Iterator[FileDifference]:
    """Compare the files that a store carries with those of another, or with those beside a checkpoint's tensors."""
    carried = [list(side.store.files) for side in (a, b) if side.store]
    if any(carried):
        names = {name for names in carried for name in names}  # a checkpoint may have more, which were never carried
        yield from file_differences(a.files(), b.files(), names)


class _Elsewhere:
    """For names that only one side has: the name under which the other side has their tensors."""

    def __init__(self, side: Side, known: frozenset[str]) -> None:
        """Look up tensors of a side among the names that the other side knows."""
        self._side, self._known = side, known
        self._names: dict[str, str | None] = {}  # a tensor may have any number of names

    def find(self, name: str) -> str | None:
        """Return the first of the tensor's names that the other side knows, or None."""
        target = self._side.aliases.get(name, name)
        if target not in self._names:
            self._names[target] = next((alias for alias in self._side.same_as(target) if alias in self._known), None)
        return self._names[target]


def _only_in(side: Side, name: str, elsewhere: _Elsewhere, kind: Kind, progress: Progress) -> Difference:
    """Return the difference for a name that only one side has; the other may have its tensor under another name."""
    alias = elsewhere.find(name)
    if alias:
        return Difference(name, "alias", differs=False, other=alias)
    facts = side[name].facts
    if name not in side.aliases:
        progress(facts.nbytes)
    first, second = (facts, None) if kind == "removed" else (None, facts)
    return Difference(name, kind, differs=True, a=first, b=second, other=side.aliases.get(name, ""))


def _difference(
    name: str, a: Tensor, b: Tensor, tolerance: Tolerance | None, *, progress: Progress, chunk: int
) -> Difference:
    """Compare two tensors of one name."""
    first, second = a.facts, b.facts
    values, detail = None, ""
    if first.shape != second.shape or a.opaque or b.opaque:
        kind: Kind = "shape"
        if first.shape == second.shape:
            kind, detail = _opaque_kind(a, b)
        progress(first.nbytes + second.nbytes)
    else:
        values = values_of(a, b, tolerance, progress, chunk)
        kind = _kind_by_values(_kind_by_facts(first, second), values, tolerance)
    return Difference(name, kind, kind not in _EQUAL, first, second, values=values, detail=detail)


def _kind_by_facts(a: Facts, b: Facts) -> Kind:
    """Return the kind if all stored bytes are the same."""
    if (a.type, a.codec) != (b.type, b.codec):
        return "type"
    return "same" if a.scales == b.scales else "bytes"


def _opaque_kind(a: Tensor, b: Tensor) -> tuple[Kind, str]:
    """Compare two tensors of one shape, at least one of which can't be decoded, by their bytes → kind and detail."""
    kind = _kind_by_facts(a.facts, b.facts)
    at = first_byte(a, b) if a.unit == b.unit else None
    if at is not None or (kind == "same" and a.unit != b.unit):
        kind = "bytes"
    if kind == "same":
        return kind, ""
    types = dict.fromkeys(str(tensor.facts.type) for tensor in (a, b) if tensor.opaque)
    where = f", byte {at} differs" if at is not None else ""
    return kind, f"{' and '.join(types)} can't be decoded here{where}"


def _kind_by_values(kind: Kind, values: Values | None, tolerance: Tolerance | None) -> Kind:
    """Return the kind, given how far the values differ; None where every bit is the same."""
    if values and values.unequal:
        kind = "values"
    elif values and kind == "same":
        kind = "bytes"
    if tolerance and kind != "same" and not (values and values.different):
        return "close"
    return kind
