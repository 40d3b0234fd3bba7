"""Conversions of models whose tokenizer is BPE: Qwen3's, from the folder to the file and back to its source."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

import blobstore
from blobstore.gemma import BpeTokenizer, TokenizerKind
from tests.gemma_checkpoints import sound_recipe
from tests.tokenizer.test_bpe import byte_level
from tests.tokenizer_files import added_token, dumped

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    replace(sound_recipe("qwen3"), tokenizer=None).write(tmp_path / "ck")
    (tmp_path / "ck" / "tokenizer.json").write_bytes(dumped(byte_level()))
    return tmp_path


def test_a_qwen3_has_its_tokenizer(folder: Path) -> None:
    done = blobstore.convert(folder / "ck", folder / "m.sbs")
    assert (
        "tokenizer: a byte-level BPE blob is made from tokenizer.json: 8 tokens, 2 merges, 2 added tokens" in done.notes
    )
    with blobstore.open(folder / "m.sbs") as store:
        assert store.config is not None
        assert store.config.tokenizer_kind == TokenizerKind.BPE
        assert store.tokenizer is not None
        record = BpeTokenizer.from_bytes(store.tokenizer)
        assert (len(record.tokens), record.merges, record.added_ids) == (8, (0, 1, 3, 2), (6, 7))
        assert store.tokens is not None
        assert store.tokens.tokens[3].text == "ab"
    assert blobstore.verify(folder / "m.sbs", against=folder / "ck").ok
    assert not [
        one for one in blobstore.check(folder / "m.sbs", for_="gemma.cpp@latest").findings if "tokenizer" in one.code
    ]


def test_without_the_file_its_own_tokenizer_is_compared(folder: Path) -> None:
    blobstore.convert(folder / "ck", folder / "m.sbs")
    (folder / "ck" / "tokenizer.json").unlink()
    assert blobstore.verify(folder / "m.sbs", against=folder / "ck").ok


def test_a_given_tokenizer_json_is_taken(folder: Path) -> None:
    document = byte_level()
    document["added_tokens"].append(added_token(8, "<given>"))
    given = folder / "given.json"
    given.write_bytes(dumped(document))
    blobstore.convert(folder / "ck", folder / "m.sbs", tokenizer=given)
    with blobstore.open(folder / "m.sbs") as store:
        assert store.tokens is not None
        assert store.tokens.tokens[8].text == "<given>"
    assert blobstore.verify(folder / "m.sbs", against=folder / "ck", tokenizer=given).ok
    assert not blobstore.verify(folder / "m.sbs", against=folder / "ck").ok
