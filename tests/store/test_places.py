"""Every way to read a model gives the same in every place: a file, a set of files, each of these at a URL."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import blobstore
from tests.places import CHANGED, PLACES, make_places, upload

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from blobstore.fileio.types import Array


def of(arrays: Mapping[str, Array]) -> dict[str, tuple[str, bytes]]:
    return {name: (str(array.dtype), array.tobytes()) for name, array in arrays.items()}


def facts(store: blobstore.Store) -> list[Any]:
    infos = [(info.name, info.key, info.type, info.shape, info.scale, info.nbytes) for info in store.infos()]
    return [infos, store.aliases, store.metadata, store.config, store.tokenizer, dict(store.files)]


def one_by_one(path: str) -> object:
    with blobstore.open(path) as store:
        return of({name: store[name] for name in store})


def in_any_order(path: str) -> object:
    with blobstore.open(path) as store:
        names = sorted(store, key=lambda name: name[::-1])
        return [of({name: blobstore.open(path)[name] for name in names[:6]}), of({name: store[name] for name in names})]


def in_threads(path: str) -> object:
    with blobstore.open(path) as store, ThreadPoolExecutor(4) as pool:
        names = list(store) * 3
        return [array.tobytes() for array in pool.map(store.__getitem__, names)]


def by_plain_reads(path: str) -> object:
    with blobstore.open(path, access="read") as store:
        return of(store), of(store.load_all(workers=1))


def rows(path: str) -> object:
    with blobstore.open(path) as store:
        return [
            store.load(CHANGED, rows=[5, 1], dtype=np.float64).tobytes(),
            store.get_slice(CHANGED)[3:90:2, -4:].tobytes(),
            store.prefix("model.layers.2").info("norm").shape,
            of(store.load_all(store.glob("*.norm"))),
        ]


def writable(path: str) -> object:
    with blobstore.Store(path, writable=True, prefetch="all") as store:
        view = np.frombuffer(store.raw("ids"), np.int64)
        view[0] = 7
        return int(view[0]), blobstore.open(path)["ids"][0]


def blobs(path: str) -> object:
    with blobstore.open(path) as store:
        keys = sorted(key for key in store.reader if key != "~index")
        assert all(key in store.reader for key in store.reader)
        assert len(store.reader) == len(list(store.reader))
        ranges = {key: store.reader.file_range(key).read().tobytes() for key in keys}
        assert ranges == {key: bytes(store.reader[key]) for key in keys}
        return ranges, {key: store.unpacked.sha256(key) for key in keys}


def by_keys(path: str) -> object:
    with blobstore.open(path, by="keys") as store:
        return of(store)


def without_index(path: str) -> object:
    with blobstore.open(path, use_index=False) as store:
        return {name: bytes(store.raw(name)) for name in store if name != "~index"}


def pickled(path: str) -> object:
    with blobstore.open(path) as store:
        return [facts(again) for again in (store, pickle.loads(pickle.dumps(store)), copy.copy(store))]  # noqa: S301 (our own)


def safe_open(path: str) -> object:
    with blobstore.safe_open(path, framework="np") as file:
        part = file.get_slice(CHANGED)
        names = file.keys()
        return names, file.metadata(), part[1:3].tobytes(), of({name: file.get_tensor(name) for name in names})


WAYS: dict[str, Callable[[str], object]] = {
    way.__name__: way
    for way in (
        one_by_one,
        in_any_order,
        in_threads,
        by_plain_reads,
        rows,
        writable,
        blobs,
        by_keys,
        without_index,
        pickled,
        safe_open,
    )
} | {
    "load_file": lambda path: of(blobstore.load_file(path)),
    "facts": lambda path: facts(blobstore.open(path)),
    "repr_html": lambda path: blobstore.open(path)._repr_html_().partition("</p>")[2],
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("places")
    make_places(folder)
    for name, place in PLACES.items():
        upload(place, folder / name)
    return folder


def path_in(places: Path, place: str, name: str) -> str:
    return PLACES[place].url + name if PLACES[place].url else str(places / place / name)


OF_PACKED = ("one_by_one", "in_any_order", "in_threads", "by_plain_reads", "rows", "by_keys", "load_file", "repr_html")
TABLE = [("model.sbs", way) for way in WAYS] + [("packed.sbs", way) for way in OF_PACKED]


@pytest.mark.parametrize(("name", "way"), TABLE)
def test_it_is_the_same_everywhere(name: str, way: str, places: Path) -> None:
    found = {place: WAYS[way](path_in(places, place, name)) for place in PLACES}
    for place, value in found.items():
        assert value == found["file"], place


def test_a_difference_is_read_with_its_base_wherever_both_are(places: Path) -> None:
    tuned = of(blobstore.open(path_in(places, "file", "tuned.sbs")))
    for place in PLACES:
        for base in PLACES:
            with blobstore.open(
                path_in(places, place, "difference.sbs"), base=path_in(places, base, "model.sbs")
            ) as store:
                assert of(store) == of(store.load_all()) == tuned
