"""What is told about tokens that a file has otherwise than the checkpoint, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.errors import listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from blobstore.tokenizer.added import AddedToken

_SHOWN = 5
_SHOWN_TEXT = 40


def counted(count: int, noun: str) -> str:
    """Return a number of things in words: ``1 piece``, ``2 pieces``."""
    return f"1 {noun}" if count == 1 else f"{count} {noun}s"


def narrowed(tokens: Iterable[AddedToken], runtime: str) -> Iterator[str]:
    """Say which added tokens have flags that what encodes texts doesn't know."""
    narrow = {token.id: token.piece for token in tokens if token.narrows}
    if narrow:
        what = f"lstrip, rstrip and single_word have no equal in {runtime}, and are ignored"
        yield f"tokenizer: {what}: {listed_texts(narrow)}"


def renamed(noun: str, changes: Sequence[tuple[int, bytes, bytes]]) -> Iterator[str]:
    """Say which entries of a vocabulary, pieces or tokens, have the text of an added token instead of their own."""
    if changes:
        shown = listed_changes(changes)
        yield f"tokenizer: {counted(len(changes), noun)} renamed as its added_tokens say: {shown}"


def left_out(beyond: Mapping[int, bytes], vocabulary: int) -> Iterator[str]:
    """Say which tokens have no row."""
    if beyond:
        yield f"tokenizer: left out, beyond the {vocabulary} rows of the vocabulary: {listed_texts(beyond)}"


def listed_texts(texts: Mapping[int, bytes]) -> str:
    """Return the first of some tokens, id and text."""
    return listed([f"{number} {_text(text)}" for number, text in sorted(texts.items())], _SHOWN)


def listed_changes(changes: Sequence[tuple[int, bytes, bytes]]) -> str:
    """Return the first of some changes: the id, the old text, the new one."""
    return listed([f"{number} {_text(old)} → {_text(new)}" for number, old, new in changes], _SHOWN)


def _text(text: bytes) -> str:
    shown = text.decode("utf-8", "backslashreplace")
    return repr(shown[:_SHOWN_TEXT]) + ("…" if len(shown) > _SHOWN_TEXT else "")
