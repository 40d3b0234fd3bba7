"""The name index: bytes ↔ entries.

Spec: spec/index.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from blobstore.index.name_index import NameIndex
from blobstore.index.parse import Head, open_index, parse_head, parse_index
from blobstore.index.records import MAGIC as INDEX_MAGIC
from blobstore.index.records import PACKED, Entry, IndexedBlob, shape_fault

if TYPE_CHECKING:
    from blobstore.index.build import blob_table, build_index, rebind_index, unbind_index

__all__ = [
    "INDEX_MAGIC",
    "PACKED",
    "Entry",
    "Head",
    "IndexedBlob",
    "NameIndex",
    "blob_table",
    "build_index",
    "open_index",
    "parse_head",
    "parse_index",
    "rebind_index",
    "shape_fault",
    "unbind_index",
]

if not TYPE_CHECKING:  # so that type checkers find misspelt names

    def __getattr__(name: str) -> object:
        """Import what writes an index on first use: files open without it."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"{__name__}.build"), name)
        return value
