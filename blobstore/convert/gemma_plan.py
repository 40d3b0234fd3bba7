"""A Gemma checkpoint and choices → a plan of the file that gemma.cpp runs.

Spec: spec/gemma.md, Checkpoints.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from blobstore.codecs.element_types import BY_NAME
from blobstore.convert.gemma_families import Recognised, default_wrapping, family_of, recognise, runtime_notes
from blobstore.convert.gemma_sources import Sources, foreign_tensors
from blobstore.convert.pieces import Piece, rows_of
from blobstore.convert.plan import Plan, PlannedAlias, PlannedPart, PlannedTensor
from blobstore.errors import CheckpointError, Fault, UsageError
from blobstore.export.arrangement import Block, dump_arrangement
from blobstore.gemma.enums import WeightType, Wrapping
from blobstore.gemma.models import is_gemma3
from blobstore.gemma.tensors import default_type
from blobstore.index.metadata import CHOICES, REARRANGED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from blobstore.checkpoint.reader import Checkpoint

WEIGHTS = ("sfp", "bf16", "f32", "i8")
LAYOUTS = ("split", "stock")
_SHOWN = 20
_DOUBT = ("missing-tensor", "shape", "config-disagrees")


@dataclass(frozen=True)
class Choices:
    """What a user may choose.

    Attributes:
        weights: Type of the weights that have a choice.
        layout: ``split`` is almost the checkpoint's own arrangement, and loads faster; ``stock`` is what published
            files have.
        wrapping: ``it``, ``pt``, or None to see what the checkpoint says.
    """

    weights: str = "sfp"
    layout: str = "split"
    wrapping: str | None = None

    def refuse_unusable(self) -> None:
        """Refuse what no runtime up to April 2026 runs. `verify` still compares files that were made so.

        Raises:
            UsageError: ``i8-stock``.
        """
        if (self.weights, self.layout) == ("i8", "stock"):
            what = "gemma.cpp hangs when it loads i8 weights in the stock layout: use --layout split"
            raise UsageError("i8-stock", what)


def is_gemma(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint is of a family that is converted for gemma.cpp, or would be if that were possible."""
    family, fault = family_of(checkpoint.config)
    return family is not None or fault is not None


def plan_for_gemma(checkpoint: Checkpoint, choices: Choices, *, tokenizer: bytes | None, chat_template: bool) -> Plan:
    """Plan the file that gemma.cpp runs.

    Args:
        checkpoint: Open.
        choices: The user's.
        tokenizer: The bytes of ``tokenizer.model``, or None.
        chat_template: Whether the checkpoint has one.

    Raises:
        CheckpointError: ``cannot-convert``, with ``faults``: all that is wrong, at once.
    """
    family, fault = family_of(checkpoint.config)
    if fault or family is None:
        raise refusal([fault or _no_family(checkpoint)])
    shapes = {name: entry.shape for name, entry in checkpoint.tensors.items()}
    early = list(foreign_tensors(checkpoint))
    found = recognise(family, checkpoint.config, shapes, checkpoint.generation)
    if isinstance(found, Fault):
        raise refusal([*early, found])
    chosen, why = _wrapping(found, choices, chat_template=chat_template)
    config = replace(found.config, weight=WeightType(BY_NAME[choices.weights].number), wrapping=chosen)
    sources = Sources(found, checkpoint, choices.layout)
    faults = [*early, *found.faults, *runtime_notes(config)]
    # When the sizes are in doubt, what doesn't fit them would be called unexpected.
    doubt = any(one.reason in _DOUBT for one in found.faults)
    faults += [one for one in sources.faults() if one.reason != "unexpected-tensor" or not doubt]
    if faults:
        raise refusal(faults)
    plan = Plan(metadata=dict(checkpoint.metadata), notes=[*checkpoint.notes, *found.notes])
    plan.notes.append(f"wrapping {chosen.name.lower()}: {why}")
    if tokenizer is None:
        plan.notes.append("there is no tokenizer.model: gemma.cpp needs --tokenizer to run this file")
    if choices.weights == "i8":
        plan.notes.append("i8 is experimental in gemma.cpp, and its --to_bf16 1 stops at it")
    plan.config, plan.tokenizer = config, tokenizer
    for spec, pieces in sources.blobs():
        kind = default_type(spec, choices.weights)
        plan.tensors.append(
            PlannedTensor(
                spec.key, spec.key, kind, (spec.rows, spec.cols), kind.nbytes(spec.rows * spec.cols), tuple(pieces)
            )
        )
    _add_names(plan, sources)
    made: dict[str, object] = {"weights": choices.weights, "layout": choices.layout, "wrapping": chosen.name.lower()}
    if is_gemma3(config) and not config.use_global_timescale:
        made["rope_bases"] = found.bases  # else the config could be one that lacks the word
    plan.metadata[CHOICES] = json.dumps(made, sort_keys=True)
    return plan


def _no_family(checkpoint: Checkpoint) -> Fault:
    if not checkpoint.config:
        what = "config.json is not beside the tensors, and it says what the model is: put the checkpoint's there"
        return Fault("missing-config", "config.json", what)
    return Fault("not-gemma", "model_type", "this is no Gemma checkpoint: --as names keeps every tensor")


def looks_like_gemma(checkpoint: Checkpoint) -> bool:
    """Whether the tensors of a checkpoint without a config.json are named as Gemma's are."""
    return not checkpoint.config and any(".pre_feedforward_layernorm." in name for name in checkpoint.tensors)


def refusal(faults: list[Fault]) -> CheckpointError:
    """Return one error that says all that is wrong."""
    lines = [f"{fault.reason}: {fault.name}: {fault.message}" for fault in faults[:_SHOWN]]
    if len(faults) > _SHOWN:
        lines.append(f"and {len(faults) - _SHOWN} more")
    error = CheckpointError("cannot-convert", "; ".join(lines))
    error.faults = [(fault.reason, fault.name, fault.message) for fault in faults]
    return error


def _wrapping(found: Recognised, choices: Choices, *, chat_template: bool) -> tuple[Wrapping, str]:
    own, why = default_wrapping(found.config, has_chat_template=chat_template)
    if choices.wrapping is None or found.config.vit_config.layer_configs:
        return own, why
    return Wrapping[choices.wrapping.upper()], "you chose it"


@dataclass(frozen=True)
class _Place:
    """Where a piece of a checkpoint's tensor is stored: the planned tensor, and the first of its elements there."""

    tensor: PlannedTensor
    at: int
    piece: Piece

    @property
    def block(self) -> Block[str]:
        """The same as the metadata has it."""
        piece = self.piece
        return Block(
            stored=self.tensor.name,
            at=self.at,
            row=piece.row,
            rows=piece.rows,
            col=piece.col,
            cols=piece.cols,
            width=piece.width,
            arrange=piece.arrange,
            channels=piece.channels,
        )

    def is_part(self, count: int) -> bool:
        """Whether all elements of the checkpoint's tensor, so many, are a run of bytes of the planned one."""
        group, end = self.tensor.type.group, self.at + count
        if not self.piece.whole_rows or self.piece.count != count:
            return False
        return not group or (self.at % group == 0 and (end % group == 0 or end == math.prod(self.tensor.shape)))


def _add_names(plan: Plan, sources: Sources) -> None:
    """Add each name of the checkpoint: a part where its rows are one run of a blob, else a record of its pieces."""
    checkpoint, embedding = sources.checkpoint, sources.embedding
    places = _places(plan.tensors)
    rearranged: dict[str, tuple[tuple[int, ...], list[Block[str]]]] = {}
    for name, its_places in places.items():
        shape, first = checkpoint.tensors[name].shape, its_places[0]
        if len(its_places) == 1 and first.is_part(math.prod(shape)):
            offset = first.tensor.type.nbytes(first.at)
            plan.parts.append(PlannedPart(name, first.tensor.key, offset, first.tensor.type, shape))
            continue
        if name == embedding and len(its_places) == 1 and first.piece.whole_rows:
            its_places.append(_add_spare_rows(plan, first, shape[0]))
        rearranged[name] = shape, [place.block for place in its_places]
    plan.aliases.append(_head_alias(sources))
    types = {name: checkpoint.tensors[name].type for name in places}
    plan.metadata[REARRANGED] = dump_arrangement(
        rearranged, types, {alias.name: alias.target for alias in plan.aliases}
    )


def _places(tensors: Iterable[PlannedTensor]) -> dict[str, list[_Place]]:
    """Return where the pieces of each of the checkpoint's tensors are stored, by its name."""
    places: dict[str, list[_Place]] = {}
    for tensor in tensors:
        at = 0
        for piece in tensor.pieces:
            if piece.source is not None:
                places.setdefault(piece.source, []).append(_Place(tensor, at, piece))
            at += piece.count
    return places


def _add_spare_rows(plan: Plan, used: _Place, rows: int) -> _Place:
    """Keep the last of the embedding's rows, which the runtime doesn't use, as a tensor of their own."""
    name, end = str(used.piece.source), used.piece.rows
    element_type, width = used.tensor.type, used.piece.width
    plan.parts.append(PlannedPart(name, used.tensor.key, 0, element_type, (end, width)))
    rest = rows_of(name, width, end, rows - end)
    nbytes = element_type.nbytes(rest.count)
    spare = PlannedTensor(f"{name}.rows_{end}_to_{rows}", "", element_type, (rest.rows, rest.cols), nbytes, (rest,))
    plan.extras.append(spare)
    return _Place(spare, 0, rest)


def _head_alias(sources: Sources) -> PlannedAlias:
    if sources.found.head:
        return PlannedAlias(sources.found.head, sources.embedding, "it has the same bytes")
    return PlannedAlias(_head_name(sources.embedding), sources.embedding, "gemma.cpp uses the embedding as the head")


def _head_name(embedding: str) -> str:
    return "language_model.lm_head.weight" if embedding.startswith("language_model.") else "lm_head.weight"
