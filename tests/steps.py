"""Count how much work a function does, instead of timing it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest

from blobstore.fileio import system

if TYPE_CHECKING:
    from collections.abc import Callable

_TWICE, _ONCE = 2.3, 1000  # n log n for a few thousand; steps that don't depend on n


class Steps(NamedTuple):
    """Function calls and generator resumptions, bytes read from files, elements that numpy sorts and searches."""

    calls: int
    nbytes: int
    argsort: int
    flatnonzero: int


def steps(run: Callable[[], object]) -> Steps:
    """Count the steps of a function in this thread."""
    calls = nbytes = 0
    elements = {"argsort": 0, "flatnonzero": 0}

    def called(_frame: object, event: str, _what: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    def read(fd: int, buffers: list[memoryview], offset: int) -> int:
        nonlocal nbytes
        assert preadv is not None
        done = preadv(fd, buffers, offset)
        nbytes += done
        return done

    def counting(name: str) -> Callable[..., Any]:
        function = getattr(np, name)

        def counted(array: Any, *rest: Any, **options: Any) -> Any:  # noqa: ANN401 (numpy's)
            elements[name] += np.size(array)
            return function(array, *rest, **options)

        return counted

    preadv, before = system.preadv, sys.getprofile()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(system, "preadv", preadv and read)
        for name in elements:
            patch.setattr(np, name, counting(name))
        sys.setprofile(called)
        try:
            run()
        finally:
            sys.setprofile(before)
    return Steps(calls, nbytes, **elements)


def assert_grows_with(count: int, work: Callable[[int], Callable[[], object]]) -> None:
    """Assert that twice the size takes about twice the steps.

    Args:
        count: The size.
        work: Takes a size and returns the function to count.
    """
    small, large = work(count), work(2 * count)
    small()  # one-time work: imports, caches
    for what, before, after in zip(Steps._fields, steps(small), steps(large), strict=True):
        assert after <= _TWICE * before + _ONCE, f"{what}: {before} for {count}, {after} for {2 * count}"
