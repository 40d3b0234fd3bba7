"""Sizes that are fixed in gemma.cpp, by which config, vision part and tensors are checked.

Sources: spec/gemma.md, Rules of the runtime.
"""

from __future__ import annotations

MATMUL_ROWS = 4  # that its matrix products take at a time
MAX_COLUMNS = 36 * 1024  # of a matrix product
LANES = 8  # floats in a vector of AVX2: 2025-10 reads queries at multiples of it
