"""A model in .gguf files as a checkpoint: tensors under the names that they are converted by, and its settings."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from blobstore.checkpoint.gguf.bpe import BPE_LISTS, read_bpe
from blobstore.checkpoint.gguf.file import GgufFile, open_gguf
from blobstore.checkpoint.gguf.finding import beside, parts_of
from blobstore.checkpoint.gguf.header import GgufEntry, LongList
from blobstore.checkpoint.gguf.hf import ARCHITECTURES, GGUF_MODEL, config_of, hf_name, is_norm
from blobstore.checkpoint.gguf.tokenizer import LISTS, read_pieces
from blobstore.checkpoint.tensors import SourceTensor
from blobstore.checkpoint.told import LeftOut
from blobstore.codecs.element_types import BY_NAME
from blobstore.errors import CheckpointError, listed
from blobstore.fileio.closing import Closing

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from blobstore.checkpoint.gguf.tokenizer import Pieces
    from blobstore.fileio.types import Array
    from blobstore.tokenizer.document import Document

_Found = TypeVar("_Found")
_F32 = BY_NAME["f32"]
_MAX_TEXT = 1 << 16  # characters of a value of the metadata that is kept
_SHOWN = 8
_TEMPLATES = ("tokenizer.chat_template", "tokenizer.chat_templates")
_LAYOUT = ("general.alignment", "split.no", "split.count", "split.tensors.count")
_QUANTISATION = ("general.file_type", "general.quantization_version", "quantize.")  # untrue of the new file


@dataclass
class GgufModel(Closing):
    """The open .gguf files of a model; a context manager.

    Attributes:
        files: All parts, in order.
        tensors: In the order of the files and of the bytes in each.
        metadata: What is short of the first file's metadata, as text.
        config: What config.json says of a model of Gemma's; empty for others.
        notes: What a user should know.
        left_out: What isn't used.
    """

    files: list[GgufFile]
    tensors: list[SourceTensor] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    _dropped: list[str] = field(default_factory=list)
    _told: str = ""

    @property
    def fields(self) -> Mapping[str, Any]:
        """The first file's metadata, as `GgufHeader` has it."""
        return self.files[0].fields

    @property
    def architecture(self) -> str:
        """What llama.cpp calls this kind of model; empty where the file doesn't say it."""
        value = self.fields.get("general.architecture")
        return value if isinstance(value, str) else ""

    @property
    def has_chat_template(self) -> bool:
        """Whether it has a chat template, as instruction-tuned models do."""
        return any(self.fields.get(key) for key in _TEMPLATES)

    def pieces(self) -> Pieces | None:
        """Return the pieces of its SentencePiece model, text, score and type each; None, and a note, without any."""
        found = self._taken(read_pieces(self.files[0]), LISTS)
        if found is not None:
            self.notes.append(f"tokenizer: a SentencePiece model is made from the GGUF file: {len(found)} pieces")
        return found

    def bpe(self) -> Document | None:
        """Return the tokenizer.json that its byte-level BPE tokenizer was made of; None, and a note, without any."""
        return self._taken(read_bpe(self.files[0]), BPE_LISTS)

    def _taken(self, found: _Found | str, keys: Collection[str]) -> _Found | None:
        """Return a tokenizer; or None, and a note of why there is none.

        Args:
            found: The tokenizer, or why there is none.
            keys: Of the metadata that it is made of, which the note of what isn't converted no longer names then.
        """
        if isinstance(found, str):
            self.notes.append(f"the GGUF file's own tokenizer can't be taken: {found}")
            return None
        self.notes[:] = [note for note in self.notes if note != self._told]
        self._dropped[:] = [key for key in self._dropped if key not in keys]
        self._tell_dropped()
        return found

    def _tell_dropped(self) -> None:
        """Add a note of the metadata that is not converted."""
        self._told = f"not converted of the GGUF metadata: {listed(self._dropped, _SHOWN)}"
        self.notes += [self._told] if self._dropped else []

    def close(self) -> None:
        """Close all files."""
        for file in self.files:
            file.close()


def open_gguf_model(path: str) -> GgufModel:
    """Open the model that a .gguf file is, or is a part of.

    A Gemma 2, Gemma 3 or Qwen3 gets the names, values and config that its checkpoint has at Hugging Face; other models
    keep GGUF's.

    Raises:
        CheckpointError: ``missing-shard``, ``bad-shard``, ``duplicate-tensor``; ``no-decoder`` for tensors of a type
            that the package gguf can't decode.
        MissingExtraError: ``missing-extra``: it has quantised tensors, and the package gguf isn't installed.
        FormatError, TruncatedError: ``gguf``: a file is wrong.
        UsageError, OSError: A file can't be read.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(open_gguf(part)) for part in parts_of(path)]
        _check_parts(files)
        model = GgufModel(files)
        _add_tensors(model)
        _add_settings(model)
        model.left_out += [LeftOut(name, "file", why) for name, why in beside(path).items()]
        stack.pop_all()
    return model


def _check_parts(files: list[GgufFile]) -> None:
    """Compare what a split model's files say of themselves."""
    for number, file in enumerate(files):
        stated = file.fields.get("split.count", 1)
        place = file.fields.get("split.no", number)
        if (stated, place) != (len(files), number) and "split.count" in file.fields:
            what = (
                f"it says that it is part {_shown(place, 1)} of {_shown(stated)}: give the parts their own names again"
            )
            raise CheckpointError("bad-shard", f"{file.path!r}: {what} (…-00001-of-{len(files):05}.gguf)")
    total = files[0].fields.get("split.tensors.count")
    count = sum(len(file.entries) for file in files)
    if total is not None and total != count:
        what = f"it says that the model has {_shown(total)} tensors, and its {len(files)} parts have {count}"
        raise CheckpointError("bad-shard", f"{files[0].path!r}: {what}: are they parts of one model?")


def _shown(value: Any, more: int = 0) -> str:  # noqa: ANN401 (metadata is anything)
    return str(value + more) if type(value) is int else f"{value!r:.40}"


def _add_tensors(model: GgufModel) -> None:
    architecture = model.architecture
    is_known = architecture in ARCHITECTURES
    has_ones = is_known and ARCHITECTURES[architecture].adds_one
    known: set[str] = set()
    quantised: Counter[str] = Counter()
    unreadable: list[str] = []
    for file, entry in ((one, entry) for one in model.files for entry in one.entries.values()):
        name = (is_known and hf_name(architecture, entry.name)) or entry.name
        if name in known:
            raise CheckpointError("duplicate-tensor", f"{name!r} is in {file.path!r} and in another file, or twice")
        known.add(name)
        read = file.reader(entry.name)
        if read is None:
            unreadable.append(f"{entry.name!r} ({entry.type})")
            continue
        quantised.update([entry.type] if entry.stored.plain is None else [])
        model.tensors.append(
            _tensor(file, entry, name, read, less=int(has_ones and name != entry.name and is_norm(name)))
        )
    if unreadable:
        what = f"the package gguf can't decode {listed(unreadable, _SHOWN)}"
        raise CheckpointError(
            "no-decoder", f"{model.files[0].path!r}: {what}: update it, or convert the original checkpoint"
        )
    model.notes += _lossy(quantised)


def _tensor(
    file: GgufFile, entry: GgufEntry, name: str, read: Callable[[int, int], Array], *, less: int
) -> SourceTensor:
    plain = entry.stored.plain
    if plain is not None and not less:
        return SourceTensor(name, plain, entry.shape, file.path, file.range(entry.name))
    wide = plain if plain is not None and plain.name == "f64" else _F32
    return SourceTensor(name, wide, entry.shape, file.path, None, partial(_less_one, read) if less else read)


def _less_one(read: Callable[[int, int], Array], first: int, count: int) -> Array:
    """Return values minus 1, in f64: whatever stores them rounds them once."""
    return read(first, count).astype(np.float64) - 1


def _lossy(quantised: Counter[str]) -> Iterator[str]:
    if quantised:
        shown = ", ".join(f"{count} {name}" for name, count in sorted(quantised.items()))
        total = quantised.total()
        what = f"{total} tensors are quantised ({shown}): their decoded values are converted"
        yield f"{what}, which are not the original checkpoint's"


def _add_settings(model: GgufModel) -> None:
    """Take what the metadata says: of a Gemma as its config; of any model as metadata of the new file."""
    for key, value in model.fields.items():
        if key in _LAYOUT or key.startswith(_QUANTISATION):
            continue
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        if isinstance(value, LongList) or len(text) > _MAX_TEXT:
            model._dropped.append(key)  # noqa: SLF001 (one module)
        else:
            model.metadata[key] = text
    model._tell_dropped()  # noqa: SLF001 (one module)
    architecture = model.architecture
    if architecture in ARCHITECTURES:
        names = {name for file in model.files for name in file.entries}
        model.config = config_of(architecture, model.fields, names)
        what = "names are those of Hugging Face's checkpoints"
        if ARCHITECTURES[architecture].adds_one:
            what = "names and values are those of Hugging Face's checkpoints, where norms are stored without the 1 that"
            what = f"{what} GGUF adds"
        model.notes.append(f"{what}; config.json is made of the metadata")
    elif "gemma" in architecture:
        model.config = {"model_type": f"{GGUF_MODEL}{architecture}"}
