from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.container.keys import INDEX_KEY, RESERVED_KEYS, encode_key
from blobstore.errors import UsageError
from blobstore.index.metadata import foreign_metadata
from blobstore.index.names import encode_name, key_for, keys_for, unsafe_for_runtime
from tests.conftest import load_manifest

if TYPE_CHECKING:
    from types import ModuleType

LONE_SURROGATE = "\ud800"

# Few characters, so that names with digits after the last '_', reserved words and lengths around 16 all occur.
names = st.one_of(
    st.text(st.sampled_from("_09F~a é"), min_size=1, max_size=20),
    st.builds(
        "{}_{}{}".format, st.sampled_from(["a", "F", "_"]), st.integers(0, 12000), st.sampled_from(["", "x", "_"])
    ),
    st.sampled_from(sorted(RESERVED_KEYS)),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=40),
)


@pytest.mark.parametrize("fact", load_manifest()["key_for"], ids=lambda fact: ascii(fact["name"][:30]))
def test_each_name_of_the_vectors_has_its_key(fact: dict[str, str]) -> None:
    assert key_for(fact["name"]) == fact["key"]


@given(names)
def test_both_implementations_give_a_name_the_same_key(generator: ModuleType, name: str) -> None:
    assert key_for(name) == generator.key_for(name)


@given(st.lists(names, max_size=5))
def test_many_names_have_the_keys_that_each_has_alone(several: list[str]) -> None:
    assert keys_for(several) == [key_for(name) for name in several]


@given(names)
def test_a_name_gets_a_key_that_is_short_and_safe(name: str) -> None:
    key = key_for(name)
    assert encode_key(key)
    assert unsafe_for_runtime(key.encode()) is None
    assert key == name or (key.startswith("~") and len(key) == 16)
    assert key != INDEX_KEY


@given(names)
def test_a_name_that_looks_like_a_hash_is_not_its_own_key(name: str) -> None:
    hashed = key_for("/" + name.ljust(17, "/"))
    assert hashed.startswith("~")
    assert key_for(hashed) != hashed


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (b"config", "'config' is one of the runtime's own blobs"),
        (b"toc", "'toc' is one of the runtime's own blobs"),
        (b"tokenizer", "'tokenizer' is one of the runtime's own blobs"),
        (b"Fscales", "'Fscales' is one of the runtime's own blobs"),
        (b"F", "the first letter, 'F', reads as a type prefix"),
        (b"B_1", "the first letter, 'B', reads as a type prefix"),
        (b"$\xff", "the first letter, '$', reads as a type prefix"),
        (b"2", "the first letter, '2', reads as a type prefix"),
        (b"4bit", "the first letter, '4', reads as a type prefix"),
        (b"I", "the first letter, 'I', reads as a type prefix"),
        (b"a_999", "the number after the last '_' reads as layer 999: the runtime aborts above 998"),
        (b"a_1_01000x", "the number after the last '_' reads as layer 1000: the runtime aborts above 998"),
        (b"\xff_999\n\xff", "the number after the last '_' reads as layer 999: the runtime aborts above 998"),
        (
            b"_99999999999999",
            "the number after the last '_' reads as layer 99999999999999: the runtime aborts above 998",
        ),
    ],
    ids=ascii,
)
def test_keys_that_the_runtime_would_misread_are_explained(key: bytes, expected: str) -> None:
    assert unsafe_for_runtime(key) == expected


@pytest.mark.parametrize("key", [b"a_998", b"a_999_", b"a_x999", b"a999", b"f", b"aF", b"Config", b"3", b"\xff", b"_"])
def test_other_keys_are_safe(key: bytes) -> None:
    assert unsafe_for_runtime(key) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", "bad-name: a name has at least one character"),
        ("a\0b", r"bad-name: 'a\x00b' has a NUL character"),
        (LONE_SURROGATE, r"bad-name: '\ud800' is not Unicode text: surrogates not allowed"),
        ("ab" * 2048 + "c", f"bad-name: '{'ab' * 20}…' has 4097 bytes, a name has at most 4096"),
        ("ß" * 2049, f"bad-name: '{'ß' * 40}…' has 4098 bytes, a name has at most 4096"),
    ],
    ids=["empty", "nul", "lone-surrogate", "4097", "4098-utf8"],
)
def test_invalid_names_are_refused_with_a_reason(name: str, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        key_for(name)
    assert str(caught.value) == expected


@pytest.mark.parametrize("name", ["x" * 4096, "ß" * 2048])
def test_a_name_may_have_4096_bytes(name: str) -> None:
    assert encode_name(name).decode() == name


@given(
    st.dictionaries(st.sampled_from(["", "blobstore.", "a."]).flatmap(lambda start: names.map(start.__add__)), names)
)
def test_metadata_is_the_projects_own_or_foreign(metadata: dict[str, str]) -> None:
    own = {key: value for key, value in metadata.items() if key.startswith("blobstore.")}
    foreign = foreign_metadata(metadata)
    assert not own.keys() & foreign.keys()
    assert own | foreign == metadata
