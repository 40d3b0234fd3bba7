"""Adapters and a base become the changes of each tensor: planned, and checked, before any value is read."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

from blobstore.checkpoint.adapters.changes import Change, Merge
from blobstore.checkpoint.adapters.matching import Names
from blobstore.checkpoint.adapters.steps import Bias, Factors, LowRank, Rows, Whole
from blobstore.checkpoint.adapters.ties import separate_ties
from blobstore.codecs.element_types import PLAIN_FLOATS
from blobstore.errors import CheckpointError, listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from blobstore.checkpoint.adapters.changes import BaseTensor
    from blobstore.checkpoint.adapters.reading import Adapter, AdapterTensor

_PAIRS = {"A": "B", "embedding A": "embedding B"}
_HEADS = ("lm_head", "embed_out", "output")
_SHOWN = 3


def plan_merge(adapters: Sequence[Adapter], base: Mapping[str, BaseTensor], ties: Mapping[str, str]) -> Merge:
    """Plan what adapters do to a base, one after the other.

    Args:
        adapters: Open, in their order.
        base: Its tensors, by name.
        ties: Names without a tensor of their own → the name of the tensor that they share.

    Raises:
        CheckpointError: ``adapter-names``: a module that the base doesn't have; ``adapter-tensor``: a shape or part
            that is wrong; ``adapter-base``: a tensor of the base that isn't floats.
    """
    merge, factors = Merge(), Factors()
    for place, adapter in enumerate(adapters):
        _OneAdapter(place, adapter, base, ties, merge=merge, factors=factors).plan()
    separate_ties(adapters, base, ties, merge)
    merge.notes += again(adapters, [])
    return merge


def again(adapters: Sequence[Adapter], before: Iterable[object]) -> Iterator[str]:
    """Say which adapters were merged already: a change that is added twice is seldom meant.

    Args:
        adapters: In their order.
        before: The digests of the tensors of those that the base was made with.
    """
    known = {*before}
    for adapter in adapters:
        if adapter.digests.get("weights") in known:
            yield f"the adapter {adapter.name!r} is merged already: its change is added once more"
        known.add(adapter.digests.get("weights"))


class _OneAdapter:
    """The changes that one adapter makes."""

    def __init__(
        self,
        place: int,
        adapter: Adapter,
        base: Mapping[str, BaseTensor],
        ties: Mapping[str, str],
        *,
        merge: Merge,
        factors: Factors,
    ) -> None:
        self._place = place
        self._adapter = adapter
        self._config = adapter.config
        self._base = base
        self._ties = ties
        self._merge = merge
        self._factors = factors
        self._names = Names([*base, *ties])
        self._changed: dict[str, str] = {}  # the base's name → the adapter's, of what this one changes
        self._scales: set[tuple[int, float]] = set()
        self._transposed: set[bool] = set()  # of modules whose shapes tell

    def plan(self) -> None:
        """Add its changes to the merge."""
        adapter = self._adapter
        for name, tensor in adapter.whole.items():
            self._add_whole(name, tensor)
        for (module, parts), name in zip(adapter.modules.items(), self._find_modules(), strict=True):
            self._add_module(module, name, parts)
        for name in adapter.copies:
            self._merge.unused[name] = f"the adapter {adapter.name!r} has a copy of the base's tensor"
        if not self._changed:
            raise CheckpointError("adapter-tensor", f"{adapter.path!r} has no tensors")
        self._note()

    def _refuse(self, what: str) -> CheckpointError:
        return CheckpointError("adapter-tensor", f"{self._adapter.path!r}: {what}")

    # ------------------------------------------------------------------------------------------------- what it changes

    def _change(self, name: str, of: str) -> Change:
        """Return the change of one of the base's tensors, which is begun if no adapter changes it yet."""
        if name not in self._merge.changes:
            source = self._ties.get(name, name)
            tensor = self._base[source]
            if tensor.type.name not in PLAIN_FLOATS:
                what = f"{source!r} of the base is stored as {tensor.type}, and an adapter is added to floats"
                raise CheckpointError("adapter-base", f"{what}: take the original, unquantised checkpoint")
            self._merge.changes[name] = Change(source, tensor.type, tensor.shape)
        self._changed[name] = of
        return self._merge.changes[name]

    def _add_whole(self, name: str, tensor: AdapterTensor) -> None:
        found = self._names.find(name)
        if found is None:
            self._add_new(name, tensor)
            return
        if found in self._changed:
            raise self._refuse(f"{name!r} and {self._changed[found]!r} are both the base's {found!r}")
        known = self._merge.changes.get(found)
        if known is not None:
            raise self._refuse(f"{name!r} replaces a tensor that an adapter before it changes: leave out one of them")
        change = self._change(found, name)
        if tensor.shape != change.shape:
            is_resized = len(tensor.shape) == 2 and tensor.shape[1:] == change.shape[1:]
            # An embedding or a head may be; a matrix of a layer has the size of the model.
            if not is_resized or any(word.isdecimal() for word in found.split(".")[:-2]):
                raise self._refuse(_wrong_shape(name, tensor.shape, found, change.shape))
            if found not in self._ties:
                rows = f"{change.shape[0]} rows of the base, {tensor.shape[0]} of the adapter {self._adapter.name!r}"
                self._merge.notes.append(f"{found}: {rows}")
            self._merge.resized[change.shape[0]] = tensor.shape[0]
            self._merge.resized_by = self._adapter
            change.shape = tensor.shape
        change.add(Whole(tensor), self._place)

    def _add_new(self, name: str, tensor: AdapterTensor) -> None:
        """Add a tensor that the base doesn't have: a head for another task, that was trained whole."""
        saved = self._config.modules_to_save
        if not any(f".{module}." in f".{name}" for module in [*saved, *_HEADS]):
            raise self._unknown([name])
        if name in self._merge.changes:
            raise self._refuse(f"{name!r} is new, and an adapter before it adds it, too: leave out one of them")
        self._merge.changes[name] = Change(None, tensor.type, tensor.shape, [Whole(tensor)], [self._place])
        self._changed[name] = name
        self._merge.notes.append(f"{name} is new: the base has no such tensor, the adapter {self._adapter.name!r} has")

    def _unknown(self, names: Sequence[str]) -> CheckpointError:
        what = f"the base has no tensors for {listed([repr(name[:200]) for name in names], _SHOWN)}"
        trained = f": is it the model that the adapter was trained on, {self._config.base[:200]!r}?"
        fix = trained if self._config.base else ": is it the model that the adapter was trained on?"
        return CheckpointError("adapter-names", f"{self._adapter.path!r}: {what}{fix}")

    # --------------------------------------------------------------------------------------------------------- modules

    def _find_modules(self) -> list[str]:
        """Find every module's tensor, before the first is planned, and what shapes say of transposition → its name."""
        names, missing = [], []
        for module, parts in self._adapter.modules.items():
            found = self._names.find(f"{module}.weight")
            if found is None:
                missing.append(module)
                continue
            names.append(found)
            if "A" in parts and "B" in parts:
                source = self._ties.get(found, found)
                ways = _ways(parts["A"].shape, parts["B"].shape, self._base[source].shape)
                if len(ways) == 1 and not module.endswith(_HEADS):
                    self._transposed |= ways
        if missing:
            raise self._unknown(missing)
        return names

    def _add_module(self, module: str, name: str, parts: dict[str, AdapterTensor]) -> None:
        if self._changed.get(name, f"{module}.weight") != f"{module}.weight":
            raise self._refuse(f"{module!r} and {self._changed[name]!r} are both the base's {name!r}")
        for part, other in [*_PAIRS.items(), *((b, a) for a, b in _PAIRS.items())]:
            if part in parts and other not in parts:
                raise self._refuse(f"{parts[part].name[:300]!r} has no counterpart: is the file whole?")
        change = self._change(name, f"{module}.weight")
        self._check_magnitude(parts, change)
        if "tokens" in parts:
            if len(parts) > 1 or change.steps:
                raise self._refuse(f"{module!r} has trained rows besides another change, whose order isn't known")
            change.add(self._rows(module, parts["tokens"], change.shape), self._place)
        elif "A" in parts:
            self._add_low_rank(module, name, parts, change)
        elif "embedding A" in parts:
            self._add_embedding(module, parts["embedding A"], parts["embedding B"], change)
        else:
            raise self._refuse(f"{module!r} has {', '.join(sorted(parts))}, but no lora_A and lora_B")

    def _check_magnitude(self, parts: dict[str, AdapterTensor], change: Change) -> None:
        if not self._config.use_dora and "magnitude" not in parts:
            return
        low_rank = next(iter(parts.values())).name[:300]
        if not self._config.use_dora:
            raise self._refuse(f"{parts['magnitude'].name[:300]!r} is of DoRA, but use_dora isn't set")
        if "tokens" in parts:
            return
        if "embedding A" in parts or len(change.shape) != 2:
            raise self._refuse(f"{low_rank!r}: DoRA of embeddings and convolutions is not merged here: merge with peft")
        if "magnitude" not in parts:
            raise self._refuse(f"use_dora is set, but {low_rank!r} has no lora_magnitude_vector")

    def _rank(self, a: AdapterTensor, b: AdapterTensor) -> int:
        rank = a.shape[0] if a.shape else 0
        if len(b.shape) < 2 or b.shape[1] != rank:
            raise self._refuse(f"{a.name[:300]!r} has shape {list(a.shape)} and {b.name[:300]!r} {list(b.shape)}")
        if rank not in self._config.ranks:
            ranks = listed(list(map(str, sorted(self._config.ranks))), _SHOWN)
            raise self._refuse(f"{a.name[:300]!r} has rank {rank}, adapter_config.json says {ranks}")
        return rank

    def _scale(self, module: str, rank: int) -> float:
        scale = self._config.scale(module, rank)
        self._scales.add((rank, scale))
        return scale

    def _add_low_rank(self, module: str, name: str, parts: dict[str, AdapterTensor], change: Change) -> None:
        a, b = parts["A"], parts["B"]
        rank = self._rank(a, b)
        transposed = self._is_transposed(module, a, b, change.shape)
        magnitude = parts.get("magnitude")
        if magnitude is not None:
            if transposed:
                raise self._refuse(
                    f"{magnitude.name[:300]!r}: DoRA of transposed weights is not merged here: merge with peft"
                )
            if math.prod(magnitude.shape) != change.shape[0] or magnitude.shape[:1] != change.shape[:1]:
                raise self._refuse(_wrong_shape(magnitude.name, magnitude.shape, name, change.shape))
        scale = self._scale(module, rank)
        change.add(LowRank(self._place, a, b, scale, self._factors, transposed, magnitude), self._place)
        if "bias" in parts:
            self._add_bias(module, parts["bias"], scale)

    def _is_transposed(self, module: str, a: AdapterTensor, b: AdapterTensor, shape: tuple[int, ...]) -> bool:
        ways = _ways(a.shape, b.shape, shape)
        if not ways:
            what = f"{b.name[:300]!r} · {a.name[:300]!r} has shape {[b.shape[0], *a.shape[1:]]}"
            raise self._refuse(f"{what}, the tensor of the base {list(shape)}: is it another model?")
        if len(ways) == 1:
            return ways.pop()
        if len(self._transposed) > 1:
            what = f"{module!r} is square, and whether its weights are transposed isn't known"
            raise self._refuse(f"{what}: merge with peft")
        known = next(iter(self._transposed), self._config.fan_in_fan_out)
        return known and not module.endswith(_HEADS)

    def _add_embedding(self, module: str, a: AdapterTensor, b: AdapterTensor, change: Change) -> None:
        rank = self._rank(a, b)
        if len(change.shape) != 2 or (a.shape[1:], b.shape[:1]) != (change.shape[:1], change.shape[1:]):
            what = f"{b.name[:300]!r} · {a.name[:300]!r} is of {a.shape[-1]} tokens and width {b.shape[0]}"
            raise self._refuse(f"{what}, the tensor of the base has shape {list(change.shape)}: was it resized?")
        scale = self._scale(module, rank)
        change.add(LowRank(self._place, a, b, scale, self._factors, transposed=True), self._place)

    def _add_bias(self, module: str, vector: AdapterTensor, scale: float) -> None:
        name = self._names.find(f"{module}.bias")
        if name is None:
            raise self._refuse(f"{vector.name[:300]!r}: the base has no bias there to add it to")
        change = self._change(name, f"{module}.bias")
        if vector.shape != change.shape:
            raise self._refuse(_wrong_shape(vector.name, vector.shape, name, change.shape))
        change.add(Bias(vector, scale), self._place)

    def _rows(self, module: str, tensor: AdapterTensor, shape: tuple[int, ...]) -> Rows:
        given = self._config.token_indices
        keys = [key for key in given if not key or f".{module}".endswith(f".{key}")]
        if not keys:
            raise self._refuse(f"trainable_token_indices doesn't say which rows {tensor.name[:300]!r} has")
        numbers = given[keys[0]]
        expected = (len(numbers), *shape[1:])
        if tensor.shape != expected or len(shape) != 2:
            raise self._refuse(_wrong_shape(tensor.name, tensor.shape, f"rows of {module}", expected))
        if len(set(numbers)) != len(numbers) or max(numbers, default=0) >= shape[0]:
            raise self._refuse(f"trainable_token_indices has a row twice, or one of {shape[0]} or above")
        places = sorted(range(len(numbers)), key=numbers.__getitem__)
        return Rows(tensor, tuple(sorted(numbers)), tuple(places))

    def _note(self) -> None:
        steps = [step for name in self._changed for step in self._merge.changes[name].steps[-1:]]
        whole = sum(isinstance(step, Whole) for step in steps)
        scales = [f"rank {rank}, scale {scale:.6g}" for rank, scale in sorted(self._scales)]
        told = "; ".join(scales[:_SHOWN] + ["…"] * (len(scales) > _SHOWN))
        changed = f"{_tensors(len(steps) - whole)} changed" + (f" ({told})" if told else "")
        parts = [changed] * (len(steps) > whole) + [f"{_tensors(whole)} replaced"] * bool(whole)
        self._merge.notes.append(f"merged the adapter {self._adapter.name!r}: {', '.join(parts)}")
        for theirs, ours in self._names.renamed:
            names = f"'{theirs}{'.' * bool(theirs)}…' of the adapter"
            self._merge.notes.append(f"{names} is taken as '{ours}{'.' * bool(ours)}…' of the base")


def _tensors(count: int) -> str:
    return f"{count} tensor" if count == 1 else f"{count} tensors"


def _ways(a: tuple[int, ...], b: tuple[int, ...], base: tuple[int, ...]) -> set[bool]:
    """Return how the product of two factors may lie in the base: False as it is, True transposed."""
    if len(a) < 2 or len(b) < 2 or any(size != 1 for size in b[2:]):
        return set()
    straight = (b[0], *a[1:]) == base
    transposed = len(base) == 2 and (a[1:], b[:1]) == (base[:1], base[1:])
    return {way for way, fits in ((False, straight), (True, transposed)) if fits}


def _wrong_shape(name: str, shape: tuple[int, ...], of: str, expected: tuple[int, ...]) -> str:
    return f"{name[:300]!r} has shape {list(shape)}, but {of!r} has {list(expected)}: is the base another model?"


def base_note(adapter: Adapter, base: Iterable[str]) -> str:
    """Return a line if an adapter says that it was trained on another model than this; else nothing.

    Args:
        adapter: Open.
        base: What the base is called: the path, and what it says itself.
    """
    trained = adapter.config.base
    wanted = os.path.basename(trained.rstrip("/\\")).lower()
    words = {
        word.lower()
        for name in base
        for part in name.replace("\\", "/").split("/")
        for word in (part, *part.split("--"))
    }
    if not wanted or wanted in words:
        return ""
    where = "a folder here" if os.path.isdir(trained) else "its adapter_config.json"
    return f"the adapter {adapter.name!r} was trained on {trained[:200]!r} ({where}): is the base the same model?"
