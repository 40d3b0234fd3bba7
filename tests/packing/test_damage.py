"""Packed files that are damaged or hostile: an error with a reason or the right result, never another one."""

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

    Said = dict[str, tuple[str, tuple[int, ...], bytes]]

UP = "model.layers.0.mlp.up_proj.weight"
KINDS = ["embedded", "external", "delta", "version 1"]


class Site:
    """A small packed file that is damaged again and again.

    Attributes:
        kind: One of `KINDS`.
        path: Where damaged ones are put.
        raw: The whole one.
        base: What it is the difference to, or None.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self.kind = kind
        original, self.path, self.target = folder / "original.sbs", folder / "packed.sbs", folder / "back.sbs"
        values = weights(1, 90)
        tensors = {UP: tuned(values, 2), "c_plain": np.frombuffer(payload(3, 20), np.uint8)}
        index: Any = "external" if kind == "external" else "embedded"
        write_weights(original, tensors, index=index, version=1 if kind == "version 1" else 2)
        self.base = write_weights(folder / "base.sbs", {UP: values}) if kind == "delta" else None
        pack(original, self.path, only=[UP], base=self.base)
        self.raw = self.path.read_bytes()
        self.wanted = original.read_bytes(), self._beside(original)
        self.said = self.read()
        with BlobReader(self.path, access="read") as reader:
            self.ranges = {key: reader.range(key) for key in reader}
            self.names = {UP: next(key for key in reader if key not in {"c_plain", INDEX_KEY, SKELETON_KEY})}

    @staticmethod
    def _beside(path: Path) -> bytes | None:
        beside = path.with_name(f"{path.name}.idx")
        return beside.read_bytes() if beside.exists() else None

    def read(self) -> Said | str:
        """What a reader says of the file's tensors, or the reason why it refuses them."""
        try:
            with blobstore.open(self.path, access="read", base=self.base) as store:
                return {name: (str(one.dtype), one.shape, one.tobytes()) for name, one in store.items()}
        except BlobStoreError as error:
            return error.reason

    def check(self, raw: bytes, *, same: bool) -> set[str]:
        """Fail unless a damaged file is refused or comes back → the reasons.

        Args:
            raw: Of the file.
            same: Whether each of its tensors must be what it was, or refused; elsewhere nothing guards what is read.
        """
        self.path.write_bytes(raw)
        said = self.read()
        if same:
            assert isinstance(said, str) or said == self.said
        reasons = {said} if isinstance(said, str) else set()
        try:
            unpack(self.path, self.target, base=self.base)
        except BlobStoreError as error:
            assert not self.target.exists()
            return reasons | {error.reason}
        assert (self.target.read_bytes(), self._beside(self.target)) == self.wanted
        self.target.unlink()
        return reasons

    def guarded(self, place: int) -> bool:
        """Whether a byte of the file is in a packed blob, or nothing that a reader of tensors needs."""
        for key, (offset, nbytes) in self.ranges.items():
            if offset <= place < offset + nbytes:
                return key in {self.names[UP], SKELETON_KEY, SKELETON_INDEX_KEY}
        return False


@pytest.fixture(params=KINDS)
def site(request: pytest.FixtureRequest, memory: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(pack_module, "_WORTH", 1000.0)
    return Site(memory, request.param)


def flipped(raw: bytes, place: int, bits: int) -> bytes:
    out = bytearray(raw)
    out[place] ^= bits
    return bytes(out)


def places_of(site: Site) -> list[int]:
    """Every byte of blobs and of headers and directory, and some of the padding."""
    inside = {place for offset, nbytes in site.ranges.values() for place in range(offset, offset + nbytes)}
    tail = range(len(site.raw) - 16 - 32 * len(site.ranges), len(site.raw))
    return sorted({*inside, *range(16 + 32 * len(site.ranges)), *tail, *range(0, len(site.raw), 997)})


def test_each_byte_that_changes_is_found_or_changes_nothing(site: Site) -> None:
    rng = np.random.default_rng(4)
    found = set()
    for place in places_of(site)[:: 1 if site.kind == "external" else 3]:
        found |= site.check(flipped(site.raw, place, int(rng.integers(1, 256))), same=site.guarded(place))
    assert found >= {
        "packed-header",
        "packed-data",
        "packed-frame",
        "packed-skeleton",
        "unpacked-digest",
    }
    site.path.write_bytes(site.raw)
    assert site.read() == site.said


def test_each_bit_that_changes_in_a_packed_blob_or_the_skeleton_is_found_or_changes_nothing(site: Site) -> None:
    for key in (site.names[UP], SKELETON_KEY):
        offset, nbytes = site.ranges[key]
        for place in range(0, 8 * nbytes, 2 if site.kind == "delta" else 13):
            site.check(flipped(site.raw, offset + place // 8, 1 << place % 8), same=True)


def test_a_file_that_is_cut_is_refused(site: Site) -> None:
    for nbytes in (*range(0, len(site.raw), 641), len(site.raw) - 1):
        assert site.check(site.raw[:nbytes], same=True)


@settings(max_examples=settings().max_examples // 2)
@given(st.data())
def test_a_wrong_index_never_makes_another_file(site: Site, data: st.DataObject) -> None:
    offset, nbytes = site.ranges[INDEX_KEY]
    broken = data.draw(mutated(site.raw[offset : offset + nbytes]))
    if len(broken) == nbytes:
        site.check(site.raw[:offset] + broken + site.raw[offset + nbytes :], same=False)


# ------------------------------------------------------------------------------------------------------- hostile ones


class Packed:
    """A packed file's parts, to be put together otherwise."""

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
        """Write them, with what they say of the original."""
        rows = [
            IndexedBlob(key.encode(), len(blob), hashlib.sha256(blob).digest(), self.unpacked.get(key, 0))
            for key, blob in self.blobs.items()
        ]
        said = self.metadata | ({PACKED_FROM: metadata} if metadata is not None else {})
        with BlobWriter(self.path) as writer:
            for key, blob in self.blobs.items():
                writer.add(key, blob)
            writer.add(INDEX_KEY, build_index(self.entries, rows, said))
        return self.path

    @property
    def original(self) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(self.metadata[PACKED_FROM])
        return said


@pytest.fixture
def parts(tmp_path: Path) -> Packed:
    pack(write_weights(tmp_path / "m.sbs", {UP: weights(1, 3000)}, index="external"), tmp_path / "p.sbs")
    return Packed(tmp_path / "p.sbs")


def refusals(path: Path) -> tuple[str, str]:
    """Why reading the tensor is refused, and why unpacking is; empty where it isn't."""
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
    if not nbytes:  # the entry's range fits the packed bytes, as if these were the tensor
        parts.entries = [replace(parts.entries[0], nbytes=60, shape=(30,))]
    assert refusals(parts.write()) == wanted


@pytest.mark.parametrize(("offset", "nbytes"), [(1, 6000), (6000, 2), (6001, 0), (0, 6002), ((1 << 64) - 2, 4)])
def test_a_tensor_beyond_what_its_blob_stands_for_is_refused(parts: Packed, offset: int, nbytes: int) -> None:
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
def test_what_it_says_of_the_original_in_another_shape_is_refused(parts: Packed, text: str) -> None:
    assert refusals(parts.write(text)) == ("", "packed-metadata")


@pytest.mark.parametrize(
    ("said", "reasons"),
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
def test_what_it_says_wrongly_of_the_original_is_found(
    parts: Packed, said: dict[str, object], reasons: set[str]
) -> None:
    read_reason, reason = refusals(parts.write(json.dumps(parts.original | said)))
    assert not read_reason
    assert reason in reasons


def frame(raw: bytes, *, sized: bool = True) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=sized).compress(raw)


def bomb(nbytes: int) -> bytes:
    """A frame of so many zeros."""
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


def test_an_index_of_another_file_is_not_put_beside_the_original(parts: Packed, tmp_path: Path) -> None:
    write_weights(tmp_path / "other.sbs", {UP: weights(1, 3001)}, index="external")
    parts.blobs[SKELETON_INDEX_KEY] = frame((tmp_path / "other.sbs.idx").read_bytes())
    assert refusals(parts.write()) == ("", "index-stale")


def test_what_is_missing_is_named(parts: Packed) -> None:
    for key, reason in ((SKELETON_KEY, "not-packed"), (SKELETON_INDEX_KEY, "packed-skeleton")):
        held = parts.blobs.pop(key)
        assert refusals(parts.write()) == ("", reason)
        parts.blobs[key] = held
    parts.blobs["other"] = parts.blobs.pop(parts.key)
    parts.unpacked["other"] = parts.unpacked[parts.key]
    parts.entries = [replace(parts.entries[0], blob=list(parts.blobs).index("other"))]
    assert refusals(parts.write()) == ("", "packed-skeleton")


def test_a_packed_blob_exchanged_for_another_of_the_same_size_is_found(parts: Packed) -> None:
    stream = b"".join(map(bytes, compress(weights(2, 3000).tobytes(), WHOLE)))
    parts.blobs[parts.key] = stream
    assert refusals(parts.write()) == ("", "unpacked-digest")


# ---------------------------------------------------------------------------------------------------------------- bombs


@cache
def zeros(nbytes: int) -> bytes:
    """A stream of zeros, 50,000 times as many."""
    return b"".join(map(bytes, compress(np.zeros(nbytes, np.uint8), WHOLE, chunk=MAX_CHUNK, level=3)))


@linux_only
def test_bombs_take_memory_in_their_measure(tmp_path: Path) -> None:
    nbytes = 256 << 20
    stream = zeros(nbytes)
    assert len(stream) < 40_000
    entry = Entry("zeros", 0, 0, nbytes, BY_NAME["u8"].number, (nbytes,), codec=PACKED)
    said = {"nbytes": 65536, "sha256": "00" * 32, "index": "none"}
    bombs = {"first": frame(b"x"), "unpack": bomb(1 << 29)}
    paths = []
    for way, outside in bombs.items():
        blobs = {"zeros": stream, SKELETON_KEY: outside}
        rows = [IndexedBlob(key.encode(), len(one), None, nbytes * (key == "zeros")) for key, one in blobs.items()]
        path = tmp_path / f"{way}.sbs"
        with BlobWriter(path) as writer:
            for key, one in blobs.items():
                writer.add(key, one)
            writer.add(INDEX_KEY, build_index([entry], rows, {PACKED_FROM: json.dumps(said)}))
        paths += [(way, path), ("store", path)]
    assert read(paths) == ["read", "read", "packed-skeleton", "read"]


@linux_only
def test_unpacking_takes_memory_in_the_files_measure(tmp_path: Path) -> None:
    path, packed = tmp_path / "m.sbs", tmp_path / "p.sbs"
    with blobstore.create(path) as store:
        store.add("zeros", np.zeros(200 << 20, np.uint8))
    pack(path, packed)
    path.unlink()
    assert packed.stat().st_size == 65536
    assert read([("unpack", packed)]) == ["read"]


def test_what_gets_too_small_to_be_trusted_is_not_packed() -> None:
    with pytest.raises(UsageError, match="packed-skeleton"):
        skeleton.compressed(bytes(20 << 20))
    with pytest.raises(FormatError, match="packed-skeleton"):
        skeleton.decompressed(memoryview(bomb(20 << 20)))
    assert skeleton.decompressed(memoryview(skeleton.compressed(bytes(15 << 20)))) == bytes(15 << 20)
