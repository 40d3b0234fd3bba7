"""``python -m benchmarks``: measure all cases and report."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib import util

from benchmarks import report
from benchmarks.groups import GROUPS
from benchmarks.measurement import Setting


def main(arguments: list[str] | None = None) -> int:
    """Run the chosen groups."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure blobstore and other formats.")
    parser.add_argument(
        "--only", metavar="GROUP", nargs="+", choices=[group.key for group in GROUPS], help="only these groups"
    )
    parser.add_argument("--quick", action="store_true", help="tiny data, two runs: whether it works, not how fast")
    parser.add_argument("--publish", action="store_true", help="write results/, charts/ and both README.md")
    parser.add_argument("--json", metavar="OUT", help="write every run as JSON")
    parser.add_argument("--charts", metavar="DIR", help="write the charts to this folder")
    parser.add_argument("--tmp", metavar="DIR", help="a folder on the disk to measure, with 20 GB free")
    options = parser.parse_args(arguments)
    if options.publish and (options.quick or options.only):
        parser.error("--publish needs all groups: not with --quick or --only")
    if (options.publish or options.charts) and util.find_spec("matplotlib") is None:
        parser.error("charts need matplotlib: pip install matplotlib")
    begin = time.perf_counter()
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    with tempfile.TemporaryDirectory(prefix="blobstore-benchmarks-", dir=options.tmp) as folder:
        setting = Setting(
            folder, options.quick, lambda text: print(f"{time.perf_counter() - begin:6.0f} s  {text}", flush=True)
        )
        wanted = [group for group in GROUPS if not options.only or group.key in options.only]
        measured = [(group, list(group.measure(setting))) for group in wanted]
    results = report.to_json(measured, setting, date)
    print(report.sections(measured, results))
    if options.json:
        report.write_json(os.path.abspath(options.json), results)
    if options.charts:
        report.draw(measured, options.charts)
    if options.publish:
        report.publish(measured, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
