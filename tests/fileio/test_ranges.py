"""`FileRange`: its parts; and the report of what is done with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from blobstore.fileio import ranges
from blobstore.fileio.ranges import FileRange, reporting

if TYPE_CHECKING:
    import pytest


@given(st.integers(0, 1 << 40), st.integers(0, 40 * ranges.STEP_NBYTES))
def test_parts_follow_each_other_and_are_the_whole_range(offset: int, nbytes: int) -> None:
    parts = list(FileRange(3, offset, nbytes).parts())
    end = offset
    for part in parts:
        assert (part.file, part.offset) == (3, end)
        assert 0 < part.nbytes <= ranges.STEP_NBYTES
        end += part.nbytes
    assert end == offset + nbytes
    assert len(parts) == -(-nbytes // ranges.STEP_NBYTES)


def test_each_piece_is_reported_when_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "STEP_NBYTES", 10)
    reported: list[int] = []
    pieces = reporting(FileRange(3, 0, 25).parts(), reported.append)
    assert next(pieces).nbytes == 10
    assert not reported
    assert [piece.nbytes for piece in pieces] == [10, 5]
    assert reported == [10, 10, 5]
