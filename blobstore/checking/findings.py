"""Findings, and which versions of gemma.cpp they concern.

Spec: spec/findings.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from blobstore.checking.codes import CODES, SEVERITIES
from blobstore.errors import BlobStoreError, FormatError
from blobstore.gemma.versions import NAMES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from blobstore.checking.codes import Severity
    from blobstore.gemma.newer import Newer

_SHOWN = 4


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
        severity: That of its kind, unless this one is worse or harmless.
        code: Stable; one of `CODES`, or the reason of an error from reading or converting.
        subject: The key, tensor or field that it is about.
        message: What was found, and what was expected.
        effect: What happens.
        fix: The fix.
        offset: Of the first byte concerned, from the beginning of the file; None if it isn't about a place.
        nbytes: Number of bytes concerned.
        names: Tensors that hold these bytes, or the file of the model that is stored there.
        runtimes: The versions of gemma.cpp that it concerns: 2025-10, 2026-04, latest.

    Example:
        >>> finding = blobstore.check("model.sbs", for_="gemma.cpp").findings[0]
        >>> finding.severity, finding.code
        ('error', 'not-for-gemma')
    """

    severity: Severity
    code: str
    subject: str
    message: str
    effect: str
    fix: str
    offset: int | None = None
    nbytes: int | None = None
    names: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = NAMES

    @property
    def spoils(self) -> bool:
        """Whether the runtimes that it concerns run the file wrongly, or not at all."""
        kind = CODES.get(self.code)
        return self.severity == "error" or (kind is not None and kind.asked is not None)


def runs_in(findings: Iterable[Finding], runtimes: tuple[str, ...] = NAMES) -> tuple[str, ...]:
    """Return which of some versions of gemma.cpp run a file correctly."""
    spoiled = {name for finding in findings if finding.spoils for name in finding.runtimes}
    return tuple(name for name in runtimes if name not in spoiled)


def runtimes_line(findings: Iterable[Finding], runtimes: tuple[str, ...] = NAMES) -> str:
    """Say which of some versions of gemma.cpp run a file correctly, and what keeps the others from it.

    Returns:
        A line; empty for a file without a model.
    """
    listed = list(findings)
    if {"by-name", "not-for-gemma"} & {finding.code for finding in listed}:
        return ""
    correct = runs_in(listed, runtimes)
    codes = {name: _spoilers(listed, name) for name in runtimes if name not in correct}
    if not correct and len(runtimes) == 1:
        return f"doesn't run correctly in gemma.cpp {runtimes[0]} ({codes[runtimes[0]]})"
    if not correct and len({*codes.values()}) == 1:
        return f"runs correctly in no gemma.cpp ({codes[runtimes[0]]})"
    spoiled = _and([f"{name} ({why})" for name, why in codes.items()])
    if not correct:
        return f"runs correctly in no gemma.cpp: {spoiled}"
    text = f"runs correctly in gemma.cpp {_and(correct)}"
    return f"{text}; not in {spoiled}" if spoiled else text


def is_right(findings: Iterable[Finding], *, strict: bool) -> bool:
    """Whether there is no error; with ``strict`` no warning either."""
    counted = ("error", "warning") if strict else ("error",)
    return not any(finding.severity in counted for finding in findings)


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings with errors first, then warnings, then notes; otherwise in their order."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def _spoilers(findings: Iterable[Finding], runtime: str) -> str:
    codes = list(dict.fromkeys(finding.code for finding in findings if finding.spoils and runtime in finding.runtimes))
    return ", ".join(codes[:_SHOWN]) + (", …" if len(codes) > _SHOWN else "")


def _and(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def asked_for(findings: Iterable[Finding], runtimes: tuple[str, ...]) -> list[Finding]:
    """Return the findings that concern these runtimes, with the severity they have for someone who needs them."""
    chosen = []
    for found in findings:
        if {*found.runtimes} & {*runtimes}:
            kind = CODES.get(found.code)
            chosen.append(replace(found, severity=kind.asked) if kind and kind.asked else found)
    return chosen


# The code of errors whose reason begins with a prefix.
_BY_PREFIX = {
    "index-": "index",
    "set-": "set",
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
    fix: str | None = None,
    runtimes: tuple[str, ...] | None = None,
    offset: int | None = None,
    nbytes: int | None = None,
    names: tuple[str, ...] = (),
) -> Finding:
    """Return a finding of a known kind; arguments override what the kind says."""
    kind = CODES[code]
    return Finding(
        severity or kind.severity,
        code,
        subject,
        message,
        effect or kind.effect,
        fix or kind.fix,
        offset,
        nbytes,
        names,
        kind.runtimes if runtimes is None else runtimes,
    )


def from_newer(items: Iterable[Newer]) -> Iterator[Finding]:
    """Yield what some version of gemma.cpp doesn't read as findings."""
    for item in items:
        yield finding(item.code, item.subject, item.message, runtimes=item.runtimes)


def from_error(error: BlobStoreError, subject: str) -> Finding:
    """Return an error from reading as a finding, under its own reason."""
    fallback = next((code for prefix, code in _BY_PREFIX.items() if error.reason.startswith(prefix)), "truncated")
    kind = CODES.get(error.reason) or CODES[fallback]
    offset = error.offset if isinstance(error, FormatError) else None
    return Finding(kind.severity, error.reason, subject, error.message, kind.effect, kind.fix, offset)
