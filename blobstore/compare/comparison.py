"""`diff`: two files compared, as plain values."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from blobstore.compare.differences import compare
from blobstore.compare.sides import open_sides
from blobstore.compare.values import Tolerance
from blobstore.errors import UsageError, without_secrets
from blobstore.fileio.paths import optional_path, path_text
from blobstore.fileio.ranges import expect
from blobstore.gemma.newer import unknown_texts
from blobstore.index.locate import lost_index
from blobstore.store.base import refuse_needless_base
from blobstore.store.vocabulary import check_by

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

    from blobstore.compare.differences import Difference
    from blobstore.compare.sides import Side
    from blobstore.compare.tensors import Facts
    from blobstore.compare.values import Number, Values
    from blobstore.fileio.types import Progress

_WITH_ALL = ("same", "alias")  # kinds that are entries only on request


@dataclass(frozen=True)
class ComparedSide:
    """How one side of a comparison stores a tensor.

    Attributes:
        type: Name of the element type.
        shape: In C order.
        scales: Factors of the decoded values; more than one if several stored tensors make up this one.
        codec: 0 if the type alone says how to decode it.

    Example:
        >>> (entry, *_) = blobstore.diff("model.sbs", "model.sbs", all=True).entries
        >>> entry.a == entry.b
        True
    """

    type: str
    shape: tuple[int, ...]
    scales: tuple[float, ...]
    codec: int


@dataclass(frozen=True)
class LargestDifference:
    """Where two tensors differ most.

    Attributes:
        index: Of the element, one number for each dimension.
        a: Its value in the first; text for complex numbers, infinities and NaN.
        b: Its value in the second.

    Example:
        >>> blobstore.save_file({"x": np.zeros(3)}, "a.sbs")
        >>> blobstore.save_file({"x": np.array([0.0, 0.5, 0.0])}, "b.sbs")
        >>> blobstore.diff("a.sbs", "b.sbs").entries[0].values.worst
        LargestDifference(index=(1,), a=0.0, b=0.5)
    """

    index: tuple[int, ...]
    a: int | float | str
    b: int | float | str


@dataclass(frozen=True)
class ComparedValues:
    """How far the values of two tensors differ.

    Attributes:
        count: Elements compared.
        unequal: Of these, those that aren't equal. Two NaNs are equal, and so are 0.0 and -0.0.
        different: Of the unequal ones, those beyond the tolerance.
        not_finite: Of the different ones, those where a NaN or an infinity meets anything else.
        max_abs: The largest ``|a - b|``; text if it isn't finite.
        max_rel: The largest ``|a - b| / max(|a|, |b|)``.
        cosine: Cosine similarity of the two as vectors; None if it can't be computed.
        worst: The first of those that aren't finite, else the element with the largest ``|a - b|``; None if all are
            equal.

    Example:
        >>> blobstore.save_file({"x": np.zeros(3)}, "a.sbs")
        >>> blobstore.save_file({"x": np.array([0.0, 0.5, 0.0])}, "b.sbs")
        >>> blobstore.diff("a.sbs", "b.sbs").entries[0].values.max_abs
        0.5
    """

    count: int
    unequal: int
    different: int
    not_finite: int
    max_abs: int | float | str
    max_rel: int | float | str
    cosine: float | None
    worst: LargestDifference | None


@dataclass(frozen=True)
class ComparedEntry:
    """How one tensor, blob, file or metadata key differs.

    Attributes:
        name: Of the tensor or the file; key of the blob, or of the metadata.
        kind: ``same``, ``close``, ``alias``, ``renamed``, ``added``, ``removed``, ``shape``, ``type``, ``values``,
            ``bytes``, ``blob``, ``file`` or ``metadata``: ``blobstore diff --help`` says what they are.
        differs: Whether it counts as a difference.
        a: How the first side stores it; None if that side doesn't have it, and for blobs, files and metadata.
        b: The same for the second side.
        other: The other name of the tensor, for ``renamed`` and ``alias``; else empty.
        values: How far the values differ, if they were compared and not every bit is the same.
        detail: Anything else, in words.

    Example:
        >>> [entry.kind for entry in blobstore.diff("model.sbs", "model.sbs").entries]
        []
    """

    name: str
    kind: str
    differs: bool
    a: ComparedSide | None = None
    b: ComparedSide | None = None
    other: str = ""
    values: ComparedValues | None = None
    detail: str = ""


@dataclass(frozen=True)
class ComparedTolerance:
    """Differences that don't count: ``|a - b| ≤ absolute + relative · |a|``.

    Attributes:
        absolute: At least 0.
        relative: Of the first side's value, as in ``numpy.allclose``.

    Example:
        >>> blobstore.diff("model.sbs", "model.sbs", tolerance=0.05).tolerance
        ComparedTolerance(absolute=0.05, relative=0.0)
    """

    absolute: float
    relative: float


@dataclass(frozen=True)
class Comparison:
    """The result of `diff`.

    Attributes:
        a: The path of the first, as given.
        b: The path of the second.
        by: Whether tensors were compared by ``names`` or by ``keys``.
        tolerance: Differences that don't count; None if what is stored was compared.
        differ: Whether there is any difference that counts.
        counts: Kind → how many, of all kinds.
        entries: In the order of the names, then blobs, files and metadata; ``same`` and ``alias`` only on request.
        nbytes: Size of the tensors of both.
        notes: What a user should know.
        read_a: If the first is a checkpoint, the files that its tensors come from.
        read_b: The same for the second.
        seconds: How long it took.

    Example:
        >>> blobstore.diff("model.sbs", "model.sbs").differ
        False
    """

    a: str
    b: str
    by: str
    tolerance: ComparedTolerance | None
    differ: bool
    counts: dict[str, int]
    entries: tuple[ComparedEntry, ...]
    nbytes: int
    notes: tuple[str, ...]
    read_a: tuple[str, ...]
    read_b: tuple[str, ...]
    seconds: float


def diff(
    a: str | PathLike[str],
    b: str | PathLike[str],
    *,
    tolerance: float | None = None,
    rtol: float | None = None,
    by: Literal["names", "keys"] | None = None,
    base: str | PathLike[str] | None = None,
    all: bool = False,  # noqa: A002 (the flag's name)
    progress: Progress = lambda _: None,
) -> Comparison:
    """Compare two files, tensor by tensor, in constant memory: .sbs files, checkpoints, or one with the other.

    Args:
        a: An .sbs file, a .safetensors file, its index, a .gguf file, or a folder with one of these.
        b: The same.
        tolerance: Compare values; ``|a - b|`` up to ``tolerance + rtol * |a|`` doesn't count, and neither does how
            values are stored. Without both, what is stored is compared.
        rtol: See ``tolerance``.
        by: Compare tensors of an .sbs file by its ``names`` or by the runtime's ``keys``; by default by names, or by
            keys if the two have only these in common.
        base: The file that a packed file is the difference to.
        all: Keep entries of kind ``same`` and ``alias``, too.
        progress: Called with how many bytes more are done, of the tensors of both.

    Returns:
        The differences. ``dataclasses.asdict`` of it is what ``blobstore diff --json`` prints.

    Raises:
        UsageError: ``bad-tolerance``; ``bad-by``; ``needless-flag`` for ``by`` without an .sbs file; ``needless-base``,
            ``needs-base``, ``wrong-base``.
        FormatError, TruncatedError, CheckpointError: A file is neither, or is invalid.
        CodecError: ``sfp-reserved-code`` and others: a tensor can't be decoded; the message names it.
        OSError: A file can't be read.

    Example:
        >>> blobstore.save_file({"x": np.zeros(3), "y": np.ones(2)}, "a.sbs")
        >>> blobstore.save_file({"x": np.array([0.0, 0.5, 0.0]), "y": np.ones(2)}, "b.sbs")
        >>> done = blobstore.diff("a.sbs", "b.sbs")
        >>> done.differ, done.counts
        (True, {'values': 1, 'same': 1})
        >>> blobstore.diff("a.sbs", "b.sbs", tolerance=0.5).differ
        False
    """
    a, b, base = path_text(a), path_text(b), optional_path(base)
    start = time.perf_counter()
    if by is not None:
        check_by(by)
    limits = _tolerance(tolerance, rtol)
    with open_sides(a, b, by, base) as (first, second):
        stores = [side.store for side in (first, second) if side.store]
        refuse_needless_base(*stores)
        if by is not None and not stores:
            what = f"neither {first.path!r} nor {second.path!r} is an .sbs file, and only these have keys"
            raise UsageError("needless-flag", f"--by: {what}: leave it out")
        notes = tuple(_notes(first, second, chosen=by is not None))
        nbytes = first.nbytes + second.nbytes
        expect(progress, nbytes)
        with first.reading_ahead(), second.reading_ahead():
            differences = list(compare(first, second, tolerance=limits, progress=progress))
    return Comparison(
        a=without_secrets(a),
        b=without_secrets(b),
        by=first.by,
        tolerance=ComparedTolerance(limits.absolute, limits.relative) if limits else None,
        differ=any(difference.differs for difference in differences),
        counts=dict(Counter(difference.kind for difference in differences)),
        entries=tuple(_entry(one) for one in differences if all or one.kind not in _WITH_ALL),
        nbytes=nbytes,
        notes=notes,
        read_a=tuple(map(without_secrets, first.read)),
        read_b=tuple(map(without_secrets, second.read)),
        seconds=time.perf_counter() - start,
    )


def _tolerance(*given: float | None) -> Tolerance | None:
    for value in given:
        if value is not None and not 0 <= value < math.inf:
            raise UsageError("bad-tolerance", f"{value} is not a tolerance: expected a number of at least 0")
    return None if given == (None, None) else Tolerance(*(float(value or 0) for value in given))


def _notes(a: Side, b: Side, *, chosen: bool) -> Iterator[str]:
    for side in (a, b):
        yield from side.notes
        if side.store:
            yield from unknown_texts(side.store.reader)
            yield from lost_index(side.store.reader)
    if a.names and b.names and not a.names & b.names:
        hint = ""
        if any(side.store and not side.store.index for side in (a, b)):
            hint = (
                ": an .sbs file without a name index has only the runtime's keys; convert the other, and compare that"
            )
        yield f"{without_secrets(a.path)} and {without_secrets(b.path)} have no name in common{hint}"
    elif not chosen and "keys" in (a.by, b.by):
        yield "compared by the runtime's keys, as no name is in both; --by names compares by names regardless"


def _entry(difference: Difference) -> ComparedEntry:
    return ComparedEntry(
        difference.name,
        difference.kind,
        difference.differs,
        _side(difference.a),
        _side(difference.b),
        difference.other,
        _values(difference, difference.values) if difference.values else None,
        difference.detail,
    )


def _side(facts: Facts | None) -> ComparedSide | None:
    if facts is None:
        return None
    return ComparedSide(facts.type.name, tuple(facts.shape), tuple(facts.scales), facts.codec)


def _values(difference: Difference, values: Values) -> ComparedValues:
    worst = None
    if values.worst is not None and values.worst_values:
        shape = difference.a.shape if difference.a else ()
        index = tuple(int(axis) for axis in np.unravel_index(values.worst, shape))
        worst = LargestDifference(index, *map(_number, values.worst_values))
    return ComparedValues(
        values.count,
        values.unequal,
        values.different,
        values.not_finite,
        _number(values.max_abs),
        _number(values.max_rel),
        values.cosine,
        worst,
    )


def _number(value: Number) -> int | float | str:
    """Return what JSON can hold: text for complex numbers, infinities and NaN."""
    return value if isinstance(value, (int, float)) and math.isfinite(value) else str(value)
