"""Running jobs in threads."""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Generic, TypeVar

from blobstore.errors import UsageError
from blobstore.fileio import system

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

T = TypeVar("T")

_AHEAD = 2  # jobs per thread that are started before their results are asked for
_most: ContextVar[int | None] = ContextVar("most", default=None)


def cores() -> int:
    """Return how many cores this process may use, or this thread, inside `at_most`."""
    return _most.get() or system.cores()


@contextmanager
def at_most(threads: int) -> Iterator[None]:
    """Let the block use so many threads where it would use one for each core; other threads aren't concerned."""
    token = _most.set(threads)
    try:
        yield
    finally:
        _most.reset(token)


def check_workers(workers: int | None) -> None:
    """Refuse a number of threads below one.

    Raises:
        UsageError: ``bad-workers``.
    """
    if workers is not None and not (isinstance(workers, int) and workers >= 1):
        raise UsageError("bad-workers", f"{workers!r} workers can't do anything: there is at least one")


def one_by_one(jobs: Iterable[Callable[[], T]]) -> Iterator[T]:
    """Run jobs in this thread and yield their results."""
    return (job() for job in jobs)


def in_order(jobs: Iterable[Callable[[], T]], workers: int | None = None) -> Iterator[T]:
    """Run jobs in threads and yield their results in order; an error is raised in its job's turn, and ends it.

    Jobs are taken from ``jobs`` as they are needed, so that only a few results per thread are held. The caller's thread
    is one of the workers: it runs jobs while the next result isn't ready.

    Args:
        jobs: Run side by side as far as they release Python's global lock.
        workers: Threads; by default one per core. A single job, or a single worker, starts none.
    """
    workers = workers or cores()
    rest = iter(jobs)
    first = list(islice(rest, 2))
    if workers == 1 or len(first) < 2:
        yield from one_by_one(chain(first, rest))
        return
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 (import blobstore stays cheap)

    with ThreadPoolExecutor(workers - 1, thread_name_prefix="blobstore") as pool:
        started: deque[_Started[T]] = deque()
        try:
            for job in chain(first, rest):
                if len(started) == _AHEAD * workers:
                    yield _next_result(started)
                started.append(_Started(job, pool.submit(job)))
            while started:
                yield _next_result(started)
        finally:
            while started:
                started.pop().result.cancel()


def run_all(
    jobs: Iterable[Callable[[], T]], workers: int | None = None, *, stop: threading.Event | None = None
) -> list[T]:
    """Run jobs in threads and return all results, in order.

    Unlike with `in_order`, all jobs are queued at once, so that a long one holds up no others. An error cancels those
    that have not begun.

    Args:
        jobs: As for `in_order`.
        workers: Threads; by default one per core. A single job, or a single worker, starts none.
        stop: Set after an error or interrupt, before this waits for the jobs that are running: they may end early.
    """
    workers = workers or cores()
    rest = iter(jobs)
    first = list(islice(rest, 2))
    if workers == 1 or len(first) < 2:
        return list(one_by_one(chain(first, rest)))
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 (as above)

    with ThreadPoolExecutor(workers, thread_name_prefix="blobstore") as pool:
        try:
            results = deque(pool.submit(job) for job in chain(first, rest))
            values = []
            while results:  # a result that is kept would be in a cycle with its error, which refers to this frame
                values.append(results.popleft().result())
        except BaseException:
            if stop:
                stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return values


@dataclass
class _Started(Generic[T]):
    """A job, and its result to come."""

    job: Callable[[], T]
    result: Future[T]

    def run_here(self) -> bool:
        """Run the job in this thread and return True, unless another thread has begun it."""
        from concurrent.futures import Future  # noqa: PLC0415 (as above)

        if not self.result.cancel():
            return False
        self.result = Future()
        try:
            self.result.set_result(self.job())
        except Exception as error:  # noqa: BLE001 (it is raised in the job's turn)
            self.result.set_exception(error)
            del self  # the error refers to this frame: a cycle, which would keep the job's data
        return True


def _next_result(started: deque[_Started[T]]) -> T:
    """Return the next result; until it is ready run jobs that no other thread has begun."""
    oldest, later = started.popleft(), None
    try:
        if not oldest.run_here():
            for later in started:
                if oldest.result.done():
                    break
                later.run_here()
        return oldest.result.result()
    finally:
        del oldest, later  # as above
