"""Check a file for gemma.cpp: what it would stop at, or load wrongly.

Source: its loader, gemma/model_store.cc and gemma/weights.cc of https://github.com/google/gemma.cpp at 3ed403e, read,
and run on a file for each code.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from blobstore.checking.config import check_config
from blobstore.checking.findings import asked_for, finding, from_newer
from blobstore.checking.structure import open_checked
from blobstore.checking.tensors import KNOWN_MODELS, check_model, check_toc, check_types
from blobstore.checking.tokenizer import check_tokenizer
from blobstore.container.keys import CONFIG_KEY, OWN_KEYS, RESERVED_KEYS, SCALES_KEY, TOC_KEY, encode_key
from blobstore.converting.gemma_config import VOCABULARY_STEP
from blobstore.errors import FormatError
from blobstore.fileio.work import do_here
from blobstore.gemma.config import ModelConfig
from blobstore.gemma.legacy import TYPE_LETTERS, has_model_keys, legacy_tensors
from blobstore.gemma.newer import newer_blobs
from blobstore.gemma.runtimes import LATEST
from blobstore.gemma.tensors import tensors_of
from blobstore.gemma.toc import parse_toc
from blobstore.index.carried import known_files
from blobstore.index.metadata import BASE, model_choices
from blobstore.index.names import MAX_LAYER, is_made_key, layer_of
from blobstore.store.blobs import UnpackedBlobs
from blobstore.store.catalog import IndexCatalog

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from os import PathLike

    from blobstore.checking.findings import Finding
    from blobstore.container.reader import BlobReader
    from blobstore.fileio.work import Engine
    from blobstore.gemma.toc import TocEntry
    from blobstore.index import NameIndex

_GUESSED_LAYERS = (18, 26, 27, 34, 42, 46, 48, 62)  # numbers of layers by which it guesses the model
_LEAST_OF_WEIGHTS = 4  # blobs of the type that it takes for that of the weights
_TOO_LARGE_TO_READ = 1 << 31  # digits that don't fit an int are not read as a layer
_SHOWN = 8
_LATER_LETTER = "4"


def is_model(reader: BlobReader) -> bool:
    """Whether a file is meant for gemma.cpp: it has a config, a toc, or tensors under the keys of its models."""
    return CONFIG_KEY in reader or TOC_KEY in reader or _has_letters(reader) or has_model_keys(reader)


def check_file(
    path: str | PathLike[str],
    *,
    for_runtime: bool | None = None,
    runtimes: Sequence[str] = (),
    engine: Engine = do_here,
) -> list[Finding]:
    """Check a file's structure, its index against its blobs, and what gemma.cpp would do with it.

    Args:
        path: Of the file.
        for_runtime: Whether gemma.cpp is to run it; by default if it has a config, a toc, or tensors under the keys of
            its models.
        runtimes: The versions of gemma.cpp that are to run it, of `blobstore.gemma.runtimes.NAMES`; by default those
            that know its model and whatever else is newer in it.
        engine: Checks the files of a set.

    Raises:
        OSError: The file can't be read.
        UsageError: ``not-a-file``.
    """
    with open_checked(path, engine=engine) as opened:
        findings = list(opened.findings)
        if opened.reader is None:
            return findings
        if for_runtime is False:
            return findings
        if is_model(opened.reader):
            findings += check_runtime(opened.reader, opened.index)
        elif for_runtime:
            what = "it has no config, no toc, no key of a model's tensor, and no tensor as files before 2025 have them"
            findings.append(finding("not-for-gemma", opened.path, what))
        else:
            findings.append(finding("by-name", opened.path, f"a container of {len(opened.reader)} blobs, not a model"))
        findings += check_packed(opened.reader, opened.index)
        return asked_for(findings, tuple(runtimes)) if runtimes else findings


def check_packed(reader: BlobReader, index: NameIndex | None) -> Iterator[Finding]:
    """Yield a finding if the file is packed, which gemma.cpp can't read."""
    count = index.packed_count if index else 0
    if count:
        what = f"{count} of its {len(reader)} blobs are packed"
        fix = None
        if index and BASE in index.metadata:
            what += ", as the difference to another file"
            fix = "blobstore unpack FILE -o OUT --base OTHER, the file that it is the difference to"
        if is_model(reader):
            yield finding("packed", reader.path, what, fix=fix)
        else:
            effect = "blobstore reads it as it is" if fix is None else "blobstore reads it with --base OTHER"
            yield finding("packed", reader.path, what, severity="note", effect=effect, fix=fix)


def check_runtime(reader: BlobReader, index: NameIndex | None, *, tokenizer: bool = True) -> Iterator[Finding]:
    """Yield everything that gemma.cpp would stop at, or load wrongly, in a model file that opens.

    Args:
        reader: The file's blobs.
        index: Its name index, if it has one.
        tokenizer: Whether to read the tokenizer's pieces, which takes longest.
    """
    yield from from_newer(newer_blobs(len(reader)))
    yield from _keys(reader)
    if TOC_KEY not in reader and _has_letters(reader):
        yield from _before_2025(reader)
        return
    config = None
    try:
        config = ModelConfig.from_bytes(reader[CONFIG_KEY]) if CONFIG_KEY in reader else None
        if config is None:
            state = f"there is a {TOC_KEY!r}" if TOC_KEY in reader else "its keys are those of a model's tensors"
            yield finding("no-config", CONFIG_KEY, f"{state}, but no {CONFIG_KEY!r}")
    except FormatError as error:
        yield finding("config-damaged", CONFIG_KEY, str(error))
    if config:
        yield from check_config(config, one_base=has_one_base(index.metadata if index else {}))
    if tokenizer:
        yield from check_tokenizer(reader, config, tokens=unpadded(index.metadata if index else {}, config))
    if TOC_KEY not in reader:
        state = f"there is a {CONFIG_KEY!r}" if CONFIG_KEY in reader else "its keys are those of a model's tensors"
        yield finding("no-toc", TOC_KEY, f"{state}, but no {TOC_KEY!r}, which lists the tensors")
        return
    try:
        toc = {entry.name: entry for entry in parse_toc(reader[TOC_KEY])}
    except FormatError as error:
        yield finding("toc-damaged", TOC_KEY, str(error))
        return
    compared = config is not None and config.model in KNOWN_MODELS
    known = {spec.key for spec in tensors_of(config)} if config and compared else {*toc}
    yield from check_types(toc.values())
    yield from check_toc(reader, toc, known, UnpackedBlobs(reader, index))
    if config:
        yield from check_model(config, toc)
    if index:
        yield from _index(reader, index, toc)
    yield from _unused(reader, toc, known_files(index).values(), has_names=index is not None)


def has_one_base(metadata: Mapping[str, str]) -> bool:
    """Whether a file's metadata says that its checkpoint has one RoPE base for all layers; few have."""
    bases = model_choices(metadata).get("rope_bases")
    return isinstance(bases, list) and len(bases) == 2 and bases[0] == bases[1]


def unpadded(metadata: Mapping[str, str], config: ModelConfig | None) -> int | None:
    """Return how many rows of the embedding are tokens, where a file's metadata says that it is padded; else None."""
    tokens = model_choices(metadata).get("vocabulary")
    is_padded = config is not None and type(tokens) is int and 0 < config.vocab_size - tokens < VOCABULARY_STEP
    return tokens if is_padded else None


def _keys(reader: BlobReader) -> Iterator[Finding]:
    for key in reader:
        layer = layer_of(encode_key(key)) or 0
        if MAX_LAYER < layer < _TOO_LARGE_TO_READ:
            what = f"the digits after its last '_' are read as layer {layer}, beyond {MAX_LAYER}"
            yield finding("layer-number", key, what)
        if key[0] in TYPE_LETTERS and key != SCALES_KEY and TOC_KEY in reader:
            what = f"its first letter is read as the type {TYPE_LETTERS[key[0]]} of files from before 2025"
            yield finding("type-letter", key, what)
        elif key[0] == _LATER_LETTER and TOC_KEY in reader:
            what = "its first letter is read as the type q4_0"
            yield finding("type-letter", key, what, runtimes=(LATEST.name,))


def _has_letters(reader: BlobReader) -> bool:
    """Whether there are tensors as in files from before 2025: with their type in the key's first letter."""
    blobs = [(key, reader.directory.range(place)[1]) for place, key in enumerate(reader)]
    try:
        return bool(legacy_tensors(blobs, None))
    except FormatError:  # two have the same name, but they are tensors
        return True


def _before_2025(reader: BlobReader) -> Iterator[Finding]:
    blobs = [(key, reader.directory.range(place)[1]) for place, key in enumerate(reader)]
    try:
        keys = {tensor.key for tensor in legacy_tensors(blobs, reader.get(SCALES_KEY))}
    except FormatError as error:
        yield finding("letters-damaged", reader.path, str(error))
        return
    what = f"{len(keys)} tensors have their type in the first letter of their key"
    yield finding("before-2025", reader.path, what)
    layers = 1 + max((layer_of(encode_key(key)) or 0 for key in reader), default=0)
    if layers not in _GUESSED_LAYERS:
        effect = "gemma.cpp stops: it guesses the model by its number of layers"
        what = f"its keys say that it has {layers} layers, which no model known to gemma.cpp has"
        yield finding("before-2025", reader.path, what, severity="error", effect=effect)
    if max(Counter(key[0] for key in keys).values()) < _LEAST_OF_WEIGHTS:
        effect = "gemma.cpp stops: only a type of at least four blobs is taken for that of the weights"
        what = "no type has four tensors"
        yield finding("before-2025", reader.path, what, severity="error", effect=effect)
    for key, nbytes in blobs:
        if key[0] in TYPE_LETTERS and key not in keys and key != SCALES_KEY:
            letter_type = TYPE_LETTERS[key[0]]
            what = f"its first letter says {letter_type}; {nbytes} bytes under an unknown name"
            yield finding("unknown-tensor", key, what)


def _index(reader: BlobReader, index: NameIndex, toc: Mapping[str, TocEntry]) -> Iterator[Finding]:
    """Compare what the index and the toc say about the same blobs."""
    catalog = IndexCatalog(reader.directory, index)
    for key, entry in toc.items():
        info = catalog.find(key)
        if info is None or info.key != key:
            continue
        if (info.type, info.size, info.scale) != (entry.type, entry.rows * entry.cols, entry.scale):
            in_index = f"{info.type}, {info.size} elements, scale {info.scale}"
            in_toc = f"{entry.type}, {entry.rows * entry.cols}, scale {entry.scale}"
            yield finding("index-disagrees", key, f"the index says {in_index}; the toc says {in_toc}")


def _unused(
    reader: BlobReader, toc: Mapping[str, TocEntry], carried: Collection[str], *, has_names: bool
) -> Iterator[Finding]:
    own = RESERVED_KEYS - {SCALES_KEY} | OWN_KEYS | {*carried}
    unused = [key for key in reader if key not in toc and key not in own]
    named = dict.fromkeys(key for key in unused if has_names and is_made_key(key))
    if named:
        what = "a blob holds a tensor" if len(named) == 1 else f"{len(named)} blobs hold tensors"
        yield finding("unused-blob", next(iter(named)), f"{what} that the index names and gemma.cpp doesn't know")
    unused = [key for key in unused if key not in named]
    for key in unused[:_SHOWN]:
        yield finding("unused-blob", key, "neither one of gemma.cpp's own nor in the toc")
    if len(unused) > _SHOWN:
        more = len(unused) - _SHOWN
        yield finding("unused-blob", "…", f"{more} more blobs are neither gemma.cpp's own nor in the toc")
