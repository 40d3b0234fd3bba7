"""Print findings, and turn them into an exit status."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING

from blobstore.cli.formatting import shown
from blobstore.cli.tables import print_wrapped
from blobstore.errors import without_secrets
from blobstore.gemma.versions import NAMES

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from blobstore.checking import Finding

_MOST_SHOWN = 20  # of one code, on a terminal


def add_strict(parser: argparse.ArgumentParser) -> None:
    """Add ``--strict``."""
    parser.add_argument("--strict", action="store_true", help="exit status 1 for warnings as well")


def print_findings(path: str, findings: Sequence[Finding], summary: str = "", *, several: bool = False) -> None:
    """Print findings: for people on a terminal, elsewhere as tab-separated lines, of several files with the path."""
    path = without_secrets(path)
    if sys.stdout.isatty():
        _print_for_people(findings)
    else:
        for finding in findings:
            row = (finding.severity, finding.code, finding.subject, _message(finding), _effect(finding), finding.fix)
            print("\t".join(shown(cell) for cell in (*row, *((path,) if several else ()))))
    counts = Counter(finding.severity for finding in findings)
    counted = [
        f"{counts[severity]} {severity}{'s' * (counts[severity] != 1)}"
        for severity in ("error", "warning", "note")
        if counts[severity]
    ]
    print(f"{shown(path)}: {', '.join(counted) or 'nothing wrong found'}{summary}", file=sys.stderr)


def _print_for_people(findings: Sequence[Finding]) -> None:
    counts: Counter[str] = Counter()
    for finding in findings:
        counts[finding.code] += 1
        if counts[finding.code] <= _MOST_SHOWN:
            what = f"{shown(finding.code)}: {shown(finding.subject)}: {shown(_message(finding))}"
            print_wrapped(f"{finding.severity}: {what}")
            print_wrapped(f"    effect: {shown(_effect(finding))}", len("    effect: "))
            print_wrapped(f"    fix:    {shown(finding.fix)}", len("    effect: "))
    for code, count in counts.items():
        if count > _MOST_SHOWN:
            print(f"… and {count - _MOST_SHOWN} more of {code}; --json has all")


def _message(finding: Finding) -> str:
    """Return the message, with the names concerned unless these are the subject."""
    names = [name for name in finding.names if name != finding.subject]
    return f"{finding.message}; it holds {', '.join(names)}" if names else finding.message


def _effect(finding: Finding) -> str:
    """Return the effect, with the versions of gemma.cpp that have it unless all do."""
    return finding.effect if finding.runtimes == NAMES else f"{', '.join(finding.runtimes)}: {finding.effect}"
