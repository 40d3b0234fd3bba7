"""A second implementation of the writing side of the specification, written from the pages of spec/ alone.

It shares no code with the package and needs nothing but Python. If both produce the same bytes, the pages are clear.
It is meant to be read beside them and checks nothing: with the right arguments it also plants faults.
"""

import base64
import hashlib
import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

Blob = tuple[bytes, bytes]  # key, stored bytes


# ---------------------------------------------------------------------------------------------------------- payloads


def seed_words(seed: int) -> list[int]:
    """Four u64 from numpy's SeedSequence(seed), for a seed below 2**128."""
    mask, constant = 0xFFFFFFFF, 0x43B0D7E5

    def scramble(value: int, multiplier: int) -> int:
        nonlocal constant
        value ^= constant
        constant = constant * multiplier & mask
        value = value * constant & mask
        return value ^ value >> 16

    pool = [scramble(seed >> 32 * i & mask, 0x931E8875) for i in range(4)]
    for source in range(4):
        for target in range(4):
            if source != target:
                other = scramble(pool[source], 0x931E8875)
                mixed = (0xCA01F9DD * pool[target] - 0x4973F715 * other) & mask
                pool[target] = mixed ^ mixed >> 16
    constant = 0x8B51F9DD
    halves = [scramble(pool[i % 4], 0x58F38DED) for i in range(8)]
    return [low | high << 32 for low, high in zip(halves[::2], halves[1::2], strict=True)]


@cache
def payload(seed: int, n: int) -> bytes:
    """The low byte of each of the first n words of numpy's PCG64(seed), which is PCG XSL-RR 128/64."""
    mask, multiplier = (1 << 128) - 1, 0x2360ED051FC65DA44385DF649FCCF645
    words = seed_words(seed)
    increment = (words[2] << 64 | words[3]) << 1 & mask | 1
    state = (increment + (words[0] << 64 | words[1])) * multiplier + increment & mask
    out = bytearray()
    for _ in range(n):
        state = state * multiplier + increment & mask
        word, turn = (state >> 64 ^ state) & 0xFFFFFFFFFFFFFFFF, state >> 122
        out.append((word >> turn | word << (64 - turn)) & 0xFF)
    return bytes(out)


# ----------------------------------------------------------------------------------------------------------- records


class Record:
    """A record with its fields declared once: the same declaration packs it and plants faults in it."""

    def __init__(self, fields: str) -> None:
        """Declare the fields, `name:code` with the codes of struct."""
        self.codes = {name: code for name, _, code in (part.partition(":") for part in fields.split())}
        self.size = struct.calcsize("<" + "".join(self.codes.values()))

    def set(self, data: bytes, position: int, **values: float | bytes) -> bytes:
        """Return data with these fields replaced in the record at a position."""
        out = bytearray(data)
        for name, code in self.codes.items():
            if name in values:
                struct.pack_into("<" + code, out, position, values.pop(name))
            position += struct.calcsize("<" + code)
        if values:
            raise KeyError(*values)
        return bytes(out)

    def pack(self, **values: float | bytes) -> bytes:
        """Pack a new record; missing fields are zeros."""
        return self.set(bytes(self.size), 0, **values)


def align(x: int, a: int) -> int:
    """Return the smallest multiple of a that is not less than x: `round(x, a)` of the pages."""
    return -(-x // a) * a


# --------------------------------------------------------------------------------------- the container (spec/sbs.md)

MAGIC = b"SBS\n"
SBS = Record("magic:4s count:I file_size:Q")
KEY = Record("key:16s")
RANGE = Record("offset:Q nbytes:Q")


def layout(version: int, sizes: Sequence[int], *, very_old: bool = False) -> tuple[list[int], int]:
    """The offset of each blob, and the size of the file."""
    directory = align(SBS.size + 32 * len(sizes), 256)
    end = 256 if version == 2 else directory
    offsets = []
    for nbytes in sizes:
        offsets.append(end)
        end = align(end + nbytes, 256)
    if version == 2:
        return offsets, align(end + directory, 65536)
    return offsets, end if very_old else align(end, 65536)


def directory(version: int, blobs: Sequence[Blob]) -> bytes:
    """All keys, then all ranges."""
    offsets, _ = layout(version, [len(data) for _, data in blobs])
    ranges = (RANGE.pack(offset=at, nbytes=len(data)) for at, (_, data) in zip(offsets, blobs, strict=True))
    return b"".join([KEY.pack(key=key) for key, _ in blobs]) + b"".join(ranges)


def bound(version: int, blobs: Sequence[Blob]) -> bytes:
    """What the digest in a set's index is of: the directory, and the digest that the index at its end carries."""
    key, data = blobs[-1]
    own = data[104:136] if key == INDEX_KEY and len(data) >= 160 else b""
    return directory(version, blobs) + own


def container(version: int, blobs: Sequence[Blob], *, very_old: bool = False) -> bytes:
    """The file, in version 2 or 1; very_old: version 1 that ends where the last blob's padding ends."""
    offsets, size = layout(version, [len(data) for _, data in blobs], very_old=very_old)
    header = SBS.pack(magic=MAGIC, count=len(blobs), file_size=size)
    out = bytearray(size)
    for at, (_, data) in zip(offsets, blobs, strict=True):
        out[at : at + len(data)] = data
    if version == 2:
        out[:16] = SBS.pack(magic=MAGIC, count=0, file_size=65536)
        tail = directory(version, blobs) + header
        out[size - len(tail) :] = tail
    else:
        head = header + directory(version, blobs)
        out[: len(head)] = head
    return bytes(out)


# ------------------------------------------------------------------------------------ the name index (spec/index.md)

NO_BLOB = 0xFFFFFFFF
INDEX_KEY = b"~index"
HEADER = Record(
    "magic:8s version:I flags:I nbytes:Q entry_count:I blob_count:I shape_count:I dim_count:I store_count:I "
    "names_nbytes:I store_names_nbytes:I reserved:I metadata_nbytes:Q store_nbytes:Q store_sha256:32s self_sha256:32s "
    "padding:24s"
)
ENTRY = Record("offset:Q nbytes:Q name_start:I blob:I shape:I scale:f type:H codec:H")
BLOB = Record("key:16s nbytes:Q unpacked_nbytes:Q sha256:32s")
STORE = Record("nbytes:Q sha256:32s first_blob:I name_start:I")
DIGESTS, EXTERNAL, SET = 1, 2, 4

TYPES = {  # name: number, bits per element, elements per group, extra bytes per group
    "unknown": (0, 8, 1, 0), "f32": (1, 32, 1, 0), "bf16": (2, 16, 1, 0), "sfp": (3, 8, 1, 0), "nuq": (4, 4, 256, 16),
    "f64": (5, 64, 1, 0), "u32": (6, 32, 1, 0), "u64": (7, 64, 1, 0), "i8": (8, 8, 128, 4), "u16": (9, 16, 1, 0),
    "u8": (10, 8, 1, 0), "int8": (11, 8, 1, 0), "q4_0": (12, 4, 32, 2), "mxfp4": (13, 4, 32, 1), "f16": (32, 16, 1, 0),
    "i16": (35, 16, 1, 0), "i32": (37, 32, 1, 0), "i64": (38, 64, 1, 0), "bool": (39, 8, 1, 0),
    "f8_e4m3": (40, 8, 1, 0), "f8_e5m2": (41, 8, 1, 0), "c64": (42, 64, 1, 0), "f8_e8m0": (43, 8, 1, 0),
    "f8_e4m3fnuz": (44, 8, 1, 0), "f8_e5m2fnuz": (45, 8, 1, 0), "f4": (46, 4, 1, 0), "f6_e2m3": (47, 6, 1, 0),
    "f6_e3m2": (48, 6, 1, 0),
}  # fmt: skip
WHOLE = ("q4_0", "mxfp4")  # the last group is stored in full


def stored_nbytes(type_name: str, shape: Sequence[int]) -> int:
    """Return the bytes that a tensor takes."""
    _, bits, group, extra = TYPES[type_name]
    n = 1
    for dim in shape:
        n *= dim
    if type_name in WHOLE:
        n = align(n, group)
    return -(-n * bits // 8) + -(-n // group) * extra


def key_for(name: str) -> str:
    """Return the key of a tensor with a separate blob."""
    digits = re.match(r"[0-9]+", name.rpartition("_")[2]) if "_" in name else None
    if (
        re.fullmatch(r"[!-~]{1,16}", name)
        and name[0] not in "~FB$2I4"
        and name not in ("config", "tokenizer", "toc")
        and not (digits and int(digits[0]) >= 999)
    ):
        return name
    return "~" + base64.b32encode(hashlib.sha256(name.encode()).digest()).decode().lower()[:15]


def file_key(name: str) -> str:
    """Return the key of a file that is carried."""
    return "~" + base64.b32encode(hashlib.sha256(b"\0" + name.encode()).digest()).decode().lower()[:15]


@dataclass(frozen=True)
class Entry:
    """The index entry of one name; bytes where a fault may not be text."""

    name: bytes
    key: bytes | None  # of its blob; None for a tensor without elements
    type: int
    shape: tuple[int, ...]
    nbytes: int
    offset: int = 0
    scale: float = 1.0
    codec: int = 0


def tensor(
    name: str, key: str | None, type_name: str, shape: tuple[int, ...], *, offset: int = 0, scale: float = 1.0
) -> Entry:
    """Return an entry with the correct size and type."""
    nbytes = stored_nbytes(type_name, shape)
    return Entry(name.encode(), key.encode() if key else None, TYPES[type_name][0], shape, nbytes, offset, scale)


def columns(record: Record, rows: Sequence[Mapping[str, float | bytes]]) -> list[bytes]:
    """Return a section for each field of a record: its values in all rows, one after another."""
    sections = []
    for name, code in record.codes.items():
        column = Record(f"{name}:{code}")
        sections.append(b"".join(column.pack(**{name: row[name]}) for row in rows if name in row))
    return sections


def seal(index: bytes) -> bytes:
    """Return the index with its self_sha256 computed, so that a planted fault is its only one."""
    blank = HEADER.set(index, 0, self_sha256=b"")
    return HEADER.set(blank, 0, self_sha256=hashlib.sha256(blank).digest())


@dataclass(frozen=True)
class Store:
    """A file of a set: what the index says of it."""

    name: bytes
    nbytes: int
    bound: bytes  # its directory, and the digest that its own index carries
    first_blob: int


def name_index(
    entries: Sequence[Entry],
    table: Sequence[Blob],
    metadata: bytes = b"{}",
    *,
    digests: bool = True,
    store: tuple[int, bytes] | None = None,
    stores: Sequence[Store] = (),
    unpacked: Mapping[bytes, int] | None = None,
) -> bytes:
    """The index, embedded; or external to a store of this size and with this directory; or of a set of these stores.

    `unpacked` has the unpacked sizes of packed blobs by key.

    Entries and blobs are written in the given order, and nothing is checked, so faults can be planted in them.
    """
    blob_numbers: dict[bytes | None, int] = {key: i for i, (key, _) in enumerate(table)} | {None: NO_BLOB}
    shapes: dict[tuple[int, ...], int] = {}
    names, store_names = bytearray(), bytearray()
    entry_rows: list[dict[str, float | bytes]] = []
    store_rows: list[bytes] = []
    for e in entries:
        where = {"offset": e.offset, "nbytes": e.nbytes, "name_start": len(names), "blob": blob_numbers[e.key]}
        what = {"shape": shapes.setdefault(e.shape, len(shapes)), "scale": e.scale, "type": e.type, "codec": e.codec}
        entry_rows.append({**where, **what})
        names += e.name + b"\0"
    starts: list[int] = []
    dims: list[int] = []
    for shape in shapes:
        starts.append(len(dims))
        dims += shape
    blob_rows: list[dict[str, float | bytes]] = []
    for key, data in table:
        blob_rows.append({"key": key, "nbytes": len(data), "unpacked_nbytes": (unpacked or {}).get(key, 0)})
        if digests:
            blob_rows[-1]["sha256"] = hashlib.sha256(data).digest()
    for s in stores:
        digest = hashlib.sha256(s.bound).digest()
        start = len(store_names)
        store_rows.append(STORE.pack(nbytes=s.nbytes, sha256=digest, first_blob=s.first_blob, name_start=start))
        store_names += s.name + b"\0"
    out = bytearray(HEADER.size)
    for section in (
        *columns(ENTRY, entry_rows),
        *columns(BLOB, blob_rows),
        struct.pack(f"<{len(starts)}I", *starts),
        struct.pack(f"<{len(dims)}Q", *dims),
        b"".join(store_rows),
        names,
        store_names,
        metadata,
    ):
        out += bytes(align(len(out), 8) - len(out))
        out += bytes(section)
    header = HEADER.pack(
        magic=b"SBSINDEX",
        version=1,
        flags=DIGESTS * digests | EXTERNAL * (store is not None) | SET * bool(stores),
        nbytes=len(out),
        entry_count=len(entries),
        blob_count=len(table),
        shape_count=len(shapes),
        dim_count=len(dims),
        store_count=len(stores),
        names_nbytes=len(names),
        store_names_nbytes=len(store_names),
        metadata_nbytes=len(metadata),
        store_nbytes=store[0] if store else 0,
        store_sha256=hashlib.sha256(store[1]).digest() if store else b"",
    )
    return seal(header + out[HEADER.size :])


def starts_of(index: bytes) -> dict[str, int]:
    """Return where each section of an index begins, by the counts in its header: `entry offset`, …, `metadata`."""
    counts = dict(
        zip(HEADER.codes, struct.unpack("<" + "".join(HEADER.codes.values()), index[: HEADER.size]), strict=True)
    )
    sizes: dict[str, int] = {}
    for record, kind in ((ENTRY, "entry"), (BLOB, "blob")):
        for name, code in record.codes.items():
            count = counts[f"{kind}_count"] if name != "sha256" or counts["flags"] & DIGESTS else 0
            sizes[f"{kind} {name}"] = count * struct.calcsize("<" + code)
    sizes |= {"shape start": 4 * counts["shape_count"], "dims": 8 * counts["dim_count"]}
    sizes |= {"stores": STORE.size * counts["store_count"], "names": counts["names_nbytes"]}
    sizes |= {"store names": counts["store_names_nbytes"], "metadata": counts["metadata_nbytes"]}
    starts, end = {}, HEADER.size
    for name, nbytes in sizes.items():
        starts[name] = align(end, 8)
        end = starts[name] + nbytes
    return starts


def planted(index: bytes, kind: str, number: int, **values: float | bytes) -> bytes:
    """Return an index with fields of one entry or blob replaced; `kind` is `entry` or `blob`."""
    codes = (ENTRY if kind == "entry" else BLOB).codes
    for name, value in values.items():
        column = Record(f"{name}:{codes[name]}")
        index = column.set(index, starts_of(index)[f"{kind} {name}"] + column.size * number, **{name: value})
    return index


def metadata_json(pairs: dict[str, str]) -> bytes:
    """Return metadata in the form that a writer should write."""
    return json.dumps(pairs, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
