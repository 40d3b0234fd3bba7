"""A conversion as data: what a checkpoint becomes, a list of blobs and names. Nothing is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from blobstore.checkpoint.carried import files_beside
from blobstore.checkpoint.file_names import CONFIG
from blobstore.checkpoint.tied import head_of, why_tied
from blobstore.checkpoint.told import LeftOut, lines_of
from blobstore.container.keys import CONFIG_KEY, TOC_KEY, TOKENIZER_KEY
from blobstore.container.layout import MAX_BLOBS
from blobstore.errors import CheckpointError, Fault, UsageError, listed
from blobstore.index import shape_fault
from blobstore.index.metadata import ADAPTERS, OWN_METADATA, foreign_metadata
from blobstore.index.names import encode_name, keys_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blobstore.checkpoint.carried import FileBeside
    from blobstore.checkpoint.reader import Checkpoint
    from blobstore.checkpoint.tensors import SourceTensor
    from blobstore.checkpoint.told import Told
    from blobstore.codecs.element_types import ElementType
    from blobstore.converting.pieces import Piece
    from blobstore.gemma.config import ModelConfig

_RUNTIME_BLOBS = (CONFIG_KEY, TOKENIZER_KEY, TOC_KEY)  # beside the tensors
_SHOWN = 8
_FILES_SHOWN = 24
_SHOWN_TEXT = 200
_FAULTS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor of the new file.

    It is made of `pieces`; without any it has all bytes of the checkpoint's tensor of the same name.
    """

    name: str
    key: str
    type: ElementType
    shape: tuple[int, ...]
    nbytes: int
    pieces: tuple[Piece, ...] = ()


@dataclass(frozen=True)
class PlannedPart:
    """A name for some bytes of a planned tensor: those that the checkpoint has under that name."""

    name: str
    target: str
    offset: int
    type: ElementType
    shape: tuple[int, ...]


@dataclass(frozen=True)
class PlannedAlias:
    """Another name for a planned tensor, and the reason.

    Attributes:
        name: The other name.
        target: The tensor's own.
        why: Why they are the same tensor.

    Example:
        >>> blobstore.preview_conversion("checkpoint").aliases[0].name
        'lm_head.weight'
    """

    name: str
    target: str
    why: str


@dataclass
class Plan:
    """A conversion that can be shown, run and checked.

    Attributes:
        tensors: In the order of writing, which is that of the source's bytes.
        aliases: Names without bytes of their own.
        metadata: Text → text, for the index.
        notes: What a user should know.
        parts: More names, for bytes inside tensors.
        extras: Tensors that the runtime doesn't know, kept so that nothing is lost.
        config: The model's, for the runtime; None for a file that is only a container.
        tokenizer: The blob for the runtime: a SentencePiece model, or a BPE record.
        left_out: What of the checkpoint isn't used, and why.
        told: What is done without being asked for.
        files: The checkpoint's other files, such as ``config.json``, that the new file carries.
    """

    tensors: list[PlannedTensor] = field(default_factory=list)
    aliases: list[PlannedAlias] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    parts: list[PlannedPart] = field(default_factory=list)
    extras: list[PlannedTensor] = field(default_factory=list)
    config: ModelConfig | None = None
    tokenizer: bytes | None = None
    left_out: list[LeftOut] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    files: list[FileBeside] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """What a user is told, a line each."""
        return lines_of(self.notes, self.told, self.left_out)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in [*self.tensors, *self.extras])

    def blob_count(self, *, embedded: bool) -> int:
        """Return how many blobs the file has; ``embedded`` is whether the name index is one of them."""
        own = len(_RUNTIME_BLOBS) if self.config is not None else 0
        tensors = sum(tensor.nbytes > 0 for tensor in [*self.tensors, *self.extras])
        return tensors + len(self.files) + own + embedded

    @property
    def indexed_aliases(self) -> list[PlannedAlias]:
        """The aliases that the index lists: those of tensors that are stored as one run."""
        listed = {tensor.name for tensor in [*self.tensors, *self.extras]} | {part.name for part in self.parts}
        return [alias for alias in self.aliases if alias.target in listed]


def plan_by_name(checkpoint: Checkpoint, *, files: bool = True) -> Plan:
    """Plan a file in which every tensor keeps its name, its type and its bytes.

    Tied weights: a head that ``config.json`` says is the embedding becomes an alias where the checkpoint leaves it out;
    a head with the same bytes as the embedding is stored once.

    Args:
        checkpoint: Open.
        files: Carry the checkpoint's other files.

    Raises:
        CheckpointError: ``no-tensors``, ``bad-tensors``: everything that is wrong, at once.
    """
    if not checkpoint.tensors:
        raise CheckpointError("no-tensors", f"{checkpoint.path!r} has no tensors")
    plan = plan_begun(checkpoint)
    plan.aliases = _tied(checkpoint)
    aliased = {alias.name for alias in plan.aliases}
    problems: list[str] = []
    owners: dict[str, str] = {}
    stored = {name: (entry, entry.nbytes) for name, entry in checkpoint.tensors.items() if name not in aliased}
    faults = {name: found for name, (entry, _) in stored.items() if (found := _faults(name, entry))}
    having = [name for name, (_, nbytes) in stored.items() if nbytes and name not in faults]
    keys = dict(zip(having, keys_for(having), strict=True))  # without elements a tensor needs no blob
    for name, (entry, nbytes) in stored.items():
        problems += faults.get(name, ())
        key = keys.get(name, "")
        if key and owners.setdefault(key, name) != name:
            problems.append(f"{name!r} and {owners[key]!r} both have the key {key!r}: rename one")
        plan.tensors.append(PlannedTensor(name, key, entry.type, entry.shape, nbytes))
    if problems:
        raise CheckpointError("bad-tensors", listed(problems, _SHOWN, "; "))
    plan.files, left_out = files_beside(checkpoint, wanted=files)
    plan.left_out += left_out
    if plan.files:
        plan.notes.append(f"carries {listed([file.name for file in plan.files], _FILES_SHOWN)}")
    if checkpoint.config_note and any(file.name == CONFIG for file in plan.files):
        plan.notes.append(checkpoint.config_note)
    if not owners:
        raise CheckpointError("no-tensors", f"{checkpoint.path!r} has only tensors without elements")
    return plan


def plan_begun(checkpoint: Checkpoint) -> Plan:
    """Return a plan with the checkpoint's notes and metadata, without keys that only this project writes."""
    plan = Plan(metadata=foreign_metadata(checkpoint.metadata), notes=list(checkpoint.notes))
    plan.left_out += checkpoint.left_out
    plan.told += checkpoint.told
    left_out = sorted({*checkpoint.metadata} - {*plan.metadata})
    if checkpoint.adapters is not None:
        plan.metadata[ADAPTERS] = checkpoint.adapters.description
    if left_out:
        what = f"metadata {', '.join(left_out)[:_SHOWN_TEXT]} is left out"
        plan.notes.append(f"{what}: keys that begin with {OWN_METADATA!r} are blobstore's own")
    return plan


def refusal(faults: Sequence[Fault], *, fix: str = "") -> CheckpointError:
    """Return one error, ``cannot-convert``, that lists everything that is wrong; last comes a fix for all."""
    lines = listed([f"{fault.reason}: {fault.name}: {fault.message}" for fault in faults], _FAULTS_SHOWN, "; ")
    error = CheckpointError("cannot-convert", f"{lines}; {fix}" if fix and fix not in lines else lines)
    error.faults = tuple(faults)
    return error


def too_many_blobs(count: int) -> Fault | None:
    """Return a fault of a file that would have more blobs than any reader takes."""
    if count <= MAX_BLOBS:
        return None
    return Fault(
        "too-many-blobs", "directory", f"the file would have {count} blobs, no gemma.cpp reads over {MAX_BLOBS}"
    )


def _faults(name: str, entry: SourceTensor) -> list[str]:
    """Return what keeps a tensor out of a file: its name or its shape."""
    faults = []
    try:
        encode_name(name)
    except UsageError as error:
        faults.append(error.message)
    shape = shape_fault(entry.shape)
    if shape:
        faults.append(f"{name[:80]!r} {shape}")
    return faults


def _tied(checkpoint: Checkpoint) -> list[PlannedAlias]:
    why = why_tied(checkpoint.config)
    aliases: dict[str, PlannedAlias] = {}
    for embedding, entry in checkpoint.tensors.items():
        head = head_of(embedding, checkpoint.config)
        if head is None or head in aliases or not entry.nbytes:
            continue
        if head not in checkpoint.tensors:
            if why:
                aliases[head] = PlannedAlias(head, embedding, f"{why}, the checkpoint leaves it out")
            elif head in checkpoint.tied_heads:
                aliases[head] = PlannedAlias(head, embedding, "the index lists it, but no file has it")
        elif checkpoint.tensors[head].same_bytes(entry):
            aliases[head] = PlannedAlias(head, embedding, "it has the same bytes")
    return list(aliases.values())
