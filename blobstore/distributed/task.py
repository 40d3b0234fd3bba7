"""What a worker does for one shard. What the shards share is opened once for each thread, not for each shard."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from blobstore.errors import BlobStoreError, ClusterError
from blobstore.fileio.threads import at_most

if TYPE_CHECKING:
    from collections.abc import Callable

    from blobstore.fileio.work import Work

Result = TypeVar("Result")

_MOST_SECONDS_TO_STOP = 4
_REPORT_SECONDS = 1.0  # between two reports of a shard's progress


@dataclass(frozen=True)
class Done(Generic[Result]):
    """The result of a shard, and how many bytes were done."""

    result: Result
    nbytes: int


@dataclass(frozen=True)
class Failed:
    """What went wrong with a shard. As a value: Dask would shorten long errors, and try hopeless tasks again."""

    error: BlobStoreError | OSError


def do_shard(work: Work[Any, Result], number: int, run: str, version: str) -> Done[Result] | Failed:
    """Do some work for one shard, in a worker of dask.distributed.

    Args:
        work: What is to be done.
        number: Of the shard.
        run: Names this run: what is opened for it is used for no other; and the topic of its reports of progress.
        version: Of this package, where the run was started.
    """
    counted = _Counter(run, number)
    with _lock:
        _running[run] += 1
    try:
        _refuse_other(version)
        counted(0)
        with at_most(1), _Borrowed(run, work) as opened:
            return Done(work.do(opened, number, counted), counted.nbytes)
    except (BlobStoreError, OSError) as error:
        return Failed(error)
    finally:
        with _lock:
            _running[run] -= 1
            if not _running[run]:
                del _running[run]


async def close_run(run: str) -> None:
    """Close what is open in this process for a run that has ended, and wait a little until its shards have stopped.

    Dask waits for all functions that aren't async.
    """
    with _lock:
        _ended.append(run)
        del _ended[:-_REMEMBERED]
        idle = _idle.pop(run, [])
    for stack, _ in idle:
        stack.close()
    until = time.monotonic() + _MOST_SECONDS_TO_STOP
    while _running[run] and time.monotonic() < until:  # noqa: ASYNC110 (threads count)
        await asyncio.sleep(0.01)


def _refuse_other(version: str) -> None:
    own = import_module("blobstore").__version__  # the package itself is above this layer
    if own != version:
        what = f"a worker has blobstore {own}, and {version} was started: install the same version on all machines"
        raise ClusterError("other-version", what)


# What is open for a run, and not in use by a thread.
_idle: dict[str, list[tuple[ExitStack, Any]]] = {}
_ended: list[str] = []
_running: Counter[str] = Counter()  # shards of each run
_REMEMBERED = 100
_lock = threading.Lock()


class _Borrowed:
    """What is open for a run, while one thread uses it."""

    def __init__(self, run: str, work: Work[Any, Any]) -> None:
        self._run, self._work = run, work

    def __enter__(self) -> Any:  # noqa: ANN401 (what the work opens)
        with _lock:
            idle = _idle.get(self._run)
            self._entry = idle.pop() if idle else None
        if self._entry is None:
            stack = ExitStack()
            self._entry = stack, stack.enter_context(self._work.open())
        return self._entry[1]

    def __exit__(self, kind: object, *_: object) -> None:
        assert self._entry is not None  # noqa: S101 (it was entered)
        with _lock:
            kept = kind is None and self._run not in _ended
            if kept:
                _idle.setdefault(self._run, []).append(self._entry)
        if not kept:  # after an error nobody knows what it is worth
            self._entry[0].close()


class _Counter:
    """Counts the bytes of a shard, and reports them every second."""

    def __init__(self, run: str, number: int) -> None:
        self._run, self._number = run, number
        self._lock = threading.Lock()
        self._report = _reporter()
        self._next = time.monotonic() + _REPORT_SECONDS
        self.nbytes = 0

    def __call__(self, nbytes: int) -> None:
        if self._run in _ended:
            raise ClusterError("run-ended", "the run that this belongs to has ended")
        with self._lock:
            self.nbytes += nbytes
            now = time.monotonic()
            if now < self._next:
                return
            self._next = now + _REPORT_SECONDS
            reported = self.nbytes
        self._report(self._run, (self._number, reported))


def _reporter() -> Callable[[str, Any], None]:
    from distributed import get_worker  # noqa: PLC0415 (an extra)

    report: Callable[[str, Any], None] = get_worker().log_event
    return report
