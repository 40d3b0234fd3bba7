"""Packed blobs: round trips, and which damage is found."""

from __future__ import annotations

import hashlib
import json
import re
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from blobstore.codecs.element_types import BY_NAME
from blobstore.compression.planes import Layout, layout_of
from blobstore.compression.reader import HEADER, PackedReader
from blobstore.compression.writer import DEFAULT_CHUNK_NBYTES, compress, sampled_ratio
from blobstore.errors import BlobStoreError, FormatError, TruncatedError, UsageError
from blobstore.fileio.threads import in_order
from blobstore.index import Entry, IndexedBlob, build_index
from blobstore.index.blob_writer import BlobWriter
from blobstore.store.reader import Store
from tests.compression.test_planes import LAYOUTS, every_layout
from tests.conftest import VECTORS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Fact = dict[str, Any]
FACTS: dict[str, list[Fact]] = json.loads((VECTORS / "packed.json").read_bytes())
# In the order of the checks, P1 to P14.
REASONS = "truncated magic version header flags layout chunk reserved table table-crc sizes frame data pairs"


def packed(data: bytes, layout: Layout, **options: Any) -> bytes:  # noqa: ANN401
    return b"".join(bytes(piece) for piece in compress(data, layout, **options))


def base_of(data: bytes) -> Callable[[int, int], bytes]:
    return lambda start, stop: data[start:stop]


def facts(group: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("fact", [pytest.param(fact, id=fact["name"]) for fact in FACTS[group]])


# ------------------------------------------------------------------------------------------------------------ vectors


@facts("packed_valid")
def test_a_valid_vector_reads_as_it_says(fact: Fact) -> None:
    reader = PackedReader(bytes.fromhex(fact["stored"]))
    wanted = bytes.fromhex(fact["bytes"])
    base = base_of(bytes.fromhex(fact["base"])) if "base" in fact else None
    assert reader.nbytes == len(wanted)
    assert reader.layout == Layout(fact["width"], signed=fact["signed"])
    assert reader.chunk_nbytes == fact["chunk"] * fact["width"]
    assert (reader.base_sha256.hex() if reader.base_sha256 else None) == fact.get("base_sha256")
    assert reader.read(base=base).tobytes() == wanted
    for start in range(0, len(wanted), 17):
        assert reader.read(start, min(start + 5, len(wanted)), base=base).tobytes() == wanted[start : start + 5]


@facts("packed_valid")
def test_a_writer_makes_the_header_of_a_valid_vector(fact: Fact) -> None:
    options: dict[str, Any] = {"chunk": fact["chunk"]}
    if "base" in fact:
        options["base"] = base_of(bytes.fromhex(fact["base"]))
        options["base_sha256"] = bytes.fromhex(fact["base_sha256"])
    made = packed(bytes.fromhex(fact["bytes"]), Layout(fact["width"], signed=fact["signed"]), **options)
    assert made[: HEADER.itemsize].hex() == fact["stored"][: 2 * HEADER.itemsize]


@facts("packed_invalid")
def test_an_invalid_vector_is_refused(fact: Fact) -> None:
    stored = bytes.fromhex(fact["stored"])
    if fact.get("read"):
        reader = PackedReader(stored)
        with pytest.raises(FormatError) as caught:
            reader.read()
        assert caught.value.offset == HEADER.itemsize
    else:
        with pytest.raises(FormatError) as caught:
            PackedReader(stored)
    assert caught.value.reason == fact["reason"]


@facts("packed_bases")
def test_a_vector_with_the_wrong_base_is_refused(tmp_path: Path, fact: Fact) -> None:
    stream = PackedReader(bytes.fromhex(fact["stored"]))
    base = bytes.fromhex(fact["base"]) if "base" in fact else None
    if stream.base_sha256 is None or not base:  # blobs are never empty
        with pytest.raises(UsageError) as caught:
            stream.read(base=None if base is None else base_of(base))
    else:  # comparing the base's digest is up to the caller
        blobs = {"packed": bytes.fromhex(fact["stored"]), "base": base}
        entry = Entry("a", 0, 0, stream.nbytes, BY_NAME["u8"].number, (stream.nbytes,), codec=1)
        index = build_index([entry], [IndexedBlob(b"a", len(blobs["packed"]), None, stream.nbytes)])
        for name, data in blobs.items():
            with BlobWriter(tmp_path / name) as writer:
                writer.add("a", data)
                if name == "packed":
                    writer.add("~index", index)
        with Store(tmp_path / "packed", base=tmp_path / "base") as store, pytest.raises(UsageError) as caught:
            store.load("a")
    assert caught.value.reason == fact["reason"]


def test_every_reason_to_refuse_a_base_has_a_vector_and_stands_on_the_page() -> None:
    page = (VECTORS.parent / "packed.md").read_text()
    listed = re.findall(r"^\| `([a-z]+-base)`", page, re.MULTILINE)
    assert listed == ["needs-base", "wrong-base", "needless-base"]
    assert {fact["reason"] for fact in FACTS["packed_bases"]} == {*listed}


# The offset that each check of header and table reports: the field's, or the beginning of the table.
PLACES = {"truncated": 0, "magic": 0, "version": 8, "header": 76, "flags": 12, "layout": 24, "chunk": 28}
PLACES |= {"reserved": 26, "table": 16}


@facts("packed_invalid")
def test_a_fault_of_the_layout_is_said_with_its_place(fact: Fact) -> None:
    stored = bytes.fromhex(fact["stored"])
    if fact.get("read"):
        return
    with pytest.raises(FormatError) as caught:
        PackedReader(stored)
    code = fact["reason"].removeprefix("packed-")
    if code not in PLACES:
        header = np.frombuffer(stored, HEADER, 1)[0]
        width, nbytes = int(header["width"]), int(header["nbytes"])
        frames = -(-(nbytes // width) // int(header["chunk"])) * width
        assert caught.value.offset == len(stored) - 4 - 4 * frames
    else:
        assert caught.value.offset == PLACES[code]


@every_layout
@given(count=st.integers(3, 12), data=st.data())
def test_the_offset_of_a_damaged_frame_is_where_it_begins(layout: Layout, count: int, data: st.DataObject) -> None:
    chunk = 20
    raw = np.random.default_rng(9).bytes(chunk * layout.width * count)
    stored = bytearray(packed(raw, layout, chunk=chunk))
    frames = count * layout.width
    sizes = np.frombuffer(stored, "<u4", frames, len(stored) - 4 - 4 * frames).tolist()
    place = data.draw(st.integers(0, frames - 1))
    start = HEADER.itemsize + sum(sizes[:place])
    at = data.draw(st.sampled_from([0, 4, sizes[place] - 1]))  # magic, descriptor, checksum
    stored[start + at] ^= 0x10
    reader = PackedReader(stored)
    first = place // layout.width * chunk * layout.width
    for begin, end in ((0, len(raw)), (first, first + 1)):
        with pytest.raises(FormatError) as caught:
            reader.read(begin, end)
        assert caught.value.reason == ("packed-data" if at > 4 else "packed-frame")
        assert caught.value.offset == start


@given(data=st.binary(min_size=1, max_size=300), chunk=st.integers(1, 9), job=st.integers(1, 100), where=st.data())
def test_no_chunk_is_decoded_twice(data: bytes, chunk: int, job: int, where: st.DataObject) -> None:
    """For any size of jobs, and any range."""
    reader = PackedReader(packed(data, Layout(1), chunk=chunk))
    start = where.draw(st.integers(0, len(data) - 1))
    stop = where.draw(st.integers(start + 1, len(data)))
    decoded: list[int] = []
    plane = reader._plane

    def counted(place: int, *rest: int) -> Any:  # noqa: ANN401 (as _plane has it)
        decoded.append(place)
        return plane(place, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "_plane", counted)
        assert reader.read(start, stop, job_nbytes=job).tobytes() == data[start:stop]
    assert decoded == list(range(start // chunk, -(-stop // chunk)))


def test_every_check_has_an_invalid_vector_and_stands_on_the_page_in_order() -> None:
    reasons = [f"packed-{reason}" for reason in REASONS.split()]
    assert {fact["reason"] for fact in FACTS["packed_invalid"]} == set(reasons)
    page = (VECTORS.parent / "packed.md").read_text()
    assert [line.split("`")[1] for line in page.splitlines() if line.startswith("| P")] == reasons


def test_the_example_on_the_page_is_the_vector() -> None:
    page = (VECTORS.parent / "packed.md").read_text()
    lines = [line for line in page.splitlines() if line[:8].strip("0123456789abcdef") == "" and line[8:10] == "  "]
    shown = "".join(line[10:58].replace(" ", "") for line in lines)
    assert shown == next(fact["stored"] for fact in FACTS["packed_valid"] if fact["name"] == "example")


# --------------------------------------------------------------------------------------------------------- round trips

smooth = st.lists(st.sampled_from([0, 1, 63, 64, 255]), max_size=300).map(bytes)


@every_layout
@given(
    data=st.binary(max_size=300) | smooth, chunk=st.integers(1, 40), level=st.sampled_from([0, 1, 19]), where=st.data()
)
def test_any_range_of_packed_bytes_comes_back(
    layout: Layout, data: bytes, chunk: int, level: int, where: st.DataObject
) -> None:
    reader = PackedReader(packed(data, layout, chunk=chunk, level=level))
    assert reader.nbytes == len(data)
    assert reader.base_sha256 is None
    start = where.draw(st.integers(0, len(data)))
    stop = where.draw(st.integers(start, len(data)))
    assert reader.read().tobytes() == data
    assert reader.read(start, stop).tobytes() == data[start:stop]
    out = bytearray(stop - start)
    reader.read(start, stop, out=out)
    assert out == data[start:stop]


@given(
    type_name=st.sampled_from(["bf16", "f32", "sfp"]),
    chunk=st.integers(1, 30),
    pairs=st.lists(st.tuples(st.integers(0, 255), st.sampled_from([0, 0, 1, 128])), max_size=200),
    where=st.data(),
)
def test_a_difference_comes_back_with_its_base_only(
    type_name: str, chunk: int, pairs: list[tuple[int, int]], where: st.DataObject
) -> None:
    base, data = bytes(a for a, _ in pairs), bytes(a ^ b for a, b in pairs)
    digest = hashlib.sha256(base).digest()
    reader = PackedReader(
        packed(data, layout_of(BY_NAME[type_name]), chunk=chunk, base=base_of(base), base_sha256=digest)
    )
    assert reader.base_sha256 == digest
    start = where.draw(st.integers(0, len(data)))
    assert reader.read(start, base=base_of(base)).tobytes() == data[start:]
    with pytest.raises(UsageError, match="needs-base"):
        reader.read()


@every_layout
def test_a_difference_of_more_than_a_chunk_comes_back(layout: Layout) -> None:
    random = np.random.default_rng(8)
    base = random.bytes(DEFAULT_CHUNK_NBYTES + 5000)  # no part resembles another
    changed = np.frombuffer(base, np.uint8) ^ (random.integers(0, 50, len(base)) == 0)
    reader = PackedReader(packed(changed.tobytes(), layout, base=base_of(base), base_sha256=bytes(32)))
    assert np.array_equal(reader.read(base=base_of(base)), changed)
    assert np.array_equal(reader.read(3, len(base) - 4999, base=base_of(base)), changed[3:-4999])


@every_layout
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_sizes_around_a_chunks_border_come_back_with_threads_and_without(layout: Layout, more: int) -> None:
    data = np.random.default_rng(3).integers(0, 30, 2 * DEFAULT_CHUNK_NBYTES + more, dtype=np.uint8).tobytes()
    stored = packed(data, layout)
    assert packed(data, layout, run=in_order) == stored
    assert PackedReader(stored).read().tobytes() == data
    assert PackedReader(stored).read(5, run=in_order).tobytes() == data[5:]


def test_streams_that_are_asked_for_in_turns_are_those_that_are_asked_for_alone() -> None:
    random = np.random.default_rng(7)
    given = [random.normal(0, scale, 3 * DEFAULT_CHUNK_NBYTES // 4).astype("<f4").tobytes() for scale in (1, 1e-3)]
    layouts = Layout(4, signed=True), Layout(2)
    alone = [packed(data, layout) for data, layout in zip(given, layouts, strict=True)]
    streams = [compress(data, layout) for data, layout in zip(given, layouts, strict=True)]
    made = [bytearray(), bytearray()]
    with ThreadPoolExecutor(1) as pool:  # each stream continues in one thread, then in the other
        for turn in count():
            here, there = turn % 2, 1 - turn % 2
            theirs = pool.submit(next, streams[there], None)
            pieces = {here: next(streams[here], None), there: theirs.result()}
            for which, piece in pieces.items():
                made[which] += bytes(piece or b"")
            if pieces == {0: None, 1: None}:
                break
    assert made == alone


def test_many_jobs_are_the_same_in_threads() -> None:
    random = np.random.default_rng(8)
    data = random.normal(0, 0.02, 9 * DEFAULT_CHUNK_NBYTES + 1).astype(ml_dtypes.bfloat16).tobytes()
    layout = layout_of(BY_NAME["bf16"])
    stored = packed(data, layout)
    assert packed(data, layout, run=partial(in_order, workers=3)) == stored
    assert PackedReader(stored).read(run=partial(in_order, workers=3)).tobytes() == data


def test_every_pattern_of_16_bits_comes_back() -> None:
    data = np.arange(1 << 16, dtype=np.uint16).tobytes()
    for name in ("bf16", "f16", "u16"):
        assert PackedReader(packed(data, layout_of(BY_NAME[name]))).read().tobytes() == data


@pytest.mark.parametrize("name", BY_NAME)
def test_what_does_not_shrink_grows_by_next_to_nothing(name: str) -> None:
    layout = layout_of(BY_NAME[name])
    data = np.random.default_rng(4).bytes(DEFAULT_CHUNK_NBYTES)
    for nbytes in (8, 256 * 8, DEFAULT_CHUNK_NBYTES):
        assert len(packed(data[:nbytes], layout)) <= 1.001 * nbytes + 250
    assert sampled_ratio(data, layout) == pytest.approx(1, abs=0.01)


def test_weights_in_bfloat16_get_smaller_by_a_third() -> None:
    weights = (np.random.default_rng(5).standard_normal(1 << 20, dtype=np.float32) / 50).astype(ml_dtypes.bfloat16)
    data, layout = weights.tobytes(), layout_of(BY_NAME["bf16"])
    ratio = len(data) / len(packed(data, layout))
    assert ratio > 1.49
    assert sampled_ratio(data, layout) == pytest.approx(ratio, rel=0.01)


@pytest.mark.parametrize(("level", "halved"), [(0, True), (1, True), (2, False), (22, False)])
def test_exponents_are_held_in_pairs_at_the_lowest_levels(level: int, halved: bool) -> None:
    weights = (np.random.default_rng(5).standard_normal(1 << 12, dtype=np.float32) / 50).astype(ml_dtypes.bfloat16)
    stored = packed(weights.tobytes(), layout_of(BY_NAME["bf16"]), level=level)
    content = zstandard.get_frame_parameters(stored[HEADER.itemsize :]).content_size
    assert (content < (1 << 11) + 20) == halved


def test_what_comes_behind_a_chunk_that_does_not_shrink_still_does() -> None:
    random = np.random.default_rng(6)
    noise = random.bytes(DEFAULT_CHUNK_NBYTES)
    data = noise + random.integers(0, 20, 3 * DEFAULT_CHUNK_NBYTES, dtype=np.uint8).tobytes()
    behind = len(packed(data, Layout(1))) - len(packed(noise, Layout(1)))
    assert behind < 3 * DEFAULT_CHUNK_NBYTES * 0.6
    assert sampled_ratio(data, Layout(1)) == pytest.approx(len(data) / len(packed(data, Layout(1))), rel=0.02)
    # Stored as pairs on its own, and plain after noise, where no base was found.
    rest = random.geometric(0.4, 3 * DEFAULT_CHUNK_NBYTES).clip(max=14).astype(np.uint8).tobytes()
    behind = len(packed(noise + rest, Layout(1))) - len(packed(noise, Layout(1)))
    assert behind == pytest.approx(len(packed(rest, Layout(1))), rel=0.04)


def test_rows_that_differ_in_scale_get_codes_of_their_own_at_level_1() -> None:
    random = np.random.default_rng(5)
    values = random.standard_normal((32, 8192)) * 0.02
    layout = layout_of(BY_NAME["bf16"])
    for scales, gain in ((np.ones((32, 1)), 0), (2.0 ** random.integers(-8, 0, (32, 1)), 0.01)):
        weights = (values * scales).astype(ml_dtypes.bfloat16).tobytes()
        stored, denser = packed(weights, layout), packed(weights, layout, level=1)
        assert PackedReader(denser).read().tobytes() == weights
        assert len(denser) <= (1 - gain) * len(stored)


@pytest.mark.parametrize("level", [0, 1, 22])
def test_what_is_repeated_is_found_at_any_level(level: int) -> None:
    data = np.random.default_rng(9).bytes(1 << 12) * 64
    stored = packed(data, Layout(1), level=level)
    assert len(stored) < len(data) / 20
    assert PackedReader(stored).read().tobytes() == data


def test_bytes_that_are_the_bases_take_nearly_nothing() -> None:
    data = np.random.default_rng(6).bytes(1 << 20)
    stored = packed(data, Layout(2, signed=True), base=base_of(data), base_sha256=bytes(32))
    assert len(stored) < len(data) / 1000
    assert sampled_ratio(data, Layout(2), base=base_of(data)) > 1000


def test_the_ratio_of_less_than_an_element_is_one() -> None:
    assert sampled_ratio(b"abc", Layout(4)) == 1.0


# -------------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("nbytes", [0, 1, 30, 257])
def test_every_bit_that_flips_is_found_or_changes_nothing(layout: Layout, nbytes: int) -> None:
    data = np.random.default_rng(7).integers(0, 40, nbytes, dtype=np.uint8).tobytes()
    stored = packed(data, layout, chunk=90)
    harmless = 0
    for place in range(8 * len(stored)):
        broken = bytearray(stored)
        broken[place // 8] ^= 1 << place % 8
        try:
            restored = PackedReader(broken).read()
        except FormatError:
            continue
        assert restored.tobytes() == data
        harmless += 1
    # A raw block of one byte decodes like a repeated byte, and Huffman tables have bits that no symbol uses.
    assert harmless <= 8 * len(stored) // 50


@given(data=smooth, kept=st.floats(0, 1, exclude_max=True))
def test_a_stream_that_is_cut_is_refused_when_it_is_opened(data: bytes, kept: float) -> None:
    stored = packed(data, Layout(2, signed=True), chunk=50)
    with pytest.raises(FormatError) as caught:
        PackedReader(stored[: int(kept * len(stored))])
    assert caught.value.reason in {"packed-truncated", "packed-table", "packed-table-crc"}
    assert isinstance(caught.value, TruncatedError) or caught.value.reason == "packed-table-crc"


def test_damage_is_found_where_it_is_read_and_nowhere_else() -> None:
    data = np.random.default_rng(8).bytes(400)
    stored = bytearray(packed(data, Layout(1), chunk=100))
    stored[HEADER.itemsize + 150] ^= 1
    reader = PackedReader(stored)
    assert reader.read(0, 100).tobytes() + reader.read(200).tobytes() == data[:100] + data[200:]
    assert reader.read(150, 150).tobytes() == b""
    with pytest.raises(FormatError, match="packed-data"):
        reader.read(150, 151)


def test_a_bomb_is_refused_before_anything_is_allocated() -> None:
    bomb = next(fact for fact in FACTS["packed_invalid"] if fact["name"] == "frame-bomb")
    reader = PackedReader(bytes.fromhex(bomb["stored"]))
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            reader.read()
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_foreign_size_allocates_nothing() -> None:
    header = bytearray(packed(b"", Layout(1)))[: HEADER.itemsize]
    fields = np.frombuffer(header, HEADER)
    fields["nbytes"] = 1 << 60
    fields["crc32"] = zlib.crc32(header[:-4])
    tracemalloc.start()
    try:
        with pytest.raises(TruncatedError, match="packed-table"):
            PackedReader(bytes(header) + bytes(1000))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


# -------------------------------------------------------------------------------------------------------------- misuse


@pytest.mark.parametrize(
    ("reason", "options"),
    [
        ("packed-level", {"level": 23}),
        ("packed-level", {"level": -1}),
        ("packed-chunk", {"chunk": 0}),
        ("packed-chunk", {"chunk": (1 << 20) + 1}),
        ("packed-base", {"base": base_of(bytes(10))}),
        ("packed-base", {"base_sha256": bytes(32)}),
        ("packed-base", {"base": base_of(bytes(10)), "base_sha256": bytes(31)}),
        ("wrong-base", {"base": base_of(bytes(9)), "base_sha256": bytes(32)}),
    ],
)
def test_what_can_not_be_compressed_is_refused(reason: str, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        packed(bytes(10), Layout(1), **options)
    assert caught.value.reason == reason


def test_what_can_not_be_read_is_refused() -> None:
    reader = PackedReader(packed(bytes(10), Layout(1)))
    for start, stop, out in ((-1, 5, None), (5, 4, None), (0, 11, None), (0, 10, bytearray(9)), (0, 10, bytes(10))):
        with pytest.raises(BlobStoreError, match="packed-range"):
            reader.read(start, stop, out=out)
    with pytest.raises(UsageError, match="needless-base"):
        reader.read(base=base_of(bytes(10)))
