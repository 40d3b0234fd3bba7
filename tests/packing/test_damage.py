"""Damaged and hostile packed files: an error with a reason or the right result, never a wrong one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

import blobstore
from blobstore.codecs.element_types import BY_NAME
from blobstore.compression.planes import WHOLE
from blobstore.compression.reader import MAX_CHUNK
from blobstore.compression.writer import compress
from blobstore.container.keys import INDEX_KEY, SKELETON_INDEX_KEY, SKELETON_KEY
from blobstore.container.reader import BlobReader
from blobstore.errors import BlobStoreError, FormatError, UsageError
from blobstore.index import PACKED, Entry, IndexedBlob, build_index
from blobstore.index.blob_writer import BlobWriter
from blobstore.index.metadata import PACKED_FROM
from blobstore.packing import pack as pack_module
from blobstore.packing import skeleton
from blobstore.packing.pack import pack
from blobstore.packing.unpack import unpack
from tests.checkpoints import linux_only
from tests.packing_files import tuned, weights, write_weights
from tests.strategies import payload
from tests.tensor_strategies import mutated
from tests.test_limits import read

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Tensors = dict[str, tuple[str, tuple[int, ...], bytes]]

UP = "model.layers.0.mlp.up_proj.weight"
VARIANTS = ["embedded", "external", "delta", "version 1"]


class Site:
    """A small packed file, to be damaged again and again.

    Attributes:
        variant: One of `VARIANTS`.
        path: Where damaged copies are written.
        raw: The undamaged file.
        base: The base that it was packed with, or None.
    """

    def __init__(self, folder: Path, variant: str) -> None:
        self.variant = variant
        original, self.path, self.target = folder / "original.sbs", folder / "packed.sbs", folder / "back.sbs"
        values = weights(1, 90)
        tensors = {UP: tuned(values, 2), "c_plain": np.frombuffer(payload(3, 20), np.uint8)}
        index: Any = "external" if variant == "external" else "embedded"
        write_weights(original, tensors, index=index, version=1 if variant == "version 1" else 2)
        self.base = write_weights(folder / "base.sbs", {UP: values}) if variant == "delta" else None
        pack(original, self.path, only=[UP], base=self.base)
        self.raw = self.path.read_bytes()
        self.wanted = original.read_bytes(), self._beside(original)
        self.expected_read = self.read()
        with BlobReader(self.path, access="read") as reader:
            self.ranges = {key: reader.range(key) for key in reader}
            self.names = {UP: next(key for key in reader if key not in {"c_plain", INDEX_KEY, SKELETON_KEY})}

    @staticmethod
    def _beside(path: Path) -> bytes | None:
        beside = path.with_name(f"{path.name}.idx")
        return beside.read_bytes() if beside.exists() else None

    def read(self) -> Tensors | str:
        """Return the tensors of the file, or the reason why a reader refuses them."""
        try:
            with blobstore.open(self.path, access="read", base=self.base) as store:
                return {name: (str(values.dtype), values.shape, values.tobytes()) for name, values in store.items()}
        except BlobStoreError as error:
            return error.reason

    def check(self, raw: bytes, *, same: bool) -> set[str]:
        """Fail unless a damaged file is refused or is restored right → the reasons.

        Args:
            raw: Its bytes.
            same: Whether each of its tensors must be read right or refused. Elsewhere nothing protects what is read.
        """
        self.path.write_bytes(raw)
        result = self.read()
        if same:
            assert isinstance(result, str) or result == self.expected_read
        reasons = {result} if isinstance(result, str) else set()
        try:
            unpack(self.path, self.target, base=self.base)
        except BlobStoreError as error:
            assert not self.target.exists()
            return reasons | {error.reason}
        assert (self.target.read_bytes(), self._beside(self.target)) == self.wanted
        self.target.unlink()
        return reasons

    def guarded(self, place: int) -> bool:
        """Whether a byte is in a packed blob, or is not needed to read tensors."""
        for key, (offset, nbytes) in self.ranges.items():
            if offset <= place < offset + nbytes:
                return key in {self.names[UP], SKELETON_KEY, SKELETON_INDEX_KEY}
        return False


@pytest.fixture(params=VARIANTS)
def site(request: pytest.FixtureRequest, memory: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(pack_module, "_WORTH", 1000.0)
    return Site(memory, request.param)


def flipped(raw: bytes, place: int, bits: int) -> bytes:
    out = bytearray(raw)
    out[place] ^= bits
    return bytes(out)


def places_of(site: Site) -> list[int]:
    """Return the offset of every byte of blobs, headers and directory, and of some of the padding."""
    inside = {place for offset, nbytes in site.ranges.values() for place in range(offset, offset + nbytes)}
    tail = range(len(site.raw) - 16 - 32 * len(site.ranges), len(site.raw))
    return sorted({*inside, *range(16 + 32 * len(site.ranges)), *tail, *range(0, len(site.raw), 997)})


def test_each_changed_byte_is_detected_or_harmless(site: Site) -> None:
    rng = np.random.default_rng(4)
    reasons = set()
    for place in places_of(site)[:: 1 if site.variant == "external" else 3]:
        reasons |= site.check(flipped(site.raw, place, int(rng.integers(1, 256))), same=site.guarded(place))
    assert reasons >= {
        "packed-header",
        "packed-data",
        "packed-frame",
        "packed-skeleton",
        "unpacked-digest",
    }
    site.path.write_bytes(site.raw)
    assert site.read() == site.expected_read


def test_each_flipped_bit_of_a_packed_blob_or_the_skeleton_is_detected_or_harmless(site: Site) -> None:
    for key in (site.names[UP], SKELETON_KEY):
        offset, nbytes = site.ranges[key]
        for place in range(0, 8 * nbytes, 2 if site.variant == "delta" else 13):
            site.check(flipped(site.raw, offset + place // 8, 1 << place % 8), same=True)


def test_a_truncated_file_is_refused(site: Site) -> None:
    for nbytes in (*range(0, len(site.raw), 641), len(site.raw) - 1):
        assert site.check(site.raw[:nbytes], same=True)


@settings(max_examples=settings().max_examples // 2)
@given(st.data())
def test_a_wrong_index_never_restores_another_file(site: Site, data: st.DataObject) -> None:
    offset, nbytes = site.ranges[INDEX_KEY]
    broken = data.draw(mutated(site.raw[offset : offset + nbytes]))
    if len(broken) == nbytes:
        site.check(site.raw[:offset] + broken + site.raw[offset + nbytes :], same=False)


# ------------------------------------------------------------------------------------------------------ hostile files


class Packed:
    """The parts of a packed file, to be changed and put together again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with blobstore.open(path, access="read") as store:
            assert store.index
            index = store.index
            self.blobs = {key: bytes(blob) for key, blob in store.reader.items() if key != INDEX_KEY}
            self.unpacked = {row.key.decode(): row.unpacked_nbytes for row in map(index.blob, range(len(index.blobs)))}
            self.entries, self.metadata = list(index.all_entries()), store.metadata
        self.key = next(key for key, nbytes in self.unpacked.items() if nbytes)

    def write(self, metadata: str | None = None) -> Path:
        """Write them, with this text about the original."""
        rows = [
            IndexedBlob(key.encode(), len(blob), hashlib.sha256(blob).digest(), self.unpacked.get(key, 0))
            for key, blob in self.blobs.items()
        ]
        new_metadata = self.metadata | ({PACKED_FROM: metadata} if metadata is not None else {})
        with BlobWriter(self.path) as writer:
            for key, blob in self.blobs.items():
                writer.add(key, blob)
            writer.add(INDEX_KEY, build_index(self.entries, rows, new_metadata))
        return self.path

    @property
    def original(self) -> dict[str, Any]:
        original: dict[str, Any] = json.loads(self.metadata[PACKED_FROM])
        return original


@pytest.fixture
def parts(tmp_path: Path) -> Packed:
    pack(write_weights(tmp_path / "m.sbs", {UP: weights(1, 3000)}, index="external"), tmp_path / "p.sbs")
    return Packed(tmp_path / "p.sbs")


def refusals(path: Path) -> tuple[str, str]:
    """Return the reasons why reading the tensor and unpacking are refused; empty for what works."""
    reasons = []
    target = path.with_name("never.sbs")
    for change in (lambda: blobstore.load_file(path), lambda: unpack(path, target)):
        try:
            change()
            reasons.append("")
        except BlobStoreError as error:
            reasons.append(error.reason)
    assert bool(reasons[1]) != target.exists()
    return reasons[0], reasons[1]


def test_parts_put_together_again_are_the_file(parts: Packed) -> None:
    before = parts.path.read_bytes()
    assert refusals(parts.write()) == ("", "")
    assert parts.path.read_bytes() == before


@pytest.mark.parametrize(
    ("nbytes", "wanted"),
    [
        (5999, ("index-range", "packed-skeleton")),
        (6001, ("packed-nbytes", "packed-skeleton")),
        (1 << 60, ("packed-nbytes", "packed-skeleton")),
        ((1 << 64) - 1, ("packed-nbytes", "packed-skeleton")),
        (0, ("index-codec", "packed-skeleton")),
    ],
)
def test_an_index_that_claims_another_size_is_refused(parts: Packed, nbytes: int, wanted: tuple[str, str]) -> None:
    parts.unpacked[parts.key] = nbytes
    if not nbytes:  # the entry's range fits the packed bytes, as if they were the tensor
        parts.entries = [replace(parts.entries[0], nbytes=60, shape=(30,))]
    assert refusals(parts.write()) == wanted


@pytest.mark.parametrize(("offset", "nbytes"), [(1, 6000), (6000, 2), (6001, 0), (0, 6002), ((1 << 64) - 2, 4)])
def test_a_tensor_that_extends_beyond_its_unpacked_blob_is_refused(parts: Packed, offset: int, nbytes: int) -> None:
    parts.entries = [replace(parts.entries[0], offset=offset, nbytes=nbytes, shape=(nbytes // 2,))]
    assert refusals(parts.write())[0] == "index-range"


METADATA = [
    *("", "{}", "[]", "null", "1", '"a"', "[1,2,3]", "{", "[" * 100_000, '{"a":1,"b":2,"c":3}'),
    '{"nbytes":0,"sha256":"' + "00" * 32 + '","index":"none"}',
    '{"nbytes":-1,"sha256":"' + "00" * 32 + '","index":"none"}',
    '{"nbytes":true,"sha256":"' + "00" * 32 + '","index":"none"}',
    '{"nbytes":1.0,"sha256":"' + "00" * 32 + '","index":"none"}',
    '{"nbytes":9223372036854775808,"sha256":"' + "00" * 32 + '","index":"none"}',
    '{"nbytes":' + "9" * 4000 + ',"sha256":"' + "00" * 32 + '","index":"none"}',
    '{"nbytes":65536,"sha256":"' + "00" * 31 + '","index":"none"}',
    '{"nbytes":65536,"sha256":"' + "0g" * 32 + '","index":"none"}',
    '{"nbytes":65536,"sha256":7,"index":"none"}',
    '{"nbytes":65536,"sha256":"' + "00" * 32 + '","index":[]}',
    '{"nbytes":65536,"sha256":"' + "00" * 32 + '","index":"beside"}',
    '{"nbytes":65536,"sha256":"' + "00" * 32 + '","index":"none","more":1}',
    '{"nbytes":65536,"sha256":"' + "00" * 32 + '"}',
]


@pytest.mark.parametrize("text", METADATA, ids=range(len(METADATA)))
def test_malformed_text_about_the_original_is_refused(parts: Packed, text: str) -> None:
    assert refusals(parts.write(text)) == ("", "packed-metadata")


@pytest.mark.parametrize(
    ("claims", "reasons"),
    [
        ({"nbytes": 65535}, {"file-size"}),
        ({"nbytes": 131072}, {"file-size"}),
        ({"nbytes": 1}, {"truncated"}),
        ({"nbytes": (1 << 63) - 1}, {"file-size"}),
        ({"sha256": "00" * 32}, {"unpacked-digest"}),
        ({"index": "none"}, {""}),
        ({"index": "embedded"}, {""}),
    ],
)
def test_false_claims_about_the_original_are_detected(
    parts: Packed, claims: dict[str, object], reasons: set[str]
) -> None:
    read_reason, reason = refusals(parts.write(json.dumps(parts.original | claims)))
    assert not read_reason
    assert reason in reasons


def frame(raw: bytes, *, sized: bool = True) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=sized).compress(raw)


def bomb(nbytes: int) -> bytes:
    """Return a frame of so many zeros."""
    squeeze = zstandard.ZstdCompressor(level=1).compressobj(size=nbytes)
    return b"".join(squeeze.compress(bytes(1 << 20)) for _ in range(nbytes >> 20)) + squeeze.flush()


SKELETONS: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda _: frame(b""),
    "no frame": lambda _: b"no frame",
    "one byte": lambda _: b"x",
    "cut": lambda whole: whole[:-1],
    "more": lambda whole: whole + b"x",
    "two frames": lambda whole: whole * 2,
    "no size": lambda whole: frame(skeleton.decompressed(memoryview(whole)), sized=False),
    "no header": lambda _: frame(bytes(65536 - 6000)),
    "shorter": lambda whole: frame(skeleton.decompressed(memoryview(whole))[:-1]),
    "longer": lambda whole: frame(skeleton.decompressed(memoryview(whole)) + b"\0"),
    "padded": lambda whole: frame(bytes(16) + skeleton.decompressed(memoryview(whole))),
    "a bomb": lambda _: bomb(1 << 28),
}


@pytest.mark.parametrize("name", SKELETONS)
def test_a_wrong_skeleton_is_refused(parts: Packed, name: str) -> None:
    parts.blobs[SKELETON_KEY] = SKELETONS[name](parts.blobs[SKELETON_KEY])
    read_reason, reason = refusals(parts.write())
    assert not read_reason
    assert reason
    assert name not in ("cut", "more", "no size", "a bomb") or reason == "packed-skeleton"


@pytest.mark.parametrize("name", SKELETONS)
def test_a_wrong_index_of_the_original_is_refused(parts: Packed, name: str) -> None:
    before = parts.blobs[SKELETON_INDEX_KEY]
    parts.blobs[SKELETON_INDEX_KEY] = SKELETONS[name](before)
    reason = refusals(parts.write())[1]
    assert reason.startswith(("index-", "packed-skeleton"))


def test_an_index_of_another_file_is_not_written_beside_the_original(parts: Packed, tmp_path: Path) -> None:
    write_weights(tmp_path / "other.sbs", {UP: weights(1, 3001)}, index="external")
    parts.blobs[SKELETON_INDEX_KEY] = frame((tmp_path / "other.sbs.idx").read_bytes())
    assert refusals(parts.write()) == ("", "index-stale")


def test_missing_blobs_are_errors(parts: Packed) -> None:
    for key, reason in ((SKELETON_KEY, "not-packed"), (SKELETON_INDEX_KEY, "packed-skeleton")):
        held = parts.blobs.pop(key)
        assert refusals(parts.write()) == ("", reason)
        parts.blobs[key] = held
    parts.blobs["other"] = parts.blobs.pop(parts.key)
    parts.unpacked["other"] = parts.unpacked[parts.key]
    parts.entries = [replace(parts.entries[0], blob=list(parts.blobs).index("other"))]
    assert refusals(parts.write()) == ("", "packed-skeleton")


def test_a_packed_blob_replaced_by_another_of_the_same_size_is_detected(parts: Packed) -> None:
    stream = b"".join(map(bytes, compress(weights(2, 3000).tobytes(), WHOLE)))
    parts.blobs[parts.key] = stream
    assert refusals(parts.write()) == ("", "unpacked-digest")


# ---------------------------------------------------------------------------------------------------------------- bombs


@cache
def zeros(nbytes: int) -> bytes:
    """Return a packed stream of so many zeros, 50,000 times smaller."""
    return b"".join(map(bytes, compress(np.zeros(nbytes, np.uint8), WHOLE, chunk=MAX_CHUNK, level=3)))


@linux_only
def test_bombs_take_no_more_memory_than_their_size_allows(tmp_path: Path) -> None:
    nbytes = 256 << 20
    stream = zeros(nbytes)
    assert len(stream) < 40_000
    entry = Entry("zeros", 0, 0, nbytes, BY_NAME["u8"].number, (nbytes,), codec=PACKED)
    original = {"nbytes": 65536, "sha256": "00" * 32, "index": "none"}
    bombs = {"first": frame(b"x"), "unpack": bomb(1 << 29)}
    paths = []
    for way, outside in bombs.items():
        blobs = {"zeros": stream, SKELETON_KEY: outside}
        rows = [IndexedBlob(key.encode(), len(blob), None, nbytes * (key == "zeros")) for key, blob in blobs.items()]
        path = tmp_path / f"{way}.sbs"
        with BlobWriter(path) as writer:
            for key, blob in blobs.items():
                writer.add(key, blob)
            writer.add(INDEX_KEY, build_index([entry], rows, {PACKED_FROM: json.dumps(original)}))
        paths += [(way, path), ("store", path)]
    assert read(paths) == ["read", "read", "packed-skeleton", "read"]


@linux_only
def test_unpacking_takes_little_memory_for_a_file_that_was_packed_very_small(tmp_path: Path) -> None:
    path, packed = tmp_path / "m.sbs", tmp_path / "p.sbs"
    with blobstore.create(path) as store:
        store.add("zeros", np.zeros(200 << 20, np.uint8))
    pack(path, packed)
    path.unlink()
    assert packed.stat().st_size == 65536
    assert read([("unpack", packed)]) == ["read"]


def test_a_skeleton_that_readers_would_take_for_a_bomb_is_not_written() -> None:
    with pytest.raises(UsageError, match="packed-skeleton"):
        skeleton.compressed(bytes(20 << 20))
    with pytest.raises(FormatError, match="packed-skeleton"):
        skeleton.decompressed(memoryview(bomb(20 << 20)))
    assert skeleton.decompressed(memoryview(skeleton.compressed(bytes(15 << 20)))) == bytes(15 << 20)
