"""The tokens of a file for gemma.cpp: `get tokenizer --json`, `info`, and a file whose directory is lost."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import pytest

import blobstore
from blobstore.cli import main
from blobstore.gemma import BpeTokenizer, TokenizerKind, config_of
from tests.gemma_checkpoints import tokenizer

if TYPE_CHECKING:
    from pathlib import Path

BPE = BpeTokenizer(
    flags=4, tokens=(b"a", b"b", b"ab", b"", b"<|end|>", b"<x>"), merges=(0, 1), added_ids=(4, 5), unk_id=1
)


def write(path: Path, kind: int, raw: bytes) -> Path:
    config = replace(config_of("gemma3-270m-sfp-it"), tokenizer_kind=TokenizerKind(kind))
    with blobstore.BlobWriter(path) as writer:
        writer.add("config", config.to_bytes())
        writer.add("tokenizer", raw)
    return path


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    capsys.readouterr()
    return main([str(word) for word in words]), capsys.readouterr().out


FILES: dict[str, tuple[int, bytes, str]] = {
    "bpe": (1, BPE.to_bytes(), "byte-level BPE, 6 tokens, 1 merge, 2 added tokens"),
    "sentencepiece": (0, tokenizer(96), "SentencePiece, 96 tokens"),
}


@pytest.mark.parametrize("name", FILES)
def test_the_tokens_are_printed_as_the_function_returns_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    kind, raw, line = FILES[name]
    path = write(tmp_path / "m.sbs", kind, raw)
    status, out = run(capsys, "get", path, "tokenizer", "--json")
    assert status == 0
    with blobstore.open(path) as store:
        assert store.tokens is not None
        assert json.loads(out) == json.loads(json.dumps(asdict(store.tokens)))
        assert store.tokenizer == raw
    assert line in run(capsys, "info", path)[1]


def test_the_list_has_ids_texts_merges_and_added_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out = run(capsys, "get", write(tmp_path / "m.sbs", 1, BPE.to_bytes()), "tokenizer", "--json")
    types = ["normal", "normal", "normal", "unused", "added", "added"]
    texts = ["a", "b", "ab", "", "<|end|>", "<x>"]
    assert json.loads(out) == {
        "kind": "byte-level",
        "tokens": [
            {"id": number, "text": text, "type": kind}
            for number, (text, kind) in enumerate(zip(texts, types, strict=True))
        ],
        "merges": [[0, 1]],
        "added_ids": [4, 5],
        "unk_id": 1,
    }


def facts(capsys: pytest.CaptureFixture[str], path: Path) -> Any:  # noqa: ANN401 (JSON is anything)
    return json.loads(run(capsys, "info", path, "--json")[1])["model"]["tokens"]


def test_info_says_what_the_tokenizer_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.sbs"
    text = "byte-level BPE, 6 tokens, 1 merge, 2 added tokens"
    found = facts(capsys, write(path, 1, BPE.to_bytes()))
    assert found == {"kind": "byte-level", "tokens": 6, "merges": 1, "added_tokens": 2, "text": text}
    assert facts(capsys, write(path, 0, b"unavailable")) is None
    assert facts(capsys, write(path, 1, b"rubbish!"))["text"].startswith("can't be read: fields-truncated: ")
    assert facts(capsys, write(path, 7, b"x"))["text"] == "of kind 7, which this version doesn't know"


@pytest.mark.parametrize(
    ("words", "status", "reason"),
    [
        (["tokenizer", "--json", "-o", "out"], 2, "two-ways"),
        (["tokenizer", "--json", "--raw"], 2, "two-ways"),
        (["config", "--json"], 2, "no-listing"),
    ],
)
def test_only_the_tokenizer_has_a_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], status: int, reason: str
) -> None:
    path = write(tmp_path / "m.sbs", 1, BPE.to_bytes())
    found, out = run(capsys, "get", path, *words)
    assert (found, json.loads(out)["error"]["reason"]) == (status, reason)


@pytest.mark.parametrize(
    ("kind", "raw", "expected"), [(0, b"unavailable", (2, "name-not-found")), (1, b"\0\0\0\0", (1, "bpe-tokens"))]
)
def test_a_tokenizer_that_is_missing_or_damaged_has_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: int, raw: bytes, expected: tuple[int, str]
) -> None:
    status, out = run(capsys, "get", write(tmp_path / "m.sbs", kind, raw), "tokenizer", "--json")
    assert (status, json.loads(out)["error"]["reason"]) == expected
