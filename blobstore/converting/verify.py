"""A converted file against its source: planned and made again, and compared byte for byte."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from blobstore.checkpoint.adapters.reading import parse_described
from blobstore.container.keys import CONFIG_KEY, NO_TOKENIZER, TOC_KEY, TOKENIZER_KEY
from blobstore.converting.choices import LAYOUTS, WEIGHTS, Choices
from blobstore.converting.choose import choose_plan
from blobstore.converting.gemma_config import repaired
from blobstore.converting.run import measure_scales, stored_bytes
from blobstore.errors import CheckpointError, FormatError, UsageError
from blobstore.fileio.ranges import FileRange, first_byte_between, first_difference
from blobstore.gemma.config import ModelConfig
from blobstore.gemma.enums import OpenEnum, Wrapping
from blobstore.gemma.records import Record
from blobstore.gemma.toc import build_toc, toc_entry
from blobstore.gemma.versions import NAMES
from blobstore.index.metadata import ADAPTERS, BASE, BASE_NAME, CHOICES, FILES, MODEL_CHOICES, PACKED_FROM
from blobstore.store.values import stored

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from blobstore.checkpoint.reader import Checkpoint
    from blobstore.codecs.element_types import ElementType
    from blobstore.converting.plan import Plan, PlannedTensor
    from blobstore.fileio.types import Progress
    from blobstore.store.info import TensorInfo
    from blobstore.store.reader import Store

    _Place = tuple[tuple[int, int], ElementType, tuple[int, ...], float]  # address, type, shape, scale


_WRAPPINGS = tuple(wrapping.name.lower() for wrapping in Wrapping)
_NOT_OF_SOURCE = (PACKED_FROM, BASE, BASE_NAME, FILES)  # metadata: what packing adds; files are compared themselves
_SHOWN = 6  # fields of a config that differ, or adapters
_SHOWN_TEXT = 200


@dataclass(frozen=True)
class Verdict:
    """The result of comparing one tensor, name, blob or file.

    Attributes:
        name: Its name.
        how: ``copied`` (the source's bytes), ``encoded`` (encoded again and compared), ``name``, ``blob`` or ``file``.
        fault: What is wrong; empty when nothing is.
        nbytes: How many bytes were compared.

    Example:
        >>> done = blobstore.convert("checkpoint", "converted.sbs", weights="bf16")
        >>> blobstore.verify("converted.sbs", against="checkpoint").verdicts[0].how
        'copied'
    """

    name: str
    how: str
    fault: str
    nbytes: int


def plan_again(store: Store, checkpoint: Checkpoint, tokenizer: str | None = None) -> Plan:
    """Plan the conversion again that a file says it was made by.

    Args:
        store: The file, open.
        checkpoint: Its source, open.
        tokenizer: Path of a ``tokenizer.model`` or ``tokenizer.json``, by default one beside the source, else the
            file's own.

    Raises:
        UsageError: ``not-converted`` when the file doesn't say how it was made; ``other-adapters`` when it was made
            with others than those that are merged into the source.
        CheckpointError: The source can't be converted that way.
    """
    _refuse_other_adapters(store, checkpoint)
    plan = _plan_as_chosen(store, checkpoint, tokenizer)
    if ADAPTERS in plan.metadata:  # their folders may have been renamed
        plan.metadata[ADAPTERS] = store.metadata[ADAPTERS]
    return plan


def _plan_as_chosen(store: Store, checkpoint: Checkpoint, tokenizer: str | None) -> Plan:
    text = store.metadata.get(CHOICES)
    if text is None:
        if store.config is not None:
            what = "was not converted by blobstore, or by an older version: it doesn't say with which choices"
            raise UsageError("not-converted", f"{store.path!r} {what}")
        return choose_plan(checkpoint, "names", Choices(), tokenizer=tokenizer)
    choices = _choices(store.path, text)
    try:
        return choose_plan(checkpoint, "gemma", choices, tokenizer=tokenizer, tokenizer_of_file=store.tokenizer)
    except UsageError as error:
        if error.reason != "stock-only":
            raise
        what = f"{store.path!r} is made of another model: the layout of the source's is never {choices.layout}"
        raise CheckpointError("cannot-convert", what) from None


def _refuse_other_adapters(store: Store, checkpoint: Checkpoint) -> None:
    """Refuse to compare a file with a source of other adapters: nothing would match."""
    text = store.metadata.get(ADAPTERS, "[]")
    made_with = parse_described(text)
    given = parse_described(checkpoint.adapters.description) if checkpoint.adapters is not None else []
    if made_with is not None and list(map(_digests, made_with)) == list(map(_digests, given or [])):
        return
    if made_with == []:
        what = f"{store.path!r} was made without adapters: leave --adapter out"
    else:
        names = text[:_SHOWN_TEXT] if made_with is None else _named(made_with)
        found = f"; given were {_named(given)}" if given else ""
        what = f"{store.path!r} was made with {names}{found}: pass each with --adapter, in this order"
    raise UsageError("other-adapters", what)


def _digests(adapter: dict[str, str]) -> tuple[str | None, ...]:
    return adapter.get("weights"), adapter.get("config")


def _named(adapters: Sequence[dict[str, str]]) -> str:
    """Return the names of adapters, and the beginnings of their hashes."""
    known = [(adapter.get("name", "")[:80], adapter.get("weights", "")[:12]) for adapter in adapters[:_SHOWN]]
    return ", ".join(f"the adapter {name!r} (sha256 {digest}…)" for name, digest in known)


def _choices(path: str, text: str) -> Choices:
    """Read the choices of a conversion. They are foreign bytes: everything is checked."""
    try:
        values = json.loads(text)
        if not values.keys() <= {*MODEL_CHOICES}:
            choices = Choices(values["weights"], values["layout"], values["wrapping"], runtime=values.get("runtime"))
            are_known = choices.weights in WEIGHTS and choices.layout in LAYOUTS and choices.wrapping in _WRAPPINGS
            if are_known and choices.runtime in (None, *NAMES):
                return choices
            raise ValueError("unknown choices")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError("not-converted", f"{path!r}: the metadata {CHOICES!r} can't be read") from None
    # Only such keys: `Manifest.forget_source` has removed the others.
    what = "was changed after it was converted: it no longer has to agree with its checkpoint"
    raise UsageError("not-converted", f"{path!r} {what}")


def verify(
    store: Store, plan: Plan, checkpoint: Checkpoint, *, progress: Progress = lambda _: None
) -> Iterator[Verdict]:
    """Yield a verdict for each tensor, name, blob and file of a plan, and for each name that the plan doesn't have.

    Raises:
        FormatError: ``files-list``, ``files-missing``: the file doesn't have the files that it lists.
        CheckpointError: ``cannot-convert``: the source has values that the type can't hold.
    """
    scales = measure_scales(plan, checkpoint)
    for tensor in [*plan.tensors, *plan.extras]:
        yield _verify_tensor(store, tensor, checkpoint, scales.get(tensor.name, 1.0), progress)
    yield from _verify_names(store, plan)
    for key, data in _runtime_blobs(plan, scales).items():
        yield Verdict(key, "blob", _blob_fault(store, key, data), len(data))
    yield from _verify_files(store, plan, checkpoint)
    yield from _verify_metadata(store, plan)


def carries_none(store: Store) -> bool:
    """Whether a file was made to carry no files of its model: they are no part of what is verified then."""
    return FILES not in store.metadata


def _verify_files(store: Store, plan: Plan, checkpoint: Checkpoint) -> Iterator[Verdict]:
    if carries_none(store):
        return
    beside = {file.name: file for file in plan.files}
    for name in sorted({*beside, *store.files}):
        if name not in store.files:
            yield Verdict(name, "file", "it is missing", 0)
        elif name not in beside:
            yield Verdict(name, "file", "the source has no such file", 0)
        else:
            actual, expected = store.files.part_of_file(name), checkpoint.open_beside(beside[name].path)
            at = first_byte_between(actual, expected)
            held = store.reader.path if isinstance(actual.file, int) else actual.file.path
            fault = "" if at is None else _differs(store, at, held, actual.offset)
            yield Verdict(name, "file", fault, actual.nbytes if at is None else at)


def _verify_tensor(
    store: Store, tensor: PlannedTensor, checkpoint: Checkpoint, scale: float, progress: Progress
) -> Verdict:
    info = store.vocabularies.entries.find(tensor.name)
    if info is None:
        return Verdict(tensor.name, "copied", "it is missing", 0)
    fault = _info_fault(info, tensor, scale)
    if fault:
        return Verdict(tensor.name, "encoded", fault, 0)
    how, done = "copied", 0
    for piece in stored_bytes(tensor, checkpoint, scale):
        parts = piece.chunks() if isinstance(piece, FileRange) else (piece.data,)
        how = how if isinstance(piece, FileRange) else "encoded"
        for part in parts:
            actual = stored(store, info, done, len(part))
            if actual != part:
                at = done + first_difference(actual, part)
                return Verdict(tensor.name, how, _differs(store, at, *store.reader.file_at(info.offset)), at)
            done += len(part)
            progress(len(part))
    return Verdict(tensor.name, how, "", done)


def _differs(store: Store, at: int, path: str, start: int) -> str:
    """Say which byte of what begins at an offset of a file differs; the file may be one of a set."""
    file = "the file" if path == store.path else os.path.basename(path)
    return f"byte {at} differs, at offset {start + at} of {file}"


def _info_fault(info: TensorInfo, tensor: PlannedTensor, scale: float) -> str:
    """Return what a file says of a tensor that differs from what the source makes it; empty when nothing does."""
    facts: list[tuple[str, Any, Any]] = [
        ("type", info.type, tensor.type),
        ("shape", info.shape, tensor.shape),
        ("scale", info.scale, scale),
        ("size", info.element_nbytes, tensor.nbytes),
    ]
    differing = (
        f"its {what} is {actual}, the source makes it {expected}"
        for what, actual, expected in facts
        if actual != expected
    )
    return next(differing, "")


def _blob_fault(store: Store, key: str, data: bytes) -> str:
    if key not in store.reader:
        return "it is missing"
    stored = bytes(store.reader[key])
    if stored == data:
        return ""
    at = first_difference(stored, data)
    what = _differs(store, at, *store.reader.file_at(store.reader.range(key)[0]))
    return what + _config_fault(stored, data) if key == CONFIG_KEY else what


def _config_fault(stored: bytes, data: bytes) -> str:
    """Say which fields of a config differ, and whether repairing the file is enough."""
    try:
        actual, expected = ModelConfig.from_bytes(stored), ModelConfig.from_bytes(data)
    except FormatError as error:
        return f": {error}"
    differences = list(islice(_differences(actual, expected), _SHOWN + 1))
    what = "".join(f"; {text}" for text in differences[:_SHOWN]) + ("; and more" if len(differences) > _SHOWN else "")
    enough = expected.use_global_timescale and repaired(actual).to_bytes() == data
    return f"{what}: blobstore repair FILE" if enough else what


def _differences(actual: Record, expected: Record, place: str = "") -> Iterator[str]:
    for name, *_ in actual.fields():
        yield from _difference(getattr(actual, name), getattr(expected, name), place + name)


def _difference(actual: Any, expected: Any, name: str) -> Iterator[str]:  # noqa: ANN401 (each field has its own type)
    if actual == expected:
        return
    if isinstance(actual, Record):
        yield from _differences(actual, expected, f"{name}.")
    elif not isinstance(actual, tuple):
        yield f"{name} is {_shown(actual)}, the source makes it {_shown(expected)}"
    elif len(actual) != len(expected):
        yield f"{name} has {len(actual)} entries, the source makes {len(expected)}"
    else:
        for i, pair in enumerate(zip(actual, expected, strict=True)):
            yield from _difference(*pair, f"{name}[{i}]")


def _shown(value: object) -> str:
    return value.name if isinstance(value, OpenEnum) else repr(value)


def _verify_names(store: Store, plan: Plan) -> Iterator[Verdict]:
    """Yield a verdict for each name that shares bytes, and for each of the file's names that the plan doesn't have.

    A shared name has to lead where the plan says, and to say the same of the bytes.
    """
    places = _planned_places(store, plan)
    for name, expected in places.items():
        info = store.vocabularies.entries.find(name)
        is_right = info is not None and _place_of(info) == expected
        yield Verdict(name, "name", "" if is_right else "the name is missing, or leads elsewhere", 0)
    planned = {tensor.name for tensor in [*plan.tensors, *plan.extras]}
    for name in store.vocabularies.entries.names:
        if name not in planned and name not in places:
            yield Verdict(name, "name", "the source has no such tensor", 0)


def _planned_places(store: Store, plan: Plan) -> dict[str, _Place | None]:
    """Return where each shared name has to lead; None when the tensor itself is missing."""
    places: dict[str, _Place | None] = {}
    for part in plan.parts:
        home = store.vocabularies.entries.find(part.target)
        places[part.name] = (home.address(part.offset), part.type, part.shape, home.scale) if home else None
    for alias in plan.indexed_aliases:
        target = store.vocabularies.entries.find(alias.target)
        places[alias.name] = places.get(alias.target, _place_of(target) if target else None)
    return places


def _place_of(info: TensorInfo) -> _Place:
    return info.address(), info.type, info.shape, info.scale


def _runtime_blobs(plan: Plan, scales: Mapping[str, float]) -> dict[str, bytes]:
    """Return the runtime's own blobs as the source makes them."""
    if plan.config is None:
        return {}
    toc = [
        toc_entry(tensor.key, tensor.type, tensor.shape[0], tensor.shape[1], scales.get(tensor.name, 1.0))
        for tensor in plan.tensors
    ]
    return {
        CONFIG_KEY: plan.config.to_bytes(),
        TOKENIZER_KEY: plan.tokenizer or NO_TOKENIZER,
        TOC_KEY: build_toc(toc),
    }


def _verify_metadata(store: Store, plan: Plan) -> Iterator[Verdict]:
    metadata = {key: value for key, value in store.metadata.items() if key not in _NOT_OF_SOURCE}
    if metadata != plan.metadata:
        items = {*metadata.items()} ^ {*plan.metadata.items()}
        names = ", ".join(sorted({key for key, _ in items}))
        yield Verdict("metadata", "blob", f"{names}: not what the source makes it", 0)
