"""A whole benchmark: plan what to measure, then measure it in turns."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

import blobstore
from blobstore.bench import cpp, page_cache, yardsticks
from blobstore.bench.cases import CASES, Ours, OursByReads, choose, open_by_blobs, stored, wanted_of
from blobstore.bench.measure import Job, take
from blobstore.bench.peers import PEERS, Peer, differing
from blobstore.bench.report import OURS, Report, add_notes, case_of, tabulate
from blobstore.errors import BlobStoreError, UsageError, without_secrets
from blobstore.fileio.urls import is_url
from blobstore.store.reader import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from blobstore.bench.cases import Wanted
    from blobstore.bench.measure import Sample
    from blobstore.fileio.types import Array
    from blobstore.store.info import TensorInfo

    Tell = Callable[[int, int, str], object]

QUICK_NBYTES = 256 << 20
_IN_MEMORY = ("read", "copy-new")


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        path: The file.
        runs: Of each measurement.
        cold: Whether to measure with the file not in the page cache.
        warm: Whether to measure with the file in it.
        against: Names of peers.
        folder: For the peers' files; by default beside the file.
        drop_caches: Whether to drop everything from the page cache before each cold run, not only the file.
        quick: Whether to use only as many tensors as fit into `QUICK_NBYTES`.
    """

    path: str
    runs: int = 5
    cold: bool = True
    warm: bool = True
    against: Sequence[str] = ()
    folder: str | None = None
    drop_caches: bool = False
    quick: bool = False


def bench(plan: Plan, tell: Tell = lambda *_: None) -> Report:
    """Measure.

    Args:
        plan: What to measure.
        tell: Called with the number of steps done, the number of all steps, and the next one's name.

    Raises:
        UsageError: ``bad-runs``, ``unknown-format``, ``no-cold``, ``no-tensors``, ``drop-caches``, ``disk-too-small``;
            ``needs-path``: a URL.
        BlobStoreError: ``bench-failed``: one of our own cases, or a yardstick, failed.
        FormatError: The file is invalid.
    """
    _check(plan)
    if is_url(plan.path):
        what = f"{without_secrets(plan.path)!r} lies elsewhere, and how fast that is depends on the way there"
        raise UsageError("needs-path", f"{what}: download the file, or measure blobstore.load_file yourself")
    report, infos, wanted = _begin(plan)
    peers = _peers(plan, report)
    report.room_nbytes = sum(wanted.nbytes + peer.own * len(infos) for peer in peers)
    parent = plan.folder or (os.path.dirname(os.path.abspath(plan.path)) if peers else tempfile.gettempdir())
    _check_space(parent, report.room_nbytes)
    with tempfile.TemporaryDirectory(prefix=".blobstore-bench-", dir=parent) as folder:
        jobs = [*_own_jobs(plan, wanted, folder, report), *_cpp_jobs(plan, wanted, folder, report)]
        for i, peer in enumerate(peers):
            tell(i, len(peers), f"writing {peer.name}, {report.room_nbytes / 1e9:.2g} GB for all formats")
            jobs += _peer_jobs(peer, infos, wanted, folder, report)
        page_cache.prepare(plan.path)
        tabulate(report, _measure(plan, _by_case(_that_fit(jobs, report)), report, tell))
    add_notes(report, infos)
    return report


def _begin(plan: Plan) -> tuple[Report, list[TensorInfo], Wanted]:
    """Choose the tensors; the file is closed afterwards, because mapped pages can't be dropped."""
    with open_by_blobs(plan.path) as store:
        available = choose(store)
        infos = choose(store, QUICK_NBYTES) if plan.quick else available
        wanted = wanted_of(infos, store)
        report = Report(
            input=plan.path,
            file_nbytes=store.reader.file_size,
            tensors=len(infos),
            nbytes=wanted.nbytes,
            tensors_in_file=len(available),
            one=wanted.first,
            runs=plan.runs,
            machine=machine(),
            formats={OURS: blobstore.__version__},
        )
    return report, infos, wanted


def _check(plan: Plan) -> None:
    if plan.runs < 1:
        raise UsageError("bad-runs", f"{plan.runs} runs: expected at least one")
    unknown = [name for name in plan.against if name not in PEERS]
    if unknown:
        raise UsageError("unknown-format", f"{unknown[0]!r}: expected one of {', '.join(PEERS)}")
    if plan.cold and not page_cache.CAN_DROP:
        raise UsageError("no-cold", "this system can't drop a file from its page cache: measure warm only")
    if plan.drop_caches:
        if not plan.cold:
            raise UsageError("drop-caches", "--drop-caches is for cold runs, and there are none")
        page_cache.drop_everything()


def machine() -> dict[str, str | int | None]:
    """Return system, processors and versions."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def _processor() -> str:
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _peers(plan: Plan, report: Report) -> list[Peer]:
    """Return the peers that are installed, and note those that aren't."""
    installed: list[Peer] = []
    for name in dict.fromkeys(plan.against):
        peer = PEERS[name]
        if peer.installed:
            installed.append(peer)
        else:
            report.leave_out(name, f"{peer.distribution} is not installed: pip install {peer.distribution}")
    return installed


def _check_space(folder: str, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        what = f"the other formats' files take up to {needed} bytes, but {folder!r} has {free} free"
        raise UsageError("disk-too-small", f"{what}: choose another folder (--tmp), or fewer formats")


# --------------------------------------------------------------------------------------------------------------- jobs


def _own_jobs(plan: Plan, wanted: Wanted, folder: str, report: Report) -> Iterator[Job]:
    trial = os.path.join(folder, "trial.sbs")
    Ours().write(trial, trial_tensors())
    # The whole file, so that padding and names count for the disk; for a part of the tensors, as many bytes.
    limits = replace(wanted, nbytes=min(wanted.nbytes if plan.quick else report.file_nbytes, report.file_nbytes))
    for case in yardsticks.YARDSTICKS:
        yield Job(yardsticks.NAME, case, plan.path, trial, limits, cold=False)
    for file_format in (Ours(), OursByReads()):
        for case in file_format.cases:
            yield Job(file_format.name, case, plan.path, trial, wanted, cold=False)


def _cpp_jobs(plan: Plan, wanted: Wanted, folder: str, report: Report) -> Iterator[Job]:
    try:
        program = cpp.build(folder)
    except BlobStoreError as error:
        report.leave_out(cpp.NAME, error.message)
        return
    report.formats[cpp.NAME] = "C++17, g++ -O2"
    for case in cpp.CASES:
        yield Job(cpp.NAME, case, plan.path, program, wanted, cold=False)


def _peer_jobs(peer: Peer, infos: Sequence[TensorInfo], wanted: Wanted, folder: str, report: Report) -> list[Job]:
    """Write a peer's file, and check that it holds the same bytes."""
    path, trial = (os.path.join(folder, name + peer.suffix) for name in ("model", "trial"))
    try:
        peer.write(trial, trial_tensors())
        # Opened here and closed afterwards, as in `_begin`.
        with Store(report.input) as store:
            peer.write(path, ((info.name, stored(store, info)) for info in infos))
            wrong = differing(peer, path, ((info.name, stored(store, info)) for info in infos))
            types = {array.dtype for array in (stored(store, info) for info in infos) if peer.held(array) is not array}
        page_cache.prepare(path)
    except Exception as error:  # noqa: BLE001 (another project's library, which may not accept these names and types)
        report.leave_out(peer.name, f"it can't hold these tensors: {type(error).__name__}: {error}"[:300])
        return []
    if wrong is not None:
        report.leave_out(peer.name, f"it returns {wrong!r} with other bytes")
        return []
    report.formats[peer.name] = peer.version
    if types:
        names = ", ".join(sorted(str(dtype) for dtype in types))
        report.notes.append(f"{peer.name} has no {names}: stored as integers of the same width")
    return [Job(peer.name, case, path, trial, wanted, cold=False) for case in peer.cases]


def trial_tensors() -> list[tuple[str, Array]]:
    """Return the tensor of the file on which each case is done first (`measure.TRIAL`)."""
    return [("a", np.arange(1024, dtype=np.float32))]


def _that_fit(jobs: Sequence[Job], report: Report) -> list[Job]:
    """Return the jobs without those that need more memory than is available."""
    left = _available_memory()
    if left is None or report.nbytes < left * 0.8:
        return list(jobs)
    what = f"it needs {report.nbytes} bytes of memory, {left} are available: --quick uses fewer tensors"
    report.leave_out(", ".join(case_of(job).title for job in jobs if job.case in _IN_MEMORY), what)
    return [job for job in jobs if job.case not in _IN_MEMORY]


def _available_memory() -> int | None:
    with suppress(OSError), open("/proc/meminfo", encoding="ascii") as file:
        return next((int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:")), None)
    return None


def _by_case(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs with the formats of a case next to each other: they take turns."""
    order = [*yardsticks.YARDSTICKS, *CASES]
    return sorted(jobs, key=lambda job: order.index(job.case))


# ------------------------------------------------------------------------------------------------------------- running


def _measure(plan: Plan, jobs: Sequence[Job], report: Report, tell: Tell) -> list[tuple[Job, list[Sample]]]:
    """Run all jobs in rounds: a machine that slows down slows all formats."""
    ways = [*([True] if plan.cold else []), *([False] if plan.warm else [])]
    turns = [
        replace(job, cold=cold, drop_caches=cold and plan.drop_caches)
        for job in jobs
        for cold in ways
        if not cold or job.format != yardsticks.NAME or job.case in yardsticks.DISK
    ]
    samples: dict[int, list[Sample]] = {i: [] for i in range(len(turns))}
    failed: set[int] = set()
    for run in range(plan.runs):
        for i, job in enumerate(turns):
            if i in failed:
                continue
            way = "cold" if job.cold else "warm"
            tell(run * len(turns) + i, plan.runs * len(turns), f"{job.format}: {case_of(job).title}, {way}")
            try:
                samples[i].append(take(job))
            except BlobStoreError as error:
                if job.format in (OURS, OursByReads.name, yardsticks.NAME):
                    raise
                failed.add(i)
                report.leave_out(f"{job.format}, {case_of(job).title}, {way}", error.message)
    return [(job, samples[i]) for i, job in enumerate(turns) if i not in failed]
