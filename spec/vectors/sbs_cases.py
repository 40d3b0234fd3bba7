"""The vectors: files that a reader opens, files with one fault each, and files that only a verifying tool reports."""

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from packed_writer import Packed
from sbs_writer import (
    EXTERNAL,
    HEADER,
    INDEX_KEY,
    KEY,
    MAGIC,
    NO_BLOB,
    RANGE,
    SBS,
    TYPES,
    Blob,
    Entry,
    Record,
    container,
    directory,
    file_key,
    key_for,
    layout,
    metadata_json,
    name_index,
    payload,
    planted,
    seal,
    starts_of,
    stored_nbytes,
    tensor,
)

KINDS = ("valid", "invalid", "verify", "catalog_valid", "catalog_invalid", "set_valid", "set_invalid")
ALIEN = 999  # an element type that nobody knows


@dataclass(frozen=True)
class Case:
    """One file, and what a reader must do with it."""

    file: str
    kind: str  # one of KINDS
    data: bytes
    description: str
    reason: str = ""  # the expected reason code; empty for a valid file
    expectations: dict[str, Any] = field(default_factory=dict)  # more fields of its manifest entry
    index: bytes | None = None  # the bytes of file + ".idx"
    stored: bool = True  # False: too large to be kept, but its hash is in the manifest
    others: dict[str, bytes] = field(default_factory=dict)  # more files in its folder

    def files(self) -> dict[str, bytes]:
        """Return the files to keep for this case, by their paths below this folder."""
        path = f"{self.kind}/{self.file}"
        files = {path: self.data} if self.stored else {}
        files |= {f"{path.rpartition('/')[0]}/{name}": data for name, data in self.others.items()}
        return files if self.index is None else files | {path + ".idx": self.index}

    def facts(self) -> dict[str, Any]:
        """Return the case's entry in the manifest."""
        facts: dict[str, Any] = {"file": self.file} | digest(self.data)
        if self.reason:
            facts["reason"] = self.reason
        facts["description"] = self.description
        if not self.stored:
            facts["stored"] = False
        facts |= self.expectations
        return facts if self.index is None else facts | {"idx": digest(self.index)}


def digest(data: bytes) -> dict[str, Any]:
    """Return what identifies a file's bytes."""
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


# Valid files. Most are version 1 of the very old kind, since those aren't padded to 64 KiB.


def store(
    file: str,
    description: str,
    blobs: Sequence[Blob],
    *,
    version: int = 1,
    very_old: bool = True,
    expectations: dict[str, Any] | None = None,
    index: bytes | None = None,
) -> Case:
    """A valid container, by default version 1 of the very old kind."""
    facts = {"version": version, "blobs": blob_facts(version, blobs)} | (expectations or {})
    data = container(version, blobs, very_old=very_old)
    return Case(f"{file}.sbs", "valid", data, description, expectations=facts, index=index)


def blob_facts(version: int, blobs: Sequence[Blob]) -> list[dict[str, Any]]:
    """What the manifest says of the blobs of a file."""
    offsets, _ = layout(version, [len(data) for _, data in blobs])
    return [
        {"key_hex": key.hex(), "offset": at, "nbytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for at, (key, data) in zip(offsets, blobs, strict=True)
    ]


def entry_facts(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """What the manifest says of the entries of an index."""
    return [
        {
            "name": e.name.decode(),
            "key": None if e.key is None else e.key.decode(),
            "offset": e.offset,
            "nbytes": e.nbytes,
            "type": e.type,
            "shape": e.shape,
            "scale_bits": struct.pack(">f", e.scale).hex(),
            "codec": e.codec,
        }
        for e in entries
    ]


def indexed(
    file: str,
    description: str,
    blobs: Sequence[Blob],
    entries: Sequence[Entry],
    *,
    metadata: bytes = b"{}",
    digests: bool = True,
    external: bool = False,
    version: int = 1,
    table: Sequence[Blob] | None = None,
    added: Sequence[Blob] = (),
    beside: bytes | None = None,
    unpacked: Mapping[bytes, int] | None = None,
    files: Mapping[str, str] | None = None,
) -> Case:
    """A valid store with an index.

    Args:
        file: The file's name, without .sbs.
        description: What is special about the file.
        blobs: All blobs but the index.
        entries: The entries, in any order.
        metadata: The JSON text.
        digests: Whether the table has digests.
        external: Whether the index is a separate file.
        version: The version of the container.
        table: The blobs in the order of the index's table; None: in the order of the directory.
        added: Blobs after the index that the index doesn't list.
        beside: A .idx file that a reader must not look at.
        unpacked: Keys of packed blobs, and their unpacked sizes.
        files: Names of the files that it carries, and their keys.
    """
    entries = sorted(entries, key=lambda e: e.name)
    size = layout(version, [len(data) for _, data in blobs], very_old=version == 1)[1]
    binding = (size, directory(version, blobs)) if external else None
    rows = blobs if table is None else table
    index = name_index(entries, rows, metadata, digests=digests, store=binding, unpacked=unpacked)
    expectations = {
        "external": external,
        "digests": digests,
        "metadata": json.loads(metadata),
        "entries": entry_facts(entries),
    }
    if unpacked:
        expectations["unpacked"] = {key.decode(): nbytes for key, nbytes in unpacked.items()}
    if files:
        expectations["files"] = files
    if external:
        return store(file, description, blobs, version=version, expectations=expectations, index=index)
    blobs = [*blobs, (INDEX_KEY, index), *added]
    return store(file, description, blobs, version=version, expectations=expectations, index=beside)


def valid_cases() -> Iterator[Case]:
    """Files that a reader must open."""
    abc = [(b"a", b"first"), (b"b", payload(1, 300)), (b"c", b"third")]
    yield store("v1-very-old", "version 1 that ends where the last blob's padding ends", abc)
    odd_keys = [b"\xff\xfe", b"\xc3", b" ", b"a/b\n", b"\x01" * 16, b"a", b"A"]
    yield store("keys-any-bytes", "keys that are not UTF-8, control characters", [(key, key) for key in odd_keys])
    yield store("v1-seven-blobs", "a directory that ends at 240", [(b"%d" % i, b"x") for i in range(7)])
    yield store("v1-eight-blobs", "a directory that ends at 272", [(b"%d" % i, b"x") for i in range(8)])
    both = container(2, [(b"b", payload(5, 300))])
    yield store(
        "v1-and-v2",
        "its first header makes it version 1; the end of its blob is a whole directory of version 2",
        [(b"a", both[256:])],
        very_old=False,
    )
    yield from valid_indexes()


def valid_indexes() -> Iterator[Case]:
    """Stores with an index that a reader must open."""
    name = "model.embed_tokens.weight"
    key = key_for(name)
    yield indexed(
        "index-one",
        "the worked example of index.md: one tensor under a long name, and an alias",
        [(key.encode(), struct.pack("<6f", 1, 2, 3, 4, 5, 6))],
        [tensor(name, key, "f32", (2, 3)), tensor("lm_head.weight", key, "f32", (2, 3))],
        metadata=metadata_json({"format": "pt"}),
        version=2,
    )
    ab = [(b"a", payload(100, 24)), (b"b", payload(101, 8))]
    plain = [tensor("a", "a", "f32", (2, 3)), tensor("b", "b", "f32", (2,))]
    yield indexed(
        "index-aliases",
        "several names for one blob, in different shapes and types, and one for a key of the runtime's own",
        [(b"gating_ein_0", payload(102, 24))],
        [
            tensor("gating_ein_0", "gating_ein_0", "f32", (2, 3)),
            tensor("layers.0.mlp.gate.weight", "gating_ein_0", "f32", (3, 2)),
            tensor("zz.as_bytes", "gating_ein_0", "u8", (24,)),
        ],
    )
    yield indexed(
        "index-parts",
        "parts of one blob: side by side, overlapping, at an offset that is not aligned, of no bytes at its end",
        [(b"qkv", payload(103, 49))],
        [
            tensor("k", "qkv", "f32", (4,), offset=16),
            tensor("q", "qkv", "f32", (4,)),
            tensor("q_and_k", "qkv", "f32", (2, 4)),
            tensor("v", "qkv", "f32", (4,), offset=33),
            Entry(b"z_empty_part", b"qkv", ALIEN, (1,), 0, offset=49),
        ],
    )
    yield indexed("index-scalar", "a tensor of no dimensions", ab[1:], [tensor("b", "b", "f64", ())])
    yield indexed(
        "index-no-elements",
        "tensors without elements have no blob; the largest product of the other dimensions that is allowed",
        ab,
        [
            *plain,
            tensor("none.1d", None, "f32", (0,)),
            tensor("none.3d", None, "nuq", (3, 0, 2)),
            replace(tensor("none.large", None, "u8", (0,)), shape=(2**57 - 1, 0)),
            Entry(b"none.unknown", None, ALIEN, (0,), 0),
        ],
    )
    yield indexed("index-alone", "a store of nothing but an index", [], [tensor("none", None, "bf16", (0, 4))])
    shape = (3, 87)  # 261 elements: the last byte of sub-byte types and the last groups of nuq and i8 are not full
    every = [(t.encode(), bytes(b & 1 for b in payload(200 + i, stored_nbytes(t, shape)))) for i, t in enumerate(TYPES)]
    yield indexed(
        "index-element-types",
        "a tensor of each element type; stored bytes are 0 and 1, which are values in each of them",
        every,
        [tensor(f"tensor.{t}", t, t, shape) for t in TYPES],
    )
    scales = {"sfp": 0.5, "nuq": 1.875, "i8": -3.0, "bf16": 2.0**-149, "u8": 0.0}
    yield indexed(
        "index-scales",
        "scales other than 1: negative, the smallest f32, zero",
        [(t, data) for t, data in every if t.decode() in scales],
        [tensor(f"tensor.{t}", t, t, shape, scale=scale) for t, scale in scales.items()],
    )
    yield indexed(
        "index-unknown-type-and-codec",
        "a type and a codec that nobody knows: names and stored bytes are good, values are refused",
        ab,
        [Entry(b"codec", b"b", 1, (7, 7), 8, codec=65535), Entry(b"type", b"a", ALIEN, (5,), 23)],
    )
    elements = struct.pack("<300H", *(0x3F80 + 7 * i % 128 for i in range(300)))
    yield indexed(
        "index-packed",
        "a packed blob with a tensor, another name for it, a part of it and bytes of it; and a blob that isn't packed",
        [(b"packed", Packed(elements, 2, signed=True, chunk=128).stream()), *ab],
        [
            replace(tensor(name, "packed", kind, shape, offset=offset), codec=1)
            for name, kind, shape, offset in (
                ("weight", "bf16", (30, 10), 0),
                ("tied", "bf16", (30, 10), 0),
                ("rows", "bf16", (3, 10), 260),
                ("odd", "u8", (5,), 255),
            )
        ]
        + plain,
        unpacked={b"packed": len(elements)},
    )
    texts = {"config.json": b"{}", "1_Pooling/config.json": b'{"word_embedding_dimension": 2}\n'}
    keys = {file: file_key(file) for file in texts}
    listed = metadata_json({"blobstore.files": json.dumps(sorted(texts), separators=(",", ":"))})
    carried = [*ab, *((file_key(file).encode(), data) for file, data in texts.items())]
    yield indexed("index-files", "two files that are carried", carried, plain, metadata=listed, files=keys)
    yield indexed(
        "index-files-external",
        "the same, listed beside the store",
        carried,
        plain,
        metadata=listed,
        files=keys,
        external=True,
    )
    added = [(b"c", b"x"), (b"d", b"y")]
    yield indexed("index-blobs-added", "blobs behind the index that it doesn't know", ab, plain, added=added)
    yield indexed("index-table-reordered", "the blob table is in another order", ab, plain, table=ab[::-1])
    yield indexed("index-no-digests", "flag bit 0 is not set", ab, plain, digests=False)
    names = ["e\u0301", "\u00e9", "權重", "\uff5e", "\U0001f600", "\U0010ffff", "\ufeffa", "a b", "A", "a\n", "\x01"]
    yield indexed(
        "index-names-non-ascii",
        "names sort by their bytes, not by UTF-16 units, and are not normalized",
        ab,
        [tensor(name, "b", "f32", (2,)) for name in names],
    )
    longest = "權" * 1365 + "x"
    yield indexed(
        "index-name-4096",
        "the longest name, and each shorter name is the beginning of the next",
        [(key_for(longest).encode(), payload(104, 8)), *ab],
        [tensor(longest[:n], "b", "f32", (2,)) for n in (1, 2, 1365)] + [tensor(longest, key_for(longest), "i64", ())],
    )
    yield indexed(
        "index-metadata-non-ascii",
        "metadata with text beyond ASCII",
        ab,
        plain,
        metadata=metadata_json({"Lizenz": "frei für alle", "模型": "😀", "": "", "quote": '"\\\n'}),
    )
    yield indexed(
        "index-metadata-loose",
        "metadata with white space, escapes and an order that a writer should not use, but a reader takes",
        ab,
        plain,
        metadata=b'\n{ "z" :\t"\\ud83d\\ude00\\/", "\\u0061":"\\u0000" }\r\n ',
    )
    yield indexed("index-empty", "no entries; the table still lists the blobs", ab, [])
    ones = (1,) * 30
    yield indexed("index-32-dims", "the most dimensions", ab, [tensor("a", "a", "f32", (2, *ones, 3))])
    yield indexed("index-external", "a plain store and the file with its index", ab, plain, external=True)
    yield indexed(
        "index-external-v2",
        "the same in version 2, with metadata",
        ab,
        plain,
        external=True,
        version=2,
        metadata=metadata_json({"format": "pt"}),
    )
    yield indexed("index-external-ignored", "an .idx of rubbish beside an embedded index", ab, plain, beside=b"rubbish")


# Invalid files, each with one fault. If a fault entails another, the reason is that of the earlier check.

U64 = 1 << 64
PAIR = [(b"a", b"first"), (b"b", payload(2, 300))]


def invalid_cases() -> Iterator[Case]:
    """Files that a reader must refuse."""
    yield from invalid_containers()
    yield from invalid_indexes()
    yield from invalid_external_indexes()


def invalid_containers() -> Iterator[Case]:  # noqa: PLR0915 - a list
    """Faults of the container."""

    def bad(reason: str, file: str, description: str, data: bytes, *, stored: bool = True) -> Case:
        return Case(f"{file}.sbs", "invalid", data, description, reason, stored=stored)

    v1, v2 = container(1, PAIR, very_old=True), container(2, PAIR)
    keys = {1: 16, 2: len(v2) - 80}
    ranges = {1: 48, 2: len(v2) - 48}
    header = {1: 0, 2: len(v2) - 16}

    def planted(version: int, record: Record, blob: int = 0, **values: int | bytes) -> bytes:
        """One of the two files with changed fields of the header, or of a key or range."""
        data, base = (v1, v2)[version - 1], {SBS: header, KEY: keys, RANGE: ranges}[record][version]
        return record.set(data, base + 16 * blob, **values)

    def resized(data: bytes, size: int, header_at: int = 0) -> bytes:
        """A version 1 file, truncated or extended with zeros, with a header that agrees."""
        return SBS.set(data[:size].ljust(size, b"\0"), header_at, file_size=size)

    reason = "truncated"
    yield bad(reason, "no-bytes", "an empty file", b"")
    yield bad(reason, "fifteen-bytes", "less than a header", v1[:15])

    reason = "bad-magic"
    text = '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{64 * 'a'}\nsize 65536\n"
    yield bad(reason, "gguf", "a GGUF file", struct.pack("<4sIQQ", b"GGUF", 3, 0, 0))
    yield bad(reason, "safetensors", "a safetensors file", struct.pack("<Q", len(text)) + text.encode() + b"\0")
    yield bad(reason, "zip", "the beginning of a zip file, as PyTorch writes", b"PK\3\4".ljust(30, b"\0"))
    yield bad(reason, "git-lfs-pointer", "a Git LFS pointer in place of the file", pointer.encode())
    yield bad(reason, "html", "an error page in place of the file", b"<!DOCTYPE html><html>Not Found</html>")
    yield bad(reason, "zeros", "nothing but zeros", bytes(768))
    yield bad(reason, "magic-big-endian", "the magic's bytes in the other order", SBS.set(v1, 0, magic=MAGIC[::-1]))
    yield bad(reason, "magic-crlf", "the magic's line feed was made CR LF", b"SBS\r\n" + v1[4:])
    yield bad(reason, "v2-no-placeholder", "zeros where the placeholder is", bytes(16) + v2[16:])

    reason = "bad-placeholder"
    yield bad(reason, "v2-placeholder-zero", "the placeholder says 0 bytes", SBS.set(v2, 0, file_size=0))
    yield bad(reason, "v2-placeholder-other", "the placeholder says 131072 bytes", SBS.set(v2, 0, file_size=131072))

    reason = "no-directory"
    short = SBS.pack(magic=MAGIC, file_size=65536) + bytes(239) + SBS.pack(magic=MAGIC, count=1, file_size=271)
    yield bad(reason, "v2-placeholder-only", "a placeholder and nothing behind it", v2[:16])
    yield bad(reason, "v2-271-bytes", "one byte less than placeholder and header take", short)
    yield bad(reason, "v2-cut-in-half", "truncated in the middle", v2[:32768])
    yield bad(reason, "v2-cut-one-byte", "truncated by one byte", v2[:-1])
    yield bad(reason, "v2-trailing-byte", "one byte behind the header", v2 + b"\0")
    yield bad(reason, "v2-header-magic", "another magic in the true header", planted(2, SBS, magic=b"SBS2"))
    inner = container(2, [(b"a", v2[-80:]), (b"b", payload(6, 300))])[:1024]
    yield bad(reason, "v2-directory-in-payload", "a whole directory in a blob, and none at the end", inner)
    disguised = v2[:16] + resized(v1, 65536)[16:]
    yield bad(reason, "v2-directory-of-v1", "a placeholder in front of version 1's directory", disguised)

    reason = "blob-count"
    yield bad(reason, "v1-count-1048577", "one blob too many", planted(1, SBS, count=2**20 + 1))
    yield bad(reason, "v2-count-1048577", "one blob too many", planted(2, SBS, count=2**20 + 1))
    yield bad(reason, "v2-count-zero", "no blobs", planted(2, SBS, count=0))
    for v in (1, 2):
        yield bad(reason, f"v{v}-count-huge", "4294967295 blobs", planted(v, SBS, count=2**32 - 1))
        wraps = planted(v, SBS, count=2**27 + 2)
        yield bad(reason, f"v{v}-count-wraps", "32 times the count, in 32 bits, is the right 64", wraps)

    reason = "file-size"
    for file, size in {"header-only": 16, "in-directory": 40, "in-payload": 600, "one-byte": len(v1) - 1}.items():
        yield bad(reason, f"v1-cut-{file}", f"truncated to {size} of {len(v1)} bytes", v1[:size])
    yield bad(reason, "v1-trailing-byte", "one byte behind the end", v1 + b"\0")
    for file, size in {"zero": 0, "huge": U64 - 1, "too-small": len(v1) - 256, "too-large": len(v1) + 256}.items():
        yield bad(reason, f"v1-file-size-{file}", f"the header says {size} bytes", planted(1, SBS, file_size=size))
    yield bad(reason, "v2-file-size-too-small", "the header says 65280 bytes", planted(2, SBS, file_size=65280))
    yield bad(reason, "v2-file-size-too-large", "the header says 131072 bytes", planted(2, SBS, file_size=131072))
    yield bad(reason, "v2-file-size-huge", "the header says 2^64 - 1 bytes", planted(2, SBS, file_size=U64 - 1))
    yield bad(reason, "v2-file-size-sign", "negative when read as signed", planted(2, SBS, file_size=2**63))
    nested = container(2, [(b"a", v2), (b"b", b"x")])[: 256 + len(v2)]
    yield bad(reason, "v2-cut-behind-nested", "a store in a blob, truncated where that store ends", nested)

    reason = "directory-range"
    tiny = v2[:224] + container(2, PAIR[:1])[-48:]
    least = -(-(len(v1) - 16 + 1) // 32)
    yield bad(reason, "v1-directory-one-too-many", f"{least} blobs end behind the file", planted(1, SBS, count=least))
    yield bad(reason, "v1-directory-far-beyond", "1048576 blobs in a small file", planted(1, SBS, count=2**20))
    yield bad(reason, "v2-directory-too-early", "2040 blobs begin at 240", planted(2, SBS, count=2040))
    yield bad(reason, "v2-directory-far-beyond", "1048576 blobs in 64 KiB", planted(2, SBS, count=2**20))
    yield bad(reason, "v2-directory-in-272-bytes", "one blob begins at 224", resized(tiny, 272, 256))

    reason = "bad-key"
    for v in (1, 2):
        yield bad(reason, f"v{v}-key-nul-inside", "a byte behind a NUL", planted(v, KEY, 1, key=b"b\0b"))
    yield bad(reason, "v1-key-empty", "nothing but zeros", planted(1, KEY, 1, key=b""))
    yield bad(reason, "v2-key-empty", "nothing but zeros", planted(2, KEY, 1, key=b""))
    said = "a count in the first header makes it version 1, whose directory isn't there; the one at the end is in order"
    yield bad(reason, "v1-with-v2-end", said, SBS.set(v2, 0, count=2))
    yield bad(reason, "v1-key-nul-first", "a NUL, then the key", planted(1, KEY, 1, key=b"\0b"))
    yield bad(reason, "v1-key-nul-last", "a byte after 14 and a NUL", planted(1, KEY, 0, key=b"0123456789abcd\0f"))

    reason = "duplicate-key"
    for v in (1, 2):
        yield bad(reason, f"v{v}-key-twice", "two blobs under one key", planted(v, KEY, 1, key=b"a"))
    full = b"0123456789abcdef"
    apart = [(full, b"x"), (b"b", b"y"), (full, b"z")]
    yield bad(reason, "v1-key-twice-apart", "keys of 16 bytes, another between", container(1, apart, very_old=True))
    many = [(b"%d" % (i % 65536), b"x") for i in range(65537)]
    yield bad(reason, "v2-key-twice-of-65537", "the last of 65537 blobs has the first one's key", container(2, many),
              stored=False)  # fmt: skip

    reason = "empty-blob"
    empty = [(b"a", b""), (b"b", b"x")]
    yield bad(reason, "v1-blob-empty", "the first blob has no bytes", container(1, empty, very_old=True))
    yield bad(reason, "v1-blob-empty-last", "the last blob has no bytes", container(1, empty[::-1], very_old=True))
    yield bad(reason, "v2-blob-empty", "the only blob has no bytes", container(2, empty[:1]))

    reason = "blob-range"
    end = len(v1) - 512
    yield bad(reason, "v1-range-one-byte-beyond", "ends behind the file", planted(1, RANGE, 1, nbytes=end + 1))
    yield bad(reason, "v1-range-at-end", "begins where the file ends", planted(1, RANGE, 1, offset=len(v1)))
    wraps = planted(1, RANGE, 1, nbytes=U64 - 256)
    yield bad(reason, "v1-range-nbytes-wraps", "offset + nbytes, in 64 bits, is 256", wraps)
    wraps = planted(1, RANGE, 1, offset=U64 - 300 + 256)
    yield bad(reason, "v1-range-offset-wraps", "offset + nbytes, in 64 bits, is 256", wraps)
    yield bad(reason, "v1-range-sign", "nbytes is negative when read as signed", planted(1, RANGE, 1, nbytes=2**63))
    yield bad(reason, "v1-range-padding-wraps", "nbytes rounds up to 0", planted(1, RANGE, 1, nbytes=U64 - 1))
    yield bad(reason, "v2-range-beyond", "ends behind the file", planted(2, RANGE, 1, nbytes=65536))
    wraps = planted(2, RANGE, 1, nbytes=U64 - 256)
    yield bad(reason, "v2-range-nbytes-wraps", "offset + nbytes, in 64 bits, is 256", wraps)
    wraps = planted(2, RANGE, 1, offset=U64 - 300 + 256)
    yield bad(reason, "v2-range-offset-wraps", "offset + nbytes, in 64 bits, is 256", wraps)
    yield bad(reason, "v2-range-padding-wraps", "nbytes rounds up to 0", planted(2, RANGE, 1, nbytes=U64 - 1))
    both = planted(1, RANGE, 0, nbytes=2**63)
    both = RANGE.set(both, ranges[1] + 16, nbytes=2**63)
    yield bad(reason, "v1-range-sum-wraps", "the sizes of both blobs together, in 64 bits, are 0", both)

    reason = "blob-offset"
    shifted = RANGE.set(resized(v1[:512] + bytes(256) + v1[512:], len(v1) + 256), 64, offset=768)
    yield bad(reason, "v1-offset-gap", "256 zeros between two blobs", shifted)
    yield bad(reason, "v1-offset-overlap", "two blobs in one place", planted(1, RANGE, 1, offset=256))
    yield bad(reason, "v1-offset-unaligned", "one byte too far", planted(1, RANGE, 1, offset=513))
    yield bad(reason, "v1-offset-header", "a blob at offset 0", planted(1, RANGE, 0, offset=0))
    swapped = directory(1, PAIR[::-1])
    swapped = v1[:48] + swapped[48:64] + swapped[32:48] + v1[80:]
    yield bad(reason, "v1-offset-order", "the blobs are not in the order of the directory", swapped)
    yield bad(reason, "v2-offset-placeholder", "a blob at offset 0", planted(2, RANGE, 0, offset=0))
    yield bad(reason, "v2-offset-gap", "the second blob 256 bytes too far", planted(2, RANGE, 1, offset=768))
    yield bad(reason, "v2-offset-overlap", "two blobs in one place", planted(2, RANGE, 1, offset=256))
    for v in (1, 2):
        covering = planted(v, RANGE, 0, nbytes=512 - 256 + 300)
        yield bad(reason, f"v{v}-blob-in-blob", "the first blob goes on to the second one's end", covering)
    own = planted(2, RANGE, 1, offset=keys[2] // 256 * 256, nbytes=256)
    yield bad(reason, "v2-offset-directory", "a blob in the place of the directory", own)
    yield bad(reason, "v1-offset-directory", "the directory is a blob, too", planted(1, RANGE, 0, offset=16, nbytes=64))

    reason = "payload-end"
    unrounded = planted(2, SBS, file_size=1280)
    into = planted(2, RANGE, 1, nbytes=65536 - 512 - 16)
    yield bad(reason, "v2-payload-in-directory", "the last blob runs into the directory", into)
    close = planted(2, RANGE, 1, nbytes=65536 - 512 - 256 + 1)
    yield bad(reason, "v2-padding-in-directory", "the last blob's padding does", close)
    unrounded = unrounded[:1200] + unrounded[-80:]
    yield bad(reason, "v2-file-not-rounded", "1280 bytes, not a multiple of 65536", unrounded)
    longer = resized(v2[:-80] + bytes(65536) + v2[-80:], 131072, 131072 - 16)
    yield bad(reason, "v2-file-too-long", "131072 bytes where 65536 do", longer)
    yield bad(reason, "v1-padding-missing", "ends right behind the last blob", resized(v1, 812))
    yield bad(reason, "v1-file-too-long", "256 zeros behind the end", resized(v1, len(v1) + 256))
    yield bad(reason, "v1-file-64k-too-long", "131072 bytes where 65536 do", resized(v1, 131072))
    yield bad(reason, "v1-file-cut", "65280 bytes where 65536 are due", resized(container(1, PAIR), 65280))


F32 = TYPES["f32"][0]
CARRIER = [(b"a.weight", payload(3, 24)), (b"b.weight", payload(4, 8))]
PLAIN = [tensor("a.weight", "a.weight", "f32", (2, 3)), tensor("b.weight", "b.weight", "f32", (2,))]


def invalid_indexes() -> Iterator[Case]:  # noqa: C901, PLR0915 - a list
    """Stores with a faulty index; everything else is valid, and self_sha256 agrees."""
    good = name_index(PLAIN, CARRIER)

    def bad(reason: str, file: str, description: str, index: bytes, blobs: Sequence[Blob] = CARRIER) -> Case:
        index = seal(index) if len(index) >= HEADER.size else index
        data = container(1, [*blobs, (INDEX_KEY, index)], very_old=True)
        return Case(f"index-{file}.sbs", "invalid", data, description, reason)

    def header(**values: int | bytes) -> bytes:
        return HEADER.set(good, 0, **values)

    starts = starts_of(good)

    def entry(number: int, index: bytes = good, **values: float) -> bytes:
        return planted(index, "entry", number, **values)

    def blob(number: int, index: bytes = good, **values: int | bytes) -> bytes:
        return planted(index, "blob", number, **values)

    def shape(number: int, start: int) -> bytes:
        return spliced(starts["shape start"] + 4 * number, struct.pack("<I", start))

    def spliced(at: int, data: bytes) -> bytes:
        """The valid index with bytes replaced."""
        return good[:at] + data + good[at + len(data) :]

    def first(**changes: Any) -> bytes:  # noqa: ANN401 - of several types
        """The valid index with another first entry."""
        return name_index([replace(PLAIN[0], **changes), PLAIN[1]], CARRIER)

    def named(*names: bytes) -> bytes:
        """An index of these names, unchanged and in this order."""
        return name_index([replace(PLAIN[0], name=name) for name in names], CARRIER)

    reason = "index-truncated"
    yield bad(reason, "one-byte", "a single byte", good[:1])
    yield bad(reason, "159-bytes", "one byte less than a header", good[:159])

    reason = "index-magic"
    yield bad(reason, "magic", "another magic", header(magic=b"SBSINDEY"))
    yield bad(reason, "not-an-index", "a blob that happens to have the key", b"{}".ljust(200))

    reason = "index-version"
    for version in (0, 2):
        yield bad(reason, f"version-{version}", f"version {version}", header(version=version))

    reason = "index-flags"
    yield bad(reason, "flag-3", "an unknown flag", header(flags=9))
    yield bad(reason, "flag-31", "an unknown flag", header(flags=2**31 + 1))
    yield bad(reason, "embedded-flagged-external", "the flag of an external index in an embedded one", header(flags=3))
    yield bad(reason, "embedded-flagged-set", "the flag of a set's index in an embedded one", header(flags=5))

    reason = "index-nbytes"
    yield bad(reason, "trailing-bytes", "8 bytes behind its end", good + bytes(8))
    yield bad(reason, "cut-one-byte", "its last byte is missing", good[:-1])
    yield bad(reason, "cut-header-only", "a header and nothing behind it", good[: HEADER.size])
    yield bad(reason, "nbytes-huge", "nbytes is 2^64 - 1", header(nbytes=U64 - 1))

    reason = "index-section"
    gap = HEADER.set(good[: HEADER.size] + bytes(8) + good[HEADER.size :], 0, nbytes=len(good) + 8)
    yield bad(reason, "sections-shifted", "8 zeros behind the header", gap)
    unrounded = HEADER.set(good[: starts["names"] + 18] + good[starts["metadata"] :], 0, nbytes=len(good) - 6)
    yield bad(reason, "metadata-unaligned", "the metadata follows the names without a gap", unrounded)
    yield bad(reason, "metadata-short", "the metadata ends before nbytes", header(metadata_nbytes=1))
    yield bad(reason, "metadata-wraps", "its end, in 64 bits, is 0", header(metadata_nbytes=U64 - starts["metadata"]))
    yield bad(reason, "names-huge", "2^32 - 1 bytes of names", header(names_nbytes=2**32 - 1))
    for count in ("entry", "blob", "shape", "dim", "store"):
        most = header(**{f"{count}_count": 2**32 - 1})
        yield bad(reason, f"{count}-count-huge", f"4294967295 in place of the {count} count", most)
    yield bad(reason, "entry-count-less", "one entry of the two is not counted", header(entry_count=1))
    yield bad(reason, "names-8-less", "8 bytes of the names are not counted", header(names_nbytes=10))
    more = header(shape_count=4, dim_count=2)
    yield bad(reason, "shapes-than-entries", "four shapes for two entries, at the cost of a dimension", more)
    stored = HEADER.set(good[: starts["names"]] + bytes(48) + good[starts["names"] :], 0, store_count=1)
    stored = HEADER.set(stored, 0, nbytes=len(stored))
    yield bad(reason, "embedded-stores", "a store in an embedded index", stored)
    stored = HEADER.set(
        good[: starts["metadata"]] + b"a.sbs\0\0\0" + good[starts["metadata"] :], 0, store_names_nbytes=6
    )
    stored = HEADER.set(stored, 0, nbytes=len(stored))
    yield bad(reason, "embedded-store-names", "the name of a store in an embedded index", stored)

    reason = "index-reserved"
    yield bad(reason, "reserved-header", "the header's last byte is not zero", header(padding=bytes(23) + b"\1"))
    yield bad(reason, "reserved-field", "the reserved u32 is not zero", header(reserved=1))
    at = starts["metadata"] - 1
    yield bad(reason, "gap-not-zero", "a byte between names and metadata is not zero", spliced(at, b"\1"))
    at = starts["entry codec"] - 1
    yield bad(reason, "gap-of-column", "a byte between two columns is not zero", spliced(at, b"\1"))
    yield bad(reason, "embedded-store-size", "an embedded index with the size of a store", header(store_nbytes=768))
    yield bad(reason, "embedded-store-hash", "an embedded index with the hash of a store", header(store_sha256=b"\1"))

    reason = "index-name"
    yield bad(reason, "name-empty", "a name of no bytes", named(b"", b"a"))
    yield bad(reason, "name-4097", "a name of 4097 bytes", named(b"x" * 4097))
    yield bad(reason, "name-nul-inside", "a NUL in a name", named(b"a\0b"))
    yield bad(reason, "name-no-nul", "no NUL behind a name", spliced(starts["names"] + 8, b"x"))
    last = spliced(starts["names"] + 17, b"x")
    yield bad(reason, "name-no-nul-at-end", "no NUL behind the last name", last)
    yield bad(reason, "name-gap", "a NUL too many between two names", named(b"a\0", b"b"))
    yield bad(reason, "name-trailing", "a NUL too many behind the last name", named(b"a", b"b\0"))
    yield bad(reason, "name-first", "the first name doesn't begin at 0", entry(0, name_start=1))
    yield bad(reason, "name-beyond", "a name begins right behind the section", entry(1, name_start=18))
    yield bad(reason, "name-start-huge", "a name begins far behind the section", entry(1, name_start=2**32 - 1))
    yield bad(reason, "name-shared", "two entries have one name's bytes", entry(1, named(b"a", b"b"), name_start=0))
    turned = entry(0, entry(1, named(b"b", b"a"), name_start=0), name_start=2)
    yield bad(reason, "names-out-of-order", "the names don't lie in the order of the entries", turned)
    lone = HEADER.set(name_index([], CARRIER, b"{}    "), 0, names_nbytes=4)
    lone = HEADER.set(lone[:-6] + b"a\0b\0" + bytes(4) + b"{}", 0, nbytes=len(lone) + 4, metadata_nbytes=2)
    yield bad(reason, "names-of-nothing", "names, but no entries", lone)
    for what, text in {
        "byte": b"a\xff",
        "overlong": b"a\xc0\x80",
        "surrogate": b"a\xed\xa0\x80",
        "too-large": b"a\xf4\x90\x80\x80",
        "cut": b"a\xe6\xac",
        "continuation": b"a\x80",
    }.items():
        yield bad(reason, f"name-utf8-{what}", f"a name that is not UTF-8: {text.hex(' ')}", named(text))

    reason = "index-order"
    yield bad(reason, "names-unsorted", "b before a", named(b"b", b"a"))
    yield bad(reason, "names-twice", "a name twice", named(b"a", b"a"))
    yield bad(reason, "names-prefix", "a longer name before its beginning", named(b"ab", b"a"))
    yield bad(reason, "names-utf16-order", "sorted by UTF-16 units", named("\U0001f600".encode(), "\uff5e".encode()))
    yield bad(reason, "names-signed-order", "sorted by signed bytes", named("é".encode(), b"e"))

    reason = "index-dims"
    yield bad(reason, "ndim-33", "33 dimensions", first(shape=(1,) * 32 + (6,)))
    yield bad(reason, "shape-beyond", "the shape of an entry is not in the table", entry(1, shape=2))
    yield bad(reason, "shape-huge", "the largest number of a shape", entry(0, shape=2**32 - 1))
    yield bad(reason, "shape-not-first", "the first shape doesn't begin at 0", shape(0, 1))
    yield bad(reason, "shape-descends", "the second shape begins before the first", shape(0, 2**32 - 1))
    yield bad(reason, "dims-beyond", "the second shape begins behind the pool", shape(1, 4))
    yield bad(reason, "dims-start-huge", "or far behind it", shape(1, 2**32 - 1))
    scalar = name_index([replace(PLAIN[0], shape=(), nbytes=4)], CARRIER)
    at = starts_of(scalar)["names"]
    more = HEADER.set(scalar[:at] + bytes(8) + scalar[at:], 0, dim_count=1, nbytes=len(scalar) + 8)
    yield bad("index-shape", "dims-of-scalar", "the last shape goes on to the end of the pool: it is [0]", more)
    alone = HEADER.set(name_index([], CARRIER), 0, dim_count=1)
    alone = HEADER.set(alone[:-2] + bytes(8) + alone[-2:], 0, nbytes=len(alone) + 8)
    yield bad(reason, "dims-of-nothing", "a dimension, but no shape", alone)
    huge = {"key": None, "nbytes": 0}
    yield bad(reason, "dims-2-57", "a dimension of 2^57, and one of 0", first(shape=(0, 2**57), **huge))
    yield bad(reason, "dims-overflow", "2^32 · 2^32, and a dimension of 0", first(shape=(2**32, 2**32, 0), **huge))
    yield bad(reason, "dims-product-wraps", "the product, in 64 bits, is 6", first(shape=(2**63 + 3, 2)))

    reason = "index-blob"
    yield bad(reason, "blob-number", "as large as the table", entry(0, blob=2))
    yield bad(reason, "blob-number-huge", "the largest that is not `none`", entry(0, blob=NO_BLOB - 1))
    yield bad(reason, "no-blob", "six elements, but no blob", first(**huge, type=ALIEN))
    yield bad(reason, "no-blob-scalar", "a single value, but no blob", first(**huge, type=ALIEN, shape=()))

    reason = "index-range"
    yield bad(reason, "range-offset", "ends one byte behind the blob", entry(0, offset=1))
    yield bad(reason, "range-offset-wraps", "offset + nbytes, in 64 bits, is 16", entry(0, offset=U64 - 8))
    yield bad(reason, "range-nbytes", "one byte longer than the blob", first(type=ALIEN, nbytes=25))
    yield bad(reason, "range-nbytes-wraps", "offset + nbytes is 0", first(type=ALIEN, nbytes=U64 - 8, offset=8))
    none: dict[str, Any] = {"key": None, "type": ALIEN, "shape": (0,)}
    yield bad(reason, "no-blob-offset", "an offset, but no blob", first(**none, nbytes=0, offset=8))
    yield bad(reason, "no-blob-nbytes", "bytes, but no blob", first(**none, nbytes=8))

    reason = "index-shape"
    packed = {t: [(t.encode(), bytes(stored_nbytes(t, (261,))))] for t in TYPES}
    yield bad(reason, "shape-nbytes", "23 bytes for 2 · 3 · f32", entry(0, nbytes=23))
    yield bad(reason, "shape-unknown", "a byte too few for type 0, which has 8 bits", first(type=0, shape=(25,)))
    for t, few in {"f4": 130, "nuq": 131, "i8": 261, "q4_0": 157, "mxfp4": 148}.items():
        short = name_index([replace(tensor("t", t, t, (261,)), nbytes=few)], packed[t])
        yield bad(reason, f"shape-{t}", f"{few} bytes for 261 · {t}", short, packed[t])
    yield bad(reason, "no-elements-blob", "no elements, but a blob", first(shape=(0,), nbytes=0))
    yield bad(reason, "no-elements-blob-alien", "the same in an unknown type", first(shape=(0,), nbytes=0, type=ALIEN))

    reason = "index-codec"
    yield bad(reason, "codec-not-packed", "an entry with codec 1, in a blob that is not packed", entry(1, codec=1))
    in_packed = blob(0, unpacked_nbytes=24)
    yield bad(reason, "packed-without-codec", "a packed blob, and an entry in it with codec 0", in_packed)
    yield bad(
        reason, "packed-other-codec", "a packed blob, and an entry in it with codec 2", entry(0, in_packed, codec=2)
    )

    reason = "index-scale"
    for what, scale in {"infinite": float("inf"), "negative-infinite": float("-inf"), "nan": float("nan")}.items():
        yield bad(reason, f"scale-{what}", f"a scale of {scale}", entry(0, scale=scale))

    reason = "index-metadata"
    nest = 20000
    for what, (description, text) in {
        "empty": ("no bytes", b""),
        "not-json": ("not JSON", b"format=pt"),
        "cut": ("the closing brace is missing", b'{"a":"b"'),
        "trailing-comma": ("a comma behind the last pair", b'{"a":"b",}'),
        "trailing-nul": ("a NUL behind the object", b"{}\0"),
        "two-objects": ("two objects", b"{}{}"),
        "control": ("a control character that is not escaped", b'{"a":"\n"}'),
        "not-utf8": ("Latin-1", b'{"a":"\xe9"}'),
        "surrogate-bytes": ("a surrogate in the UTF-8", b'{"a":"\xed\xa0\xbd\xed\xb8\x80"}'),
        "surrogate-escape": ("an escape that is half a surrogate pair", b'{"a":"\\ud83d"}'),
        "surrogate-key": ("the same in a key", b'{"\\ude00":"b"}'),
        "byte-order-mark": ("a byte order mark", b"\xef\xbb\xbf{}"),
        "array": ("an array", b"[]"),
        "string": ("a string", b'"a"'),
        "null": ("null", b"null"),
        "number-value": ("a value that is a number", b'{"a":1}'),
        "nan-value": ("a value that is not even JSON", b'{"a":NaN}'),
        "null-value": ("a value that is null", b'{"a":null}'),
        "object-value": ("a value that is an object", b'{"a":{"b":"c"}}'),
        "long-number": ("a value that is a number of 10000 digits", b'{"a":' + b"9" * 10000 + b"}"),
        "infinity-value": ("the same", b'{"a":-Infinity}'),
        "float-value": ("a number beyond f64", b'{"a":1e400}'),
        "long-float": ("a number of 10000 digits behind the point", b'{"a":0.' + b"9" * 10000 + b"}"),
        "nested-objects": ("20000 objects in objects", b'{"a":' * nest + b"{}" + b"}" * nest),
        "nested-open": ("20000 brackets that nobody closes", b'{"a":' + b"[" * nest),
        "many-values": ("an array of 20000 arrays", b'{"a":[[]' + b",[]" * nest + b"]}"),
        "nested": ("20000 brackets in brackets", b'{"a":' + b"[" * nest + b"]" * nest + b"}"),
        "key-twice": ("a key twice", b'{"a":"b","a":"b"}'),
        "key-twice-escaped": ("a key twice, once as an escape", b'{"a":"b","\\u0061":"c"}'),
    }.items():
        yield bad(reason, f"metadata-{what}", description, name_index(PLAIN, CARRIER, text))

    reason = "index-key"
    yield bad(reason, "key-empty", "a key of no bytes", blob(1, key=b""))
    yield bad(reason, "key-nul-inside", "a byte behind a NUL", blob(1, key=b"b\0weight"))
    itself = name_index(PLAIN, [*CARRIER, (INDEX_KEY, bytes(len(good) + 32 - 64))], digests=False)
    yield bad(reason, "key-itself", "the table lists the index", itself)
    twice = name_index(PLAIN, [*CARRIER, CARRIER[0]])
    yield bad(reason, "key-twice", "the table lists a blob twice", twice)

    reason = "index-missing-blob"
    yield bad(reason, "blob-missing", "a blob of the table is not in the store", good, CARRIER[:1])
    yield bad(reason, "blob-renamed", "or has another key there", good, [CARRIER[0], (b"c.weight", CARRIER[1][1])])

    reason = "index-blob-size"
    for what, nbytes in {"shorter": 7, "longer": 9}.items():
        other = [CARRIER[0], (b"b.weight", bytes(nbytes))]
        yield bad(reason, f"blob-{what}", f"a blob of {nbytes} bytes, the table says 8", good, other)
    yield bad(reason, "blob-size-huge", "the table says 2^64 - 1 bytes", blob(1, nbytes=U64 - 1))
    claims = blob(0, first(type=ALIEN, nbytes=2**63), nbytes=U64 - 1)
    yield bad(reason, "blob-size-claimed", "the same, and an entry has 2^63 bytes of them", claims)


def invalid_external_indexes() -> Iterator[Case]:
    """Valid stores with a faulty .idx file."""
    data = container(1, CARRIER, very_old=True)
    good = name_index(PLAIN, CARRIER, store=(len(data), directory(1, CARRIER)))

    def bad(reason: str, file: str, description: str, index: bytes) -> Case:
        return Case(f"index-external-{file}.sbs", "invalid", data, description, reason, {"external": True}, index)

    def header(**values: int | bytes) -> bytes:
        return seal(HEADER.set(good, 0, **values))

    stale = name_index(PLAIN, CARRIER[::-1], store=(len(data), directory(1, CARRIER[::-1])))
    yield bad("index-truncated", "empty", "a file of no bytes", b"")
    yield bad("index-magic", "json", "a file of another kind", b"{}".ljust(200))
    yield bad("index-flags", "flagged-embedded", "the flag of an external index is not set", header(flags=1))
    yield bad("index-flags", "flagged-set", "the flag of a set's index as well", header(flags=EXTERNAL | 5))
    yield bad("index-nbytes", "cut", "its last byte is missing", good[:-1])
    yield bad("index-nbytes", "trailing-byte", "a line feed behind its end", good + b"\n")
    yield bad("index-stale", "stale-size", "a store of 256 bytes more", header(store_nbytes=len(data) + 256))
    yield bad("index-stale", "stale-hash", "a store with another directory", header(store_sha256=b"\1"))
    yield bad("index-stale", "stale-order", "the same blobs in another order", stale)


def verify_cases() -> Iterator[Case]:
    """Files that a reader opens, and that a verifying tool reports."""
    v1, v2 = container(1, PAIR, very_old=True), container(2, PAIR)
    places = {"directory": (v1, 255), "blob": (v1, 261), "last-blob": (v1, 1023)}
    places |= {"v2-placeholder": (v2, 16), "v2-directory": (v2, len(v2) - 81)}
    for what, (data, at) in places.items():
        planted = data[:at] + b"\1" + data[at + 1 :]
        yield Case(f"padding-{what}.sbs", "verify", planted, f"the byte at {at} is not zero", "padding")
    for what, (text, said, reason) in {
        "object": ("{}", "an object", "files-list"),
        "number": ("[1]", "a number among the names", "files-list"),
        "folder-above": ('["../config.json"]', "a name that leads out of the folder", "files-list"),
        "absolute": ('["/etc/config.json"]', "a name from the root", "files-list"),
        "backslash": ('["a\\\\b.json"]', "a name with a backslash", "files-list"),
        "nul": ('["a\\u0000.json"]', "a name with a NUL", "files-list"),
        "hidden": ('[".bashrc"]', "a name that begins with a dot", "files-list"),
        "device": ('["NUL.json"]', "the name of a device", "files-list"),
        "case": ('["a.json","A.json"]', "two names that are one where case is ignored", "files-list"),
        "twice": ('["a.json","a.json"]', "a name twice", "files-list"),
        "inside": ('["a","a/b.json"]', "a file in a folder that is a file", "files-list"),
        "gone": ('["config.json"]', "a file without a blob", "files-missing"),
    }.items():
        index = name_index(PLAIN, CARRIER, metadata_json({"blobstore.files": text}))
        data = container(1, [*CARRIER, (INDEX_KEY, index)], very_old=True)
        yield Case(f"files-{what}.sbs", "verify", data, said, reason)
    index = HEADER.set(name_index(PLAIN, CARRIER), 0, self_sha256=bytes(32))
    data = container(1, [*CARRIER, (INDEX_KEY, index)], very_old=True)
    yield Case("index-digest.sbs", "verify", data, "self_sha256 is zeros", "index-digest")
