"""An open checkpoint: its tensors, from one file or several, with adapters merged; its config; what else is there."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from blobstore.checkpoint.adapters.applying import config_note, files_left_out, merged, open_adapters, resized_config
from blobstore.checkpoint.file_names import is_of_tokenizer, why_unused
from blobstore.checkpoint.finding import find_files
from blobstore.checkpoint.formats import is_sbs
from blobstore.checkpoint.gguf.model import open_gguf_model
from blobstore.checkpoint.small_files import MAX_SMALL_NBYTES, json_object, read_small
from blobstore.checkpoint.tied import head_of, is_untied, ties_of, untied
from blobstore.checkpoint.told import LeftOut, lines_of, unread_in
from blobstore.checkpoint.weights import read_weights
from blobstore.checkpoint.wrappers import unwrap
from blobstore.errors import CheckpointError, UsageError, in_file, listed
from blobstore.fileio.closing import Closing
from blobstore.fileio.places import absolute, exists, folder_of, forget_listings, is_folder, join, name_in
from blobstore.fileio.ranges import FileRange
from blobstore.fileio.streamed import StreamedSource, open_one_of_many
from blobstore.fileio.urls import is_url
from blobstore.index.inputs import refuse_inputs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from os import PathLike
    from typing import BinaryIO

    from blobstore.checkpoint.adapters.applying import OpenAdapters
    from blobstore.checkpoint.adapters.reading import Adapter
    from blobstore.checkpoint.finding import Found
    from blobstore.checkpoint.gguf.tokenizer import Pieces
    from blobstore.checkpoint.tensors import SourceTensor
    from blobstore.checkpoint.told import Told
    from blobstore.fileio.types import ByteSource
    from blobstore.tokenizer.document import Document

_SHOWN = 8  # tensors that are missing


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
        chat_template: Whether a file with its tensors has a chat template.
        pieces: Returns those of a tokenizer that is in such a file; see `GgufModel.pieces`.
        bpe: The same for a byte-level BPE tokenizer; see `GgufModel.bpe`.
        format: Of the files that have its tensors.
        told: What is done to it without being asked for.
        max_json_nbytes: A larger JSON file beside the tensors is refused.
        folder: Where its other files are, such as config.json and the tokenizer.
        tied_heads: Heads that only the index lists, with the embedding that each is taken to be tied to.
        adapters: Those that are merged into the tensors.
        config_note: What to do to config.json where these give the model another vocabulary, which `config` has.
        tokenizer_folder: Of the adapter that gives it that: its tokenizer's files count before those in `folder`.
    """

    path: str
    tensors: dict[str, SourceTensor] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    generation: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    chat_template: bool = False
    pieces: Callable[[], Pieces | None] = lambda: None
    bpe: Callable[[], Document | None] = lambda: None
    format: Literal["safetensors", "pytorch", "gguf"] = "safetensors"
    told: list[Told] = field(default_factory=list)
    max_json_nbytes: int = MAX_SMALL_NBYTES
    folder: str = ""
    tied_heads: dict[str, str] = field(default_factory=dict)
    adapters: OpenAdapters | None = None
    config_note: str = ""
    tokenizer_folder: str = ""
    _sources: list[ByteSource] = field(default_factory=list)
    _read: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Find the folder, unless it is given."""
        self.folder = self.folder or (self.path if is_folder(self.path) else folder_of(self.path))

    @property
    def nbytes(self) -> int:
        """Of all tensors together."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def add(self, tensor: SourceTensor) -> None:
        """Add a tensor, or replace the one of this name."""
        self.tensors[tensor.name] = tensor

    @property
    def lines(self) -> list[str]:
        """What a user is told, a line each."""
        return lines_of(self.notes, self.told, self.left_out)

    @property
    def paths(self) -> list[str]:
        """The files that have tensors, in the order of reading, without those of adapters."""
        of_adapters = self.adapters.files if self.adapters else []
        return [path for path in dict.fromkeys(x.path for x in self.tensors.values()) if path not in of_adapters]

    def note_read(self, path: str) -> None:
        """Count a file among those of the checkpoint, which `refuse_as_outputs` protects."""
        self._read.append(absolute(path))  # the process may change its folder later

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
        given = absolute(self.path) if is_folder(self.path) else ""
        refuse_inputs(outputs, [*self._read, *also], folder=given, except_ours=except_ours)

    def beside(self, name: str) -> str:
        """Return the path of a file beside the tensors, with ``/`` in its name; empty if there is none."""
        folders = [self.tokenizer_folder] if self.tokenizer_folder and is_of_tokenizer(name) else []
        paths = (join(folder, *name.split("/")) for folder in [*folders, self.folder])
        return next((path for path in paths if self._is_there(path)), "")

    def _is_there(self, path: str) -> bool:
        """Whether there is a file beside the tensors; a note if a server doesn't tell, as for all but a signed URL."""
        try:
            return exists(path)
        except PermissionError:
            if not is_url(path):
                raise
            told = "files beside the tensors may not be read: they are taken as missing"
            self.notes += [] if told in self.notes else [told]
            return False

    def open_beside(self, path: str) -> FileRange:
        """Open another file of the checkpoint, which stays open until `close` → all of its bytes.

        Raises:
            UsageError: ``not-a-file``.
            OSError: It can't be opened.
        """
        with in_file(path):
            source = open_one_of_many(path)
        self._sources.append(source)
        return FileRange(source, 0, source.size)

    def check_unchanged(self) -> None:
        """Refuse files elsewhere that were replaced since they were opened: their bytes may be of both.

        Raises:
            RemoteError: ``remote-changed``; as `StreamedSource`.
        """
        forget_listings(self.path)
        for source in self._sources:
            if isinstance(source, StreamedSource):
                source.check_unchanged()

    def close(self) -> None:
        """Close all files."""
        for source in self._sources:
            source.close()
        if self.adapters is not None:
            self.adapters.close()

    def read_small(self, path: str) -> bytes:
        """Return the contents of a small file, which counts among those of the checkpoint.

        Raises:
            CheckpointError: ``too-large``.
            UsageError: ``not-a-file``.
            OSError: It can't be read.
        """
        self.note_read(path)
        return read_small(path, self.max_json_nbytes)

    def _unwrap(self) -> None:
        """Take off the names what training wrapped the model in."""
        unwrapped = unwrap([*self.tensors, *self.tied_heads])
        self.told += unwrapped.told
        if unwrapped.names:
            new = {name: unwrapped.names.get(name, name) for name in [*self.tensors, *self.tied_heads]}
            self.tensors = {new[name]: replace(tensor, name=new[name]) for name, tensor in self.tensors.items()}
            self.tied_heads = {new[head]: new[embedding] for head, embedding in self.tied_heads.items()}

    def files_left_out(self) -> list[LeftOut]:
        """Return what of a folder that was given, and of those of adapters, is neither read nor noted as read, by name.

        Raises:
            OSError: A folder can't be read.
        """
        return [*self._left_out_of_adapters(), *self._left_out_of_folder()]

    def _left_out_of_adapters(self) -> Iterator[LeftOut]:
        for adapter in self.adapters.adapters if self.adapters else ():
            takes_tokenizer = adapter.folder == self.tokenizer_folder
            yield from files_left_out(adapter, self.folder, self._read, takes_tokenizer=takes_tokenizer)

    def _left_out_of_folder(self) -> Iterator[LeftOut]:
        if not is_folder(self.path):
            return
        for name in unread_in(self.folder, self._read):
            other = absolute(join(self.tokenizer_folder, name)) if self.tokenizer_folder else ""
            yield LeftOut(name, "file", "the adapter's is taken" if other in self._read else why_unused(name))

    def _add_gguf(self, path: str) -> None:
        """Add a model in .gguf files, which has a configuration of its own."""
        model = open_gguf_model(path)
        self._sources += [file.source for file in model.files]
        self.format = "gguf"
        self.config, self.chat_template = model.config, model.has_chat_template
        self.pieces, self.bpe = model.pieces, model.bpe
        self.metadata |= model.metadata
        self.notes = model.notes = [*self.notes, *model.notes]  # one list: its tokenizer changes what it says
        self.left_out += model.left_out
        for tensor in model.tensors:
            self.add(tensor)
        for name in [*(file.path for file in model.files), *(item.name for item in model.left_out)]:
            self.note_read(join(folder_of(path), name_in(name)))

    def _add_file(self, path: str, weight_map: Mapping[str, str] | None) -> None:
        """Add the tensors of a file, or those that the index lists in it."""
        with in_file(path):
            # Plain reads: a map of a large file would count as this process's memory.
            source = open_one_of_many(path)
            self._sources.append(source)
            self.note_read(path)
            tensors = self._tensors_in(path, source)
        shard = name_in(path)
        for tensor in tensors:
            if weight_map is not None and weight_map.get(tensor.name) != shard:
                self.left_out.append(LeftOut(tensor.name, "tensor", f"in {shard}, where the index does not list it"))
                continue
            if tensor.name in self.tensors:
                what = f"{tensor.name!r} is in {self.tensors[tensor.name].path!r} and in {path!r}"
                fix = "only an index of shards could say which counts: remove it from one of them"
                raise CheckpointError("duplicate-tensor", f"{what}: {fix}")
            self.add(tensor)

    def _tensors_in(self, path: str, source: ByteSource) -> list[SourceTensor]:
        weights = read_weights(path, source)
        self.format = "pytorch" if weights.format == "pytorch" else self.format
        self.notes += weights.notes
        for key, value in weights.metadata.items():
            if self.metadata.setdefault(key, value) != value:
                self.metadata[f"{name_in(path)}:{key}"] = value
        return weights.tensors


def open_checkpoint(
    path: str | PathLike[str],
    *,
    adapters: Sequence[str | PathLike[str]] = (),
    whole: bool = True,
    max_json_nbytes: int = MAX_SMALL_NBYTES,
) -> Checkpoint:
    """Open a checkpoint and check its headers.

    Args:
        path: A .safetensors file, a ``model.safetensors.index.json``, or a folder with either; the same of PyTorch's
            pickled files, which need torch; or a .gguf file, or a folder with one. A folder may have shards without
            an index, or be a hub's cache.
        adapters: LoRA adapters that are merged into its tensors, in this order.
        whole: Refuse one of several shards, which isn't a checkpoint.
        max_json_nbytes: A larger JSON file beside the tensors is refused.

    Raises:
        CheckpointError: ``no-checkpoint``, ``two-checkpoints``, ``one-shard``, ``not-safetensors``,
            ``bad-shard-index``, ``missing-shard``, ``missing-tensor``, ``duplicate-tensor``, ``bad-config``,
            ``adapter``, ``too-large``, ``name-clash``; as `read_pickled` and `open_gguf_model`; for adapters
            as `plan_merge` and `open_adapter`.
        MissingExtraError: ``missing-extra``: a file is pickled, and torch isn't installed; as `open_gguf_model`.
        FormatError, TruncatedError: A file's header is wrong.
        UsageError: ``not-a-file``: a file in it is a pipe, a device or a link to itself; ``needless-flag``: adapters
            for an .sbs file.
        OSError: A file can't be read.
    """
    path = os.fspath(path)
    if adapters and is_sbs(path):
        fix = f"blobstore export {path} --adapter {os.fspath(adapters[0])}"
        raise UsageError("needless-flag", f"{path!r} is an .sbs file already: {fix} merges an adapter into it")
    checkpoint = Checkpoint(path, max_json_nbytes=max_json_nbytes)
    try:
        found = find_files(path, checkpoint.read_small)
        checkpoint.folder = found.folder
        checkpoint.notes += found.notes
        if found.part_of and whole:
            what = f"{path!r} is one of {found.part_of} files of a checkpoint: pass its folder"
            raise CheckpointError("one-shard", f"{what}; a copy of it under another name is taken alone")
        if found.part_of:
            checkpoint.notes.append(f"{path!r} is one of {found.part_of} files of a checkpoint")
        if found.is_gguf:
            checkpoint._add_gguf(found.files[0])  # noqa: SLF001 (one module)
        else:
            _read_files(checkpoint, found)
        if adapters:
            _merge(checkpoint, open_adapters(adapters))
    except BaseException:
        checkpoint.close()
        raise
    return checkpoint


def _merge(checkpoint: Checkpoint, adapters: OpenAdapters) -> None:
    checkpoint.adapters = adapters  # which closes them
    for path in adapters.files:
        checkpoint.note_read(path)
    called = [absolute(checkpoint.path), str(checkpoint.config.get("_name_or_path", ""))]
    ties = ties_of(checkpoint.tensors, checkpoint.config) | checkpoint.tied_heads
    done = merged(adapters.adapters, checkpoint.tensors, ties, called)
    if done.resized_by is not None:
        _take_tokenizer(checkpoint, done.resized_by)
    for tensor in done.tensors:
        checkpoint.add(tensor)
    checkpoint.left_out += done.left_out
    checkpoint.notes += done.notes
    separated = any(head in checkpoint.tensors for head in ties)
    checkpoint.config_note = config_note(checkpoint.config, done.resized, separated=separated)
    checkpoint.config = resized_config(checkpoint.config, done.resized)
    if separated:
        checkpoint.config = untied(checkpoint.config)


def _take_tokenizer(checkpoint: Checkpoint, adapter: Adapter) -> None:
    """Take the tokenizer of an adapter that gives the embedding other rows.

    It was trained with tokens of its own, and mostly its tokenizer was saved with it.
    """
    checkpoint.tokenizer_folder = adapter.folder
    if adapter.has_tokenizer:
        checkpoint.notes.append(f"the tokenizer's files of the adapter {adapter.name!r} are taken before the base's")


def _read_files(checkpoint: Checkpoint, found: Found) -> None:
    for file in found.files:
        checkpoint._add_file(file, found.weight_map)  # noqa: SLF001 (one module)
    checkpoint.config = _config_beside(checkpoint, "config.json")
    checkpoint.generation = _config_beside(checkpoint, "generation_config.json")
    _check_listed(checkpoint, found.index, found.weight_map or {})
    checkpoint._unwrap()  # noqa: SLF001 (one module)


def _check_listed(checkpoint: Checkpoint, index: str, weight_map: Mapping[str, str]) -> None:
    """Refuse a checkpoint without a tensor that its index lists, but for a head that is tied to the embedding."""
    absent = [name for name in weight_map if name not in checkpoint.tensors]
    if absent and not is_untied(checkpoint.config):
        heads = {head_of(name, checkpoint.config): name for name in checkpoint.tensors}
        checkpoint.tied_heads = {name: heads[name] for name in absent if name in heads}
        for head, embedding in checkpoint.tied_heads.items():
            checkpoint.notes.append(f"{head!r}: the index lists it, but no file has it: taken as tied to {embedding!r}")
        absent = [name for name in absent if name not in heads]
    if absent:
        shown = listed([f"{name!r} in {weight_map[name]}" for name in absent], _SHOWN)
        raise CheckpointError("missing-tensor", f"{index!r} lists tensors that are missing: {shown}")


def _config_beside(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    path = join(checkpoint.folder, name)
    return json_object(path, checkpoint.read_small(path), "bad-config") if checkpoint._is_there(path) else {}  # noqa: SLF001 (one module)
