"""The files of an adapter: its tensors, by the module that they belong to and their part in it."""

from __future__ import annotations

import hashlib
import json
import math
import os
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from blobstore.checkpoint.adapters.config import MERGE_FIRST, base_named, parse_adapter_config
from blobstore.checkpoint.file_names import is_of_tokenizer
from blobstore.checkpoint.folders import hub_name
from blobstore.checkpoint.small_files import json_object, read_small
from blobstore.checkpoint.weights import read_weights
from blobstore.checkpoint.wrappers import SEGMENTS
from blobstore.codecs.element_types import PLAIN_FLOATS
from blobstore.errors import CheckpointError, in_file
from blobstore.fileio.closing import Closing
from blobstore.fileio.hashing import digest_of
from blobstore.fileio.places import absolute, folder_of, forget_listings, is_absent, is_folder, join, name_in, names_in
from blobstore.fileio.ranges import FileRange
from blobstore.fileio.streamed import open_one_of_many
from blobstore.index.strict_json import parse_json, text_map

if TYPE_CHECKING:
    from os import PathLike

    from blobstore.checkpoint.adapters.config import AdapterConfig
    from blobstore.checkpoint.tensors import SourceTensor
    from blobstore.codecs.element_types import ElementType
    from blobstore.fileio.types import Array, ByteSource

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")  # the first that is there, as peft takes it
_MAX_NAME = 4096  # characters: patterns are compared with each name
_PREFIX = "base_model.model."
_WRAPPERS = {segment.removesuffix(".") for segment in SEGMENTS}
# What stands behind a module's name → which part of the adapter it is; the adapter's own name may follow.
_PARTS = {
    "lora_A": "A",
    "lora_B": "B",
    "lora_embedding_A": "embedding A",
    "lora_embedding_B": "embedding B",
    "lora_magnitude_vector": "magnitude",
    "trainable_tokens_delta": "tokens",
}
_AROUND = ("base_layer", "modules_to_save")  # around a parameter that was trained whole
_ORIGINAL = ("original_module", "trainable_tokens_original", "original_linear")  # a copy of the base's


@dataclass(frozen=True, eq=False)
class AdapterTensor:
    """A tensor of an adapter's file.

    Attributes:
        source: Where its values are.
    """

    source: SourceTensor

    @property
    def name(self) -> str:
        """As the file has it."""
        return self.source.name

    @property
    def type(self) -> ElementType:
        """Of its elements."""
        return self.source.type

    @property
    def shape(self) -> tuple[int, ...]:
        """In C order."""
        return self.source.shape

    @property
    def path(self) -> str:
        """Of the file."""
        return self.source.path

    def rows(self, first: int, count: int) -> Array:
        """Return some rows, as they are stored: shape (count, the rest)."""
        width = math.prod(self.shape[1:])
        return self.source.read(first * width, count * width).reshape(count, width)

    def same_as(self, other: AdapterTensor, *, transposed: bool = False) -> bool:
        """Whether another has the same type and bytes, or those of the transposed matrix."""
        if not transposed:
            return self.source.same_bytes(other.source)
        if (self.type, self.shape) != (other.type, other.shape[::-1]):
            return False
        return np.array_equal(self.rows(0, self.shape[0]), other.rows(0, other.shape[0]).T)


@dataclass
class Adapter(Closing):
    """An open adapter.

    Attributes:
        path: As given.
        config: Of its adapter_config.json.
        modules: Name of a module, as the adapter has it → part (``A``, ``B``, ``bias`` …) → tensor.
        whole: Name of a parameter → the tensor that replaces it.
        copies: Names of tensors that are copies of the base's.
        digests: SHA-256 of its tensors, and of its config, in hexadecimal digits.
        files: The paths that were read.
    """

    path: str
    config: AdapterConfig
    modules: dict[str, dict[str, AdapterTensor]] = field(default_factory=dict)
    whole: dict[str, AdapterTensor] = field(default_factory=dict)
    copies: list[str] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    _source: ByteSource | None = None

    @property
    def folder(self) -> str:
        """Where its files are."""
        return folder_of(self.files[0])

    @property
    def name(self) -> str:
        """Of its folder."""
        return name_in(absolute(self.folder))

    @property
    def has_tokenizer(self) -> bool:
        """Whether files of a tokenizer are beside it."""
        return any(map(is_of_tokenizer, names_in(self.folder)))

    def close(self) -> None:
        """Close its file."""
        if self._source is not None:
            self._source.close()

    def read(self, path: str) -> None:
        """Read which tensors its file has, and sort them by module.

        Raises:
            CheckpointError: ``adapter-tensor``; as `read_weights`.
            MissingExtraError: ``missing-extra``: the file is pickled, and torch isn't installed.
            FormatError, TruncatedError, OSError: The file is wrong, or can't be read.
        """
        with in_file(path):
            source = self._source = open_one_of_many(path)
            for tensor in _tensors_in(path, source):
                self._add(AdapterTensor(tensor))
            self.digests["weights"] = digest_of(FileRange(source, 0, source.size)).hex()

    def _add(self, tensor: AdapterTensor) -> None:
        if tensor.type.name not in PLAIN_FLOATS:
            what = f"{tensor.name[:300]!r} is stored as {tensor.type}, expected one of {', '.join(PLAIN_FLOATS)}"
            raise CheckpointError("adapter-tensor", what)
        if len(tensor.name) > _MAX_NAME:
            what = f"{tensor.name[:80]!r}… has {len(tensor.name)} characters, more than {_MAX_NAME}"
            raise CheckpointError("adapter-tensor", what)
        module, part = _split(tensor.name)
        if part == "copy":
            self.copies.append(tensor.name)
            return
        known = self.whole if not part else self.modules.setdefault(module, {})
        before = known.setdefault(part or module, tensor)
        if before is not tensor:
            what = f"{before.name[:300]!r} and {tensor.name[:300]!r} are the same part of {module[:300]!r}"
            raise CheckpointError("adapter-tensor", f"{what}: are these two adapters in one file? Save them one by one")


def _tensors_in(path: str, source: ByteSource) -> list[SourceTensor]:
    weights = read_weights(path, source)
    if weights.others:
        what = f"{weights.others[0][:300]!r} is not a tensor of the adapter"
        raise CheckpointError("adapter-tensor", f"{what}: save it with save_pretrained")
    return weights.tensors


def open_adapter(path: str | PathLike[str]) -> Adapter:
    """Open an adapter: its config and the header of its tensors are checked, and both files hashed.

    Args:
        path: A folder with ``adapter_config.json`` and ``adapter_model.safetensors`` (or ``adapter_model.bin``, which
            needs torch), or one of these files.

    Raises:
        CheckpointError: ``no-adapter``: it is something else; ``adapter-config``, ``adapter-option``,
            ``adapter-tensor``, ``too-large``; as `read_weights`.
        MissingExtraError: ``missing-extra``: its tensors are pickled, and torch isn't installed.
        FormatError, TruncatedError: The file of tensors is wrong.
        OSError: A file can't be read.
    """
    path = os.fspath(path)
    if hub_name(path):
        raise CheckpointError("no-adapter", hub_name(path))
    forget_listings(path)
    folder = path if is_folder(path) else folder_of(path) or "."
    names = sorted(names_in(path if is_absent(path) else folder))  # the system's own error, of what isn't there
    if not is_folder(path) and name_in(path) not in (CONFIG, *WEIGHTS):
        what = f"expected the folder of an adapter, with {CONFIG} and {WEIGHTS[0]}"
        raise CheckpointError("no-adapter", f"{path!r} is another file: {what}")
    _refuse_others(path, names)
    file = next(name for name in WEIGHTS if name in names)
    config_path, weights = (join(folder, name) for name in (CONFIG, file))
    with in_file(config_path):
        raw = read_small(config_path)
    adapter = Adapter(path, parse_adapter_config(raw, config_path), files=[config_path, weights])
    adapter.digests["config"] = hashlib.sha256(raw).hexdigest()
    try:
        adapter.read(weights)
    except BaseException:
        adapter.close()
        raise
    return adapter


def not_a_model(folder: str) -> str:
    """Say that a folder has an adapter but no model, and how to convert it: with its base, which its config names."""
    base = ""
    with suppress(ValueError, OSError):
        path = join(folder, CONFIG)
        base = base_named(json_object(path, read_small(path), "adapter-config", parse_json))[:200]
    shown = base if os.path.isdir(base) else "BASE"
    trained = f", BASE being {base}" if base and shown == "BASE" else ""
    return f"has a LoRA adapter but no model: blobstore convert {shown} --adapter {folder}{trained}"


def _refuse_others(path: str, names: list[str]) -> None:
    """Refuse a folder that isn't an adapter's, or has only its config."""
    if CONFIG not in names:
        what = f"it has no {CONFIG}"
        if "config.json" in names:
            what += ": is it a whole model? Then convert it without --adapter"
        raise CheckpointError("no-adapter", f"{path!r}: {what}")
    if not any(name in names for name in WEIGHTS):
        raise CheckpointError("no-adapter", f"{path!r} has no {WEIGHTS[0]}")


def described(adapters: list[Adapter]) -> str:
    """Return what a file's metadata says of the adapters that were merged into it, in their order; JSON."""
    return json.dumps([{"name": adapter.name, **adapter.digests} for adapter in adapters], sort_keys=True)


def parse_described(text: str) -> list[dict[str, str]] | None:
    """Return the adapters that a file's metadata names, as `described`; None if it can't be read. It is foreign."""
    try:
        adapters = parse_json(text.encode())
        return [text_map(adapter) for adapter in adapters] if isinstance(adapters, list) else None
    except ValueError:
        return None


def _split(key: str) -> tuple[str, str]:
    """Return the module and the part of a tensor; for a whole parameter its name and an empty part."""
    words = [word for word in key.removeprefix(_PREFIX).split(".") if word not in _WRAPPERS]
    for place in range(len(words) - 1, -1, -1):
        word, module, rest = words[place], ".".join(words[:place]), words[place + 1 :]
        if word in _ORIGINAL:
            return module, "copy"
        if word in _PARTS:
            if word == "trainable_tokens_delta":
                module = module.removesuffix("token_adapter").removesuffix(".")
            ends_in_bias = word == "lora_B" and rest[-1:] == ["bias"]
            return module, "bias" if ends_in_bias else _part(key, _PARTS[word], rest)
        if word in _AROUND:
            return ".".join([*words[:place], *rest[-1:]]) if word == "base_layer" else _saved(words, place), ""
        if word.startswith(("lora_", "token_adapter")):
            raise CheckpointError("adapter-tensor", _unknown(key))
    return ".".join(words), ""


def _part(key: str, part: str, rest: list[str]) -> str:
    """Return a part, if at most an adapter's name and the word for weights follow."""
    if len(rest) - (rest[-1:] == ["weight"]) > 1:
        raise CheckpointError("adapter-tensor", _unknown(key))
    return part


def _saved(words: list[str], place: int) -> str:
    """Return the name of a parameter in a module that was trained whole: the adapter's name is left out."""
    rest = words[place + 1 :]
    return ".".join([*words[:place], *(rest[1:] if len(rest) > 1 and rest[0] == "default" else rest)])


def _unknown(key: str) -> str:
    return f"{key[:300]!r} is not a part of LoRA that is known here: {MERGE_FIRST}"
