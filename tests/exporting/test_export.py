"""Files are exported to checkpoints again, with all that was in the source, and in a form that other tools read."""

from __future__ import annotations

import json
import math
import os
import shutil
import tracemalloc
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

import blobstore
from blobstore import codecs
from blobstore.codecs.element_types import BY_NAME
from blobstore.converting.choices import Choices
from blobstore.errors import BlobStoreError, FormatError, UsageError
from blobstore.exporting.plan import plan_export
from blobstore.exporting.run import run_export, superseded
from blobstore.index.blob_writer import BlobWriter
from blobstore.index.metadata import REARRANGED
from blobstore.store.arrangement import dump_arrangement
from blobstore.store.blocks import Block
from blobstore.store.values import stored, stored_infos
from blobstore.store.writer import StoreWriter
from tests.checkpoints import EMBEDDING, HEAD, SINGLE, linux_only, said_by_peer, snapshot, write_config, write_peer
from tests.gemma_checkpoints import (
    DTYPES,
    VARIANTS,
    Recipe,
    arranged,
    convert,
    facts_in,
    facts_of,
    recipes,
    small_recipe,
)
from tests.models import FAMILIES, FORMS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

    from blobstore.exporting.plan import ExportPlan

    Array = npt.NDArray[Any]

OUT = "out.safetensors"


def export(file: Path, target: Path, by: blobstore.By = "names", **options: Any) -> list[str]:  # noqa: ANN401 (plan_export's)
    with blobstore.open(file, by=by) as store:
        return run_export(plan_export(store, **options), store, target).files


def values_of(fact: tuple[str, tuple[int, ...], bytes]) -> Array:
    return np.frombuffer(fact[2], DTYPES[fact[0]]).reshape(fact[1]).astype(np.float32)


# ---------------------------------------------------------------------------------------------------------- round trips


def check_round_trip(recipe: Recipe, folder: Path, layout: str, weight: str, **options: Any) -> None:  # noqa: ANN401
    shutil.rmtree(folder, ignore_errors=True)
    recipe.write(folder)
    convert(folder, folder / "out.sbs", Choices(weight, layout))
    (folder / "back").mkdir()
    paths = export(folder / "out.sbs", folder / "back" / SINGLE, **options)
    tensors = recipe.tensors()
    if not options.get("materialize_aliases") and not recipe.own_head:
        tensors.pop(recipe.head_name, None)
    elif recipe.head_name not in tensors:
        tensors[recipe.head_name] = tensors[recipe.embedding]
    assert facts_in(folder / "back") == facts_of(tensors)
    assert paths


@pytest.mark.parametrize("layout", FORMS)
@pytest.mark.parametrize(("family", "prefixes"), VARIANTS)
def test_a_checkpoint_comes_back_bit_for_bit(
    tmp_path: Path, family: str, prefixes: tuple[str, str, str], layout: str
) -> None:
    recipe = small_recipe(family, prefixes=prefixes, head=layout == "stock")
    check_round_trip(recipe, tmp_path / "c", layout, "bf16", materialize_aliases=layout == "stock")


@given(
    recipe=recipes(),
    layout=st.sampled_from(FORMS),
    materialize=st.booleans(),
    limit=st.sampled_from([None, 1, 3000, 10**9]),
)
@settings(max_examples=15)
def test_any_checkpoint_comes_back_whatever_its_size_and_shards(
    tmp_path: Path, recipe: Recipe, layout: str, materialize: bool, limit: int | None
) -> None:
    weight = "bf16" if recipe.dtype == "bf16" else "f32"  # a type that holds every value of the source
    options = {"materialize_aliases": materialize, "max_shard_nbytes": limit}
    check_round_trip(recipe, tmp_path / "c", layout, weight, **options)


@pytest.mark.parametrize("layout", FORMS)
@pytest.mark.parametrize("weight", ["sfp", "i8", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_encoded_weights_come_back_as_what_they_decode_to(
    tmp_path: Path, family: str, weight: str, layout: str
) -> None:
    recipe = small_recipe(family, dtype="f32", top=5.0)
    tensors = recipe.tensors()
    recipe.write(tmp_path / "c")
    convert(tmp_path / "c", tmp_path / "a.sbs", Choices(weight, layout))
    export(tmp_path / "a.sbs", tmp_path / OUT)
    facts = facts_in(tmp_path / OUT)
    assert {name: fact[:2] for name, fact in facts.items()} == {n: ("f32", array.shape) for n, array in tensors.items()}
    back = arranged(recipe, {name: values_of(fact) for name, fact in facts.items()}, layout)
    for row in recipe.rows(layout):
        source = np.ascontiguousarray(arranged(recipe, tensors, layout)[row.key])
        element_type = row.stored_type(weight)
        stored, scale = codecs.encode(element_type, source)
        assert np.array_equal(
            codecs.decode(element_type, stored, source.size, scale=scale).reshape(source.shape), back[row.key]
        )


# ---------------------------------------------------------------------------------------------------------- the choices


@pytest.mark.parametrize("layout", FORMS)
@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
def test_all_floats_get_the_type_that_was_asked_for(tmp_path: Path, dtype: str, layout: str) -> None:
    recipe = small_recipe("paligemma2")
    tensors = recipe.tensors()
    recipe.write(tmp_path / "c")
    convert(tmp_path / "c", tmp_path / "a.sbs", Choices("bf16", layout))
    export(tmp_path / "a.sbs", tmp_path / OUT, dtype=dtype)
    assert facts_in(tmp_path / OUT) == facts_of({name: array.astype(DTYPES[dtype]) for name, array in tensors.items()})


@pytest.mark.parametrize("layout", FORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_by_keys_gives_the_tensors_of_the_runtime(tmp_path: Path, family: str, layout: str) -> None:
    recipe = small_recipe(family)
    recipe.write(tmp_path / "c")
    convert(tmp_path / "c", tmp_path / "a.sbs", Choices("bf16", layout))
    export(tmp_path / "a.sbs", tmp_path / OUT, by="keys")
    expected = arranged(recipe, recipe.tensors(), layout)
    wanted = {
        row.key: np.ascontiguousarray(expected[row.key]).astype(DTYPES[row.stored_type("bf16")])
        for row in recipe.rows(layout)
    }
    assert facts_in(tmp_path / OUT) == facts_of(wanted)


@pytest.mark.parametrize("form", ["bf16-stock", "sfp-split"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_of_gemma_cpp_itself_is_exported_by_its_keys(
    shared_vectors: Path, tmp_path: Path, family: str, form: str
) -> None:
    path = shared_vectors / "convert" / f"tiny-{family}-{form}.sbs"
    export(path, tmp_path / OUT)
    facts = facts_in(tmp_path / OUT)
    with blobstore.open(path) as store:
        assert len(facts) == len(store) > 16
        for name, fact in facts.items():
            info = store.info(name)
            assert fact[:2] == ("f32" if info.type.name == "sfp" else info.type.name, info.shape)
            assert np.array_equal(values_of(fact), store[name].astype(np.float32))


def test_a_file_by_name_leaves_aliases_out_or_writes_them(tmp_path: Path) -> None:
    embedding = np.arange(12, dtype=np.float32).reshape(4, 3)
    tensors: dict[str, Array] = {EMBEDDING: embedding, "model.norm.weight": np.ones(3, np.float32), "ids": np.arange(5)}
    write_peer(tmp_path / SINGLE, tensors, {"format": "pt"})
    write_config(tmp_path, {"model_type": "llama", "tie_word_embeddings": True})
    convert(tmp_path, tmp_path / "a.sbs")
    with blobstore.open(tmp_path / "a.sbs") as store:
        plan = plan_export(store)
        assert plan.left_out == {HEAD: EMBEDDING}
        assert run_export(plan, store, tmp_path / OUT) == ([str(tmp_path / OUT)], [], [])
        assert plan_export(store, materialize_aliases=True).left_out == {}
    ours = said_by_peer((tmp_path / OUT).read_bytes(), tmp_path / "x")
    assert ours == said_by_peer((tmp_path / SINGLE).read_bytes(), tmp_path / "x")
    export(tmp_path / "a.sbs", tmp_path / "both.safetensors", materialize_aliases=True)
    both, _ = said_by_peer((tmp_path / "both.safetensors").read_bytes(), tmp_path / "x")
    assert both == ours[0] | {HEAD: ours[0][EMBEDDING]}


def test_shards_are_those_of_the_ecosystem(tmp_path: Path) -> None:
    recipe = small_recipe("gemma3")
    recipe.write(tmp_path / "c")
    convert(tmp_path / "c", tmp_path / "a.sbs", Choices("bf16"))
    (tmp_path / "out").mkdir()
    limit = 4000
    paths = export(tmp_path / "a.sbs", tmp_path / "out" / SINGLE, max_shard_nbytes=limit)
    count = len(paths) - 1
    assert count > 2
    names = [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    assert [os.path.basename(path) for path in paths] == [*names, f"{SINGLE}.index.json"]
    assert sorted(snapshot(tmp_path / "out")) == sorted([*names, f"{SINGLE}.index.json"])
    index = json.loads((tmp_path / "out" / f"{SINGLE}.index.json").read_bytes())
    tensors = recipe.tensors()
    assert index["metadata"] == {"total_size": sum(array.nbytes for array in tensors.values())}
    assert set(index["weight_map"]) == set(tensors)
    for name in names:
        tensors_of_shard, metadata = said_by_peer((tmp_path / "out" / name).read_bytes(), tmp_path / "x")
        assert {tensor for tensor, file in index["weight_map"].items() if file == name} == set(tensors_of_shard)
        assert len(tensors_of_shard) == 1 or sum(len(data) for _, _, data in tensors_of_shard.values()) <= limit
        assert metadata == {"format": "pt"}


def test_safetensors_reads_equal_values(tmp_path: Path) -> None:
    recipe = small_recipe("gemma3vlm", dtype="f32")
    recipe.write(tmp_path / "c")
    convert(tmp_path / "c", tmp_path / "a.sbs", Choices("f32", "stock"))
    export(tmp_path / "a.sbs", tmp_path / OUT)
    tensors = recipe.tensors()
    with safetensors.safe_open(tmp_path / OUT, "numpy") as file:
        assert set(file.keys()) == set(tensors)
        assert file.metadata() == {"format": "pt"}
        for name, array in tensors.items():
            assert np.array_equal(file.get_tensor(name), array)


def test_a_converted_export_is_the_first_file_again(tmp_path: Path) -> None:
    recipe = small_recipe("gemma3vlm", shards=2)
    recipe.write(tmp_path / "c")
    convert(tmp_path / "c", tmp_path / "a.sbs", Choices("sfp"))
    convert(tmp_path / "c", tmp_path / "b.sbs", Choices("bf16", "stock"))
    recipe.write(tmp_path / "again", {}, recipe.config())
    for file in (tmp_path / "again").glob("model*"):
        file.unlink()
    export(tmp_path / "b.sbs", tmp_path / "again" / SINGLE)
    convert(tmp_path / "again", tmp_path / "c.sbs", Choices("sfp"))
    assert (tmp_path / "c.sbs").read_bytes() == (tmp_path / "a.sbs").read_bytes()


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    small_recipe("gemma3vlm").write(tmp_path / "c")
    convert(tmp_path / "c", tmp_path / "a.sbs", Choices("bf16", "stock"))
    return tmp_path / "a.sbs"


@pytest.mark.parametrize("way", ["itself", "link", "hard link"])
def test_a_file_is_not_replaced_by_its_own_export(tmp_path: Path, converted: Path, way: str) -> None:
    target = tmp_path / "t.safetensors"
    if way == "itself":
        target = converted
    elif way == "link":
        target.symlink_to(converted)
    else:
        target.hardlink_to(converted)
    before = snapshot(tmp_path)
    with pytest.raises(UsageError) as caught:
        export(converted, target)
    assert caught.value.reason == "same-file"
    assert snapshot(tmp_path) == before


def test_a_fault_on_the_way_leaves_what_was_there(tmp_path: Path, converted: Path) -> None:
    (tmp_path / OUT).write_bytes(b"as it was")
    before = snapshot(tmp_path)

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with blobstore.open(converted) as store, pytest.raises(KeyboardInterrupt):
        run_export(plan_export(store), store, tmp_path / OUT, progress=stop)
    assert snapshot(tmp_path) == before


def test_blobs_of_unknown_type_are_exported_as_bytes(tmp_path: Path) -> None:
    with BlobWriter(tmp_path / "a.sbs") as writer:
        writer.add("c_odd", b"some bytes")
    export(tmp_path / "a.sbs", tmp_path / OUT)
    tensors, _ = said_by_peer((tmp_path / OUT).read_bytes(), tmp_path / "x")
    assert tensors == {"c_odd": ("U8", (10,), b"some bytes")}


def test_a_value_beyond_f16_is_not_written_as_an_infinity(tmp_path: Path) -> None:
    with blobstore.create(tmp_path / "a.sbs") as writer:
        writer.add("model.norm.weight", np.array([1.0, 1e5], dtype=ml_dtypes.bfloat16))
    with pytest.raises(blobstore.BlobStoreError, match=r"model\.norm\.weight"):
        export(tmp_path / "a.sbs", tmp_path / OUT, dtype="f16")
    assert not (tmp_path / OUT).exists()


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
def test_a_signalling_nan_is_a_nan_like_any_other(tmp_path: Path, dtype: str) -> None:
    with blobstore.create(tmp_path / "a.sbs") as writer:
        writer.add("one", np.array([0x7F800001, 0xFFBFFFFF, 0x3F800000], np.uint32).view(np.float32))
        writer.add("other", np.array([0x7F81, 0xFFBF, 0x3F80], np.uint16).view(ml_dtypes.bfloat16))
    export(tmp_path / "a.sbs", tmp_path / OUT, dtype=dtype)
    for _, _, raw in facts_in(tmp_path / OUT).values():
        bits = np.frombuffer(raw, "<u4" if dtype == "f32" else "<u2")
        infinity = {"bf16": 0x7F80, "f16": 0x7C00, "f32": 0x7F800000}[dtype]
        magnitudes = bits & (infinity | (infinity & -infinity) - 1)
        assert (magnitudes > infinity).tolist() == [True, True, False]


# --------------------------------------------------------------------------------------------------------- the metadata


def test_the_metadata_has_the_fields_of_a_block_in_the_order_of_the_specification() -> None:
    block = Block("gating_ein_0", at=7, row=1, rows=2, col=3, cols=4, width=9, arrange="channels_last", channels=2)
    types = {"w": BY_NAME["bf16"], "v": BY_NAME["f32"], "u": BY_NAME["bf16"]}
    assert dump_arrangement({"w": ((3, 9), [block])}, types, {"head": "embedding"}) == (
        '{"aliases":{"head":"embedding"},'
        '"tensors":{"w":{"pieces":[["gating_ein_0",7,1,2,3,4,9,"channels_last",2]],"shape":[3,9]}},'
        '"types":{"most":"bf16","others":{"v":"f32"}}}'
    )


# ----------------------------------------------------------------------------------------------------- hostile metadata


def with_metadata(path: Path, text: str, target: Path) -> Path:
    """Write the same file with another text in the metadata `blobstore.rearranged`."""
    with blobstore.open(path) as store:
        index = store.index
        assert index is not None
        metadata = dict(store.metadata) | {REARRANGED: text}
        parts = [info for info in stored_infos(store) if info.name != info.key]
        with StoreWriter(target, metadata=metadata) as writer:
            for info in stored_infos(store):
                if info.name == info.key:
                    data = np.frombuffer(stored(store, info, 0, info.nbytes), np.uint8)
                    writer.add_stored(info.name, [data], info.type, info.shape, scale=info.scale)
            starts = {info.key: info.offset for info in stored_infos(store) if info.name == info.key}
            for info in parts:
                if info.key in starts:
                    at = info.offset - starts[info.key]
                    writer.part(info.name, info.key, info.type, info.shape, offset=at, scale=info.scale)
                else:
                    data = np.frombuffer(stored(store, info, 0, info.nbytes), np.uint8)
                    writer.add_stored(info.name, [data], info.type, info.shape, scale=info.scale)
    return target


def record_of(path: Path) -> dict[str, Any]:
    with blobstore.open(path) as store:
        record: dict[str, Any] = json.loads(store.metadata[REARRANGED])
    return record


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:  # noqa: ANN401 (JSON is anything)
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


_JUNK: list[Any] = [None, True, 0, 1, -1, 2, 3, 5, 2**31, 2**64, 10**30, 1.5, "", "x", "transpose", "channels_last"]
_JUNK += ["minus_one", "model.norm.weight"]
_JUNK += ["bf16", "sfp", "i8", "u8", "f4", [], [1], {}, "c_embedding", "model.language_model.norm.weight"]


@st.composite
def mutations(draw: st.DrawFn, record: dict[str, Any]) -> dict[str, Any]:
    """The record of a file's checkpoint, with one or two faults."""
    out: dict[str, Any] = json.loads(json.dumps(record))
    for _ in range(draw(st.sampled_from([1, 1, 2]))):
        everywhere = list(places(out))
        if not everywhere:
            break
        path = draw(st.sampled_from(everywhere))
        inside: Any = out
        for key in path[:-1]:
            inside = inside[key]
        how = draw(st.sampled_from(["junk", "number", "drop", "again", "swap"]))
        key = path[-1]
        if how == "number" and type(inside[key]) is int:
            inside[key] += draw(st.integers(-3, 3))
        elif how == "drop":
            del inside[key]
        elif how == "again" and isinstance(inside, list):
            inside.append(json.loads(json.dumps(inside[key])))
        elif how == "swap" and isinstance(inside, list):
            place = draw(st.integers(0, len(inside) - 1))
            inside[key], inside[place] = inside[place], inside[key]
        else:
            inside[key] = draw(st.sampled_from(_JUNK))
    return out


def tiles(plan: ExportPlan) -> None:
    """Fail unless each tensor is made of blocks that cover every element once, and lie inside what is stored."""
    for tensor in (one for shard in plan.shards for one in shard):
        width = tensor.blocks[0].width if tensor.blocks else 1
        count = math.prod(tensor.shape)
        assert count == 0 or (width and count % width == 0), tensor.name
        covered = np.zeros((count // width if width else 0, width), np.uint8)
        for block in tensor.blocks:
            assert 0 <= block.at <= block.at + block.rows * block.cols <= block.stored.size
            covered[block.row : block.row + block.rows, block.col : block.col + block.cols] += 1
        assert (covered == 1).all(), tensor.name


@pytest.mark.parametrize("family", ["gemma3vlm", "paligemma2", "qwen3"])
def test_hostile_metadata_is_refused_or_makes_whole_tensors(tmp_path: Path, family: str) -> None:
    small_recipe(family, head=True).write(tmp_path / "c")
    convert(tmp_path / "c", tmp_path / "a.sbs", Choices("bf16", "stock"))
    record = record_of(tmp_path / "a.sbs")
    refused, passed = [], []

    @given(mutated=mutations(record), materialize=st.booleans())
    @settings(max_examples=120)
    def check(mutated: Any, materialize: bool) -> None:  # noqa: ANN401 (JSON is anything)
        path = with_metadata(tmp_path / "a.sbs", json.dumps(mutated), tmp_path / "b.sbs")
        with blobstore.open(path) as store:
            try:
                plan = plan_export(store, materialize_aliases=materialize)
            except FormatError as error:
                refused.append(error.reason)
                return
            tiles(plan)
            (file,) = run_export(plan, store, tmp_path / OUT).files
        with safetensors.safe_open(file, "numpy") as exported:
            assert set(exported.keys()) == {tensor.name for shard in plan.shards for tensor in shard}
        passed.append(file)

    check()
    assert set(refused) == {"rearranged-metadata"}
    assert passed


def edited(record: dict[str, Any], how: str) -> Any:  # noqa: ANN401, C901, PLR0912 (JSON is anything; a case each)
    """Return the record with a fault that may have been made on purpose."""
    name = next(n for n in record["tensors"] if n.endswith("layers.0.self_attn.o_proj.weight"))
    tensor = record["tensors"][name]
    pieces = tensor["pieces"]
    if how == "same block twice":
        pieces[1] = list(pieces[0])
    elif how == "width that does not divide":
        total = math.prod(tensor["shape"])
        pieces[:] = [[pieces[0][0], 0, 0, 1, 0, total, total - 1, "", 1]]
    elif how == "empty block":
        pieces.append([pieces[0][0], 0, 0, 0, 0, pieces[0][5], pieces[0][6], "transpose", 1])
    elif how == "alias to nothing":
        record["aliases"] = {"lm_head.weight": "no.such.tensor"}
    elif how == "alias of another":
        norm, another = (f"model.language_model.{part}.weight" for part in ("norm", "layers.0.input_layernorm"))
        record["aliases"][norm] = another
    elif how == "alias of itself in a ring":
        record["aliases"] = {"lm_head.weight": "model.language_model.norm.weight"}
        record["aliases"]["model.language_model.norm.weight"] = "lm_head.weight"
    elif how == "no float":
        record["types"]["most"] = "u8"
    elif how == "encoded type":
        record["types"]["most"] = "sfp"
    elif how == "not an object":
        return [record]
    elif how == "piece of nothing":
        pieces[0][0] = "no.such.tensor"
    elif how == "beyond the end":
        pieces[0][1] = 10**6
    elif how == "a number below 0":
        pieces[0][2] = -1
    elif how == "no shape":
        del tensor["shape"]
    elif how == "a mile of shape":
        tensor["shape"] = [2**62, 2**62]
    elif how == "a product of a mile":
        tensor["shape"] = [2**56] * 40000
    elif how == "rows of the same elements":
        stored, _, _, _, _, cols, *_ = pieces[0]
        tensor |= {"shape": [3, cols], "pieces": [[stored, 0, row, 1, 0, cols, cols, "", 1] for row in range(3)]}
    elif how == "columns of the same elements":
        tensor |= {"shape": [2, 6], "pieces": [[pieces[0][0], 1, 0, 2, 2 * at, 2, 6, "", 1] for at in range(3)]}
    elif how == "two tensors of the same elements":
        record["tensors"]["another"] = tensor
    elif how == "no text for a name":
        pieces[0][0] = [[[]]]
    return record


@pytest.mark.parametrize("materialize", [False, True])
@pytest.mark.parametrize(
    "how",
    [
        "same block twice",
        "width that does not divide",
        "empty block",
        "alias to nothing",
        "alias of another",
        "alias of itself in a ring",
        "no float",
        "encoded type",
        "not an object",
        "piece of nothing",
        "beyond the end",
        "a number below 0",
        "no shape",
        "a mile of shape",
        "a product of a mile",
        "rows of the same elements",
        "columns of the same elements",
        "two tensors of the same elements",
        "no text for a name",
    ],
)
def test_metadata_that_fits_nothing_is_refused(tmp_path: Path, converted: Path, how: str, materialize: bool) -> None:
    text = json.dumps(edited(record_of(converted), how))
    path = with_metadata(converted, text, tmp_path / "b.sbs")
    before = snapshot(tmp_path)
    with pytest.raises(FormatError) as caught:
        export(path, tmp_path / OUT, materialize_aliases=materialize)
    assert caught.value.reason.startswith("rearranged-")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '{"tensors": {}}', "[" * 100_000, '{"a": 1, "a": 2}'])
def test_metadata_that_is_not_a_record_is_refused(tmp_path: Path, converted: Path, text: str) -> None:
    path = with_metadata(converted, text, tmp_path / "b.sbs")
    with pytest.raises(FormatError) as caught:
        export(path, tmp_path / OUT)
    assert caught.value.reason == "rearranged-metadata"


def test_what_can_not_be_decoded_is_not_exported(tmp_path: Path, vectors: Path) -> None:
    with pytest.raises(BlobStoreError, match="cannot-export") as caught:
        export(vectors / "catalog_valid" / "toc-newer-types.sbs", tmp_path / OUT)
    assert not list(tmp_path.iterdir())
    assert caught.value.message == (
        "'newer' is type-14, which is newer than this version of blobstore: "
        "blobstore get FILE NAME -o OUT gives its bytes"
    )


@pytest.mark.parametrize("dtype", [None, "f32", "bf16"])
def test_types_of_later_runtimes_are_exported_as_what_they_decode_to(
    tmp_path: Path, vectors: Path, dtype: str | None
) -> None:
    path = vectors / "catalog_valid" / "toc-types-9-to-13.sbs"
    export(path, tmp_path / OUT, dtype=dtype)
    exported, _ = said_by_peer((tmp_path / OUT).read_bytes(), tmp_path / "x")
    to = np.dtype(ml_dtypes.bfloat16 if dtype == "bf16" else np.float32)
    with blobstore.open(path) as store:
        assert {"q4_0", "mxfp4", "int8"} <= {*store} == {*exported}
        for name in ("q4_0", "mxfp4"):
            expected = store.load(name, dtype=to)
            assert exported[name] == (dtype.upper() if dtype else "F32", expected.shape, expected.tobytes())


def test_one_row_that_is_said_to_be_transposed_is_read_at_once(tmp_path: Path) -> None:
    """Reading it column by column took minutes, and a hundred times its size."""
    count = 1 << 19
    piece = ["a", 0, 0, 1, 0, count, count, "transpose", 1]
    record = {
        "types": {"most": "f32", "others": {}},
        "aliases": {},
        "tensors": {"w": {"shape": [1, count], "pieces": [piece]}},
    }
    with StoreWriter(tmp_path / "a.sbs", metadata={REARRANGED: json.dumps(record)}) as writer:
        writer["a"] = np.arange(count, dtype=np.float32)
    with blobstore.open(tmp_path / "a.sbs") as store:
        tracemalloc.start()
        try:
            values = store["w"]
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert np.array_equal(values[0], np.arange(count))
    assert peak < 3 * values.nbytes


def test_a_record_cannot_make_a_key_an_alias(tmp_path: Path, converted: Path) -> None:
    """It would be listed, and not found."""
    record = record_of(converted)
    with blobstore.open(converted, by="keys") as by_keys, blobstore.open(converted) as store:
        places = {by_keys.info(key).address(): key for key in by_keys}
        name, key = next((name, places[i.address()]) for name in store if (i := store.info(name)).address() in places)
    record["aliases"][key] = name
    path = with_metadata(converted, json.dumps(record), tmp_path / "b.sbs")
    with blobstore.open(path) as store, pytest.raises(FormatError, match="rearranged-metadata"):
        list(store)


@pytest.mark.parametrize("type_name", ["c64", "u8", "f4", "unknown"])
def test_a_piece_of_anything_but_floats_is_refused(tmp_path: Path, type_name: str) -> None:
    piece = ["a", 0, 0, 2, 0, 4, 4, "transpose", 1]
    record = {
        "types": {"most": "f32", "others": {}},
        "aliases": {},
        "tensors": {"w": {"shape": [2, 4], "pieces": [piece]}},
    }
    for name in (type_name, "f32"):
        with StoreWriter(tmp_path / f"{name}.sbs", metadata={REARRANGED: json.dumps(record)}) as writer:
            stored = np.ones(BY_NAME[name].nbytes(8), np.uint8)
            writer.add_stored("a", [stored], BY_NAME[name], (8,))
    export(tmp_path / "f32.sbs", tmp_path / OUT)
    with pytest.raises(FormatError, match=f"rearranged-metadata.*'a' is {type_name}"):
        export(tmp_path / f"{type_name}.sbs", tmp_path / OUT)


def test_the_file_made_for_these_tests_is_as_good_as_the_first(tmp_path: Path, converted: Path) -> None:
    path = with_metadata(converted, json.dumps(record_of(converted)), tmp_path / "b.sbs")
    export(converted, tmp_path / OUT)
    export(path, tmp_path / "b.safetensors")
    assert (tmp_path / OUT).read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@linux_only
def test_one_large_tensor_is_not_held(tmp_path: Path) -> None:
    """A large tensor is exported in chunks."""
    assert os.path.exists("/proc/self/status")
    data = np.zeros(40 << 20, np.uint8)
    with blobstore.create(tmp_path / "a.sbs") as writer:
        writer.add_stored("w", [data], BY_NAME["sfp"], (40 << 10, 1 << 10))
    sizes: list[int] = []
    with blobstore.open(tmp_path / "a.sbs") as store:
        run_export(plan_export(store), store, tmp_path / OUT, progress=sizes.append)
    assert sum(sizes) == 160 << 20
    assert max(sizes) <= 16 << 20


@pytest.mark.parametrize("stem", ["model", "gemma-3", "a-00001-of-00002x"])
def test_what_earlier_exports_left_is_known_by_the_outputs_name(tmp_path: Path, stem: str) -> None:
    shards = [f"{stem}-{number:05}-of-00002.safetensors" for number in (1, 2)]
    ours = [f"{stem}.safetensors.index.json", f"{stem}.safetensors", *shards]
    for name in (*ours, f"{stem}-00001-of-00002.bin", f"x{stem}-00001-of-00002.safetensors", "other.safetensors"):
        (tmp_path / name).write_bytes(b"")
    output = str(tmp_path / f"{stem}.safetensors")
    assert superseded(output, 1) == [str(tmp_path / name) for name in ours if name != f"{stem}.safetensors"]
    assert superseded(output, 2) == [output]
    assert superseded(output, 3) == [str(tmp_path / name) for name in ours[1:]]
