"""What commands share that work on sets with other machines or processes."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from blobstore.cli.output import note
from blobstore.errors import UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from distributed import Client


_FLAGS = {"adapters": "--adapter"}


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Add ``--processes`` and ``--scheduler``."""
    group = parser.add_argument_group("a set on many machines (needs: pip install distributed)")
    group.add_argument("--processes", type=int, metavar="N", help="share its files out to N processes on this machine")
    group.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="share its files out to the workers of a Dask scheduler, such as tcp://10.0.0.1:8786; they need the same "
        "paths",
    )


@contextmanager
def cluster_of(options: argparse.Namespace) -> Iterator[Client | None]:
    """Connect to the cluster that was asked for; yields None if none was.

    Raises:
        UsageError, MissingExtraError, ClusterError: As `blobstore.distributed.cluster.cluster`.
    """
    if options.processes is None and options.scheduler is None:
        yield None
        return
    from blobstore.distributed.cluster import cluster  # noqa: PLC0415 (only with a cluster)

    with cluster(processes=options.processes, scheduler=options.scheduler) as client:
        if options.scheduler is not None and not client.scheduler_info()["workers"]:
            note(f"no workers at {options.scheduler} yet: waiting for the first")
        yield client


def refuse_flags(options: argparse.Namespace, *names: str) -> None:
    """Refuse options that don't go with a cluster.

    Raises:
        UsageError: ``needless-flag``.
    """
    for name in names:
        if getattr(options, name) not in (None, []):
            flag = _FLAGS.get(name, f"--{name}")
            what = f"{flag} doesn't go with --processes and --scheduler"
            raise UsageError("needless-flag", f"{what}: leave it out, or them")
