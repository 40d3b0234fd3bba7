"""The kinds of findings: each declared once, with its severity, its effect and its fix.

Spec: spec/findings.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from blobstore.gemma.runtimes import APRIL, LATEST, OCTOBER
from blobstore.gemma.versions import NAMES

Severity = Literal["error", "warning", "note"]
SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Attributes:
        severity: ``error``: the file can't be used, or gives wrong results; ``warning``: it may; ``note``: good to
            know.
        effect: What happens in gemma.cpp, or to a reader.
        fix: The fix.
        runtimes: Names of the versions of gemma.cpp that it concerns.
        asked: The severity if one of these versions is asked for by name; None for the same. A file for newer runtimes
            isn't wrong because older ones can't read it.
    """

    severity: Severity
    effect: str
    fix: str
    runtimes: tuple[str, ...] = NAMES
    asked: Severity | None = None


_STOPS = "gemma.cpp stops when it opens the file"
_UNSEEN = "gemma.cpp does not notice and may read wrong bytes; other readers refuse the file"
_ANEW = "write the file again with blobstore, or download it again"
_DOWNLOAD = "download the file again"
_CUT = f"{_DOWNLOAD}; blobstore recover saves what is intact"
_CONVERT = "convert the checkpoint again with blobstore convert"
_REWRITE = "blobstore rewrite FILE -o OUT writes a copy padded with zeros"
_NO_LOAD = "gemma.cpp stops when it loads the tensors"
_REINDEX = "blobstore index build FILE --force builds a new one"
_BACK = "put the .idx back, or download the file again"
_DIGESTS = "blobstore index build FILE --digests stores them from now on"
_NEWER = "use a newer gemma.cpp"
_OLD = (OCTOBER.name, APRIL.name)
_NEW = (APRIL.name, LATEST.name)
_LAST = (LATEST.name,)
_NOT_CHECKED = "its values were not checked"
_BASE = "blobstore verify FILE --values --base OTHER, the file that it is the difference to"
_PAD = "pad the embedding, and vocab_size, with copies of the <pad> row to a multiple of 32"

_CONTAINER = {
    "truncated": Kind("error", _STOPS, _CUT),
    "bad-magic": Kind(
        "error", f"{_STOPS}, unless only the placeholder of version 2 is wrong", "this is not an .sbs file"
    ),
    "bad-placeholder": Kind("error", _UNSEEN, _ANEW),
    "no-directory": Kind("error", _STOPS, _CUT),
    "blob-count": Kind("error", "gemma.cpp stops, or reads a file that its own writer would not write", _ANEW),
    "file-size": Kind("error", _STOPS, _CUT),
    "directory-range": Kind("error", _STOPS, _CUT),
    "bad-key": Kind("error", _UNSEEN, _ANEW),
    "duplicate-key": Kind("error", _UNSEEN, _ANEW),
    "empty-blob": Kind("error", _STOPS, _ANEW),
    "blob-range": Kind("error", f"{_STOPS}, or reads wrong bytes if a sum wraps around", _ANEW),
    "blob-offset": Kind("error", _STOPS, _ANEW),
    "payload-end": Kind("error", "gemma.cpp crashes, or does not notice; other readers refuse the file", _ANEW),
    "padding": Kind("warning", "none: no reader looks there, but the file is not as it was written", _REWRITE),
}
_INDEX = {
    "index": Kind("error", "gemma.cpp ignores the index; the file can't be read by name", _REINDEX),
    "index-digest": Kind("error", "a name, shape or digest may be wrong", _REINDEX),
    "index-misplaced": Kind("error", "no reader finds the names", _DOWNLOAD),
    "index-lost": Kind("warning", "tensors are only found by their keys, without types and shapes", _BACK),
    "index-disagrees": Kind("warning", "Python and gemma.cpp read the tensor differently", _REINDEX),
}
_SET = {
    "set": Kind("error", "the tensors of this file can't be read", "put the right file back, or download it again"),
    "set-missing-store": Kind("error", "the tensors of this file can't be read", "put it back, or download it again"),
}
_UNLIST = "blobstore rewrite FILE -o OUT --unset blobstore.files leaves the list out; no tensor changes"
_FILES = {
    "files-list": Kind("error", "readers refuse its files (config.json, …); the tensors are not affected", _UNLIST),
    "files-missing": Kind("error", "this file can't be read; the tensors are not affected", _DOWNLOAD),
}
_CONTENTS = {
    "damaged-blob": Kind("error", "these tensors have wrong values", _DOWNLOAD),
    "no-digests": Kind("warning", "a change in a blob can't be detected", _DIGESTS),
    "no-digest": Kind("note", "a change in this blob can't be detected", _DIGESTS),
    "not-a-number": Kind("error", "results become NaN", "download it again, or convert again from a sound source"),
    "infinite": Kind("warning", "results may become NaN", "check whether the source has them too"),
    "reserved-code": Kind("error", "gemma.cpp's decoder stops, or returns an unspecified value", _CONVERT),
    "needs-base": Kind("error", _NOT_CHECKED, _BASE),
    "wrong-base": Kind("error", _NOT_CHECKED, _BASE),
    "undecodable": Kind("note", _NOT_CHECKED, "a newer blobstore may decode it"),
}
_RUNTIME = {
    "not-for-gemma": Kind("error", "gemma.cpp has nothing to run", _CONVERT),
    "by-name": Kind(
        "note",
        "not checked as a model: it has no config and no toc",
        "blobstore check --for gemma.cpp says what is missing",
    ),
    "layer-number": Kind("error", _STOPS, "blobstore rewrite FILE -o OUT --rename OLD=NEW"),
    "type-letter": Kind("warning", "gemma.cpp prints a line about types", "none needed; or rename the blob"),
    "unknown-tensor": Kind("error", "gemma.cpp stops: 'Unknown tensor'", "blobstore rewrite FILE -o OUT --drop KEY"),
    "reserved-key": Kind("warning", "gemma.cpp ignores it: no model has such a tensor", "store it under another name"),
    "key-too-long": Kind("error", "gemma.cpp stops when it reads the toc", _CONVERT),
    "before-2025": Kind(
        "note",
        "gemma.cpp guesses the model from the number of layers, and needs --tokenizer",
        _CONVERT,
    ),
    "letters-damaged": Kind("error", "gemma.cpp stops, or uses wrong scales", _CONVERT),
    "no-config": Kind("error", "gemma.cpp stops: it can't deduce the type of the weights", _CONVERT),
    "config-damaged": Kind("error", "gemma.cpp stops when it reads the config, or reads other values", _CONVERT),
    "config-trailing": Kind("note", "none: gemma.cpp does not look there", "none needed"),
    "global-rope": Kind(
        "error",
        "gemma.cpp silently computes global layers with a RoPE base of 10,000: the text gets worse (4 % more bits)",
        "blobstore repair FILE changes the config, but no tensor",
        _NEW,
    ),
    "rope-by-label": Kind(
        "note",
        "gemma.cpp takes the RoPE base of global layers from the model's number: the text gets worse (4 % more bits)",
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
        "warning", "the gemma program stops when it prints the config, which it does by default", "gemma --verbosity 0"
    ),
    "not-compared": Kind(
        "note", "not checked: this version doesn't know which tensors such a model has", "none needed"
    ),
    "config-model": Kind("error", "gemma.cpp stops when it reads the config", _CONVERT),
    "config-sizes": Kind("error", "gemma.cpp stops or crashes when it loads or when it generates", _CONVERT),
    "unlike-layers": Kind(
        "error", "gemma.cpp crashes: it sizes the buffers of all layers by the first one", _CONVERT, _OLD
    ),
    "columns": Kind("error", "gemma.cpp stops when it computes", "none: no gemma.cpp has a buffer for such a matrix"),
    "sequence": Kind(
        "error", "gemma.cpp stops at prompts of that many tokens: 'increase --seq_len'", _CONVERT, (OCTOBER.name,)
    ),
    "vision-config": Kind(
        "error",
        "text prompts run; given an image, gemma.cpp stops or corrupts memory",
        "none: use no images with this model; gemma.cpp's sizes are fixed",
    ),
    "image-prompts": Kind(
        "note",
        "the gemma program stops at its own asserts when given an image, whatever the file; text prompts run",
        "call the library instead, or use a newer gemma.cpp",
        (OCTOBER.name,),
    ),
    "too-many-layers": Kind("error", _STOPS, "a model has at most 999 layers"),
    "vocabulary": Kind(
        "error",
        "gemma.cpp stops when it samples with top_k 1 (the default) on machines with AVX-512",
        _PAD,
    ),
    "stop-token": Kind(
        "warning",
        "gemma.cpp never sees this token, so it does not stop at it: an answer may run to the limit",
        "convert again with the eos_token_id from the model's generation_config.json",
    ),
    "no-toc": Kind("error", "gemma.cpp stops: it finds no tensor", _CONVERT),
    "toc-damaged": Kind("error", "gemma.cpp stops when it reads the toc", _CONVERT),
    "toc-missing-blob": Kind("error", "gemma.cpp stops when it reads the toc", _CONVERT),
    "toc-size": Kind("error", _NO_LOAD, _CONVERT),
    "toc-stride": Kind(
        "error",
        "gemma.cpp generates garbage: the rows were written together with their padding",
        "blobstore rewrite FILE -o OUT --drop KEY if the file has another form, else convert again",
    ),
    "toc-numbers": Kind("warning", "none: gemma.cpp recomputes these", _CONVERT),
    "missing-tensor": Kind("error", "gemma.cpp stops when it loads the tensors or when it generates", _CONVERT),
    "both-forms": Kind("error", _NO_LOAD, "blobstore rewrite FILE -o OUT --drop KEY removes one form"),
    "unexpected-tensor": Kind(
        "warning", "gemma.cpp ignores it", "none needed; blobstore rewrite --drop KEY removes it"
    ),
    "tensor-shape": Kind("error", "gemma.cpp stops: 'shape mismatches file'", _CONVERT),
    "tensor-type": Kind("error", "gemma.cpp stops when it loads the tensors or when it computes", _CONVERT),
    "pair-types": Kind("error", "gemma.cpp stops when it computes with them", _CONVERT),
    "weight-type": Kind("error", "gemma.cpp stops when it reads the toc", _CONVERT),
    "mixed-f32": Kind("error", "gemma.cpp stops when it reads the toc", "blobstore convert --weights f32"),
    "nuq-weights": Kind("error", "gemma.cpp stops, unless built with GEMMA_ENABLE_NUQ=1", _CONVERT),
    "i8-weights": Kind(
        "warning", "experimental in gemma.cpp, which stops at it with --to_bf16 1", "blobstore convert --weights sfp"
    ),
    "i8-stock": Kind(
        "error",
        "gemma.cpp hangs when it loads the tensors and splits them",
        "blobstore convert --weights i8 --layout split",
        _OLD,
    ),
    "nested-fields": Kind(
        "note", "gemma.cpp stops: it skips newer fields only in outermost records", _NEWER, _OLD, asked="error"
    ),
    "rows": Kind("error", "gemma.cpp stops when it computes", "none: the sizes are the model's own; use another model"),
    "scale-ignored": Kind("error", "gemma.cpp ignores the scale of a vector: wrong values", _CONVERT),
    "f32-large": Kind(
        "warning",
        "gemma.cpp stops when it reads the file, unless run with --map 1: 'too large for a single IO batch'",
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
    "tokenizer-kind": Kind("error", "gemma.cpp can't load it", _CONVERT),
    "tokenizer-bpe": Kind("error", "gemma.cpp can't load it, or finds tokens that don't exist", _CONVERT, _LAST),
    "tokenizer-merges": Kind("warning", "some texts get other tokens than in transformers", _CONVERT, _LAST),
    "packed": Kind(
        "error", "gemma.cpp stops: the blobs don't have the sizes in the toc", "blobstore unpack FILE -o OUT"
    ),
    "unused-blob": Kind("note", "gemma.cpp ignores it", "none needed"),
}
_CHECKPOINT = {
    "tensor-left-out": Kind("note", "the new file doesn't have it", "none needed; --as names keeps every tensor"),
    "file-left-out": Kind("note", "the new file doesn't have it", "none needed"),
    "wrapped-names": Kind("note", "the new file has the names without it", "none needed"),
    "padded-vocabulary": Kind(
        "note",
        "none: a copy is as unlikely in a text as <pad> is; by its name the tensor has its own rows only",
        "none needed; blobstore convert --no-pad refuses instead",
    ),
    "spare-rows": Kind(
        "note",
        "gemma.cpp has no tokens for rows outside the vocabulary; the file keeps them",
        "none needed; if these rows are tokens, convert with the tokenizer that has them",
    ),
    "kept-norms": Kind(
        "note",
        "none: gemma.cpp reads the values minus 1; by its name a tensor has its own values, bit for bit",
        "none needed",
    ),
    "no-vision": Kind("note", "the new file takes text only", "none needed"),
}
CODES: dict[str, Kind] = _CONTAINER | _INDEX | _SET | _FILES | _CONTENTS | _RUNTIME | _CHECKPOINT
