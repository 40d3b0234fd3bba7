"""Parts of a tensor: some rows, or what an index asks for. Only that is read, as far as the encoding allows it."""

from __future__ import annotations

import math
import operator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from blobstore.errors import UsageError
from blobstore.store.values import dtype_of, elements, fill

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import SupportsIndex, TypeAlias

    import numpy.typing as npt

    from blobstore.fileio.types import Array
    from blobstore.store.info import TensorInfo
    from blobstore.store.values import TensorFile

    Rows: TypeAlias = int | slice | Sequence[int] | npt.NDArray[np.integer[Any]]

_SKIPPED_NBYTES = 1 << 14  # in each row: below this, reading whole rows is faster


class TensorSlice:
    """A tensor that is read only where it is indexed. `Store.get_slice` makes it.

    Example:
        >>> part = blobstore.open("model.sbs").get_slice("layer.weight")
        >>> part.shape, part[:, :2].shape, part[3, 4:8].shape, part[..., -1].shape
        ((64, 32), (64, 2), (4,), (64,))
    """

    def __init__(self, info: TensorInfo, read: Callable[[int, int], Array], *, is_view: bool) -> None:
        """View a tensor; nothing is read.

        Args:
            info: The tensor.
            read: Given the first element and their number, returns elements, shape (count,).
            is_view: Whether that is a view of the map, whatever its length.
        """
        self._info, self._elements, self._is_view = info, read, is_view
        self.shape: tuple[int, ...] = info.shape
        self.dtype: np.dtype[Any] = dtype_of(info)

    def get_shape(self) -> list[int]:
        """Return its shape, as safetensors does."""
        return list(self.shape)

    def get_dtype(self) -> str:
        """Return the type of its values by its name in safetensors: ``F32``, ``BF16``."""
        from blobstore.codecs.element_types import type_of  # noqa: PLC0415 (import blobstore stays cheap)

        element_type = type_of(self.dtype)
        return element_type.safetensors or element_type.name

    def __getitem__(self, index: Any) -> Array:  # noqa: ANN401 (whatever numpy takes)
        """Return what numpy's ``array[index]`` has, in a new array.

        Args:
            index: Numbers, slices and ``...`` read only what they ask for; with anything else that numpy takes, such as
                a mask, the whole tensor is read.

        Raises:
            IndexError: As numpy's.
            CodecError, FormatError, TruncatedError, UsageError: As ``store[name]``.
        """
        keys = None if self._is_view else _axes(index, len(self.shape))
        if keys is None:
            return self._own(self._elements(0, self._info.size).reshape(self.shape)[index])
        return self._own(self._read(keys))

    def _own(self, part: Any) -> Array:  # noqa: ANN401 (numpy returns a scalar for one element)
        """Return a part in memory of its own: a copy, unless it has that, or is all of what was decoded for it."""
        if not isinstance(part, np.ndarray) or part.flags.owndata:
            return np.asarray(part)
        base = part.base
        is_all = self._info.encoded and isinstance(base, np.ndarray) and part.nbytes == base.nbytes
        return part if is_all else np.array(part)

    def _read(self, keys: list[Any]) -> Any:  # noqa: ANN401 (as above)
        """Read what numbers and slices, one for each dimension, ask for."""
        # Numbers in front choose one run of elements; the dimension after them is the one to read some rows of.
        first, at = 0, 0
        while at < len(keys) and not isinstance(keys[at], slice):
            first += _row(keys[at], self.shape[at]) * math.prod(self.shape[at + 1 :])
            at += 1
        if at == len(keys):
            return self._elements(first, 1)[0]
        rows, inner = range(self.shape[at])[keys[at]], self.shape[at + 1 :]
        width = math.prod(inner)
        if _is_narrow(keys[at + 1 :], inner, self.dtype.itemsize) and rows:
            return np.stack([self._inside(first + row * width, keys[at + 1 :], inner) for row in rows])
        low, high = _span(rows)
        run = self._elements(first + low * width, (high - low) * width)
        return run.reshape(high - low, *inner)[(slice(None, None, rows.step), *keys[at + 1 :])]

    def _inside(self, first: int, keys: list[Any], shape: tuple[int, ...]) -> Any:  # noqa: ANN401 (as above)
        """Return part of one row: only the run between the first and the last chosen element is read."""
        width = math.prod(shape[1:])
        chosen = range(shape[0])[keys[0]]
        low, high = _span(chosen)
        run = self._elements(first + low * width, (high - low) * width).reshape(high - low, *shape[1:])
        step = slice(None, None, chosen.step)
        return run[(step, *keys[1:])]

    def __repr__(self) -> str:
        return f"<TensorSlice {self._info.name!r}: {self.dtype.name} of shape {list(self.shape)}>"


def load_rows(
    store: TensorFile,
    info: TensorInfo,
    rows: Rows | None = None,
    dtype: npt.DTypeLike | None = None,
    out: Array | None = None,
) -> Array:
    """Return some rows of a tensor, or all of it; see `Store.load`."""
    wanted = _checked_dtype(info, dtype)
    shape, runs, step = _chosen(info, rows)
    if out is None:
        target = np.empty(shape, dtype=wanted)
    else:
        _check_out(info, out, shape if step == 1 else _stepped(shape, step), None if dtype is None else wanted)
        direct = step == 1 and out.flags.c_contiguous
        # Not a subclass: a matrix has two dimensions whatever part of it is taken.
        target = np.asarray(out) if direct else np.empty(shape, dtype=out.dtype)
    flat, done = target.reshape(-1), 0
    chosen = list(runs)
    with store.reader.reading_ahead(_places(info, chosen)):
        for first, count in chosen:
            fill(store, info, first, flat[done : done + count])
            done += count
    if out is None:
        return target if step == 1 else target[::step].copy()
    if not direct:
        out[...] = target[::step] if step != 1 else target
    return out


def _places(info: TensorInfo, runs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return where runs of elements are in the file, in order, if there are several and they can be told."""
    if len(runs) < 2 or info.packed or info.blocks or info.encoded or info.dtype is None:
        return []
    width = info.dtype.itemsize
    return sorted((info.offset + first * width, count * width) for first, count in runs)


def _checked_dtype(info: TensorInfo, dtype: npt.DTypeLike | None) -> np.dtype[np.generic]:
    """Return the dtype to convert to: by default the tensor's own."""
    own = dtype_of(info)
    if dtype is None:
        return own
    try:
        if isinstance(dtype, str):
            import ml_dtypes  # noqa: F401, PLC0415 (numpy knows the names of its types from then on)
        wanted = np.dtype(dtype)
    except (TypeError, ValueError) as error:
        raise UsageError("bad-dtype", f"{info.name!r}: {dtype!r:.80} is not a dtype: {error}") from None
    if not np.can_cast(own, wanted, "unsafe"):
        raise UsageError("bad-dtype", f"{info.name!r}: {own} can't be converted to {wanted}")
    return wanted


def _check_out(info: TensorInfo, out: Array, shape: tuple[int, ...], dtype: np.dtype[np.generic] | None) -> None:
    if not isinstance(out, np.ndarray) or not out.flags.writeable:
        found = "a read-only array" if isinstance(out, np.ndarray) else type(out).__name__
        raise UsageError("bad-out", f"{info.name!r}: expected a writable numpy array as out, found {found}")
    if dtype is not None and dtype != out.dtype:
        raise UsageError("bad-out", f"{info.name!r}: out has dtype {out.dtype}, not {dtype}: leave out dtype")
    _checked_dtype(info, out.dtype)
    if out.shape != shape:
        raise UsageError("bad-out", f"{info.name!r}: out has shape {list(out.shape)}, expected {list(shape)}")


def _stepped(shape: tuple[int, ...], step: int) -> tuple[int, ...]:
    return len(range(shape[0])[::step]), *shape[1:]


def _chosen(info: TensorInfo, rows: Rows | None) -> tuple[tuple[int, ...], Iterator[tuple[int, int]], int]:
    """Return what to read for some rows: its shape, its runs (first element, number of elements), the step to take."""
    if rows is None:
        return info.shape, iter([(0, info.size)]), 1
    if not info.shape:
        raise UsageError("no-rows", f"{info.name!r} is a single value: it has no rows to choose from")
    height, inner = info.shape[0], info.shape[1:]
    width = math.prod(inner)
    if isinstance(rows, slice):
        try:
            chosen = range(height)[rows]
        except (TypeError, ValueError) as error:  # a step of 0, or bounds that aren't numbers
            raise UsageError("bad-rows", f"{info.name!r}: {error}") from None
        low, high = _span(chosen)
        return (high - low, *inner), iter([(low * width, (high - low) * width)]), chosen.step
    # Every array has __index__, and True is not a row.
    if hasattr(rows, "__index__") and not isinstance(rows, bool | np.bool_) and not getattr(rows, "shape", ()):
        row = _checked_row(info, rows)
        return inner, iter([(row * width, width)]), 1
    wanted = _row_list(info, rows)
    return (len(wanted), *inner), ((first * width, count * width) for first, count in _runs(wanted)), 1


def _span(chosen: range) -> tuple[int, int]:
    """Return the first and the end of the rows that a range lies between."""
    # Not min(chosen) and max(chosen), which visit all rows: a tensor without elements can have 2⁵⁷ of them.
    return (min(chosen[0], chosen[-1]), max(chosen[0], chosen[-1]) + 1) if chosen else (0, 0)


def _row_list(info: TensorInfo, rows: Any) -> list[int]:  # noqa: ANN401 (checked here)
    try:
        wanted = np.asarray(rows)
    except (TypeError, ValueError):
        wanted = np.asarray(None)
    if wanted.size == 0:
        wanted = wanted.astype(np.int64)
    if wanted.ndim != 1 or wanted.dtype.kind not in "iu":
        raise UsageError(
            "bad-rows", f"{info.name!r}: expected a number, a slice or a list of numbers, found {rows!r:.80}"
        )
    return [_checked_row(info, row) for row in wanted.tolist()]


def _checked_row(info: TensorInfo, row: SupportsIndex) -> int:
    try:
        return _row(row, info.shape[0])
    except (IndexError, TypeError) as error:  # an array of several numbers, or of another type
        raise UsageError("bad-rows", f"{info.name!r}: {error}") from None


def _row(row: SupportsIndex, height: int) -> int:
    number = operator.index(row)
    if not -height <= number < height:
        raise IndexError(f"there is no row {number} among {height}")
    return number % height


def _runs(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield runs of consecutive rows: the first, and how many."""
    start = 0
    for end in range(1, len(rows) + 1):
        if end == len(rows) or rows[end] != rows[end - 1] + 1:
            yield rows[start], end - start
            start = end


def _axes(index: Any, ndim: int) -> list[Any] | None:  # noqa: ANN401 (whatever numpy takes)
    """Return an index as numbers and slices, one for each dimension; None where it has anything else."""
    given = list(index) if isinstance(index, tuple) else [index]
    if any(isinstance(key, (bool, np.bool_)) for key in given):
        return None
    if sum(key is Ellipsis for key in given) == 1:
        at = next(i for i, key in enumerate(given) if key is Ellipsis)
        given[at : at + 1] = [slice(None)] * (ndim + 1 - len(given))
    if len(given) > ndim or not all(isinstance(key, (slice, int, np.integer)) for key in given):
        return None
    return [*given, *[slice(None)] * (ndim - len(given))]


def _is_narrow(keys: list[Any], shape: tuple[int, ...], itemsize: int) -> bool:
    """Whether an index of the columns leaves out so much of each row that it is worth reading rows one by one."""
    if not keys or not isinstance(keys[0], slice):
        return False
    low, high = _span(range(shape[0])[keys[0]])
    return (shape[0] - (high - low)) * math.prod(shape[1:]) * itemsize >= _SKIPPED_NBYTES


def slice_of(store: TensorFile, info: TensorInfo) -> TensorSlice:
    """Return a tensor of a file to be read where it is indexed; see `Store.get_slice`."""
    is_view = not info.encoded and not info.packed and store.reader.access != "read"
    return TensorSlice(info, partial(elements, store, info), is_view=is_view)
