"""`blobstore.jax`, with jax: ``make test-jax``. Tests that need no jax are in tests/store/test_framework.py."""

from __future__ import annotations

import gc
import importlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import blobstore
from blobstore import codecs
from blobstore.codecs.element_types import BY_NAME
from blobstore.errors import NameNotFoundError, UsageError
from tests.tensor_strategies import DTYPES, Model, arrays, metadata_maps, models, names, stored_bytes

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    import numpy.typing as npt

    from blobstore.fileio.types import Access

    Array = npt.NDArray[Any]

pytestmark = pytest.mark.jax

VALUES = np.random.default_rng(3).normal(0, 1, (300, 7)).astype(np.float32)
WIDE = ["float64", "int64", "uint64"]


# Without jax this is an error, not a skip: the marker was asked for.
@pytest.fixture(scope="module")
def jax() -> ModuleType:
    return importlib.import_module("jax")


@pytest.fixture(scope="module")
def framework() -> ModuleType:
    return importlib.import_module("blobstore.jax")


def wide(jax: ModuleType) -> Any:  # noqa: ANN401 (a context manager)
    """Allow types of 64 bits in the ``with`` block."""
    return jax.enable_x64(True)  # noqa: FBT003 (jax has no name for it)


def bits(array: Any) -> tuple[str, tuple[int, ...], bytes]:  # noqa: ANN401 (an array of either library)
    return str(array.dtype.name), tuple(array.shape), stored_bytes(np.asarray(array))


def all_bits(tensors: Any) -> dict[str, tuple[str, tuple[int, ...], bytes]]:  # noqa: ANN401 (a mapping to them)
    return {name: bits(tensor) for name, tensor in tensors.items()}


def address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.sbs"
    with blobstore.create(path, metadata={"format": "pt"}) as store:
        store.add("f32", VALUES)
        store.alias("tied", "f32")
        store.part("row 16", "f32", BY_NAME["f32"], (7,), offset=16 * 28)
        store.part("row 1", "f32", BY_NAME["f32"], (7,), offset=28)
        store.part("odd", "f32", BY_NAME["f32"], (5,), offset=1)
        data, scale = codecs.encode("sfp", VALUES)
        store.add_stored("sfp", [data], BY_NAME["sfp"], VALUES.shape, scale=scale)
        for dtype in DTYPES:
            if dtype.name not in WIDE:
                store.add(f"a.{dtype.name}", np.ones((2, 3), dtype=dtype))
    return path


@given(models(), st.sampled_from(["mmap", "read"]))
def test_every_name_reads_bit_for_bit(
    tmp_path: Path, framework: ModuleType, jax: ModuleType, model: Model, access: Access
) -> None:
    path = tmp_path / "m.sbs"
    model.write(path)
    wanted = {name: (dtype.name, shape, data) for name, (dtype, shape, data) in model.expected().items()}
    with wide(jax), framework.open(path, access=access) as store:
        assert all_bits(store) == wanted
        assert {name: bits(store.load(name)) for name in store} == wanted
        assert store.metadata == model.metadata
        assert all_bits(framework.load_file(path)) == wanted


@given(st.dictionaries(names, arrays(), min_size=1, max_size=4), metadata_maps)
def test_whatever_is_saved_comes_back(
    tmp_path: Path, framework: ModuleType, jax: ModuleType, values: dict[str, Array], metadata: dict[str, str]
) -> None:
    path = tmp_path / "m.sbs"
    with wide(jax):
        given_arrays = {
            name: jax.numpy.asarray(array.astype(array.dtype.newbyteorder("="))) for name, array in values.items()
        }
        framework.save_file(given_arrays, path, metadata)
        loaded = framework.load_file(path)
    assert all_bits(loaded) == all_bits(values)
    assert all(isinstance(array, jax.Array) for array in loaded.values())
    with blobstore.open(path) as store:
        assert store.metadata == metadata


def test_arrays_are_views_of_the_mapped_file_where_they_are_aligned(small: Path, framework: ModuleType) -> None:
    with framework.open(small) as store:
        copied = {"row 1", "odd", "sfp"}
        zero = address(store.store["f32"]) - store.store.info("f32").offset
        for name in store:
            pointer = store[name].unsafe_buffer_pointer()
            assert (pointer == zero + store.store.info(name).offset) == (name not in copied), name
        assert store["tied"].unsafe_buffer_pointer() == store["f32"].unsafe_buffer_pointer()


@pytest.mark.parametrize("access", ["mmap", "read"])
def test_arrays_outlive_the_store_and_its_file(small: Path, framework: ModuleType, access: Access) -> None:
    store = framework.open(small, access=access)
    array, half = store["f32"], store["a.bfloat16"]
    small.unlink()
    store.close()
    with pytest.raises(UsageError, match="closed"):
        store["f32"]
    del store
    gc.collect()
    assert np.asarray(array).tobytes() == VALUES.tobytes()
    assert half.tolist() == 2 * [3 * [1]]


def test_a_donated_view_leaves_the_file_alone(small: Path, framework: ModuleType, jax: ModuleType) -> None:
    # The map is read-only: the process would be killed if jax wrote its result there.
    before = small.read_bytes()
    with framework.open(small) as store:
        first = store["f32"]
        changed = jax.jit(lambda x: x.at[0, 0].set(77), donate_argnums=0)(first)
        assert first.is_deleted()
        assert changed[0, 0] == 77
        assert store["f32"][0, 0] == VALUES[0, 0]
    assert small.read_bytes() == before


def test_a_loaded_file_has_memory_of_its_own(small: Path, framework: ModuleType) -> None:
    loaded = framework.load_file(small)
    with framework.open(small) as store:
        zero, size = address(store.store["f32"]) - store.store.info("f32").offset, small.stat().st_size
        assert loaded.keys() == set(store)
        assert not any(array.unsafe_buffer_pointer() in range(zero, zero + size) for array in loaded.values())
    assert loaded["tied"] is loaded["f32"]


def test_encoded_tensors_are_decoded_all_or_some_rows(small: Path, framework: ModuleType, jax: ModuleType) -> None:
    with framework.open(small) as store:
        assert bits(store["sfp"]) == bits(store.store["sfp"])
        assert bits(store.load("sfp", rows=slice(7, 300, 50))) == bits(store.store["sfp"][7:300:50])
        assert bits(store.load("sfp", dtype=jax.numpy.bfloat16)) == bits(store["sfp"].astype(jax.numpy.bfloat16))


@pytest.mark.parametrize("name", WIDE)
def test_64_bits_are_refused_not_narrowed(tmp_path: Path, framework: ModuleType, jax: ModuleType, name: str) -> None:
    path, values = tmp_path / "m.sbs", np.array([2**40 + 1, 7], dtype=name)
    blobstore.save_file({"position_ids": values}, path)
    with framework.open(path) as store:
        for look in (store.__getitem__, store.load, lambda _: framework.load_file(path)):
            with pytest.raises(UsageError, match="needs-x64: 'position_ids'") as caught:
                look("position_ids")
            assert caught.value.path == str(path)
        assert store.load("position_ids", dtype=np.float32).tolist() == [2.0**40, 7]
        with wide(jax):
            assert bits(store["position_ids"]) == bits(values)


def test_the_same_array_is_stored_once(tmp_path: Path, framework: ModuleType, jax: ModuleType) -> None:
    path, base = tmp_path / "m.sbs", jax.numpy.arange(16, dtype=jax.numpy.bfloat16).reshape(4, 4)
    framework.save_file({"embedding": base, "head": base, "equal": base + 0, "turned": base.T}, path)
    with framework.open(path) as store:
        keys = {name: store.store.info(name).key for name in store}
        assert keys["embedding"] == keys["head"]
        assert len(set(keys.values())) == 3
        assert store["turned"].tolist() == base.T.tolist()


def test_what_has_no_stored_form_is_refused(tmp_path: Path, framework: ModuleType, jax: ModuleType) -> None:
    wrong = {"key": jax.random.key(0), "int4": jax.numpy.ones(2, dtype=jax.numpy.int4)}
    for array in wrong.values():
        with pytest.raises(UsageError, match="unsupported-dtype: 'x'"):
            framework.save_file({"x": array}, tmp_path / "m.sbs")
    assert not (tmp_path / "m.sbs").exists()


def test_a_missing_name_is_refused_with_near_names(small: Path, framework: ModuleType) -> None:
    with framework.open(small) as store, pytest.raises(NameNotFoundError, match="did you mean 'f32'"):
        store.get_tensor("f32s")


def test_bytes_are_what_the_file_has(small: Path, tmp_path: Path, framework: ModuleType) -> None:
    arrays = framework.load_file(small)
    framework.save_file(arrays, tmp_path / "m.sbs", {"a": "b"})
    data = framework.save(arrays, {"a": "b"})
    assert data == (tmp_path / "m.sbs").read_bytes()
    assert all_bits(framework.load(data)) == all_bits(arrays)


def test_safe_open_returns_arrays(small: Path, framework: ModuleType, jax: ModuleType) -> None:
    with blobstore.safe_open(small, framework="flax") as file, framework.open(small) as store:
        assert file.keys() == sorted(store)
        assert all_bits(file.get_tensors()) == all_bits(store)
        part = file.get_slice("a.bfloat16")[:, 1:]
        assert isinstance(part, jax.Array)
        assert bits(part) == bits(store["a.bfloat16"][:, 1:])
