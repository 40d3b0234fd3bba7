"""Jobs in threads, their results in order."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Generic, TypeVar

from blobstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

T = TypeVar("T")

_AHEAD = 2  # jobs for each thread that are begun before their results are asked for


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_workers(workers: int | None) -> None:
    """Refuse a number of threads that can do nothing.

    Raises:
        UsageError: ``bad-workers``.
    """
    if workers is not None and workers < 1:
        raise UsageError("bad-workers", f"{workers} workers can't do anything: there is at least one")


def one_by_one(jobs: Iterable[Callable[[], T]]) -> Iterator[T]:
    """Run jobs in this thread and yield what they return."""
    return (job() for job in jobs)


def in_order(jobs: Iterable[Callable[[], T]], workers: int | None = None) -> Iterator[T]:
    """Run jobs and yield what they return, in their order; an error ends it, when its turn comes.

    Jobs are asked for as they are needed, so that only a few results for each thread are held. The caller's thread is
    one of them: while the next result isn't there, it runs jobs, too.

    Args:
        jobs: What lets go of the interpreter runs side by side.
        workers: Threads; by default one for each core. A single job, or one thread, needs none.
    """
    workers = workers or cores()
    rest = iter(jobs)
    first = list(islice(rest, 2))
    if workers == 1 or len(first) < 2:
        yield from one_by_one(chain(first, rest))
        return
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 (import blobstore stays cheap)

    with ThreadPoolExecutor(workers - 1, thread_name_prefix="blobstore") as pool:
        begun: deque[_Begun[T]] = deque()
        try:
            for job in chain(first, rest):
                if len(begun) == _AHEAD * workers:
                    yield _next_of(begun)
                begun.append(_Begun(job, pool.submit(job)))
            while begun:
                yield _next_of(begun)
        finally:
            while begun:
                begun.pop().result.cancel()


@dataclass
class _Begun(Generic[T]):
    """A job, and what comes of it."""

    job: Callable[[], T]
    result: Future[T]

    def run_here(self) -> bool:
        """Run the job in this thread and return True, unless another one has begun to."""
        from concurrent.futures import Future  # noqa: PLC0415 (as above)

        if not self.result.cancel():
            return False
        self.result = Future()
        try:
            self.result.set_result(self.job())
        except Exception as error:  # noqa: BLE001 (it is raised when its turn comes)
            self.result.set_exception(error)
            del self  # the error knows this frame, which would know the error: a cycle, that keeps the job's data
        return True


def _next_of(begun: deque[_Begun[T]]) -> T:
    """Return the next result; meanwhile run what no other thread has begun."""
    oldest, one = begun.popleft(), None
    try:
        if not oldest.run_here():
            for one in begun:
                if oldest.result.done():
                    break
                one.run_here()
        return oldest.result.result()
    finally:
        del oldest, one  # as above
