"""BPE records against the peer tokenizers.

What is compared: the tokens of texts whose characters beyond ASCII are all letters, which NFC doesn't change, with a
tokenizer that splits them as Qwen's does: there the runtime's fixed split is the same. In the other kind: those of any
text.
The runtime itself isn't run: `tests.tokenizer.bpe_runtime` encodes from the record alone.
"""

from __future__ import annotations

import json
import unicodedata
from functools import cache

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from blobstore.gemma import BpeTokenizer, TokenizerKind, list_tokens
from blobstore.tokenizer.fitting_bpe import MadeBpe
from blobstore.tokenizer.from_json_bpe import parse_bpe, parse_vocab_and_merges
from tests.tokenizer.bpe_runtime import ALPHABET, BYTE_FALLBACK, BYTE_LEVEL, SPACES, Runtime
from tests.tokenizer.test_bpe import OTHER_TOKENS, OWN_SPLIT, PATTERN
from tests.tokenizer.test_peers import exported, lines

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
ROWS = 800


def is_split_alike(text: str) -> bool:
    """Whether all but ASCII are letters, and the peer's normalizer changes nothing."""
    letters = all(char.isascii() or unicodedata.category(char)[0] == "L" for char in text)
    return letters and unicodedata.is_normalized("NFC", text)


@cache
def trained() -> str:
    """A small tokenizer.json like Qwen's, trained on the spot."""
    made = tokenizers.Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(tokenizers.Regex(PATTERN), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=ROWS, special_tokens=[], initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(lines(2000, 1), trainer)
    made.add_special_tokens(SPECIAL)
    return made.to_str()


def raw_of(text: str | bytes, rows: int = 2000) -> bytes:
    return MadeBpe(parse_bpe(text.encode() if isinstance(text, str) else text), "tokenizer.json").fitted(rows).raw


def test_a_byte_level_record_gives_the_same_tokens() -> None:
    runtime, peer = Runtime(raw_of(trained())), tokenizers.Tokenizer.from_str(trained())
    assert runtime.flags == BYTE_LEVEL
    texts = [text for text in lines(2500, 2) if is_split_alike(text)]
    texts += [
        "I'M you'll 'tis\r\n\r\n  a  1234.5e-6 --> x_y \t\n",
        "a\n \n b   ",
        "<|im_start|>user\nhi<|im_end|>\n  x",
    ]
    expected = [found.ids for found in peer.encode_batch(texts, add_special_tokens=False)]
    assert [runtime.encode(text) for text in texts] == expected
    assert len(texts) > 1000
    assert len({token for ids in expected for token in ids}) > 400
    assert [runtime.decode(ids) for ids in expected] == texts


def test_a_metaspace_record_gives_the_same_tokens() -> None:
    runtime, peer = Runtime(raw_of(exported())), tokenizers.Tokenizer.from_str(exported().decode())
    assert runtime.flags == SPACES | BYTE_FALLBACK
    texts = lines(500, 3)
    expected = [found.ids for found in peer.encode_batch(texts, add_special_tokens=False)]
    assert [runtime.encode(text) for text in texts] == expected


def test_a_record_has_every_token_and_every_merge_of_the_peer() -> None:
    peer = tokenizers.Tokenizer.from_str(trained())
    record = BpeTokenizer.from_bytes(raw_of(trained()))
    assert record.tokens == tuple(str(peer.id_to_token(number)).encode() for number in range(peer.get_vocab_size()))
    merges = json.loads(trained())["model"]["merges"]
    texts = [token.text for token in list_tokens(record.to_bytes(), TokenizerKind.BPE).tokens]
    assert [[texts[left], texts[right]] for left, right in record.pairs] == merges
    assert all(record.made)
    assert [texts[number] for number in record.added_ids] == SPECIAL
    assert {*ALPHABET} <= {*texts}


def test_vocab_and_merges_are_the_same_tokenizer() -> None:
    document = json.loads(trained())
    model = document["model"]
    merges = "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in model["merges"])
    other = parse_vocab_and_merges(json.dumps(model["vocab"]).encode(), merges.encode())
    whole = parse_bpe(trained().encode())
    added = sorted(whole.added.items())
    assert other.add(token for _, token in added) == []
    assert MadeBpe(other, "").fitted(2000).raw == raw_of(trained())
    for spelling in (merges, merges.replace("\n", "\r\n"), merges.rstrip()):
        assert parse_vocab_and_merges(json.dumps(model["vocab"]).encode(), spelling.encode()).merges == whole.merges


def test_what_the_runtime_does_otherwise_is_told() -> None:
    fitted = MadeBpe(parse_bpe(trained().encode()), "tokenizer.json").fitted(ROWS + len(SPECIAL))
    assert fitted.notes == (
        "tokenizer: a byte-level BPE blob is made from tokenizer.json: 803 tokens, 544 merges, 3 added tokens",
        f"tokenizer: {OWN_SPLIT}; gemma.cpp doesn't follow its normalizer NFC: {OTHER_TOKENS}",
    )
    fitted = MadeBpe(parse_bpe(exported()), "tokenizer.json").fitted(900)
    assert len(fitted.notes) == 1
