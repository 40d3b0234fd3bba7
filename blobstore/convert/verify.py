"""A converted file against its source: planned anew, made anew, compared byte for byte."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from blobstore.container.keys import CONFIG_KEY, NO_TOKENIZER, TOC_KEY, TOKENIZER_KEY
from blobstore.convert.choose import choose_plan
from blobstore.convert.gemma_families import repaired
from blobstore.convert.gemma_plan import LAYOUTS, WEIGHTS, Choices
from blobstore.convert.run import measure_scales, stored_bytes
from blobstore.errors import FormatError, UsageError
from blobstore.fileio.ranges import FileRange, first_difference
from blobstore.gemma.config import ModelConfig, Wrapping
from blobstore.gemma.records import OpenEnum, Record
from blobstore.gemma.toc import build_toc, toc_entry
from blobstore.index.metadata import BASE, CHOICES, PACKED_FROM

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from blobstore.checkpoint.reader import Checkpoint
    from blobstore.convert.plan import Plan, PlannedTensor
    from blobstore.fileio.types import Progress
    from blobstore.store.reader import Store


_WRAPPINGS = tuple(one.name.lower() for one in Wrapping)
_SHOWN = 6  # fields of a config that differ


@dataclass(frozen=True)
class Verdict:
    """What became of one tensor, name or blob.

    Attributes:
        name: Its name.
        how: ``copied`` (the source's bytes), ``encoded`` (made again and compared), ``name`` or ``blob``.
        fault: What is wrong; empty when all is right.
        nbytes: Compared.
    """

    name: str
    how: str
    fault: str
    nbytes: int


def plan_again(store: Store, checkpoint: Checkpoint, *, tokenizer: bytes | None, chat_template: bool) -> Plan:
    """Plan the conversion that a file says it is the result of.

    Raises:
        UsageError: ``not-converted`` when the file doesn't say how it was made.
        CheckpointError: The source can't be converted so.
    """
    said = store.metadata.get(CHOICES)
    if said is None:
        if store.config is not None:
            what = "was not converted by blobstore, or by an older one: it doesn't say with which choices"
            raise UsageError("not-converted", f"{store.path!r} {what}")
        return choose_plan(checkpoint, "names", Choices(), tokenizer=None, chat_template=False)
    chosen = _choices(store.path, said)
    if tokenizer is None and store.tokenizer is not None:
        tokenizer = store.tokenizer  # given by --tokenizer then, and not with the checkpoint
    return choose_plan(checkpoint, "gemma", chosen, tokenizer=tokenizer, chat_template=chat_template)


def _choices(path: str, said: str) -> Choices:
    """Read the choices of a conversion. Foreign bytes: everything is checked."""
    try:
        choices = json.loads(said)
        if choices.keys() != {"rope_bases"}:
            chosen = Choices(choices["weights"], choices["layout"], choices["wrapping"])
            if chosen.weights in WEIGHTS and chosen.layout in LAYOUTS and chosen.wrapping in _WRAPPINGS:
                return chosen
            raise ValueError("unknown choices")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError("not-converted", f"{path!r}: the metadata {CHOICES!r} can't be read") from None
    # `Manifest.forget_source` leaves no more.
    what = "was changed after it was converted: it is no longer what its checkpoint makes it"
    raise UsageError("not-converted", f"{path!r} {what}")


def verify(
    store: Store, plan: Plan, checkpoint: Checkpoint, *, progress: Progress = lambda _: None
) -> Iterator[Verdict]:
    """Yield a verdict for each tensor, name and blob of a plan, and for each that the plan doesn't have.

    Raises:
        CheckpointError: ``cannot-convert``: the source has values that the type can't hold.
    """
    scales = measure_scales(plan, checkpoint)
    for tensor in [*plan.tensors, *plan.extras]:
        yield _tensor(store, tensor, checkpoint, scales.get(tensor.name, 1.0), progress)
    expected = {tensor.name for tensor in [*plan.tensors, *plan.extras]}
    for verdict in _names(store, plan):
        expected.add(verdict.name)
        yield verdict
    for name in store:
        if name not in expected:
            yield Verdict(name, "name", "the source has no such tensor", 0)
    for key, data in _blobs(plan, scales).items():
        yield Verdict(key, "blob", _blob_fault(store, key, data), len(data))
    # What packing adds isn't of the source.
    metadata = {key: value for key, value in store.metadata.items() if key not in (PACKED_FROM, BASE)}
    if metadata != plan.metadata:
        keys = {*metadata.items()} ^ {*plan.metadata.items()}
        names = ", ".join(sorted({key for key, _ in keys}))
        yield Verdict("metadata", "blob", f"{names}: not what the source makes it", 0)


def _tensor(
    store: Store,
    tensor: PlannedTensor,
    checkpoint: Checkpoint,
    scale: float,
    progress: Progress,
) -> Verdict:
    info = store.info(tensor.name) if tensor.name in store else None
    if info is None:
        return Verdict(tensor.name, "copied", "it is missing", 0)
    facts: list[tuple[str, Any, Any]] = [
        ("type", info.type, tensor.type),
        ("shape", info.shape, tensor.shape),
        ("scale", info.scale, scale),
        ("size", info.element_nbytes, tensor.nbytes),
    ]
    for what, found, wanted in facts:
        if found != wanted:
            return Verdict(tensor.name, "encoded", f"its {what} is {found}, the source makes it {wanted}", 0)
    how, done = "copied", 0
    for piece in stored_bytes(tensor, checkpoint, scale):
        parts = piece.chunks() if isinstance(piece, FileRange) else (piece.data,)
        how = how if isinstance(piece, FileRange) else "encoded"
        for part in parts:
            there = store.stored(info, done, len(part))
            if there != part:
                at = done + first_difference(there, part)
                return Verdict(tensor.name, how, f"byte {at} differs, at offset {info.offset + at} of the file", at)
            done += len(part)
            progress(len(part))
    return Verdict(tensor.name, how, "", done)


def _blob_fault(store: Store, key: str, data: bytes) -> str:
    if key not in store.reader:
        return "it is missing"
    there = bytes(store.reader[key])
    if there == data:
        return ""
    at = first_difference(there, data)
    what = f"byte {at} differs, at offset {store.reader.range(key)[0] + at} of the file"
    return what + _config_fault(there, data) if key == CONFIG_KEY else what


def _config_fault(there: bytes, data: bytes) -> str:
    """Say which fields of a config differ, and whether repairing the file is enough."""
    try:
        found, wanted = ModelConfig.from_bytes(there), ModelConfig.from_bytes(data)
    except FormatError as error:
        return f": {error}"
    told = list(islice(_differences(found, wanted), _SHOWN + 1))
    what = "".join(f"; {one}" for one in told[:_SHOWN]) + ("; and more" if len(told) > _SHOWN else "")
    enough = wanted.use_global_timescale and repaired(found).to_bytes() == data
    return f"{what}: blobstore repair FILE" if enough else what


def _differences(found: Record, wanted: Record, place: str = "") -> Iterator[str]:
    for name, *_ in found.fields():
        yield from _difference(getattr(found, name), getattr(wanted, name), place + name)


def _difference(found: Any, wanted: Any, name: str) -> Iterator[str]:  # noqa: ANN401 (each field has its own type)
    if found == wanted:
        return
    if isinstance(found, Record):
        yield from _differences(found, wanted, f"{name}.")
    elif not isinstance(found, tuple):
        yield f"{name} is {_said(found)}, the source makes it {_said(wanted)}"
    elif len(found) != len(wanted):
        yield f"{name} has {len(found)} entries, the source makes {len(wanted)}"
    else:
        for i, (one, other) in enumerate(zip(found, wanted, strict=True)):
            yield from _difference(one, other, f"{name}[{i}]")


def _said(value: object) -> str:
    return value.name if isinstance(value, OpenEnum) else repr(value)


def _names(store: Store, plan: Plan) -> Iterator[Verdict]:
    """Check that each name that shares bytes leads where the plan says, and says the same of them."""
    places = {}
    for part in plan.parts:
        home = store.info(part.target) if part.target in store else None
        start = home.address(part.offset) if home else (-1, 0)
        places[part.name] = (start, part.type, part.shape, home.scale if home else 1.0)
    for alias in plan.aliases:
        target = store.info(alias.target) if alias.target in store else None
        found = (target.address(), target.type, target.shape, target.scale) if target else ((-1, 0), None, (), 1.0)
        places[alias.name] = places.get(alias.target, found)  # type: ignore[arg-type]
    for name, wanted in places.items():
        info = store.info(name) if name in store else None
        there = info is not None and (info.address(), info.type, info.shape, info.scale) == wanted
        yield Verdict(name, "name", "" if there else "the name is missing, or leads elsewhere", 0)


def _blobs(plan: Plan, scales: Mapping[str, float]) -> dict[str, bytes]:
    """Return the runtime's own blobs as they have to be."""
    if plan.config is None:
        return {}
    toc = [toc_entry(one.key, one.type, one.shape[0], one.shape[1], scales.get(one.name, 1.0)) for one in plan.tensors]
    return {
        CONFIG_KEY: plan.config.to_bytes(),
        TOKENIZER_KEY: plan.tokenizer or NO_TOKENIZER,
        TOC_KEY: build_toc(toc),
    }
