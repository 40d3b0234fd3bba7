"""The name index: bytes ↔ entries.

Spec: spec/index.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.fileio.later import imported_later
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
    # On first use: files open without what writes an index.
    __getattr__ = imported_later(
        __name__, dict.fromkeys(("blob_table", "build_index", "rebind_index", "unbind_index"), "build")
    )
