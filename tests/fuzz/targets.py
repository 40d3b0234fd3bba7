"""Fuzzing targets: for each parser a function of bytes that returns if the promise of SECURITY.md holds.

A target gives its bytes to the parser. `BlobStoreError` is a valid result; any other exception is a find. What a parser
accepts must have the properties that its callers rely on; these are asserted from the raw records, in Python's
integers.

Blind mutations hardly ever match a size, a count or an offset stored elsewhere. So the bits of an input's first byte
say what the target corrects before it parses: bit 0 the framing, further bits what follows it.
"""

from __future__ import annotations

import io
import json
import math
import os
import struct
import tempfile
import zlib
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

import blobstore
from blobstore import BlobWriter
from blobstore.checking import check_file, verify_file
from blobstore.checkpoint.safetensors import dump_header, parse_header
from blobstore.codecs import decode, element_types, encode
from blobstore.compression import reader as packing
from blobstore.compression.writer import compress
from blobstore.container import layout
from blobstore.container.directory import Directory, build_directory, parse_directory
from blobstore.container.keys import encode_key
from blobstore.edit.recover import recover
from blobstore.edit.rewrite import Edits, apply_edits
from blobstore.errors import BlobStoreError
from blobstore.exporting.plan import plan_export
from blobstore.exporting.run import exported_bytes
from blobstore.fileio.memory import MemorySource
from blobstore.gemma.bpe import BpeTokenizer
from blobstore.gemma.config import ModelConfig
from blobstore.gemma.enums import TokenizerKind
from blobstore.gemma.models import specifier_of
from blobstore.gemma.toc import build_toc, parse_toc
from blobstore.gemma.token_list import list_tokens
from blobstore.index import PACKED, Entry, IndexedBlob, NameIndex, build_index, open_index, parse_index, rebind_index
from blobstore.index.locate import external_path
from blobstore.index.names import encode_name
from blobstore.index.records import (
    HAS_DIGESTS,
    HEADER_FIELDS,
    HEADER_NBYTES,
    KIND_FLAGS,
    MAGIC,
    SECTIONS,
    STORE,
    VERSION,
    Header,
    section_spans,
)
from blobstore.index.sets import SetReader, digest_in
from blobstore.packing.pack import Packing, pack
from blobstore.packing.unpack import unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from blobstore.codecs.element_types import ElementType
    from blobstore.exporting.plan import ExportedTensor
    from blobstore.fileio.types import Access
    from blobstore.index.records import IndexKind
    from blobstore.store.reader import Store

    Target = Callable[[bytes], None]

MOST = 64  # of many equal items, check this many
ABSENT = b"\xfe no such key"
SHOWN_ELEMENTS = 1 << 16


def flags_of(data: bytes) -> tuple[int, bytes]:
    """Return the first byte, and the rest."""
    return (data[0], data[1:]) if data else (0, b"")


@dataclass
class SparseFile:
    """A file of any size that consists of a head, zeros and a tail; it counts the bytes read."""

    size: int
    head: bytes
    tail: bytes
    nbytes_read: int = field(default=0)

    def read(self, offset: int, nbytes: int) -> bytes:
        assert 0 <= offset <= offset + nbytes <= self.size, "read outside the file"
        self.nbytes_read += nbytes
        out = bytearray(nbytes)
        for start, part in ((0, self.head), (self.size - len(self.tail), self.tail)):
            low, high = max(start, offset), min(start + len(part), offset + nbytes)
            if low < high:
                out[low - offset : high - offset] = part[low - start : high - start]
        return bytes(out)


# ---------------------------------------------------------------------------------------------------------- container

SIZED, HEADED, LAID_OUT = 1, 2, 4  # bits of the directory's first byte


def directory(data: bytes) -> None:
    """Parse a container's headers and directory.

    SIZED: u64 size, u16 length of the head, then head and tail with zeros between them; else the rest is the file.
    HEADED: correct the header's magic and size. LAID_OUT: also make the offsets follow the layout.
    """
    file = directory_file(data)
    if file is None:
        return
    try:
        parsed = parse_directory(file.read, file.size)
    except BlobStoreError:
        return
    finally:
        assert file.nbytes_read <= 2 * layout.HEADER.size + layout.RECORD_NBYTES * layout.MAX_BLOBS
    check_directory(parsed, file)


def directory_file(data: bytes) -> SparseFile | None:
    flags, rest = flags_of(data)
    if flags & SIZED:
        if len(rest) < 10:
            return None
        size, nbytes = struct.unpack_from("<QH", rest)
        head, tail = rest[10 : 10 + nbytes], rest[10 + nbytes :]
        # Larger than any file system allows, but less than 2⁶⁴.
        file = SparseFile(max(size % (1 << 63), len(head) + len(tail)), head, tail)
    else:
        file = SparseFile(len(rest), rest, b"")
    if flags & HEADED and file.size >= 272:
        correct_headers(file, laid_out=bool(flags & LAID_OUT))
        file.nbytes_read = 0
    return file


def correct_headers(file: SparseFile, *, laid_out: bool) -> None:
    """Make the headers agree with the file's size, and the offsets with the sizes."""
    _, count, _ = layout.HEADER.unpack(file.read(0, 16))
    version, at = (1, 0) if count else (2, file.size - 16)
    if version == 2:
        file.head = layout.PLACEHOLDER + file.head[16:]
        _, count, _ = layout.HEADER.unpack(file.read(at, 16))
    write(file, at, layout.HEADER.pack(layout.MAGIC, count, file.size))
    nbytes = layout.RECORD_NBYTES * count
    start = 16 if version == 1 else at - nbytes
    if laid_out and 0 < count <= MOST and start >= 16 and start + nbytes <= file.size:
        ranges = np.frombuffer(file.read(start + 16 * count, 16 * count), "<u8").reshape(-1, 2).copy()
        end = layout.payload_start(version, count)
        for i, size in enumerate(ranges[:, 1].tolist()):
            ranges[i, 0] = end % (1 << 64)
            end = layout.round_up(end + size, layout.BLOB_ALIGN)
        write(file, start + 16 * count, ranges.tobytes())


def write(file: SparseFile, at: int, data: bytes) -> None:
    """Change bytes of the file, as far as they are in its head or its tail."""
    for name, start in (("head", 0), ("tail", file.size - len(file.tail))):
        part = bytearray(getattr(file, name))
        low, high = max(start, at), min(start + len(part), at + len(data))
        if low < high:
            part[low - start : high - start] = data[low - at : high - at]
            setattr(file, name, bytes(part))


def check_directory(parsed: Directory, file: SparseFile) -> None:
    count = len(parsed)
    assert parsed.version in (1, 2)
    assert 1 <= count <= layout.MAX_BLOBS
    assert parsed.file_size == file.size
    at = 16 if parsed.version == 1 else file.size - 16 - layout.RECORD_NBYTES * count
    assert parsed.to_bytes() == file.read(at, layout.RECORD_NBYTES * count)
    assert parsed.header() == file.read(0 if parsed.version == 1 else file.size - 16, 16)
    first, last = (at + layout.RECORD_NBYTES * count, file.size) if parsed.version == 1 else (256, at)
    end = first
    for place in range(count):
        offset, nbytes = parsed.range(place)
        assert end <= offset < offset + nbytes <= last, "a blob overlaps another, or leaves the file"
        end = offset + nbytes
    keys = parsed.keys.tolist()
    assert len(set(keys)) == count
    assert all(1 <= len(key) <= 16 and b"\0" not in key for key in keys)
    assert [encode_key(key) for key in parsed.all_keys] == keys
    assert [parsed.find(key) for key in keys[:MOST]] == list(range(min(count, MOST)))
    assert parsed.find(ABSENT) == (keys.index(ABSENT) if ABSENT in keys else -1)
    again = build_directory(parsed.version, keys, parsed.sizes.tolist())
    assert again.to_bytes() == parsed.to_bytes()
    assert again.file_size == parsed.file_size or (parsed.version == 1 and parsed.payload_end == parsed.file_size)


# -------------------------------------------------------------------------------------------------------------- index

FRAMED, EXTERNAL_INDEX, NAMED, CLEARED, SHAPED, OF_SET = 1, 2, 4, 8, 16, 32  # bits of the index's first byte
# Of a framed index.
FEW = {
    "entry_count": 24,
    "blob_count": 24,
    "shape_count": 12,
    "dim_count": 48,
    "store_count": 4,
    "names_nbytes": 1024,
    "store_names_nbytes": 64,
}


def index(data: bytes) -> None:
    """Parse a name index.

    FRAMED: correct magic, version, flags and counts, with few entries, blobs, shapes and dims. EXTERNAL_INDEX: parse it
    as an external one. OF_SET: as that of a set. NAMED: sort the names in the pool, and make the entries' names match.
    CLEARED: zero the reserved fields. SHAPED: make the sizes follow shape and type.
    """
    flags, rest = flags_of(data)
    kind = kind_of(flags)
    raw = framed_index(flags, rest) if flags & FRAMED else rest
    check_lookups(raw, kind)
    try:
        parsed = parse_index(memoryview(raw), kind=kind)
    except BlobStoreError:
        return
    check_index(parsed)


def kind_of(flags: int) -> IndexKind:
    if flags & OF_SET:
        return "set"
    return "external" if flags & EXTERNAL_INDEX else "embedded"


def check_lookups(raw: bytes, kind: IndexKind) -> None:
    """Look up names in an index of which only the layout was checked: results are right, and refusals justified."""
    try:
        opened = open_index(memoryview(raw), kind=kind)
    except BlobStoreError:
        return
    valid = None
    with suppress(BlobStoreError):
        valid = set(opened.names)
    pool = bytes(opened.names_pool).split(b"\0")[:MOST]
    for name in [*(encoded.decode() for encoded in pool if is_utf8(encoded)), "\x7f no such name"]:
        # A fresh one, in which nothing has been looked up.
        fresh = open_index(memoryview(raw), kind=kind)
        try:
            place = fresh.find(name)
        except BlobStoreError:
            assert valid is None, "entries without a fault were refused"
            continue
        assert valid is None or (place >= 0) == (name in valid)
        assert valid is not None or place >= 0, "a name is missing, although entries are wrong"
        if place >= 0:
            assert fresh.entry(place).name == name
            check_entry(fresh.entry(place), [fresh.blob(row) for row in range(len(fresh.blobs))])


def is_utf8(raw: bytes) -> bool:
    with suppress(UnicodeDecodeError):
        return bool(raw) and raw.decode() is not None
    return False


def framed_index(flags: int, rest: bytes) -> bytes:
    """Correct an index's framing, so that the parser gets to its entries."""
    header = Header._make(HEADER_FIELDS.unpack(rest[:HEADER_NBYTES].ljust(HEADER_NBYTES, b"\0")))
    body = rest[HEADER_NBYTES:]
    kind = kind_of(flags)
    few: dict[str, Any] = {name: getattr(header, name) % most for name, most in FEW.items()}
    few["shape_count"] = min(few["shape_count"], few["entry_count"])
    if kind == "set":
        few["store_count"] += 1
    else:
        few["store_count"] = few["store_names_nbytes"] = 0
    own_flags = header.flags & HAS_DIGESTS | KIND_FLAGS[kind]
    header = header._replace(magic=MAGIC, version=VERSION, flags=own_flags, metadata_nbytes=0, **few)
    if flags & CLEARED:
        header = header._replace(reserved=0, padding=bytes(24))
        if kind != "external":
            header = header._replace(store_nbytes=0, store_sha256=bytes(32))
    parts: dict[str, np.ndarray] = {}
    for name, (start, nbytes) in section_spans(header).items():
        part = body[start - HEADER_NBYTES :][:nbytes].ljust(nbytes, b"\0")
        dtype = SECTIONS[name][0]
        parts[name] = np.frombuffer(part, dtype.base).reshape(-1, *dtype.shape).copy()
    parts["metadata"] = np.frombuffer(body[sum(section_spans(header)["metadata"]) - HEADER_NBYTES :], np.uint8)
    if flags & NAMED:
        frame_names(parts)
    if flags & CLEARED:
        parts["blob unpacked_nbytes"][:] = 0
    if flags & SHAPED:
        shape_entries(parts)
    sizes: dict[str, Any] = {
        count: len(parts[name]) for name, (_, count) in SECTIONS.items() if count != "digest_count"
    }
    header = header._replace(**sizes)
    spans = section_spans(header)
    out = bytearray(sum(spans["metadata"]))
    for name, (start, nbytes) in spans.items():
        out[start : start + nbytes] = parts[name].tobytes()
    HEADER_FIELDS.pack_into(out, 0, *header._replace(nbytes=len(out)))
    return bytes(out)


def frame_names(parts: dict[str, np.ndarray]) -> None:
    """Sort the names in the pool and make those of entries match; make stores have plain names and blobs in order."""
    count = len(parts["entry offset"])
    names = sorted(set(parts["names"].tobytes().split(b"\0")) - {b""})[:count]
    names += [b"\x7f%04d" % i for i in range(count - len(names))]
    names.sort()
    parts["names"] = np.frombuffer(b"".join(name + b"\0" for name in names), np.uint8)
    parts["entry name_start"] = starts_of(names)
    starts = parts["shape start"]
    starts[:] = np.sort(starts % (len(parts["dims"]) + 1))
    starts[:1] = 0
    if not len(starts):
        parts["dims"] = parts["dims"][:0]
    stores = parts["stores"]
    if len(stores) and len(parts["blob nbytes"]) >= len(stores):
        stores["first_blob"] = np.arange(len(stores))
        store_names = [b"%d.sbs" % i for i in range(len(stores))]
        stores["name_start"] = starts_of(store_names)
        stores["nbytes"] |= np.uint64(1 << 40)
        stores["nbytes"] &= np.uint64((1 << 41) - 1)
        parts["store names"] = np.frombuffer(b"".join(name + b"\0" for name in store_names), np.uint8)


def starts_of(names: list[bytes]) -> np.ndarray:
    return np.cumsum([0, *(len(name) + 1 for name in names)])[:-1].astype("<u4")


def shape_entries(parts: dict[str, np.ndarray]) -> None:
    """Make the sizes of entries follow shape and type, and blobs large enough for them."""
    shapes, dims, blobs = parts["shape start"], parts["dims"], parts["blob nbytes"]
    stops = [*shapes[1:].tolist(), len(dims)]
    for place in range(len(parts["entry offset"])):
        if not len(shapes):
            return
        shape = int(parts["entry shape"][place]) % len(shapes)
        parts["entry shape"][place] = shape
        count = math.prod(dims[int(shapes[shape]) : stops[shape]].tolist())
        nbytes = element_types.by_number(int(parts["entry type"][place])).nbytes(count)
        parts["entry nbytes"][place] = nbytes % (1 << 64)
        if not count or not len(blobs):
            parts["entry blob"][place], parts["entry offset"][place] = 0xFFFFFFFF, 0
        else:
            blob = int(parts["entry blob"][place]) % len(blobs)
            parts["entry blob"][place] = blob
            needed = nbytes + int(parts["entry offset"][place])
            blobs[blob] = max(int(blobs[blob]), needed if needed < 1 << 64 else 0)


def check_index(parsed: NameIndex) -> None:
    encoded = [encode_name(name) for name in parsed.names]
    assert all(name < following for name, following in pairwise(encoded))
    assert len(encoded) == len(parsed.entries)
    assert all(isinstance(key, str) and isinstance(text, str) for key, text in parsed.metadata.items())
    entries = [parsed.entry(place) for place in range(len(encoded))]
    blobs = [parsed.blob(place) for place in range(len(parsed.blobs))]
    for place, entry in enumerate(entries):
        assert parsed.find(entry.name) == place
        check_entry(entry, blobs)
    assert parsed.find("\x7f no such name") == -1
    inside = build_directory(1, [b"any"], [1])
    if parsed.kind != "set":
        for store in (None, inside):
            kind: IndexKind = "embedded" if store is None else "external"
            again = parse_index(memoryview(rebind_index(parsed, store)), kind=kind)
            assert contents(again) == (entries, blobs, parsed.metadata)
            again.check_binding(inside)
    rebuilt = parse_index(memoryview(build_index(entries, blobs, parsed.metadata)), kind="embedded")
    assert contents(rebuilt) == (entries, blobs, parsed.metadata)
    check_places(parsed, inside)


def check_entry(entry: Entry, blobs: list[IndexedBlob]) -> None:
    count = math.prod(entry.shape)
    assert len(entry.shape) <= 32
    assert count < 1 << 57
    assert math.isfinite(entry.scale)
    if entry.blob is None:
        assert (entry.offset, entry.nbytes, count) == (0, 0, 0)
    else:
        assert count
        blob = blobs[entry.blob]
        assert entry.offset + entry.nbytes <= (blob.unpacked_nbytes or blob.nbytes)
        assert (entry.codec == PACKED) == bool(blob.unpacked_nbytes)
    element_type = element_types.BY_NUMBER.get(entry.type)
    assert not element_type or entry.codec > PACKED or element_type.nbytes(count) == entry.nbytes


def contents(parsed: NameIndex) -> tuple[list[Any], list[Any], dict[str, str]]:
    entries = [parsed.entry(place) for place in range(len(parsed.entries))]
    blobs = [parsed.blob(place) for place in range(len(parsed.blobs))]
    if not parsed.has_digests:
        assert all(blob.sha256 is None for blob in blobs)
    return entries, blobs, parsed.metadata


def check_places(parsed: NameIndex, foreign: Directory) -> None:
    """Join an index with directories: a foreign one, its own, and its own in another order."""
    with suppress(BlobStoreError):
        assert [foreign.range(place)[1] for place in parsed.places(foreign)] == parsed.blobs.nbytes.tolist()
    keys = [parsed.blob(place).key for place in range(len(parsed.blobs))]
    sizes = parsed.blobs.nbytes.tolist()
    proper = all(key and b"\0" not in key and key != b"~index" for key in keys) and len(set(keys)) == len(keys)
    if keys and proper and all(0 < size < 1 << 40 for size in sizes):
        assert parsed.places(build_directory(1, keys, sizes)).tolist() == list(range(len(keys)))
        turned = build_directory(2, [*keys[::-1], ABSENT * (ABSENT not in keys) or b"\1"], [*sizes[::-1], 1])
        assert parsed.places(turned).tolist() == list(range(len(keys)))[::-1]


# ------------------------------------------------------------------------------------------------------------- fields

TOC, WHOLE_WORDS, OUTER_COUNT, BPE = 1, 2, 4, 8  # bits of the first byte of fields


def fields(data: bytes) -> None:
    """Parse the runtime's records.

    TOC: the blob ``toc``, BPE: a BPE ``tokenizer``, else ``config``. WHOLE_WORDS: cut off an incomplete word.
    OUTER_COUNT: make the first record count all words.
    """
    flags, raw = flags_of(data)
    if flags & WHOLE_WORDS:
        raw = raw[: len(raw) // 4 * 4]
    if flags & OUTER_COUNT and len(raw) >= 4:
        raw = struct.pack("<I", len(raw) // 4 - 1) + raw[4:]
    with suppress(BlobStoreError):
        if flags & TOC:
            check_toc(raw)
        elif flags & BPE:
            check_bpe(raw)
        else:
            check_config(raw)


def check_toc(raw: bytes) -> None:
    parsed = parse_toc(raw)
    written = build_toc(parsed)
    assert parse_toc(written) == parsed
    assert len(written) >= len(raw), "words were lost"
    assert len({entry.name for entry in parsed}) == len(parsed)
    for entry in parsed:
        assert entry.nbytes == entry.type.nbytes(entry.rows * entry.cols)


def check_bpe(raw: bytes) -> None:
    parsed = BpeTokenizer.from_bytes(raw)
    assert parsed.to_bytes() == raw
    ids = {*parsed.merges, *parsed.added_ids, parsed.unk_id}
    assert max(ids) < len(parsed.tokens)
    assert len(list_tokens(raw, TokenizerKind.BPE).tokens) == len(list(parsed.tokens))


def check_config(raw: bytes) -> None:
    parsed = ModelConfig.from_bytes(raw)
    written = parsed.to_bytes()
    assert ModelConfig.from_bytes(written) == parsed
    assert len(written) >= len(raw), "words were lost"
    assert repr(parsed)
    with suppress(BlobStoreError):
        assert specifier_of(parsed)


# -------------------------------------------------------------------------------------------------------- safetensors

LENGTH, FILLED = 1, 2  # bits of the first byte of a safetensors header


def safetensors(data: bytes) -> None:
    """Parse the header of a safetensors file.

    LENGTH: the rest is the JSON, and its length is prepended; else the rest is the file. FILLED: give the file as many
    bytes of tensors as the largest offset in the header says.
    """
    flags, rest = flags_of(data)
    file = SparseFile(len(rest), rest, b"")
    if flags & LENGTH:
        file = SparseFile(8 + len(rest), struct.pack("<Q", len(rest)) + rest, b"")
    if flags & FILLED:
        file.size += furthest(rest if flags & LENGTH else rest[8:])
    try:
        parsed = parse_header(file.read, file.size)
    except BlobStoreError:
        return
    end = int.from_bytes(file.read(0, 8), "little") + 8
    for entry in parsed.entries:
        assert entry.offset == end
        assert entry.nbytes == entry.type.nbytes(math.prod(entry.shape))
        assert math.prod(entry.shape) < 1 << 57
        end += entry.nbytes
    assert end == file.size
    assert all(isinstance(key, str) and isinstance(text, str) for key, text in parsed.metadata.items())
    again = dump_header([(entry.name, entry.type, entry.shape) for entry in parsed.entries], parsed.metadata)
    total = sum(entry.nbytes for entry in parsed.entries)
    copy = SparseFile(len(again) + total, again, b"")
    reparsed = parse_header(copy.read, copy.size)
    assert [entry[:3] for entry in reparsed.entries] == [entry[:3] for entry in parsed.entries]
    assert reparsed.metadata == parsed.metadata


def furthest(header: bytes) -> int:
    """Return the largest offset in a header, or 0 if there is none that a file could have."""
    try:
        fields = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in fields.items() if name != "__metadata__"]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return 0
    return max((end for end in ends if type(end) is int and 0 <= end < 1 << 62), default=0)


# ------------------------------------------------------------------------------------------------------------- codecs

ELEMENT_TYPES = [element_types.BY_NAME[name] for name in ("f32", "bf16", "sfp", "i8", "nuq", "q4_0", "mxfp4", "f4")]
DTYPES = [np.dtype(dtype) for dtype in (np.float32, ml_dtypes.bfloat16, np.float16, np.float64, np.int32)]
SCALED, LONG = 8, 16  # bits of the codecs' first byte, above three for the type
CODEC_HEAD = struct.Struct("<BIIf")  # dtype, start, count, scale


def codecs(data: bytes) -> None:
    """Decode stored values: dtype, start, count and scale, then the bytes.

    SCALED: use the scale, else 1. LONG: repeat the bytes beyond what is decoded at once.
    """
    flags, rest = flags_of(data)
    if len(rest) < CODEC_HEAD.size:
        return
    element_type = ELEMENT_TYPES[flags & 7]
    wanted, start, count, scale = CODEC_HEAD.unpack_from(rest)
    stored = rest[CODEC_HEAD.size :]
    if flags & LONG and stored:
        stored *= 1 + 80_000 // len(stored)
    total = most_elements(element_type, len(stored))
    # Near the end, where sizes matter, and beyond it.
    start, count = start % (total + 3), count % (total + 3)
    dtype = DTYPES[wanted % len(DTYPES)]
    scale = scale if flags & SCALED and math.isfinite(scale) else 1.0
    whole = decoded(element_type, stored, 0, total, dtype=dtype, scale=scale)
    part = decoded(element_type, stored, start, count, dtype=dtype, scale=scale)
    if isinstance(whole, np.ndarray) and start + count <= total:
        assert isinstance(part, np.ndarray), part
        assert part.shape == (count,)
        assert part.dtype == dtype
        same_values(part, whole[start : start + count])
    if isinstance(part, np.ndarray):
        assert element_type.nbytes(start + count) <= len(stored)
    elif part == "wrong-size":
        assert element_type.nbytes(start + count) > len(stored)
    if isinstance(whole, np.ndarray) and dtype == np.float32 and scale == 1.0:
        check_encoding(element_type, stored[: element_type.nbytes(total)], whole)


def same_values(values_a: np.ndarray, values_b: np.ndarray) -> None:
    """Fail unless all bits are the same, except in NaNs: the sign of a computed one depends on its place."""
    with np.errstate(invalid="ignore"):  # a signalling NaN of bfloat16
        nan = np.isnan(values_a)
        assert (nan == np.isnan(values_b)).all()
    assert values_a[~nan].tobytes() == values_b[~nan].tobytes()


def decoded(element_type: ElementType, stored: bytes, start: int, count: int, **options: Any) -> Any:  # noqa: ANN401
    try:
        return decode(element_type, stored, count, start=start, **options)
    except BlobStoreError as error:
        return error.reason


def most_elements(element_type: ElementType, nbytes: int) -> int:
    """Return how many elements fit into a number of bytes, by bisection."""
    low, high = 0, 2 * nbytes + 2
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if element_type.nbytes(middle) <= nbytes else (low, middle - 1)
    return low


def check_encoding(element_type: ElementType, stored: bytes, values: np.ndarray) -> None:
    """Encode decoded values: if each value has one code, the bytes must be the same."""
    try:
        again, scale = encode(element_type, values)
    except BlobStoreError:
        return
    if element_type.name in ("f32", "sfp") or (element_type.name == "bf16" and not np.isnan(values).any()):  # float32
        assert scale == 1.0
        assert again.tobytes() == stored
    elif element_type.name in ("i8", "q4_0"):
        assert len(again) == len(stored)


# -------------------------------------------------------------------------------------------------------------- store

COMPOSED, BESIDE, FRAMED_INDEX = 1, 2, 4  # bits of the store's first byte
KEYS = (
    *(b"~index", b"toc", b"config", b"Fscales", b"tokenizer", b"a", b"b", b"$c_embedding", b"Blinear_w_0", b"x" * 16),
    *(b"~packed", b"~packed.idx"),
)
ACCESSES: tuple[Access, ...] = ("mmap", "read")
ROWS = (slice(None), slice(0, 1), slice(None, None, -1), slice(1, 1 << 60, 3), slice(5, 2))


def store(data: bytes) -> None:
    """Open a whole file by names, and read everything that can be read.

    COMPOSED: the rest is a list of blobs (u8 key, u16 size, the bytes), from which a file is made; else it is the file.
    BESIDE: the first u16 is the length of an index beside the file, which precedes the rest. FRAMED_INDEX: the blob of
    the name index starts with a byte of flags like those of `index`.
    """
    with written(data) as (path, nbytes):
        seen: list[Any] = []
        for access in ACCESSES:
            try:
                with blobstore.open(path, access=access) as opened:
                    seen.append(read_all(opened, nbytes))
            except BlobStoreError as error:
                seen.append(error.reason)
        assert seen[0] == seen[1], "plain reads and mapped reads disagree"


@contextmanager
def written(data: bytes) -> Iterator[tuple[str, int]]:
    """Write the file of an input of `store` or `trust` → its path and the total number of bytes."""
    flags, rest = flags_of(data)
    beside = b""
    if flags & BESIDE and len(rest) >= 2:
        size = int.from_bytes(rest[:2], "little")
        beside, rest = rest[2 : 2 + size], rest[2 + size :]
    file = composed(rest, framed=bool(flags & FRAMED_INDEX)) if flags & COMPOSED else rest
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:  # noqa: S108
        path = os.path.join(folder, "store.sbs")
        for where, content in ((path, file), (external_path(path), beside)):
            if content or where == path:
                with open(where, "wb") as target:
                    target.write(content)
        yield path, len(file) + len(beside)


def composed(rest: bytes, *, framed: bool) -> bytes:
    """Return a version 1 file of the blobs that the bytes list."""
    blobs: dict[bytes, bytes] = {}
    while len(rest) > 3 and len(blobs) < len(KEYS):
        number, size = struct.unpack_from("<BH", rest)
        key, stored = KEYS[number % len(KEYS)], rest[3 : 3 + size]
        rest = rest[3 + size :]
        if key == KEYS[0] and framed and stored:
            stored = framed_index(stored[0] & ~(EXTERNAL_INDEX | OF_SET), stored[1:])
        if stored:
            blobs.setdefault(key, stored)
    return container(list(blobs.items())) if blobs else b""


def container(blobs: list[tuple[bytes, bytes]]) -> bytes:
    """Return a small version 1 file, which ends with the last blob's padding."""
    made = build_directory(1, [key for key, _ in blobs], [len(stored) for _, stored in blobs])
    out = bytearray(made.payload_end)
    head = layout.HEADER.pack(layout.MAGIC, len(blobs), len(out)) + made.to_bytes()
    out[: len(head)] = head
    for place, (_, stored) in enumerate(blobs):
        offset, nbytes = made.range(place)
        out[offset : offset + nbytes] = stored
    return bytes(out)


def read_all(opened: Store, file_nbytes: int) -> list[Any]:
    """Read all tensors in every way, and return the results."""
    seen: list[Any] = [sorted(opened.metadata.items()), answer(lambda: opened.config), opened.tokenizer]
    for name in list(opened)[:MOST]:
        info = opened.info(name)
        assert name in opened
        assert 0 <= info.offset <= opened.reader.file_size
        assert info.blocks or info.offset + info.nbytes <= opened.reader.file_size
        if info.packed and info.packed.blob_nbytes > PACKED_MOST:
            continue
        raw = answer(lambda: bytes(opened.raw(name)))  # noqa: B023 (called at once)
        assert isinstance(raw, str) or len(raw) == info.element_nbytes
        may_fail = info.packed or info.blocks or isinstance(opened.reader, SetReader)  # a set's files are opened now
        assert isinstance(raw, bytes) or may_fail
        values = answer(partial(opened.__getitem__, name))
        if isinstance(values, np.ndarray):
            assert values.shape == info.shape
            assert not values.flags.writeable
            assert info.encoded or values.tobytes() == raw
        seen.append((name, raw, bytes_of(values)))
        for rows in ROWS:
            some = answer(partial(opened.load, name, rows=rows))
            if isinstance(some, np.ndarray) and isinstance(values, np.ndarray):
                assert bytes_of(some) == bytes_of(values[rows])
            seen.append(bytes_of(some))
    seen.append(answer(lambda: opened["no such name"]))
    seen.append(answer(lambda: [(name, bytes(data)) for name, data in opened.files.items()]))
    choices: list[dict[str, Any]] = [{}, {"materialize_aliases": True, "dtype": "bf16"}]
    return [*seen, *(answer(partial(exported, opened, options, file_nbytes)) for options in choices)]


def exported(opened: Store, options: dict[str, Any], file_nbytes: int) -> list[Any]:
    """Plan an export and make its bytes."""
    plan = plan_export(opened, **options)
    made = []
    joined = [tensor for shard in plan.shards for tensor in shard if len(tensor.blocks) > 1]
    if not options:  # each stored element is used once, and takes at least half a byte
        assert sum(math.prod(tensor.shape) for tensor in joined) <= 2 * file_nbytes
    for tensor in (tensor for shard in plan.shards for tensor in shard):
        if math.prod(tensor.shape) > SHOWN_ELEMENTS:
            continue
        pieces = answer(partial(sizes_of_pieces, tensor, opened))
        assert isinstance(pieces, str) or sum(pieces) == tensor.nbytes
        made.append((tensor.name, pieces))
    return made


def sizes_of_pieces(tensor: ExportedTensor, opened: Store) -> list[int]:
    return [piece.nbytes for piece in exported_bytes(tensor, opened)]


def answer(ask: Callable[[], Any]) -> Any:  # noqa: ANN401
    """Return the result of a call, or the reason of its error."""
    try:
        return ask()
    except BlobStoreError as error:
        return error.reason


def bytes_of(values: Any) -> Any:  # noqa: ANN401
    """Return bytes to compare arrays by; for f32, which may be computed, without the bits of NaNs."""
    if not isinstance(values, np.ndarray):
        return values
    return (np.where(np.isnan(values), np.float32(np.nan), values) if values.dtype == np.float32 else values).tobytes()


# --------------------------------------------------------------------------------------------------------------- sets

BOUND = 2  # a bit of the first byte of sets; others as for index


def sets(data: bytes) -> None:
    """Open a set, and read everything that can be read.

    The second byte is the number of files. Each is a u8 number of blobs, each with a u8 size of its key, the key, a u16
    size, and the bytes. The rest is the index of the set, framed by the bits for `index`. BOUND: it has the sizes and
    digests of the files.
    """
    flags, rest = flags_of(data)
    count, rest = flags_of(rest)
    files = []
    for _ in range(count % 4):
        file, rest = taken_file(rest)
        files.append(file)
    flags = flags & ~BOUND | OF_SET | flags & BOUND
    raw = framed_index(flags & ~EXTERNAL_INDEX, rest) if flags & FRAMED else rest
    if flags & BOUND:
        raw = bound(raw, files)
    try:
        names = [one.name for one in open_index(memoryview(raw), kind="set").stores]
    except BlobStoreError:
        names = []
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:  # noqa: S108
        path = os.path.join(folder, "set")  # never the name of a file: those of files that are there have a dot
        for name, content in ((path, raw), *zip(names, files, strict=False)):
            with open(os.path.join(folder, name), "wb") as target:
                target.write(content)
        seen: list[Any] = []
        for access in ACCESSES:
            try:
                with blobstore.open(path, access=access) as opened:
                    seen.append(read_all(opened, opened.reader.file_size))
            except BlobStoreError as error:
                seen.append(error.reason)
        assert seen[0] == seen[1], "plain reads and mapped reads disagree"
        for finding in [*check_file(path), *verify_file(path, workers=1).findings]:
            assert finding.severity in SEVERITIES


def taken_file(rest: bytes) -> tuple[bytes, bytes]:
    """Take a list of blobs from an input → a version 2 file of them, and the rest."""
    count, rest = flags_of(rest)
    stream = io.BytesIO()
    with suppress(BlobStoreError), BlobWriter(stream) as writer:
        for _ in range(count):
            size, rest = flags_of(rest)
            key, (nbytes,) = rest[:size], struct.unpack("<H", rest[size : size + 2].ljust(2, b"\0"))
            rest = rest[size + 2 :]
            with suppress(BlobStoreError):
                writer.add(os.fsdecode(key), rest[:nbytes])
            rest = rest[nbytes:]
    return stream.getvalue(), rest


def bound(raw: bytes, files: list[bytes]) -> bytes:
    """Return the index of a set with the sizes and digests of files, if they are files."""
    try:
        header = Header._make(HEADER_FIELDS.unpack(raw[:HEADER_NBYTES]))
        start, nbytes = section_spans(header)["stores"]
        stores = np.frombuffer(raw, STORE, nbytes // STORE.itemsize, start).copy()
    except (struct.error, ValueError):
        return raw
    for row, file in zip(stores, files, strict=False):
        with suppress(BlobStoreError):
            row["nbytes"] = len(file)
            directory_of_it = parse_directory(partial(read_of, file), len(file))
            row["sha256"] = np.frombuffer(digest_in(MemorySource(file, path="store"), directory_of_it), np.uint8)
    return raw[:start] + stores.tobytes() + raw[start + nbytes :]


def read_of(file: bytes, offset: int, nbytes: int) -> memoryview:
    return memoryview(file)[offset : offset + nbytes]


# -------------------------------------------------------------------------------------------------------------- trust

SEVERITIES = ("error", "warning", "note")


def trust(data: bytes) -> None:
    """Check, verify, rewrite and recover a whole file, given as for `store`.

    Checking and verifying never raise: whatever is wrong is a finding.
    """
    with written(data) as (path, _):
        findings = [*check_file(path, for_runtime=True), *verify_file(path, values=True, workers=1).findings]
        for finding in findings:
            assert finding.severity in SEVERITIES
            assert finding.code
            assert finding.effect
            assert finding.fix
            if finding.offset is not None and finding.nbytes is not None:
                assert 0 <= finding.offset <= finding.offset + finding.nbytes <= os.path.getsize(path)
        out = f"{path}.out"
        for change in (partial(apply_edits, path, out, EDITS), partial(recover, path, out)):
            made = answer(change)
            assert os.path.exists(out) != isinstance(made, str)
            if not isinstance(made, str):
                # A blob may look like an index without being one; padded rows stay padded.
                wrong = {
                    finding.code for finding in verify_file(out, workers=1).findings if finding.severity == "error"
                }
                assert wrong <= {"index-misplaced", "toc-stride"}
                os.unlink(out)
        there_and_back(path, out)


def there_and_back(path: str, out: str) -> None:
    """Pack a file, and fail unless unpacking restores it; unpack it, if it is packed."""
    for change in (pack, unpack):
        made = answer(partial(change, path, out, workers=1))
        assert os.path.exists(out) != isinstance(made, str)
        if isinstance(made, Packing):
            unpack(out, f"{out}.back", workers=1)
            with open(path, "rb") as original, open(f"{out}.back", "rb") as back:
                assert original.read() == back.read()
        if not isinstance(made, str):
            os.unlink(out)


EDITS = Edits(version=2, sort=True, set_metadata={"a": "b"})

# ------------------------------------------------------------------------------------------------------------- packed

CHECKED, BASED = 1, 2  # bits of packed's first byte
PACKED_MOST = 1 << 22  # unpacked bytes of a stream


def packed(data: bytes) -> None:
    """Read a packed blob.

    CHECKED: correct the checksums of header and table. BASED: give differences a base.
    """
    flags, rest = flags_of(data)
    stored = put_checks_right(rest) if flags & CHECKED else rest
    try:
        reader = packing.PackedReader(stored)
    except BlobStoreError:
        return
    # Each plane of each chunk has a frame and its size in the table.
    assert reader.nbytes <= len(stored) // 18 * packing.MAX_CHUNK + 8
    if reader.nbytes > PACKED_MOST:
        with suppress(BlobStoreError):
            reader.read(0, 1, base=zeros if reader.base_sha256 else None)
        return
    base = zeros if reader.base_sha256 and flags & BASED else None
    try:
        whole = reader.read(base=base).tobytes()
    except BlobStoreError as error:
        assert error.reason in {"packed-frame", "packed-data", "packed-pairs"} or reader.base_sha256  # noqa: PT017
        return
    assert len(whole) == reader.nbytes
    third = reader.nbytes // 3
    assert reader.read(third, 2 * third, base=base).tobytes() == whole[third : 2 * third]
    options: dict[str, Any] = {"base": base, "base_sha256": reader.base_sha256} if base else {}
    again = b"".join(map(bytes, compress(whole, reader.layout, **options)))
    assert packing.PackedReader(again).read(base=base).tobytes() == whole


def zeros(start: int, stop: int) -> bytes:
    return bytes(stop - start)


def put_checks_right(stored: bytes) -> bytes:
    size = packing.HEADER.itemsize
    if len(stored) < size + 4:
        return stored
    stored = stored[: size - 4] + struct.pack("<I", zlib.crc32(stored[: size - 4])) + stored[size:]
    header = np.frombuffer(stored, packing.HEADER, 1)[0]
    step = int(header["chunk"]) * int(header["width"])
    if not step:
        return stored
    body = int(header["nbytes"]) - int(header["nbytes"]) % int(header["width"])
    table = -(-body // step) * int(header["width"]) * 4
    start = len(stored) - 4 - table
    return stored[:-4] + struct.pack("<I", zlib.crc32(stored[start:-4])) if start >= size else stored


TARGETS: dict[str, Target] = {
    "directory": directory,
    "index": index,
    "fields": fields,
    "safetensors": safetensors,
    "codecs": codecs,
    "store": store,
    "sets": sets,
    "trust": trust,
    "packed": packed,
}
