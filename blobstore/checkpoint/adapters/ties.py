"""Tied weights: a name that shares another's tensor, and adapters that change one of both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.checkpoint.adapters.changes import Change
from blobstore.checkpoint.adapters.steps import LowRank, Rows, Whole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from blobstore.checkpoint.adapters.changes import BaseTensor, Merge
    from blobstore.checkpoint.adapters.reading import Adapter
    from blobstore.checkpoint.adapters.steps import Step


def separate_ties(
    adapters: Sequence[Adapter], base: Mapping[str, BaseTensor], ties: Mapping[str, str], merge: Merge
) -> None:
    """Give a name that shared another's tensor one of its own, where an adapter changes only one of both."""
    for name, target in ties.items():
        own, other = merge.changes.get(name), merge.changes.get(target)
        if own is not None and other is not None and _are_same(own, other):
            del merge.changes[name]
            merge.unused[name] = f"the adapter changes it as {target!r}, whose tensor it shares"
            continue
        if own is None and other is not None and _breaks_tie(other, adapters, target):
            own = merge.changes[name] = Change(target, base[target].type, base[target].shape)
        if own is not None:
            merge.untied.append(name)
            merge.notes.append(f"{_why_apart(name, target, own, other)}: {name} becomes a tensor of its own")


def _why_apart(name: str, target: str, own: Change, other: Change | None) -> str:
    if own.steps and other is not None:
        return f"{name} shared the tensor {target!r}, and the adapter changes both, each in its way"
    changed = name if own.steps else repr(target)
    return f"{name} shared the tensor {target!r}, and the adapter changes only {changed}"


def _breaks_tie(change: Change, adapters: Sequence[Adapter], name: str) -> bool:
    """Whether a change was trained while the other name kept the base's values."""
    module = name.removesuffix(".weight").rpartition(".")[2]
    for step, place in zip(change.steps, change.by, strict=True):
        config = adapters[place].config
        # Rows are trained for both names; what isn't in modules_to_save was saved because its size had changed.
        stays_tied = isinstance(step, Rows) or (isinstance(step, Whole) and module not in config.modules_to_save)
        if not config.keeps_ties and not stays_tied:
            return True
    return False


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
