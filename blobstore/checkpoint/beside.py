"""What a conversion uses of the files beside a checkpoint's tensors: the tokenizer, and whether there is a template."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from blobstore.container.foreign import HEAD_NBYTES, foreign_format
from blobstore.errors import BlobStoreError, FormatError, UsageError
from blobstore.fileio.descriptors import refuse_irregular
from blobstore.fileio.source import read_whole
from blobstore.gemma.tokenizer import count_pieces

if TYPE_CHECKING:
    from blobstore.checkpoint.reader import Checkpoint

_TOKENIZER = "tokenizer.model"
_TEMPLATES = ("chat_template.jinja", "chat_template.json")


def tokenizer_beside(checkpoint: Checkpoint, given: str | None) -> bytes | None:
    """Return the bytes of the given tokenizer, or of the checkpoint's own; it counts among the checkpoint's files.

    Returns:
        The bytes; None when none is given and the checkpoint has none.

    Raises:
        UsageError: ``not-a-tokenizer`` when it is not a SentencePiece model.
        OSError: The file can't be read.
    """
    path = given or os.path.join(checkpoint.folder, _TOKENIZER)
    if given is None and not os.path.lexists(path):
        return None
    checkpoint.note_read(path)
    raw = bytes(read_whole(path))
    try:
        count_pieces(raw)
    except FormatError as error:
        known = foreign_format(raw[:HEAD_NBYTES])
        state = f"this is {known}" if known else error.message
        what = f"{path!r}: {state}; gemma.cpp needs tokenizer.model, not tokenizer.json"
        raise UsageError("not-a-tokenizer", what) from None
    return raw


def has_chat_template(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint or its folder has a chat template, as those of instruction-tuned models do.

    A ``tokenizer_config.json`` that can't be read is a note of the checkpoint.

    Raises:
        OSError: A file can't be read.
    """
    paths = [os.path.join(checkpoint.folder, name) for name in _TEMPLATES]
    templates = [path for path in paths if os.path.lexists(path)]
    for path in templates:
        checkpoint.note_read(path)
        refuse_irregular(path)  # as for the other files, and a link to nothing is an error
    return checkpoint.chat_template or bool(templates) or _tokenizer_has_template(checkpoint)


def _tokenizer_has_template(checkpoint: Checkpoint) -> bool:
    path = os.path.join(checkpoint.folder, "tokenizer_config.json")
    if not os.path.lexists(path):
        return False
    checkpoint.note_read(path)
    try:
        config = json.loads(bytes(read_whole(path)))
    except (ValueError, RecursionError) as error:
        if isinstance(error, BlobStoreError):
            raise
        config = error
    if not isinstance(config, dict):
        why = config if isinstance(config, Exception) else f"expected an object, found {type(config).__name__}"
        what = f"{path!r} can't be read ({why}): taken as one without a chat template; --wrapping it says otherwise"
        checkpoint.notes.append(what)
        return False
    return bool(config.get("chat_template"))
