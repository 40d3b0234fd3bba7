"""Names of the versions of gemma.cpp, and how a version is asked for: words only, which ``--help`` shows.

What each of them reads: `blobstore.gemma.runtimes`.
"""

from __future__ import annotations

from typing import Literal

OCTOBER, APRIL, LATEST = NAMES = ("2025-10", "2026-04", "latest")
RUNTIME = "gemma.cpp"
RuntimeChoice = Literal["auto", "gemma.cpp", "gemma.cpp@2025-10", "gemma.cpp@2026-04", "gemma.cpp@latest", "any"]
RUNTIME_CHOICES = ("auto", RUNTIME, *(f"{RUNTIME}@{name}" for name in NAMES), "any")
