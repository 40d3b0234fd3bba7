"""A cluster to work on: that of a scheduler, or processes of this machine."""

from __future__ import annotations

import logging
import socket
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING

from blobstore.errors import ClusterError, MissingExtraError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from distributed import Client

_SECONDS = 10


@contextmanager
def cluster(*, processes: int | None = None, scheduler: str | None = None) -> Iterator[Client]:
    """Connect to a scheduler, or start processes on this machine → the client. Dask's log is silent meanwhile.

    Args:
        processes: How many, with a thread each; they end with the block.
        scheduler: Its address, such as ``tcp://10.0.0.1:8786``.

    Raises:
        UsageError: ``two-ways`` for both, ``bad-workers``, ``bad-address``.
        MissingExtraError: ``missing-extra``: distributed isn't installed.
        ClusterError: ``no-scheduler``.
    """
    if processes is not None and scheduler is not None:
        raise UsageError("two-ways", "--processes starts workers here, --scheduler has its own: leave out one of them")
    if processes is not None and processes < 1:
        raise UsageError("bad-workers", f"{processes} processes can't do anything: there is at least one")
    distributed = import_distributed()
    if scheduler is not None:
        _check_address(scheduler)
    with ExitStack() as stack:
        stack.enter_context(_silent())
        if scheduler is None:
            local = distributed.LocalCluster(
                n_workers=processes,
                threads_per_worker=1,
                memory_limit=0,  # Dask takes the pages of mapped files for memory, and would end workers for them
                dashboard_address="127.0.0.1:0",  # another cluster may have the usual port
                silence_logs=logging.CRITICAL,
                preload=["blobstore.distributed.preload"],
            )
            where = stack.enter_context(local)
        else:
            where = scheduler
        try:
            client = distributed.Client(where, timeout=_SECONDS, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise _no_scheduler(where, error) from error
        stack.callback(client.close, timeout=_SECONDS)
        yield client


def _check_address(address: str) -> None:
    """Refuse an address where nothing can be, or nothing is: a client that was made with it would leave a traceback."""
    comm = import_module("distributed.comm")
    try:
        host, port = comm.get_address_host_port(address)
    except (ValueError, TypeError, OSError) as error:
        what = f"{address!r} isn't the address of a scheduler ({error})"
        raise UsageError("bad-address", f"{what}: it is like tcp://10.0.0.1:8786") from error
    if "://" not in address or address.startswith(("tcp://", "tls://")):
        try:
            socket.create_connection((host, port), _SECONDS).close()
        except OSError as error:
            raise _no_scheduler(address, error) from error


def _no_scheduler(address: object, error: Exception) -> ClusterError:
    fix = "is it running there, and is the address right?"
    return ClusterError("no-scheduler", f"no scheduler answers at {address!r} ({error}): {fix}")


def import_distributed() -> ModuleType:
    """Import dask.distributed.

    Raises:
        MissingExtraError: ``missing-extra``: it isn't installed.
    """
    try:
        return import_module("distributed")
    except ModuleNotFoundError as error:
        if error.name != "distributed":
            raise
        what = "work on other machines and in other processes needs dask.distributed"
        raise MissingExtraError("missing-extra", f"{what}: pip install distributed") from error


@contextmanager
def _silent() -> Iterator[None]:
    """Keep Dask's warnings from standard error: what they are about is an error of this package, or is put right."""
    names = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] == "distributed"]
    levels = {name: logging.getLogger(name).level for name in names}  # each has its own
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
