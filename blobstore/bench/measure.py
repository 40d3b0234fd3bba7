"""One measurement, in a process of its own: its peak memory is its own, and no earlier measurement affects it.

The process first does the case on a file of one tensor, so what libraries import and set up at first use doesn't count.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import blobstore
from blobstore.bench import cases, cpp, frameworks, page_cache, yardsticks
from blobstore.bench.cases import Ours, OursByReads, OursUndigested, Wanted
from blobstore.bench.peers import PEERS
from blobstore.errors import BlobStoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from blobstore.bench.cases import Format

TRIAL = Wanted(["a"], ["a"], "a", 4096)  # of the file of one tensor
FORMATS: dict[str, Format] = {form.name: form for form in (Ours(), OursByReads(), OursUndigested(), *PEERS.values())}
_STATUS, _CLEAR_REFS = "/proc/self/status", "/proc/self/clear_refs"


@dataclass(frozen=True)
class Job:
    """A measurement for a process to take.

    Attributes:
        format: Name of a format, of the machine, of the C++ reader, or of a loader of `frameworks` (for any case).
        case: Key.
        path: The file.
        trial: Another file, of one tensor; for the C++ reader the program.
        wanted: The tensors.
        cold: Whether the file is dropped from the page cache before the run, or read into it.
        drop_caches: Whether everything else is dropped as well.
    """

    format: str
    case: str
    path: str
    trial: str
    wanted: Wanted
    cold: bool
    drop_caches: bool = False


@dataclass(frozen=True)
class Sample:
    """The result of one run. None is what the system doesn't report.

    Attributes:
        seconds: Duration.
        peak_nbytes: Largest increase of the process's memory, including mapped pages of files.
        own_nbytes: Increase at the end, with everything that was read still held, without mapped pages (which the
            system can reclaim at any time).
        minor_faults, major_faults: Page faults without and with reads from a disk.
        cached_before: Part of the file in the page cache at the beginning, 0 to 1.
        pages_after: Pages of the file in the page cache after a cold run: those that it read.
    """

    seconds: float
    peak_nbytes: int | None
    own_nbytes: int | None
    minor_faults: int | None
    major_faults: int | None
    cached_before: float | None = None
    pages_after: int | None = None


def take(job: Job) -> Sample:
    """Run a job in a new process.

    Raises:
        BlobStoreError: ``bench-failed``, with the reason.
    """
    # The same package, from wherever it was imported, and nothing from the current folder (-P).
    package = os.path.dirname(os.path.dirname(os.path.abspath(blobstore.__file__)))
    before = os.environ.get("PYTHONPATH")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "blobstore.bench.measure"],
        input=json.dumps(asdict(job)).encode(),
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([package, *([before] if before else [])])},
    )
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        why = lines[-1] if lines else f"the process was ended by signal {-done.returncode}"
        raise BlobStoreError("bench-failed", f"{job.format}, {job.case}: {why}")
    return Sample(**json.loads(done.stdout))


def measure(job: Job) -> Sample:
    """Run a job in this process."""
    if job.format == cpp.NAME:
        names = job.wanted.looked_up if job.case == "lookup" else job.wanted.names
        run: Callable[[], object] = partial(cpp.run, job.trial, job.case, job.path, names)
    else:
        _work(job, job.trial, TRIAL)()
        run = _work(job, job.path, job.wanted)
    gc.collect()
    files = page_cache.files_of(job.path)
    if job.cold:
        page_cache.drop(files, everything=job.drop_caches)
    else:
        page_cache.fill(files)
    before = page_cache.resident(files)
    fields = timed(run)
    after = page_cache.resident(files) if job.cold else None
    fields["cached_before"] = before[0] / max(before[1], 1) if before else None
    fields["pages_after"] = after[0] if after else None
    return Sample(**fields)


def _work(job: Job, path: str, wanted: Wanted) -> Callable[[], object]:
    if job.format == yardsticks.NAME:
        return yardsticks.work(job.case, path, wanted.nbytes)
    if job.format in frameworks.LOADERS:
        return frameworks.work(job.format, path)
    return cases.work(FORMATS[job.format], job.case, path, wanted)


def timed(run: Callable[[], object]) -> dict[str, Any]:
    """Run a function and return the fields of its `Sample`, except those about the page cache."""
    start = _Usage(reset_peak=True)
    begin = time.perf_counter()
    held = run()
    seconds = time.perf_counter() - begin
    end = _Usage()
    if isinstance(held, cpp.Measured):  # another process, which has measured itself
        return dict(held)
    return {
        "seconds": seconds,
        "peak_nbytes": end.less("VmHWM", start, "VmRSS"),
        "own_nbytes": end.less("RssAnon", start, "RssAnon"),
        "minor_faults": end.less("minor", start, "minor"),
        "major_faults": end.less("major", start, "major"),
    }


@dataclass
class _Usage:
    """Memory and page faults of this process, by the kernel's names."""

    reset_peak: bool = False
    counts: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read the counts from the system."""
        if self.reset_peak:
            # Otherwise the peak includes the imports; that of the resource module even includes the parent.
            with suppress(OSError), open(_CLEAR_REFS, "w", encoding="ascii") as file:
                file.write("5")
        with suppress(OSError), open(_STATUS, encoding="ascii", errors="replace") as file:
            lines = (line.split() for line in file if line.endswith(" kB\n"))
            self.counts = {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines}
        with suppress(ImportError):
            import resource  # noqa: PLC0415 (not on Windows)

            used = resource.getrusage(resource.RUSAGE_SELF)
            self.counts |= {"minor": used.ru_minflt, "major": used.ru_majflt}

    def less(self, name: str, start: _Usage, start_name: str) -> int | None:
        """Return how much larger a count is than another one at the start."""
        if name not in self.counts or start_name not in start.counts:
            return None
        return max(0, self.counts[name] - start.counts[start_name])


def main() -> None:
    """Read a job from standard input and print the sample."""
    fields = json.load(sys.stdin)
    sample = measure(Job(**{**fields, "wanted": Wanted(**fields["wanted"])}))
    json.dump(asdict(sample), sys.stdout)


if __name__ == "__main__":
    main()
