"""What `blobstore.torch` and `blobstore.jax` share, with numpy as the library. See also test_torch.py, test_jax.py."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import blobstore
from blobstore import codecs
from blobstore.codecs.element_types import BY_NAME, type_of
from blobstore.errors import MissingExtraError, NameNotFoundError, UsageError
from blobstore.store.framework import FrameworkStore, import_extra
from tests.tensor_strategies import Model, models

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from blobstore.codecs.element_types import ElementType
    from blobstore.fileio.types import Access

    Array = npt.NDArray[Any]

VALUES = np.random.default_rng(3).normal(0, 1, (6, 5)).astype(np.float32)


class NumpyStore(FrameworkStore["Array"]):
    def _convert(self, name: str, kind: ElementType | None, values: Array) -> Array:
        assert isinstance(name, str)
        if (kind or type_of(values.dtype)).name == "u16":
            raise UsageError("unsupported-dtype", "not known here")
        assert values.flags.c_contiguous
        assert values.flags.aligned
        return values


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.sbs"
    with blobstore.create(path, metadata={"format": "pt"}) as store:
        store.add("f32", VALUES)
        store.alias("tied", "f32")
        store.part("row", "f32", BY_NAME["f32"], (5,), offset=20)
        store.part("odd", "f32", BY_NAME["f32"], (5,), offset=1)
        data, scale = codecs.encode("sfp", VALUES)
        store.add_stored("sfp", [data], BY_NAME["sfp"], VALUES.shape, scale=scale)
        store.add("scalar", np.int8(3))
    return path


@given(models(), st.booleans())
def test_every_name_reads_bit_for_bit(tmp_path: Path, model: Model, writable: bool) -> None:
    path = tmp_path / "m.sbs"
    model.write(path)
    # This test's library lacks u16.
    expected = {name: values for name, values in model.expected().items() if values[0] != np.uint16}
    with NumpyStore(path, writable=writable) as store:
        assert list(store) == list(store.keys()) == list(store.store)
        for name, (dtype, shape, data) in expected.items():
            for array in (store[name], store.get_tensor(name), store.load(name)):
                assert (array.dtype, array.shape, array.tobytes()) == (dtype, shape, data)
        assert store.metadata == model.metadata


def test_arrays_are_views_unless_their_elements_are_not_aligned(small: Path) -> None:
    with NumpyStore(small) as store:
        assert np.shares_memory(store["f32"], store["tied"])
        assert np.shares_memory(store["row"], store["f32"])
        assert not np.shares_memory(store["odd"], store["f32"])
        assert store["odd"].tobytes() == VALUES.tobytes()[1:21]


def test_all_names_of_one_tensor_load_as_one(small: Path) -> None:
    with NumpyStore(small) as store:
        loaded = store.load_all()
        assert loaded.keys() == set(store)
        assert loaded["f32"] is loaded["tied"]
        assert np.shares_memory(loaded["row"], loaded["f32"])
        assert not any(np.shares_memory(loaded[name], loaded["f32"]) for name in ("odd", "sfp"))
        assert not np.shares_memory(loaded["f32"], store["f32"])
        assert all(array.flags.writeable for array in loaded.values())


def test_encoded_tensors_are_decoded_all_or_some_rows(small: Path) -> None:
    with NumpyStore(small) as store:
        assert store["sfp"].dtype == np.float32
        assert store["sfp"].tobytes() == store.store["sfp"].tobytes()
        assert store.load("sfp", rows=slice(1, 6, 2)).tobytes() == store["sfp"][1:6:2].tobytes()
        assert store.load("sfp", dtype=np.float16).dtype == np.float16


def test_it_is_a_mapping_that_names_what_is_missing(small: Path) -> None:
    with NumpyStore(small) as store:
        assert repr(store) == f"<NumpyStore {str(small)!r}: 6 tensors>"
        assert len(store) == 6
        assert ("f32" in store, "f33" in store, store.__contains__(7)) == (True, False, False)
        assert (store.get("f33"), store.get("f33", 7)) == (None, 7)
        assert store.get("scalar").tolist() == 3
        for look in (store.__getitem__, store.get_tensor, store.load):
            with pytest.raises(NameNotFoundError, match="no tensor has the name 'scalars': did you mean 'scalar'"):
                look("scalars")


@pytest.mark.parametrize("access", ["mmap", "read"])
def test_arrays_outlive_the_store_and_its_file(small: Path, access: Access) -> None:
    store = NumpyStore(small, access=access)
    array = store["f32"]
    small.unlink()
    store.close()
    with pytest.raises(UsageError, match="closed"):
        store["f32"]
    del store
    gc.collect()
    assert array.tobytes() == VALUES.tobytes()


def test_tensors_are_got_together(small: Path) -> None:
    with NumpyStore(small) as store:
        some = store.get_tensors(["tied", "row", "f32"])
        assert list(some) == ["tied", "row", "f32"]
        assert some["tied"] is some["f32"]
        assert np.shares_memory(some["row"], store["f32"])
        assert store.get_tensors().keys() == set(store)
        with pytest.raises(NameNotFoundError, match="did you mean 'row'"):
            store.get_tensors(["f32", "rows"])


def test_some_arrays_are_loaded_by_name(small: Path) -> None:
    with blobstore.open(small) as store:
        assert list(store.load_all(["sfp", "row"])) == ["sfp", "row"]
        with pytest.raises(NameNotFoundError, match="did you mean 'row'"):
            store.load_all(["rows"])


def test_copies_open_the_file_again_with_the_same_options(small: Path) -> None:
    with NumpyStore(small, access="read", use_index=False) as store:
        for again in (copy.copy(store), copy.deepcopy(store), pickle.loads(pickle.dumps(store))):  # noqa: S301 (ours)
            with again:
                assert again.store is not store.store
                assert again.store.index is None
                assert list(again) == list(store)
                assert again.store.reader.access == "read"
            assert store[next(iter(store))].nbytes
        assert store == store  # noqa: PLR0124 (it is what is tested)
        assert len({store, again}) == 2


def test_a_type_that_the_library_lacks_is_refused_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    blobstore.save_file({"a": np.arange(2, dtype=np.uint16)}, path)
    with NumpyStore(path) as store:
        for look in (store.__getitem__, store.load):
            with pytest.raises(UsageError) as caught:
                look("a")
            assert caught.value.path == str(path)


# The libraries themselves.


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_a_missing_library_is_refused_with_the_extra_to_install(name: str) -> None:
    # Python treats a module that is None in sys.modules as missing, installed or not.
    run = f"import sys; sys.modules[{name!r}] = None\nimport blobstore.{name}"
    done = subprocess.run([sys.executable, "-c", run], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.endswith(
        f"blobstore.errors.MissingExtraError: missing-extra: blobstore.{name} needs {name}: pip install {name}\n"
    )


def test_a_missing_library_is_an_import_error() -> None:
    with pytest.raises(ImportError) as caught:
        import_extra("there_is_no_such_library")
    assert isinstance(caught.value, MissingExtraError)


def test_a_library_that_misses_another_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "misses_another.py").write_text("import there_is_no_such_library")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="'there_is_no_such_library'"):
        import_extra("misses_another")


def test_nothing_else_imports_the_libraries(tmp_path: Path) -> None:
    for name in ("torch", "jax"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')")
    run = (
        "import sys, pkgutil, importlib; sys.path.insert(0, sys.argv[1]); import blobstore\n"
        "for module in pkgutil.walk_packages(blobstore.__path__, 'blobstore.'):\n"
        "    if module.name not in ('blobstore.torch', 'blobstore.jax', 'blobstore.__main__'):\n"
        "        importlib.import_module(module.name)\n"
        "blobstore.save_file({'a': [1]}, sys.argv[1] + '/m.sbs'); blobstore.load_file(sys.argv[1] + '/m.sbs')\n"
    )
    subprocess.run([sys.executable, "-c", run, str(tmp_path)], check=True)
