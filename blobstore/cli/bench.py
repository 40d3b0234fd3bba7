"""``blobstore bench``."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from blobstore.bench.names import NAMES
from blobstore.cli.formatting import duration, shown
from blobstore.cli.output import add_command, add_json, print_json
from blobstore.cli.progress import steps
from blobstore.errors import UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

TEXT = "Measure how fast a file opens and loads here, compared with this machine's limits and with other formats."
EXAMPLE = """example:
  blobstore bench model.sbs
  blobstore bench model.sbs --against all --plot chart.png
  blobstore bench model.sbs --against safetensors,gguf --cold --json

There is a line for each case and format, cold (the file isn't in the page cache) and warm (it is): median, minimum and
maximum of all runs, ratio to blobstore, bytes/s, percentage of the machine's limit, memory, pages. On a terminal this
is a table, without the last columns if it is narrow; elsewhere it is tab-separated, with - for missing values. --json
has every run.

  case      open; list; look up (type and shape of 1,000 names); first tensor (of middle size, all its pages);
            map and touch (one byte of each page of every tensor); read everything (into private memory)
  ratio     time divided by blobstore's; the median over the runs
  of limit  cold: of the disk's speed, the faster of two sequential reads (1 and 2 threads) of the same file;
            warm: of the speed of a memory copy. Both are measured in turns with the rest
  peak      the largest increase of the process's memory, including mapped pages of files
  own       its increase at the end, with all tensors held; the rest are mapped pages, which the system can reclaim
  pages     pages of the file in the page cache after a cold run: everything that the run read

Every run is a process of its own, which first does the same with a file of one tensor, so imports don't count. Runs of
all formats take turns. Tensors that share bytes count once; encoded ones are read as stored.

Other formats: the same tensors are written to a temporary folder beside FILE (or in --tmp), which takes as much space
as the tensors for each format, and is removed at the end. None is compressed. Formats that aren't installed, or can't
hold the tensors, are listed as left out: pip install '.[bench]' in blobstore's folder installs all.
blobstore.hpp is the C++ reader on the same FILE, if there is a g++.

Cold: posix_fadvise drops FILE's pages from the page cache before each run, and the result is checked: pages that
another process has mapped stay, and so do those of in-memory file systems. Caches of the disk itself, or of this
machine's host, aren't dropped. --drop-caches also writes 1 to /proc/sys/vm/drop_caches, which needs root: this empties
the page cache of the whole machine before each cold run, so everything else on it is slow until it has read its files
again. No data is lost. It helps if other processes hold FILE's pages, and on file systems that ignore posix_fadvise.

If the machine does other work meanwhile, only the ratios can be trusted, if anything: look at the spread."""

_QUICK_RUNS, _RUNS = 3, 5
_ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_command(commands, "bench", run, TEXT, EXAMPLE)
    parser.add_argument("file", metavar="FILE", help="an .sbs file")
    parser.add_argument(
        "--runs", type=int, metavar="N", help=f"runs of each case (default: {_RUNS}, quick {_QUICK_RUNS})"
    )
    parser.add_argument("--against", metavar="LIST", help=f"other formats: all, or some of {','.join(NAMES)}")
    parser.add_argument("--cold", action="store_true", help="only with FILE not in the page cache (default: both)")
    parser.add_argument("--warm", action="store_true", help="only with FILE in the page cache (default: both)")
    parser.add_argument(
        "--drop-caches", action="store_true", help="empty the page cache of the whole machine; see below"
    )
    parser.add_argument("--quick", action="store_true", help="use only as many tensors as fit into 256 MB")
    parser.add_argument("--tmp", metavar="DIR", help="where to write the other formats' files (default: beside FILE)")
    parser.add_argument("--plot", metavar="OUT", help="also draw a chart: .png, .svg or .pdf; needs matplotlib")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from blobstore.bench import plot  # noqa: PLC0415 (``--help`` needs no numpy)
    from blobstore.bench.run import Plan, bench  # noqa: PLC0415 (as above)
    from blobstore.cli.bench_report import label, runs, tell, what  # noqa: PLC0415 (as above)
    from blobstore.index.inputs import files_of, refuse_inputs  # noqa: PLC0415 (as above)

    against = _against(options)
    if options.plot:
        plot.check(options.plot)
        refuse_inputs([options.plot], files_of(options.file))
    both = options.cold == options.warm
    default = _QUICK_RUNS if options.quick else _RUNS
    plan = Plan(
        path=options.file,
        runs=default if options.runs is None else options.runs,
        cold=options.cold or both,
        warm=options.warm or both,
        against=against,
        folder=options.tmp,
        drop_caches=options.drop_caches,
        quick=options.quick,
    )
    with _signals_unwind(), steps() as tell_step:
        report = bench(plan, tell_step)
    if options.plot:
        heading = f"{shown(os.path.basename(report.input))}: {what(report)}\nmedian of {runs(report)}, log scale"
        heading += ", shorter is better; × is the time against blobstore's"
        plot.draw(report, options.plot, heading, label, duration)
    if options.json:
        print_json(asdict(report))
    else:
        tell(report)
    return 0


@contextmanager
def _signals_unwind() -> Iterator[None]:
    """Turn signals that end the process into an exception, so that the other formats' files are removed."""
    if threading.current_thread() is not threading.main_thread():  # other threads can't have handlers
        yield
        return

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    caught = [number for number in _ENDING if signal.getsignal(number) is signal.SIG_DFL]
    for number in caught:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, signal.SIG_DFL)


def _names(text: str) -> tuple[str, ...]:
    return NAMES if text == "all" else tuple(name.strip() for name in text.split(",") if name.strip())


def _against(options: argparse.Namespace) -> tuple[str, ...]:
    """Return the other formats.

    Raises:
        UsageError: ``no-formats``: the list has none; ``needless-flag`` for ``--tmp`` without a list.
    """
    if options.against is None:
        if options.tmp is not None:
            what = "--tmp: no other format's file is written: leave it out, or add --against"
            raise UsageError("needless-flag", what)
        return ()
    names = _names(options.against)
    if not names:
        raise UsageError(
            "no-formats", f"--against {options.against!r} names no format: all, or some of {', '.join(NAMES)}"
        )
    return names
