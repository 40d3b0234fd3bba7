"""Verify a file against its own digests, or against the checkpoint that it was made from."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from blobstore.checking.findings import by_severity, is_right
from blobstore.checking.verify import verify_file
from blobstore.checkpoint.reader import open_checkpoint
from blobstore.checkpoint.told import lines_of
from blobstore.converting.verify import carries_none, plan_again
from blobstore.converting.verify import verify as compare_with
from blobstore.errors import FormatError, UsageError, without_secrets
from blobstore.fileio.hashing import file_digest
from blobstore.fileio.paths import optional_path, path_text, path_texts, target_of
from blobstore.fileio.places import name_in
from blobstore.fileio.ranges import expect
from blobstore.fileio.sink import Sink
from blobstore.fileio.threads import check_workers
from blobstore.fileio.uploads import new_file
from blobstore.fileio.work import do_here
from blobstore.index.inputs import files_of
from blobstore.index.metadata import ADAPTERS, CHOICES
from blobstore.store.base import refuse_needless_base
from blobstore.store.reader import Store

if TYPE_CHECKING:
    from collections.abc import Iterable
    from os import PathLike
    from typing import BinaryIO

    from blobstore.checking.findings import Finding
    from blobstore.converting.verify import Verdict
    from blobstore.fileio.types import Paths, Progress
    from blobstore.fileio.work import Engine

    Path = str | PathLike[str]


@dataclass(frozen=True)
class Verification:
    """The result of `verify`.

    Attributes:
        input: The file, as given.
        against: The source, as given; None if the file was verified against its own digests.
        ok: Whether nothing is wrong; if `strict`, there is no warning either.
        compared: How many blobs were compared with their digests; against a source, how many tensors, names, blobs and
            files.
        findings: What is wrong, or could not be verified, without a source: errors first.
        faults: Of the verdicts, those that are wrong.
        verdicts: Against a source, one for each tensor, name, blob and file.
        notes: What should be known, a line each.
        read: Against a source, the files that its tensors come from.
        adapters: The adapters that were merged into the source, as given, in their order.
        nbytes: How many bytes were compared.
        seconds: How long it took.

    Example:
        >>> blobstore.verify("model.sbs").compared
        2
    """

    input: str
    against: str | None
    ok: bool
    compared: int
    findings: tuple[Finding, ...]
    faults: tuple[Verdict, ...]
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]
    read: tuple[str, ...]
    adapters: tuple[str, ...]
    nbytes: int
    seconds: float


def verify(
    path: Path,
    *,
    against: Path | None = None,
    quick: bool = False,
    values: bool = False,
    strict: bool = False,
    workers: int | None = None,
    base: Path | None = None,
    tokenizer: Path | None = None,
    adapters: Paths = (),
    receipt: Path | BinaryIO | None = None,
    progress: Progress = lambda _: None,
) -> Verification:
    """Verify a file against its own digests, or against the checkpoint that it was made from.

    Without `against`: structure, padding and index, then the SHA-256 of every blob. With it: the conversion is planned
    again from the source, and every byte of the file is compared with what the source gives.

    Args:
        path: Of the file.
        against: The checkpoint, as for `convert`.
        quick: Skip the blobs' contents.
        values: Also look for NaN and infinities.
        strict: Whether warnings count in `Verification.ok`.
        workers: Threads; by default one for each core.
        base: For a packed file: the file that it is the difference to, needed for `values` and `against`.
        tokenizer: With `against`: the ``tokenizer.model`` or ``tokenizer.json`` that `convert` was given.
        adapters: With `against`: the adapters that were merged, in their order.
        receipt: With `against`: a path or binary stream, for digests of source and file, choices and versions as JSON.
        progress: Called, from any thread, with the number of further bytes compared.

    Raises:
        UsageError: ``two-ways``, ``no-source``, ``needless-flag``, ``needless-base`` for options that don't go
            together; ``not-converted``; ``other-adapters``; ``not-a-tokenizer``; ``same-file``; ``bad-workers``.
        CheckpointError: The source can't be converted.
        FormatError: With `against`: the file is wrong. Without it, that is a finding.
        OSError: Reading failed, or writing the receipt.

    Example:
        >>> done = blobstore.convert("checkpoint", "converted.sbs")
        >>> blobstore.verify("converted.sbs", against="checkpoint").ok
        True
    """
    path, against, base, tokenizer = path_text(path), *map(optional_path, (against, base, tokenizer))
    given = path_texts(adapters)
    receipt = None if receipt is None else target_of(receipt)
    alone = quick or values or strict or workers is not None
    if against is None and (tokenizer is not None or receipt is not None or given):
        raise UsageError("no-source", "--tokenizer, --adapter and --receipt go with --against SRC")
    if against is not None and alone:
        raise UsageError("two-ways", "--quick, --values, --workers and --strict don't go with --against")
    if base is not None and not (values or against is not None):
        raise UsageError("needless-base", "--base goes with --values or --against: digests are of the stored bytes")
    if quick and workers is not None:
        what = "--workers is for comparing digests, which --quick leaves out: leave out one of them"
        raise UsageError("needless-flag", what)
    check_workers(workers)
    if against is not None:
        return _against(path, against, base, tokenizer, receipt, adapters=given, progress=progress)
    return verify_alone(path, quick=quick, values=values, strict=strict, workers=workers, base=base, progress=progress)


def verify_alone(
    path: str,
    *,
    quick: bool,
    values: bool,
    strict: bool,
    workers: int | None = None,
    base: str | None = None,
    engine: Engine = do_here,
    progress: Progress = lambda _: None,
) -> Verification:
    """Verify a file against its own digests; errors as `verify`.

    Args:
        path: Of the file, or of a set's index.
        quick: As for `verify`.
        values: As for `verify`.
        strict: As for `verify`.
        workers: As for `verify`.
        base: As for `verify`.
        engine: Does it for each file of a set, with one thread each.
        progress: As for `verify`.
    """
    start = time.perf_counter()
    if base is not None:
        with suppress(FormatError), Store(path, access="read", base=base) as store:
            refuse_needless_base(store)
    done = verify_file(path, quick=quick, values=values, base=base, workers=workers, engine=engine, progress=progress)
    return Verification(
        input=without_secrets(path),
        against=None,
        ok=is_right(done.findings, strict=strict),
        compared=done.blobs,
        findings=tuple(by_severity(done.findings)),
        faults=(),
        verdicts=(),
        notes=(),
        read=(),
        adapters=(),
        nbytes=done.nbytes,
        seconds=time.perf_counter() - start,
    )


def _against(
    path: str,
    against: str,
    base: str | None,
    tokenizer: str | None,
    receipt: str | BinaryIO | None,
    *,
    adapters: tuple[str, ...],
    progress: Progress,
) -> Verification:
    start = time.perf_counter()
    with (
        Store(path, access="read", base=base) as store,
        open_checkpoint(against, adapters=adapters) as checkpoint,
    ):
        refuse_needless_base(store)
        plan = plan_again(store, checkpoint, tokenizer)
        checkpoint.refuse_as_outputs(receipt, except_ours=False, also=files_of(path, base))
        expect(progress, plan.nbytes)
        verdicts = tuple(compare_with(store, plan, checkpoint, progress=progress))
        faults = tuple(verdict for verdict in verdicts if verdict.fault)
        left_out = (item for item in checkpoint.left_out if item.kind == "tensor")  # convert told of the files
        notes = lines_of(checkpoint.notes, checkpoint.told, left_out)
        if plan.files and carries_none(store):
            names = ", ".join(file.name for file in plan.files)
            notes.append(f"it carries no files of the model: {names} of the source are not compared")
        if receipt is not None:
            # ASCII: file names may be any bytes
            sources = [(name_in(path), path) for path in checkpoint.paths]
            sources += [] if carries_none(store) else [(file.name, file.path) for file in plan.files]
            text = json.dumps(_receipt(store, sources, len(verdicts), faults), indent=1)
            _write(text.encode() + b"\n", receipt)
    return Verification(
        input=without_secrets(path),
        against=without_secrets(against),
        ok=not faults,
        compared=len(verdicts),
        findings=(),
        faults=faults,
        verdicts=verdicts,
        notes=tuple(notes),
        read=tuple(map(without_secrets, checkpoint.paths)),
        adapters=adapters,
        nbytes=sum(verdict.nbytes for verdict in verdicts),
        seconds=time.perf_counter() - start,
    )


def _write(raw: bytes, target: str | BinaryIO) -> None:
    if isinstance(target, str):
        with new_file(target) as file:
            file.write(memoryview(raw))
        return
    sink = Sink(target)  # a raw stream may take less than it is given
    sink.write(memoryview(raw))
    sink.flush()


def _receipt(
    store: Store, sources: Iterable[tuple[str, str]], compared: int, faults: tuple[Verdict, ...]
) -> dict[str, Any]:
    return {
        "blobstore": import_module("blobstore").__version__,  # the package itself is above this layer
        "source": [{"file": name, "sha256": file_digest(path).hex()} for name, path in sources],
        "target": {
            "file": name_in(store.path),
            "nbytes": store.reader.file_size,
            "sha256": file_digest(store.path).hex(),
        },
        "adapters": json.loads(store.metadata.get(ADAPTERS, "[]")),
        "choices": json.loads(store.metadata.get(CHOICES, "null")),
        "verified": not faults,
        "compared": compared,
        "faults": [{"name": verdict.name, "fault": verdict.fault} for verdict in faults],
    }
