"""``python -m benchmarks``: measure all cases, and tell."""

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
    """Run the groups that are wanted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure blobstore beside other formats.")
    parser.add_argument("--only", metavar="GROUP", nargs="+", choices=[one.key for one in GROUPS], help="some groups")
    parser.add_argument("--quick", action="store_true", help="tiny data, two runs: whether it works, not how fast")
    parser.add_argument("--publish", action="store_true", help="write results/, charts/ and both README.md")
    parser.add_argument("--json", metavar="OUT", help="keep every run")
    parser.add_argument("--charts", metavar="DIR", help="write the charts there")
    parser.add_argument("--tmp", metavar="DIR", help="a folder on the disk to be measured, with 20 GB free")
    options = parser.parse_args(arguments)
    if options.publish and (options.quick or options.only):
        parser.error("--publish is for all of it, not for --quick or --only")
    if (options.publish or options.charts) and util.find_spec("matplotlib") is None:
        parser.error("charts need matplotlib: pip install 'gemma-blobstore[plot]'")
    begin = time.perf_counter()
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    with tempfile.TemporaryDirectory(prefix="blobstore-benchmarks-", dir=options.tmp) as folder:
        setting = Setting(
            folder, options.quick, lambda text: print(f"{time.perf_counter() - begin:6.0f} s  {text}", flush=True)
        )
        wanted = [one for one in GROUPS if not options.only or one.key in options.only]
        measured = [(one, list(one.measure(setting))) for one in wanted]
    told = report.to_json(measured, setting, date)
    print(report.sections(measured, told))
    if options.json:
        report.write_json(os.path.abspath(options.json), told)
    if options.charts:
        report.draw(measured, options.charts)
    if options.publish:
        report.publish(measured, told)
    return 0


if __name__ == "__main__":
    sys.exit(main())
