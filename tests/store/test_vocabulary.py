"""A store shows one vocabulary: its checkpoint's names, or the runtime's keys; and it is an object like others."""

from __future__ import annotations

import copy
import io
import pickle
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest

import blobstore
from blobstore import NameNotFoundError, UsageError
from blobstore.converting.choices import Choices
from blobstore.packing.pack import pack
from tests.gemma_checkpoints import VARIANTS, convert, small_recipe
from tests.models import ALL_FAMILIES, FORMS

if TYPE_CHECKING:
    from pathlib import Path

    from blobstore import Access
    from blobstore.fileio.types import Readable


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("layout", FORMS)
@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_a_bf16_file_is_its_checkpoint(tmp_path: Path, family: str, layout: str, packed: bool) -> None:
    recipe = small_recipe(family)
    convert(recipe.write(tmp_path / "c"), tmp_path / "a.sbs", Choices("bf16", layout))
    path = tmp_path / "a.sbs"
    if packed:
        pack(path, tmp_path / "b.sbs")
        path = tmp_path / "b.sbs"
    expected = recipe.tensors()
    expected.setdefault(recipe.head_name, expected[recipe.embedding])
    for access in ("mmap", "read"):
        with blobstore.open(path, access=access) as store:
            assert set(store) == {info.name for info in store.infos()} == set(expected)
            for tensors in (dict(store), store.load_all(), {name: store.load(name) for name in store}):
                for name, array in expected.items():
                    assert (tensors[name].dtype, tensors[name].shape) == (array.dtype, array.shape)
                    assert tensors[name].tobytes() == array.tobytes() == store.tobytes(name)
            assert store.nbytes == sum(array.nbytes for array in recipe.tensors().values())
            views = [name for name, array in store.items() if array.base is not None and not store.info(name).encoded]
            assert access == "read" or packed or views


@pytest.mark.parametrize("weights", ["f32", "bf16"])
def test_values_stored_wider_are_narrowed_to_what_they_were(tmp_path: Path, weights: str) -> None:
    recipe = small_recipe("gemma3vlm")
    convert(recipe.write(tmp_path / "c"), tmp_path / "a.sbs", Choices(weights))
    with blobstore.open(tmp_path / "a.sbs") as store, blobstore.open(tmp_path / "a.sbs", by="keys") as by_keys:
        assert {array.dtype for array in store.values()} == {np.dtype(ml_dtypes.bfloat16)}
        assert by_keys["img_pos_emb"].dtype == np.float32
        assert {array.ndim for array in by_keys.values()} == {2}


def test_a_key_is_not_a_name_and_a_name_is_not_a_key(tmp_path: Path) -> None:
    recipe = small_recipe("gemma3vlm")
    convert(recipe.write(tmp_path / "c"), tmp_path / "a.sbs", Choices("bf16"))
    with blobstore.open(tmp_path / "a.sbs") as store, blobstore.open(tmp_path / "a.sbs", by="keys") as by_keys:
        assert not set(store) & set(by_keys)
        for one, other in ((store, by_keys), (by_keys, store)):
            name = next(iter(other))
            assert name not in one
            for use in (one.__getitem__, one.info, one.load, one.raw, one.get_slice, one.tobytes):
                with pytest.raises(NameNotFoundError, match=f"by='{other.by}'.*--by {other.by}"):
                    use(name)
            assert one.get(name) is None
        for name in ("config", "tokenizer", "toc"):
            assert store.raw(name) == by_keys.raw(name) == store.reader[name]
        gathered = next(info.name for info in store.infos() if info.blocks)
        with pytest.raises(UsageError, match="not-one-run"):
            store.raw(gathered)
    with pytest.raises(UsageError, match="bad-by"):
        blobstore.open(tmp_path / "a.sbs", by="key")  # type: ignore[arg-type]


def test_what_has_no_key_is_told_where_keys_are_asked_for(tmp_path: Path) -> None:
    """The last rows of a vision model's embedding: gemma.cpp doesn't know them."""
    small_recipe("gemma3vlm").write(tmp_path / "c")
    plan = convert(tmp_path / "c", tmp_path / "a.sbs", Choices("bf16"))
    (extra,) = plan.extras
    for by in ("names", "keys"):
        for notes in (
            blobstore.export(tmp_path / "a.sbs", tmp_path / f"{by}.safetensors", by=by).notes,
            blobstore.diff(tmp_path / "a.sbs", tmp_path / "a.sbs", by=by).notes,
        ):
            assert any(extra.name in note and "left out" in note for note in notes) is (by == "keys")
    with blobstore.open(tmp_path / "a.sbs", by="keys") as store:
        assert extra.key not in store
        assert blobstore.key_for(extra.name) not in store


def test_by_keys_a_file_of_names_has_its_blobs(tmp_path: Path) -> None:
    with blobstore.create(tmp_path / "a.sbs") as writer:
        writer["model.layers.0.mlp.up_proj.weight"] = np.ones((4, 2), np.float32)
        writer.alias("tied.weight.of.another.name", "model.layers.0.mlp.up_proj.weight")
        writer["short"] = np.arange(3)
        writer["without.any.elements.in.it"] = np.zeros((0, 2), np.int8)
    with blobstore.open(tmp_path / "a.sbs", by="keys") as store:
        key = blobstore.key_for("model.layers.0.mlp.up_proj.weight")
        assert {name: array.shape for name, array in store.items()} == {
            key: (4, 2),
            "short": (3,),
            "without.any.elements.in.it": (0, 2),
        }
        assert store.aliases == {}


def test_an_edited_file_hides_only_keys_whose_bytes_have_names(tmp_path: Path) -> None:
    recipe = small_recipe("gemma3")
    convert(recipe.write(tmp_path / "c"), tmp_path / "a.sbs", Choices("bf16", "stock"))
    # The record of the checkpoint is no longer true then, and goes.
    blobstore.rewrite(tmp_path / "a.sbs", tmp_path / "b.sbs", rename={"model.norm.weight": "model.last_norm.weight"})
    with blobstore.open(tmp_path / "b.sbs") as store:
        assert {"qkv_ein_0", "model.layers.0.self_attn.q_proj.weight", "model.last_norm.weight"} <= set(store)
        assert not {"c_final_norm", "gating_ein_0", "c_embedding"} & set(store)
        held = {place for info in store.infos() for place in range(info.offset, info.offset + info.nbytes)}
    with blobstore.open(tmp_path / "b.sbs", by="keys") as store:
        assert held == {place for info in store.infos() for place in range(info.offset, info.offset + info.nbytes)}


# ---------------------------------------------------------------------------------------------------- as an object


def first_values(store: blobstore.Store) -> dict[str, bytes]:
    return {name: store.tobytes(name) for name in store}


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_store_goes_to_other_processes(tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    blobstore.save_file({"a": np.arange(6.0), "b": np.ones(2, np.int8)}, tmp_path / "a.sbs")
    monkeypatch.chdir(tmp_path)
    with blobstore.open("a.sbs", access="read") as store, ProcessPoolExecutor(1, get_context(method)) as pool:
        assert pool.submit(first_values, store).result() == first_values(store)


def unpickled(store: blobstore.Store) -> blobstore.Store:
    again: blobstore.Store = pickle.loads(pickle.dumps(store))  # noqa: S301 (our own)
    return again


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, unpickled])
def test_a_copy_opens_the_file_again_with_the_same_options(tmp_path: Path, how: Any) -> None:  # noqa: ANN401
    small_recipe("gemma3").write(tmp_path / "c")
    convert(tmp_path / "c", tmp_path / "a.sbs", Choices("bf16"))
    sources: list[Readable] = [tmp_path / "a.sbs", (tmp_path / "a.sbs").read_bytes()]
    accesses: list[Access] = ["auto", "read"]
    for source, access in product(sources, accesses):
        with blobstore.open(source, by="keys", access=access) as store:
            again = how(store)
            assert type(again) is type(store)
            assert (again.by, again.reader.access, first_values(again)) == (
                "keys",
                store.reader.access,
                first_values(store),
            )
        assert again["c_embedding"].shape  # it doesn't need the first


def test_a_pickled_store_refuses_another_file_and_a_file_object_has_none(tmp_path: Path) -> None:
    path = tmp_path / "a.sbs"
    blobstore.save_file({"a": np.arange(6.0)}, path)
    with blobstore.open(path) as store:
        pickled = pickle.dumps(store)
    blobstore.save_file({"b": np.arange(7.0)}, path)
    with pytest.raises(UsageError, match=r"replaced: .* is not the file that was pickled"):
        pickle.loads(pickled)  # noqa: S301 (our own)
    with blobstore.create(path, index="external") as writer:
        writer["a.name.longer.than.a.key"] = np.arange(6.0)
    with blobstore.open(path) as store:
        pickled = pickle.dumps(store)
    path.with_name("a.sbs.idx").unlink()
    with pytest.raises(UsageError, match="replaced"):
        pickle.loads(pickled)  # noqa: S301 (our own)
    with blobstore.open(io.BytesIO(path.read_bytes())) as store, pytest.raises(UsageError, match="needs-path"):
        pickle.dumps(store)


def test_stores_are_compared_by_identity_and_shown_in_short(tmp_path: Path) -> None:
    tensors = {f"<b>{i}": np.arange(3.0) for i in range(1000)}
    blobstore.save_file(tensors, tmp_path / "a.sbs")
    with blobstore.open(tmp_path / "a.sbs") as a, blobstore.open(tmp_path / "a.sbs") as b:
        assert a != b
        assert a == a  # noqa: PLR0124 (the point)
        assert len({a, b, a.prefix("x"), a}) == 3
        text = a._repr_html_()
        assert len(text) < 5000
        assert "&lt;b&gt;0" in text
        assert "<b>" not in text
        assert "980 more" in text
        assert a.glob("<b>99?") == [f"<b>99{i}" for i in range(10)]


@pytest.mark.parametrize("access", ["mmap", "read"])
def test_arrays_have_numpys_own_dtypes(tmp_path: Path, access: Any) -> None:  # noqa: ANN401
    tensors = {kind: np.arange(3).astype(kind) for kind in ("f4", "f8", "i2", "u8", "?", "c8")}
    blobstore.save_file(tensors, tmp_path / "a.sbs")
    with blobstore.open(tmp_path / "a.sbs", access=access) as store:
        for loaded in (dict(store), store.load_all(), {name: store.load(name) for name in store}):
            for name, array in loaded.items():
                assert array.dtype is np.dtype(name)
                if name != "c8":  # which memoryview has no format for
                    values: Any = array
                    assert memoryview(values)[1] == tensors[name][1]


def test_the_variants_of_names_are_kept(tmp_path: Path) -> None:
    for family, prefixes in VARIANTS[::5]:
        recipe = small_recipe(family, prefixes=prefixes)
        convert(recipe.write(tmp_path / "c"), tmp_path / "a.sbs")
        with blobstore.open(tmp_path / "a.sbs") as store:
            assert set(store) == {*recipe.tensors(), recipe.head_name}
