"""A conversion by name into several files: each is a pure function of the plan, its number and the source."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from blobstore.container.keys import INDEX_KEY
from blobstore.container.layout import MAX_BLOBS
from blobstore.converting.run import check_target, run_plan
from blobstore.errors import BlobStoreError, CheckpointError, UsageError
from blobstore.fileio.places import exists
from blobstore.gemma.runtimes import RUNTIMES
from blobstore.index.build import dump_metadata
from blobstore.index.sets import is_set_at
from blobstore.store import unfinished
from blobstore.store.division import Item, divide
from blobstore.store.reader import Store
from blobstore.store.set_making import alone_at, refuse_existing, store_paths, write_set_index
from blobstore.store.unfinished import Unfinished, sources_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from blobstore.checkpoint.reader import Checkpoint
    from blobstore.converting.plan import Plan
    from blobstore.fileio.types import Progress
    from blobstore.index.locate import IndexPlace

    Run = Callable[[bool], Iterable[bool]]  # makes all stores, or keeps those that are complete → which it has kept

_VERSION = 2  # of the container of a set's files


@dataclass(frozen=True)
class Division:
    """How a plan is divided.

    Attributes:
        path: Of the set's index.
        stores: The path of each file.
        tensors: Which of the plan's tensors each file has.
        digests: Whether the files have the SHA-256 of each blob.
        plan_sha256: Of all that determines the files' bytes, but the values.
    """

    path: str
    stores: tuple[str, ...]
    tensors: tuple[range, ...]
    digests: bool
    plan_sha256: str


def division_of(plan: Plan, path: str, *, max_nbytes: int | None, max_blobs: int, digests: bool = True) -> Division:
    """Divide a plan by name.

    Args:
        plan: By name.
        path: Of the set's index.
        max_nbytes: Of a file; None for any size. A tensor that is larger has a file of its own.
        max_blobs: Of a file.
        digests: Keep the SHA-256 of each blob.

    Raises:
        UsageError: ``bad-store-name``.
    """
    names: dict[str, list[str]] = {}
    for alias in plan.indexed_aliases:
        names.setdefault(alias.target, []).append(alias.name)
    items = []
    for tensor in plan.tensors:
        own = [tensor.name, *names.get(tensor.name, ())]
        items.append(Item(tensor.nbytes, len(own), sum(len(name.encode()) for name in own), len(tensor.shape)))
    files = [Item(file.nbytes, 0) for file in plan.files]
    metadata_nbytes = len(dump_metadata(plan.metadata)) + sum(len(file.name) + 40 for file in plan.files)
    parts = divide(items, max_nbytes=max_nbytes, max_blobs=max_blobs, first=files, metadata_nbytes=metadata_nbytes)
    stores = store_paths(path, len(parts))
    return Division(path, tuple(stores), tuple(parts), digests, _digest_of(plan, parts, digests=digests))


def part_of(plan: Plan, division: Division, number: int) -> Plan:
    """Return what one of the files holds, as a plan of its own. The first one carries the checkpoint's files."""
    tensors = [plan.tensors[place] for place in division.tensors[number]]
    held = {tensor.name for tensor in tensors}
    aliases = [alias for alias in plan.aliases if alias.target in held]
    return replace(plan, tensors=tensors, aliases=aliases, files=[] if number else plan.files)


def make_store(
    plan: Plan,
    checkpoint: Checkpoint,
    division: Division,
    number: int,
    *,
    resume: bool = False,
    progress: Progress = lambda _: None,
) -> bool:
    """Write one of the files. It appears under its name when it is complete.

    Args:
        plan: By name.
        checkpoint: Open.
        division: Of the plan.
        number: Of the file, from 0.
        resume: Keep the file if it is complete, and matches its digests.
        progress: Called with the number of further bytes that were written, or kept.

    Returns:
        Whether it was kept.

    Raises:
        BlobStoreError, OSError: As `run_plan`.
    """
    part = part_of(plan, division, number)
    if resume and _is_complete(part, division.stores[number]):
        progress(part.nbytes)
        return True
    run_plan(part, checkpoint, division.stores[number], digests=division.digests, progress=progress)
    return False


def write_set(
    plan: Plan,
    checkpoint: Checkpoint,
    division: Division,
    *,
    resume: bool = False,
    run: Run | None = None,
    progress: Progress = lambda _: None,
) -> int:
    """Write the files of a set, then its index.

    A process that is killed leaves complete files, and a note of what they are made from, but no set.

    Args:
        plan: By name.
        checkpoint: Open.
        division: Of the plan.
        resume: Keep the files that an earlier run has completed from the same source with the same plan, if they match
            their digests.
        run: Calls `make_store` for each file, with what it is given as ``resume``; by default one after another, here.
        progress: Called with the number of further bytes that were written, or kept.

    Returns:
        How many files were kept.

    Raises:
        UsageError: ``set-exists``; ``other-set``: what was begun isn't this; ``needs-digests`` for resuming without
            digests; ``same-file``.
        CheckpointError, FormatError, TruncatedError, OSError: As `run_plan`.
    """
    check_target(plan, checkpoint, division.path, room=not resume)
    begun = Unfinished(division.plan_sha256, sources_of([*checkpoint.paths, *(file.path for file in plan.files)]))
    if resume and not division.digests:
        raise UsageError("needs-digests", "without digests the files of the set can't be checked: begin anew")
    with alone_at(division.path):
        if resume and unfinished.check_same(division.path, begun):
            _refuse_unknown(begun)
            if not is_set_at(division.path):  # the process may have ended before it removed its note
                refuse_existing(division.path, [division.path])
        else:
            _refuse_to_overwrite(division, resume=resume)
            resume = False
            unfinished.begin(division.path, begun)
        kept = sum((run or _one_by_one(plan, checkpoint, division, progress))(resume))
        write_set_index(division.path, division.stores)
        unfinished.forget(division.path)
    return kept


def _refuse_unknown(begun: Unfinished) -> None:
    for name, _, tag in begun.sources:
        if not tag:
            what = f"the server of {name!r} doesn't say when it was written, and it may be another one now"
            raise UsageError("other-set", f"{what}: remove the files of the set, and begin anew")


def _refuse_to_overwrite(division: Division, *, resume: bool) -> None:
    try:
        refuse_existing(division.path, [division.path, *division.stores])
    except UsageError as error:
        if exists(unfinished.note_path(division.path)):
            what = f"{error.message}; an earlier run was stopped: --resume (resume=True) goes on with it"
            raise UsageError(error.reason, what) from None
        if resume and is_set_at(division.path):
            what = f"{division.path!r} is complete, there is nothing to go on with: blobstore verify checks it"
            raise UsageError(error.reason, what) from None
        raise


def _one_by_one(plan: Plan, checkpoint: Checkpoint, division: Division, progress: Progress) -> Run:
    def run(resume: bool) -> Iterator[bool]:  # noqa: FBT001 (as `make_store` has it)
        for number in range(len(division.stores)):
            yield make_store(plan, checkpoint, division, number, resume=resume, progress=progress)

    return run


def _is_complete(part: Plan, path: str) -> bool:
    """Whether a file is there, has what it is to have, and matches all of its digests."""
    if not exists(path):
        return False
    expected = {tensor.name: (tensor.key, tensor.type.name, tensor.shape) for tensor in part.tensors}
    aliases = {alias.name for alias in part.indexed_aliases}
    try:
        with Store(path, access="read") as store:
            if store.index is None or not store.index.has_digests or not store.index.self_digest_holds():
                return False
            found = {info.name: (info.key, info.type.name, info.shape) for info in store.infos()}
            if {name: facts for name, facts in found.items() if name not in aliases} != expected:
                return False
            if aliases - found.keys() or set(store.files) != {file.name for file in part.files}:
                return False
            for key in store.reader:
                if key != INDEX_KEY:
                    store.unpacked.read_sha256(key)
    except BlobStoreError:
        return False
    return True


def _digest_of(plan: Plan, parts: Sequence[range], *, digests: bool) -> str:
    """Return the SHA-256 of all that determines the bytes of the files, but the values."""
    digest = hashlib.sha256()

    def add(*facts: Any) -> None:  # noqa: ANN401 (whatever has a text)
        digest.update(repr(facts).encode("utf-8", "surrogatepass") + b"\n")

    add("blobstore set 1", digests, [(part.start, part.stop) for part in parts])
    for tensor in plan.tensors:
        add(tensor.name, tensor.key, tensor.type.name, tensor.shape, tensor.nbytes)
    for alias in plan.indexed_aliases:
        add(alias.name, alias.target)
    add(sorted(plan.metadata.items()), [(file.name, file.nbytes) for file in plan.files])
    return digest.hexdigest()


def needed_division(
    plan: Plan,
    output: object,
    *,
    max_shard_size: int | None = None,
    runtime: str | None = None,
    version: int = 2,
    index: IndexPlace = "embedded",
    digests: bool = True,
) -> Division | None:
    """Return how a plan has to be divided; None if it is written to one file.

    Args:
        plan: Of the conversion.
        output: A path, or a stream.
        max_shard_size: The most bytes of a file, if that was asked for.
        runtime: The version of gemma.cpp that has to open each file.
        version: Of the container.
        index: Where the name index goes.
        digests: Keep the SHA-256 of each blob.

    Raises:
        UsageError: ``needless-flag`` for a model; ``no-set`` if the output can't be a set.
        CheckpointError: ``too-many-tensors``: there have to be several files, and there can't be.
    """
    if plan.config is not None:
        if max_shard_size is not None:
            what = "--max-shard-size: gemma.cpp reads a model from one file"
            raise UsageError("needless-flag", f"{what}: leave it out, or --as names")
        return None
    max_blobs = next((known.max_blobs for known in RUNTIMES if known.name == runtime), MAX_BLOBS)
    count = plan.blob_count(embedded=index == "embedded")
    if max_shard_size is None and count <= max_blobs:
        return None
    if not isinstance(output, str) or version != _VERSION or index != "embedded":
        what = "the files of a set have paths, version 2 of the container, and their indexes inside"
        if max_shard_size is not None:
            raise UsageError("no-set", f"--max-shard-size: {what}")
        raise CheckpointError("too-many-tensors", f"{count} blobs, one file can hold {max_blobs}, and {what}")
    division = division_of(plan, output, max_nbytes=max_shard_size, max_blobs=max_blobs, digests=digests)
    return division if len(division.stores) > 1 else None
