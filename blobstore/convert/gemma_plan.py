"""The plan of the file that gemma.cpp runs: from a Gemma checkpoint and the user's choices.

Spec: spec/gemma.md, Checkpoints.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from blobstore.codecs.element_types import BY_NAME
from blobstore.convert.gemma_config import default_wrapping, runtime_faults
from blobstore.convert.gemma_families import family_of
from blobstore.convert.gemma_recognise import Recognised, recognise
from blobstore.convert.gemma_sources import Sources, foreign_tensors
from blobstore.convert.pieces import Piece, rows_of
from blobstore.convert.plan import Plan, PlannedAlias, PlannedPart, PlannedTensor, refusal
from blobstore.errors import Fault, UsageError
from blobstore.gemma.config import WeightType, Wrapping
from blobstore.gemma.models import is_gemma3
from blobstore.gemma.tensors import default_type
from blobstore.index.metadata import CHOICES, REARRANGED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blobstore.checkpoint.reader import Checkpoint
    from blobstore.gemma.config import ModelConfig

WEIGHTS = ("sfp", "bf16", "f32", "i8")
LAYOUTS = ("split", "stock")
_DOUBT = ("missing-tensor", "shape", "config-disagrees")


@dataclass(frozen=True)
class Choices:
    """What a user may choose.

    Attributes:
        weights: Type of the weights, where the runtime leaves a choice.
        layout: ``split`` is almost the checkpoint's own arrangement, and loads faster; ``stock`` is that of published
            files.
        wrapping: ``it``, ``pt``, or None for what the checkpoint says.
    """

    weights: str = "sfp"
    layout: str = "split"
    wrapping: str | None = None

    def refuse_unusable(self) -> None:
        """Refuse what no runtime up to April 2026 runs. `verify` still compares such files.

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


def looks_like_gemma(checkpoint: Checkpoint) -> bool:
    """Whether the tensors of a checkpoint without a config.json have Gemma's names."""
    return not checkpoint.config and any(".pre_feedforward_layernorm." in name for name in checkpoint.tensors)


def plan_for_gemma(checkpoint: Checkpoint, choices: Choices, *, tokenizer: bytes | None, chat_template: bool) -> Plan:
    """Plan the file that gemma.cpp runs.

    Args:
        checkpoint: Open.
        choices: The user's.
        tokenizer: The bytes of ``tokenizer.model``, or None.
        chat_template: Whether the checkpoint has one.

    Raises:
        CheckpointError: ``cannot-convert``, with ``faults``: everything that is wrong, at once.
    """
    recognised = _recognised(checkpoint)
    wrapping, why = _wrapping(recognised, choices, chat_template=chat_template)
    weight = WeightType(BY_NAME[choices.weights].number)
    config = replace(recognised.config, weight=weight, wrapping=wrapping)
    sources = Sources(recognised, checkpoint, choices.layout)
    faults = _faults(config, sources)
    if faults:
        raise refusal(faults)
    plan = Plan(metadata=dict(checkpoint.metadata), notes=[*checkpoint.notes, *recognised.notes])
    plan.config, plan.tokenizer = config, tokenizer
    plan.notes.append(f"wrapping {wrapping.name.lower()}: {why}")
    plan.notes += _notes(plan, choices)
    plan.tensors += _tensors(sources, choices)
    _add_names(plan, sources)
    plan.metadata[CHOICES] = _choices_text(recognised, config, choices)
    return plan


def _recognised(checkpoint: Checkpoint) -> Recognised:
    family, fault = family_of(checkpoint.config)
    if fault or family is None:
        raise refusal([fault or _no_family(checkpoint)])
    shapes = {name: entry.shape for name, entry in checkpoint.tensors.items()}
    recognised = recognise(family, checkpoint.config, shapes, checkpoint.generation)
    if isinstance(recognised, Fault):
        raise refusal([*foreign_tensors(checkpoint), recognised])
    return recognised


def _no_family(checkpoint: Checkpoint) -> Fault:
    if not checkpoint.config:
        what = "there is no config.json beside the tensors, which says what the model is: add the checkpoint's"
        return Fault("missing-config", "config.json", what)
    return Fault("not-gemma", "model_type", "this is not a Gemma checkpoint: --as names keeps every tensor")


def _faults(config: ModelConfig, sources: Sources) -> list[Fault]:
    """Return everything that keeps a recognised checkpoint from being converted."""
    known = sources.recognised.faults
    faults = [*foreign_tensors(sources.checkpoint), *known, *runtime_faults(config)]
    # While the dimensions are in doubt, whatever doesn't match them would be called unexpected.
    doubt = any(fault.reason in _DOUBT for fault in known)
    return [*faults, *(fault for fault in sources.faults() if fault.reason != "unexpected-tensor" or not doubt)]


def _wrapping(recognised: Recognised, choices: Choices, *, chat_template: bool) -> tuple[Wrapping, str]:
    own, why = default_wrapping(recognised.config, has_chat_template=chat_template)
    if choices.wrapping is None or recognised.config.vit_config.layer_configs:
        return own, why
    return Wrapping[choices.wrapping.upper()], "you chose it"


def _notes(plan: Plan, choices: Choices) -> Iterator[str]:
    if plan.tokenizer is None:
        yield "there is no tokenizer.model: gemma.cpp needs --tokenizer to run this file"
    if choices.weights == "i8":
        yield "i8 is experimental in gemma.cpp, and its --to_bf16 1 stops at it"


def _tensors(sources: Sources, choices: Choices) -> Iterator[PlannedTensor]:
    for spec, pieces in sources.blobs():
        element_type = default_type(spec, choices.weights)
        nbytes = element_type.nbytes(spec.rows * spec.cols)
        yield PlannedTensor(spec.key, spec.key, element_type, (spec.rows, spec.cols), nbytes, tuple(pieces))


def _choices_text(recognised: Recognised, config: ModelConfig, choices: Choices) -> str:
    """Return what the file's metadata says of the choices that it was made with."""
    made: dict[str, object] = {"weights": choices.weights, "layout": choices.layout}
    made["wrapping"] = config.wrapping.name.lower()
    if is_gemma3(config) and not config.use_global_timescale:
        made["rope_bases"] = recognised.bases  # otherwise the config might be one that lacks the field
    return json.dumps(made, sort_keys=True)


def _add_names(plan: Plan, sources: Sources) -> None:
    """Give every source its name back: a part where its rows are one run of a blob, else a note of its pieces."""
    checkpoint = sources.checkpoint
    places: dict[str, list[tuple[PlannedTensor, int, Piece]]] = {}
    for tensor in plan.tensors:
        done = 0
        for piece in tensor.pieces:
            if piece.source is not None:
                places.setdefault(piece.source, []).append((tensor, done, piece))
            done += piece.count
    rearranged: dict[str, object] = {}
    for name, found in places.items():
        entry = checkpoint.tensors[name]
        total = math.prod(entry.shape)
        tensor, start, piece = found[0]
        whole = len(found) == 1 and piece.whole_rows
        offset = tensor.type.nbytes(start) if not tensor.type.group or start % tensor.type.group == 0 else None
        if whole and piece.count == total and offset is not None and _ends_whole(tensor, start, total):
            plan.parts.append(PlannedPart(name, tensor.key, offset, tensor.type, entry.shape))
            continue
        if name == sources.embedding and whole:
            used, rows = piece.rows, entry.shape[0]
            plan.parts.append(PlannedPart(name, tensor.key, 0, tensor.type, (used, piece.width)))
            rest = rows_of(name, piece.width, used, rows - used)
            kind, shape = tensor.type, (rest.rows, rest.cols)
            spare = f"{name}.rows_{used}_to_{rows}"
            plan.extras.append(PlannedTensor(spare, "", kind, shape, kind.nbytes(rest.count), (rest,)))
            found.append((plan.extras[-1], 0, rest))
        rearranged[name] = {
            "shape": list(entry.shape),
            "pieces": [
                [one.name, at, p.row, p.rows, p.col, p.cols, p.width, p.arrange, p.channels] for one, at, p in found
            ],
        }
    head = sources.recognised.head or _head_name(sources.embedding)
    why = "it has the same bytes" if sources.recognised.head else "gemma.cpp uses the embedding as the head"
    plan.aliases.append(PlannedAlias(head, sources.embedding, why))
    source_types = {name: checkpoint.tensors[name].type.name for name in places}
    said = {
        "tensors": rearranged,
        "types": _compact(source_types),
        "aliases": {alias.name: alias.target for alias in plan.aliases},
    }
    plan.metadata[REARRANGED] = json.dumps(said, sort_keys=True, separators=(",", ":"))


def _ends_whole(tensor: PlannedTensor, start: int, count: int) -> bool:
    """Whether a run of elements ends at a group's border, or with the tensor."""
    group = tensor.type.group
    return not group or (start + count) % group == 0 or start + count == math.prod(tensor.shape)


def _compact(types: dict[str, str]) -> dict[str, object]:
    """Say the type that most tensors have once, and the others by name."""
    most = Counter(types.values()).most_common(1)[0][0]
    return {"most": most, "others": {name: kind for name, kind in types.items() if kind != most}}


def _head_name(embedding: str) -> str:
    return "language_model.lm_head.weight" if embedding.startswith("language_model.") else "lm_head.weight"
