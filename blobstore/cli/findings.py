"""How findings are shown, and what they make of the exit status."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from blobstore.cli.formatting import shown
from blobstore.cli.output import print_json
from blobstore.gemma.runtimes import NAMES

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from blobstore.check import Finding

_MOST_SHOWN = 20  # of one code, on a terminal


def add_strict(parser: argparse.ArgumentParser) -> None:
    """Add ``--strict``."""
    parser.add_argument("--strict", action="store_true", help="exit status 1 for warnings, too")


def status_of(found: Sequence[Finding], *, strict: bool) -> int:
    """Return the exit status: 1 when there is an error, with ``strict`` also for a warning."""
    counted = ("error", "warning") if strict else ("error",)
    return 1 if any(one.severity in counted for one in found) else 0


def print_findings(
    options: argparse.Namespace, path: str, found: Sequence[Finding], facts: dict[str, Any], summary: str = ""
) -> None:
    """Print findings: for people on a terminal, a tab-separated line each elsewhere, or JSON."""
    if options.json:
        right = status_of(found, strict=options.strict) == 0
        print_json({"path": path, "right": right, **facts, "findings": [asdict(one) for one in found]})
        return
    if sys.stdout.isatty():
        _print_for_people(found)
    else:
        for one in found:
            row = (one.severity, one.code, one.subject, _told(one), _effect(one), one.remedy)
            print("\t".join(shown(cell) for cell in row))
    counts = Counter(one.severity for one in found)
    told = [
        f"{counts[kind]} {kind}{'s' * (counts[kind] != 1)}" for kind in ("error", "warning", "note") if counts[kind]
    ]
    print(f"{shown(path)}: {', '.join(told) or 'nothing wrong found'}{summary}", file=sys.stderr)


def _print_for_people(found: Sequence[Finding]) -> None:
    counts: Counter[str] = Counter()
    for one in found:
        counts[one.code] += 1
        if counts[one.code] <= _MOST_SHOWN:
            print(f"{one.severity}: {shown(one.code)}: {shown(one.subject)}: {shown(_told(one))}")
            print(f"    effect: {shown(_effect(one))}")
            print(f"    fix:    {shown(one.remedy)}")
    for code, count in counts.items():
        if count > _MOST_SHOWN:
            print(f"… and {count - _MOST_SHOWN} more of {code}; --json has all")


def _told(one: Finding) -> str:
    """Return the message, with the tensors that it concerns when these aren't the subject."""
    others = [name for name in one.names if name != one.subject]
    return f"{one.message}; tensors: {', '.join(others)}" if others else one.message


def _effect(one: Finding) -> str:
    """Return the effect, with the states of gemma.cpp that it is in when these aren't all."""
    return one.effect if one.runtimes == NAMES else f"{', '.join(one.runtimes)}: {one.effect}"
