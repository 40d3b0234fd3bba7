"""Examine files and checkpoints: what a runtime can't load, and what has changed since the file was written.

Codes of findings: spec/findings.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.fileio.later import imported_later

if TYPE_CHECKING:
    from blobstore.checking.checkpoint import check_checkpoint, check_plan
    from blobstore.checking.codes import CODES
    from blobstore.checking.findings import Finding, asked_for, runs_in, runtimes_line
    from blobstore.checking.runtime import check_file, check_packed, check_runtime
    from blobstore.checking.structure import Opened, open_checked
    from blobstore.checking.verify import Verified, verify_blobs, verify_file, verify_values

__all__ = [
    "CODES",
    "Finding",
    "Opened",
    "Verified",
    "asked_for",
    "check_checkpoint",
    "check_file",
    "check_packed",
    "check_plan",
    "check_runtime",
    "open_checked",
    "runs_in",
    "runtimes_line",
    "verify_blobs",
    "verify_file",
    "verify_values",
]

_HOMES = {
    "CODES": "codes",
    "Finding": "findings",
    "Opened": "structure",
    "Verified": "verify",
    "asked_for": "findings",
    "check_checkpoint": "checkpoint",
    "check_file": "runtime",
    "check_packed": "runtime",
    "check_plan": "checkpoint",
    "check_runtime": "runtime",
    "open_checked": "structure",
    "runs_in": "findings",
    "runtimes_line": "findings",
    "verify_blobs": "verify",
    "verify_file": "verify",
    "verify_values": "verify",
}

if not TYPE_CHECKING:  # so that type checkers find misspelt names
    # On first use: files are checked without what checks checkpoints, 50 ms to import.
    __getattr__ = imported_later(__name__, _HOMES)
