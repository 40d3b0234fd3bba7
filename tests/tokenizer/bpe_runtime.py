"""How the runtime encodes a text by a BPE record, as spec/gemma.md says, without the package's own code.

Nobody has run it: it is what was read in the runtime's source.
"""

from __future__ import annotations

import re
import struct
from functools import cached_property
from itertools import islice, pairwise

BYTE_FALLBACK, SPACES, BYTE_LEVEL = 1, 2, 4
LETTERS, BLANKS = r"A-Za-z\x80-\U0010FFFF", r" \t\n\r\f\v"
SPLIT = re.compile(
    rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n{LETTERS}0-9]?[{LETTERS}]+|[0-9]|"
    rf" ?[^{BLANKS}{LETTERS}0-9]+[\r\n]*|[{BLANKS}]*[\r\n]+|[{BLANKS}]+(?![^{BLANKS}])|[{BLANKS}]+"
)


def byte_alphabet() -> list[str]:
    """GPT-2's characters for bytes: printable ones stand for themselves, the others follow from 256 on."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [value for value in range(256) if value not in own]
    return [chr(value) if value in own else chr(256 + others.index(value)) for value in range(256)]


ALPHABET = byte_alphabet()
BYTES = {char: byte for byte, char in enumerate(ALPHABET)}


class Runtime:
    """A record's tokenizer."""

    def __init__(self, raw: bytes) -> None:
        self._words = iter(struct.unpack(f"<{len(raw) // 4}I", raw))
        assert 4 * (1 + next(self._words)) == len(raw)
        self.flags, self.unknown = self._taken(2)
        self.texts = [self._text() for _ in range(*self._taken(1))]
        merges = self._taken(*self._taken(1))
        self.added = self._taken(*self._taken(1))
        assert not list(self._words)
        self.numbers = {text: number for number, text in enumerate(self.texts) if text}
        self._known: dict[str, list[int]] = {}
        self.ranks = {pair: rank for rank, pair in enumerate(zip(merges[::2], merges[1::2], strict=True))}

    def _taken(self, count: int) -> list[int]:
        return list(islice(self._words, count))

    def _text(self) -> str:
        words = self._taken(*self._taken(1))
        return struct.pack(f"<{len(words)}I", *words).rstrip(b"\0").decode()

    @cached_property
    def _added(self) -> re.Pattern[str]:
        texts = sorted((self.texts[number] for number in self.added), key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, texts))})" if texts else "(?!)")

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        found: list[int] = []
        for part in self._added.split(text):
            if part in self.numbers and self.numbers[part] in self.added:
                found.append(self.numbers[part])
            elif self.flags & BYTE_LEVEL:
                for word in SPLIT.findall(part):
                    if word not in self._known:
                        numbers = [self.numbers[ALPHABET[byte]] for byte in word.encode()]
                        self._known[word] = self._merged(numbers)
                    found += self._known[word]
            else:
                found += self._merged([one for char in part.replace(" ", "\u2581") for one in self._of(char)])
        return found

    def _of(self, char: str) -> list[int]:
        if char in self.numbers:
            return [self.numbers[char]]
        if self.flags & BYTE_FALLBACK:
            return [self.numbers[f"<0x{byte:02X}>"] for byte in char.encode()]
        return [self.unknown]

    def _merged(self, tokens: list[int]) -> list[int]:
        while True:
            ranked = [(self.ranks[pair], at) for at, pair in enumerate(pairwise(tokens)) if pair in self.ranks]
            if not ranked:
                return tokens
            at = min(ranked)[1]
            tokens[at : at + 2] = [self.numbers[self.texts[tokens[at]] + self.texts[tokens[at + 1]]]]

    def decode(self, tokens: list[int]) -> str:
        """Return the text of tokens of a byte-level vocabulary."""
        raw = b""
        for number in tokens:
            text = self.texts[number]
            raw += text.encode() if number in self.added else bytes(map(BYTES.__getitem__, text))
        return raw.decode()
