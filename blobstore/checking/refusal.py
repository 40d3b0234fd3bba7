"""Refuse a conversion for what `check` would find in the new file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.checking.findings import asked_for, is_right, runs_in
from blobstore.converting.plan import refusal
from blobstore.errors import Fault
from blobstore.gemma.enums import Wrapping

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from blobstore.checking.findings import Finding
    from blobstore.converting.plan import Plan

# With other sizes than Gemma 3's own the runtime corrupts memory when it pools the patches of an image.
_CORRUPTS = "given an image, gemma.cpp corrupts memory"
_FIXED_SIZES = tuple(f"config.vit_config.{name}" for name in ("patch_width", "seq_len", "pool_dim"))


def refuse_plan(plan: Plan, findings: Sequence[Finding], *, strict: bool, runtime: str | None) -> None:
    """Refuse a model that corrupts the runtime's memory, and what was asked for and is impossible.

    Args:
        plan: Of the conversion.
        findings: About the file that it makes.
        strict: Refuse everything that `check --strict` fails for.
        runtime: Refuse everything that `check --for` this version of gemma.cpp fails for; None for no version.

    Raises:
        CheckpointError: ``cannot-convert``; each fault has the code of a finding.
    """
    is_pooled = plan.config is not None and plan.config.wrapping == Wrapping.VLM
    corrupting = [found for found in findings if is_pooled and found.subject in _FIXED_SIZES]
    faults = [
        Fault(found.code, found.subject, f"{found.message}; {_CORRUPTS}: --as names keeps every tensor")
        for found in corrupting
    ]
    others = [found for found in findings if found not in corrupting]
    if strict or runtime is not None:
        faults += _asked_for(others, strict=strict, runtime=runtime)
    if faults:
        raise refusal(faults, fix=_other_runtimes(findings, runtime))


def _asked_for(findings: Sequence[Finding], *, strict: bool, runtime: str | None) -> Iterator[Fault]:
    concerned = findings if runtime is None else asked_for(findings, (runtime,))
    for found in concerned:
        if not is_right([found], strict=strict):
            flag = "--strict" if runtime is None or found.severity == "warning" else "--runtime"
            what = f"{found.message}: {found.effect}; fix: {found.fix}, or leave out {flag}"
            yield Fault(found.code, found.subject, what)


def _other_runtimes(findings: Sequence[Finding], runtime: str | None) -> str:
    """Say which versions of gemma.cpp run what the chosen one doesn't; empty if there are none."""
    others = runs_in(findings)
    if runtime is None or runtime in others or not others:
        return ""
    return f"gemma.cpp {' and '.join(others)} can: --runtime {others[0]}"
