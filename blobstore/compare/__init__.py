"""Two files compared, tensor by tensor: what is there, under which name, as which type, with which values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from blobstore.compare.blobs import blob_differences, metadata_differences
from blobstore.compare.chunks import first_byte, values_of
from blobstore.compare.renames import find_renamed
from blobstore.compare.sides import By, Side, open_side, open_sides
from blobstore.compare.tensors import Facts
from blobstore.compare.values import Number, Tolerance, Values

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blobstore.compare.tensors import Tensor
    from blobstore.fileio.types import Progress

__all__ = [
    "By",
    "Difference",
    "Facts",
    "Kind",
    "Number",
    "Side",
    "Tolerance",
    "Values",
    "compare",
    "open_side",
    "open_sides",
]

Kind = Literal[
    "same", "close", "alias", "renamed", "added", "removed", "shape", "type", "values", "bytes", "blob", "metadata"
]
_EQUAL = ("same", "close", "alias", "metadata")


@dataclass(frozen=True)
class Difference:
    """What became of one tensor, blob or metadata's key from the first side to the second.

    Attributes:
        name: Of the tensor; key of the blob, or of the metadata.
        kind: - ``same``: type, shape, scale and every bit;
            - ``alias``: a name that one side lacks, or both have, for a tensor that is compared under another, `other`;
            - ``renamed``: only the first has this name and only the second `other`, for the same type, shape and bits;
            - ``added``, ``removed``: only the second has it, only the first;
            - ``shape``: it has another, values are not compared;
            - ``values``: some differ (beyond the tolerance), whatever the types;
            - ``type``: it has another, all values are equal, or can't be compared since one can't be decoded;
            - ``bytes``: stored bytes or scales differ, all values are equal (0.0 and -0.0, NaNs) or can't be decoded;
            - ``close``: with a tolerance only: not the same, but no value differs beyond it, whatever the types;
            - ``blob``: one of the runtime's own, `detail` says what;
            - ``metadata``: `detail` says what.
        differs: Whether it counts as a difference: all but same, close, alias and metadata; with a tolerance not a
            blob that says no more than how tensors are stored (toc; config if only the weight type in it differs).
        a: How the first side stores it; None where it has none, and for blobs and metadata.
        b: The same of the second.
        other: The other name.
        values: How far values differ, where they were compared and not every bit is the same.
        detail: In words, what the rest doesn't say.
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
    a: Side, b: Side, *, tolerance: Tolerance | None = None, progress: Progress = lambda _: None
) -> Iterator[Difference]:
    """Compare two sides, in constant memory: a few chunks of at most 4 MB each.

    Tensors that only one side has are matched by their values with those of equal type and shape that only the other
    has.

    Args:
        a: The first, open.
        b: The second, open.
        tolerance: Values that differ by no more are not different, and neither is another type with such values. None
            compares what is stored: another type or other bytes are a difference, even of the same value.
        progress: Called with how many bytes more are done, of ``a.nbytes + b.nbytes``.

    Yields:
        One for each name of either side, in the order of the names, also where nothing differs; then blobs and
        metadata that aren't the same.

    Raises:
        TruncatedError: A file has shrunk.
        CodecError: ``sfp-reserved-code``: its bytes can't be decoded; the message names the tensor.
        OSError: It can't be read.
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
                yield _pair(name, a[name], b[name], tolerance, progress)
        elif name in renamed:
            after = renamed[name]
            progress(a[name].facts.nbytes + b[after].facts.nbytes)
            yield Difference(name, "renamed", differs=True, a=a[name].facts, b=b[after].facts, other=after)
        elif name not in before:
            if name in a.names:
                yield _only_in(a, name, elsewhere_in_a, "removed", progress)
            else:
                yield _only_in(b, name, elsewhere_in_b, "added", progress)
    if a.store and b.store:
        for one in blob_differences(a.store, b.store):
            counts = tolerance is None or not one.storage_only
            yield Difference(one.name, "blob", differs=counts, detail=one.what)
    for one in metadata_differences(a.metadata, b.metadata):
        yield Difference(one.name, "metadata", differs=False, detail=one.what)


class _Elsewhere:
    """For names that only one side has: by which name the other side knows their tensors."""

    def __init__(self, side: Side, others: frozenset[str]) -> None:
        """Look for tensors of a side among the names that the other side knows."""
        self._side, self._others = side, others
        self._found: dict[str, str | None] = {}  # a tensor may have any number of names

    def find(self, name: str) -> str | None:
        """Return the first of the tensor's names that the other side knows, or None."""
        target = self._side.aliases.get(name, name)
        if target not in self._found:
            self._found[target] = next((one for one in self._side.same_as(target) if one in self._others), None)
        return self._found[target]


def _only_in(side: Side, name: str, others: _Elsewhere, kind: Kind, progress: Progress) -> Difference:
    """Say what a name is that only one side has, and whose tensor the other may have by another name."""
    elsewhere = others.find(name)
    if elsewhere:
        return Difference(name, "alias", differs=False, other=elsewhere)
    facts = side[name].facts
    if name not in side.aliases:
        progress(facts.nbytes)
    first, second = (facts, None) if kind == "removed" else (None, facts)
    return Difference(name, kind, differs=True, a=first, b=second, other=side.aliases.get(name, ""))


def _pair(name: str, a: Tensor, b: Tensor, tolerance: Tolerance | None, progress: Progress) -> Difference:
    one, other = a.facts, b.facts
    alike = (one.type, one.codec, one.scales) == (other.type, other.codec, other.scales)
    kind: Kind = "same" if alike else "bytes" if one.type == other.type and one.codec == other.codec else "type"
    values, detail, compared = None, "", True
    if one.shape != other.shape:
        kind, compared = "shape", False
    elif a.opaque or b.opaque:
        compared = False
        at = first_byte(a, b) if a.unit == b.unit else None
        if at is not None or (kind == "same" and a.unit != b.unit):
            kind = "bytes"
        if kind != "same":
            opaque = dict.fromkeys(str(side.facts.type) for side in (a, b) if side.opaque)
            detail = f"{' and '.join(opaque)} can't be decoded here" + (
                f", byte {at} differs" if at is not None else ""
            )
    else:
        values = values_of(a, b, tolerance, progress)
        if values and values.unequal:
            kind = "values"
        elif values and kind == "same":
            kind = "bytes"
    if compared:
        if tolerance and kind != "same" and not (values and values.different):
            kind = "close"
    else:
        progress(one.nbytes + other.nbytes)
    return Difference(name, kind, kind not in _EQUAL, one, other, values=values, detail=detail)
