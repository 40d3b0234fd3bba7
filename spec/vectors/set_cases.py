"""The vectors of sets: each is a folder with stores and m.sbs, the index of the set."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from packed_writer import Packed
from sbs_cases import Case, blob_facts, digest, entry_facts
from sbs_writer import (
    HEADER,
    INDEX_KEY,
    STORE,
    Blob,
    Entry,
    Store,
    bound,
    container,
    file_key,
    key_for,
    metadata_json,
    name_index,
    payload,
    planted,
    seal,
    starts_of,
    tensor,
)

Part = tuple[list[Blob], list[Entry]]  # the blobs of a store, and the entries of its index

WEIGHT, BIAS, HEAD = "layer.0.weight", "layer.0.bias", "model.embed_tokens.weight"
FIRST: Part = (
    [(b"layer.0.weight", payload(5, 24)), (b"layer.0.bias", payload(6, 8))],
    [tensor(BIAS, "layer.0.bias", "f32", (2,)), tensor(WEIGHT, "layer.0.weight", "f32", (2, 3))],
)
SECOND: Part = (
    [(key_for(HEAD).encode(), payload(7, 300))],
    [
        tensor("lm_head.weight", key_for(HEAD), "u8", (3, 100)),
        tensor(HEAD, key_for(HEAD), "u8", (3, 100)),
        tensor("row", key_for(HEAD), "u8", (100,), offset=100),
        tensor("without", None, "f32", (0, 3)),
    ],
)


def store_name(number: int, count: int) -> str:
    """The name of a file of the set m.sbs."""
    return f"m-{number + 1:05}-of-{count:05}.sbs"


def own_blobs(
    part: Part, metadata: bytes = b"{}", *, digests: bool = True, unpacked: dict[bytes, int] | None = None
) -> list[Blob]:
    """The blobs of one of the files, with the index of its own."""
    blobs, entries = part
    listed = sorted(entries, key=lambda e: e.name)
    return [*blobs, (INDEX_KEY, name_index(listed, blobs, metadata, digests=digests, unpacked=unpacked))]


def stores_of(parts: Sequence[Part], held: Sequence[Sequence[Blob]]) -> list[Store]:
    """What the index of a set says of the files that have these blobs."""
    stores, first = [], 0
    for number, ((blobs, _), inside) in enumerate(zip(parts, held, strict=True)):
        nbytes = len(container(2, inside))
        stores.append(Store(store_name(number, len(parts)).encode(), nbytes, bound(2, inside), first))
        first += len(blobs)
    return stores


def set_index(
    parts: Sequence[Part],
    stores: Sequence[Store],
    metadata: bytes = b"{}",
    *,
    digests: bool = True,
    unpacked: dict[bytes, int] | None = None,
) -> bytes:
    """The index of the set, with its entries sorted."""
    table = [blob for blobs, _ in parts for blob in blobs]
    entries = sorted((e for _, listed in parts for e in listed), key=lambda e: e.name)
    return name_index(entries, table, metadata, digests=digests, stores=stores, unpacked=unpacked)


def valid(
    name: str,
    description: str,
    parts: Sequence[Part],
    metadata: bytes = b"{}",
    *,
    digests: bool = True,
    unpacked: dict[bytes, int] | None = None,
    files: dict[str, str] | None = None,
) -> Case:
    """A set that opens; its manifest entry says what it has, and which store has it."""
    pairs = json.loads(metadata)
    held = []
    for part in parts:
        carries = {key.encode() for key in (files or {}).values()} <= {key for key, _ in part[0]}
        own = {key: value for key, value in pairs.items() if carries or key != "blobstore.files"}
        held.append(own_blobs(part, metadata_json(own), digests=digests, unpacked=unpacked))
    stores = stores_of(parts, held)
    others = {one.name.decode(): container(2, blobs) for one, blobs in zip(stores, held, strict=True)}
    every = [(e, file) for (_, listed), file in zip(parts, others, strict=True) for e in listed]
    every.sort(key=lambda pair: pair[0].name)
    facts: dict[str, Any] = {
        "digests": digests,
        "metadata": pairs,
        "stores": [
            {"file": file} | digest(data) | {"blobs": blob_facts(2, blobs)}
            for (file, data), blobs in zip(others.items(), held, strict=True)
        ],
        "entries": [
            fact | {"store": file if e.key else None}
            for fact, (e, file) in zip(entry_facts([e for e, _ in every]), every, strict=True)
        ],
    }
    if unpacked:
        facts["unpacked"] = {key.decode(): nbytes for key, nbytes in unpacked.items()}
    if files:
        facts["files"] = files
    index = set_index(parts, stores, metadata, digests=digests, unpacked=unpacked)
    return Case(f"{name}/m.sbs", "set_valid", index, description, expectations=facts, others=others)


def valid_sets() -> Iterator[Case]:
    """Sets that a reader opens."""
    config = (file_key("config.json").encode(), b'{"model_type":"any"}')
    carrying = ([*FIRST[0], config], FIRST[1])
    listed = metadata_json({"blobstore.files": '["config.json"]', "license": "any"})
    yield valid("one", "a set of one store", [FIRST])
    yield valid("two", "two stores: an alias, a part, a tensor without elements", [FIRST, SECOND])
    files = {"config.json": file_key("config.json")}
    yield valid("carrying", "a file that is carried, and metadata", [carrying, SECOND], listed, files=files)
    yield valid(
        "no-digests",
        "no digests, neither in the index of the set nor in those of its stores",
        [FIRST, SECOND],
        digests=False,
    )
    stream = Packed(payload(8, 256), 1).stream()
    packed: list[Part] = []
    for name in ("a", "b"):
        entry = replace(tensor(name, name, "u8", (256,)), codec=1)
        packed.append(([(name.encode(), stream), (b"~packed", b"what the file was like")], [entry]))
    yield valid("packed", "two packed stores, each with a ~packed", packed, unpacked={b"a": 256, b"b": 256})


def invalid_sets() -> Iterator[Case]:  # noqa: PLR0915 - a list
    """Sets with one fault each; the digests of their indexes agree."""
    parts = [FIRST, SECOND]
    held_blobs = [own_blobs(part) for part in parts]
    files = [container(2, blobs) for blobs in held_blobs]
    stores = stores_of(parts, held_blobs)
    names = [one.name.decode() for one in stores]
    good = set_index(parts, stores)
    starts = starts_of(good)

    def bad(
        reason: str,
        name: str,
        description: str,
        index: bytes = good,
        held: Sequence[bytes | None] = files,
    ) -> Case:
        others = {file: data for file, data in zip(names, held, strict=True) if data is not None}
        if reason.startswith("index-"):  # the stores aren't looked at
            others = {}
        return Case(f"{name}/m.sbs", "set_invalid", seal(index), description, reason, others=others)

    def record(number: int, **values: int | bytes) -> bytes:
        return STORE.set(good, starts["stores"] + STORE.size * number, **values)

    def listing(*changed: Store) -> bytes:
        return set_index(parts, changed)

    one, two = stores
    reason = "index-flags"
    yield bad(reason, "flag-external", "the flags of a set and of an external index", good[:12] + b"\7" + good[13:])

    reason = "index-section"
    none = name_index([], [], stores=())
    none = none[:12] + b"\5" + none[13:]
    yield bad(reason, "no-stores", "a set without stores", none)

    reason = "index-stores"
    yield bad(reason, "path-above", "a store in another folder", listing(one, replace(two, name=b"../" + two.name)))
    yield bad(reason, "path-below", "a store in a folder below", listing(one, replace(two, name=b"a/" + two.name)))
    yield bad(reason, "path-absolute", "an absolute path", listing(one, replace(two, name=b"/etc/m.sbs")))
    yield bad(reason, "path-backslash", "a path with a backslash", listing(one, replace(two, name=b"a\\m.sbs")))
    yield bad(reason, "name-hidden", "a name that begins with a dot", listing(one, replace(two, name=b".sbs")))
    yield bad(reason, "name-device", "the name of a device", listing(one, replace(two, name=b"nul.sbs")))
    yield bad(reason, "name-not-ascii", "a name that is not ASCII", listing(one, replace(two, name="é.sbs".encode())))
    yield bad(reason, "name-empty", "a name of no bytes", listing(one, replace(two, name=b"")))
    yield bad(reason, "names-equal", "one name for both", listing(one, replace(two, name=one.name)))
    upper = replace(two, name=one.name.upper())
    yield bad(reason, "names-equal-case", "names that are equal when case is ignored", listing(one, upper))
    yield bad(reason, "name-start", "a name that doesn't follow the one before", record(1, name_start=1))
    yield bad(reason, "name-beyond", "a name that starts behind the names", record(1, name_start=43))
    yield bad(reason, "name-huge", "or far behind them", record(1, name_start=2**32 - 1))
    yield bad(reason, "name-256", "a name of 256 bytes", listing(one, replace(two, name=b"m" * 256)))
    yield bad(reason, "name-nul-inside", "a name with a NUL in it", listing(one, replace(two, name=b"m\0.sbs")))
    yield bad(
        reason,
        "name-no-nul",
        "no NUL behind the last name",
        good[: starts["store names"] + 41] + b"m" + good[starts["store names"] + 42 :],
    )
    yield bad(
        reason,
        "name-no-nul-first",
        "no NUL behind the first one",
        good[: starts["store names"] + 20] + b"m" + good[starts["store names"] + 21 :],
    )
    yield bad(reason, "first-not-0", "the first store begins at blob 1", record(0, first_blob=1))
    yield bad(reason, "first-equal", "the second store begins where the first does", record(1, first_blob=0))
    yield bad(reason, "first-beyond", "the second store begins behind the table", record(1, first_blob=3))
    yield bad(reason, "first-huge", "or far behind it", record(1, first_blob=2**32 - 1))
    yield bad(reason, "store-too-small", "a store of 600 bytes, whose blobs end at 768", record(0, nbytes=600))
    yield bad(reason, "store-huge", "a store of 2^64 - 1 bytes", record(1, nbytes=2**64 - 1))
    half = listing(replace(one, nbytes=2**62), replace(two, nbytes=2**62))
    yield bad(reason, "stores-huge", "two stores of 2^62 bytes", half)
    wraps = planted(good, "blob", 0, nbytes=2**64 - 512)
    yield bad(reason, "blobs-wrap", "blobs whose sizes, in 64 bits, end at 256", wraps)

    reason = "index-reserved"
    yield bad(
        reason,
        "bound",
        "the size of a store it is bound to, as in an external index",
        HEADER.set(good, 0, store_nbytes=65536),
    )

    reason = "index-metadata"
    yield bad(reason, "metadata-array", "metadata that is an array", set_index(parts, stores, b"[]"))

    reason = "index-order"
    overlap = (SECOND[0], [*SECOND[1], tensor(WEIGHT, key_for(HEAD), "u8", (3, 100))])
    yield bad(reason, "names-overlap", "a name in two stores", set_index([FIRST, overlap], stores))

    reason = "index-key"
    twice = planted(good, "blob", 2, key=b"layer.0.bias")
    yield bad(reason, "keys-overlap", "a key in two stores", twice)
    yield bad(reason, "key-itself", "the index of a store is listed", planted(good, "blob", 2, key=INDEX_KEY))
    yield bad(reason, "key-empty", "a key of no bytes", planted(good, "blob", 2, key=b""))
    yield bad(reason, "key-nul-inside", "a byte behind a NUL", planted(good, "blob", 2, key=b"a\0b"))

    yield bad("set-missing-store", "missing", "the second store is not there", held=[files[0], None])

    reason = "set-stale"
    yield bad(reason, "swapped", "each store has the other's name", held=files[::-1])
    renamed = ([(b"layer.1.weight", FIRST[0][0][1]), FIRST[0][1]], FIRST[1][:1])
    yield bad(
        reason, "stale-directory", "another store of the same size", held=[container(2, own_blobs(renamed)), files[1]]
    )
    others = ([(FIRST[0][0][0], payload(8, 24)), FIRST[0][1]], FIRST[1])
    yield bad(
        reason, "stale-values", "a store with the same keys and sizes", held=[container(2, own_blobs(others)), files[1]]
    )
    yield bad(reason, "stale-size", "a longer store", held=[files[0], files[1] + bytes(65536)])
    yield bad(reason, "cut", "a store that is cut off", held=[files[0], files[1][:-1]])

    yield bad("bad-magic", "not-sbs", "something else of the size of a store", held=[files[0], bytes(65536)])

    reason = "set-store"
    blobs = held_blobs[1]
    old = container(1, blobs)
    of_old = replace(two, nbytes=len(old), bound=bound(1, blobs))
    yield bad(reason, "version-1", "a store of version 1", listing(one, of_old), [files[0], old])
    bare = container(2, SECOND[0])
    of_bare = replace(two, nbytes=len(bare), bound=bound(2, SECOND[0]))
    yield bad(reason, "no-index", "a store without an index", listing(one, of_bare), [files[0], bare])
    more = container(2, [*blobs, (b"added", b"1")])
    of_more = replace(two, nbytes=len(more), bound=bound(2, [*blobs, (b"added", b"1")]))
    yield bad(
        reason, "a-blob-more", "a store with a blob that the set doesn't list", listing(one, of_more), [files[0], more]
    )
    sizes = planted(good, "blob", 0, nbytes=25)
    yield bad(reason, "another-size", "the table says 25 bytes, the store has 24", sizes)
    keys = planted(good, "blob", 2, key=b"another")
    yield bad(reason, "another-key", "the table has another key than the store", keys)


def set_cases() -> Iterator[Case]:
    """All sets, in the manifest's order."""
    yield from valid_sets()
    yield from invalid_sets()
