"""Sets of files on many machines, by dask.distributed: one task for each file. Needs distributed.

All machines see source and target under the same paths, on a file system that they share. The results are those of one
machine, byte for byte.
"""

from __future__ import annotations

from blobstore.distributed.functions import check, convert, pack, verify

__all__ = ["check", "convert", "pack", "verify"]
