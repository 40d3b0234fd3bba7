"""Servers whose answers are of other ranges than those that were asked for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore import RemoteError
from blobstore.fileio.web_ranges import _check


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40))
def test_an_answer_is_of_the_range_asked_for(asked: int, sent: int) -> None:
    answer = SimpleNamespace(status=206, headers={"Content-Range": f"bytes {sent}-{sent + 9}/*"})
    if asked == sent:
        _check(answer, [], asked)
        return
    with pytest.raises(RemoteError, match="needs-ranges"):
        _check(answer, [], asked)


def test_an_answer_says_its_range() -> None:
    with pytest.raises(RemoteError, match="needs-ranges"):
        _check(SimpleNamespace(status=206, headers={}), [], 0)
