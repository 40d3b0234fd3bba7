"""What a user may choose of an export: words only, which ``--help`` shows."""

from __future__ import annotations

DTYPES = ("bf16", "f16", "f32")  # of all floats
