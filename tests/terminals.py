"""Commands in a terminal of a given width: what people see."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

_STYLES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def in_terminal(width: int, *words: str | Path, progress: bool = False) -> list[str]:
    """Run a command in a pseudo-terminal → its lines, without styles; notes are among them, a progress bar isn't."""
    fcntl, pty, struct, termios = (pytest.importorskip(name) for name in ("fcntl", "pty", "struct", "termios"))
    parent, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "blobstore", *map(str, words), *["--quiet"] * (not progress)],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=environment | {"TERM": "xterm"},
    )
    os.close(terminal)
    shown = b""
    try:
        while piece := os.read(parent, 65536):
            shown += piece
    except OSError as error:  # Linux's way to say that the other end is closed
        if error.errno != errno.EIO:
            raise
    os.close(parent)
    process.wait(timeout=60)
    return _STYLES.sub("", shown.decode()).replace("\r", "").split("\n")
