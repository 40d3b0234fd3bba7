"""Jobs in threads, their results in order."""

from __future__ import annotations

import os
from collections import deque
from itertools import chain, islice
from typing import TYPE_CHECKING, TypeVar

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


def in_order(jobs: Iterable[Callable[[], T]], workers: int | None = None) -> Iterator[T]:
    """Run jobs and yield what they return, in their order; an error ends it, when its turn comes.

    Jobs are asked for as they are needed, so that only a few results for each thread are held.

    Args:
        jobs: What lets go of the interpreter runs side by side.
        workers: Threads; by default one for each core. A single job, or one thread, needs none.
    """
    workers = workers or cores()
    rest = iter(jobs)
    first = list(islice(rest, 2))
    if workers == 1 or len(first) < 2:
        yield from (job() for job in chain(first, rest))
        return
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 (import blobstore stays cheap)

    with ThreadPoolExecutor(workers, thread_name_prefix="blobstore") as pool:
        running: deque[Future[T]] = deque()
        try:
            for job in chain(first, rest):
                if len(running) == _AHEAD * workers:
                    yield running.popleft().result()
                running.append(pool.submit(job))
            while running:
                yield running.popleft().result()
        finally:
            for one in running:
                one.cancel()
