"""The public functions of `blobstore.distributed`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from blobstore.checking.checkup import check_alone
from blobstore.checking.verification import verify_alone
from blobstore.distributed.engine import RETRIES, ClusterEngine
from blobstore.errors import UsageError
from blobstore.fileio.paths import path_text
from blobstore.index.sets import is_set_at

if TYPE_CHECKING:
    from os import PathLike

    from distributed import Client

    from blobstore.checking.checkup import Checkup, RuntimeChoice
    from blobstore.checking.verification import Verification
    from blobstore.fileio.types import Progress


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
    return verify_alone(
        set_path(path),
        quick=quick,
        values=values,
        strict=strict,
        engine=ClusterEngine(client, what="verify", retries=retries),
        progress=progress,
    )


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
    return check_alone(set_path(path), for_=for_, strict=strict, engine=engine)


def set_path(path: str | PathLike[str]) -> str:
    """Return the path of a set as all machines know it: an absolute one.

    Raises:
        UsageError: ``not-a-set``.
        OSError: There is no such file.
    """
    text = os.path.abspath(path_text(path))
    os.stat(text)
    if not is_set_at(text):
        what = f"{text!r} is one file, which one machine reads with all its cores"
        raise UsageError("not-a-set", f"{what}: leave out --processes and --scheduler")
    return text
