"""What a file has that older versions of gemma.cpp don't read, or that no version known here reads.

None of it is a fault of the file. Spec: spec/gemma.md, Runtimes.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from blobstore.container.keys import CONFIG_KEY, TOC_KEY
from blobstore.errors import FormatError
from blobstore.gemma.config import LayerConfig, ModelConfig
from blobstore.gemma.enums import OpenEnum
from blobstore.gemma.models import is_gemma3
from blobstore.gemma.runtimes import APRIL, LATEST, RUNTIMES
from blobstore.gemma.stacks import stacks_of, text_layers_of
from blobstore.gemma.toc import parse_toc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from blobstore.gemma.records import Record
    from blobstore.gemma.runtimes import Runtime
    from blobstore.gemma.toc import TocEntry


class Newer(NamedTuple):
    """A feature of a file that some runtimes don't read.

    Attributes:
        code: Of the finding that `blobstore check` makes of it, see spec/findings.md.
        subject: The field, or the blob.
        message: What the file has.
        runtimes: Names of those that don't read it: all of them, when it is newer than what is known here.
    """

    code: str
    subject: str
    message: str
    runtimes: tuple[str, ...]


def newer_texts(blobs: Mapping[str, memoryview]) -> list[str]:
    """Return a line for each thing in a file that some version of gemma.cpp can't read."""
    return [f"{newer.message}: newer than gemma.cpp {', '.join(newer.runtimes)}" for newer in _newer_of_model(blobs)]


def unknown_texts(blobs: Mapping[str, memoryview]) -> list[str]:
    """Return a line for each thing in a file that no version of gemma.cpp known here can read."""
    newest = LATEST.name
    return [
        f"{newer.message}: newer than every gemma.cpp known here"
        for newer in _newer_of_model(blobs)
        if newest in newer.runtimes
    ]


def _newer_of_model(blobs: Mapping[str, memoryview]) -> list[Newer]:
    return newer_in(blobs) if CONFIG_KEY in blobs or TOC_KEY in blobs else []


def newer_in(blobs: Mapping[str, memoryview]) -> list[Newer]:
    """Return what is newer in a file than some runtime; damaged blobs are skipped."""
    newer = [*newer_blobs(len(blobs))]
    with suppress(FormatError):
        if CONFIG_KEY in blobs:
            newer += newer_config(ModelConfig.from_bytes(blobs[CONFIG_KEY]))
    with suppress(FormatError):
        if TOC_KEY in blobs:
            newer += newer_toc(parse_toc(blobs[TOC_KEY]))
    return [item for item in newer if item.code != "newer-fields"]  # runtimes may ignore these


def _without(reads: Callable[[Runtime], bool]) -> tuple[str, ...]:
    """Return the names of the runtimes that don't read something."""
    return tuple(runtime.name for runtime in RUNTIMES if not reads(runtime))


_ASCII = _without(lambda runtime: not runtime.ascii_only)


def newer_config(config: ModelConfig) -> Iterator[Newer]:
    """Yield what is newer in a config than some runtime."""
    yield from _values("config", config)
    seen: set[str] = set()
    for path, layers in _layers(config).items():
        for i, layer in enumerate(layers):
            for newer in _values(f"{path}[{i}]", layer):
                if newer.message not in seen:  # layers are alike
                    seen.add(newer.message)
                    yield newer
    yield from _nested(config)
    yield from _outer(config)
    texts = [config.display_name, *config.scale_base_names]
    if not all(text.isascii() for text in texts):
        yield Newer("newer-text", CONFIG_KEY, "a string of the config is not ASCII", _ASCII)
    vectors = [config.attention_window_sizes, config.scale_base_names, *_layers(config).values()]
    longest = max(map(len, [*vectors, *(stack.windows for stack in stacks_of(config))]))
    concerned = _without(lambda runtime: longest <= runtime.max_vector)
    if concerned:
        yield Newer("newer-vector", CONFIG_KEY, f"a vector has {longest} elements", concerned)


def _layers(config: ModelConfig) -> dict[str, tuple[LayerConfig, ...]]:
    """Return all layers, by the field that holds them."""
    return text_layers_of(config) | {"config.vit_config.layer_configs": config.vit_config.layer_configs}


def _values(subject: str, record: Record) -> Iterator[Newer]:
    for field in record.fields():
        value = getattr(record, field.name)
        if not isinstance(value, OpenEnum):
            continue
        concerned = _without(lambda runtime: runtime.knows(value))  # noqa: B023 (called at once)
        if concerned:
            called = f"{value:d}, a number that is not known here" if value.is_newer else f"{value:d} ({value.name})"
            yield Newer("newer-value", f"{subject}.{field.name}", f"{field.name} is {called}", concerned)


def _nested(config: ModelConfig) -> Iterator[Newer]:
    layers = [layer for some in _layers(config).values() for layer in some]
    fields = max((layer.field_count + len(layer.newer) for layer in layers), default=0)
    concerned = _without(lambda runtime: fields <= runtime.layer_fields)
    if config.vit_config.newer:
        concerned = _without(lambda _: False)
    if concerned:
        what = f"a layer's record has {fields} fields, {LayerConfig.CORE} in files for all"
        if config.vit_config.newer:
            what = f"{len(config.vit_config.newer)} words follow the known fields of the vision part"
        yield Newer("nested-fields", CONFIG_KEY, what, concerned)


def _outer(config: ModelConfig) -> Iterator[Newer]:
    """Yield fields that a runtime ignores: those that matter to this model, and those that don't."""
    fields = config.fields()
    added = (i for i in range(config.CORE, len(fields)) if not fields[i].when)  # others follow from a flag
    matter = [i for i in added if _matters(config, fields[i].name, fields[i].default)]
    ignoring: dict[str, list[str]] = {}
    for runtime in RUNTIMES:
        names = [fields[i].name for i in matter if i >= runtime.config_fields]
        if names:
            ignoring.setdefault(f"it has {', '.join(names)}", []).append(runtime.name)
    for what, runtimes in ignoring.items():
        yield Newer("ignored-fields", CONFIG_KEY, what, tuple(runtimes))
    beyond = config.field_count - APRIL.config_fields + len(config.newer)
    if beyond > 0:
        concerned = _without(lambda runtime: not config.newer and config.field_count <= runtime.config_fields)
        what = f"{beyond} fields follow those that runtimes up to 2026-04 know"
        if config.newer:
            what = f"{len(config.newer)} words follow the fields that are known here"
        yield Newer("newer-fields", CONFIG_KEY, what, concerned)


def _matters(config: ModelConfig, name: str, default: object) -> bool:
    """Whether a runtime that ignores a field computes something different."""
    if getattr(config, name) == default:
        return False
    if name == "use_global_timescale":
        return not is_gemma3(config)  # 2025-10 recognises Gemma 3 by the model's number
    return name != "global_rope_theta" or config.use_global_timescale


def newer_toc(toc: Iterable[TocEntry]) -> Iterator[Newer]:
    """Yield element types and names in the toc that some runtime doesn't read."""
    entries = list(toc)
    for number in sorted({entry.type_number for entry in entries}):
        concerned = _without(lambda runtime: number <= runtime.last_type)  # noqa: B023 (called at once)
        if concerned:
            having = [entry for entry in entries if entry.type_number == number]
            called = "a number that is not known here" if number > LATEST.last_type else str(having[0].type)
            count = f"{len(having)} tensors have" if len(having) > 1 else "a tensor has"
            what = f"{count} type {number}, {called}: {having[0].name!r}{', …' * (len(having) > 1)}"
            yield Newer("newer-type", TOC_KEY, what, concerned)
    if not all(entry.name.isascii() for entry in entries):
        yield Newer("newer-text", TOC_KEY, "a name in the toc is not ASCII", _ASCII)


def newer_blobs(count: int) -> Iterator[Newer]:
    """Yield an item if a file has more blobs than some runtime reads."""
    concerned = _without(lambda runtime: count <= runtime.max_blobs)
    if concerned:
        yield Newer("newer-blobs", "directory", f"the file has {count} blobs", concerned)


def readers_notes(count: int) -> list[str]:
    """Return a line about which readers open a file of so many blobs; nothing if all do."""
    concerned = _without(lambda runtime: count <= runtime.max_blobs)
    if not concerned:
        return []
    refusing = ", ".join(concerned)
    most = min(runtime.max_blobs for runtime in RUNTIMES)
    what = f"{count} blobs: blobstore, its C++ header and gemma.cpp from commit 0d8948f on open the file"
    takes = "takes" if len(concerned) == 1 else "take"
    return [f"{what}; gemma.cpp {refusing} {takes} at most {most}"]
