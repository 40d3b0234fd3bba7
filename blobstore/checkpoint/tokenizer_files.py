"""The tokenizer's files beside a checkpoint's tensors: the tokenizer, and whether there is a chat template."""

from __future__ import annotations

import json
import os
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from blobstore.container.foreign import HEAD_NBYTES, foreign_format
from blobstore.errors import BlobStoreError, FormatError, UsageError, listed
from blobstore.fileio.descriptors import refuse_irregular
from blobstore.fileio.source import read_beginning
from blobstore.fileio.urls import is_url
from blobstore.gemma.enums import TokenizerKind
from blobstore.gemma.tokenizer import count_pieces, pieces_of
from blobstore.tokenizer.added import FIRST_NBYTES, added_by_text, added_in_config, added_in_json
from blobstore.tokenizer.document import InexpressibleError
from blobstore.tokenizer.fitting import MadeTokenizer, Tokenizer, of_pieces
from blobstore.tokenizer.fitting_bpe import MadeBpe, StoredBpe
from blobstore.tokenizer.from_json import parse_tokenizer
from blobstore.tokenizer.from_json_bpe import bpe_of, parse_bpe, parse_vocab_and_merges

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from blobstore.checkpoint.reader import Checkpoint
    from blobstore.tokenizer.added import Added
    from blobstore.tokenizer.fitting import FittingTokenizer
    from blobstore.tokenizer.from_json import JsonTokenizer
    from blobstore.tokenizer.from_json_bpe import BpeVocabulary

_MODEL, _JSON, _CONFIG, _ADDED = "tokenizer.model", "tokenizer.json", "tokenizer_config.json", "added_tokens.json"
_VOCAB, _MERGES = "vocab.json", "merges.txt"  # of byte-level BPE, from older exporters
_SAVE = "transformers' AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) writes a tokenizer.json"
_TEMPLATES = ("chat_template.jinja", "chat_template.json")
_IMAGE_TOKENS = ("image_token_index", "image_token_id")  # older and newer exporters
_SHOWN = 5


def tokenizer_beside(
    checkpoint: Checkpoint, given: str | None, kind: TokenizerKind = TokenizerKind.SENTENCE_PIECE
) -> FittingTokenizer | None:
    """Return the given tokenizer, or the checkpoint's own with the tokens that were added to it.

    Its files count among the checkpoint's. Whatever of them can't be used is a note of the checkpoint.

    Args:
        checkpoint: Open.
        given: Path of a ``tokenizer.json``, or of a ``tokenizer.model``, which is taken as it is and is never BPE.
        kind: Which one the runtime needs for this model.

    Returns:
        The tokenizer; None when none is given and the checkpoint has none, or one that can't be of this kind.

    Raises:
        UsageError: ``not-a-tokenizer`` when the given one is neither; or it can't be of this kind.
        CheckpointError: ``too-large``: a file has more bytes than a tokenizer's.
        OSError: A file can't be read.
    """
    if given is not None:
        raw = checkpoint.read_small(given)
        is_json = raw.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{"
        return _given_json(checkpoint, given, raw, kind) if is_json else _given_model(given, raw, kind)
    if kind == TokenizerKind.BPE:
        return _bpe_beside(checkpoint)
    path = checkpoint.beside(_MODEL)
    if path:
        raw = checkpoint.read_small(path)
        added, source = _added(checkpoint)
        return replace(
            _model(path, raw, wholly=bool(added)), added=added, source=source, placeholders=_placeholders(checkpoint)
        )
    path = checkpoint.beside(_JSON)
    return _made(checkpoint, path) if path else _of_pieces(checkpoint)


def stored_tokenizer(raw: bytes, kind: TokenizerKind) -> FittingTokenizer:
    """Return the tokenizer of a file for the runtime, to be taken as it is."""
    return StoredBpe(raw) if kind == TokenizerKind.BPE else Tokenizer(raw)


def _bpe_beside(checkpoint: Checkpoint) -> FittingTokenizer | None:
    """Return the BPE tokenizer of a checkpoint's files."""
    path, others = checkpoint.beside(_JSON), [checkpoint.beside(name) for name in (_VOCAB, _MERGES)]
    if path:
        return _bpe_of_files(checkpoint, [path], _JSON, parse_bpe)
    inside = checkpoint.bpe()
    if inside is not None:
        source = "the GGUF file"
        told = f"{source}'s own tokenizer can't be taken: "  # the rest of the file can be read
        return _made_bpe(checkpoint, source, lambda: bpe_of(inside, inside["model"]), lambda error: f"{told}{error}")
    if all(others):
        source = f"{_VOCAB} and {_MERGES}"
        checkpoint.notes.append(f"tokenizer: there is no {_JSON}: {source} are taken as a byte-level tokenizer's")
        return _bpe_of_files(checkpoint, others, source, parse_vocab_and_merges)
    if checkpoint.beside(_MODEL):
        checkpoint.notes.append(f"{_MODEL} is not used: this model's tokenizer is BPE, of a {_JSON}; {_SAVE}")
    return None


def _bpe_of_files(
    checkpoint: Checkpoint, paths: list[str], source: str, parse: Callable[..., BpeVocabulary]
) -> MadeBpe | None:
    raw = [checkpoint.read_small(path) for path in paths]
    shown = " and ".join(map(repr, paths))
    return _made_bpe(checkpoint, source, lambda: parse(*raw), lambda error: _unread(shown, raw[0], error))


def _made_bpe(
    checkpoint: Checkpoint, source: str, make: Callable[[], BpeVocabulary], why: Callable[[Exception], str]
) -> MadeBpe | None:
    """Return a BPE tokenizer; None, and a note, if it can't be made: ``why`` says it of one with another form."""
    try:
        made = make()
        return MadeBpe(made, _add_others(checkpoint, made, source), _placeholders(checkpoint))
    except InexpressibleError as error:
        checkpoint.notes.append(f"{source} can't become a BPE blob: {error}")
    except ValueError as error:
        if isinstance(error, BlobStoreError):
            raise
        checkpoint.notes.append(why(error))
    return None


def _add_others(checkpoint: Checkpoint, made: JsonTokenizer | BpeVocabulary, source: str) -> str:
    """Add the tokens of the files beside those that a tokenizer is made from → the names of all of them."""
    added, sources = _added(checkpoint, made.added, source)
    other = made.add(token for _, token in sorted(added.items()))
    if other:
        shown = listed([f"{token.id} {token.text!r:.40}" for token in other], _SHOWN)
        checkpoint.notes.append(f"tokenizer: left out, since {source} has them otherwise: {shown}")
    return sources


def _of_pieces(checkpoint: Checkpoint) -> Tokenizer | None:
    """Return the tokenizer of a file that has the tensors as well, with the tokens that were added to it."""
    pieces = checkpoint.pieces()
    if pieces is None:
        return None
    added, source = _added(checkpoint)
    return Tokenizer(of_pieces(pieces, "the GGUF file"), added, source, _placeholders(checkpoint))


def _model(path: str, raw: bytes, *, wholly: bool = False) -> Tokenizer:
    """Return a SentencePiece model, of which at least the number of pieces can be read, or all of them."""
    try:
        count_pieces(raw)
        deque(pieces_of(raw) if wholly else (), 0)
    except FormatError as error:
        state = foreign_format(raw[:HEAD_NBYTES]) or error.message.removeprefix("this is ")
        what = f"{path!r} is {state}; pass the model's own tokenizer.model or tokenizer.json with --tokenizer"
        raise UsageError("not-a-tokenizer", what) from None
    return Tokenizer(raw)


def _given_model(path: str, raw: bytes, kind: TokenizerKind) -> Tokenizer:
    model = _model(path, raw)
    if kind != TokenizerKind.BPE:
        return model
    what = f"{path!r} is a SentencePiece model, and this model's tokenizer is BPE: pass its tokenizer.json"
    raise UsageError("not-a-tokenizer", f"{what}; {_SAVE}")


def _given_json(checkpoint: Checkpoint, path: str, raw: bytes, kind: TokenizerKind) -> FittingTokenizer:
    source, images = os.path.basename(path), _placeholders(checkpoint)
    is_bpe = kind == TokenizerKind.BPE
    try:
        if is_bpe:
            return MadeBpe(parse_bpe(raw), source, images)
        return MadeTokenizer(parse_tokenizer(raw), source, images)
    except InexpressibleError as error:
        into, fix = ("BPE blob", "") if is_bpe else ("SentencePiece model", "; pass a tokenizer.model")
        what = f"{path!r} can't become a {into}: {error}{fix}"
    except ValueError as error:
        what = f"{path!r} is not a tokenizer.json: {error}; pass that{'' if is_bpe else ', or a tokenizer.model'}"
    raise UsageError("not-a-tokenizer", what)


def _made(checkpoint: Checkpoint, path: str) -> MadeTokenizer | None:
    raw = checkpoint.read_small(path)
    try:
        made = parse_tokenizer(raw)
    except InexpressibleError as error:
        checkpoint.notes.append(f"{_JSON} can't become a SentencePiece model: {error}")
    except ValueError as error:
        checkpoint.notes.append(_unread(repr(path), raw, error))
    else:
        sources = _add_others(checkpoint, made, _JSON)
        return MadeTokenizer(made, sources, _placeholders(checkpoint))
    return None


def _added(checkpoint: Checkpoint, known: Added | None = None, source: str = "") -> tuple[Added, str]:
    """Return the tokens that the files beside a tokenizer add, and the names of the files that they are from.

    transformers takes all of tokenizer.json; then, of the others, what it doesn't have.

    Args:
        checkpoint: Open.
        known: Those of the files that the tokenizer is made from, if it is made: of tokenizer.json, in most cases.
        source: The names of these files.
    """
    added, sources = known or {}, [] if known is None else [source]
    parsers: dict[str, Callable[[str], Added]] = {
        _JSON: lambda path: added_in_json(
            _beginning(checkpoint, path, FIRST_NBYTES), lambda: checkpoint.read_small(path)
        ),
        _CONFIG: lambda path: added_in_config(_object(checkpoint.read_small(path))),
        _ADDED: lambda path: added_by_text(_object(checkpoint.read_small(path))),
    }
    for name, parse in parsers.items():
        path = checkpoint.beside(name)
        if not path or (name == _JSON and known is not None):
            continue
        try:
            more = parse(path)
        except (ValueError, RecursionError) as error:
            if isinstance(error, BlobStoreError):
                raise
            why = _why(_beginning(checkpoint, path, HEAD_NBYTES), error)
            checkpoint.notes.append(f"{path!r} can't be read ({why}): tokens that it adds are left out")
            continue
        differing = [number for number in more if number in added and more[number].piece != added[number].piece]
        if differing:
            shown = listed([f"{number} {more[number].text!r:.40}" for number in differing], _SHOWN)
            what = f"{', '.join(sources)} has other tokens than {name}, which is not used"
            checkpoint.notes.append(f"tokenizer: {what}: {shown}")
        sources += [name] if {*more} - {*added} else []
        added = more | added
    return added, ", ".join(sources)


def _placeholders(checkpoint: Checkpoint) -> set[int]:
    return {*image_tokens(checkpoint.config)}


def image_tokens(config: Mapping[str, Any]) -> list[int]:
    """Return the tokens that stand for images, by config.json."""
    return [config[name] for name in _IMAGE_TOKENS if type(config.get(name)) is int]


def _beginning(checkpoint: Checkpoint, path: str, nbytes: int) -> bytes:
    checkpoint.note_read(path)
    return bytes(read_beginning(path, nbytes))


def _object(raw: bytes) -> dict[str, Any]:
    value = json.loads(raw)
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, found {type(value).__name__}")
    return value


def _unread(shown: str, raw: bytes, error: Exception) -> str:
    return f"{shown} can't be read ({_why(raw, error)}): taken as missing"


def _why(raw: bytes, error: Exception) -> str:
    return foreign_format(raw[:HEAD_NBYTES]) or str(error)


def has_chat_template(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint or its folder has a chat template, as those of instruction-tuned models do.

    A ``tokenizer_config.json`` that can't be read is a note of the checkpoint.

    Raises:
        OSError: A file can't be read.
    """
    templates = [path for path in (checkpoint.beside(name) for name in _TEMPLATES) if path]
    for path in templates:
        checkpoint.note_read(path)
        if not is_url(path):
            refuse_irregular(path)  # as for the other files, and a link to nothing is an error
    return checkpoint.chat_template or bool(templates) or _tokenizer_has_template(checkpoint)


def _tokenizer_has_template(checkpoint: Checkpoint) -> bool:
    path = checkpoint.beside(_CONFIG)
    if not path:
        return False
    raw = checkpoint.read_small(path)
    try:
        return bool(_object(raw).get("chat_template"))
    except (ValueError, RecursionError) as error:
        what = f"{path!r} can't be read ({_why(raw, error)}): taken as one without a chat template"
        checkpoint.notes.append(f"{what}; --wrapping it says otherwise")
    return False
