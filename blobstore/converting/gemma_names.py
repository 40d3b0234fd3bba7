"""The names of a checkpoint in the file that gemma.cpp runs: parts of its tensors, or what they are gathered from.

Spec: spec/gemma.md, Checkpoints.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blobstore.checkpoint.told import Told
from blobstore.converting.hf_tensors import T5GEMMA_HEAD
from blobstore.converting.pieces import Piece, comes_back, fits_bf16, rows_of
from blobstore.converting.plan import PlannedAlias, PlannedPart, PlannedTensor
from blobstore.errors import listed
from blobstore.gemma.families.qwen3 import WITH_HEAD
from blobstore.index.metadata import REARRANGED
from blobstore.store.arrangement import dump_arrangement
from blobstore.store.blocks import MINUS_ONE, Block

if TYPE_CHECKING:
    from collections.abc import Iterable

    from blobstore.checkpoint.tensors import SourceTensor
    from blobstore.codecs.element_types import ElementType
    from blobstore.converting.gemma_recognise import Recognised
    from blobstore.converting.plan import Plan
    from blobstore.converting.sources.comparing import Sources

_KEPT = "norms have values that are lost when 1 is subtracted and added in f32, and are kept as they are, too"
_NARROWED = (
    "tensors have values that bf16 can't hold, the only type gemma.cpp takes for them, and are kept as they are, too"
)
_SHOWN = 4


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


def add_names(plan: Plan, sources: Sources, weights: str) -> None:
    """Add each name of the checkpoint: a part where its rows are one run of a blob, else a record of its pieces.

    What the runtime's tensors don't have of a tensor becomes an extra one.

    Args:
        plan: Has the runtime's tensors; the names, the extra tensors and what is told of them are added.
        sources: Where its tensors come from.
        weights: The type that was chosen for the weights.
    """
    checkpoint, embedding = sources.checkpoint, sources.embedding
    places = _places(plan.tensors)
    kept: list[str] = []
    narrowed: list[str] = []
    rearranged: dict[str, tuple[tuple[int, ...], list[Block[str]]]] = {}
    for name, its_places in places.items():
        source, first = checkpoint.tensors[name], its_places[0]
        shape = source.shape
        if _is_narrowed(first, weights) and not fits_bf16(source):
            rearranged[name] = shape, [_add_original(plan, name, source).block]
            narrowed.append(name)
            continue
        if len(its_places) == 1 and first.is_part(math.prod(shape)):
            offset = first.tensor.type.nbytes(first.at)
            plan.parts.append(PlannedPart(name, first.tensor.key, offset, first.tensor.type, shape))
            continue
        if name == embedding and len(its_places) == 1 and first.piece.rows < shape[0]:
            its_places.append(_add_spare_rows(plan, first, shape[0]))
        if first.piece.arrange == MINUS_ONE and not comes_back(source):
            first = _add_original(plan, name, source)
            kept.append(name)
        rearranged[name] = shape, [place.block for place in (first, *its_places[1:])]
    plan.told += [Told("kept-norms", kept[0], f"{len(kept)} {_KEPT}: {listed(kept, _SHOWN)}")] if kept else []
    plan.notes += [f"{len(narrowed)} {_NARROWED}: {listed(narrowed, _SHOWN)}"] if narrowed else []
    if not sources.recognised.own_head:
        plan.aliases.append(_head_alias(sources))
    types = {name: checkpoint.tensors[name].type for name in places}
    plan.metadata[REARRANGED] = dump_arrangement(
        rearranged, types, {alias.name: alias.target for alias in plan.aliases}
    )


def _is_narrowed(place: _Place, weights: str) -> bool:
    """Whether the weights are f32, but gemma.cpp takes this tensor in bf16 only."""
    return weights == "f32" and place.tensor.type.name == "bf16"


def _places(tensors: Iterable[PlannedTensor]) -> dict[str, list[_Place]]:
    """Return where the pieces of each of the checkpoint's tensors are stored, by its name."""
    places: dict[str, list[_Place]] = {}
    for tensor in tensors:
        at = 0
        for piece in tensor.pieces:
            if piece.source is not None and not piece.repeated:
                places.setdefault(piece.source, []).append(_Place(tensor, at, piece))
            at += piece.count
    return places


def _add_spare_rows(plan: Plan, used: _Place, rows: int) -> _Place:
    """Keep the last of the embedding's rows, which the runtime doesn't use, as a tensor of their own."""
    name, end = str(used.piece.source), used.piece.rows
    rest = rows_of(name, used.piece.width, end, rows - end)
    return _add_extra(plan, f"{name}.rows_{end}_to_{rows}", rest, used.tensor.type)


def _add_original(plan: Plan, name: str, source: SourceTensor) -> _Place:
    """Keep a vector that can't be read back from the runtime's values as a tensor of its own."""
    return _add_extra(plan, f"{name}.original", rows_of(name, math.prod(source.shape), 0, 1), source.type)


def _add_extra(plan: Plan, name: str, piece: Piece, element_type: ElementType) -> _Place:
    extra = PlannedTensor(name, "", element_type, (piece.rows, piece.cols), element_type.nbytes(piece.count), (piece,))
    plan.extras.append(extra)
    return _Place(extra, 0, piece)


def _head_alias(sources: Sources) -> PlannedAlias:
    if sources.recognised.head:
        return PlannedAlias(sources.recognised.head, sources.embedding, "it has the same bytes")
    name = _head_name(sources.recognised)
    why = "gemma.cpp uses the embedding as the head"
    if sources.recognised.config.model in WITH_HEAD:
        why = "it is tied; gemma.cpp gets a copy of it, lm_head, in the type of the weights"
    return PlannedAlias(name, sources.embedding, why)


def _head_name(recognised: Recognised) -> str:
    embedding = recognised.embedding
    if recognised.encoder:
        return T5GEMMA_HEAD
    return "language_model.lm_head.weight" if embedding.startswith("language_model.") else "lm_head.weight"
