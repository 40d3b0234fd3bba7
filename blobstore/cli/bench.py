"""``blobstore bench``."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from blobstore.bench import plot
from blobstore.bench.peers import PEERS
from blobstore.bench.run import Plan, bench
from blobstore.bench.yardsticks import NAME as MACHINE
from blobstore.cli.formatting import duration, rate, shown, size
from blobstore.cli.output import add_command, add_json, note, print_json
from blobstore.cli.progress import steps
from blobstore.cli.tables import print_table
from blobstore.errors import UsageError
from blobstore.index.inputs import files_of, refuse_inputs

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from blobstore.bench.report import Report, Row

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

_COLUMNS = ("case", "format", "cache", "median", "min - max", "ratio", "bytes/s", "of limit", "peak", "own", "pages")
_RIGHT = _COLUMNS[3:]
_SPARE = ("pages", "own", "peak", "of limit", "bytes/s")
_LIMITS = {"disk": "of disk", "memory": "of copy"}
_QUICK_RUNS, _RUNS = 3, 5
_ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_command(commands, "bench", run, TEXT, EXAMPLE)
    parser.add_argument("file", metavar="FILE", help="an .sbs file")
    parser.add_argument(
        "--runs", type=int, metavar="N", help=f"runs of each case (default: {_RUNS}, quick {_QUICK_RUNS})"
    )
    parser.add_argument("--against", metavar="LIST", help=f"other formats: all, or some of {','.join(PEERS)}")
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
    with _signals_unwind(), steps() as tell:
        report = bench(plan, tell)
    if options.plot:
        heading = f"{shown(os.path.basename(report.input))}: {_what(report)}\nmedian of {_runs(report)}, log scale"
        heading += ", shorter is better; × is the time against blobstore's"
        plot.draw(report, options.plot, heading, _label, duration)
    if options.json:
        print_json(asdict(report))
    else:
        _tell(report)
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
    return tuple(PEERS) if text == "all" else tuple(name.strip() for name in text.split(",") if name.strip())


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
            "no-formats", f"--against {options.against!r} names no format: all, or some of {', '.join(PEERS)}"
        )
    return names


def _tell(report: Report) -> None:
    order = list(dict.fromkeys(_group(row) for row in report.rows))
    rows = sorted(report.rows, key=lambda row: (order.index(_group(row)), row.cache))  # formats next to each other
    print_table(_COLUMNS, [_cells(row) for row in rows], names=("format",), right=_RIGHT, grouped=True, spare=_SPARE)
    versions = ", ".join(f"{name} {version}" for name, version in report.formats.items())
    note(f"{_what(report)}; {_runs(report)}; first tensor: {report.one}; {versions}")
    for entry in report.left_out:
        note(f"left out: {entry['name']}: {entry['reason']}")
    for text in report.notes:
        note(text)


def _group(row: Row) -> str:
    """Return the case; the machine's limits are one group."""
    return MACHINE if row.format == MACHINE else row.title


def _what(report: Report) -> str:
    return f"{report.tensors} tensors, {size(report.nbytes)}"


def _runs(report: Report) -> str:
    return f"{report.runs} run{'' if report.runs == 1 else 's'}"


def _cells(row: Row) -> tuple[str, ...]:
    pages = [sample.pages_after for sample in row.samples if sample.pages_after is not None]
    return (
        _group(row),
        row.title if row.format == MACHINE else row.format,
        row.cache,
        duration(row.median),
        spread(row),
        f"{row.ratio:.2f}" if row.ratio is not None else "-",
        rate(row.rate) if row.rate is not None else "-",
        _limit(row) or "-",
        size(row.peak_nbytes) if row.peak_nbytes is not None else "-",
        size(row.own_nbytes) if row.own_nbytes is not None else "-",
        str(max(pages)) if pages and row.cache == "cold" else "-",
    )


def spread(row: Row) -> str:
    """Return the fastest and the slowest run, with the unit once if both have the same."""
    fastest, slowest = duration(row.fastest), duration(row.slowest)
    number, unit = fastest.split(" ")
    return f"{number if slowest.endswith(f' {unit}') else fastest} - {slowest}"


def _limit(row: Row) -> str:
    return f"{row.share:.0%} {_LIMITS[row.share_of]}" if row.share is not None and row.share_of else ""


def _label(row: Row) -> str:
    """Return the text beside a bar of the chart."""
    speed = rate(row.rate) if row.rate is not None else ""
    share = _limit(row) if row.format != MACHINE else ""
    ratio = f"{row.ratio:.2g}×" if row.ratio is not None else ""
    return "  ".join(part for part in (duration(row.median), ratio, speed, share) if part)
