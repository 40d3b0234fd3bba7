from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

import blobstore
from blobstore.codecs.element_types import BY_NAME, BY_NUMBER
from blobstore.errors import FormatError, UsageError
from blobstore.gemma import ModelConfig, TocEntry, build_toc, parse_toc
from blobstore.gemma.toc import odd_strides, odd_strides_in, stride_fault, toc_entry
from tests import models
from tests.models import emitted, packed, spec_tensors, tiny, tree, unpacked

if TYPE_CHECKING:
    from pathlib import Path

# What gemma.cpp wrote at commit 3ed403e for a tensor x of 1 × n, from ../shared/vectors/codecs/manifest.json.
WORDS = {
    "sfp-every-bf16": "9 1 78 3 1 7fe2 1 7fe2 3f800000 7fe2",
    "sfp-low-bits": "9 1 78 3 1 2000 1 2000 3f800000 2000",
    "sfp-scaled": "9 1 78 3 1 1388 1 1388 40b143d3 1388",
    "sfp-odd": "9 1 78 3 1 4d 1 4d 3f800000 4d",
    "bf16-bits": "9 1 78 2 2 2eee 1 2eee 3f800000 2eee",
    "f32-plain": "9 1 78 1 4 12c 1 12c 3f800000 12c",
    "i8-128": "9 1 78 8 1 84 1 80 3f800000 80",
    "i8-256": "9 1 78 8 1 108 1 100 3f800000 100",
    "i8-1000": "9 1 78 8 1 408 1 3e8 3f800000 3e8",
    "i8-1": "9 1 78 8 1 5 1 1 3f800000 1",
    "i8-127": "9 1 78 8 1 83 1 7f 3f800000 7f",
    "i8-129": "9 1 78 8 1 89 1 81 3f800000 81",
    "i8-4096": "9 1 78 8 1 1080 1 1000 3f800000 1000",
    "i8-constant": "9 1 78 8 1 d0 1 c8 3f800000 c8",
    "i8-zeros": "9 1 78 8 1 8a 1 82 3f800000 82",
    "nuq-256": "9 1 78 4 1 90 1 100 3f800000 100",
    "nuq-1024": "9 1 78 4 1 240 1 400 3f800000 400",
    "nuq-1000": "9 1 78 4 1 234 1 3e8 3f800000 3e8",
    "nuq-64": "9 1 78 4 1 30 1 40 3fd49616 40",
}
# What else the manifest says: values, bytes, and the scale where it isn't 1.
SIZES = {
    "sfp-scaled": (5000, 5000, 5.539529323577881),
    "bf16-bits": (12014, 24028, 1.0),
    "f32-plain": (300, 1200, 1.0),
    "i8-1": (1, 5, 1.0),
    "i8-129": (129, 137, 1.0),
    "i8-1000": (1000, 1032, 1.0),
    "nuq-1000": (1000, 564, 1.0),
    "nuq-64": (64, 48, 1.6608302593231201),
}
ELEMENT_BYTES = {"f32": 4, "bf16": 2, "sfp": 1, "nuq": 1, "f64": 8, "u32": 4, "u64": 8, "i8": 1, "u16": 2, "u8": 1,
                 "int8": 1, "q4_0": 1, "mxfp4": 1}  # fmt: skip
GROUPS = {"i8": (128, 128 + 4), "nuq": (256, 128 + 16), "q4_0": (32, 16 + 2), "mxfp4": (32, 16 + 1)}

kinds = st.sampled_from([BY_NAME[name] for name in ELEMENT_BYTES])
names = st.text(st.characters(min_codepoint=33, exclude_categories=["Cs"]), min_size=1, max_size=16)
entries = st.builds(toc_entry, names, kinds, st.integers(1, 9000), st.integers(1, 9000), models.f32s)
any_entries = st.builds(
    lambda entry, number: replace(entry, type_number=number),
    models.records(TocEntry, newer=models.newer_words),
    st.integers(1, 31),
)


def tables(one: st.SearchStrategy[TocEntry]) -> st.SearchStrategy[list[TocEntry]]:
    return st.lists(one, min_size=1, max_size=6, unique_by=lambda entry: entry.name)


def words_of(name: str) -> list[int]:
    return [int(word, 16) for word in WORDS[name].split()]


@pytest.mark.parametrize("name", WORDS)
def test_an_entry_has_the_words_that_gemma_cpp_writes(name: str) -> None:
    words = words_of(name)
    [entry] = parse_toc(packed(words))
    type_name = name.partition("-")[0]
    assert (entry.name, entry.type.name, entry.rows, entry.stride) == ("x", type_name, 1, entry.cols)
    assert toc_entry("x", BY_NAME[type_name], 1, entry.cols, entry.scale) == entry
    assert build_toc([entry]) == packed(words)


@pytest.mark.parametrize("name", SIZES)
def test_an_entry_says_how_large_its_blob_is(name: str) -> None:
    count, nbytes, scale = SIZES[name]
    [entry] = parse_toc(packed(words_of(name)))
    assert (entry.cols, entry.nbytes, entry.scale) == (count, nbytes, scale)


def test_the_facts_are_those_of_the_shared_vectors(shared_vectors: Path) -> None:
    listed = json.loads((shared_vectors / "codecs" / "manifest.json").read_bytes())
    assert {one["name"]: [int(word, 16) for word in one["toc_words"]] for one in listed} == {
        name: words_of(name) for name in WORDS
    }
    by_name = {one["name"]: (one["n"], one["bytes"], one["scale"]) for one in listed}
    assert {name: by_name[name] for name in SIZES} == SIZES
    for one in listed:
        [entry] = parse_toc(packed(words_of(one["name"])))
        assert (entry.type.name, entry.cols, entry.nbytes) == (one["type"], one["n"], one["bytes"])


@pytest.mark.parametrize("form", models.FORMS)
@pytest.mark.parametrize("weight", models.WEIGHTS)
@pytest.mark.parametrize("family", models.FAMILIES)
def test_the_toc_of_a_model_is_the_one_that_gemma_cpp_writes(family: str, weight: str, form: str) -> None:
    rows = spec_tensors(tiny(family, weight), form)
    raw = build_toc(toc_entry(row.key, BY_NAME[row.stored_type(weight)], row.rows, row.cols) for row in rows)
    assert hashlib.sha256(raw).hexdigest() == models.TOC_SHA256[f"{family} {weight} {form}"]
    assert [entry.name for entry in parse_toc(raw)] == [row.key for row in rows]


def test_tocs_of_whole_files_are_written_back(shared_vectors: Path) -> None:
    paths = sorted((shared_vectors / "convert").glob("*.sbs"))
    assert len(paths) == 8
    for path in paths:
        with blobstore.BlobReader(path) as reader:
            raw = bytes(reader["toc"])
            entries = parse_toc(raw)
            assert build_toc(entries) == raw
            assert {entry.name: entry.nbytes for entry in entries} == {
                key: len(blob) for key, blob in reader.items() if key not in ("config", "tokenizer", "toc")
            }
            config = bytes(reader["config"])
            assert ModelConfig.from_bytes(config).to_bytes() == config


@given(table=tables(entries | any_entries))
def test_what_is_built_is_read(table: list[TocEntry]) -> None:
    raw = build_toc(table)
    assert unpacked(raw) == [word for one in table for word in emitted(tree(one))]
    assert parse_toc(raw) == parse_toc(memoryview(raw)) == table
    assert build_toc(parse_toc(raw)) == raw


@given(name=names, element_type=kinds, rows=st.integers(1, 70000), cols=st.integers(1, 30000), scale=models.f32s)
def test_an_entry_s_numbers_follow_from_type_and_shape(
    name: str, element_type: blobstore.ElementType, rows: int, cols: int, scale: float
) -> None:
    entry = toc_entry(name, element_type, rows, cols, scale)
    assert (entry.name, entry.type, entry.rows, entry.cols, entry.stride) == (name, element_type, rows, cols, cols)
    assert entry.scale == scale
    assert entry.element_bytes == ELEMENT_BYTES[element_type.name]
    # The blob has this many elements, each of this many bytes.
    assert entry.nbytes == entry.element_bytes * entry.num_elements
    count = rows * cols
    # Groups are counted in bytes, and the last one of i8 and nuq is stored only as far as it is filled.
    group, nbytes = GROUPS.get(element_type.name, (1, 1))
    lacking = -count % group if element_type.name in ("i8", "nuq") else 0
    assert entry.num_elements == -(-count // group) * nbytes - (lacking // 2 if element_type.name == "nuq" else lacking)


@given(table=tables(entries), number=st.sampled_from([0, 32, 35, 2**16 + 1, 2**32 - 1]), data=st.data())
def test_a_number_that_is_not_a_type_is_refused(table: list[TocEntry], number: int, data: st.DataObject) -> None:
    i = data.draw(st.integers(0, len(table) - 1))
    broken = replace(table[i], type_number=number)
    raw = build_toc([*table[:i], broken, *table[i + 1 :]])
    with pytest.raises(FormatError) as caught:
        parse_toc(raw)
    assert caught.value.reason == "toc-type"
    assert caught.value.offset == len(build_toc(table[:i]))
    assert f"{broken.name!r} has type {number}, at offset {caught.value.offset}" in caught.value.message


def test_types_1_to_13_are_the_runtime_s() -> None:
    names = [parse_toc(build_toc([toc_entry("x", BY_NUMBER[number], 1, 1)]))[0].type.name for number in range(1, 14)]
    assert names == list(ELEMENT_BYTES)


@given(entry=entries, number=st.integers(14, 31), nbytes=st.integers(1, 2**40))
def test_what_a_tensor_of_a_newer_type_takes_is_not_known(entry: TocEntry, number: int, nbytes: int) -> None:
    [newer] = parse_toc(build_toc([replace(entry, type_number=number)]))
    assert (newer.type.name, newer.nbytes, newer.fits(nbytes)) == (f"type-{number}", 0, True)
    for rows, cols in ((0, 3), (3, 0), (2**31, 2**26)):
        assert not replace(newer, rows=rows, cols=cols).fits(nbytes)
    assert replace(newer, rows=2**31, cols=2**26 - 1).fits(nbytes)


@given(entry=entries, nbytes=st.integers(0, 2**40))
def test_a_blob_fits_when_it_has_the_bytes_of_type_and_shape(entry: TocEntry, nbytes: int) -> None:
    assert entry.fits(entry.nbytes)
    assert entry.fits(nbytes) == (nbytes == entry.nbytes)


@given(table=tables(entries), data=st.data())
def test_a_stride_is_odd_unless_it_is_0_or_a_row(table: list[TocEntry], data: st.DataObject) -> None:
    strides = st.sampled_from([0, 1, 2, None]) | st.integers(0, 2**32 - 1)
    drawn = [data.draw(strides) for _ in table]
    changed = [replace(entry, stride=entry.cols if to is None else to) for entry, to in zip(table, drawn, strict=True)]
    odd = odd_strides(changed)
    assert odd == [entry for entry in changed if entry.stride and entry.stride != entry.cols]
    assert parse_toc(build_toc(changed)) == changed, "it is read all the same"
    assert odd_strides_in({"toc": memoryview(build_toc(changed))}) == odd
    for entry in odd:
        assert f"{entry.stride} elements apart, expected {entry.cols}" in stride_fault(entry)
        assert f"--drop {entry.name}" in stride_fault(entry)


@given(table=tables(entries), another=entries, data=st.data())
def test_a_name_that_appears_twice_is_refused(table: list[TocEntry], another: TocEntry, data: st.DataObject) -> None:
    i = data.draw(st.integers(0, len(table) - 1))
    raw = build_toc(table) + build_toc([replace(another, name=table[i].name), another])
    with pytest.raises(FormatError) as caught:
        parse_toc(raw)
    assert (caught.value.reason, caught.value.offset) == ("toc-duplicate", len(build_toc(table)))
    assert repr(table[i].name) in caught.value.message


def test_an_older_entry_has_defaults_and_one_without_a_type_is_refused() -> None:
    words = words_of("sfp-scaled")
    [older] = parse_toc(packed([7, *words[1:8]]))
    expected = TocEntry(name="x", type_number=3, element_bytes=1, num_elements=5000, rows=1, cols=5000, extent=6)
    assert older == expected
    assert (older.scale, older.stride) == (1.0, 0)
    with pytest.raises(FormatError, match=r"toc-type: 'x' has type 0, at offset 0"):
        parse_toc(packed([2, *words[1:3]]))


@given(table=tables(any_entries), words=st.lists(models.u32s, min_size=1, max_size=4), data=st.data())
def test_words_of_newer_fields_are_skipped_and_kept(
    table: list[TocEntry], words: list[int], data: st.DataObject
) -> None:
    i = data.draw(st.integers(0, len(table) - 1))
    newer = [*table[:i], replace(table[i], newer=(*table[i].newer, *words)), *table[i + 1 :]]
    raw = build_toc(newer)
    assert len(raw) == len(build_toc(table)) + 4 * len(words)
    assert parse_toc(raw) == newer
    assert build_toc(parse_toc(raw)) == raw


@given(table=tables(entries), data=st.data())
def test_a_toc_that_is_cut_short_is_refused_but_between_entries(table: list[TocEntry], data: st.DataObject) -> None:
    raw = build_toc(table)
    end = 4 * data.draw(st.integers(1, len(raw) // 4))
    borders = {len(build_toc(table[:i])): i for i in range(1, len(table) + 1)}
    if end in borders:
        assert parse_toc(raw[:end]) == table[: borders[end]]
    else:
        with pytest.raises(FormatError, match="fields-truncated"):
            parse_toc(raw[:end])


def test_an_empty_toc_is_refused_when_it_is_read() -> None:
    assert build_toc([]) == b""
    with pytest.raises(FormatError, match="fields-size: 0 bytes"):
        parse_toc(b"")


@pytest.mark.parametrize(
    ("field", "value"),
    [("rows", 2**32), ("num_elements", 2**32), ("scale", float("nan")), ("scale", 1e39), ("name", "\ud800")],
)
def test_an_entry_that_can_not_be_stored_is_refused_with_its_field(field: str, value: float | str) -> None:
    changes: dict[str, float | str] = {field: value}
    entry = replace(toc_entry("x", BY_NAME["bf16"], 1, 1), **changes)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=rf"bad-field: TocEntry\.{field}: "):
        build_toc([entry])
