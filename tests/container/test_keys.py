from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.container import keys
from blobstore.errors import KeyTooLongError, UsageError
from tests import strategies
from tests.strategies import text_of

LONE_SURROGATE = "\ud800"


@given(strategies.key_bytes)
def test_a_key_survives_being_text(key: bytes) -> None:
    text = keys.decode_key(key.ljust(16, b"\0"))
    assert text == text_of(key)
    assert keys.encode_key(text) == key


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_a_key_is_encoded_or_refused(key: str) -> None:
    nbytes = len(key.encode())
    if nbytes > 16:
        with pytest.raises(KeyTooLongError, match=f"key-too-long: .* has {nbytes} bytes"):
            keys.encode_key(key)
    elif not key or "\0" in key:
        with pytest.raises(UsageError, match="bad-key"):
            keys.encode_key(key)
    else:
        assert keys.encode_key(key).decode() == key


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("", "a key has at least one byte"),
        ("a\0", r"'a\x00' has a NUL byte, which pads keys"),
        ("\0", r"'\x00' has a NUL byte, which pads keys"),
        (LONE_SURROGATE, r"'\ud800' is not Unicode text: surrogates not allowed"),
    ],
    ids=["empty", "nul-last", "nul-only", "lone-surrogate"],
)
def test_what_is_no_key_is_refused(key: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        keys.encode_key(key)
    assert str(caught.value) == f"bad-key: {message}"


@pytest.mark.parametrize(
    ("key", "shown", "nbytes"),
    [
        ("model.layers.0.self_attn.q_proj.weigh", "model.layers.0.self_attn.q_proj.weigh", 37),
        ("ß" * 60, "ß" * 60, 120),
        ("ß" * 61, "ß" * 60 + "…", 122),
        ("權" * 5 + "ab", "權" * 5 + "ab", 17),
    ],
    ids=["37-bytes", "60-characters", "long", "17-bytes"],
)
def test_a_key_that_is_too_long_is_refused_with_advice(key: str, shown: str, nbytes: int) -> None:
    with pytest.raises(KeyTooLongError) as caught:
        keys.encode_key(key)
    advice = "a key has at most 16: use blobstore.create, which maps long names"
    assert str(caught.value) == f"key-too-long: '{shown}' has {nbytes} bytes, {advice}"
