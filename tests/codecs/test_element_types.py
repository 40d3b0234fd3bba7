from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from blobstore.codecs import element_types
from blobstore.errors import UsageError
from tests.tensor_strategies import DTYPES

if TYPE_CHECKING:
    from pathlib import Path

TYPES = list(element_types.BY_NUMBER.values())


def test_the_types_are_those_of_the_specification(vectors: Path) -> None:
    page = (vectors.parent / "index.md").read_text().partition("## Element types")[2].partition("\n## ")[0]
    rows = re.findall(r"\| (\d+) \| (\w+) \| (\d+)([^|]*) \| (\w*)(?= |\|)", page)
    assert len(rows) == 28
    listed = {(int(number), name, int(bits), bool(more), peer) for number, name, bits, more, peer in rows}
    assert listed == {
        (entry.number, entry.name, entry.bits, bool(entry.group), entry.safetensors or "") for entry in TYPES
    }


def test_sizes_are_those_of_the_vectors(manifest: dict[str, Any]) -> None:
    listed = next(fact["entries"] for fact in manifest["valid"] if fact["file"] == "index-element-types.sbs")
    assert len(listed) == len(TYPES)
    for entry in listed:
        element_type = element_types.BY_NAME[entry["name"].removeprefix("tensor.")]
        assert (element_type.number, element_type.nbytes(3 * 87)) == (entry["type"], entry["nbytes"])


@given(
    st.lists(
        st.tuples(st.integers(0, 0xFFFF) | st.sampled_from(sorted(element_types.BY_NUMBER)), st.integers(0, 2**57))
    )
)
def test_many_sizes_at_once_are_the_same_as_one_by_one(rows: list[tuple[int, int]]) -> None:
    numbers = np.array([number for number, _ in rows], dtype=np.uint16)
    counts = np.array([min(count, 2**57 - 1) for _, count in rows], dtype=np.int64)
    expected = [
        element_types.BY_NUMBER[number].nbytes(int(count)) if number in element_types.BY_NUMBER else -1
        for (number, _), count in zip(rows, counts, strict=True)
    ]
    assert element_types.stored_nbytes(numbers, counts).tolist() == expected


@pytest.mark.parametrize("order", "<>=")
@pytest.mark.parametrize(("dtype", "name"), DTYPES.items(), ids=DTYPES.values())
def test_a_dtype_of_either_byte_order_has_the_type_that_reads_it(dtype: np.dtype[Any], name: str, order: str) -> None:
    element_type = element_types.type_of(dtype.newbyteorder(order))  # type: ignore[arg-type]
    assert (element_type.name, element_type.dtype, element_type.bits) == (
        name,
        dtype.newbyteorder("<"),
        dtype.itemsize * 8,
    )


def test_every_type_with_a_dtype_stores_one_but_unknown_bytes() -> None:
    assert {entry.name for entry in TYPES if entry.dtype is not None} == {*DTYPES.values(), "unknown"}


@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPES.values())
def test_a_dtype_is_found_by_its_name(dtype: np.dtype[Any]) -> None:
    assert element_types.dtype_named(dtype.name) == dtype


def test_a_name_of_no_stored_dtype_is_refused() -> None:
    with pytest.raises(UsageError, match="unsupported-dtype: no element type stores dtype complex128: convert to one"):
        element_types.dtype_named("complex128")


@pytest.mark.parametrize("c_type", [np.longlong, np.ulonglong, np.intc, np.uintc, np.byte])
def test_c_types_of_one_size_are_one_type(c_type: type[np.generic]) -> None:
    dtype = np.dtype(c_type)
    assert element_types.type_of(dtype).dtype == np.dtype(f"<{dtype.kind}{dtype.itemsize}")


@pytest.mark.parametrize("dtype", ["O", "U3", "S3", "M8[s]", "m8[s]", "g", "c16", "V8", "i4,f4"])
def test_a_dtype_without_a_type_is_refused_by_its_name(dtype: str) -> None:
    with pytest.raises(UsageError, match=re.escape(str(np.dtype(dtype)))) as caught:
        element_types.type_of(np.dtype(dtype))
    assert caught.value.reason == "unsupported-dtype"


@pytest.mark.parametrize(
    "name", ["F64", "F32", "F16", "I64", "U64", "I32", "U32", "I16", "U16", "I8", "U8", "BOOL", "C64"]
)
def test_names_of_safetensors_mean_what_they_mean_there(name: str) -> None:
    raw = save({"x": np.ones(2, dtype=element_types.BY_SAFETENSORS[name].dtype)})
    assert f'"dtype":"{name}"'.encode() in raw
    assert load(raw)["x"].dtype == element_types.BY_SAFETENSORS[name].dtype


@given(st.sampled_from([("q4_0", 18), ("mxfp4", 17)]), st.integers(0, 2**57))
def test_a_block_is_stored_in_full(block: tuple[str, int], count: int) -> None:
    name, nbytes = block
    assert element_types.BY_NAME[name].nbytes(count) == (count + 31) // 32 * nbytes


def test_a_number_that_was_once_ours_is_none_any_more() -> None:
    assert [str(element_types.by_number(number)) for number in (9, 10, 11)] == ["u16", "u8", "int8"]
    assert not {33, 34, 36} & element_types.BY_NUMBER.keys()


@given(st.integers(0, 0xFFFF))
def test_any_number_has_a_type_that_shows_it(number: int) -> None:
    element_type = element_types.by_number(number)
    assert element_type.number == number
    assert repr(element_type) in {element_type.name, f"type-{number}"}
    assert (element_type.bits == 0) == (number not in element_types.BY_NUMBER)


@given(st.sampled_from(list(element_types.BY_NAME)))
def test_a_type_and_its_name_mean_the_same(name: str) -> None:
    element_type = element_types.BY_NAME[name]
    assert element_types.as_element_type(name) is element_types.as_element_type(element_type) is element_type


@pytest.mark.parametrize("wrong", ["F32", "float32", "", None, 1, np.float32, np.dtype(np.float32), ["f32"]])
def test_what_names_no_type_is_refused(wrong: Any) -> None:  # noqa: ANN401 (that is the point)
    with pytest.raises(UsageError) as caught:
        element_types.as_element_type(wrong)
    assert caught.value.reason == "unknown-type"
    assert caught.value.message.startswith(f"{wrong!r} is not an element type: use one of unknown, f32, bf16, sfp, ")
