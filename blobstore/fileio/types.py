"""Types of arguments and results, for the signatures of all folders."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Buffer = bytes | bytearray | memoryview | mmap.mmap | npt.NDArray[np.generic]
Progress = Callable[[int], None]  # told how many bytes more are done
