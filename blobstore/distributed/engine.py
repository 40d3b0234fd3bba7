"""An engine that lets the workers of dask.distributed do the work, a task for each shard."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from blobstore.distributed.task import Done, Failed, close_run, do_shard
from blobstore.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from distributed import Client, Future

    from blobstore.fileio.types import Progress
    from blobstore.fileio.work import Work

Opened = TypeVar("Opened")
Result = TypeVar("Result")

RETRIES = 3
_SECONDS_TO_TIDY_UP = 5
_NEVER_BETTER = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)


class ClusterEngine:
    """Does some work for each shard on the workers of a cluster.

    Dask starts a task of a lost worker again, on another one, as often as its setting
    ``distributed.scheduler.allowed-failures`` says; then, or when the system reports an error, this submits it anew.
    """

    def __init__(self, client: Client, *, what: str, retries: int = RETRIES) -> None:
        """Take a client of the cluster.

        Args:
            client: Of dask.distributed, connected; it stays open.
            what: What is done, for the names of the tasks on the dashboard.
            retries: How often a shard is submitted again.
        """
        self._client, self._what, self._retries = client, what, retries

    def __call__(
        self, work: Work[Opened, Result], numbers: Sequence[int], progress: Progress
    ) -> Iterator[tuple[int, Result]]:
        """Yield the number and the result of each shard, in the order in which they are done.

        Args:
            work: Can be pickled.
            numbers: Of the shards.
            progress: Called, from another thread, too, with the number of further bytes done.

        Raises:
            ClusterError: ``scheduler-lost``, ``worker-lost``, ``other-version``, ``not-shared``, ``worker-setup``.
            BlobStoreError, OSError: As the work raises them in the worker.
        """
        run = _Run(self._client, self._what, work, self._retries)
        with run.reporting(progress) as done, run.cancelled_at_end():
            from distributed import as_completed  # noqa: PLC0415 (an extra)

            waiting = as_completed([run.submit(number) for number in numbers], loop=self._client.loop)
            for future in waiting:
                number = run.number_of(future)
                shard = run.outcome_of(number, future)
                if shard is None:
                    waiting.add(run.submit(number))
                    continue
                done(number, shard.nbytes)
                yield number, shard.result


class _Run:
    """The tasks of one piece of work."""

    def __init__(self, client: Client, what: str, work: Work[Any, Any], retries: int) -> None:
        self._client, self._what, self._work, self._retries = client, what, work, retries
        self._id = uuid.uuid4().hex
        self._numbers: dict[str, int] = {}  # by the keys of the tasks that aren't done
        self._futures: dict[int, Future] = {}
        self._attempts: dict[int, int] = {}
        self._version = import_module("blobstore").__version__  # the package itself is above this layer

    def submit(self, number: int) -> Future:
        """Submit the task of a shard."""
        attempt = self._attempts[number] = self._attempts.get(number, 0) + 1
        key = f"blobstore-{self._what}-{self._id}-{number}-{attempt}"
        with self._naming_loss():
            future = self._client.submit(do_shard, self._work, number, self._id, self._version, key=key, pure=False)
        self._numbers[key], self._futures[number] = number, future
        return future

    def number_of(self, future: Future) -> int:
        """Return which shard a task was for."""
        return self._numbers.pop(future.key)

    def outcome_of(self, number: int, future: Future) -> Done[Any] | None:
        """Return what came of a shard; None if another try is worth it.

        Raises:
            ClusterError, BlobStoreError, OSError: It isn't.
        """
        from distributed.scheduler import KilledWorker  # noqa: PLC0415 (an extra)

        may_retry = self._attempts[number] <= self._retries
        error: Exception
        with self._naming_loss():
            try:
                outcome: Done[Any] | Failed = future.result()  # waits, if its worker was lost after all
            except KilledWorker as killed:
                error = killed
            except ImportError as failed:
                error = failed
            else:
                # The cluster forgets the result. Not when it is collected: an interrupt would be lost there.
                self._futures.pop(number).release()
                if isinstance(outcome, Done):
                    return outcome
                error = outcome.error
        if isinstance(error, OSError) and not isinstance(error, _NEVER_BETTER) and may_retry:
            return None
        if isinstance(error, FileNotFoundError):
            fix = "all machines must see the source and the target under the same paths"
            raise ClusterError("not-shared", f"a worker doesn't find {error.filename!r}: {fix}") from error
        if isinstance(error, KilledWorker) and may_retry:
            return None
        if isinstance(error, KilledWorker):
            what = f"each worker that began file {number + 1} died, the last at {error.last_worker.address}"
            fix = "have they enough memory? With more retries, or distributed.scheduler.allowed-failures, more may die"
            raise ClusterError("worker-lost", f"{what}: {fix}") from error
        if isinstance(error, ImportError):
            what = f"a worker can't import what it needs ({error}): install the same packages on all machines"
            raise ClusterError("worker-setup", what) from error
        raise error

    @contextmanager
    def reporting(self, progress: Progress) -> Iterator[_Reports]:
        """Pass on what workers report of their shards' progress; yields what is to be called for each one done."""
        reports = _Reports(progress)
        with self._naming_loss():
            self._client.subscribe_topic(self._id, reports.receive)
        try:
            yield reports
        finally:
            with suppress(Exception):  # the scheduler may be gone, and with it the topic
                self._client.unsubscribe_topic(self._id)

    @contextmanager
    def cancelled_at_end(self) -> Iterator[None]:
        """After an error or an interrupt, cancel or stop all tasks; in any case let workers close their files."""
        try:
            yield
        except BaseException:
            _in_time(lambda: self._client.cancel(list(self._futures.values()), force=True))
            # Those that have begun stop at their next report: what they write would be left behind.
            _in_time(lambda: self._client.run(close_run, self._id, on_error="ignore"))
            raise
        else:
            _in_time(lambda: self._client.run(close_run, self._id, wait=False, on_error="ignore"))

    @contextmanager
    def _naming_loss(self) -> Iterator[None]:
        """Raise `ClusterError` for what Dask raises when there is no connection to the scheduler."""
        from distributed.client import ClosedClientError  # noqa: PLC0415 (an extra)

        try:
            yield
        except (ClosedClientError, OSError, CancelledError) as error:
            raise self._lost() from error

    def _lost(self) -> ClusterError:
        address = getattr(self._client.scheduler, "addr", None) or "its address"
        what = f"the scheduler at {address} can't be reached any more, or has cancelled the tasks"
        again = "convert: with --resume; otherwise remove the files of the new set first"
        fix = f"start it again, and run this again ({again})"
        return ClusterError("scheduler-lost", f"{what}: {fix}")


def _in_time(tidy_up: Callable[[], object]) -> None:
    """Call a function, but don't wait long for scheduler or workers that don't answer, nor fail when they have gone."""

    def call() -> None:
        with suppress(Exception):
            tidy_up()

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(_SECONDS_TO_TIDY_UP)


class _Reports:
    """Adds up the progress of all shards. What a lost worker had done isn't counted twice."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._reported: dict[int, int] = {}
        self._lock = threading.Lock()

    def receive(self, event: tuple[float, tuple[int, int]]) -> None:
        """Take a report of a worker."""
        self(*event[1])

    def __call__(self, number: int, nbytes: int) -> None:
        """Take how many bytes of a shard are done."""
        with self._lock:
            more = nbytes - self._reported.get(number, 0)
            if more > 0:
                self._reported[number] = nbytes
                self._progress(more)
