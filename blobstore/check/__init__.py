"""Files and checkpoints, examined: what a runtime can't take, and what has changed since it was written.

Codes of findings: spec/findings.md.
"""

from __future__ import annotations

from blobstore.check.contents import Verified, verify_blobs, verify_file, verify_values
from blobstore.check.findings import CODES, Finding
from blobstore.check.opening import Opened, open_checked
from blobstore.check.runtime import check_file
from blobstore.check.source import check_checkpoint

__all__ = [
    "CODES",
    "Finding",
    "Opened",
    "Verified",
    "check_checkpoint",
    "check_file",
    "open_checked",
    "verify_blobs",
    "verify_file",
    "verify_values",
]
