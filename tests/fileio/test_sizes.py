from __future__ import annotations

import pytest

from blobstore.errors import UsageError
from blobstore.fileio.sizes import parse_size


@pytest.mark.parametrize(
    ("size", "nbytes"),
    [
        (1, 1),
        ("1", 1),
        ("5GB", 5 * 10**9),
        ("5 gb", 5 * 10**9),
        ("5G", 5 * 10**9),
        ("512MiB", 512 << 20),
        ("1.5kB", 1500),
        ("0.5GiB", 1 << 29),
        ("9007199254740993", 2**53 + 1),
        ("1PiB", 1 << 50),
    ],
)
def test_sizes_are_those_that_people_write(size: int | str, nbytes: int) -> None:
    assert parse_size(size) == nbytes


@pytest.mark.parametrize(
    "size",
    [
        0,
        -1,
        "",
        "0",
        "GB",
        "5XB",
        "-5GB",
        "1e9",
        "5GBs",
        "٣GB",
        True,
        1.5,
        None,
        "1.5.2",
        1 << 63,
        "9e18PB",
        "99999999999PB",
    ],
)
def test_what_is_no_size_is_refused(size: int | str) -> None:
    with pytest.raises(UsageError, match="bad-size"):
        parse_size(size)
