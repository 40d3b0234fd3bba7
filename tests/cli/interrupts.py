"""A command that gets Ctrl-C while it writes."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike


def interrupt(*arguments: str | PathLike[str], begun: Callable[[int], bool]) -> str:
    """Interrupt a command once it has begun, given its process; return its standard error.

    It ends with the status of an interrupt, and has printed nothing.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "blobstore", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A background shell ignores the signal, and so would everything that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 (no thread runs here)
    )
    while process.poll() is None and not begun(process.pid):
        pass
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert output == ""
    return errors
