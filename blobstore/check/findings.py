"""What an examination finds, and which states of gemma.cpp it concerns.

Spec: spec/findings.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from blobstore.check.codes import CODES
from blobstore.errors import BlobStoreError, FormatError
from blobstore.gemma.runtimes import NAMES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from blobstore.check.codes import Severity

_SHOWN = 4


@dataclass(frozen=True)
class Finding:
    """One thing found.

    Attributes:
        severity: As its kind has it, unless this one is worse or harmless.
        code: Stable; of `CODES`, or the reason of an error that reading or converting gives.
        subject: The key, tensor or field that it is about.
        message: What was found, and what was expected.
        effect: What happens.
        remedy: What to do.
        offset: Of the first byte that it is about, from the beginning of the file; None when it is no place.
        nbytes: How many bytes it is about, from there.
        names: Tensors that hold these bytes.
        runtimes: The states of gemma.cpp that it concerns: 2025-10, 2026-04, later.
    """

    severity: Severity
    code: str
    subject: str
    message: str
    effect: str
    remedy: str
    offset: int | None = None
    nbytes: int | None = None
    names: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = NAMES

    @property
    def spoils(self) -> bool:
        """Whether the runtimes that it concerns don't run the file rightly."""
        kind = CODES.get(self.code)
        return self.severity == "error" or (kind is not None and kind.asked is not None)


def runs_in(findings: Iterable[Finding], runtimes: tuple[str, ...] = NAMES) -> tuple[str, ...]:
    """Return which of some states of gemma.cpp run a file rightly."""
    spoiled = {name for one in findings if one.spoils for name in one.runtimes}
    return tuple(name for name in runtimes if name not in spoiled)


def runtimes_line(findings: Iterable[Finding], runtimes: tuple[str, ...] = NAMES) -> str:
    """Say which of some states of gemma.cpp run a file rightly, and what keeps the others from it.

    Returns:
        A line; empty for a file that isn't a model's.
    """
    listed = list(findings)
    if {"by-name", "not-for-gemma"} & {one.code for one in listed}:
        return ""
    rightly = runs_in(listed, runtimes)
    codes = {name: _spoilers(listed, name) for name in runtimes if name not in rightly}
    if not rightly and len(runtimes) == 1:
        return f"doesn't run rightly in gemma.cpp {runtimes[0]} ({codes[runtimes[0]]})"
    if not rightly and len({*codes.values()}) == 1:
        return f"runs rightly in no gemma.cpp ({codes[runtimes[0]]})"
    others = _and([f"{name} ({why})" for name, why in codes.items()])
    if not rightly:
        return f"runs rightly in no gemma.cpp: {others}"
    text = f"runs rightly in gemma.cpp {_and(rightly)}"
    return f"{text}; not in {others}" if others else text


def _spoilers(findings: Iterable[Finding], runtime: str) -> str:
    codes = list(dict.fromkeys(one.code for one in findings if one.spoils and runtime in one.runtimes))
    return ", ".join(codes[:_SHOWN]) + (", …" if len(codes) > _SHOWN else "")


def _and(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def asked_for(findings: Iterable[Finding], runtimes: tuple[str, ...]) -> list[Finding]:
    """Return the findings that concern these runtimes, as severe as they are for someone who needs them."""
    chosen = []
    for one in findings:
        if {*one.runtimes} & {*runtimes}:
            kind = CODES.get(one.code)
            chosen.append(replace(one, severity=kind.asked) if kind and kind.asked else one)
    return chosen


# What the reasons of errors that begin so have in common.
_FAMILIES = {
    "index-": "index",
    "packed-": "damaged-blob",
    "toc-": "toc-damaged",
    "fields-": "toc-damaged",
    "letters-": "letters-damaged",
    "scales-": "letters-damaged",
}


def finding(
    code: str,
    subject: str,
    message: str,
    *,
    severity: Severity | None = None,
    effect: str | None = None,
    remedy: str | None = None,
    runtimes: tuple[str, ...] | None = None,
    offset: int | None = None,
    nbytes: int | None = None,
    names: tuple[str, ...] = (),
) -> Finding:
    """Return a finding of a known kind; what is given goes before what the kind says."""
    kind = CODES[code]
    return Finding(
        severity or kind.severity,
        code,
        subject,
        message,
        effect or kind.effect,
        remedy or kind.remedy,
        offset,
        nbytes,
        names,
        kind.runtimes if runtimes is None else runtimes,
    )


def from_error(error: BlobStoreError, subject: str) -> Finding:
    """Return what an error that reading gave says, as a finding under its own reason."""
    family = next((kin for prefix, kin in _FAMILIES.items() if error.reason.startswith(prefix)), "truncated")
    kind = CODES.get(error.reason) or CODES[family]
    offset = error.offset if isinstance(error, FormatError) else None
    return Finding(kind.severity, error.reason, subject, error.message, kind.effect, kind.remedy, offset)
