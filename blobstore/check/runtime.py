"""What gemma.cpp can't take in a file, found before it stops.

Facts: its own loader, gemma/model_store.cc and gemma/weights.cc of https://github.com/google/gemma.cpp at 3ed403e,
read, and run on a file for each code.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from blobstore.catalog import IndexCatalog
from blobstore.check.config import MATMUL_ROWS, check_config
from blobstore.check.findings import finding
from blobstore.check.opening import open_checked
from blobstore.elements import BY_NAME
from blobstore.errors import FormatError
from blobstore.gemma.config import ModelConfig, WeightType
from blobstore.gemma.legacy import TYPE_LETTERS, legacy_tensors
from blobstore.gemma.tensors import check_tensors, tensors_of
from blobstore.gemma.toc import parse_toc, toc_entry
from blobstore.gemma.tokenizer import count_pieces
from blobstore.keys import (
    CONFIG_KEY,
    INDEX_KEY,
    MAX_LAYER,
    NO_TOKENIZER,
    RESERVED_KEYS,
    SCALES_KEY,
    SKELETON_INDEX_KEY,
    SKELETON_KEY,
    TOC_KEY,
    TOKENIZER_KEY,
    encode_key,
    layer_of,
)
from blobstore.layout import KEY_NBYTES
from blobstore.unpacked import UnpackedBlobs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from os import PathLike

    from blobstore.check.findings import Finding
    from blobstore.check.opening import Opened
    from blobstore.gemma.toc import TocEntry
    from blobstore.index_file import FoundIndex
    from blobstore.reader import BlobReader

_MAX_READ_NBYTES = 0x7FFFF000  # what it reads at once, and an f32 tensor is read at once
_GUESSED_LAYERS = (18, 26, 27, 34, 42, 46, 48, 62)  # of the models that it guesses by their number of layers
_MOST_OF_A_TYPE = 4  # blobs of the type that it takes for the weights'
_TOO_LARGE_TO_READ = 1 << 31  # digits that make no int are no layer
_SHOWN = 8
# Tensors that it computes with side by side, in the type of the first.
_PAIRS = (
    ("gating1_w", "gating2_w"),
    ("ln_0_scale", "ln_0_bias"),
    ("ln_1_scale", "ln_1_bias"),
    ("enc_norm_scale", "enc_norm_bias"),
)
# The stock forms, which it takes apart when it loads: with i8 that never ends.
_STOCK = ("att_ein_", "qkv_ein_", "gating_ein_")
# Of each reason of `check_tensors`, the code here.
_TENSOR_CODES = {
    "missing": "missing-tensor",
    "both-forms": "both-forms",
    "unexpected": "unexpected-tensor",
    "shape": "tensor-shape",
    "type": "tensor-type",
    "weight": "weight-type",
}


def is_model(reader: BlobReader) -> bool:
    """Whether a file is meant for gemma.cpp: it has a config, a toc, or tensors as files from before 2025 have them."""
    return CONFIG_KEY in reader or TOC_KEY in reader or _has_letters(reader)


def check_file(path: str | PathLike[str], *, for_runtime: bool | None = None) -> list[Finding]:
    """Check a file's structure, its index against its blobs, and what gemma.cpp would do with it.

    Args:
        path: Of the file.
        for_runtime: Whether gemma.cpp is to run it; by default when it has a config, a toc, or tensors as files from
            before 2025 have them.

    Raises:
        OSError: It can't be read.
        UsageError: ``not-a-file``.
    """
    with open_checked(path) as opened:
        found = list(opened.findings)
        if opened.reader is None:
            return found
        if for_runtime is False:
            return found
        if is_model(opened.reader):
            found += check_runtime(opened.reader, opened.index)
        elif for_runtime:
            what = "it has neither config nor toc, nor tensors as files from before 2025 have them"
            found.append(finding("not-for-gemma", opened.path, what))
        else:
            found.append(finding("by-name", opened.path, f"a container of {len(opened.reader)} blobs, not a model"))
        found += _packed(opened)
        return found


def _packed(opened: Opened) -> Iterator[Finding]:
    count = opened.index.content.packed_count if opened.index else 0
    if count and opened.reader:
        what = f"{count} of its {len(opened.reader)} blobs are packed"
        if is_model(opened.reader):
            yield finding("packed", opened.path, what)
        else:
            yield finding("packed", opened.path, what, severity="note", effect="blobstore reads it as it is")


def check_runtime(reader: BlobReader, index: FoundIndex | None) -> Iterator[Finding]:
    """Yield all that gemma.cpp would stop at, or take wrongly, in a model's file that opens.

    Args:
        reader: The file's blobs.
        index: Its name index, when it has one.
    """
    yield from _keys(reader)
    if TOC_KEY not in reader and _has_letters(reader):
        yield from _before_2025(reader)
        return
    config = None
    try:
        config = ModelConfig.from_bytes(reader[CONFIG_KEY]) if CONFIG_KEY in reader else None
        if config is None:
            yield finding("no-config", CONFIG_KEY, f"there is a {TOC_KEY!r} and no {CONFIG_KEY!r}")
    except FormatError as error:
        yield finding("config-damaged", CONFIG_KEY, str(error))
    if config:
        yield from check_config(config)
    yield from _tokenizer(reader, config)
    if TOC_KEY not in reader:
        yield finding("no-toc", TOC_KEY, f"there is a {CONFIG_KEY!r} and no {TOC_KEY!r}, which lists the tensors")
        return
    try:
        toc = {entry.name: entry for entry in parse_toc(reader[TOC_KEY])}
    except FormatError as error:
        yield finding("toc-damaged", TOC_KEY, str(error))
        return
    known = {spec.key for spec in tensors_of(config)} if config else {*toc}
    yield from _toc(reader, toc, known, UnpackedBlobs(reader, index.content if index else None))
    if config:
        yield from _tensors(config, toc)
    if index:
        yield from _index(reader, index, toc)
    yield from _unused(reader, toc)


def _keys(reader: BlobReader) -> Iterator[Finding]:
    for key in reader:
        layer = layer_of(encode_key(key)) or 0
        if MAX_LAYER < layer < _TOO_LARGE_TO_READ:
            what = f"the digits after its last '_' read as layer {layer}, beyond {MAX_LAYER}"
            yield finding("layer-number", key, what)
        if key[0] in TYPE_LETTERS and key != SCALES_KEY and TOC_KEY in reader:
            what = f"its first letter reads as the type {TYPE_LETTERS[key[0]]} of files from before 2025"
            yield finding("type-letter", key, what)


def _has_letters(reader: BlobReader) -> bool:
    """Whether there are tensors as files from before 2025 have them: with their type in the key's first letter."""
    blobs = [(key, reader.directory.range(place)[1]) for place, key in enumerate(reader)]
    try:
        return bool(legacy_tensors(blobs, None))
    except FormatError:  # two of one name: they are tensors all the same
        return True


def _before_2025(reader: BlobReader) -> Iterator[Finding]:
    blobs = [(key, reader.directory.range(place)[1]) for place, key in enumerate(reader)]
    try:
        found = {one.key for one in legacy_tensors(blobs, reader.get(SCALES_KEY))}
    except FormatError as error:
        yield finding("letters-damaged", reader.path, str(error))
        return
    what = f"{len(found)} tensors have their type in the first letter of their key"
    yield finding("before-2025", reader.path, what)
    layers = 1 + max((layer_of(encode_key(key)) or 0 for key in reader), default=0)
    if layers not in _GUESSED_LAYERS:
        effect = "gemma.cpp stops: it guesses the model by its number of layers"
        what = f"by its keys it has {layers} layers, as no model that gemma.cpp knows"
        yield finding("before-2025", reader.path, what, severity="error", effect=effect)
    if max(Counter(key[0] for key in found).values()) < _MOST_OF_A_TYPE:
        effect = "gemma.cpp stops: it takes a type for the weights' that at least four blobs have"
        what = "no type has four tensors"
        yield finding("before-2025", reader.path, what, severity="error", effect=effect)
    for key, nbytes in blobs:
        if key[0] in TYPE_LETTERS and key not in found and key != SCALES_KEY:
            kind = TYPE_LETTERS[key[0]]
            yield finding("unknown-tensor", key, f"its first letter says {kind}; {nbytes} bytes under no known name")


def _tokenizer(reader: BlobReader, config: ModelConfig | None) -> Iterator[Finding]:
    raw = bytes(reader.get(TOKENIZER_KEY, NO_TOKENIZER))
    if raw == NO_TOKENIZER:
        why = "says 'unavailable'" if TOKENIZER_KEY in reader else "is not there"
        yield finding("no-tokenizer", TOKENIZER_KEY, f"the blob {TOKENIZER_KEY!r} {why}")
        return
    try:
        pieces = count_pieces(raw)
    except FormatError as error:
        yield finding("tokenizer-model", TOKENIZER_KEY, error.message)
        return
    if config and pieces > config.vocab_size:
        what = f"it has {pieces} pieces, the config says a vocabulary of {config.vocab_size}"
        yield finding("tokenizer-size", TOKENIZER_KEY, what)


def _toc(
    reader: BlobReader, toc: Mapping[str, TocEntry], known: set[str], unpacked: UnpackedBlobs
) -> Iterator[Finding]:
    for key, entry in toc.items():
        if len(key.encode()) > KEY_NBYTES:
            yield finding("key-too-long", key, f"the toc has the name {key!r}: {len(key)} bytes, a key has at most 16")
            continue
        if key in RESERVED_KEYS or key == INDEX_KEY:
            yield finding("reserved-key", key, f"the toc says that {key!r} is a tensor")
        if key not in reader:
            yield finding("toc-missing-blob", key, "the toc lists it, the file has no such blob")
            continue
        offset, nbytes = reader.range(key)[0], unpacked.nbytes(key)
        if nbytes != entry.nbytes:
            takes = f"{entry.type}, {entry.rows} × {entry.cols}, which takes {entry.nbytes} bytes"
            what = f"the toc says that it is {takes}; the blob has {nbytes}"
            if key in known:
                yield finding("toc-size", key, what, offset=offset, nbytes=nbytes)
            else:
                effect = "gemma.cpp ignores the tensor"
                yield finding("toc-size", key, what, severity="warning", effect=effect, offset=offset, nbytes=nbytes)
        if _odd_numbers(entry):
            what = "element_bytes, num_elements or stride in the toc are not what type and shape make them"
            yield finding("toc-numbers", key, what)
        if entry.type == BY_NAME["f32"] and entry.nbytes > _MAX_READ_NBYTES:
            yield finding("f32-large", key, f"{entry.nbytes} bytes of f32 in one tensor")


def _odd_numbers(entry: TocEntry) -> bool:
    """Whether the numbers that follow from type and shape aren't what these make them; older files have no stride."""
    made = toc_entry(entry.name, entry.type, entry.rows, entry.cols)
    found = (entry.element_bytes, entry.num_elements)
    return found != (made.element_bytes, made.num_elements) or entry.stride not in (0, made.stride)


def _tensors(config: ModelConfig, toc: Mapping[str, TocEntry]) -> Iterator[Finding]:
    specs = {spec.key: spec for spec in tensors_of(config)}
    for fault in check_tensors(config, toc):
        code = _TENSOR_CODES[fault.reason]
        message = fault.message.removesuffix(": the runtime stops")
        if code == "weight-type" and config.weight == WeightType.F32:
            code = "mixed-f32"
        # Seen: it computes with narrower types than its own exporter writes, but where the type is fixed.
        floor = specs[fault.key].floor if fault.key in specs else None
        if code == "tensor-type" and (floor == "bf16" or (fault.key == "img_pos_emb" and toc[fault.key].type.bits > 8)):
            effect = "gemma.cpp takes it; its own exporter would not write it"
            yield finding(code, fault.key, message, severity="warning", effect=effect)
        else:
            yield finding(code, fault.key, message)
    yield from _pairs(toc)
    for key, entry in toc.items():
        spec = specs.get(key)
        if spec and entry.rows == 1 and entry.scale != 1.0:
            yield finding("scale-ignored", key, f"it is a vector with the scale {entry.scale}")
        if spec and (spec.floor is None or key == "c_embedding") and spec.rows % MATMUL_ROWS:
            yield finding("rows", key, f"{spec.rows} rows are no multiple of {MATMUL_ROWS}")
        if entry.type == BY_NAME["i8"] and key.startswith(_STOCK):
            effect = "gemma.cpp hangs when it loads the tensors"
            what = "it is i8 in the stock form, which is taken apart at loading: convert with --layout split"
            yield finding("i8-weights", key, what, severity="error", effect=effect)


def _pairs(toc: Mapping[str, TocEntry]) -> Iterator[Finding]:
    for one, other in _PAIRS:
        for key, entry in toc.items():
            mate = toc.get(other + key.removeprefix(one)) if key.startswith(one) else None
            if mate and mate.type != entry.type:
                yield finding("pair-types", mate.name, f"it is {mate.type}, and {key!r} is {entry.type}")


def _index(reader: BlobReader, index: FoundIndex, toc: Mapping[str, TocEntry]) -> Iterator[Finding]:
    """Compare what the index and the toc say of the same blobs."""
    catalog = IndexCatalog(reader.directory, index)
    for key, entry in toc.items():
        info = catalog.find(key)
        if info is None or info.key != key:
            continue
        said = (info.type, info.count, info.scale)
        if said != (entry.type, entry.rows * entry.cols, entry.scale):
            one = f"{info.type}, {info.count} elements, scale {info.scale}"
            other = f"{entry.type}, {entry.rows * entry.cols}, scale {entry.scale}"
            yield finding("index-disagrees", key, f"the index says {one}; the toc {other}")


def _unused(reader: BlobReader, toc: Mapping[str, TocEntry]) -> Iterator[Finding]:
    own = RESERVED_KEYS - {SCALES_KEY} | {INDEX_KEY, SKELETON_KEY, SKELETON_INDEX_KEY}
    unused = [key for key in reader if key not in toc and key not in own]
    for key in unused[:_SHOWN]:
        yield finding("unused-blob", key, "neither gemma.cpp's own nor in the toc")
    if len(unused) > _SHOWN:
        more = len(unused) - _SHOWN
        yield finding("unused-blob", "…", f"{more} blobs more are neither gemma.cpp's own nor in the toc")
