from __future__ import annotations

import io
import os
import random
import re
import tracemalloc
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import blobstore
from blobstore import ModelWriter, codecs
from blobstore.codecs.element_types import BY_NAME
from blobstore.errors import BlobStoreError, CodecError, UsageError
from blobstore.gemma import ModelConfig, build_toc, check_tensors, parse_toc
from blobstore.gemma.enums import WeightType
from blobstore.gemma.toc import toc_entry
from tests import models
from tests.models import FORMS, emitted, families, forms, packed, small, spec_tensors, tree, values_of
from tests.strategies import versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from blobstore.index.locate import IndexPlace
    from tests.models import Row

    Array = npt.NDArray[Any]

UNAVAILABLE = b"unavailable"
# i8 is the fourth type that weights can be encoded as.
ENCODED = (*models.WEIGHTS, "i8")
weights = st.sampled_from(ENCODED)


@dataclass(frozen=True)
class Case:
    """A model, and the tensors that it has in one form."""

    config: ModelConfig
    rows: list[Row]


def case_of(family: str, weight: str = "bf16", form: str = "stock") -> Case:
    config = small(family).with_weight(weight)
    return Case(config, spec_tensors(config, form))


def cases_of(weights: Sequence[str]) -> st.SearchStrategy[Case]:
    return st.builds(case_of, families, st.sampled_from(weights), forms)


cases = cases_of(ENCODED)
# Each of these writes a whole file, or two, and waits for the disk.
some = settings(max_examples=max(1, settings().max_examples // 3))

all_families = pytest.mark.parametrize("family", models.FAMILIES)
all_versions = pytest.mark.parametrize("version", [1, 2])
all_places = pytest.mark.parametrize("index", ["embedded", "external", "none"])


def blobs_in(path: Path) -> dict[str, bytes]:
    """In file order."""
    with blobstore.BlobReader(path) as reader:
        return {key: bytes(blob) for key, blob in reader.items()}


def add_values(model: ModelWriter, row: Row) -> None:
    model.add(row.key, values_of(row, top=3))


def write(
    path: Path | io.BytesIO,
    config: ModelConfig,
    rows: list[Row],
    add: Callable[[ModelWriter, Row], None] = add_values,
    **options: Any,  # noqa: ANN401
) -> None:
    with ModelWriter(path, config, **options) as model:
        for row in rows:
            add(model, row)


def expected_blobs(config: ModelConfig, rows: list[Row]) -> dict[str, bytes]:
    """The blobs that the file must have, by the codecs and the tests' own encoder of records."""
    blobs: dict[str, bytes] = {}
    toc: list[int] = []
    for row in rows:
        type_name = row.stored_type(config.weight_name)
        data, scale = codecs.encode(type_name, values_of(row, top=3))
        blobs[row.key] = data.tobytes()
        toc += emitted(tree(toc_entry(row.key, BY_NAME[type_name], row.rows, row.cols, scale)))
    return blobs | {"config": packed(emitted(tree(config))), "tokenizer": UNAVAILABLE, "toc": packed(toc)}


def container_of(generator: Any, version: int, blobs: dict[str, bytes]) -> bytes:  # noqa: ANN401
    file: bytes = generator.container(version, [(key.encode(), data) for key, data in blobs.items()])
    return file


def nothing_left(folder: Path) -> bool:
    return os.listdir(folder) == []


# Files that gemma.cpp wrote.


def shared_files() -> list[str]:
    return [f"tiny-{family}-{form}.sbs" for family in models.FAMILIES for form in ("bf16-stock", "sfp-split")]


def without_the_word(config: ModelConfig) -> ModelConfig:
    """The config as gemma.cpp wrote it in October 2025, with ``extent`` set: a writer refuses a Gemma 3 without it."""
    return replace(config, use_global_timescale=False, extent=ModelConfig.CORE)


def write_again(path: Path, blobs: dict[str, bytes], **options: Any) -> None:  # noqa: ANN401
    """Write a file's model again, in its order: f32 and bf16 tensors from their values, others from their bytes."""
    config = without_the_word(ModelConfig.from_bytes(blobs["config"]))
    with ModelWriter(path, config, tokenizer=blobs["tokenizer"], **options) as model:
        for entry in parse_toc(blobs["toc"]):
            data = blobs[entry.name]
            if entry.type.name in ("f32", "bf16"):
                decoded = codecs.decode(entry.type, data, entry.rows * entry.cols)
                model.add(entry.name, decoded.reshape(entry.rows, entry.cols))
            else:
                model.add_stored(entry.name, [data], entry.type.name, scale=entry.scale)


@pytest.mark.parametrize("name", shared_files())
def test_files_of_gemma_cpp_are_written_byte_for_byte(tmp_path: Path, shared_vectors: Path, name: str) -> None:
    source, path = shared_vectors / "convert" / name, tmp_path / "m.sbs"
    write_again(path, blobs_in(source), index="none")
    assert path.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("name", shared_files())
def test_with_an_index_all_other_blobs_of_gemma_cpp_s_files_are_the_same(
    tmp_path: Path, shared_vectors: Path, name: str
) -> None:
    source, path = shared_vectors / "convert" / name, tmp_path / "m.sbs"
    before = blobs_in(source)
    write_again(path, before)
    after = blobs_in(path)
    assert list(after)[-1] == "~index"
    assert {key: blob for key, blob in after.items() if key != "~index"} == before
    with blobstore.open(path) as store:
        assert store.index
        entries = {entry.name: entry for entry in parse_toc(before["toc"])}
        assert {(info.name, info.key, info.type, info.shape, info.scale) for info in store.infos()} == {
            (key, key, entry.type, (entry.rows, entry.cols), entry.scale) for key, entry in entries.items()
        }


@pytest.mark.parametrize("family", models.FAMILIES)
def test_sfp_that_was_decoded_is_encoded_to_the_same_bytes(tmp_path: Path, shared_vectors: Path, family: str) -> None:
    source, path = shared_vectors / "convert" / f"tiny-{family}-sfp-split.sbs", tmp_path / "m.sbs"
    blobs = blobs_in(source)
    config = without_the_word(models.tiny(family, "sfp"))
    with ModelWriter(path, config, tokenizer=blobs["tokenizer"], index="none") as model:
        for entry in parse_toc(blobs["toc"]):
            values = codecs.decode(entry.type, blobs[entry.name], entry.rows * entry.cols, scale=entry.scale)
            model.add(entry.name, values.reshape(entry.rows, entry.cols))
    assert path.read_bytes() == source.read_bytes()


# Files of small models of our own.


@some
@given(case=cases, version=versions)
def test_a_model_is_its_tensors_config_tokenizer_and_toc(
    tmp_path: Path,
    generator: Any,  # noqa: ANN401
    case: Case,
    version: int,
) -> None:
    path = tmp_path / "m.sbs"
    write(path, case.config, case.rows, version=version, index="none")
    assert path.read_bytes() == container_of(generator, version, expected_blobs(case.config, case.rows))


@some
@given(case=cases, place=st.sampled_from(["embedded", "external"]), version=versions)
def test_an_index_changes_no_other_blob_and_has_keys_for_names(
    tmp_path: Path, case: Case, place: IndexPlace, version: int
) -> None:
    path = tmp_path / "m.sbs"
    write(path, case.config, case.rows, index=place, version=version)
    blobs = blobs_in(path)
    assert (blobs.pop("~index", None) is not None) == (place == "embedded")
    assert blobs == expected_blobs(case.config, case.rows)
    with blobstore.open(path) as store:
        assert store.index
        assert list(store) == sorted(row.key for row in case.rows)
        infos = {info.name: info for info in store.infos()}
    toc = {entry.name: entry for entry in parse_toc(blobs["toc"])}
    for row in case.rows:
        info, type_name = infos[row.key], row.stored_type(case.config.weight_name)
        assert (info.key, info.shape, info.type.name) == (row.key, (row.rows, row.cols), type_name)
        assert info.scale == toc[row.key].scale
    assert check_tensors(case.config, toc) == []


@some
@given(case=cases, seed=st.integers(0, 99))
def test_the_order_of_tensors_is_the_file_s(tmp_path: Path, case: Case, seed: int) -> None:
    rows = list(case.rows)
    random.Random(seed).shuffle(rows)
    path = tmp_path / "m.sbs"
    write(path, case.config, rows, index="none")
    blobs = blobs_in(path)
    assert list(blobs) == [*(row.key for row in rows), "config", "tokenizer", "toc"]
    assert blobs == expected_blobs(case.config, rows)


@some
@given(family=families, weight=st.sampled_from(["sfp", "bf16"]), data=st.data())
def test_forms_may_be_mixed(tmp_path: Path, family: str, weight: str, data: st.DataObject) -> None:
    config = small(family, weight)
    by_form = {form: {row.key: row for row in spec_tensors(config, form)} for form in FORMS}
    rows = [row for key, row in by_form["stock"].items() if key in by_form["split"]]
    pairs = (
        (["att_ein"], ["att_w"]),
        (["qkv_ein"], ["qkv1_w", "qkv2_w"]),
        (["gating_ein"], ["gating1_w", "gating2_w"]),
    )
    for i in range(config.num_layers):
        for stock, split in pairs:
            form, bases = data.draw(st.sampled_from([("stock", stock), ("split", split)]))
            rows += [by_form[form][f"{base}_{i}"] for base in bases]
    path = tmp_path / "m.sbs"
    write(path, config, rows, index="none")
    assert blobs_in(path) == expected_blobs(config, rows)


@some
@given(case=cases)
def test_stored_bytes_make_the_same_file_as_values(tmp_path: Path, case: Case) -> None:
    def add_stored(model: ModelWriter, row: Row) -> None:
        type_name = row.stored_type(case.config.weight_name)
        data, scale = codecs.encode(type_name, values_of(row, top=3))
        half = len(data) // 2
        model.add_stored(row.key, [data[:half], data[half:].tobytes()], type_name, scale=scale)

    write(tmp_path / "values.sbs", case.config, case.rows)
    write(tmp_path / "stored.sbs", case.config, case.rows, add_stored)
    assert (tmp_path / "stored.sbs").read_bytes() == (tmp_path / "values.sbs").read_bytes()


def test_sfp_has_a_scale_where_values_need_one(tmp_path: Path) -> None:
    config = small("gemma2", "sfp")
    write(tmp_path / "m.sbs", config, spec_tensors(config, "stock"))
    scales = {entry.name: entry.scale for entry in parse_toc(blobs_in(tmp_path / "m.sbs")["toc"])}
    for row in spec_tensors(config, "stock"):
        top = float(np.abs(values_of(row, top=3)).max())
        expected = float(np.float32(top) / np.float32(1.875)) if row.floor == "" and top > 1.875 else 1.0
        assert scales[row.key] == expected
    assert any(scale != 1 for scale in scales.values())


def test_what_is_written_reads_back_near_enough(tmp_path: Path) -> None:
    # Relative errors of values that aren't near zero. sfp: a tie that goes down, and what was cut off before it.
    bounds = {"f32": 0.0, "bf16": 2.0**-8, "sfp": 2.0**-4 + 2.0**-6, "i8": 0.2}
    for weight, bound in bounds.items():
        config = small("paligemma2").with_weight(weight)
        write(tmp_path / "m.sbs", config, spec_tensors(config, "split"))
        with blobstore.open(tmp_path / "m.sbs") as store:
            assert store.config == config
            for row in spec_tensors(config, "split"):
                values = values_of(row, top=3)
                loaded = store.load(row.key, dtype=np.float32)
                assert loaded.shape == values.shape
                large = np.abs(values) > 0.1
                error = np.abs(loaded - values)[large] / np.abs(values)[large]
                assert error.max(initial=0) <= bound, row.key


@all_families
def test_a_stream_gets_the_same_bytes(tmp_path: Path, family: str) -> None:
    config, stream = small(family), io.BytesIO()
    write(tmp_path / "m.sbs", config, spec_tensors(config, "split"))
    write(stream, config, spec_tensors(config, "split"))
    assert stream.getvalue() == (tmp_path / "m.sbs").read_bytes()


# What goes beside the tensors.


@pytest.mark.parametrize("tokenizer", [None, b"", b"\0\1tokens" * 99, b"unavailable"])
def test_a_tokenizer_is_its_bytes_or_unavailable(tmp_path: Path, tokenizer: bytes | None) -> None:
    config = small("gemma3")
    write(tmp_path / "m.sbs", config, spec_tensors(config, "stock"), tokenizer=tokenizer)
    assert blobs_in(tmp_path / "m.sbs")["tokenizer"] == (tokenizer or UNAVAILABLE)


def test_metadata_is_kept_by_the_index(tmp_path: Path) -> None:
    config = small("gemma3")
    rows = spec_tensors(config, "stock")
    write(tmp_path / "m.sbs", config, rows, metadata={"made by": "a test"})
    with blobstore.open(tmp_path / "m.sbs") as store:
        assert store.metadata == {"made by": "a test"}
    with ModelWriter(tmp_path / "later.sbs", config) as model:
        for row in rows:
            add_values(model, row)
        model.store.metadata["late"] = "yes"
    with blobstore.open(tmp_path / "later.sbs") as store:
        assert store.metadata == {"late": "yes"}
    os.mkdir(tmp_path / "empty")
    with pytest.raises(UsageError, match="needs-index"):
        write(tmp_path / "empty" / "m.sbs", config, rows, index="none", metadata={"a": "b"})
    assert nothing_left(tmp_path / "empty")


def test_aliases_and_parts_have_names_that_are_not_keys(tmp_path: Path) -> None:
    config = small("gemma3", "f32")
    rows = spec_tensors(config, "stock")
    with ModelWriter(tmp_path / "m.sbs", config) as model:
        for row in rows:
            model.add(row.key, values_of(row))
        model.store.alias("model.embed_tokens.weight", "c_embedding")
        shape = (config.layer_configs[0].ff_hidden_dim, config.model_dim)
        nbytes = 4 * shape[0] * shape[1]
        model.store.part("model.layers.0.up", "gating_ein_0", BY_NAME["f32"], shape, offset=nbytes)
    with blobstore.open(tmp_path / "m.sbs") as store, blobstore.open(tmp_path / "m.sbs", by="keys") as by_keys:
        np.testing.assert_array_equal(store["model.embed_tokens.weight"], by_keys["c_embedding"])
        np.testing.assert_array_equal(store["model.layers.0.up"], by_keys["gating_ein_0"][shape[0] :])
        # A key of which not all bytes have names is listed beside them: nothing is hidden.
        assert "c_embedding" not in store
        assert "gating_ein_0" in store
    toc = {entry.name for entry in parse_toc(blobs_in(tmp_path / "m.sbs")["toc"])}
    assert toc == {row.key for row in rows}


@pytest.mark.parametrize("digests", [True, False])
def test_digests_are_kept_when_they_are_wanted(tmp_path: Path, digests: bool) -> None:
    config = small("gemma2")
    write(tmp_path / "m.sbs", config, spec_tensors(config, "stock"), digests=digests)
    with blobstore.open(tmp_path / "m.sbs") as store:
        assert store.index
        assert store.index.has_digests == digests


def test_a_fine_tune_may_have_another_vocabulary(tmp_path: Path) -> None:
    config = replace(small("gemma3"), vocab_size=50, display_name="mine")
    rows = spec_tensors(config, "split")
    write(tmp_path / "m.sbs", config, rows, index="none")
    blobs = blobs_in(tmp_path / "m.sbs")
    assert ModelConfig.from_bytes(blobs["config"]) == config
    assert parse_toc(blobs["toc"])[0].rows == 50
    assert len(blobs["c_embedding"]) == 2 * 50 * config.model_dim
    with pytest.raises(UsageError, match=r"wrong-shape: 'c_embedding' has shape \(48, 20\), the config says 50 × 20"):
        write(tmp_path / "n.sbs", config, spec_tensors(small("gemma3"), "split"))


# Shapes.


@st.composite
def foldings(draw: st.DrawFn, row: Row) -> tuple[int, ...]:
    """Shapes whose leading dimensions multiply to the rows, the others to the columns."""
    return (*draw(factors(row.rows)), *draw(factors(row.cols)))


@st.composite
def factors(draw: st.DrawFn, number: int) -> tuple[int, ...]:
    out: list[int] = []
    while draw(st.booleans()):
        factor = draw(st.sampled_from([i for i in range(1, number + 1) if number % i == 0]))
        out.append(factor)
        number //= factor
    return (*out, number)


@some
@given(case=cases, data=st.data())
def test_shapes_that_fold_into_rows_and_columns_are_taken(tmp_path: Path, case: Case, data: st.DataObject) -> None:
    folded = data.draw(st.sampled_from(case.rows))
    shape = data.draw(foldings(folded))

    def add(model: ModelWriter, row: Row) -> None:
        values = values_of(row, top=3)
        model.add(row.key, values.reshape(shape) if row is folded else values)

    path = tmp_path / "m.sbs"
    write(path, case.config, case.rows, add, index="none")
    assert blobs_in(path) == expected_blobs(case.config, case.rows)


@pytest.mark.parametrize("form", FORMS)
def test_shapes_of_checkpoints_fold(tmp_path: Path, form: str) -> None:
    sizes = replace(models.SMALL, vision_kv_heads=models.SMALL.vision_heads)
    config = sizes.applied(small("gemma3vlm"))
    layer, vision = config.layer_configs[0], config.vit_config
    part = vision.layer_configs[0]
    shapes: dict[str, tuple[int, ...]] = {
        "c_final_norm": (config.model_dim,),
        "img_emb_kernel": (vision.model_dim, vision.patch_width, vision.patch_width, 3),
        "att_ein_0": (layer.heads, config.model_dim, layer.qkv_dim),
        "att_w_0": (config.model_dim, layer.heads, layer.qkv_dim),
        "qkv_ein_0": (layer.heads + 2 * layer.kv_heads, layer.qkv_dim, config.model_dim),
        "gating_ein_0": (2, layer.ff_hidden_dim, config.model_dim),
        "attn_out_w_0": (vision.model_dim, part.heads, part.qkv_dim),
        "qkv_ein_w_0": (part.heads, 3, part.qkv_dim, vision.model_dim),
        "qkv_ein_b_0": (part.heads, 3, part.qkv_dim),
        "key_norm_0": (layer.qkv_dim,),
    }
    rows = spec_tensors(config, form)
    with ModelWriter(tmp_path / "m.sbs", config, index="none") as model:
        for row in rows:
            model.add(row.key, values_of(row, top=3).reshape(shapes.get(row.key, (row.rows, row.cols))))
    assert blobs_in(tmp_path / "m.sbs") == expected_blobs(config, rows)
    assert len(shapes.keys() & {row.key for row in rows}) > 5


@given(case=cases_of(["bf16"]), data=st.data())
def test_other_shapes_are_refused(tmp_path: Path, case: Case, data: st.DataObject) -> None:
    row = data.draw(st.sampled_from(case.rows))
    shape = data.draw(
        st.sampled_from(
            [
                (row.cols, row.rows),
                (row.rows * row.cols,),
                (row.rows * row.cols, 1),
                (row.rows, row.cols + 1),
                (row.rows, row.cols, 2),
                (2, row.rows, row.cols),
                (row.rows,),
                (),
                (0,),
                (row.rows, 0),
            ]
        )
    )
    folds = any(
        (int(np.prod(shape[:i])), int(np.prod(shape[i:]))) == (row.rows, row.cols) for i in range(len(shape) + 1)
    )
    model = ModelWriter(tmp_path / "m.sbs", case.config)
    if folds:  # a vector's, or a square's
        model.add(row.key, np.zeros(shape, dtype=np.float32))
    else:
        message = f"wrong-shape: {row.key!r} has shape {shape}, the config says {row.rows} × {row.cols}"
        with pytest.raises(UsageError, match=re.escape(message)):
            model.add(row.key, np.zeros(shape, dtype=np.float32))
    model.discard()
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("layout", ["fortran", "strided", "reversed", "big-endian"])
def test_values_may_lie_in_memory_in_any_way(tmp_path: Path, layout: str) -> None:
    config = small("gemma3", "sfp")
    rows = spec_tensors(config, "split")
    with ModelWriter(tmp_path / "m.sbs", config, index="none") as model:
        for row in rows:
            values = values_of(row, top=3)
            if layout == "fortran":
                values = np.asfortranarray(values)
            elif layout == "strided":
                values = np.stack([values, values], axis=-1)[..., 0]
            elif layout == "reversed":
                values = np.ascontiguousarray(values[::-1, ::-1])[::-1, ::-1]
            else:
                values = values.astype(">f4")
            model.add(row.key, values)
    assert blobs_in(tmp_path / "m.sbs") == expected_blobs(config, rows)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_other_floats_are_what_they_are_in_f32(tmp_path: Path, dtype: npt.DTypeLike) -> None:
    config = small("gemma3", "sfp")
    rows = spec_tensors(config, "split")
    for name, convert in (("a", np.dtype(dtype)), ("b", np.dtype(np.float32))):
        with ModelWriter(tmp_path / f"{name}.sbs", config) as model:
            for row in rows:
                model.add(row.key, values_of(row).astype(dtype).astype(convert))
    assert (tmp_path / "a.sbs").read_bytes() == (tmp_path / "b.sbs").read_bytes()


def test_lists_are_arrays(tmp_path: Path) -> None:
    config = small("gemma3")
    rows = spec_tensors(config, "stock")
    with ModelWriter(tmp_path / "m.sbs", config, index="none") as model:
        for row in rows:
            model.add(row.key, values_of(row, top=3).tolist())
    assert blobs_in(tmp_path / "m.sbs") == expected_blobs(config, rows)


# Types.


@some
@given(case=cases, data=st.data())
def test_a_wider_type_may_be_asked_for(tmp_path: Path, case: Case, data: st.DataObject) -> None:
    weight = case.config.weight_name
    types = {row.key: row.stored_type(weight) for row in case.rows}
    row = data.draw(st.sampled_from(case.rows))
    types[row.key] = data.draw(st.sampled_from(["f32", "bf16"] if row.floor != "f32" and weight != "f32" else ["f32"]))
    path = tmp_path / "m.sbs"
    write(
        path,
        case.config,
        case.rows,
        lambda model, row: model.add(row.key, values_of(row, top=3), type=types[row.key]),
        index="none",
    )
    blobs = blobs_in(path)
    assert {entry.name: entry.type.name for entry in parse_toc(blobs["toc"])} == types
    assert blobs[row.key] == codecs.encode(types[row.key], values_of(row, top=3))[0].tobytes()


def test_a_type_or_its_name_may_be_given(tmp_path: Path) -> None:
    config = small("gemma2")
    for path, f32 in ((tmp_path / "types.sbs", BY_NAME["f32"]), (tmp_path / "names.sbs", "f32")):
        with ModelWriter(path, config) as model:
            for row in spec_tensors(config, "stock"):
                if row.key == "linear_w_0":
                    model.add(row.key, values_of(row), type=f32)
                elif row.key == "linear_w_1":
                    model.add_stored(row.key, [values_of(row)], f32)
                else:
                    model.add(row.key, values_of(row))
    assert (tmp_path / "names.sbs").read_bytes() == (tmp_path / "types.sbs").read_bytes()
    model = ModelWriter(tmp_path / "m.sbs", config)
    with pytest.raises(UsageError, match="wrong-type: 'linear_w_0' can't be 'f64': the runtime takes f32, bf16"):
        model.add("linear_w_0", np.zeros((20, 28), dtype=np.float32), type=BY_NAME["f64"])
    model.discard()


@given(case=cases_of(["sfp"]), data=st.data())
def test_a_type_below_the_floor_is_refused(tmp_path: Path, case: Case, data: st.DataObject) -> None:
    row = data.draw(st.sampled_from([row for row in case.rows if row.floor]))
    too_narrow = ["sfp", "i8", "nuq", "f64", "u32", "f16", "u8", "nonsense"]
    type_name = data.draw(st.sampled_from([*too_narrow, "bf16"] if row.floor == "f32" else too_narrow))
    model = ModelWriter(tmp_path / "m.sbs", case.config)
    with pytest.raises(UsageError, match=f"wrong-type: {row.key!r} can't be {type_name!r}: the runtime takes f32"):
        model.add(row.key, values_of(row), type=type_name)
    with pytest.raises(UsageError, match="wrong-type"):
        model.add_stored(row.key, [b""], type_name)
    model.add(row.key, values_of(row))
    model.discard()
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("type_name", ["f64", "u32", "u64", "f16", "int8", "u8", "unknown", "SFP", "f4"])
def test_a_weight_in_another_type_is_refused(tmp_path: Path, type_name: str) -> None:
    model = ModelWriter(tmp_path / "m.sbs", small("gemma2"))
    with pytest.raises(
        UsageError, match=f"wrong-type: 'linear_w_0' can't be '{type_name}': the runtime takes f32, bf16"
    ):
        model.add("linear_w_0", np.zeros((20, 28), dtype=np.float32), type=type_name)
    with pytest.raises(UsageError, match="wrong-type"):
        model.add_stored("linear_w_0", [bytes(20 * 28)], type_name)
    model.discard()
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("key", ["img_pos_emb", "qkv_ein_b_0"])
def test_what_has_to_be_f32_is_said_once(tmp_path: Path, key: str) -> None:
    model = ModelWriter(tmp_path / "m.sbs", small("gemma3vlm"))
    with pytest.raises(UsageError, match=f"wrong-type: '{key}' can't be 'bf16': the runtime takes f32$"):
        model.add(key, np.zeros(1, dtype=np.float32), type="bf16")
    model.discard()


@pytest.mark.parametrize("weight", [WeightType.UNKNOWN, WeightType.NUQ, WeightType.F64, WeightType.U32, WeightType.U64])
def test_a_weight_type_that_nothing_encodes_is_refused(tmp_path: Path, weight: WeightType) -> None:
    config = replace(small("gemma2"), weight=weight)
    row = next(row for row in spec_tensors(config, "stock") if not row.floor)
    with pytest.raises(BlobStoreError), ModelWriter(tmp_path / "m.sbs", config) as model:
        model.add(row.key, values_of(row))
    assert nothing_left(tmp_path)


def test_nuq_can_be_stored_but_not_encoded(tmp_path: Path) -> None:
    config = small("gemma2").with_weight("nuq")
    with pytest.raises(CodecError, match="no-encoder"), ModelWriter(tmp_path / "m.sbs", config) as model:
        model.add("linear_w_0", np.zeros((20, 28), dtype=np.float32), type="nuq")
    assert nothing_left(tmp_path)
    with ModelWriter(tmp_path / "m.sbs", config) as model:
        for row in spec_tensors(config, "stock"):
            type_name = row.stored_type("nuq")
            if type_name == "nuq":
                with pytest.raises(CodecError, match="no-encoder"):  # before anything is written
                    model.add(row.key, values_of(row))
                model.add_stored(row.key, [bytes(BY_NAME["nuq"].nbytes(row.rows * row.cols))], "nuq")
            else:
                model.add(row.key, values_of(row))
    toc = parse_toc(blobs_in(tmp_path / "m.sbs")["toc"])
    assert {entry.type.name for entry in toc} == {"nuq", "bf16"}


@all_families
def test_an_f32_model_has_nothing_but_f32(tmp_path: Path, family: str) -> None:
    config = small(family, "f32")
    rows = spec_tensors(config, "split")
    write(tmp_path / "m.sbs", config, rows)
    assert {entry.type.name for entry in parse_toc(blobs_in(tmp_path / "m.sbs")["toc"])} == {"f32"}
    os.unlink(tmp_path / "m.sbs")
    message = "wrong-type: 'c_final_norm' can't be 'bf16': the config says that weights are f32, and nothing may be"
    with pytest.raises(UsageError, match=message):
        write(
            tmp_path / "m.sbs",
            config,
            rows,
            lambda model, row: model.add(row.key, values_of(row), type="bf16" if row.key == "c_final_norm" else None),
        )
    assert nothing_left(tmp_path)


@pytest.mark.parametrize(("weight", "type_name"), [("sfp", "bf16"), ("i8", "sfp"), ("bf16", "sfp"), ("bf16", "i8")])
def test_a_weight_type_that_is_not_the_narrowest_is_refused(tmp_path: Path, weight: str, type_name: str) -> None:
    config = small("gemma3").with_weight(weight)
    wide = f"incomplete-model: the config says weights are {weight}, the narrowest tensor is {type_name}"
    narrow = f"wrong-type: .* can't be '{type_name}': the config says that weights are {weight}"
    message = narrow if weight == "bf16" else wide
    with pytest.raises(UsageError, match=message):
        write(
            tmp_path / "m.sbs",
            config,
            spec_tensors(config, "split"),
            lambda model, row: model.add(row.key, values_of(row), type=row.floor or type_name),
        )
    assert nothing_left(tmp_path)


# What is missing, unknown, or added twice.


@given(case=cases, place=st.sampled_from(["embedded", "none"]), data=st.data())
def test_missing_tensors_are_named(tmp_path: Path, case: Case, place: IndexPlace, data: st.DataObject) -> None:
    keys = st.sampled_from([row.key for row in case.rows])
    gone = data.draw(st.lists(keys, min_size=1, max_size=5, unique=True))
    left = [row for row in case.rows if row.key not in gone]
    with pytest.raises(UsageError) as caught:
        write(tmp_path / "m.sbs", case.config, left, index=place)
    assert caught.value.reason == "incomplete-model"
    assert all(key in caught.value.message for key in gone)
    assert all(f"'{row.key}' is missing" not in caught.value.message for row in left)
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("added", [0, 1, 5])
def test_of_very_many_missing_tensors_twenty_are_named_and_the_others_counted(tmp_path: Path, added: int) -> None:
    config = small("gemma3vlm", "f32")
    rows = spec_tensors(config, "stock")
    model = ModelWriter(tmp_path / "m.sbs", config)
    for row in rows[:added]:
        add_values(model, row)
    with pytest.raises(UsageError) as caught:
        model.close()
    message = caught.value.message
    assert message.count("is missing") == 20
    assert message.endswith(f"; and {len(rows) - added - 20} more")
    assert all(row.key in message for row in rows[added : added + 8])
    # The file is discarded: nothing can be added any more.
    with pytest.raises(UsageError, match="closed"):
        add_values(model, rows[added])
    assert nothing_left(tmp_path)


@all_places
def test_both_forms_in_one_layer_are_refused(tmp_path: Path, index: IndexPlace) -> None:
    config = small("gemma2")
    rows = spec_tensors(config, "stock")
    more = next(row for row in spec_tensors(config, "split") if row.key == "att_w_0")
    with pytest.raises(UsageError, match="incomplete-model: att_ein_0, att_w_0 are of two forms"):
        write(tmp_path / "m.sbs", config, [*rows, more], index=index)
    assert nothing_left(tmp_path)


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("linear_0", "linear_w_0"),
        ("liner_w_1", "linear_w_1"),
        ("c_embeding", "c_embedding"),
        ("att_eins_0", "att_ein_0"),
        ("final_norm", "c_final_norm"),
    ],
)
def test_an_unknown_tensor_is_refused_with_near_names(tmp_path: Path, key: str, near: str) -> None:
    model = ModelWriter(tmp_path / "m.sbs", small("gemma2"))
    with pytest.raises(UsageError) as caught:
        model.add(key, np.zeros(1, dtype=np.float32))
    assert caught.value.reason == "unknown-tensor"
    assert f"Gemma2_2B has no tensor {key!r}: did you mean " in caught.value.message
    assert repr(near) in caught.value.message
    model.discard()


@pytest.mark.parametrize(
    "key", ["", "x", "config", "toc", "tokenizer", "~index", "linear_w_2", "key_norm_0", "mm_embed_norm"]
)
def test_a_key_that_is_not_a_tensor_of_the_model_is_refused(tmp_path: Path, key: str) -> None:
    model = ModelWriter(tmp_path / "m.sbs", small("gemma2"))
    with pytest.raises(UsageError, match="unknown-tensor"):
        model.add(key, np.zeros(1))
    with pytest.raises(UsageError, match="unknown-tensor"):
        model.add_stored(key, [b"1234"], "f32")
    model.discard()
    assert nothing_left(tmp_path)


@all_places
def test_a_tensor_that_is_added_twice_is_refused_and_the_first_one_stays(tmp_path: Path, index: IndexPlace) -> None:
    config = small("gemma2")
    rows = spec_tensors(config, "stock")
    with ModelWriter(tmp_path / "m.sbs", config, index=index) as model:
        for row in rows:
            model.add(row.key, values_of(row, top=3))
            with pytest.raises(UsageError, match=f"duplicate-name: '{row.key}'"):
                model.add(row.key, values_of(row, 1))
    blobs = blobs_in(tmp_path / "m.sbs")
    blobs.pop("~index", None)
    assert blobs == expected_blobs(config, rows)


# Values that a type can't hold.


@given(case=cases_of(["sfp", "i8"]), value=st.sampled_from([np.nan, np.inf, -np.inf]), data=st.data())
def test_a_value_that_is_not_finite_is_named_with_tensor_and_index(
    tmp_path: Path, case: Case, value: float, data: st.DataObject
) -> None:
    row = data.draw(st.sampled_from([row for row in case.rows if not row.floor]))
    i, j = data.draw(st.integers(0, row.rows - 1)), data.draw(st.integers(0, row.cols - 1))

    def add(model: ModelWriter, added: Row) -> None:
        values = values_of(added)
        if added is row:
            values[i, j] = value
        model.add(added.key, values)

    with pytest.raises(CodecError) as caught:
        write(tmp_path / "m.sbs", case.config, case.rows, add)
    assert caught.value.reason == "not-finite"
    what = f"{row.key!r} has {value} at index [{i}, {j}], which {case.config.weight_name} can't hold"
    assert caught.value.message == what
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("weight", ["f32", "bf16", "sfp", "i8"])
def test_f64_beyond_f32_is_refused_by_every_type(tmp_path: Path, weight: str) -> None:
    config = small("gemma2").with_weight(weight)
    values = np.zeros((20, 28))
    values[3, 5] = -1e39
    model = ModelWriter(tmp_path / "m.sbs", config)
    with pytest.raises(CodecError, match=r"not-finite: 'linear_w_1' has -1e\+39 at index \[3, 5\]"):
        model.add("linear_w_1", values)
    model.discard()
    assert nothing_left(tmp_path)


def test_after_a_value_that_was_refused_the_tensor_can_be_added(tmp_path: Path) -> None:
    config = small("gemma2", "sfp")
    rows = spec_tensors(config, "stock")
    with ModelWriter(tmp_path / "m.sbs", config, index="none") as model:
        for row in rows:
            if not row.floor:
                with pytest.raises(CodecError, match="not-finite"):
                    model.add(row.key, np.full((row.rows, row.cols), np.nan, dtype=np.float32))
            model.add(row.key, values_of(row, top=3))
    assert blobs_in(tmp_path / "m.sbs") == expected_blobs(config, rows)


@pytest.mark.parametrize("weight", ["f32", "bf16"])
def test_f32_and_bf16_hold_nan_and_infinity(tmp_path: Path, weight: str) -> None:
    config = small("gemma2", weight)
    with ModelWriter(tmp_path / "m.sbs", config) as model:
        for row in spec_tensors(config, "stock"):
            values = values_of(row)
            values[0, :3] = [np.nan, np.inf, -np.inf]
            model.add(row.key, values)
    with blobstore.open(tmp_path / "m.sbs") as store:
        for row in spec_tensors(config, "stock"):
            np.testing.assert_array_equal(store.load(row.key, dtype=np.float32)[0, :3], [np.nan, np.inf, -np.inf])


@pytest.mark.parametrize("dtype", [np.int32, np.int8, np.bool_, np.complex64, np.uint16])
def test_only_floats_are_taken(tmp_path: Path, dtype: npt.DTypeLike) -> None:
    model = ModelWriter(tmp_path / "m.sbs", small("gemma2"))
    with pytest.raises(CodecError, match="not-float: 'linear_w_0' has dtype"):
        model.add("linear_w_0", np.zeros((20, 28), dtype=dtype))
    model.discard()
    assert nothing_left(tmp_path)


# Bytes that are already encoded.


@pytest.mark.parametrize("difference", [-1, 1, 128])
@pytest.mark.parametrize("type_name", ["sfp", "i8", "bf16", "f32", "nuq"])
def test_after_bytes_of_another_size_the_file_is_discarded(tmp_path: Path, type_name: str, difference: int) -> None:
    config = small("gemma2").with_weight(type_name)
    rows = spec_tensors(config, "stock")
    model = ModelWriter(tmp_path / "m.sbs", config)
    nbytes = BY_NAME[type_name].nbytes(20 * 28)
    with pytest.raises(UsageError, match="wrong-size: 'linear_w_0'"):
        model.add_stored("linear_w_0", [bytes(nbytes + difference)], type_name)
    for row in rows:
        with pytest.raises(UsageError):
            model.add(row.key, values_of(row), type=row.floor or "f32")
    with pytest.raises(UsageError):
        model.close()
    assert nothing_left(tmp_path)


def test_after_pieces_that_break_off_the_file_is_discarded(tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield bytes(100)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"), ModelWriter(tmp_path / "m.sbs", small("gemma2")) as model:
        model.add_stored("linear_w_0", pieces(), "bf16")
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 1e39])
def test_a_scale_that_is_not_a_finite_f32_is_refused(tmp_path: Path, scale: float) -> None:
    model = ModelWriter(tmp_path / "m.sbs", small("gemma2", "sfp"))
    with pytest.raises(UsageError, match="bad-scale: 'linear_w_0'"):
        model.add_stored("linear_w_0", [bytes(20 * 28)], "sfp", scale=scale)
    model.discard()
    assert nothing_left(tmp_path)


def test_a_scale_is_stored_as_f32_in_toc_and_index(tmp_path: Path) -> None:
    config = small("gemma2", "sfp")
    with ModelWriter(tmp_path / "m.sbs", config) as model:
        for row in spec_tensors(config, "stock"):
            if row.key == "linear_w_0":
                model.add_stored(row.key, [bytes(20 * 28)], "sfp", scale=0.1)
            else:
                model.add(row.key, values_of(row))
    with blobstore.open(tmp_path / "m.sbs") as store:
        toc = {entry.name: entry for entry in parse_toc(bytes(store.reader["toc"]))}
        assert store.info("linear_w_0").scale == toc["linear_w_0"].scale == float(np.float32(0.1))


# A model that is not completed leaves nothing behind.


class Stop(Exception):  # noqa: N818 (not an error)
    pass


@all_versions
@all_places
@pytest.mark.parametrize("count", [0, 1, 7, 1000])
def test_nothing_appears_of_a_model_that_breaks_off(
    tmp_path: Path, count: int, index: IndexPlace, version: int
) -> None:
    config = small("gemma3")
    rows = spec_tensors(config, "stock")[:count]
    model = ModelWriter(tmp_path / "m.sbs", config, index=index, version=version)

    def break_off() -> None:
        with model:
            for row in rows:
                add_values(model, row)
            raise Stop

    with pytest.raises(Stop):
        break_off()
    assert nothing_left(tmp_path)
    # It stays discarded.
    model.close()
    assert nothing_left(tmp_path)
    with pytest.raises(UsageError, match="closed"):
        model.add("c_final_norm", np.zeros(20, dtype=np.float32))


@all_versions
@all_places
def test_a_file_of_that_name_stays_when_a_model_is_refused(tmp_path: Path, index: IndexPlace, version: int) -> None:
    path = tmp_path / "m.sbs"
    path.write_bytes(b"precious")
    config = small("gemma3")
    with pytest.raises(UsageError, match="incomplete-model"):
        write(path, config, spec_tensors(config, "stock")[:-1], index=index, version=version)
    assert path.read_bytes() == b"precious"
    assert os.listdir(tmp_path) == ["m.sbs"]


def test_a_config_that_can_not_be_stored_leaves_nothing(tmp_path: Path) -> None:
    config = replace(small("gemma3"), display_name="x" * 257)
    with pytest.raises(UsageError, match="bad-field"):
        write(tmp_path / "m.sbs", config, spec_tensors(config, "stock"))
    assert nothing_left(tmp_path)


def test_a_closed_model_is_closed(tmp_path: Path) -> None:
    config = small("gemma3")
    model = ModelWriter(tmp_path / "m.sbs", config)
    for row in spec_tensors(config, "stock"):
        model.add(row.key, values_of(row, top=3))
    model.close()
    file = (tmp_path / "m.sbs").read_bytes()
    model.close()
    model.discard()
    assert (tmp_path / "m.sbs").read_bytes() == file
    assert build_toc(parse_toc(blobs_in(tmp_path / "m.sbs")["toc"])) == blobs_in(tmp_path / "m.sbs")["toc"]


# Nothing is kept.


@pytest.mark.parametrize("weight", ["bf16", "sfp", "i8"])
def test_a_large_tensor_is_encoded_piece_by_piece(tmp_path: Path, weight: str) -> None:
    config = replace(small("gemma2").with_weight(weight), layer_configs=())
    config = replace(config, layer_configs=(replace(small("gemma2").layer_configs[0], ff_hidden_dim=200_000),))
    model = ModelWriter(tmp_path / "m.sbs", config)
    values = np.ones((config.model_dim, 200_000), dtype=np.float32)
    tracemalloc.start()
    try:
        model.add("linear_w_0", values)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    model.discard()
    # 16 MB are added; in memory are pieces of 64 Ki elements, and what is gathered before it is written.
    assert values.nbytes == 16_000_000
    assert peak < 6_000_000
