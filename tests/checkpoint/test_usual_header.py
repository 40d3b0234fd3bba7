from __future__ import annotations

import json
import math
import tracemalloc
from contextlib import suppress
from operator import attrgetter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.checkpoint.safetensors import SafetensorsHeader, parse_header
from blobstore.checkpoint.usual_header import read_usual
from blobstore.errors import FormatError

NAMES = st.text(max_size=6).filter(lambda name: name.isprintable() and not set(name) & {*'"\\'})


def parsed(text: str, nbytes: int) -> tuple[SafetensorsHeader, int]:
    """Return what a file with this header and so many bytes of tensors has, and where these begin."""
    raw = len(text.encode()).to_bytes(8, "little") + text.encode()
    return parse_header(lambda offset, nbytes: raw[offset : offset + nbytes], len(raw) + nbytes), len(raw)


@given(
    names=st.lists(NAMES, min_size=1, max_size=5, unique=True),
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=3), min_size=5, max_size=5),
    metadata=st.none() | st.dictionaries(NAMES, NAMES, max_size=2),
)
def test_it_is_what_the_parser_reads(
    names: list[str], shapes: list[list[int]], metadata: dict[str, str] | None
) -> None:
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    end = 0
    for name, shape in zip(names, shapes, strict=False):
        nbytes = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + nbytes]}
        end += nbytes
    read, start = parsed(json.dumps(header, separators=(",", ":"), ensure_ascii=False), end)
    expected, other = parsed(json.dumps(header), end)  # with white space, which only the parser takes
    assert read.metadata == expected.metadata
    assert read.entries == [entry._replace(offset=entry.offset - other + start) for entry in expected.entries]


ENTRY = '"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'


def test_a_usual_header_is_recognised() -> None:
    assert read_usual("{" + ENTRY + "}  ", 8, 9) is not None


@pytest.mark.parametrize(
    "text",
    [
        "{" + ENTRY + "," + ENTRY + "}",
        "{" + ENTRY + ",}",
        "{" + ENTRY + "}}",
        "{" + ENTRY + "} x",
        "{" + ENTRY + ",",
        "{ " + ENTRY + "}",
        "{," + ENTRY + "}",
        "{" + ENTRY.replace("[1]", "[01]") + "}",
        "{" + ENTRY.replace("[1]", "[1,]") + "}",
        "{" + ENTRY.replace("[1]", "[2]") + "}",
        "{" + ENTRY.replace("U8", "U9") + "}",
        "{" + ENTRY.replace('"a"', '"__metadata__"') + "}",
        "{" + ENTRY.replace('"a"', '"\\u0061"') + "}",
        '{"__metadata__":{"a":1},' + ENTRY + "}",
        '{"__metadata__":{"a":"1","a":"2"},' + ENTRY + "}",
        "[]",
        "{}",
    ],
)
def test_any_other_is_left_to_the_parser(text: str) -> None:
    assert read_usual(text, 8, 9) is None


@pytest.mark.parametrize("ndim", [32, 33, 300_000])
def test_a_long_shape_takes_no_more_memory_than_its_text(ndim: int) -> None:
    text = "{" + ENTRY.replace("[1]", "[1" + ",1" * (ndim - 1) + "]") + "}"
    tracemalloc.start()
    try:
        found = read_usual(text, 8, 9)
        assert tracemalloc.get_traced_memory()[1] < 20_000 + len(text)
    finally:
        tracemalloc.stop()
    assert (found is not None) == (ndim <= 32)


def test_a_repeated_tensor_is_refused() -> None:
    with pytest.raises(FormatError, match="appears twice"):
        parsed("{" + ENTRY + "," + ENTRY + "}", 2)


@given(at=st.integers(0, 200), text=st.text(' "{}[]:,0189-\\\x00aU', max_size=2), cut=st.integers(0, 3))
def test_a_changed_header_is_read_as_by_the_parser(at: int, text: str, cut: int) -> None:
    usual = '{"__metadata__":{"k":"v"},' + ENTRY + ',"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[1,13]}}  '
    at %= len(usual)
    changed = usual[:at] + text + usual[at + cut :]
    found = read_usual(changed, 8 + len(changed.encode()), 9)
    if found is not None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("blobstore.checkpoint.safetensors.read_usual", lambda *_: None)
            size = max((entry.offset + entry.nbytes for entry in found[0]), default=0) - 8 - len(changed.encode())
            with suppress(FormatError):  # holes and overlaps, which are looked for afterwards
                header, _ = parsed(changed, size)
                assert (header.entries, header.metadata) == (sorted(found[0], key=attrgetter("offset")), found[1])
