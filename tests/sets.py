"""Sets for the tests: complete stores, joined by their index."""

from __future__ import annotations

from typing import TYPE_CHECKING

import blobstore
from blobstore.index.joining import JoinedStore, build_set_index

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from blobstore.fileio.types import Array


def join(path: Path, stores: Sequence[Path], metadata: Mapping[str, str] | None = None) -> None:
    """Write the index of a set of complete stores in the same folder."""
    joined = []
    for store in stores:
        with blobstore.open(store) as opened:
            assert opened.index
            joined.append(JoinedStore(store.name, opened.reader.directory, opened.index))
    path.write_bytes(build_set_index(joined, metadata))


def save_set(
    tensors: Sequence[Mapping[str, Array]],
    path: Path,
    *,
    metadata: Mapping[str, str] | None = None,
    aliases: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write a set with a store for each mapping → the paths of its stores."""
    stores = [path.with_name(f"{path.stem}-{i + 1:05}-of-{len(tensors):05}.sbs") for i in range(len(tensors))]
    for store, held in zip(stores, tensors, strict=True):
        with blobstore.create(store, metadata=dict(metadata or {}), digests=True) as writer:
            for name, array in held.items():
                writer[name] = array
            for name, target in (aliases or {}).items():
                if target in held:
                    writer.alias(name, target)
    join(path, stores, metadata)
    return stores
