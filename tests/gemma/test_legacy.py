from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.codecs.element_types import BY_NAME
from blobstore.errors import FormatError
from blobstore.gemma import tensors_of
from blobstore.gemma.legacy import LegacyTensor, elements_in, legacy_tensors
from tests import models
from tests.models import f32s, families, forms, small, spec_tensors

LETTERS = {"F": "f32", "B": "bf16", "$": "sfp", "2": "nuq", "I": "i8"}
OF_TYPE = {name: letter for letter, name in LETTERS.items()}
# In the order in which the runtime takes scales inside a layer.
SCALED = ("att_ein", "qkv_ein", "gating_ein", "linear_w")

kinds = st.sampled_from(list(LETTERS.values()))
names = st.builds(
    lambda base, layer: f"{base}_{layer}",
    st.sampled_from([*SCALED, "att_w", "qkv1_w", "qkv2_w", "gating1_w", "pre_att_ns", "key_norm", "qkv_ein_w"]),
    st.integers(0, 61) | st.sampled_from([9, 10, 11, 100, 998]),
) | st.sampled_from(["c_embedding", "c_final_norm", "img_pos_emb", "mm_embed_norm", "enc_norm_bias"])
# Name → type and number of elements; an even number, because that of nuq is only known to within one.
files = st.dictionaries(
    names, st.tuples(kinds, st.integers(1, 999).map(lambda half: 2 * half)), min_size=1, max_size=12
)
File = dict[str, tuple[str, int]]


def blobs_of(file: File) -> list[tuple[str, int]]:
    return [(OF_TYPE[type_name] + name, BY_NAME[type_name].nbytes(count)) for name, (type_name, count) in file.items()]


def scales_blob(scales: list[float]) -> bytes:
    return np.array(scales, dtype="<f4").tobytes()


def in_runtime_order(file: File) -> list[str]:
    """Names of tensors that have a scale, in the order of the runtime's loader: layer by layer."""
    wanting = [name.rpartition("_") for name in file if name.rpartition("_")[0] in SCALED]
    layers = sorted({int(layer) for _, _, layer in wanting})
    return [f"{base}_{layer}" for layer in layers for base in SCALED if f"{base}_{layer}" in file]


def names_of(tensors: list[LegacyTensor]) -> list[str]:
    return [tensor.name for tensor in tensors]


# Keys.


@given(file=files)
def test_a_letter_is_a_type_and_the_rest_of_the_key_is_the_name(file: File) -> None:
    tensors = legacy_tensors(blobs_of(file), None)
    assert {tensor.name: (tensor.type.name, tensor.count) for tensor in tensors} == file
    assert names_of(tensors) == list(file)
    assert all((tensor.key, tensor.scale) == (OF_TYPE[tensor.type.name] + tensor.name, 1.0) for tensor in tensors)


@given(family=families, form=forms, type_name=kinds)
def test_all_tensors_of_all_families_are_known(family: str, form: str, type_name: str) -> None:
    rows = spec_tensors(small(family), form)
    blobs = [(OF_TYPE[type_name] + row.key, BY_NAME[type_name].nbytes(2 * row.rows * row.cols)) for row in rows]
    tensors = legacy_tensors(blobs, None)
    assert {tensor.name: tensor.count for tensor in tensors} == {row.key: 2 * row.rows * row.cols for row in rows}
    assert {row.key for row in rows} <= {spec.key for spec in tensors_of(small(family))}


@pytest.mark.parametrize(
    "key",
    [
        *("F", "$", "2", "I", "B"),
        *("c_embedding", "linear_w_0", "att_ein_3"),
        *(
            "Flinear_w_",
            "Flinear_w_a",
            "Flinear_w_1000",
            "Flinear_w_-1",
            "Flinear_w_1 ",
            "Flinear_w_ 1",
            "Flinear_w_１",
        ),
        *("Xc_embedding", "fc_embedding", "bc_embedding", "$$c_embedding", "FFc_embedding", " Fc_embedding"),
        *("Foo", "Bias", "2nd", "I am", "Format_3", "Fscales", "Bscales", "$lm_head", "Fc_embedding.weight"),
        *("Fconfig", "Ftoc", "2tokenizer", "config", "toc", "tokenizer", "~index", "\udcff"),
    ],
)
def test_a_key_that_only_looks_like_a_tensor_s_is_not_one(key: str) -> None:
    assert legacy_tensors([(key, 256)], None) == []
    tensors = legacy_tensors([(key, 256), ("Fc_final_norm", 256)], None)
    assert names_of(tensors) == ["c_final_norm"]


@pytest.mark.parametrize(
    "key", ["Fc_embedding_3", "$c_final_norm_0", "Flinear_w", "$att_ein", "Flinear_w_00", "$att_ein_07"]
)
def test_a_layer_is_where_the_runtime_s_key_has_one(key: str) -> None:
    # The runtime knows c_embedding and linear_w_0, and stops at a key that it does not know.
    assert legacy_tensors([(key, 256)], None) == []


@given(key=st.text(max_size=16), nbytes=st.integers(0, 4096))
def test_any_other_key_is_not_a_tensor(key: str, nbytes: int) -> None:
    assert legacy_tensors([(key, nbytes)], None) == []
    assert legacy_tensors([(key, nbytes)], b"\0\0\0") == []


def test_a_file_without_tensors_is_not_from_before_2025() -> None:
    assert legacy_tensors([], None) == []
    blobs = [("config", 8), ("toc", 8), ("linear_w_0", 8)]
    # Then Fscales is a blob like any other.
    assert legacy_tensors(blobs, b"abc") == legacy_tensors(blobs, scales_blob([math.nan])) == []


# Sizes.


@pytest.mark.parametrize("type_name", [*LETTERS.values(), "q4_0", "mxfp4"])
def test_as_many_elements_as_fill_the_bytes(type_name: str) -> None:
    element = BY_NAME[type_name]
    largest: dict[int, int] = {}
    for count in range(1, 3000):
        largest[element.nbytes(count)] = count  # keeps the largest such number
    for nbytes in range(element.nbytes(2998)):
        assert elements_in(element, nbytes) == largest.get(nbytes, 0), nbytes


@given(type_name=kinds, count=st.integers(1, 2**40))
def test_elements_in_is_the_inverse_of_nbytes(type_name: str, count: int) -> None:
    element = BY_NAME[type_name]
    even = count + (count % 2 if type_name == "nuq" else 0)
    assert elements_in(element, element.nbytes(count)) == even


@given(type_name=kinds, nbytes=st.integers(0, 2**50))
def test_elements_found_fill_the_bytes(type_name: str, nbytes: int) -> None:
    element = BY_NAME[type_name]
    count = elements_in(element, nbytes)
    assert count == 0 or (element.nbytes(count) == nbytes < element.nbytes(count + 1))


@pytest.mark.parametrize(
    ("letter", "nbytes"),
    [
        *(("F", 0), ("F", 1), ("F", 255), ("F", 258), ("B", 0), ("B", 1), ("B", 257), ("$", 0)),
        *(("2", 0), ("2", 1), ("2", 16), ("2", 144 + 16), ("I", 0), ("I", 4), ("I", 132 + 4), ("I", 264 + 1)),
    ],
)
def test_a_blob_that_no_number_of_elements_fills_is_not_a_tensor(letter: str, nbytes: int) -> None:
    blobs = [(f"{letter}linear_w_0", nbytes), ("Fc_final_norm", 8)]
    assert names_of(legacy_tensors(blobs, None)) == ["c_final_norm"]
    # So it needs no scale.
    assert [tensor.scale for tensor in legacy_tensors(blobs, b"")] == [1.0]


# Scales.


@given(file=files, values=st.lists(f32s, min_size=12, max_size=12), seed=st.integers(0, 999))
def test_scales_go_to_tensors_layer_by_layer(file: File, values: list[float], seed: int) -> None:
    order = in_runtime_order(file)
    expected = dict(zip(order, values, strict=False))
    blobs = blobs_of(file)
    random.Random(seed).shuffle(blobs)  # the order of blobs doesn't matter
    tensors = legacy_tensors(blobs, scales_blob(values[: len(order)]))
    assert {tensor.name: tensor.scale for tensor in tensors} == {name: expected.get(name, 1.0) for name in file}
    assert [tensor.key for tensor in tensors] == [key for key, _ in blobs]


def test_layers_are_in_the_order_of_their_numbers() -> None:
    bases = [f"{base}_{layer}" for layer in (10, 2, 1, 11, 0) for base in reversed(SCALED)]
    tensors = legacy_tensors([(f"${name}", 8) for name in bases], scales_blob([float(i) for i in range(20)]))
    by_scale = [tensor.name for tensor in sorted(tensors, key=lambda tensor: tensor.scale)]
    assert by_scale == [f"{base}_{layer}" for layer in (0, 1, 2, 10, 11) for base in SCALED]


@pytest.mark.parametrize("family", models.FAMILIES)
def test_a_whole_model_takes_four_scales_a_layer(family: str) -> None:
    config = small(family, "sfp")
    rows = spec_tensors(config, "stock")
    blobs = [
        (OF_TYPE[row.stored_type("sfp")] + row.key, BY_NAME[row.stored_type("sfp")].nbytes(row.rows * row.cols))
        for row in rows
    ]
    scales = [float(i + 2) for i in range(4 * config.num_layers)]
    tensors = legacy_tensors([*blobs, ("Fscales", 4 * len(scales))], scales_blob(scales))
    assert sorted(tensor.scale for tensor in tensors if tensor.scale != 1) == scales
    # Vision layers have a qkv_ein_w and a linear_0_w, which are not qkv_ein and linear_w.
    assert {tensor.name.rpartition("_")[0] for tensor in tensors if tensor.scale != 1} == set(SCALED)
    assert len(tensors) == len(rows)


@given(file=files, more=st.integers(-12, 12).filter(bool))
def test_another_number_of_scales_is_refused(file: File, more: int) -> None:
    wanted = len(in_runtime_order(file))
    number = wanted + more
    if number < 0:
        return
    with pytest.raises(FormatError) as caught:
        legacy_tensors(blobs_of(file), scales_blob([1.0] * number))
    assert caught.value.reason == "scales-count"
    assert f"'Fscales' has {number} scales for {wanted} tensors" in caught.value.message
    assert "use_index=False" in caught.value.message


@pytest.mark.parametrize("nbytes", [1, 2, 3, 5, 6, 7])
def test_scales_that_are_not_f32_are_refused(nbytes: int) -> None:
    with pytest.raises(FormatError, match=f"scales-count: 'Fscales' has {nbytes} bytes"):
        legacy_tensors([("$linear_w_0", 8)], bytes(nbytes))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_scales_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(FormatError, match="scales-number"):
        legacy_tensors([("$linear_w_0", 8), ("$linear_w_1", 8)], scales_blob([1.0, value]))


@pytest.mark.parametrize("scales", [None, [2.0], [2.0, 3.0]])
def test_one_tensor_in_two_types_is_refused(scales: list[float] | None) -> None:
    # The runtime's table of tensors can't have a name twice, either: it stops.
    blobs = [("$linear_w_0", 8), ("Flinear_w_0", 8)]
    with pytest.raises(FormatError, match="letters-duplicate: two blobs are the tensor 'linear_w_0'"):
        legacy_tensors(blobs, None if scales is None else scales_blob(scales))
