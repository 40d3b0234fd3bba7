"""File systems in memory are empty before each test."""

from __future__ import annotations

import pytest

from tests.remote.counting import clear


@pytest.fixture(autouse=True)
def _empty() -> None:
    clear()
