"""What a worker process of this machine does when it starts."""

from __future__ import annotations

import signal


def dask_setup(_worker: object) -> None:
    """Ignore the terminal's interrupt: the process that waits gets it, too, and ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
