"""Verify the contents of blobs: compare them with their digests, and look for values that no weight should have."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from blobstore.checking.findings import finding, from_error
from blobstore.checking.structure import in_store, open_checked
from blobstore.codecs import are_finite
from blobstore.container.keys import INDEX_KEY, encode_key
from blobstore.errors import CodecError, FormatError, UsageError
from blobstore.fileio.hashing import digest_of
from blobstore.fileio.ranges import expect
from blobstore.fileio.threads import run_all
from blobstore.fileio.work import do_here, results
from blobstore.gemma.toc import odd_strides_in, stride_fault
from blobstore.index.carried import known_files
from blobstore.index.sets import SetReader
from blobstore.store.info import outermost
from blobstore.store.reader import Store
from blobstore.store.values import elements, stored, stored_infos

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from os import PathLike

    import numpy.typing as npt

    from blobstore.checking.findings import Finding
    from blobstore.container.reader import BlobReader
    from blobstore.fileio.types import Progress
    from blobstore.fileio.work import Engine
    from blobstore.index import NameIndex
    from blobstore.store.info import TensorInfo

_CHUNK = 1 << 20  # elements
_RESERVED_CODE = 0x80  # of sfp


@dataclass(frozen=True)
class Verified:
    """The result of `verify_file`.

    Attributes:
        findings: What is wrong, or could not be verified.
        blobs: Number of blobs compared with their digest.
        nbytes: Size of these blobs.
    """

    findings: list[Finding]
    blobs: int
    nbytes: int


def verify_file(
    path: str | PathLike[str],
    *,
    quick: bool = False,
    values: bool = False,
    base: str | PathLike[str] | None = None,
    workers: int | None = None,
    engine: Engine = do_here,
    progress: Progress = lambda _: None,
) -> Verified:
    """Verify a file against itself: structure, padding and index, then each blob against its SHA-256.

    Args:
        path: Of the file.
        quick: Skip the blobs' contents.
        values: Also look for NaN and infinities.
        base: The file that this one is packed as the difference to; needed to check values.
        workers: Threads; by default one for each core.
        engine: Verifies the files of a set, with one thread each; by default they are verified here.
        progress: Called, from any thread, with the number of further bytes read.

    Raises:
        OSError: The file can't be read.
        UsageError: ``not-a-file``.
        TruncatedError: ``short-read`` if it is truncated meanwhile.
    """
    with open_checked(path, engine=engine) as opened:
        findings = list(opened.findings)
        index = opened.index
        blobs = nbytes = 0
        if opened.reader:
            # A digest doesn't make such values correct.
            findings += [
                finding("toc-stride", entry.name, stride_fault(entry)) for entry in odd_strides_in(opened.reader)
            ]
        if opened.reader and not quick:
            if index and index.has_digests:
                blobs, nbytes = len(index.blobs), int(index.blobs.nbytes.sum())
            expect(progress, nbytes)
            findings += verify_blobs(opened.reader, index, workers=workers, engine=engine, progress=progress)
    for store in opened.intact:  # of a set that has lost others
        alone = verify_file(store, quick=quick, values=values, base=base, workers=workers, progress=partial(progress))
        findings += [found for found in in_store(store, alone.findings) if found not in findings]
        blobs, nbytes = blobs + alone.blobs, nbytes + alone.nbytes
    if values and opened.reader:
        findings += _all_values(path, base, nbytes, engine, progress)
    return Verified(findings, blobs, nbytes)


def _all_values(
    path: str | PathLike[str], base: str | PathLike[str] | None, done: int, engine: Engine, progress: Progress
) -> list[Finding]:
    try:
        with Store(path, access="read", base=base) as store:
            expect(progress, done + sum(info.nbytes for info in outermost(stored_infos(store))))
            if isinstance(store.reader, SetReader) and engine is not do_here:
                work = StoreValues(store.path, None if base is None else str(base))
                return list(chain.from_iterable(results(engine, work, range(len(store.reader.paths)), progress)))
            return list(verify_values(store, progress=progress))
    except FormatError as error:
        return [from_error(error, error.path or str(path))]


def verify_blobs(
    reader: BlobReader,
    index: NameIndex | None,
    *,
    workers: int | None = None,
    engine: Engine = do_here,
    progress: Progress = lambda _: None,
) -> Iterator[Finding]:
    """Compare each blob with its SHA-256 in the index.

    Several blobs at a time; each worker holds one buffer of 4 MiB.

    Args:
        reader: The file's blobs.
        index: Its index, if it has one.
        workers: Threads; by default one for each core.
        engine: As for `verify_file`.
        progress: Called, from any thread, with the number of further bytes read.

    Yields:
        ``damaged-blob``, naming tensors and bytes; ``no-digests``, ``no-digest`` for what can't be compared.

    Raises:
        TruncatedError: The file was truncated meanwhile.
    """
    if index is None or not index.has_digests:
        what = "the index has no digests" if index else "there is no index with digests"
        yield finding("no-digests", reader.path, f"{what}: the blobs' contents could not be verified")
        return
    known = index.places(reader.directory)
    if isinstance(reader, SetReader) and engine is not do_here:
        yield from chain.from_iterable(
            results(engine, StoreDigests(reader.url or reader.path), range(len(reader.paths)), progress)
        )
    else:
        yield from _damaged(reader, index, known, range(len(known)), workers=workers, progress=progress)
    for place in sorted({*range(len(reader.directory))} - {int(one) for one in known}):
        key = reader.directory.all_keys[place]
        if key != INDEX_KEY:
            yield finding("no-digest", key, "the index doesn't list this blob: it was added later")


@dataclass(frozen=True, repr=False)  # a URL may have secrets
class StoreDigests:
    """Compares the blobs of each file of a set with their digests.

    Attributes:
        path: Of the set's index.
    """

    path: str

    @contextmanager
    def open(self) -> Iterator[tuple[SetReader, npt.NDArray[np.int64]]]:
        """Open the set, and find its blobs."""
        with SetReader(self.path, access="read") as reader:
            yield reader, reader.index.places(reader.directory)

    def do(self, opened: tuple[SetReader, npt.NDArray[np.int64]], number: int, progress: Progress) -> list[Finding]:
        """Return the findings about the blobs of one file."""
        reader, known = opened
        store = reader.index.stores[number]
        rows = range(store.first_blob, store.first_blob + store.blob_count)
        return list(_damaged(reader, reader.index, known, rows, workers=1, progress=progress))


@dataclass(frozen=True, repr=False)  # a URL may have secrets
class StoreValues:
    """Looks at the values of the tensors in each file of a set.

    Attributes:
        path: Of the set's index.
        base: The file that the set is packed as the difference to.
    """

    path: str
    base: str | None

    @contextmanager
    def open(self) -> Iterator[tuple[Store, list[list[TensorInfo]]]]:
        """Open the set, and find the tensors in each of its files."""
        with Store(self.path, access="read", base=self.base) as store:
            reader = store.reader
            if not isinstance(reader, SetReader):
                raise FormatError("set-stale", f"{self.path!r} was the index of a set, and has been replaced")
            infos: dict[str, list[TensorInfo]] = {path: [] for path in reader.paths}
            for info in outermost(stored_infos(store)):
                infos[reader.file_at(info.offset)[0]].append(info)
            yield store, list(infos.values())

    def do(self, opened: tuple[Store, list[list[TensorInfo]]], number: int, progress: Progress) -> list[Finding]:
        """Return the findings about the values in one file."""
        store, infos = opened
        return list(verify_values(store, infos[number], progress=progress))


def _damaged(
    reader: BlobReader,
    index: NameIndex,
    known: npt.NDArray[np.int64],
    rows: range,
    *,
    workers: int | None,
    progress: Progress,
) -> Iterator[Finding]:
    """Compare the blobs of some rows of an index, which are at known places, with their digests."""
    stop = threading.Event()

    def told(nbytes: int) -> None:
        if stop.is_set():
            raise InterruptedError
        progress(nbytes)

    def differs(row: int) -> bool:
        source = reader.part_of_file(*reader.directory.range(int(known[row])))
        return digest_of(source, told) != index.blob(row).sha256

    # The largest first, so that none is left for one thread at the end; elsewhere, as they lie, to be fetched together.
    order = reader.directory.offsets if reader.is_elsewhere else -reader.directory.sizes
    in_order = sorted(rows, key=lambda row: int(order[known[row]]))
    with reader.reading_ahead(reader.directory.range(int(known[row])) for row in in_order):
        wrong = run_all((partial(differs, row) for row in in_order), workers, stop=stop)
    damaged = sorted(row for row, is_wrong in zip(in_order, wrong, strict=True) if is_wrong)
    names = _names_in(index, damaged)
    files = {encode_key(key): name for name, key in known_files(index).items()}
    for row in damaged:
        if index.blob(row).key in files:
            names[row].append(files[index.blob(row).key])
    for row in damaged:
        effect = "the file that was carried along has wrong contents" if index.blob(row).key in files else None
        yield _damage(reader, int(known[row]), tuple(names[row]), effect)


def _names_in(index: NameIndex, rows: Iterable[int]) -> dict[int, list[str]]:
    """Return the names of the tensors in some blobs, by the blobs' rows in the index."""
    names: dict[int, list[str]] = {row: [] for row in rows}
    if names:
        for name, row in zip(index.names, index.entries.blob.tolist(), strict=True):
            if row in names:
                names[row].append(name)
    return names


def _damage(reader: BlobReader, place: int, names: tuple[str, ...], effect: str | None) -> Finding:
    offset, nbytes = reader.directory.range(place)
    key = reader.directory.all_keys[place]
    path, offset = reader.file_at(offset)
    where = f"at offset {offset}" if path == reader.path else f"at offset {offset} of {os.path.basename(path)}"
    what = f"the SHA-256 of its {nbytes} bytes, {where}, is not the one stored when it was written"
    return finding("damaged-blob", key, what, offset=offset, nbytes=nbytes, names=names, effect=effect)


def verify_values(
    store: Store, infos: Iterable[TensorInfo] | None = None, *, progress: Progress = lambda _: None
) -> Iterator[Finding]:
    """Look for NaN, infinities and reserved codes in each tensor's values.

    Values that several names share are checked once. Memory: a few MB.

    Args:
        store: Open.
        infos: The tensors, none inside another; by default all.
        progress: Called with the number of further stored bytes checked.

    Yields:
        ``not-a-number``, ``infinite``, ``reserved-code``; ``undecodable`` for what this version can't decode;
        ``needs-base``, ``wrong-base``, once, for the tensors that are the difference to another file.
    """
    without_base: dict[str, tuple[str, list[str]]] = {}
    for info in outermost(stored_infos(store)) if infos is None else infos:
        try:
            yield from _values(store, info)
        except UsageError as error:
            without_base.setdefault(error.reason, (error.message, []))[1].append(info.name)
        progress(info.nbytes)
    for reason, (message, names) in without_base.items():
        yield finding(reason, store.path, message, names=tuple(names))


def _values(store: Store, info: TensorInfo) -> Iterator[Finding]:
    where: dict[str, Any] = {"offset": info.offset, "nbytes": info.nbytes, "names": (info.name,)}
    if info.dtype is None:
        yield finding("undecodable", info.name, f"its type is {info.type}, which this version can't decode", **where)
        return
    counts = {"not-a-number": 0, "infinite": 0, "reserved-code": 0}
    first: dict[str, int] = {}
    try:
        for start in range(0, info.size, _CHUNK):
            for code, places in _bad_values(store, info, start, min(_CHUNK, info.size - start)):
                if len(places):
                    first.setdefault(code, start + int(places[0]))
                    counts[code] += len(places)
    except CodecError as error:  # nuq: a table contains the reserved code
        yield finding("reserved-code", info.name, error.message, **where)
    words = {"not-a-number": "NaN", "infinite": "infinite", "reserved-code": "the code 0x80, which has no value"}
    for code, count in counts.items():
        if count:
            what = f"{count} of {info.size} values are {words[code]}, the first at element {first[code]}"
            yield finding(code, info.name, what, **where)


def _bad_values(store: Store, info: TensorInfo, start: int, count: int) -> Iterator[tuple[str, npt.NDArray[np.intp]]]:
    """Yield a finding's code and the elements of a chunk that it concerns."""
    if info.type.name == "sfp":  # always finite otherwise
        codes = np.frombuffer(stored(store, info, start, count), dtype=np.uint8)
        yield "reserved-code", np.flatnonzero(codes == _RESERVED_CODE)
        return
    values = elements(store, info, start, count)
    if values.dtype.kind in "iub" or are_finite(values):  # nearly always all of them
        return
    if values.dtype == np.complex64:
        parts = values.view(np.float32).reshape(-1, 2)
        yield "not-a-number", np.flatnonzero(np.isnan(parts).any(axis=1))
        yield "infinite", np.flatnonzero(np.isinf(parts).any(axis=1))
        return
    with np.errstate(invalid="ignore"):  # signalling NaNs
        wide = values.astype(np.float64)
    yield "not-a-number", np.flatnonzero(np.isnan(wide))
    yield "infinite", np.flatnonzero(np.isinf(wide))
