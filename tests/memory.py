"""How much memory a program takes at most, measured in a process of its own. Linux only: it is read from /proc."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# For programs. A child's ru_maxrss starts at its parent's; VmHWM is the peak of the program itself.
PEAK = """
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) << 10
"""
_COMMAND = f"""{PEAK}
import sys
from blobstore.cli import main
status = main(sys.argv[1:])
print(peak(), file=sys.stderr)
sys.exit(status)
"""


def run_program(program: str, *arguments: str | Path) -> list[str]:
    """Run a program, which has a function `peak` that returns bytes → the words that it prints."""
    words = [sys.executable, "-c", PEAK + program, *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def peak_of_command(*arguments: str | Path, folder: Path | None = None) -> int:
    """Run a command of blobstore in a folder, its output thrown away → bytes."""
    done = subprocess.run(
        [sys.executable, "-c", _COMMAND, *map(str, arguments)],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stderr.split()[-1])
