"""A checkpoint of Hugging Face: one .safetensors file, or several with an index; its configuration and tokenizer."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from blobstore.checkpoint.safetensors import parse_header
from blobstore.checkpoint.tensors import LeftOut, SourceTensor, left_out_lines
from blobstore.container.foreign import HEAD_NBYTES, foreign_format
from blobstore.container.layout import MAGIC_BYTES
from blobstore.errors import CheckpointError, FormatError, in_file
from blobstore.fileio.closing import Closing
from blobstore.fileio.plain_files import open_one_of_many
from blobstore.fileio.ranges import FileRange
from blobstore.fileio.source import read_beginning
from blobstore.index.inputs import refuse_inputs
from blobstore.index.strict_json import parse_json, text_map

if TYPE_CHECKING:
    from collections.abc import Iterable
    from os import PathLike
    from typing import BinaryIO

    from blobstore.checkpoint.safetensors import SafetensorsEntry, SafetensorsHeader
    from blobstore.fileio.types import ByteSource

SINGLE = "model.safetensors"
SHARD_INDEX = "model.safetensors.index.json"
_MAX_JSON_NBYTES = 100_000_000
_SHOWN = 8  # tensors that are missing

# What people pass by mistake, and the fix.
_FOREIGN = {
    ".bin": "in PyTorch's pickled format: save it with save_pretrained(…, safe_serialization=True) first",
    ".pt": "in PyTorch's pickled format: save it as safetensors first",
    ".pth": "in PyTorch's pickled format: save it as safetensors first",
    ".gguf": "a GGUF file, usually quantised: convert from the original checkpoint",
    ".h5": "a Keras file: convert from the original checkpoint",
    ".sbs": "an .sbs file already",
    ".task": "a MediaPipe bundle for phones: convert from the original checkpoint",
    ".tflite": "a TensorFlow Lite file: convert from the original checkpoint",
    ".ckpt": "in PyTorch's pickled format: save it as safetensors first",
}


@dataclass
class Checkpoint(Closing):
    """An open checkpoint; a context manager.

    Attributes:
        path: As given.
        tensors: By name, in the order of the files and of the bytes in each.
        metadata: Of all files' headers.
        config: The contents of ``config.json`` beside the tensors; empty without that file.
        generation: The contents of ``generation_config.json`` beside them; empty without that file.
        notes: What a user should know.
        left_out: What isn't used, of the tensors and files, and why.
        max_json_nbytes: A larger JSON file beside the tensors is refused.
    """

    path: str
    tensors: dict[str, SourceTensor] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    generation: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    max_json_nbytes: int = _MAX_JSON_NBYTES
    _sources: list[ByteSource] = field(default_factory=list)
    _read: list[str] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Of all tensors together."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def add(self, tensor: SourceTensor) -> None:
        """Add a tensor, or replace the one of this name."""
        self.tensors[tensor.name] = tensor

    @property
    def lines(self) -> list[str]:
        """The notes, and a line for each reason to leave something out."""
        return [*self.notes, *left_out_lines(self.left_out)]

    @property
    def paths(self) -> list[str]:
        """The files that have tensors, in the order of reading."""
        return list(dict.fromkeys(tensor.path for tensor in self.tensors.values()))

    @property
    def folder(self) -> str:
        """Where its other files are, such as config.json and the tokenizer."""
        return self.path if os.path.isdir(self.path) else os.path.dirname(self.path)

    def note_read(self, path: str) -> None:
        """Count a file among those of the checkpoint, which `refuse_as_outputs` protects."""
        self._read.append(os.path.abspath(path))  # the process may change its folder later

    def refuse_as_outputs(
        self, *outputs: str | PathLike[str] | BinaryIO | None, also: Iterable[str] = (), except_ours: bool = True
    ) -> None:
        """Refuse to replace or remove a file of the checkpoint: one that was read, or any in the folder that was given.

        Args:
            outputs: As for `refuse_inputs`.
            also: More files that are read.
            except_ours: As for `refuse_inputs`.

        Raises:
            UsageError: ``same-file``.
        """
        given = os.path.abspath(self.path) if os.path.isdir(self.path) else ""
        refuse_inputs(outputs, [*self._read, *also], folder=given, except_ours=except_ours)

    def close(self) -> None:
        """Close all files."""
        for source in self._sources:
            source.close()

    def _read_small(self, path: str) -> bytes:
        self.note_read(path)
        raw = bytes(read_beginning(path, self.max_json_nbytes + 1))
        if len(raw) > self.max_json_nbytes:
            what = f"{path!r} has more than {self.max_json_nbytes} bytes: is it another file?"
            raise CheckpointError("too-large", what)
        return raw

    def _add_file(self, path: str) -> list[SafetensorsEntry]:
        with in_file(path):
            # Plain reads: a map of a large file would count as this process's memory.
            source = open_one_of_many(path)
            self._sources.append(source)
            self.note_read(path)
            header = _parse(path, source)
        for entry in header.entries:
            if entry.name in self.tensors:
                raise CheckpointError("duplicate-tensor", f"{entry.name!r} is in {path!r} and in another file")
            stored = FileRange(source, entry.offset, entry.nbytes)
            self.tensors[entry.name] = SourceTensor(entry.name, entry.type, entry.shape, path, stored)
        for key, value in header.metadata.items():
            if self.metadata.setdefault(key, value) != value:
                self.metadata[f"{os.path.basename(path)}:{key}"] = value
        return header.entries


def _parse(path: str, source: ByteSource) -> SafetensorsHeader:
    try:
        return parse_header(source.view, source.size)
    except FormatError:  # only then: a header may be as long as a gzip file's first bytes say
        head = bytes(source.view(0, min(HEAD_NBYTES, source.size)))
        what = "an .sbs file already" if head.startswith(MAGIC_BYTES) else foreign_format(head)
        if not what:
            raise
        raise CheckpointError("not-safetensors", f"{path!r} is {what}") from None


def open_checkpoint(path: str | PathLike[str], *, max_json_nbytes: int = _MAX_JSON_NBYTES) -> Checkpoint:
    """Open a checkpoint and check its headers.

    Args:
        path: A .safetensors file, a ``model.safetensors.index.json``, or a folder with either.
        max_json_nbytes: A larger JSON file beside the tensors is refused.

    Raises:
        CheckpointError: ``no-checkpoint``, ``not-safetensors``, ``bad-shard-index``, ``missing-shard``,
            ``missing-tensor``, ``duplicate-tensor``, ``bad-config``, ``adapter``, ``too-large``.
        FormatError, TruncatedError: A file's header is wrong.
        OSError: A file can't be read.
    """
    path = os.fspath(path)
    file = _find(path) if os.path.isdir(path) else path
    _refuse_foreign(file)
    checkpoint = Checkpoint(path, max_json_nbytes=max_json_nbytes)
    try:
        if file.lower().endswith(".json"):
            _add_shards(checkpoint, file)
        else:
            checkpoint._add_file(file)  # noqa: SLF001 (one module)
        checkpoint.config = _config_beside(checkpoint, file, "config.json")
        checkpoint.generation = _config_beside(checkpoint, file, "generation_config.json")
    except BaseException:
        checkpoint.close()
        raise
    return checkpoint


def _find(folder: str) -> str:
    names = sorted(os.listdir(folder))
    for name in (SHARD_INDEX, SINGLE):
        if name in names:
            return os.path.join(folder, name)
    if "adapter_config.json" in names:
        what = "it has LoRA adapters but no model: merge them into the model first (merge_and_unload)"
        raise CheckpointError("adapter", f"{folder!r}: {what}")
    ours = [name for name in names if name.endswith(".safetensors")]
    if len(ours) == 1:
        return os.path.join(folder, ours[0])
    if ours:
        what = f"it has {', '.join(ours[:4])}, but no {SHARD_INDEX} to say how they belong together: pass one file"
        raise CheckpointError("no-checkpoint", f"{folder!r}: {what}")
    for name in names:
        _refuse_foreign(os.path.join(folder, name))
    raise CheckpointError("no-checkpoint", f"{folder!r} has neither {SINGLE} nor {SHARD_INDEX}")


def _add_shards(checkpoint: Checkpoint, path: str) -> None:
    weight_map = _parse_shard_index(path, checkpoint._read_small(path))  # noqa: SLF001 (one module)
    folder = os.path.dirname(path)
    shards = sorted(set(weight_map.values()))
    for shard in shards:
        # A file from outside must not choose what is opened elsewhere.
        if os.path.basename(shard) != shard or shard in ("", ".", ".."):
            raise CheckpointError("bad-shard-index", f"{path!r} lists {shard[:300]!r}, which is not a file beside it")
        _refuse_foreign(os.path.join(folder, shard))
    missing = [shard for shard in shards if not os.path.exists(os.path.join(folder, shard))]
    if missing:
        raise CheckpointError("missing-shard", f"{path!r} lists files that are missing: {', '.join(missing)}")
    for shard in shards:
        for entry in checkpoint._add_file(os.path.join(folder, shard)):  # noqa: SLF001 (one module)
            if weight_map.get(entry.name) != shard:
                why = f"the index of shards does not list it in {shard}"
                checkpoint.left_out.append(LeftOut(entry.name, "tensor", why))
                del checkpoint.tensors[entry.name]
    absent = [name for name in weight_map if name not in checkpoint.tensors]
    if absent:
        shown = ", ".join(f"{name!r} in {weight_map[name]}" for name in absent[:_SHOWN])
        more = f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
        raise CheckpointError("missing-tensor", f"{path!r} lists tensors that are missing: {shown}{more}")


def _parse_shard_index(path: str, raw: bytes) -> dict[str, str]:
    """Return which file each tensor is in."""
    try:
        index = parse_json(raw)
        weight_map = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(weight_map, dict):
            raise ValueError("it has no weight_map, which lists the file of each tensor")
        return text_map(weight_map)
    except ValueError as error:
        raise CheckpointError("bad-shard-index", _not(path, raw, f"not an index of shards: {error}")) from None


def _config_beside(checkpoint: Checkpoint, file: str, name: str) -> dict[str, Any]:
    path = os.path.join(os.path.dirname(file), name)
    return _parse_config(path, checkpoint._read_small(path)) if os.path.lexists(path) else {}  # noqa: SLF001 (one module)


def _parse_config(path: str, raw: bytes) -> dict[str, Any]:
    try:
        config = json.loads(raw)  # not strictly: published files have infinities
    except (ValueError, RecursionError) as error:
        raise CheckpointError("bad-config", _not(path, raw, f"not JSON: {error}")) from None
    if not isinstance(config, dict):
        raise CheckpointError("bad-config", f"{path!r}: expected an object, found {type(config).__name__}")
    return config


def _not(path: str, raw: bytes, what: str) -> str:
    """Say what a file is that isn't JSON, if that is recognised."""
    return f"{path!r} is {foreign_format(raw[:HEAD_NBYTES]) or what}"


def _refuse_foreign(path: str) -> None:
    """Refuse a file of another format by its name, or an index of such files."""
    extension = os.path.splitext(path.lower().removesuffix(".index.json"))[1]
    if extension in _FOREIGN:
        raise CheckpointError("not-safetensors", f"{path!r} is {_FOREIGN[extension]}")
