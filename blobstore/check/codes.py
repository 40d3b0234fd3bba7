"""The kinds of findings: each declared once, with its severity, its effect and its fix.

Spec: spec/findings.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from blobstore.gemma.runtimes import APRIL, LATER, NAMES, OCTOBER

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Attributes:
        severity: ``error``: it can't be used, or would give wrong results; ``warning``: it may; ``note``: good to know.
        effect: What happens in gemma.cpp, or to a reader.
        remedy: What to do.
        runtimes: Names of the states of gemma.cpp that it concerns.
        asked: Its severity where one of these is asked for by name; None for the same. A file for newer runtimes isn't
            wrong because older ones don't read it.
    """

    severity: Severity
    effect: str
    remedy: str
    runtimes: tuple[str, ...] = NAMES
    asked: Severity | None = None


_STOPS = "gemma.cpp stops when it opens the file"
_UNSEEN = "gemma.cpp does not see it and may read wrong bytes; other readers refuse the file"
_ANEW = "write the file again with blobstore, or fetch it again"
_CUT = "fetch the file again; blobstore recover saves what is whole"
_CONVERT = "convert the checkpoint again with blobstore convert"
_REWRITE = "blobstore rewrite FILE -o OUT writes it anew, with zeros"
_NO_LOAD = "gemma.cpp stops when it loads the tensors"
_REINDEX = "blobstore index build FILE --force makes a new one"
_NEWER = "use a newer gemma.cpp"
_OLD = (OCTOBER.name, APRIL.name)
_NEW = (APRIL.name, LATER.name)
_PAD = "pad the embedding, and vocab_size, with copies of the <pad> row to a multiple of 32"

_CONTAINER = {
    "truncated": Kind("error", _STOPS, _CUT),
    "bad-magic": Kind("error", f"{_STOPS}, unless only the placeholder of version 2 is wrong", "this is no .sbs file"),
    "bad-placeholder": Kind("error", _UNSEEN, _ANEW),
    "no-directory": Kind("error", _STOPS, _CUT),
    "blob-count": Kind("error", "gemma.cpp stops, or reads what its own writer would not write", _ANEW),
    "file-size": Kind("error", _STOPS, _CUT),
    "directory-range": Kind("error", _STOPS, _CUT),
    "bad-key": Kind("error", _UNSEEN, _ANEW),
    "duplicate-key": Kind("error", _UNSEEN, _ANEW),
    "empty-blob": Kind("error", _STOPS, _ANEW),
    "blob-range": Kind("error", f"{_STOPS}, or reads wrong bytes where a sum wraps", _ANEW),
    "blob-offset": Kind("error", _STOPS, _ANEW),
    "payload-end": Kind("error", "gemma.cpp crashes, or does not see it; other readers refuse the file", _ANEW),
    "padding": Kind("warning", "none: no reader looks there; the file is not as it was written", _REWRITE),
}
_INDEX = {
    "index": Kind("error", "gemma.cpp ignores the index; by name the file can't be read", _REINDEX),
    "index-digest": Kind("error", "a name, shape or digest may be wrong", _REINDEX),
    "index-misplaced": Kind("error", "no reader finds the names", "fetch the file again"),
    "index-disagrees": Kind("warning", "Python and gemma.cpp read the tensor differently", _REINDEX),
}
_CONTENTS = {
    "damaged-blob": Kind("error", "these tensors have wrong values", "fetch the file again"),
    "no-digests": Kind(
        "warning", "a change in a blob can't be found", "blobstore index build FILE --digests keeps them from now on"
    ),
    "no-digest": Kind("note", "a change in this blob can't be found", _REINDEX),
    "not-a-number": Kind("error", "results become NaN", "fetch or convert again from a sound source"),
    "infinite": Kind("warning", "results may become NaN", "look whether the source has them too"),
    "reserved-code": Kind("error", "gemma.cpp's decoder stops, or gives an unspecified value", _CONVERT),
    "undecodable": Kind("note", "its values were not looked at", "a newer blobstore may know it"),
}
_RUNTIME = {
    "not-for-gemma": Kind("error", "gemma.cpp has nothing to run", _CONVERT),
    "by-name": Kind(
        "note", "not looked at as a model: no config, no toc", "blobstore check --for gemma.cpp says what is missing"
    ),
    "layer-number": Kind("error", _STOPS, "blobstore rewrite FILE -o OUT --rename OLD=NEW"),
    "type-letter": Kind("warning", "gemma.cpp prints a line about types", "none needed; or rename the blob"),
    "unknown-tensor": Kind("error", "gemma.cpp stops: 'Unknown tensor'", "blobstore rewrite FILE -o OUT --drop KEY"),
    "reserved-key": Kind("warning", "gemma.cpp ignores it: no model has such a tensor", "store it under another name"),
    "key-too-long": Kind("error", "gemma.cpp stops when it reads the toc", _CONVERT),
    "before-2025": Kind(
        "note",
        "gemma.cpp guesses the model from the number of layers; the tokenizer has to be given with --tokenizer",
        _CONVERT,
    ),
    "letters-damaged": Kind("error", "gemma.cpp stops, or takes wrong scales", _CONVERT),
    "no-config": Kind("error", "gemma.cpp stops: it can't deduce the type of the weights", _CONVERT),
    "config-damaged": Kind("error", "gemma.cpp stops when it reads the config, or reads it otherwise", _CONVERT),
    "config-trailing": Kind("note", "none: gemma.cpp does not look there", "none needed"),
    "global-rope": Kind(
        "error",
        "gemma.cpp computes global layers with a RoPE base of 10,000, without a word: worse text, by 4 % more bits",
        "blobstore repair FILE changes the config, and no tensor",
        _NEW,
    ),
    "rope-by-label": Kind(
        "note",
        "gemma.cpp takes the RoPE base of global layers from the model's number: worse text, by 4 % more bits",
        _NEWER,
        (OCTOBER.name,),
        asked="warning",
    ),
    "newer-fields": Kind("note", "gemma.cpp prints a line and ignores them", "none needed", _OLD),
    "ignored-fields": Kind("note", "gemma.cpp ignores them: wrong results", _NEWER, _OLD, asked="error"),
    "newer-value": Kind("note", "gemma.cpp stops: 'Invalid enum'", _NEWER, asked="error"),
    "newer-type": Kind("note", "gemma.cpp stops when it reads the toc", _NEWER, asked="error"),
    "newer-text": Kind("note", "gemma.cpp stops: it reads ASCII only", _NEWER, _OLD, asked="error"),
    "newer-vector": Kind("note", "gemma.cpp stops: a vector is too long", _NEWER, asked="error"),
    "newer-blobs": Kind("note", "gemma.cpp stops when it opens the file", _NEWER, _OLD, asked="error"),
    "custom-model": Kind(
        "warning", "the program gemma stops when it shows the config, which it does by default", "gemma --verbosity 0"
    ),
    "not-compared": Kind("note", "not looked at: which tensors such a model has is not known here", "none needed"),
    "config-model": Kind("error", "gemma.cpp stops when it reads the config", _CONVERT),
    "config-sizes": Kind("error", "gemma.cpp stops or crashes: when it loads, or when it generates", _CONVERT),
    "unlike-layers": Kind("error", "gemma.cpp crashes: it makes room for all layers by the first one", _CONVERT, _OLD),
    "columns": Kind("error", "gemma.cpp stops when it computes", "no gemma.cpp has room for such a matrix"),
    "sequence": Kind(
        "error", "gemma.cpp stops at prompts of as many tokens: 'increase --seq_len'", _CONVERT, (OCTOBER.name,)
    ),
    "vision-config": Kind(
        "error",
        "text prompts run; with an image gemma.cpp stops, or corrupts memory",
        "no image prompts with this model: gemma.cpp's sizes are fixed",
    ),
    "image-prompts": Kind(
        "note",
        "the program gemma stops at its own asserts when it is given an image, whatever the file; text prompts run",
        "call the library, or use a newer gemma.cpp",
        (OCTOBER.name,),
    ),
    "too-many-layers": Kind("error", _STOPS, "a model has at most 999 layers"),
    "vocabulary": Kind(
        "error",
        "gemma.cpp stops when it samples with top_k 1 (the default), on machines with AVX-512",
        _PAD,
    ),
    "stop-token": Kind(
        "warning",
        "gemma.cpp never sees this token, and does not stop at it: an answer may go on to the limit",
        "convert again with the eos_token_id of the model's own generation_config.json",
    ),
    "no-toc": Kind("error", "gemma.cpp stops: it finds no tensor", _CONVERT),
    "toc-damaged": Kind("error", "gemma.cpp stops when it reads the toc", _CONVERT),
    "toc-missing-blob": Kind("error", "gemma.cpp stops when it reads the toc", _CONVERT),
    "toc-size": Kind("error", _NO_LOAD, _CONVERT),
    "toc-stride": Kind(
        "error",
        "gemma.cpp generates garbage: the rows were written with their padding",
        "blobstore rewrite FILE -o OUT --drop KEY where there is another form, else convert again",
    ),
    "toc-numbers": Kind("warning", "none: gemma.cpp computes these anew", _CONVERT),
    "missing-tensor": Kind("error", "gemma.cpp stops: when it loads the tensors, or when it generates", _CONVERT),
    "both-forms": Kind("error", _NO_LOAD, "blobstore rewrite FILE -o OUT --drop KEY removes one form"),
    "unexpected-tensor": Kind("warning", "gemma.cpp ignores it", "none needed; blobstore rewrite --drop KEY"),
    "tensor-shape": Kind("error", "gemma.cpp stops: 'shape mismatches file'", _CONVERT),
    "tensor-type": Kind("error", "gemma.cpp stops: when it loads the tensors, or when it computes", _CONVERT),
    "pair-types": Kind("error", "gemma.cpp stops when it computes with them", _CONVERT),
    "weight-type": Kind("error", "gemma.cpp stops when it reads the toc", _CONVERT),
    "mixed-f32": Kind("error", "gemma.cpp stops when it reads the toc", "blobstore convert --weights f32"),
    "nuq-weights": Kind("error", "gemma.cpp stops, unless built with GEMMA_ENABLE_NUQ=1", _CONVERT),
    "i8-weights": Kind(
        "warning", "experimental in gemma.cpp, which stops at it with --to_bf16 1", "blobstore convert --weights sfp"
    ),
    "i8-stock": Kind(
        "error",
        "gemma.cpp hangs when it loads the tensors, which it takes apart",
        "blobstore convert --weights i8 --layout split",
        _OLD,
    ),
    "nested-fields": Kind(
        "note", "gemma.cpp stops: it skips newer words only in outermost records", _NEWER, _OLD, asked="error"
    ),
    "rows": Kind("error", "gemma.cpp stops when it computes", "no way but another model: sizes are the model's own"),
    "scale-ignored": Kind("error", "gemma.cpp ignores the scale of a vector: wrong values", _CONVERT),
    "f32-large": Kind(
        "warning",
        "gemma.cpp stops when it reads the file: 'too large for a single IO batch'; with --map 1 it does not",
        "run with --map 1, or convert with --weights bf16",
    ),
    "no-tokenizer": Kind("warning", "gemma.cpp can't generate text", "gemma --tokenizer tokenizer.model"),
    "tokenizer-model": Kind(
        "error", "gemma.cpp stops: 'Failed to load tokenizer'", "convert again with --tokenizer tokenizer.model"
    ),
    "tokenizer-pieces": Kind(
        "error", "gemma.cpp stops: 'Failed to load tokenizer'", "convert again with --tokenizer tokenizer.model"
    ),
    "tokenizer-size": Kind("warning", "tokens beyond the embedding read outside it", "use the model's own tokenizer"),
    "packed": Kind(
        "error", "gemma.cpp stops: the blobs have not the sizes that the toc says", "blobstore unpack FILE -o OUT"
    ),
    "unused-blob": Kind("note", "gemma.cpp ignores it", "none needed"),
}
CODES: dict[str, Kind] = _CONTAINER | _INDEX | _CONTENTS | _RUNTIME
