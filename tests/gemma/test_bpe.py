"""BPE tokenizers as records: what is written is read again, by an independent reader too; hostile bytes are refused."""

from __future__ import annotations

import importlib
import struct
import tracemalloc
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.errors import FormatError, UsageError
from blobstore.gemma import BpeTokenizer, Token, TokenizerKind, list_tokens
from blobstore.gemma.bpe import looks_like_bpe

if TYPE_CHECKING:
    from types import ModuleType

tokens = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20).map(str.encode)
    | st.binary(max_size=9).filter(lambda raw: b"\0" not in raw),
    min_size=1,
    max_size=12,
)


@st.composite
def tokenizers(draw: st.DrawFn) -> BpeTokenizer:
    drawn = draw(tokens)
    ids = st.integers(0, len(drawn) - 1)
    pairs = draw(st.lists(st.tuples(ids, ids), max_size=9))
    return BpeTokenizer(
        flags=draw(st.sampled_from([0, 1, 2, 3, 4, 5, 8])),
        unk_id=draw(ids),
        tokens=tuple(drawn),
        merges=tuple(number for pair in pairs for number in pair),
        added_ids=tuple(sorted(draw(st.sets(ids)))),
    )


@given(one=tokenizers())
def test_what_is_written_is_read_again(one: BpeTokenizer, generator: ModuleType) -> None:
    assert generator
    raw = one.to_bytes()
    assert BpeTokenizer.from_bytes(raw) == one
    assert looks_like_bpe(raw)
    other = importlib.import_module("gemma_writer")  # in the generator's folder
    independent = other.bpe_of(struct.unpack(f"<{len(raw) // 4}I", raw))
    names = ("flags", "unk_id", "tokens", "merges", "added_ids")
    assert [getattr(independent, name) for name in names] == [getattr(one, name) for name in names]
    words = independent.words()
    assert struct.pack(f"<{len(words)}I", *words) == raw


@given(one=tokenizers())
def test_a_list_has_every_token(one: BpeTokenizer) -> None:
    listed = list_tokens(one.to_bytes(), TokenizerKind.BPE)
    assert listed.kind == one.kind == ("byte-level" if one.flags & 4 else "metaspace")
    assert [token.id for token in listed.tokens] == list(range(len(one.tokens)))
    assert [token.text for token in listed.tokens] == [raw.decode("utf-8", "backslashreplace") for raw in one.tokens]
    types = {token.type for token in listed.tokens}
    assert types <= {"normal", "added", "unused"}
    assert [token.id for token in listed.tokens if token.type == "added"] == list(one.added_ids)
    assert [number for pair in listed.merges for number in pair] == list(one.merges)
    assert (listed.added_ids, listed.unk_id) == (one.added_ids, one.unk_id)


@given(tokenizers(), st.data())
def test_changed_bytes_are_another_tokenizer_or_an_error(one: BpeTokenizer, data: st.DataObject) -> None:
    raw = bytearray(one.to_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) // 4 - 1))
        raw[4 * at : 4 * at + 4] = struct.pack("<I", data.draw(st.integers(0, 12) | st.integers(0, 2**32 - 1)))
    cut = bytes(raw[: data.draw(st.integers(0, len(raw)))])
    for changed in (bytes(raw), cut):
        try:
            read = BpeTokenizer.from_bytes(changed)
        except FormatError as error:
            assert error.reason.startswith(("fields-", "bpe-"))  # noqa: PT017
        else:
            assert read.to_bytes() == changed


WRONG: dict[str, dict[str, Any]] = {
    "it has no tokens": {"tokens": ()},
    "has 257 bytes: a string has at most 256": {"tokens": (b"x" * 257, b"", b"c")},
    "has a NUL at its end": {"tokens": (b"a\0", b"", b"c")},
    "or four in a row that are a word": {"tokens": (b"abcd\0\0\0\0x", b"", b"c")},
    "say that it is byte-level, and that U+2581": {"flags": 6},
    "unk_id is 3, but there are 3 tokens": {"unk_id": 3},
    "1 ids of merges are not pairs": {"merges": (0,)},
    "a merge has the token 3, but there are 3": {"merges": (0, 3)},
    "the token 3 is among the added ones": {"added_ids": (3,)},
    "the added tokens are not in ascending order": {"added_ids": (1, 1)},
    "is not an unsigned 32-bit number": {"merges": (-1, 0)},
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_read_is_not_written(what: str) -> None:
    one = replace(BpeTokenizer(flags=4, tokens=(b"a", b"", b"c")), **WRONG[what])
    with pytest.raises(UsageError, match=r"^bad-field: ") as caught:
        one.to_bytes()
    assert what in caught.value.message


def test_a_count_allocates_nothing() -> None:
    huge = 2**32 - 1
    for words in ((4, 0, huge), (4, 0, 1, huge), (4, 0, 1, 0, huge), (4, 0, 1, 0, 0, huge), (4, 0, 8 << 20)):
        raw = struct.pack(f"<{1 + len(words)}I", len(words), *words)
        tracemalloc.start()
        with pytest.raises(FormatError, match=r"^fields-"):
            BpeTokenizer.from_bytes(raw)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1 << 20


def test_a_kind_of_a_newer_runtime_is_refused() -> None:
    with pytest.raises(FormatError, match="tokenizer-kind: the tokenizer's kind is 7"):
        list_tokens(b"", TokenizerKind(7))


def test_the_pieces_of_a_sentencepiece_model_are_a_list() -> None:
    raw = b"\x0a\x05\x0a\x01a\x18\x02\x0a\x03\x0a\x01\xff\x0a\x05\x0a\x01c\x18\x06"
    listed = list_tokens(raw)
    assert listed.tokens == (Token(0, "a", "unknown"), Token(1, "\\xff", "normal"), Token(2, "c", "byte"))
    assert (listed.kind, listed.unk_id, listed.merges, listed.added_ids) == ("sentencepiece", 0, (), ())
    assert list_tokens(raw[7:]).unk_id is None
