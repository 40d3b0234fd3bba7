"""Checkpoints as people have them: BPE tokenizers. Each situation with the exact note or error."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import save_file

from blobstore.checkpoint.reader import open_checkpoint
from blobstore.checkpoint.tokenizer_files import stored_tokenizer, tokenizer_beside
from blobstore.errors import UsageError
from blobstore.gemma import BpeTokenizer, TokenizerKind
from tests.checkpoints import LFS_POINTER
from tests.gemma_checkpoints import tokenizer
from tests.tokenizer.test_bpe import byte_level
from tests.tokenizer_files import added_token, dumped

if TYPE_CHECKING:
    from pathlib import Path

    from blobstore.tokenizer.fitting import Fitted

SAVE = "transformers' AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) writes a tokenizer.json"
VOCAB = json.dumps(byte_level()["model"]["vocab"]).encode()
MERGES = b"#version: 0.2\na b\nab c\n"
MADE = "tokenizer: a byte-level BPE blob is made from"
EXTRA = {"8": {"content": "<x>", "special": True}, "6": {"content": "<|end|>"}, "2": {"content": "<y>"}}


def folder_with(tmp_path: Path, **files: bytes) -> Path:
    """A checkpoint with some files; ``vocab_json`` is vocab.json."""
    save_file({"w": np.ones(3, np.float32)}, tmp_path / "model.safetensors")
    for name, raw in files.items():
        stem, _, ending = name.rpartition("_")
        (tmp_path / f"{stem}.{ending}").write_bytes(raw)
    return tmp_path


def found(folder: Path, given: Path | None = None) -> tuple[Fitted | None, list[str]]:
    """The tokenizer of a checkpoint, fitted to many rows, and what is told."""
    with open_checkpoint(str(folder)) as checkpoint:
        tokenizer = tokenizer_beside(checkpoint, str(given) if given else None, TokenizerKind.BPE)
        return (tokenizer.fitted(100) if tokenizer else None), checkpoint.notes


def test_a_tokenizer_json_counts_first(tmp_path: Path) -> None:
    files = {"vocab_json": b"{}", "merges_txt": b"", "tokenizer_model": tokenizer(96)}
    fitted, notes = found(folder_with(tmp_path, tokenizer_json=dumped(byte_level()), **files))
    assert fitted
    assert fitted.notes[0] == f"{MADE} tokenizer.json: 8 tokens, 2 merges, 2 added tokens"
    assert notes == []


def test_tokens_of_the_other_files_are_added(tmp_path: Path) -> None:
    config = json.dumps({"added_tokens_decoder": EXTRA}).encode()
    fitted, notes = found(folder_with(tmp_path, tokenizer_json=dumped(byte_level()), tokenizer_config_json=config))
    assert fitted
    assert fitted.notes[0] == f"{MADE} tokenizer.json, tokenizer_config.json: 9 tokens, 2 merges, 3 added tokens"
    assert BpeTokenizer.from_bytes(fitted.raw).tokens[8] == b"<x>"
    assert notes == ["tokenizer: left out, since tokenizer.json has them otherwise: 2 '<y>'"]


def test_vocab_and_merges_do_as_well(tmp_path: Path) -> None:
    extra = {number: one for number, one in EXTRA.items() if number != "2"}
    config = json.dumps({"added_tokens_decoder": extra}).encode()
    fitted, notes = found(folder_with(tmp_path, vocab_json=VOCAB, merges_txt=MERGES, tokenizer_config_json=config))
    assert fitted
    assert fitted.notes[0] == (
        f"{MADE} vocab.json and merges.txt, tokenizer_config.json: 8 tokens, 2 merges, 2 added tokens"
    )
    assert notes == [
        "tokenizer: there is no tokenizer.json: vocab.json and merges.txt are taken as a byte-level tokenizer's"
    ]


def test_a_checkpoint_without_a_tokenizer_has_none(tmp_path: Path) -> None:
    assert found(folder_with(tmp_path)) == (None, [])
    assert found(folder_with(tmp_path, vocab_json=VOCAB)) == (None, [])
    assert found(folder_with(tmp_path, tokenizer_model=tokenizer(96))) == (
        None,
        [f"tokenizer.model is not used: this model's tokenizer is BPE, of a tokenizer.json; {SAVE}"],
    )


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (LFS_POINTER, "a Git LFS pointer, fetch the file itself: git lfs pull"),
        (b"{}", "it has no model, which lists the tokens"),
    ],
)
def test_a_file_that_cannot_be_read_counts_as_missing(tmp_path: Path, raw: bytes, why: str) -> None:
    fitted, notes = found(folder_with(tmp_path, tokenizer_json=raw))
    assert fitted is None
    (note,) = notes
    assert note.startswith(f"{str(tmp_path / 'tokenizer.json')!r} can't be read ({why}")
    assert note.endswith("): taken as missing")


def test_a_tokenizer_that_cannot_be_a_record_is_told(tmp_path: Path) -> None:
    document = byte_level()
    document["model"]["type"] = "Unigram"
    fitted, notes = found(folder_with(tmp_path, tokenizer_json=dumped(document)))
    assert (fitted, notes) == (None, ["tokenizer.json can't become a BPE blob: its model is Unigram, not BPE"])
    long = json.dumps({"added_tokens_decoder": {"8": {"content": "x" * 257}}}).encode()
    fitted, notes = found(folder_with(tmp_path, tokenizer_json=dumped(byte_level()), tokenizer_config_json=long))
    assert fitted is None
    what = f"its token 8, {'x' * 40!r}, has 257 bytes: a string has at most 256"
    fix = "take it and its merges out of a copy, and pass that with --tokenizer"
    assert notes == [f"tokenizer.json can't become a BPE blob: {what}; {fix}"]


def test_a_given_tokenizer_json_is_taken_alone(tmp_path: Path) -> None:
    document = byte_level()
    document["added_tokens"].append(added_token(8, "<given>"))
    given = tmp_path / "given.json"
    given.write_bytes(dumped(document))
    config = json.dumps({"added_tokens_decoder": EXTRA}).encode()
    fitted, notes = found(
        folder_with(tmp_path, tokenizer_json=dumped(byte_level()), tokenizer_config_json=config), given
    )
    assert fitted
    assert fitted.notes[0] == f"{MADE} given.json: 9 tokens, 2 merges, 3 added tokens"
    assert notes == []


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (
            tokenizer(96),
            f"is a SentencePiece model, and this model's tokenizer is BPE: pass its tokenizer.json; {SAVE}",
        ),
        (b"{}", "is not a tokenizer.json: it has no model, which lists the tokens; pass that"),
        (b'{"model": {"type": "Unigram"}}', "can't become a BPE blob: its model is Unigram, not BPE"),
        (b"what?", "; pass the model's own tokenizer.model or tokenizer.json with --tokenizer"),
    ],
)
def test_another_given_file_is_refused(tmp_path: Path, raw: bytes, what: str) -> None:
    given = tmp_path / "given"
    given.write_bytes(raw)
    with pytest.raises(UsageError) as caught:
        found(folder_with(tmp_path), given)
    assert caught.value.reason == "not-a-tokenizer"
    assert caught.value.message.startswith(repr(str(given)))
    assert caught.value.message.endswith(what)


def test_the_tokenizer_of_a_file_is_taken_as_it_is(tmp_path: Path) -> None:
    fitted, _ = found(folder_with(tmp_path, tokenizer_json=dumped(byte_level())))
    assert fitted
    assert stored_tokenizer(fitted.raw, TokenizerKind.BPE).fitted(3, 32).raw == fitted.raw
    raw = tokenizer(96)
    assert stored_tokenizer(raw, TokenizerKind.SENTENCE_PIECE).fitted(96).raw == raw
