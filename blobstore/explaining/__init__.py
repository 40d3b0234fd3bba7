"""What each reason code means, what causes it, and what to do: ``blobstore explain``, and a page of the documentation.

The tables need no numpy. A code is added to the table of its topic with the line that first raises it; a test compares
them with the source.
"""

from __future__ import annotations

from blobstore.explaining.codes import CODES, TOPICS, Explanation, explain
from blobstore.explaining.entry import Entry

__all__ = ["CODES", "TOPICS", "Entry", "Explanation", "explain"]
