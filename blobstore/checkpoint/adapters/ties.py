"""Tied weights: a name that shares another's tensor, and adapters that change one of both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.checkpoint.adapters.changes import Change
from blobstore.checkpoint.adapters.steps import LowRank, Rows, Whole
from blobstore.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from blobstore.checkpoint.adapters.changes import BaseTensor, Merge
    from blobstore.checkpoint.adapters.reading import Adapter
    from blobstore.checkpoint.adapters.steps import Step


def separate_ties(
    adapters: Sequence[Adapter], base: Mapping[str, BaseTensor], ties: Mapping[str, str], merge: Merge
) -> None:
    """Give a name that shared another's tensor one of its own, where an adapter changes only one of both.

    Raises:
        CheckpointError: ``adapter-tensor``: the one would have other rows than the other.
    """
    for name, target in ties.items():
        own, other = merge.changes.get(name), merge.changes.get(target)
        if own is not None and other is not None and _are_same(own, other):
            del merge.changes[name]
            merge.unused[name] = f"the adapter changes it as {target!r}, whose tensor it shares"
            continue
        why = _why_apart(name, target, own, other)
        if own is None and other is not None:
            shared = _of_both(other, adapters, target, base[target])
            if len(shared.steps) < len(other.steps):
                own = merge.changes[name] = shared
        elif own is not None and other is None and own.shape != base[target].shape:  # resized, and with it the other
            shared = _of_both(own, adapters, name, base[target])
            if shared.steps:
                other = merge.changes[target] = shared
        if own is not None:
            _check_rows(name, own, target, base[target] if other is None else other)
            merge.notes.append(f"{why}: {name} becomes a tensor of its own")


def _why_apart(name: str, target: str, own: Change | None, other: Change | None) -> str:
    if own is not None and other is not None:
        return f"{name} shared the tensor {target!r}, and the adapter changes both, each in its way"
    changed = repr(target) if own is None else name
    return f"{name} shared the tensor {target!r}, and the adapter changes only {changed}"


def _of_both(change: Change, adapters: Sequence[Adapter], name: str, base: BaseTensor) -> Change:
    """Return what of a change was trained for the other name, too, which otherwise kept the base's values."""
    module = name.removesuffix(".weight").rpartition(".")[2]
    shared = Change(change.source, base.type, base.shape)
    for step, place in zip(change.steps, change.by, strict=True):
        config = adapters[place].config
        # Rows are trained for both names; what isn't in modules_to_save was saved because its size had changed.
        stays_tied = isinstance(step, Rows) or (isinstance(step, Whole) and module not in config.modules_to_save)
        if config.keeps_ties or stays_tied:
            shared.add(step, place)
            shared.shape = step.tensor.shape if isinstance(step, Whole) else shared.shape
    return shared


def _check_rows(name: str, own: Change, target: str, other: Change | BaseTensor) -> None:
    if own.shape != other.shape:
        what = f"{name!r} would have {own.shape[0]} rows, and {target!r} {other.shape[0]}: the adapter has only one"
        fix = "pass the base as it was trained on, resized with resize_token_embeddings and saved"
        raise CheckpointError("adapter-tensor", f"{what}: {fix}")


def _are_same(a: Change, b: Change) -> bool:
    """Whether two changes of one tensor give the same values."""
    if len(a.steps) != len(b.steps) or a.by != b.by:
        return False
    return all(_is_same_step(*steps) for steps in zip(a.steps, b.steps, strict=True))


def _is_same_step(a: Step, b: Step) -> bool:
    if isinstance(a, Whole) and isinstance(b, Whole):
        return a.tensor.same_as(b.tensor)
    if isinstance(a, Rows) and isinstance(b, Rows):
        return (a.numbers, a.places) == (b.numbers, b.places) and a.tensor.same_as(b.tensor)
    if isinstance(a, LowRank) and isinstance(b, LowRank) and a.scale == b.scale and a.transposed != b.transposed:
        return a.a.same_as(b.b, transposed=True) and a.b.same_as(b.a, transposed=True)
    return False
