from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.container import keys
from blobstore.errors import KeyTooLongError, UsageError
from tests import strategies
from tests.conftest import load_manifest
from tests.strategies import text_of

if TYPE_CHECKING:
    from types import ModuleType

LONE_SURROGATE = "\ud800"

# Few characters, so that names with digits behind the last '_', reserved words and lengths around 16 all occur.
names = st.one_of(
    st.text(st.sampled_from("_09F~a é"), min_size=1, max_size=20),
    st.builds(
        "{}_{}{}".format, st.sampled_from(["a", "F", "_"]), st.integers(0, 12000), st.sampled_from(["", "x", "_"])
    ),
    st.sampled_from(sorted(keys.RESERVED_KEYS)),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=40),
)


@pytest.mark.parametrize("fact", load_manifest()["key_for"], ids=lambda fact: ascii(fact["name"][:30]))
def test_each_name_of_the_vectors_has_its_key(fact: dict[str, str]) -> None:
    assert keys.key_for(fact["name"]) == fact["key"]


@given(names)
def test_both_implementations_give_a_name_the_same_key(generator: ModuleType, name: str) -> None:
    assert keys.key_for(name) == generator.key_for(name)


@given(names)
def test_a_name_gets_a_key_that_is_short_and_safe(name: str) -> None:
    key = keys.key_for(name)
    assert keys.encode_key(key)
    assert keys.unsafe_for_runtime(key.encode()) is None
    assert key == name or (key.startswith("~") and len(key) == 16)
    assert key != keys.INDEX_KEY


@given(names)
def test_no_name_is_its_own_key_where_hashes_are(name: str) -> None:
    hashed = keys.key_for("/" + name.ljust(17, "/"))
    assert hashed.startswith("~")
    assert keys.key_for(hashed) != hashed


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (b"config", "'config' is one of the runtime's own blobs"),
        (b"toc", "'toc' is one of the runtime's own blobs"),
        (b"tokenizer", "'tokenizer' is one of the runtime's own blobs"),
        (b"Fscales", "'Fscales' is one of the runtime's own blobs"),
        (b"F", "'F' at the beginning reads as the letter of a type"),
        (b"B_1", "'B' at the beginning reads as the letter of a type"),
        (b"$\xff", "'$' at the beginning reads as the letter of a type"),
        (b"2", "'2' at the beginning reads as the letter of a type"),
        (b"4bit", "'4' at the beginning reads as the letter of a type"),
        (b"I", "'I' at the beginning reads as the letter of a type"),
        (b"a_999", "the number after the last '_' reads as layer 999, 999 or more aborts"),
        (b"a_1_01000x", "the number after the last '_' reads as layer 1000, 999 or more aborts"),
        (b"\xff_999\n\xff", "the number after the last '_' reads as layer 999, 999 or more aborts"),
        (b"_99999999999999", "the number after the last '_' reads as layer 99999999999999, 999 or more aborts"),
    ],
    ids=ascii,
)
def test_what_the_runtime_would_misread_is_said(key: bytes, said: str) -> None:
    assert keys.unsafe_for_runtime(key) == said


@pytest.mark.parametrize("key", [b"a_998", b"a_999_", b"a_x999", b"a999", b"f", b"aF", b"Config", b"3", b"\xff", b"_"])
def test_other_keys_are_safe(key: bytes) -> None:
    assert keys.unsafe_for_runtime(key) is None


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
    ("key", "said"),
    [
        ("", "a key has at least one byte"),
        ("a\0", r"'a\x00' has a NUL byte, which pads keys"),
        ("\0", r"'\x00' has a NUL byte, which pads keys"),
        (LONE_SURROGATE, r"'\ud800' is not Unicode text: surrogates not allowed"),
    ],
    ids=["empty", "nul-last", "nul-only", "lone-surrogate"],
)
def test_what_is_no_key_is_refused(key: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        keys.encode_key(key)
    assert str(caught.value) == f"bad-key: {said}"


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


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "bad-name: a name has at least one character"),
        ("a\0b", r"bad-name: 'a\x00b' has a NUL character"),
        (LONE_SURROGATE, r"bad-name: '\ud800' is not Unicode text: surrogates not allowed"),
        ("ab" * 2048 + "c", f"bad-name: '{'ab' * 20}…' has 4097 bytes, a name has at most 4096"),
        ("ß" * 2049, f"bad-name: '{'ß' * 40}…' has 4098 bytes, a name has at most 4096"),
    ],
    ids=["empty", "nul", "lone-surrogate", "4097", "4098-utf8"],
)
def test_what_is_no_name_is_refused_with_a_reason(name: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        keys.key_for(name)
    assert str(caught.value) == said


@pytest.mark.parametrize("name", ["x" * 4096, "ß" * 2048])
def test_a_name_may_have_4096_bytes(name: str) -> None:
    assert keys.encode_name(name).decode() == name


@given(
    st.dictionaries(st.sampled_from(["", "blobstore.", "a."]).flatmap(lambda start: names.map(start.__add__)), names)
)
def test_metadata_is_the_projects_own_or_foreign(metadata: dict[str, str]) -> None:
    own = {key: value for key, value in metadata.items() if key.startswith("blobstore.")}
    foreign = keys.foreign_metadata(metadata)
    assert not own.keys() & foreign.keys()
    assert own | foreign == metadata
