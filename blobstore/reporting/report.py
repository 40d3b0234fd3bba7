"""`report`: a page that shows a file, and what changed from it to another."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blobstore.checking.checkup import check
from blobstore.checking.findings import by_severity, is_right
from blobstore.checking.verification import verify
from blobstore.checkpoint.formats import format_of
from blobstore.compare.comparison import diff
from blobstore.errors import FormatError, UsageError, without_secrets
from blobstore.fileio.paths import optional_path, path_text, target_of
from blobstore.fileio.places import is_folder
from blobstore.fileio.ranges import expect
from blobstore.fileio.sink import Sink
from blobstore.fileio.uploads import new_file
from blobstore.index.inputs import files_of, is_ours, path_of, refuse_inputs
from blobstore.reporting.gathering import KINDS, changes_of, facts_of, findings_of, layout_of, sampled_lines, tensors_of
from blobstore.reporting.page import library, page_of
from blobstore.store.base import refuse_needless_base
from blobstore.store.reader import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from os import PathLike
    from typing import BinaryIO

    from blobstore.checking.findings import Finding
    from blobstore.fileio.types import Progress

    Path = str | PathLike[str]


_TOLD = 10  # lines of one sort, above everything else
_NO_PLOTS = "No plots: they are drawn by Bokeh, which isn't installed: pip install 'gemma-blobstore[report]'"


@dataclass(frozen=True)
class Report:
    """The result of `report`.

    Attributes:
        input: The file, as given.
        other: The file that it was compared with, as given; None without.
        output: The page, as given; None for a stream.
        ok: Whether `check` and `verify` found no error.
        findings: What they found: errors first, each once.
        tensors: How many are shown.
        notes: What the page doesn't show, in words: values outside a sample, a file that can't be read in full, plots
            without Bokeh.
        nbytes: Size of the page.
        seconds: How long it took.

    Example:
        >>> blobstore.report("model.sbs", output="model.html").tensors
        2
    """

    input: str
    other: str | None
    output: str | None
    ok: bool
    findings: tuple[Finding, ...]
    tensors: int
    notes: tuple[str, ...]
    nbytes: int
    seconds: float


def report(
    path: Path,
    other: Path | None = None,
    *,
    output: Path | BinaryIO,
    sample: bool = False,
    base: Path | None = None,
    progress: Progress = lambda _: None,
) -> Report:
    """Write a page that shows a file: one HTML file that needs no network and runs nothing but its own scripts.

    It has what `check` and `verify` find, the bytes by layer and type, what lies where in the file, each tensor with
    statistics and a histogram, and, for two files, what `diff` finds, by layer. The plots are drawn by Bokeh, the extra
    ``report``; without it the page has none, and says so.

    Args:
        path: An .sbs file.
        other: What to compare it with, as for `diff`: what changed from ``path`` to ``other``.
        output: A path, which is replaced when the page is complete, or a binary stream.
        sample: Read only 65,536 values of each larger tensor, which the page says. Digests and `other` are compared in
            full all the same.
        base: For a packed file: the file that it is the difference to.
        progress: Called, from any thread, with the number of further bytes done.

    Raises:
        UsageError: ``not-sbs``; ``same-file``; ``page-not-sbs``; ``bad-target``; ``needless-base``, ``needs-base``,
            ``wrong-base``.
        FormatError: ``other`` is wrong. That ``path`` is wrong is a finding, which the page shows.
        OSError: Reading failed, or writing the page.

    Example:
        >>> done = blobstore.report("model.sbs", output="model.html")
        >>> done.ok, done.output
        (True, 'model.html')
    """
    start = time.perf_counter()
    path, other, base = path_text(path), optional_path(other), optional_path(base)
    output = target_of(output)
    if format_of(path) != "sbs":
        raise UsageError("not-sbs", f"{path!r} is not an .sbs file, and a report is of one: convert it first")
    folder = other if other is not None and is_folder(other) else ""
    refuse_inputs([output], files_of(path, other, base), folder=folder, except_ours=False)
    if isinstance(output, str) and (output.endswith(".sbs") or is_ours(output)):  # all other commands write those
        raise UsageError("page-not-sbs", f"{output!r}: a page is not an .sbs file: name it x.html, for instance")
    with _begun(output) as write:  # that it can't be written is told before minutes of reading
        data, findings = gather(path, other, sample=sample, base=base, progress=progress)
        refuse_inputs([output], data["changes"]["read"] if other is not None else ())
        page = page_of(data)
        write(memoryview(page))
    return Report(
        input=without_secrets(path),
        other=None if other is None else without_secrets(other),
        output=path_of(output),
        ok=is_right(findings, strict=False),
        findings=tuple(findings),
        tensors=len(data["tensors"].get("name", ())),
        notes=tuple(data["told"]),
        nbytes=len(page),
        seconds=time.perf_counter() - start,
    )


def gather(
    path: str, other: str | None, *, sample: bool, base: str | None, progress: Progress = lambda _: None
) -> tuple[dict[str, Any], list[Finding]]:
    """Return what the page of a file shows, and the findings; errors as `report`."""
    phases = _Phases(progress)
    checkup = check(path)
    verification = verify(path, progress=phases)
    found = [("check", one) for one in checkup.findings] + [("verify", one) for one in verification.findings]
    findings = by_severity(dict.fromkeys(finding for _, finding in found))
    places = {finding: place for place, finding in enumerate(findings)}
    told = [] if library() else [_NO_PLOTS]
    tensors: dict[str, list[Any]] = {}
    layout: dict[str, list[Any]] = {}
    facts: list[list[str]] = []
    try:
        with Store(path, access="read", base=base) as store:
            refuse_needless_base(store)
            layout, facts = layout_of(store), facts_of(store)
            aliases = store.aliases
            phases.expect(sum(info.nbytes for info in store.infos() if info.name not in aliases))
            tensors, faults = tensors_of(store, sample=sample, progress=phases)
            told += [*sampled_lines(tensors), *faults[:_TOLD]]
            told += [f"{len(faults) - _TOLD:,} more can't be read either"] if len(faults) > _TOLD else []
    except FormatError as error:
        told.append(f"The file can't be shown in full: {error}")
    compared = None if other is None else changes_of(diff(path, other, base=base, progress=phases))
    data = {
        "input": without_secrets(path),
        "told": told,
        "runs": checkup.runs,
        "findings": findings_of(sorted(found, key=lambda one: places[one[1]])),
        "facts": facts,
        "kinds": KINDS,
        "layout": layout,
        "tensors": tensors,
        "changes": compared,
    }
    return data, findings


class _Phases:
    """Progress of several functions, one after the other, each of which expects only its own bytes."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._expected = progress, 0

    def __call__(self, nbytes: int) -> None:
        self._progress(nbytes)

    def expect(self, nbytes: int) -> None:
        """Add what another function expects."""
        self._expected += nbytes
        expect(self._progress, self._expected)


@contextmanager
def _begun(output: str | BinaryIO) -> Iterator[Callable[[memoryview], object]]:
    """Begin the page at a path or in a stream, and yield what writes it; the file appears when the block ends well."""
    if isinstance(output, str):
        with new_file(output) as file:
            yield file.write
        return
    sink = Sink(output)  # a raw stream may take less than it is given
    yield sink.write
    sink.flush()
