"""The public functions of `blobstore.distributed`."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from blobstore.checking.checkup import check_alone
from blobstore.checking.verification import verify_alone
from blobstore.compression.frames import FASTEST
from blobstore.compression.writer import check_level
from blobstore.conversion import convert_as
from blobstore.converting.request import Request
from blobstore.distributed.engine import RETRIES, ClusterEngine
from blobstore.errors import UsageError, without_secrets
from blobstore.fileio.paths import optional_path, path_text, path_texts
from blobstore.fileio.urls import is_url
from blobstore.index.sets import is_set_at
from blobstore.packing.pack import pack_set

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from distributed import Client

    from blobstore.checking.checkup import Checkup
    from blobstore.checking.verification import Verification
    from blobstore.conversion import Conversion, ConversionKind
    from blobstore.fileio.types import Paths, Progress
    from blobstore.gemma.versions import RuntimeChoice
    from blobstore.packing.pack import Packing


def convert(
    source: str | PathLike[str],
    output: str | PathLike[str],
    *,
    client: Client,
    as_: ConversionKind = "auto",
    max_shard_size: int | str | None = None,
    resume: bool = False,
    runtime: str | None = None,
    strict: bool = False,
    adapters: Paths = (),
    files: bool = True,
    digests: bool = True,
    retries: int = RETRIES,
    progress: Progress = lambda _: None,
) -> Conversion:
    """Convert a checkpoint by name into a set, each of its files on some machine: `blobstore.convert`, with its result.

    Each worker makes the plan for itself, of the headers alone. A worker that is lost costs the file that it was
    writing: another one begins it again. The set's index is written here, when all files are complete.

    Args:
        source: As for `blobstore.convert`, under a path that all machines have.
        output: Of the set's index; its folder, too.
        client: Of dask.distributed.
        as_: As for `blobstore.convert`; a model for gemma.cpp is one file, which is refused.
        max_shard_size: As for `blobstore.convert`: the files are what is shared out, so let there be some for each
            worker.
        resume: As for `blobstore.convert`: after an error, an interrupt, or the end of the scheduler.
        runtime: As for `blobstore.convert`.
        strict: As for `blobstore.convert`.
        adapters: As for `blobstore.convert`.
        files: As for `blobstore.convert`.
        digests: As for `blobstore.convert`.
        retries: As for `verify`.
        progress: Called, from any thread, with the number of further bytes written.

    Raises:
        UsageError: ``not-a-set``: it would be one file; as `blobstore.convert`.
        ClusterError: As `verify`; ``other-source``: a worker sees another source.
        CheckpointError, FormatError, TruncatedError, MissingExtraError, OSError: As `blobstore.convert`.

    Example:
        >>> done = blobstore.distributed.convert(
        ...     "checkpoint", "names.sbs", client=client, as_="names", max_shard_size="20kB"
        ... )
        >>> len(done.stores) > 1 and len(blobstore.open("names.sbs")) == done.names
        True
    """
    request = Request(
        source=_everywhere(path_text(source)),
        output=_everywhere(path_text(output)),
        kind=as_,
        weights=None,
        layout=None,
        wrapping=None,
        runtime=runtime,
        tokenizer=None,
        adapters=tuple(map(_everywhere, path_texts(adapters))),
        pad=True,
        files=files,
        digests=digests,
        max_shard_size=max_shard_size,
    )
    engine = ClusterEngine(client, what="convert", retries=retries)
    done = convert_as(request, strict=strict, resume=resume, engine=engine, progress=progress)
    return replace(
        done,
        input=without_secrets(path_text(source)),
        adapters=tuple(map(without_secrets, path_texts(adapters))),
        **_as_given(output, done.stores),
    )


def pack(
    path: str | PathLike[str],
    output: str | PathLike[str],
    *,
    client: Client,
    level: int = FASTEST,
    only: str | Sequence[str] = (),
    base: str | PathLike[str] | None = None,
    retries: int = RETRIES,
    progress: Progress = lambda _: None,
) -> Packing:
    """Pack a set, each of its files on some machine: `blobstore.pack`, with its result.

    Args:
        path: Of the set's index.
        output: Of the packed set's index.
        client: Of dask.distributed.
        level: As for `blobstore.pack`.
        only: As for `blobstore.pack`.
        base: As for `blobstore.pack`.
        retries: As for `verify`.
        progress: Called, from any thread, with how many bytes more of the files were read.

    Raises:
        UsageError: ``not-a-set``; as `blobstore.pack`.
        ClusterError: As `verify`.
        FormatError, OSError: As `blobstore.pack`.

    Example:
        >>> done = blobstore.distributed.pack("set.sbs", "set.packed.sbs", client=client)
        >>> done.ratio == done.unpacked_nbytes / done.nbytes
        True
    """
    check_level(level)
    given = optional_path(base)
    done = pack_set(
        set_path(path),
        _everywhere(path_text(output)),
        only=(only,) if isinstance(only, str) else tuple(only),
        base=None if given is None else _everywhere(given),
        level=level,
        workers=1,
        engine=ClusterEngine(client, what="pack", retries=retries),
        progress=progress,
    )
    return replace(
        done,
        input=without_secrets(path_text(path)),
        base=given and without_secrets(given),
        **_as_given(output, done.stores),
    )


def verify(
    path: str | PathLike[str],
    *,
    client: Client,
    quick: bool = False,
    values: bool = False,
    strict: bool = False,
    retries: int = RETRIES,
    progress: Progress = lambda _: None,
) -> Verification:
    """Verify a set against its own digests, each of its files on some machine: `blobstore.verify`, with its result.

    Args:
        path: Of the set's index.
        client: Of dask.distributed.
        quick: As for `blobstore.verify`.
        values: As for `blobstore.verify`.
        strict: As for `blobstore.verify`.
        retries: How often a file whose worker was lost, or has met an error of the system, is given out again.
        progress: Called, from any thread, with the number of further bytes compared.

    Raises:
        UsageError: ``not-a-set``.
        ClusterError: ``scheduler-lost``, ``worker-lost``, ``worker-setup``, ``other-version``, ``not-shared``.
        OSError: Reading failed.

    Example:
        >>> blobstore.distributed.verify("set.sbs", client=client).ok
        True
    """
    done = verify_alone(
        set_path(path),
        quick=quick,
        values=values,
        strict=strict,
        engine=ClusterEngine(client, what="verify", retries=retries),
        progress=progress,
    )
    return replace(done, input=without_secrets(path_text(path)))


def check(
    path: str | PathLike[str],
    *,
    client: Client,
    for_: RuntimeChoice = "auto",
    strict: bool = False,
    retries: int = RETRIES,
) -> Checkup:
    """Check a set, each of its files on some machine: `blobstore.check`, with its result.

    Args:
        path: Of the set's index.
        client: Of dask.distributed.
        for_: As for `blobstore.check`.
        strict: As for `blobstore.check`.
        retries: As for `verify`.

    Raises:
        UsageError: ``not-a-set``, ``bad-choice``.
        ClusterError, OSError: As `verify`.

    Example:
        >>> blobstore.distributed.check("set.sbs", client=client).ok
        True
    """
    engine = ClusterEngine(client, what="check", retries=retries)
    done = check_alone(set_path(path), for_=for_, strict=strict, engine=engine)
    return replace(done, input=without_secrets(path_text(path)))


def set_path(path: str | PathLike[str]) -> str:
    """Return the path of a set as all machines know it.

    Raises:
        UsageError: ``not-a-set``.
        OSError: There is no such file.
    """
    text = _everywhere(path_text(path))
    if not is_url(text):
        os.stat(text)
    if not is_set_at(text):
        what = f"{without_secrets(text)!r} is one file, which one machine reads with all its cores"
        raise UsageError("not-a-set", f"{what}: leave out --processes and --scheduler")
    return text


def _everywhere(path: str) -> str:
    """Return a path as workers understand it, whose working folder is another. A URL stays as it is."""
    return path if is_url(path) else os.path.abspath(path)


def _as_given(output: str | PathLike[str], stores: Sequence[str]) -> dict[str, Any]:
    """Return the fields of a result that name what was written, as on one machine: beside the path that was given."""
    path = without_secrets(path_text(output))
    folder = os.path.dirname(path)
    return {"output": path, "stores": tuple(os.path.join(folder, os.path.basename(store)) for store in stores)}
