"""Check a file, or a checkpoint before its conversion: findings, and the versions of gemma.cpp that run it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blobstore.checking.findings import asked_for, by_severity, is_right, runs_in, runtimes_line
from blobstore.checking.runtime import check_file
from blobstore.checkpoint.formats import format_of
from blobstore.converting.choices import WEIGHTS, Choices
from blobstore.errors import UsageError, without_secrets
from blobstore.fileio.paths import optional_path, path_text, path_texts
from blobstore.fileio.places import exists
from blobstore.fileio.work import do_here
from blobstore.gemma.versions import NAMES, RUNTIME, RUNTIME_CHOICES

if TYPE_CHECKING:
    from os import PathLike

    from blobstore.checking.findings import Finding
    from blobstore.fileio.types import Paths, Progress
    from blobstore.fileio.work import Engine
    from blobstore.gemma.versions import RuntimeChoice

_KINDS = {"auto": "auto", RUNTIME: "gemma", "any": "names"}


@dataclass(frozen=True)
class Checkup:
    """The result of `check`.

    Attributes:
        input: The file or checkpoint, as given.
        ok: Whether there is no error; if `strict`, no warning either.
        findings: Errors first, then warnings, then notes.
        runs_in: The versions of gemma.cpp that run the file correctly, of a checkpoint the file that `convert` makes
            of it; None if it is not for gemma.cpp.
        runs: The same as a line, with the reasons; empty if it is not for gemma.cpp.
        read: If it is a checkpoint, the files that its tensors come from.
        adapters: The adapters that would be merged, as given, in their order.
        seconds: How long it took.

    Example:
        >>> [finding.code for finding in blobstore.check("model.sbs").findings]
        ['by-name']
    """

    input: str
    ok: bool
    findings: tuple[Finding, ...]
    runs_in: tuple[str, ...] | None
    runs: str
    read: tuple[str, ...]
    adapters: tuple[str, ...]
    seconds: float


def check(
    path: str | PathLike[str],
    *,
    for_: RuntimeChoice = "auto",
    weights: str | None = None,
    tokenizer: str | PathLike[str] | None = None,
    adapters: Paths = (),
    strict: bool = False,
    progress: Progress = lambda _: None,
) -> Checkup:
    """Check what gemma.cpp would stop at in a file, or what keeps a checkpoint from being converted.

    For a file: structure, padding and index; for gemma.cpp also keys, config, types, tokenizer, and the tensors against
    the config. No weights are read: `verify` reads them.

    Args:
        path: An .sbs file; or a checkpoint, as for `convert`.
        for_: ``gemma.cpp``: all of its versions; ``gemma.cpp@2026-04``: one of them, for which a checkpoint is
            converted, as with ``runtime`` of `convert`; ``any``: a container by name, not for gemma.cpp; ``auto``:
            whatever the file is for.
        weights: For a checkpoint: the type of the weights, as for `convert`.
        tokenizer: For a checkpoint: a ``tokenizer.model`` or ``tokenizer.json``, as for `convert`.
        adapters: For a checkpoint: LoRA adapters that are merged, as for `convert`.
        strict: Whether warnings count in `Checkup.ok`.
        progress: For a checkpoint: called with the number of further bytes of the new file checked.

    Raises:
        UsageError: ``bad-choice``; ``needless-flag`` for what only a conversion has if there is none; ``not-a-file``.
        OSError: It can't be read.

    Example:
        >>> checkup = blobstore.check("checkpoint", weights="bf16")
        >>> checkup.ok, checkup.runs_in
        (True, ('2025-10', '2026-04', 'latest'))
    """
    start = time.perf_counter()
    _refuse_unknown(for_)
    if weights is not None and weights not in WEIGHTS:
        raise UsageError("bad-choice", f"weights: {weights!r} is not one of {', '.join(WEIGHTS)}")
    runtime, date, runtimes = _runtimes(for_)
    name, given = path_text(path), path_texts(adapters)
    options = {"--weights": weights, "--tokenizer": tokenizer, "--adapter": given or None}
    needless = [flag for flag, value in options.items() if value is not None]
    if format_of(name) != "sbs":
        from blobstore.checking.checkpoint import check_checkpoint  # noqa: PLC0415 (50 ms, and files need no conversion)
        from blobstore.converting.choose import needless_flags  # noqa: PLC0415 (as above)

        choices = Choices(weights or "sfp", runtime=date or None)
        findings, read = check_checkpoint(
            name, _KINDS[runtime], choices, tokenizer=optional_path(tokenizer), adapters=given, progress=progress
        )
        if weights and any(finding.code == "by-name" for finding in findings):
            raise needless_flags(["weights"], name)
        findings = asked_for(findings, runtimes) if runtimes else findings
    elif needless and exists(name):
        raise UsageError("needless-flag", f"{needless[0]} is for a checkpoint, and {name!r} is none: leave it out")
    else:
        return check_alone(name, for_=for_, strict=strict)
    return _checkup(name, findings, for_, start, strict=strict, of_checkpoint=True, read=tuple(read), adapters=given)


def check_alone(path: str, *, for_: str = "auto", strict: bool = False, engine: Engine = do_here) -> Checkup:
    """Check an .sbs file; errors as `check`.

    Args:
        path: Of the file, or of a set's index.
        for_: As for `check`.
        strict: As for `check`.
        engine: Does it for each file of a set.
    """
    start = time.perf_counter()
    _refuse_unknown(for_)
    runtime, _, runtimes = _runtimes(for_)
    for_runtime = {"auto": None, RUNTIME: True, "any": False}[runtime]
    findings = check_file(path, for_runtime=for_runtime, runtimes=runtimes, engine=engine)
    return _checkup(path, findings, for_, start, strict=strict)


def _refuse_unknown(for_: str) -> None:
    if for_ not in RUNTIME_CHOICES:
        raise UsageError("bad-choice", f"for: {for_!r} is not one of {', '.join(RUNTIME_CHOICES)}")


def _runtimes(for_: str) -> tuple[str, str, tuple[str, ...]]:
    """Return whom a file is for, the date, if there is one, and the versions of gemma.cpp that are meant."""
    runtime, _, date = for_.partition("@")
    return runtime, date, (date,) if date else NAMES if runtime == RUNTIME else ()


def _checkup(
    name: str,
    findings: list[Finding],
    for_: str,
    start: float,
    *,
    strict: bool,
    of_checkpoint: bool = False,
    read: tuple[str, ...] = (),
    adapters: tuple[str, ...] = (),
) -> Checkup:
    runtime, _, runtimes = _runtimes(for_)
    line = "" if runtime == "any" else runtimes_line(findings, runtimes or NAMES)
    subject = "the file that convert makes of it " if of_checkpoint else ""
    return Checkup(
        input=without_secrets(name),
        ok=is_right(findings, strict=strict),
        findings=tuple(by_severity(findings)),
        runs_in=runs_in(findings, runtimes or NAMES) if line else None,
        runs=line and subject + line,
        read=tuple(map(without_secrets, read)),
        adapters=adapters,
        seconds=time.perf_counter() - start,
    )
