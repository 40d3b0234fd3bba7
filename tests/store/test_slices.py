"""Parts of tensors: some rows, or what an index asks for, are what numpy takes of the whole."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import blobstore
from blobstore import CodecError, UsageError, codecs
from blobstore.converting.choices import Choices
from blobstore.packing.pack import pack
from blobstore.store.values import elements
from tests.gemma_checkpoints import convert, small_recipe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SHAPES = [(), (1,), (7,), (5, 3), (4, 6000), (3, 2, 5), (2, 3, 2000), (0, 4), (3, 0)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plain, packed and encoded tensors of several shapes, and a Gemma file with gathered ones."""
    folder = tmp_path_factory.mktemp("slices")
    rng = np.random.default_rng(0)
    with blobstore.create(folder / "plain.sbs") as writer:
        for shape in SHAPES:
            array = rng.normal(size=shape).astype(np.float32)
            writer[f"f32 {shape}"] = array
            codes, scale = codecs.encode("sfp", 3 * array) if array.size else (None, 1.0)
            if codes is not None:
                writer.add_stored(f"sfp {shape}", [codes], "sfp", shape, scale=scale)
    pack(folder / "plain.sbs", folder / "packed.sbs")
    small_recipe("gemma3vlm").write(folder / "c")
    convert(folder / "c", folder / "gemma.sbs", Choices("bf16", "stock"))
    return folder


def bounds(size: int) -> st.SearchStrategy[int | None]:
    return st.none() | st.integers(-size - 2, size + 2)


def slices(size: int) -> st.SearchStrategy[slice]:
    return st.builds(slice, bounds(size), bounds(size), st.none() | st.sampled_from([1, 2, 3, -1, -2]))


def keys(size: int) -> st.SearchStrategy[Any]:
    return slices(size) | st.integers(-size, size - 1) if size else slices(size)


@given(st.data(), st.sampled_from(["plain.sbs", "packed.sbs", "gemma.sbs"]), st.sampled_from(["mmap", "read"]))
def test_a_slice_is_what_numpy_takes(made: Path, data: st.DataObject, file: str, access: Any) -> None:  # noqa: ANN401
    with blobstore.open(made / file, access=access) as store:
        name = data.draw(st.sampled_from(list(store)))
        whole, part = store[name], store.get_slice(name)
        assert (part.get_shape(), part.dtype, part.shape) == (list(whole.shape), whole.dtype, whole.shape)
        index: tuple[Any, ...] = data.draw(st.tuples(*map(keys, whole.shape[: data.draw(st.integers(0, whole.ndim))])))
        if data.draw(st.booleans()) and len(index) < whole.ndim:
            index = (*index, Ellipsis, *data.draw(st.tuples(*map(keys, whole.shape[len(index) + 1 :]))))
        actual = part[index if len(index) != 1 else index[0]]
        assert (actual.shape, actual.dtype) == (whole[index].shape, whole.dtype)
        assert actual.tobytes() == whole[index].tobytes()
        mask = np.arange(math.prod(whole.shape)).reshape(whole.shape) % 3 == 0
        assert part[mask].tobytes() == whole[mask].tobytes()
        with pytest.raises(IndexError):
            part[(0,) * (whole.ndim + 1)]


@given(st.data(), st.sampled_from([1, 20, 1 << 14]))
def test_columns_are_what_numpy_takes_and_little_else_is_read(made: Path, data: st.DataObject, skipped: int) -> None:
    """However much a row has to leave out to be worth reading it by itself."""
    with pytest.MonkeyPatch.context() as patch, blobstore.open(made / "plain.sbs", access="read") as store:
        patch.setattr("blobstore.store.slices._SKIPPED_NBYTES", skipped)
        name = data.draw(st.sampled_from([f"f32 {shape}" for shape in SHAPES if len(shape) > 1]))
        whole = store[name]
        index = data.draw(st.tuples(*map(keys, whole.shape)))
        ellipsis = data.draw(st.integers(0, whole.ndim))
        if data.draw(st.booleans()):  # it may stand for no dimension, too
            index = (*index[:ellipsis], Ellipsis, *index[ellipsis:])
        read = nbytes_read(store, lambda: store.get_slice(name)[index])
        actual = store.get_slice(name)[index]
        assert (actual.shape, actual.tobytes()) == (whole[index].shape, whole[index].tobytes())
        assert read <= whole.nbytes
        if all(isinstance(key, int) for key in index if key is not Ellipsis):
            assert read == 4


@given(st.data(), st.sampled_from(["plain.sbs", "packed.sbs", "gemma.sbs"]), st.sampled_from(["mmap", "read"]))
def test_rows_are_what_numpy_takes(made: Path, data: st.DataObject, file: str, access: Any) -> None:  # noqa: ANN401
    with blobstore.open(made / file, access=access) as store:
        name = data.draw(st.sampled_from([name for name in store if store.info(name).shape]))
        whole = store[name]
        height = whole.shape[0]
        many = st.lists(st.integers(-height, height - 1), max_size=6) if height else st.just([])
        rows = data.draw(keys(height) | many)
        expected = whole[rows] if rows != [] else whole[:0]
        dtype = data.draw(st.sampled_from([None, np.float32, np.float16]))
        with np.errstate(over="ignore"):
            wanted = expected if dtype is None else expected.astype(dtype)
        actual = store.load(name, rows=rows, dtype=dtype)
        assert (actual.shape, actual.dtype, actual.tobytes()) == (wanted.shape, wanted.dtype, wanted.tobytes())
        assert actual.flags.writeable
        # Into memory of one's own, in any order.
        out = np.empty(wanted.shape, wanted.dtype, order=data.draw(st.sampled_from(["C", "F"])))
        assert store.load(name, rows=rows, out=out) is out
        assert out.tobytes() == wanted.tobytes()


def test_wrong_rows_and_wrong_memory_are_refused(made: Path) -> None:
    with blobstore.open(made / "plain.sbs") as store:
        name, out = "f32 (5, 3)", np.empty((5, 3), np.float32)
        wrong: list[Any] = [
            True,
            np.True_,
            np.array(1.0),
            5,
            6,
            -6,
            [0, 5],
            [[0], [1, 2]],
            [[0]],
            "a",
            1.5,
            [True],
            [0.5],
            slice(None, None, 0),
            slice("a"),
        ]
        wrong += [np.array([5]), np.array([[0]]), np.array([0.5]), np.array([True])]
        for rows in wrong:
            with pytest.raises(UsageError, match="bad-rows: 'f32"):
                store.load(name, rows=rows)
        fixed = np.broadcast_to(out[:1], out.shape)
        for options in (
            {"out": out[:2]},
            {"out": out, "dtype": np.float16},
            {"out": out, "rows": slice(1)},
            {"out": out.tolist()},
            {"out": fixed},
        ):
            with pytest.raises(UsageError, match="bad-out: 'f32"):
                store.load(name, **options)
        for dtype in ("nonsense", (3, 4, 5)):
            with pytest.raises(UsageError, match="bad-dtype: 'f32"):
                store.load(name, dtype=dtype)  # type: ignore[arg-type]
        frozen: Any = np.zeros((5, 3), np.float32)
        frozen.flags.writeable = False
        outs: list[tuple[Any, str]] = [(frozen, "a read-only array"), ([], "list")]
        for unusable, what in outs:
            with pytest.raises(UsageError, match=f"bad-out: .*{what}"):
                store.load(name, out=unusable)
        with pytest.raises(UsageError, match="no-rows"):
            store.load("f32 ()", rows=0)
        with pytest.raises(CodecError, match="not-float"):
            store.load("sfp (5, 3)", dtype=np.int32)


def nbytes_read(store: blobstore.Store, use: Callable[[], object]) -> int:
    """Return how many bytes are read: with plain reads, all of them are asked for."""
    seen: list[int] = []
    view = store.reader.view

    def counted(offset: int, nbytes: int) -> memoryview:
        seen.append(nbytes)
        return view(offset, nbytes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store.reader, "view", counted)
        use()
    return sum(seen)


@pytest.mark.parametrize("subclass", [np.matrix, np.ma.MaskedArray])
def test_an_out_of_another_class_is_filled(made: Path, subclass: type[Any]) -> None:
    with blobstore.open(made / "plain.sbs") as store:
        name = "f32 (5, 3)"
        out = np.zeros((5, 3), np.float32).view(subclass)
        assert store.load(name, out=out) is out
        assert np.asarray(out).tobytes() == store.tobytes(name)


def test_rows_come_from_arrays_of_numbers_too(made: Path) -> None:
    with blobstore.open(made / "plain.sbs") as store:
        name = "f32 (5, 3)"
        whole = store[name]
        wanted: list[Any] = [np.array([4, 0]), np.array([2], np.uint8), np.array([], int), np.array(3), np.int8(-1)]
        for rows in wanted:
            assert store.load(name, rows=rows).tobytes() == whole[rows].tobytes()


@given(st.data(), st.sampled_from([(8, 1), (8, 8), (100, 1), (100, 64), (1 << 20, 1 << 12)]))
def test_any_run_of_a_gathered_tensor_is_what_the_whole_has(
    made: Path, data: st.DataObject, sizes: tuple[int, int]
) -> None:
    """However many elements are gathered at once, and wherever a run begins and ends in a row."""
    with blobstore.open(made / "gemma.sbs") as store:
        info = store.info(data.draw(st.sampled_from([info.name for info in store.infos() if info.blocks])))
        whole = store[info.name].reshape(-1)
        first = data.draw(st.integers(0, info.size))
        count = data.draw(st.integers(0, info.size - first))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("blobstore.store.values._GATHERED_AT_ONCE", sizes[0])
            patch.setattr("blobstore.store.values._SHORT_ROW", sizes[1])
            for start, length in ((first, count), (0, info.size)):
                assert elements(store, info, start, length).tobytes() == whole[start : start + length].tobytes()


CUBE = [
    np.s_[:, 1:2, 5:9],
    np.s_[1, 2:0:-1, 3],
    np.s_[:, ::2],
    np.s_[0, 1:3],
    np.s_[::-1, 1:3, ::3],
    np.s_[..., 1:3, 4],
]


@pytest.mark.parametrize("skipped", [1, 40, 1 << 14])
@pytest.mark.parametrize("index", CUBE)
def test_a_part_of_a_cube_is_what_numpy_takes(tmp_path: Path, index: Any, skipped: int) -> None:  # noqa: ANN401
    cube = np.arange(3 * 4 * 11, dtype=np.float32).reshape(3, 4, 11)
    blobstore.save_file({"cube": cube}, tmp_path / "a.sbs")
    with pytest.MonkeyPatch.context() as patch, blobstore.open(tmp_path / "a.sbs", access="read") as store:
        patch.setattr("blobstore.store.slices._SKIPPED_NBYTES", skipped)
        assert np.array_equal(store.get_slice("cube")[index], cube[index])
        out = np.empty((2, 4, 11), np.float32)
        assert np.array_equal(store.load("cube", rows=slice(None, None, 2), out=out), cube[::2])


def test_only_what_is_asked_for_is_read(made: Path) -> None:
    with blobstore.open(made / "plain.sbs", access="read") as store:
        name = "f32 (4, 6000)"
        cases: list[tuple[Callable[[], object], int]] = [
            (lambda: store.load(name, rows=[3, 0, 1]), 3 * 6000 * 4),
            (lambda: store.load(name, rows=2), 6000 * 4),
            (lambda: store.get_slice(name)[1:3], 2 * 6000 * 4),
            (lambda: store.get_slice(name)[1, 10:20], 40),
            (lambda: store.get_slice(name)[:, 10:20], 4 * 40),
            (lambda: store.get_slice(name)[:, 100:1900:2], 4 * 4 * 1799),  # leaves out 4,201 values, 16,804 bytes
            (lambda: store.get_slice(name)[:, 1:1905], 4 * 4 * 1904),  # 16,384 bytes
            (lambda: store.get_slice(name)[:, 1:1906], 4 * 4 * 6000),  # fewer: whole rows are faster
        ]
        for read, nbytes in cases:
            assert nbytes_read(store, read) == nbytes
        # Two rows in a row are read at once, and a type has its name in safetensors, if it has one there.
        with blobstore.open(made / "plain.sbs", access="read") as other:
            assert other.get_slice(name).get_dtype() == "F32"
        out = np.zeros((2, 6000), np.float32, order="F")
        assert np.array_equal(store.load(name, rows=slice(3, 1, -1), out=out), store[name][3:1:-1])
