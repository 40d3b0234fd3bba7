"""All codes, and what is known of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from blobstore.container.suggest import close_to
from blobstore.errors import UsageError
from blobstore.explaining import elsewhere, files, findings, requests, sources

if TYPE_CHECKING:
    from blobstore.checking.codes import Kind
    from blobstore.explaining.entry import Entry

TOPICS: dict[str, dict[str, Entry]] = {
    "Files": files.CONTAINER,
    "Names and metadata": files.INDEX,
    "Sets of files": files.SETS,
    "Packed files": files.PACKED,
    "Values": files.CODECS,
    "Records of gemma.cpp": files.MODEL,
    "What gemma.cpp can't run": findings.RUNTIME,
    "Checkpoints": sources.CHECKPOINT,
    "Adapters": sources.ADAPTERS,
    "Converting and exporting": sources.CONVERSION,
    "Notes about a conversion": findings.NOTES,
    "Arguments": requests.ARGUMENTS,
    "Outputs": requests.OUTPUTS,
    "Measuring": requests.BENCH,
    "Servers": elsewhere.REMOTE,
    "Other machines": elsewhere.CLUSTER,
    "The system": elsewhere.SYSTEM,
}
CODES: dict[str, Entry] = {code: entry for entries in TOPICS.values() for code, entry in entries.items()}

_COMMANDS = ("blobstore ", "gemma ")


@dataclass(frozen=True)
class Explanation:
    """What is known of a code.

    Attributes:
        code: The stable reason code.
        topic: What it belongs to, as the documentation's page has it.
        cause: What it means, and what brings it about.
        fix: What to do.
        severity: Of the finding of ``check`` and ``verify`` that has this code; None if none has.
        effect: Of that finding, in gemma.cpp or for a reader; None as above.
    """

    code: str
    topic: str
    cause: str
    fix: str
    severity: str | None = None
    effect: str | None = None


def explain(code: str) -> Explanation:
    """Return what is known of a code.

    Raises:
        UsageError: ``unknown-code``; the message has those that come close.
    """
    entry = CODES.get(code)
    if entry is None:
        near = close_to(code, list(CODES)) or ": blobstore explain lists all codes"
        raise UsageError("unknown-code", f"{code!r} is not a reason code{near}")
    topic = next(topic for topic, entries in TOPICS.items() if code in entries)
    kind = _kind(code)
    if kind is None:
        return Explanation(code, topic, entry.cause, entry.fix)
    return Explanation(
        code, topic, entry.cause, entry.fix or _sentence(kind.fix), kind.severity, _sentence(kind.effect)
    )


def _kind(code: str) -> Kind | None:
    """Return the kind of finding that has this code, with its effect and its fix; None if none has."""
    from blobstore.checking.codes import CODES as KINDS  # noqa: PLC0415 (the tables here need no numpy)

    return KINDS.get(code)


def _sentence(text: str) -> str:
    """Return a text as a sentence; as it is if it begins with a command, which a full stop would change."""
    if text.startswith(_COMMANDS):
        return text
    return f"{text if text.startswith('gemma.cpp') else text[:1].upper() + text[1:]}."
