"""`save_file` and `load_file`, compared with those of safetensors."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

import blobstore
from blobstore.codecs import element_types
from tests.tensor_strategies import DTYPES, Model, arrays, metadata_maps, models, names

if TYPE_CHECKING:
    from pathlib import Path

ONES = np.ones(3, dtype=np.float32)

PEERS = [dtype for dtype, name in DTYPES.items() if element_types.BY_NAME[name].safetensors in safetensors.numpy._TYPES]


@given(
    st.dictionaries(
        names.filter(lambda name: name != "__metadata__"),
        arrays().filter(lambda array: array.dtype.newbyteorder("=") in PEERS),
        max_size=4,
    ),
    metadata_maps,
)
def test_files_are_saved_and_loaded_as_safetensors_does(
    tmp_path: Path, tensors: dict[str, Any], metadata: dict[str, str]
) -> None:
    ours, theirs = tmp_path / "m.sbs", tmp_path / "m.safetensors"
    contiguous = {name: np.array(array, order="C") for name, array in tensors.items()}
    blobstore.save_file(tensors, ours, metadata)
    safetensors.numpy.save_file(contiguous, theirs, metadata or None)  # it can't read {} without tensors itself
    loaded, expected = blobstore.load_file(ours), safetensors.numpy.load_file(theirs)
    assert {name: (array.dtype, array.shape, array.tobytes()) for name, array in loaded.items()} == {
        name: (array.dtype, array.shape, array.tobytes()) for name, array in expected.items()
    }
    with safetensors.safe_open(theirs, framework="np") as peer, blobstore.open(ours) as store:
        assert store.metadata == (peer.metadata() or {})


def test_two_names_for_one_array_are_stored_once(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    tied, equal = np.ones((3, 4)), np.ones((3, 4))
    blobstore.save_file({"a": tied, "b": tied, "c": equal, "t": tied.T, "f": tied[:2], "v": tied.view("i8")}, path)
    with blobstore.open(path) as store:
        keys = {name: store.info(name).key for name in store}
        assert keys == {"a": "a", "b": "a", "c": "c", "t": "t", "f": "f", "v": "v"}
        assert np.array_equal(store["b"], tied)


@given(st.lists(st.lists(st.integers(-9, 9), min_size=3, max_size=3), min_size=1, max_size=12))
def test_lists_are_not_taken_for_one_another(tmp_path: Path, rows: list[list[int]]) -> None:
    path = tmp_path / "m.sbs"
    blobstore.save_file({f"x{i}": row for i, row in enumerate(rows)}, path)
    assert {name: array.tolist() for name, array in blobstore.load_file(path).items()} == {
        f"x{i}": row for i, row in enumerate(rows)
    }


class Scaled:
    """An array that is computed on demand, as arrays of other libraries are."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __array__(self, *_: object, **__: object) -> np.ndarray[Any, Any]:
        return np.arange(1000) * self.factor


def test_computed_arrays_are_not_taken_for_one_another(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    tensors: dict[str, Any] = {f"x{i}": Scaled(i) for i in range(10)}
    blobstore.save_file(tensors, path)
    assert all(
        np.array_equal(array, np.arange(1000) * int(name[1:])) for name, array in blobstore.load_file(path).items()
    )


def test_a_file_can_replace_the_one_it_was_read_from(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    blobstore.save_file({"a": ONES}, path)
    with blobstore.open(path) as store:
        blobstore.save_file({"b": store["a"], "c": store["a"]}, path)
        assert store["a"].tolist() == [1, 1, 1]
    assert {name: array.tolist() for name, array in blobstore.load_file(path).items()} == {"b": [1] * 3, "c": [1] * 3}


@given(models())
def test_load_file_gives_writable_arrays_that_are_not_the_file(tmp_path: Path, model: Model) -> None:
    path = tmp_path / "m.sbs"
    model.write(path)
    before = path.read_bytes()
    loaded = blobstore.load_file(path)
    assert {name: (array.dtype, array.shape, array.tobytes()) for name, array in loaded.items()} == model.expected()
    assert all(array.flags.writeable and array.flags.c_contiguous for array in loaded.values())
    for array in loaded.values():
        array.reshape(-1).view(np.uint8)[...] = 255
    assert path.read_bytes() == before


def test_loading_imports_nothing_that_writes(tmp_path: Path) -> None:
    path = tmp_path / "m.sbs"
    blobstore.save_file({"a": ONES}, path)
    run = "import sys, blobstore; blobstore.load_file(sys.argv[1]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", run, str(path)], check=True, capture_output=True, text=True)
    modules = set(done.stdout.split())
    assert "blobstore.store.files" in modules
    assert not modules & {"blobstore.store.writer", "blobstore.container.writer", "blobstore.fileio.atomic"}


OPTIONS: list[dict[str, Any]] = [
    {"digests": digests, "durable": durable} for digests in (True, False) for durable in (True, False)
]


@given(models())
def test_options_of_saving_change_the_digests_and_nothing_else(tmp_path: Path, model: Model) -> None:
    files = []
    for options in OPTIONS:
        path = tmp_path / "m.sbs"
        blobstore.save_file(model.tensors, path, model.metadata, **options)
        files.append(path.read_bytes())
        assert path.read_bytes() == blobstore.save(model.tensors, model.metadata, digests=options["digests"])
    assert files[0] == files[1]
    assert files[2] == files[3]
    with blobstore.open(files[0]) as store, blobstore.open(files[2]) as bare:
        infos = {info.name: info for info in store.infos()}
        assert infos == {info.name: info for info in bare.infos()}
        assert {name: array.tobytes() for name, array in store.items()} == {
            name: array.tobytes() for name, array in bare.items()
        }


@pytest.mark.parametrize("options", OPTIONS)
def test_digests_are_stored_unless_they_are_not_wanted(tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "m.sbs"
    blobstore.save_file({"a": ONES}, path, **options)
    assert blobstore.verify(path).compared == options["digests"]


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was synced, in order; it is."""
    done: list[str] = []
    fsync = os.fsync

    def noted(fd: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noted)
    return done


@pytest.mark.parametrize("options", OPTIONS)
def test_the_disk_is_waited_for_unless_that_is_not_wanted(
    tmp_path: Path, synced: list[str], options: dict[str, Any]
) -> None:
    blobstore.save_file({"a": ONES}, tmp_path / "m.sbs", **options)
    with blobstore.create(tmp_path / "n.sbs", **options) as store:
        store["a"] = ONES
    assert synced == 2 * ["file", "folder"] * options["durable"]


@pytest.mark.parametrize("options", OPTIONS)
def test_whatever_the_options_a_file_is_replaced_by_a_complete_one(tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "m.sbs"
    blobstore.save_file({"old": ONES}, path)
    before = path.read_bytes()

    class Watching(dict[str, Any]):
        def items(self) -> Any:  # noqa: ANN401
            for name, array in super().items():
                yield name, array
                assert path.read_bytes() == before

    blobstore.save_file(Watching(a=ONES, b=np.zeros(1 << 17)), path, **options)
    with blobstore.open(path) as store:
        assert list(store) == ["a", "b"]
    complete = path.read_bytes()
    with pytest.raises(blobstore.UsageError):
        blobstore.save_file({"a": np.zeros(1 << 17), "b": np.array([None])}, path, **options)
    assert path.read_bytes() == complete
    assert os.listdir(tmp_path) == ["m.sbs"]


def test_a_stream_is_not_synced(synced: list[str]) -> None:
    with blobstore.create(io.BytesIO()) as store:
        store["a"] = ONES
    assert synced == []
