from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.index.strict_json import parse_json, text_map
from tests.tensor_strategies import texts

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
BRACKETS = 100_000
REFUSED = {
    "a key twice": b'{"a":1,"a":1}',
    "a key twice, inside": b'[{"x":{"a":1,"b":2,"a":3}}]',
    "a key twice, once as an escape": b'{"a":1,"\\u0061":1}',
    "NaN": b"[NaN]",
    "Infinity": b"[Infinity]",
    "-Infinity": b"[-Infinity]",
    "half a surrogate pair in a key": b'{"\\ud83d":1}',
    "Latin-1": b'["\xe9"]',
    "a surrogate in the UTF-8": b'["\xed\xa0\x80"]',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "a NUL at the end": b"{}\0",
    "nothing": b"",
    "two values": b"{} {}",
    "single quotes": b"{'a':1}",
    "a control character": b'["\x01"]',
    "deep arrays": b"[" * BRACKETS + b"]" * BRACKETS,
    "deep objects": b'{"a":' * BRACKETS + b"1" + b"}" * BRACKETS,
    "deep and not closed": b"[" * BRACKETS,
    "a number of 100,000 digits": b"[" + b"9" * 100_000 + b"]",
}


@given(JSON, st.booleans(), st.sampled_from([None, 1]))
def test_any_value_reads_back(value: object, escaped: bool, indent: int | None) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=escaped, indent=indent).encode()) == value


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED)
def test_what_is_not_json_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        parse_json(raw)


@given(st.binary() | st.text('[]{}:,"\\u0dea1-.eNnaflsotrue \t', max_size=30).map(str.encode))
def test_any_bytes_are_a_value_or_a_value_error(raw: bytes) -> None:
    try:
        value = parse_json(raw)
    except ValueError:
        return
    assert value == json.loads(raw.decode())


def test_a_repeated_key_is_named() -> None:
    with pytest.raises(ValueError, match="'b' appears twice"):
        parse_json(b'{"a":1,"b":2,"b":3}')


@given(st.dictionaries(texts, texts))
def test_an_object_of_texts_passes(value: dict[str, str]) -> None:
    assert text_map(value) == value


@given(
    JSON.filter(lambda value: not isinstance(value, dict) or any(not isinstance(text, str) for text in value.values()))
)
def test_anything_else_is_no_text_map(value: Any) -> None:  # noqa: ANN401 (JSON is anything)
    with pytest.raises(ValueError, match=r"expected an object|is not a string"):
        text_map(value)


@pytest.mark.parametrize("text", ["\ud83d", "a\udc80"])
def test_a_lone_surrogate_is_no_text(text: str) -> None:
    with pytest.raises(ValueError, match="surrogates not allowed"):
        text_map(parse_json(json.dumps({"a": text}).encode()))


@pytest.mark.parametrize("piece", [b"[]", b"{}", b"0", b'""', b'{"":0}'])
def test_memory_grows_no_faster_than_the_text(piece: bytes) -> None:
    raw = b'{"a":[' + b",".join([piece] * (200_000 // len(piece))) + b"]}"
    parse_json(b"{}")
    tracemalloc.start()
    try:
        parse_json(raw)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100_000 + 60 * len(raw)
