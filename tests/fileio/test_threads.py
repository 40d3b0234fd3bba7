"""Jobs in threads: results in order, few at a time, and none left behind."""

from __future__ import annotations

import gc
import threading
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.fileio.threads import cores, in_order, run_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

workers = pytest.mark.parametrize("workers", [None, 1, 2, 5])


def same(value: int) -> int:
    return value


def broken() -> int:
    raise ValueError("broken")


@given(st.lists(st.integers(), max_size=30), st.sampled_from([None, 1, 2, 5]))
def test_results_come_in_the_order_of_the_jobs(values: list[int], count: int | None) -> None:
    assert list(in_order((partial(same, value) for value in values), count)) == values


@given(st.lists(st.integers(), max_size=30), st.sampled_from([None, 1, 2, 5]))
def test_all_results_come_in_the_order_of_the_jobs(values: list[int], count: int | None) -> None:
    assert run_all((partial(same, value) for value in values), count) == values


@pytest.mark.parametrize("workers", [2, 3, 5])
def test_a_long_job_holds_up_no_others(workers: int) -> None:
    others = threading.Semaphore(0)

    def long() -> bool:
        return all(others.acquire(timeout=60) for _ in range(50))

    jobs: list[Callable[[], Any]] = [long, *[others.release] * 50]
    assert run_all(jobs, workers)[0]


def test_an_error_stops_jobs_that_look_for_it() -> None:
    stop, begun = threading.Event(), threading.Barrier(2, timeout=60)

    def fail() -> bool:
        begun.wait()
        raise ValueError("broken")

    def long() -> bool:
        begun.wait()
        return stop.wait(60)

    before = threading.active_count()
    with pytest.raises(ValueError, match="broken"):
        run_all([fail, long], 2, stop=stop)
    assert threading.active_count() == before


@workers
@pytest.mark.parametrize("place", [0, 1, 7])
def test_an_error_comes_when_its_turn_does(workers: int | None, place: int) -> None:
    jobs: list[Callable[[], int]] = [partial(same, value) for value in range(10)]
    jobs[place] = broken
    done: list[int] = []
    with pytest.raises(ValueError, match="broken"):
        done.extend(in_order(jobs, workers))
    results = in_order(jobs, workers)
    assert [next(results) for _ in range(place)] == list(range(place))
    with pytest.raises(ValueError, match="broken"):
        next(results)


@workers
def test_few_jobs_are_asked_for_ahead(workers: int | None) -> None:
    asked = []

    def jobs() -> Iterator[Callable[[], int]]:
        for value in range(1000):
            asked.append(value)
            yield partial(same, value)

    results = in_order(jobs(), workers)
    for value in range(50):
        assert next(results) == value
        assert len(asked) <= value + 2 + 2 * (workers or cores())
    results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("workers", [2, 3, 5])
def test_the_callers_thread_is_one_of_those_that_work(workers: int) -> None:
    seen: set[int] = set()
    together = threading.Barrier(workers, timeout=60)

    def job() -> None:
        seen.add(threading.get_ident())
        together.wait()  # until this many jobs run at the same time

    assert list(in_order([job] * (3 * workers), workers)) == [None] * (3 * workers)
    assert len(seen) == workers
    assert threading.get_ident() in seen


class Data:
    """The data of a job."""

    def fail(self) -> None:
        raise ValueError("broken")


@workers
@pytest.mark.parametrize("run", [in_order, run_all])
def test_an_error_keeps_nothing_alive_once_it_is_caught(run: Callable[..., Any], workers: int | None) -> None:
    held: list[weakref.ref[Data]] = []

    def jobs() -> Iterator[Callable[[], None]]:
        for _ in range(20):
            data = Data()
            held.append(weakref.ref(data))
            yield data.fail

    gc.disable()  # so that reference cycles stay alive
    try:
        with pytest.raises(ValueError, match="broken") as caught:
            list(run(jobs(), workers))
        del caught
        assert len(held) >= (2 if run is in_order else 1)
        assert [reference() for reference in held] == [None] * len(held)
    finally:
        gc.enable()


@workers
def test_no_thread_is_left_when_nobody_asks_for_more(workers: int | None) -> None:
    before = threading.active_count()
    results = in_order((partial(same, value) for value in range(100)), workers)
    assert next(results) == 0
    del results
    assert threading.active_count() == before


@workers
def test_a_single_job_runs_in_the_callers_thread(workers: int | None) -> None:
    assert list(in_order([threading.get_ident], workers)) == [threading.get_ident()]
    assert list(in_order([], workers)) == []
