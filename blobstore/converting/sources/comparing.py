"""Whether a checkpoint has all that the runtime's tensors are made of, and nothing else.

Spec: spec/gemma.md, Checkpoints.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING

from blobstore.checkpoint.tied import why_tied
from blobstore.checkpoint.told import LeftOut
from blobstore.converting.gemma_families import FAMILIES
from blobstore.converting.hf_tensors import HEADS
from blobstore.converting.hf_values import KEEPS_ALL
from blobstore.converting.sources.foreign import is_foreign
from blobstore.converting.sources.gemma4 import Gemma4Sources, is_of_experts
from blobstore.converting.sources.t5gemma import T5GemmaSources
from blobstore.converting.sources.text import TextSources
from blobstore.converting.sources.vision import VisionSources, is_vision_layer, vision_keys
from blobstore.errors import Fault
from blobstore.gemma.families.specs import place_of
from blobstore.gemma.tensors import tensors_of

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping

    from blobstore.checkpoint.reader import Checkpoint
    from blobstore.converting.gemma_recognise import Recognised
    from blobstore.converting.pieces import Piece
    from blobstore.gemma.families.specs import TensorSpec

# How the names of vectors end in a checkpoint.
_VECTORS = (
    *(".bias", "norm.weight", "norm1.weight", "norm2.weight"),
    *("layernorm_1.weight", "layernorm_2.weight", "layer_scalar", "router.scale", "per_expert_scale"),
)
# Of families whose text part is not as most.
_OF_TEXT = {"gemma4": Gemma4Sources, "gemma4-experts": Gemma4Sources, "t5gemma": T5GemmaSources}


class Sources:
    """Where each of the runtime's tensors comes from."""

    def __init__(self, recognised: Recognised, checkpoint: Checkpoint, layout: str) -> None:
        """Look at a checkpoint; ``layout`` is ``split`` or ``stock``."""
        self.recognised: Recognised = recognised
        self.checkpoint: Checkpoint = checkpoint
        self.embedding: str = recognised.embedding
        self._layout = layout
        self._text = _OF_TEXT.get(recognised.family, TextSources)(recognised)
        self._vision = VisionSources(recognised)

    @cached_property
    def blobs(self) -> list[tuple[TensorSpec, list[Piece]]]:
        """Each tensor with its pieces, in the order of published files."""
        specs = {spec.key: spec for spec in tensors_of(self.recognised.config)}
        return [(specs[key], self._pieces(specs[key])) for key in self._keys(specs)]

    @cached_property
    def left_out(self) -> list[LeftOut]:
        """The tensors that the runtime doesn't need."""
        reasons = {name: self._text.why_unused(name) for name in self.checkpoint.tensors}
        return [LeftOut(name, "tensor", why) for name, why in reasons.items() if why]

    def _keys(self, specs: Mapping[str, TensorSpec]) -> Iterator[str]:
        """Yield the keys of a file, which has one form of each slot."""
        yield from self._text.keys(specs, self._layout)
        for i in range(len(self.recognised.config.vit_config.layer_configs)):
            yield from vision_keys(i)

    def _pieces(self, spec: TensorSpec) -> list[Piece]:
        base, layer, _ = place_of(spec.key)
        if layer is not None:
            part = self._vision if is_vision_layer(base) else self._text
            return part.of_layer(base, layer, spec)
        is_vision = not self.recognised.encoder and spec.key.startswith(("enc_", "img_", "mm_"))
        part = self._vision if is_vision else self._text
        return part.of_model(spec)

    def faults(self) -> Iterator[Fault]:
        """Compare what the runtime needs with what the checkpoint has."""
        totals, widths = self._totals()
        for name, total in totals.items():
            fault = self._fault(name, total, widths[name])
            if fault:
                yield fault
        unused = {item.name for item in self.left_out}
        yield from self._unexpected({*totals, *unused, self.recognised.head})
        yield from self._head_faults()

    def _unexpected(self, known: Container[str | None]) -> Iterator[Fault]:
        """Yield the tensors that nothing is made of; `foreign_tensors` has those that are quantised or adapters."""
        for name, entry in self.checkpoint.tensors.items():
            if name not in known and not is_foreign(name, entry):
                what = f"gemma.cpp has no place for it: is this another architecture? {KEEPS_ALL}"
                yield Fault("unexpected-tensor", name, what)

    def _head_faults(self) -> Iterator[Fault]:
        """Yield a head that gemma.cpp has no place for; where it has one, a head that config.json contradicts."""
        recognised, head = self.recognised, str(self.recognised.head)
        tied = why_tied(self.checkpoint.config)
        if FAMILIES[recognised.family].head_label is None:
            if recognised.own_head:
                what = f"it differs from {self.embedding!r}, and gemma.cpp uses the embedding as the head"
                yield Fault("untied-head", head, f"{what}: this model can't run there; --as names keeps every tensor")
        elif recognised.own_head and tied:
            what = f"{tied} to {self.embedding!r}, which differs: transformers uses that"
            yield Fault("config-disagrees", head, f"{what}; remove this tensor, or repair tie_word_embeddings")
        elif recognised.head is None and not tied:
            what = "it is missing, and config.json doesn't tie it to the embedding (tie_word_embeddings)"
            yield Fault("missing-tensor", HEADS[0], f"{what}: download the checkpoint again, or its other shards")

    def _fault(self, name: str, total: int, width: int) -> Fault | None:
        """Compare a source with what is used of it."""
        entry = self.checkpoint.tensors.get(name)
        if entry is None:
            what = "it is missing: the checkpoint is incomplete; download it again, or its other shards"
            return Fault("missing-tensor", name, what)
        shape = self._shape(name, total, width)
        if entry.shape != shape:
            what = f"its shape is {list(entry.shape)}, expected {list(shape)}: is config.json another model's?"
            return Fault("shape", name, what)
        return None

    def _totals(self) -> tuple[dict[str, int], dict[str, int]]:
        """Return how many elements of each source are used, and its width. All have to be used, but for spare rows."""
        totals: dict[str, int] = {}
        widths: dict[str, int] = {}
        for _, pieces in self.blobs:
            for piece in pieces:
                if piece.source is not None and not piece.repeated:
                    totals[piece.source] = totals.get(piece.source, 0) + piece.count
                    widths[piece.source] = piece.width
        vocabulary = self.recognised.vocabulary
        for name in self.recognised.embeddings:
            totals[name] += (vocabulary.rows - vocabulary.tokens) * self.recognised.config.model_dim
        return totals, widths

    def _shape(self, name: str, total: int, width: int) -> tuple[int, ...]:
        """Return the shape that exporters give a tensor of so many elements."""
        if name.endswith("patch_embedding.weight"):
            side = math.isqrt(width // 3)
            return (total // width, 3, side, side)
        if name.endswith(_VECTORS):
            return (total,)
        if is_of_experts(name):
            experts = self.recognised.config.layer_configs[0].num_experts
            return (experts, total // width // experts, width)
        return (total // width, width)
