"""Strategies: keys, payloads and whole lists of blobs."""

from __future__ import annotations

import io
import os
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import strategies as st

if TYPE_CHECKING:
    from pathlib import Path


class BytesPath:
    """A PathLike that gives bytes."""

    def __init__(self, path: Path) -> None:
        self.path = os.fsencode(path)

    def __fspath__(self) -> bytes:
        return self.path


class WriteOnly(io.BytesIO):
    """What standard output is: it can't be read back."""

    def readable(self) -> bool:
        return False


Blobs = list[tuple[str, bytes]]  # key, payload


@cache
def payload(seed: int, nbytes: int) -> bytes:
    """Bytes by the rule of spec/vectors/README.md: byte i is the low byte of the i-th word of PCG64(seed)."""
    return np.random.PCG64(seed).random_raw(nbytes).astype(np.uint8).tobytes()


def text_of(key: bytes) -> str:
    """A key's bytes as the package shows them."""
    return key.decode("utf-8", "surrogateescape")


def bytes_of(key: str) -> bytes:
    """The reverse of `text_of`."""
    return key.encode("utf-8", "surrogateescape")


versions = st.sampled_from([1, 2])

# Any 1 to 16 bytes without NUL: random ones, UTF-8, and few letters, so that some are near misses of others.
key_bytes = st.one_of(
    st.lists(st.integers(1, 255), min_size=1, max_size=16).map(bytes),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=16)
    .map(str.encode)
    .filter(lambda key: len(key) <= 16),
    st.lists(st.sampled_from(b"ab\xff"), min_size=1, max_size=16).map(bytes),
)
keys = key_bytes.map(text_of)

# Sizes on both sides of every boundary: of the padding of blobs and files, and of what is gathered before writing.
payload_sizes = st.one_of(
    st.integers(1, 600),
    st.sampled_from([1, 255, 256, 257, 511, 512, 513, 4096, 64975, 64976, 64977, 65024, 65025, 65535, 65536, 65537]),
)
payloads = st.one_of(
    st.binary(min_size=1, max_size=40),
    st.builds(payload, st.integers(0, 3), payload_sizes),
)


def blob_lists(max_size: int = 12) -> st.SearchStrategy[Blobs]:
    """Lists of 1 to ``max_size`` blobs whose keys differ."""
    return st.lists(st.tuples(keys, payloads), min_size=1, max_size=max_size, unique_by=lambda blob: blob[0])


# Any value of JSON.
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
