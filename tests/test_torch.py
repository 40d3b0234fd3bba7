"""`blobstore.torch`, with torch: ``make test-torch``. Tests that need no torch are in tests/store/test_framework.py."""

from __future__ import annotations

import gc
import importlib
import os
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors
from hypothesis import given
from hypothesis import strategies as st

import blobstore
from blobstore import codecs
from blobstore.codecs.element_types import BY_NAME
from blobstore.errors import CodecError, ModelMismatchError, NameNotFoundError, UsageError
from tests.checkpoints import linux_only
from tests.memory import run_program
from tests.strategies import payload
from tests.tensor_strategies import DTYPES, LAYOUTS, Model, arrays, metadata_maps, models, names, stored_bytes

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    import numpy.typing as npt

    from blobstore.fileio.types import Access

    Array = npt.NDArray[Any]

pytestmark = pytest.mark.torch

both_accesses = pytest.mark.parametrize("access", ["mmap", "read"])
VALUES = np.random.default_rng(3).normal(0, 1, (300, 7)).astype(np.float32)


# Without torch this is an error, not a skip: the marker was asked for.
@pytest.fixture(scope="module")
def torch() -> ModuleType:
    return importlib.import_module("torch")


@pytest.fixture(scope="module")
def framework() -> ModuleType:
    return importlib.import_module("blobstore.torch")


@pytest.fixture(scope="module")
def peer() -> ModuleType:
    return importlib.import_module("safetensors.torch")


def bits(tensor: Any) -> tuple[str, tuple[int, ...], bytes]:  # noqa: ANN401 (a tensor)
    """Dtype, shape and bytes in C order, read otherwise than `blobstore.torch` does."""
    flat = tensor.detach().contiguous().reshape(-1)
    raw = bytes(flat.untyped_storage())[flat.storage_offset() * flat.element_size() :][: flat.nbytes]
    return str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), raw


def all_bits(tensors: Any) -> dict[str, tuple[str, tuple[int, ...], bytes]]:  # noqa: ANN401 (a mapping to them)
    return {name: bits(tensor) for name, tensor in tensors.items()}


def expected(array: Array) -> tuple[str, tuple[int, ...], bytes]:
    return array.dtype.name, array.shape, stored_bytes(array)


def tensor_of(torch: ModuleType, array: Array) -> Any:  # noqa: ANN401 (a tensor)
    """The same values and bits as a tensor; the same strides as well, if torch has such strides."""
    native = np.asarray(array).astype(array.dtype.newbyteorder("="), copy=False)
    if any(stride < 0 for stride in native.strides):
        native = native.copy()
    dtype = getattr(torch, native.dtype.name)
    base = native if native.flags.writeable else native.copy("K")
    return torch.from_numpy(base.view(f"u{base.itemsize}")).view(dtype)


def mapped(path: Path) -> range:
    """The addresses at which this process has a file mapped."""
    with open("/proc/self/maps") as maps:
        lines = [line.split() for line in maps if line.rstrip().endswith(str(path))]
    assert len(lines) == 1
    first, _, last = lines[0][0].partition("-")
    return range(int(first, 16), int(last, 16))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.sbs"
    with blobstore.create(path, metadata={"format": "pt"}) as store:
        store.add("f32", VALUES)
        store.alias("tied", "f32")
        store.part("odd", "f32", BY_NAME["f32"], (5,), offset=1)
        for name in ("sfp", "i8"):
            data, scale = codecs.encode(name, VALUES)
            store.add_stored(name, [data], BY_NAME[name], VALUES.shape, scale=scale)
        for dtype in DTYPES:
            store.add(f"a.{dtype.name}", np.ones((2, 3), dtype=dtype))
        store.add("scalar", np.array(1, dtype=np.float16))
        store.add("empty", np.zeros((0, 4), dtype=BY_NAME["bf16"].dtype))
    return path


# Reading.


@given(models(), st.sampled_from(["mmap", "read"]))
def test_every_name_reads_bit_for_bit(tmp_path: Path, framework: ModuleType, model: Model, access: Access) -> None:
    path = tmp_path / "m.sbs"
    model.write(path)
    wanted = {name: (dtype.name, shape, data) for name, (dtype, shape, data) in model.expected().items()}
    with framework.open(path, access=access) as store:
        assert all_bits(store) == wanted
        assert {name: bits(store.load(name)) for name in store} == wanted
        assert store.metadata == model.metadata
    assert all_bits(framework.load_file(path)) == wanted


def test_every_type_has_a_dtype(small: Path, framework: ModuleType, torch: ModuleType) -> None:
    with framework.open(small) as store:
        for dtype in DTYPES:
            tensor = store[f"a.{dtype.name}"]
            assert tensor.dtype is getattr(torch, dtype.name)
            assert tensor.to(torch.complex64).tolist() == 2 * [3 * [1]]


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="the addresses of the map are read from /proc")
def test_tensors_are_views_of_the_mapped_file(small: Path, framework: ModuleType) -> None:
    with framework.open(small) as store:
        addresses = mapped(small)
        for name in store:
            info = store.store.info(name)
            inside = store[name].data_ptr() in addresses
            assert inside == (name not in {"odd", "sfp", "i8", "empty"}), name
            assert not inside or store[name].data_ptr() == addresses.start + info.offset
        assert store["f32"].data_ptr() == store["tied"].data_ptr() == store.get_tensor("f32")[:1].data_ptr()


def test_all_names_see_what_is_written_and_the_file_never_changes(small: Path, framework: ModuleType) -> None:
    before = small.read_bytes()
    with framework.open(small) as store, framework.open(small) as second:
        store["f32"][3, 3] = 77
        store["a.bfloat16"].zero_()
        assert store["tied"][3, 3] == store.store["f32"][3, 3] == 77
        assert second["f32"][3, 3] == VALUES[3, 3]
    assert small.read_bytes() == before


@both_accesses
def test_tensors_outlive_the_store_and_its_file(small: Path, framework: ModuleType, access: Access) -> None:
    store = framework.open(small, access=access)
    row, half = store["f32"][299], store["a.bfloat16"]
    small.unlink()
    store.close()
    with pytest.raises(UsageError, match="closed"):
        store["f32"]
    del store
    gc.collect()
    assert row.tolist() == VALUES[299].tolist()
    assert half.tolist() == 2 * [3 * [1]]


def test_a_loaded_file_has_memory_of_its_own(small: Path, framework: ModuleType) -> None:
    loaded = framework.load_file(small)
    with framework.open(small) as store:
        assert loaded.keys() == set(store)
        assert all(tensor.data_ptr() != store[name].data_ptr() for name, tensor in loaded.items() if tensor.numel())
        loaded["f32"].mul_(2)
        assert loaded["tied"] is loaded["f32"]
        assert store["f32"].tolist() == VALUES.tolist()


@both_accesses
@pytest.mark.parametrize("name", ["sfp", "i8"])
def test_encoded_tensors_are_decoded(
    small: Path, framework: ModuleType, torch: ModuleType, access: Access, name: str
) -> None:
    with framework.open(small, access=access) as store:
        assert bits(store[name]) == expected(store.store[name])
        assert store[name].dtype is torch.float32
        for dtype in (torch.bfloat16, torch.float16, torch.float64):
            tensor = store.load(name, dtype=dtype)
            assert bits(tensor) == bits(store[name].to(dtype))
        with pytest.raises(CodecError, match="not-float"):
            store.load(name, dtype=torch.int8)
    assert bits(framework.load_file(small)[name]) == expected(blobstore.load_file(small)[name])


@pytest.mark.parametrize("rows", [slice(0, 3), slice(7, 300, 50), slice(5, 5), slice(None, None, -1)], ids=str)
@pytest.mark.parametrize("name", ["f32", "sfp", "i8", "a.bfloat16", "a.uint16"])
def test_rows_are_loaded_alone(small: Path, framework: ModuleType, name: str, rows: slice) -> None:
    with framework.open(small) as store:
        assert bits(store.load(name, rows=rows)) == expected(store.store.load(name)[rows])


def test_values_convert_as_torch_converts_them(small: Path, framework: ModuleType, torch: ModuleType) -> None:
    with framework.open(small) as store:
        assert bits(store.load("f32", dtype=torch.bfloat16)) == bits(store["f32"].to(torch.bfloat16))
        assert bits(store.load("a.int64", dtype=torch.float16)) == bits(store["a.int64"].to(torch.float16))
        with pytest.raises(UsageError, match="unsupported-dtype: no element type stores dtype qint8"):
            store.load("f32", dtype=torch.qint8)


def test_tensors_go_to_the_device_that_was_asked_for(small: Path, framework: ModuleType, torch: ModuleType) -> None:
    with framework.open(small, "meta") as store:
        assert {tensor.device for tensor in store.values()} == {torch.device("meta")}
        assert store["f32"].shape == (300, 7)
    assert framework.load_file(small, device=torch.device("meta"))["a.bfloat16"].is_meta


def test_a_type_that_torch_lacks_is_refused(
    small: Path, framework: ModuleType, torch: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torch, "float8_e8m0fnu")  # as before torch 2.7
    monkeypatch.setattr(framework, "_torch_dtype", framework._torch_dtype.__wrapped__)  # it remembers
    with framework.open(small) as store:
        with pytest.raises(UsageError) as caught:
            store["a.float8_e8m0fnu"]
        assert str(caught.value) == (
            f"unsupported-dtype: 'a.float8_e8m0fnu' is f8_e8m0, and torch {torch.__version__} has no float8_e8m0fnu: "
            f"load(name, dtype=torch.float32) converts it [{small}]"
        )
        assert store.load("a.float8_e8m0fnu", dtype=torch.float32).tolist() == 2 * [3 * [1]]


def test_a_missing_name_is_refused_with_near_names(small: Path, framework: ModuleType) -> None:
    with framework.open(small) as store:
        assert "f32s" not in store
        assert store.get("f32s") is None
        with pytest.raises(NameNotFoundError, match="did you mean 'f32'"):
            store.get_tensor("f32s")


# Writing.


@given(st.dictionaries(names, arrays(), min_size=1, max_size=4), metadata_maps)
def test_whatever_is_saved_comes_back(
    tmp_path: Path, framework: ModuleType, torch: ModuleType, values: dict[str, Array], metadata: dict[str, str]
) -> None:
    path = tmp_path / "m.sbs"
    tensors = {name: tensor_of(torch, array) for name, array in values.items()}
    framework.save_file(tensors, path, metadata)
    with blobstore.open(path) as store:
        assert {name: expected(array) for name, array in store.items()} == {
            name: expected(array) for name, array in values.items()
        }
        assert store.metadata == metadata
    loaded = framework.load_file(path)
    assert all_bits(loaded) == all_bits(tensors)


@given(st.data())
def test_it_is_what_safetensors_loads(
    tmp_path: Path, framework: ModuleType, peer: ModuleType, torch: ModuleType, data: st.DataObject
) -> None:
    values = data.draw(st.dictionaries(st.text("abc.", min_size=1), arrays(), min_size=1, max_size=4))
    tensors = {name: tensor_of(torch, array).contiguous() for name, array in values.items()}
    framework.save_file(tensors, tmp_path / "m.sbs")
    # Empty tensors may share an address, which safetensors takes for shared memory.
    peer.save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "m.safetensors")
    ours, theirs = framework.load_file(tmp_path / "m.sbs"), peer.load_file(tmp_path / "m.safetensors")
    assert all_bits(ours) == all_bits(theirs)
    peer.save_file({name: tensor.clone() for name, tensor in ours.items()}, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "m.safetensors").read_bytes()
    with framework.open(tmp_path / "m.sbs") as store, safetensors.safe_open(tmp_path / "m.safetensors", "pt") as opened:
        assert sorted(store.keys()) == sorted(opened.keys())
        assert all(bits(store.get_tensor(name)) == bits(opened.get_tensor(name)) for name in opened.keys())  # noqa: SIM118 (not a mapping)


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "reversed"])
@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPES.values())
def test_any_strides_are_written_in_c_order(
    tmp_path: Path, framework: ModuleType, torch: ModuleType, dtype: np.dtype[Any], layout: str
) -> None:
    raw = payload(5, 24 * dtype.itemsize)
    raw = bytes(byte & 1 for byte in raw) if dtype == np.bool_ else raw
    plain = tensor_of(torch, np.frombuffer(raw, dtype=dtype).reshape(2, 3, 4))
    tensor = {
        "c": plain,
        "fortran": plain.permute(2, 1, 0),
        "strided": plain[:, ::2, 1::3],
        "broadcast": plain[:1].expand(5, 3, 4),
    }[layout]
    framework.save_file({"x": tensor}, tmp_path / "m.sbs")
    assert bits(framework.load_file(tmp_path / "m.sbs")["x"]) == bits(tensor)


def test_the_very_same_tensor_is_stored_once(tmp_path: Path, framework: ModuleType, torch: ModuleType) -> None:
    base = torch.arange(16, dtype=torch.float32).reshape(4, 4)
    tensors = {
        "embedding": base,
        "head": base,
        "a view of all": base[:],
        "parameter": torch.nn.Parameter(base),
        "rows": base[1:],
        "first rows": base[:2],
        "turned": base.T,
        "as integers": base.view(torch.int32),
        "equal": base.clone(),
        "empty": base[:0],
        "also empty": base[:0],
    }
    framework.save_file(tensors, tmp_path / "m.sbs")
    with framework.open(tmp_path / "m.sbs") as store:
        keys = {name: store.store.info(name).key for name in store}
        assert {name for name, key in keys.items() if key == keys["embedding"]} == {
            "embedding",
            "head",
            "a view of all",
            "parameter",
        }
        assert len({key for key in keys.values() if key}) == 6
        assert {name: tensor.tolist() for name, tensor in store.items()} == {n: t.tolist() for n, t in tensors.items()}
    again = framework.load_file(tmp_path / "m.sbs")
    framework.save_file(again, tmp_path / "again.sbs")
    assert (tmp_path / "again.sbs").stat().st_size == (tmp_path / "m.sbs").stat().st_size


def test_lazy_conjugates_and_negatives_are_written_as_what_they_are(
    tmp_path: Path, framework: ModuleType, torch: ModuleType
) -> None:
    base = torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex64)
    tensors = {"base": base, "conj": base.conj(), "imag": base.imag, "neg": base.conj().imag}
    assert tensors["conj"].is_conj()
    assert tensors["neg"].is_neg()
    framework.save_file(tensors, tmp_path / "m.sbs")
    assert {name: tensor.tolist() for name, tensor in framework.load_file(tmp_path / "m.sbs").items()} == {
        "base": [1 + 2j, 3 - 4j],
        "conj": [1 - 2j, 3 + 4j],
        "imag": [2, -4],
        "neg": [-2, 4],
    }


def test_a_store_can_be_saved(small: Path, tmp_path: Path, framework: ModuleType) -> None:
    with framework.open(small) as store:
        framework.save_file(store, tmp_path / "copy.sbs", store.metadata)
        with framework.open(tmp_path / "copy.sbs") as copy:
            assert all_bits(copy) == all_bits(store)
            assert copy["tied"].data_ptr() == copy["f32"].data_ptr()


def test_what_has_no_stored_form_is_refused_with_the_fix(
    tmp_path: Path, framework: ModuleType, torch: ModuleType
) -> None:
    ones = torch.ones(2, 2)
    with pytest.warns(UserWarning, match="deprecated|prototype"):
        quantised = torch.quantize_per_tensor(ones, 0.1, 0, torch.qint8)
    cases: dict[str, tuple[Any, str]] = {
        "sparse": (
            ones.to_sparse(),
            r"unsupported-tensor: 'x' is of layout torch.sparse_coo, .*: save tensor.to_dense",
        ),
        "csr": (torch.eye(2).to_sparse_coo(), "unsupported-tensor"),
        "meta": (torch.ones(2, device="meta"), "unsupported-tensor: 'x' is on the device meta"),
        "quantised": (quantised, r"unsupported-tensor: 'x' is quantised, .*: save tensor.dequantize"),
        "mkldnn": (ones.to_mkldnn(), "unsupported-tensor: 'x' is of layout torch._mkldnn"),
        "nested": (torch.nested.nested_tensor([ones], layout=torch.jagged), "unsupported-tensor: 'x' is nested"),
        "complex128": (ones.to(torch.complex128), "unsupported-dtype: 'x': no element type stores dtype complex128"),
        "numpy": (np.ones(2), "not-a-tensor: 'x' is a ndarray, expected a torch.Tensor"),
        "float": (1.5, "not-a-tensor: 'x' is a float"),
    }
    for tensor, text in cases.values():
        with pytest.raises(UsageError, match=text):
            framework.save_file({"x": tensor}, tmp_path / "m.sbs")
    assert not os.listdir(tmp_path)


def test_what_is_not_a_mapping_is_refused(tmp_path: Path, framework: ModuleType) -> None:
    with pytest.raises(UsageError, match="not-a-mapping: expected a mapping from name to tensor, found str"):
        framework.save_file("tensors", tmp_path / "m.sbs")


def test_bytes_are_what_the_file_has(small: Path, tmp_path: Path, framework: ModuleType) -> None:
    tensors = framework.load_file(small)
    framework.save_file(tensors, tmp_path / "m.sbs", {"a": "b"})
    data = framework.save(tensors, {"a": "b"})
    assert data == (tmp_path / "m.sbs").read_bytes()
    assert all_bits(framework.load(data)) == all_bits(tensors)


@pytest.mark.parametrize("shape", [(8,), (3, 4), (2, 3, 2), (0, 2), (2, 0)], ids=str)
def test_pairs_of_4_bit_floats_come_back(
    tmp_path: Path, framework: ModuleType, peer: ModuleType, torch: ModuleType, shape: tuple[int, ...]
) -> None:
    octets = torch.randint(0, 256, shape, dtype=torch.uint8)
    tensor = octets.view(torch.float4_e2m1fn_x2)
    turned = octets.movedim(0, -1)
    tensors = {"x": tensor, "same": tensor, "turned": turned.view(torch.float4_e2m1fn_x2)}
    framework.save_file(tensors, tmp_path / "m")
    loaded = framework.load_file(tmp_path / "m")
    assert bits(loaded["x"].view(torch.uint8)) == bits(octets)
    assert loaded["same"] is loaded["x"] or not octets.numel()
    assert bits(loaded["turned"].view(torch.uint8)) == bits(turned)
    with framework.open(tmp_path / "m") as store:
        assert bits(store["x"].view(torch.uint8)) == bits(octets)
        assert store["x"].dtype is loaded["x"].dtype is torch.float4_e2m1fn_x2
        assert bits(store.load("x", rows=slice(1, 3)).view(torch.uint8)) == bits(octets[1:3])
        for rows in (slice(None, None, -1), [0, len(octets) - 1] if len(octets) else [], (0,) if len(octets) else ()):
            wanted = octets.numpy()[list(rows) if isinstance(rows, tuple) else rows]
            assert store.load("x", rows=rows).view(torch.uint8).numpy().tobytes() == wanted.tobytes()
        with pytest.raises(UsageError, match="bad-rows"):
            store.load("x", rows=[99])
        with pytest.raises(CodecError, match="packed-type"):
            store.load("x", dtype=torch.float32)
        # As safetensors, the file counts values, not pairs.
        peer.save_file({"x": tensor}, tmp_path / "peer")
        with safetensors.safe_open(tmp_path / "peer", "pt") as opened:
            assert list(store.store.info("x").shape) == opened.get_slice("x").get_shape()


def test_a_torch_without_4_bit_floats_refuses_them(
    tmp_path: Path, framework: ModuleType, torch: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    framework.save_file({"x": torch.zeros(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)}, tmp_path / "m.sbs")
    monkeypatch.delattr(torch, "float4_e2m1fn_x2")  # as before torch 2.8
    with framework.open(tmp_path / "m.sbs") as store, pytest.raises(CodecError, match="packed-type: 'x' is f4"):
        store["x"]


def test_a_copy_keeps_device_and_options(small: Path, framework: ModuleType, torch: ModuleType) -> None:
    with framework.open(small, device="meta", access="read") as store, pickle.loads(pickle.dumps(store)) as again:  # noqa: S301 (ours)
        assert again.device == "meta"
        assert again["f32"].device == torch.device("meta")
        assert list(again) == list(store)


def test_safe_open_returns_tensors(small: Path, framework: ModuleType, torch: ModuleType) -> None:
    with blobstore.safe_open(small, framework="pt", device="cpu") as file, framework.open(small) as store:
        assert file.keys() == sorted(store)
        assert all_bits(file.get_tensors()) == all_bits(store)
        assert bits(file.get_slice("f32")[:, 2:4]) == bits(store["f32"][:, 2:4])
        assert bits(file.get_slice("a.bfloat16")[1]) == bits(store["a.bfloat16"][1])
        assert file.get_slice("a.bfloat16").get_dtype() == "BF16"
    with blobstore.safe_open(small, "pt", torch.device("meta")) as file:
        assert file.get_tensor("f32").is_meta


# Models.


def tied(torch: ModuleType, *, tie: bool = True) -> Any:  # noqa: ANN401 (a module)
    model = torch.nn.ModuleDict({"embed": torch.nn.Linear(4, 8, bias=False), "head": torch.nn.Linear(4, 8, bias=False)})
    if tie:
        model["head"].weight = model["embed"].weight
    model["norm"] = torch.nn.BatchNorm1d(4)
    return model


def test_a_model_comes_back_and_its_tied_weights_are_stored_once(
    tmp_path: Path, framework: ModuleType, torch: ModuleType
) -> None:
    path, model, other = tmp_path / "m.sbs", tied(torch), tied(torch)
    framework.save_model(model, path, {"a": "b"})
    with framework.open(path) as store:
        assert store.store.info("embed.weight").key == store.store.info("head.weight").key
        assert store.metadata == {"a": "b"}
    assert framework.load_model(other, path) == ([], [])
    assert all_bits(other.state_dict()) == all_bits(model.state_dict())
    assert other["head"].weight is other["embed"].weight
    untied = tied(torch, tie=False)
    assert framework.load_model(untied, path) == ([], [])
    assert all_bits(untied.state_dict()) == all_bits(model.state_dict())
    model.load_state_dict(framework.load_file(path))


@pytest.mark.parametrize("name", ["embed.weight", "head.weight"])
def test_one_name_of_tied_weights_is_enough(
    tmp_path: Path, framework: ModuleType, torch: ModuleType, name: str
) -> None:
    path, model = tmp_path / "m.sbs", tied(torch)
    state = {key: tensor for key, tensor in model.state_dict().items() if not key.endswith("d.weight") or key == name}
    framework.save_file(state, path)
    other = tied(torch)
    assert framework.load_model(other, path) == ([], [])
    assert all_bits(other.state_dict()) == all_bits(model.state_dict())


def test_two_values_for_tied_weights_are_refused(tmp_path: Path, framework: ModuleType, torch: ModuleType) -> None:
    path, untied = tmp_path / "m.sbs", tied(torch, tie=False)
    framework.save_model(untied, path)
    with pytest.raises(ModelMismatchError) as caught:
        framework.load_model(tied(torch), path)
    assert str(caught.value) == (
        'model-mismatch: the file doesn\'t fit ModuleDict: Unexpected key(s) in state_dict: "head.weight": '
        f"strict=False loads the rest [{path}]"
    )
    assert framework.load_model(tied(torch), path, strict=False) == ([], ["head.weight"])
    untied["head"].weight.data.copy_(untied["embed"].weight)
    framework.save_model(untied, path)
    assert framework.load_model(tied(torch), path) == ([], [])


@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64"])
def test_a_nan_under_two_names_is_one_value(
    tmp_path: Path, framework: ModuleType, torch: ModuleType, dtype: str
) -> None:
    path, untied = tmp_path / "m.sbs", tied(torch, tie=False).to(getattr(torch, dtype))
    for part in ("embed", "head"):
        untied[part].weight.data.fill_(float("nan"))
    framework.save_model(untied, path)
    assert framework.load_model(tied(torch).to(getattr(torch, dtype)), path) == ([], [])


def test_other_names_and_shapes_are_refused(tmp_path: Path, framework: ModuleType, torch: ModuleType) -> None:
    path = tmp_path / "m.sbs"
    framework.save_file({"weight": torch.ones(2, 4), "extra": torch.ones(1)}, path)
    model = torch.nn.Linear(4, 2)
    with pytest.raises(
        ModelMismatchError, match=r'Missing key.*"bias"; Unexpected key.*"extra": strict=False'
    ) as caught:
        framework.load_model(model, path)
    assert isinstance(caught.value, RuntimeError)
    assert framework.load_model(model, path, strict=False) == (["bias"], ["extra"])
    assert model.weight.tolist() == torch.ones(2, 4).tolist()
    with pytest.raises(ModelMismatchError, match="size mismatch for weight"):
        framework.load_model(torch.nn.Linear(5, 2), path, strict=False)


SAVE_200_MB = """
import os, sys
import torch
import blobstore.torch

os.fsync = lambda fd: None  # don't wait for the disk
tensor = torch.ones(100 << 20, dtype=torch.bfloat16).reshape(1024, -1)
blobstore.torch.save_file({"x": torch.ones(1 << 20)}, sys.argv[1])
before = peak()
blobstore.torch.save_file({"x": tensor, "y": tensor.T} if sys.argv[2] == "turned" else {"x": tensor}, sys.argv[1])
print(peak() - before)
"""


@linux_only
@pytest.mark.parametrize("how", ["plain", "turned"])
def test_saving_copies_no_tensor_whole(tmp_path: Path, how: str) -> None:
    (grown,) = run_program(SAVE_200_MB, tmp_path / "m.sbs", how)
    assert int(grown) < 24 << 20
    (tmp_path / "m.sbs").unlink()
