from __future__ import annotations

import json
import math
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError

from blobstore.checkpoint.safetensors import MAX_HEADER_NBYTES, dump_header, parse_header
from blobstore.codecs.element_types import BY_NAME, BY_SAFETENSORS
from blobstore.errors import FormatError, TruncatedError, UsageError
from tests.checkpoints import own, parse, raw_file, said_by_peer, said_by_us, small, tensor_maps, write_own, write_peer
from tests.strategies import payload
from tests.tensor_strategies import metadata_maps, texts

if TYPE_CHECKING:
    from pathlib import Path

    from blobstore.codecs.element_types import ElementType
    from tests.checkpoints import Tensors

ONE = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
DATA = b"1234"


def entry(dtype: str = '"U8"', shape: str = "[4]", offsets: str = "[0,4]") -> str:
    return f'{{"a":{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}}}'


@st.composite
def headers(draw: st.DrawFn) -> dict[str, tuple[ElementType, tuple[int, ...]]]:
    """Tensors of any type and shape, each a whole number of bytes, up to sizes that no disk holds."""
    sizes = st.one_of(st.integers(0, 5), st.integers(0, 1 << 20))
    out = {}
    for name in draw(st.lists(texts.filter(lambda name: name != "__metadata__"), unique=True, max_size=5)):
        element_type = draw(st.sampled_from(list(BY_SAFETENSORS.values())))
        shape = draw(st.lists(sizes, max_size=2).map(tuple))
        out[name] = (element_type, shape if element_type.bits % 8 == 0 else (*shape, 4))
    return out


@given(headers(), metadata_maps)
def test_a_dumped_header_parses_to_what_went_in(
    tensors: dict[str, tuple[ElementType, tuple[int, ...]]], metadata: dict[str, str]
) -> None:
    raw = dump_header(((name, *tensor) for name, tensor in tensors.items()), metadata)
    size = len(raw) + sum(element_type.nbytes(math.prod(shape)) for element_type, shape in tensors.values())

    parsed = parse_header(lambda offset, nbytes: raw[offset : offset + nbytes], size)

    assert [(one.name, one.type, one.shape) for one in parsed.entries] == [(n, *one) for n, one in tensors.items()]
    assert parsed.metadata == metadata
    assert len(raw) % 8 == 0
    end = len(raw)
    for entry in parsed.entries:
        assert entry.offset == end
        end += entry.nbytes
    assert end == size


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (ONE, "'dtype': expected dtype, shape and data_offsets"),
        (f'{{"__metadata__":{ONE}}}', "the value of 'shape' is not a string"),
        (f'{{"a":{{"b":{ONE}}}}}', "'a': expected dtype, shape and data_offsets"),
        (f'{{"a":[{ONE}]}}', "'a': expected dtype, shape and data_offsets"),
    ],
)
def test_what_looks_like_a_tensor_elsewhere_is_not_one(text: str, what: str) -> None:
    raw = raw_file(text, DATA)
    with pytest.raises(FormatError) as caught:
        parse(raw)
    assert what in str(caught.value)


@pytest.mark.parametrize("limit", [0, 1, 9])
def test_shapes_are_the_same_however_many_are_shared(limit: int) -> None:
    shapes = [(0,), (0, 1), (0,), (2, 0), ()]
    raw = dump_header((str(i), BY_NAME["u8"], shape) for i, shape in enumerate(shapes)) + b"1"
    header = parse_header(lambda at, nbytes: raw[at : at + nbytes], len(raw), max_shared_shapes=limit)
    assert [entry.shape for entry in header.entries] == shapes


@given(tensor_maps, metadata_maps)
def test_a_file_of_safetensors_is_read_as_safetensors_reads_it(
    tmp_path: Path, tensors: Tensors, metadata: dict[str, str]
) -> None:
    raw = write_peer(tmp_path / "peer.safetensors", tensors, metadata).read_bytes()
    ours, meta = said_by_us(raw)
    assert (ours, meta) == said_by_peer(raw, tmp_path / "again.safetensors")
    assert meta == metadata
    assert {name: (shape, data) for name, (_, shape, data) in ours.items()} == {
        name: (array.shape, array.tobytes()) for name, array in tensors.items()
    }


@given(tensor_maps, metadata_maps, st.sampled_from(["f4", "f6_e2m3", "f6_e3m2"]))
def test_a_file_of_ours_is_read_by_safetensors_as_by_us(
    tmp_path: Path, tensors: Tensors, metadata: dict[str, str], packed: str
) -> None:
    element_type = BY_NAME[packed]
    stored = own(tensors) | {"packed": (element_type, (2, 4), payload(1, element_type.bits))}
    raw = write_own(tmp_path / "own.safetensors", stored, metadata).read_bytes()
    said = said_by_us(raw)
    assert said == said_by_peer(raw, tmp_path / "again.safetensors")
    assert said[0] == {
        name: (element_type.safetensors, shape, data) for name, (element_type, shape, data) in stored.items()
    }


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """Files with a few bytes changed, removed, inserted or repeated; in some the header's length is corrected."""
    stored = own(draw(tensor_maps))
    header = dump_header(
        ((name, element_type, shape) for name, (element_type, shape, _) in stored.items()), draw(metadata_maps)
    )
    raw = bytearray(header + b"".join(data for _, _, data in stored.values()))
    change = 0
    for _ in range(draw(st.integers(1, 3))):
        # Mostly in the header.
        start = draw(st.integers(0, min(len(header) + 20, len(raw))))
        end = min(len(raw), start + draw(st.integers(0, 12)))
        place = draw(st.integers(8, len(header)))
        new = draw(
            st.one_of(
                st.text('{}[]":,0123456789.eE-+ \\un', max_size=6).map(str.encode),
                st.binary(max_size=3),
                st.just(bytes(raw[place : place + 30])),
                st.just(b""),
            )
        )
        raw[start:end] = new
        change += len(new) - (end - start)
    if draw(st.booleans()):
        raw[:8] = max(0, len(header) - 8 + change).to_bytes(8, "little")
    return bytes(raw)


@st.composite
def rewritings(draw: st.DrawFn) -> bytes:
    """Files whose header is valid JSON with wrong contents: sizes and offsets nearly right, and wrong types."""
    stored = own(draw(tensor_maps))
    header = dump_header((name, element_type, shape) for name, (element_type, shape, _) in stored.items())
    fields = json.loads(header[8:])
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.sampled_from(list(fields)))
        field = draw(st.sampled_from(["dtype", "shape", "data_offsets"]))
        old = fields[place][field]
        if isinstance(old, list) and old and draw(st.booleans()):
            at = draw(st.integers(0, len(old) - 1))
            old[at] = draw(st.sampled_from([old[at] + 1, old[at] * 2, old[at] - 1, 0, 1, float(old[at]), 1 << 63]))
        else:
            hostile = [[], [1], [0, 4], [4, 0], [1 << 32, 1 << 32], None, 4, "F32", "U8", "F4", "f32"]
            fields[place][field] = draw(st.sampled_from([*hostile, old]))
    if draw(st.booleans()):
        order = draw(st.permutations(list(fields)))
        fields = {name: fields[name] for name in order}
    data = b"".join(data for _, _, data in stored.values())
    return raw_file(json.dumps(fields), data + draw(st.sampled_from([b"", b"", b"\0"])))


@given(st.one_of(mutations(), rewritings()))
def test_whatever_was_done_to_a_file_we_accept_only_what_safetensors_reads_in_the_same_way(
    tmp_path: Path, raw: bytes
) -> None:
    try:
        said = said_by_us(raw)
    except FormatError as error:
        reason = error.reason
    else:
        reason = ""
        assert said == said_by_peer(raw, tmp_path / "mutated.safetensors")
    assert reason in {"", "safetensors-header", "safetensors-entry", "safetensors-layout"}


@given(tensor_maps, st.data())
def test_a_file_cut_short_anywhere_is_refused_as_truncated(tensors: Tensors, data: st.DataObject) -> None:
    stored = own(tensors)
    raw = dump_header((name, element_type, shape) for name, (element_type, shape, _) in stored.items())
    raw += b"".join(data for _, _, data in stored.values())
    with pytest.raises(TruncatedError):
        parse(raw[: data.draw(st.integers(0, len(raw) - 1))])


# What is wrong, the reason code, and what the message must say.
WRONG = {
    "no-length": (b"1234567", "safetensors-header", "7 bytes"),
    "no-header": (raw_file(""), "safetensors-header", "expected '{'"),
    "header-of-100-mb-and-one": (b"\1\xe1\xf5\5\0\0\0\0{}", "safetensors-header", "100000001"),
    "header-of-2-64": (b"\xff" * 8 + b"{}", "safetensors-header", "18446744073709551615"),
    "header-longer-than-the-file": (raw_file("{}")[:9], "safetensors-header", "truncated"),
    "header-one-byte-short": (raw_file(entry()[:-1], DATA), "safetensors-header", ""),
    "array": (raw_file("[]"), "safetensors-header", "expected '{'"),
    "byte-order-mark": (raw_file(f'\ufeff{{"a":{ONE}}}', DATA), "safetensors-header", "expected '{'"),
    "white-space-first": (raw_file(f' {{"a":{ONE}}}', DATA), "safetensors-header", "expected '{'"),
    "nul-padding": (raw_file(f'{{"a":{ONE}}}\0', DATA), "safetensors-header", "Extra data"),
    "nested-deeply": (raw_file('{"a":' + "[" * 200_000 + "]" * 200_000 + "}"), "safetensors-header", "nested"),
    "nan": (raw_file(entry(shape="[NaN]"), DATA), "safetensors-header", "NaN"),
    "infinity": (raw_file(entry(shape="[-Infinity]"), DATA), "safetensors-header", "-Infinity"),
    "control-character": (raw_file(f'{{"a\n":{ONE}}}', DATA), "safetensors-header", "control character"),
    "not-utf-8": (raw_file(b'{"\xff":' + ONE.encode() + b"}", DATA), "safetensors-header", "utf-8"),
    "surrogate-as-bytes": (raw_file(b'{"\xed\xa0\x80":' + ONE.encode() + b"}", DATA), "safetensors-header", "utf-8"),
    "lone-surrogate": (raw_file(f'{{"\\ud800":{ONE}}}', DATA), "safetensors-header", "surrogate"),
    "lone-surrogate-in-metadata": (
        raw_file(f'{{"__metadata__":{{"a":"\\udc00"}},"a":{ONE}}}', DATA),
        "safetensors-header",
        "surrogate",
    ),
    "name-twice": (raw_file(f'{{"a":{ONE},"a":{ONE}}}', DATA), "safetensors-header", "'a'"),
    "name-twice-by-escape": (raw_file(f'{{"a":{ONE},"\\u0061":{ONE}}}', DATA), "safetensors-header", "'a'"),
    "metadata-twice": (
        raw_file('{"__metadata__":{},"__metadata__":{}}'),
        "safetensors-header",
        "'__metadata__'",
    ),
    "metadata-key-twice": (raw_file('{"__metadata__":{"k":"1","k":"2"}}'), "safetensors-header", "'k'"),
    "metadata-null": (raw_file('{"__metadata__":null}'), "safetensors-header", "NoneType"),
    "metadata-array": (raw_file('{"__metadata__":[]}'), "safetensors-header", "list"),
    "metadata-number": (raw_file('{"__metadata__":{"k":1}}'), "safetensors-header", "'k'"),
    "number-of-5000-digits": (raw_file(entry(shape=f"[{'1' * 5000}]"), DATA), "safetensors-header", "4300"),
    "entry-null": (raw_file('{"a":null}'), "safetensors-entry", "'a'"),
    "entry-array": (raw_file('{"a":["U8",[4],[0,4]]}', DATA), "safetensors-entry", "'a'"),
    "no-offsets": (raw_file('{"a":{"dtype":"U8","shape":[4]}}', DATA), "safetensors-entry", "'a'"),
    "no-dtype": (raw_file('{"a":{"shape":[4],"data_offsets":[0,4]}}', DATA), "safetensors-entry", "'a'"),
    "no-shape": (raw_file('{"a":{"dtype":"U8","data_offsets":[0,4]}}', DATA), "safetensors-entry", "'a'"),
    "dtype-unknown": (raw_file(entry('"F33"'), DATA), "safetensors-entry", "'a': dtype 'F33'"),
    "dtype-lower-case": (raw_file(entry('"u8"'), DATA), "safetensors-entry", "'a': dtype 'u8'"),
    "dtype-number": (raw_file(entry("8"), DATA), "safetensors-entry", "'a'"),
    "dtype-nested": (raw_file(entry("[" * 400 + "]" * 400), DATA), "safetensors-entry", "dtype must be a text"),
    "dtype-lone-surrogate": (raw_file(entry('"\\ud800"'), DATA), "safetensors-entry", "'a'"),
    "shape-float": (raw_file(entry(shape="[4.0]"), DATA), "safetensors-entry", "'a'"),
    "shape-exponent": (raw_file(entry(shape="[4e0]"), DATA), "safetensors-entry", "'a'"),
    "shape-bool": (raw_file(entry(shape="[4,true]"), DATA), "safetensors-entry", "'a'"),
    "shape-negative": (raw_file(entry(shape="[-2,-2]"), DATA), "safetensors-entry", "'a'"),
    "shape-no-list": (raw_file(entry(shape="4"), DATA), "safetensors-entry", "'a'"),
    "shape-text": (raw_file(entry(shape='["4"]'), DATA), "safetensors-entry", "'a'"),
    "shape-2-64": (raw_file(entry(shape=f"[{1 << 64},4]"), DATA), "safetensors-entry", "'a'"),
    "shape-product-wraps-to-4": (raw_file(entry(shape=f"[{(1 << 62) + 1},4]"), DATA), "safetensors-entry", "'a'"),
    "shape-product-wraps-to-0": (
        raw_file(entry(shape="[4294967296,4294967296]", offsets="[0,0]")),
        "safetensors-entry",
        "'a'",
    ),
    "offset-float": (raw_file(entry(offsets="[0,4.0]"), DATA), "safetensors-entry", "'a'"),
    "offset-bool": (raw_file(entry(offsets="[false,4]"), DATA), "safetensors-entry", "'a'"),
    "offset-negative": (raw_file(entry(offsets="[-4,0]"), DATA), "safetensors-entry", "'a'"),
    "offset-minus-0": (raw_file(entry(offsets="[-0,4]"), DATA), "safetensors-", ""),
    "offset-2-64": (raw_file(entry(offsets=f"[{1 << 64},{(1 << 64) + 4}]"), DATA), "safetensors-entry", "'a'"),
    "offsets-three": (raw_file(entry(offsets="[0,4,4]"), DATA), "safetensors-entry", "'a'"),
    "offsets-one": (raw_file(entry(offsets="[4]"), DATA), "safetensors-entry", "'a'"),
    "offsets-reversed": (raw_file(entry(offsets="[4,0]"), DATA), "safetensors-entry", "'a'"),
    "offsets-reversed-without-elements": (raw_file(entry(shape="[0]", offsets="[4,0]")), "safetensors-entry", "'a'"),
    "too-few-bytes": (raw_file(entry(offsets="[0,3]"), DATA[:3]), "safetensors-entry", "takes 4 bytes"),
    "too-many-bytes": (raw_file(entry(shape="[3]"), DATA), "safetensors-entry", "takes 3 bytes"),
    "f4-odd-count": (raw_file(entry('"F4"', "[3]", "[0,2]"), DATA[:2]), "safetensors-entry", "'a'"),
    "f4-odd-count-cut": (raw_file(entry('"F4"', "[3]", "[0,1]"), DATA[:1]), "safetensors-entry", "'a'"),
    "f6-odd-count": (raw_file(entry('"F6_E2M3"', "[3]", "[0,3]"), DATA[:3]), "safetensors-entry", "'a'"),
    "hole-at-the-beginning": (raw_file(entry(offsets="[4,8]"), DATA * 2), "safetensors-layout", "'a' leaves a hole"),
    "hole": (
        raw_file(f'{{"z":{ONE},"a":{{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}}}', DATA * 3),
        "safetensors-layout",
        "'a' leaves a hole",
    ),
    "overlap": (
        raw_file(f'{{"z":{ONE},"a":{{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}}}', DATA + b"56"),
        "safetensors-layout",
        "'a' overlaps",
    ),
    "same-bytes-twice": (raw_file(f'{{"z":{ONE},"a":{ONE}}}', DATA), "safetensors-layout", "'a' overlaps"),
    "without-elements-inside-another": (
        raw_file(f'{{"z":{ONE},"a":{{"dtype":"F32","shape":[0],"data_offsets":[2,2]}}}}', DATA),
        "safetensors-layout",
        "'a' overlaps",
    ),
    "without-elements-behind-the-end": (
        raw_file(f'{{"z":{ONE},"a":{{"dtype":"F32","shape":[0],"data_offsets":[8,8]}}}}', DATA),
        "safetensors-layout",
        "'a' leaves a hole",
    ),
    "data-cut": (raw_file(entry(), DATA[:3]), "safetensors-layout", "truncated"),
    "bytes-at-the-end": (raw_file(entry(), DATA + b"5"), "safetensors-layout", "1 bytes at the end"),
    "bytes-without-tensors": (raw_file("{}", DATA), "safetensors-layout", "4 bytes at the end"),
}

# safetensors 0.8 reads these, we don't: of a file with two readings, two programs would see different weights.
STRICTER = {
    "white-space-first": "the published format says that the header MUST begin with '{'",
    "name-twice": "the published format disallows it; it takes the last",
    "name-twice-by-escape": "the same",
    "metadata-key-twice": "the same",
    "metadata-null": "the published format says a map of texts",
    "entry-array": "the published format says an object; an accident of serde",
}


@pytest.mark.parametrize(("raw", "reason", "what"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_file_is_refused_with_its_reason(raw: bytes, reason: str, what: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse(raw)
    assert caught.value.reason.startswith(reason)
    assert what in caught.value.message


@pytest.mark.parametrize("name", WRONG)
def test_safetensors_refuses_the_same_files_except_for_those_listed(tmp_path: Path, name: str) -> None:
    try:
        said_by_peer(WRONG[name][0], tmp_path / "wrong.safetensors")
        refused = False
    except SafetensorError:
        refused = True
    assert refused == (name not in STRICTER)


def test_a_field_that_is_not_known_passes_as_in_safetensors(tmp_path: Path) -> None:
    raw = raw_file('{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"x":0}}', DATA)
    assert [entry.name for entry in parse(raw).entries] == ["a"]
    assert "a" in said_by_peer(raw, tmp_path / "new.safetensors")[0]


@pytest.mark.parametrize(
    "shape",
    ["[144115188075855872,0]", "[0,144115188075855872]", "[4294967296,4294967296,0]", "[0,4294967296,4294967296]"],
)
def test_dimensions_that_no_index_can_hold_are_refused_without_elements_too(shape: str) -> None:
    """spec/index.md, I10: the product of the dimensions that aren't 0, times 64, is below 2⁶³."""
    with pytest.raises(FormatError, match="too many elements") as caught:
        parse(raw_file(entry(shape=shape, offsets="[0,0]")))
    assert caught.value.reason == "safetensors-entry"


@pytest.mark.parametrize(
    "header",
    [
        entry(f'"{"x" * 100_000}"'),
        entry(shape=f"[{','.join('1' * 100_000)}]"),
        entry(offsets=f"[{','.join('1' * 100_000)}]"),
        f'{{"{"x" * 100_000}":1}}',
        f'{{"{"x" * 100_000}":1,"{"x" * 100_000}":2}}',
        f'{{"__metadata__":{{"{"x" * 100_000}":1}}}}',
    ],
    ids=["dtype", "shape", "offsets", "name", "name-twice", "metadata"],
)
def test_a_message_stays_short_whatever_the_file_holds(header: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse(raw_file(header, DATA))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("length", "fault"),
    [(MAX_HEADER_NBYTES, TruncatedError), (MAX_HEADER_NBYTES + 1, FormatError), ((1 << 64) - 1, FormatError)],
)
def test_nothing_is_allocated_by_a_length_that_the_file_does_not_have(length: int, fault: type[FormatError]) -> None:
    raw = length.to_bytes(8, "little") + b'{"a":' + b" " * 1000
    tracemalloc.start()
    try:
        with pytest.raises(fault) as caught:
            parse(raw)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    assert type(caught.value) is fault


def test_a_tensor_without_elements_may_lie_where_another_begins(tmp_path: Path) -> None:
    empty = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    for header in (f'{{"z":{ONE},"a":{empty}}}', f'{{"a":{empty},"z":{ONE}}}'):
        raw = raw_file(header, DATA)
        assert [entry.name for entry in parse(raw).entries] == ["a", "z"]
        assert said_by_us(raw) == said_by_peer(raw, tmp_path / "again.safetensors")


@pytest.mark.parametrize("item", ["[]", "{}", "1", '"\\u0100"', "[[[]]]"])
def test_memory_is_a_small_multiple_of_the_header(item: str) -> None:
    raw = raw_file(f'{{"a":[{",".join([item] * 50_000)}]}}')
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            parse(raw)
        assert tracemalloc.get_traced_memory()[1] < 40 * len(raw)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("header", ["{}", '{"__metadata__":{"a":"b"}}'])
def test_a_file_without_tensors_has_none(header: str) -> None:
    assert parse(raw_file(header)).entries == []


@pytest.mark.parametrize("type_name", ["sfp", "nuq", "i8", "unknown"])
def test_a_type_that_safetensors_has_no_name_for_is_not_dumped(type_name: str) -> None:
    with pytest.raises(UsageError, match="'a'") as caught:
        dump_header([("a", BY_NAME[type_name], (2,))])
    assert caught.value.reason == "no-safetensors-type"


@pytest.mark.parametrize("names", [["a", "a"], ["__metadata__"]])
def test_a_name_is_not_dumped_twice_and_not_in_the_place_of_metadata(names: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        dump_header([(name, BY_NAME["f32"], (2,)) for name in names])
    assert caught.value.reason == "duplicate-name"


@pytest.mark.parametrize(
    ("name", "type_name", "shape"), [("a", "f4", (3,)), ("a", "f6_e2m3", (2,)), ("\ud800", "f32", (1,))]
)
def test_what_would_not_parse_is_not_dumped(name: str, type_name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError):
        dump_header([(name, BY_NAME[type_name], shape)])


def test_entries_come_in_the_order_of_their_bytes(tmp_path: Path) -> None:
    raw = write_peer(tmp_path / "one.safetensors", small("c", "a", "b")).read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    turned = raw_file(json.dumps(dict(reversed(header.items()))), raw[-12:])
    assert [entry.name for entry in parse(turned).entries] == sorted(
        header, key=lambda name: header[name]["data_offsets"]
    )
