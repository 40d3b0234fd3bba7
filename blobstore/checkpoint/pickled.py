"""The tensors of a file in PyTorch's pickled format (``.bin``, ``.pt``, ``.pth``, ``.ckpt``), read by torch.

torch reads where they are; the bytes of those that lie in the file as they are can then be read without it.
"""

from __future__ import annotations

import errno
import math
import os
import re
import struct
import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from blobstore.checkpoint.file_names import is_pickled
from blobstore.checkpoint.tensors import SourceTensor
from blobstore.codecs.element_types import dtype_named, type_of
from blobstore.container.foreign import HEAD_NBYTES, ZIP, may_be_pytorch
from blobstore.errors import CheckpointError, MissingExtraError, UsageError, listed
from blobstore.fileio.ranges import FileRange
from blobstore.fileio.urls import is_url

if TYPE_CHECKING:
    import zipfile
    from collections.abc import Iterator, Sequence
    from types import ModuleType

    import numpy as np

    from blobstore.fileio.types import Array, ByteSource

_STORAGE = re.compile(r"[^/]+/data/[0-9]+").fullmatch
_BYTE_ORDER = re.compile(r"[^/]+/byteorder").fullmatch
_LONGEST = 16  # read of a byte order
_LENGTHS_AT = 26  # of a record's name and more, in its header
_UNSAFE = re.compile(r"GLOBAL ([\w.]+)").search
_ADVICE = ("Weights only load failed", "Please file an issue", "Check the documentation")
_SAFE_FROM = (2, 6)  # before, weights_only=True runs code of a hostile file (CVE-2025-32434)
# What trainers save a model's tensors under.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
_SHOWN = 8  # keys
_SHOWN_TEXT = 200


class Pickled(NamedTuple):
    """What a pickled file has.

    Attributes:
        tensors: Those of the model, in the order of their bytes.
        others: What isn't a tensor of the model: its keys. A note names them.
        notes: What a user should know.
    """

    tensors: list[SourceTensor]
    others: list[str]
    notes: list[str]


def looks_pickled(path: str, source: ByteSource) -> bool:
    """Whether a file is PyTorch's, by its name and its first bytes."""
    if not is_pickled(path):
        return False
    return may_be_pytorch(bytes(source.view(0, min(HEAD_NBYTES, source.size))))


def read_pickled(path: str, source: ByteSource) -> Pickled:
    """Read which tensors a pickled file has; only tensors and plain values are unpickled.

    Args:
        path: Of the file.
        source: The same file, open.

    Raises:
        MissingExtraError: ``missing-extra``: torch isn't installed, or is too old to read such files safely.
        CheckpointError: ``bad-pickle``: torch can't read it, or refuses to; ``unsupported-dtype``; ``no-tensors``.
        OSError: It can't be read.
    """
    if is_url(path):
        what = "this is in PyTorch's pickled format, which torch reads from a disk only"
        raise CheckpointError("needs-download", f"{what}: download the checkpoint first, or take one in safetensors")
    torch = _torch()
    offsets = _offsets_in_zip(path, source)
    loaded, storages = _loaded(torch, path, mapped=offsets is not None)
    wrapper, state = _state_of(loaded, torch)
    file = os.path.basename(path)
    notes = [f"{file}: the tensors under {wrapper!r} are taken"] if wrapper else []
    if offsets is None:
        notes.append(f"{file} can't be mapped, as files of torch.save can since torch 1.6: all of it is in memory")
    others = [str(key) for key in loaded if key != wrapper] if wrapper else []
    base = _base_of(storages, offsets or {})
    tensors = []
    for name, value in state.items():
        if isinstance(name, str) and isinstance(value, torch.Tensor):
            tensors.append(_tensor(name, value, path, source, base))
        else:
            others.append(str(name))
    if not tensors:
        raise CheckpointError("no-tensors", "it has no tensors by name, as torch.save(model.state_dict(), …) writes")
    tensors.sort(key=lambda tensor: tensor.stored.offset if tensor.stored else -1)
    if others:
        shown = listed([repr(name[:_SHOWN_TEXT]) for name in others], _SHOWN)
        notes.append(f"{file}: left out, since no tensors of the model: {shown}")
    return Pickled(tensors, others, notes)


def _torch() -> ModuleType:
    fix = "pip install 'torch>=2.6'; or save it as safetensors elsewhere: save_pretrained(…, safe_serialization=True)"
    what = "this is in PyTorch's pickled format"
    try:
        torch = import_module("torch")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtraError("missing-extra", f"{what}, which needs torch: {fix}") from error
    version = tuple(int(part) for part in re.findall(r"[0-9]+", torch.__version__)[:2])
    if version < _SAFE_FROM:
        what += f", which torch {torch.__version__} can't read safely"
        raise MissingExtraError("missing-extra", f"{what}: {fix}")
    return torch


def _offsets_in_zip(path: str, source: ByteSource) -> dict[int, int] | None:
    """Return where the storages lie in a file, offset → size; None unless it is a zip file that can be mapped."""
    if not bytes(source.view(0, min(4, source.size))).startswith(ZIP):
        return None
    import zipfile  # noqa: PLC0415 (it imports a lot, and few files need it)

    with _refusing(), zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        orders = {archive.open(one).read(_LONGEST) for one in records if _BYTE_ORDER(one.filename)}
    storages = [one for one in records if _STORAGE(one.filename)]
    if orders - {b"little"} or any(one.compress_type != zipfile.ZIP_STORED for one in storages):
        return None
    return {_start(one, source): one.file_size for one in storages}


def _start(record: zipfile.ZipInfo, source: ByteSource) -> int:
    """Return where the bytes of a record begin: behind its header, which ends in its name and more."""
    at = record.header_offset + _LENGTHS_AT
    name, more = struct.unpack("<HH", bytes(source.view(at, 4)) if at + 4 <= source.size else bytes(4))
    return at + 4 + int(name) + int(more)


def _loaded(torch: ModuleType, path: str, *, mapped: bool) -> tuple[Mapping[Any, Any], list[tuple[int, int]]]:
    """Unpickle a file → what is in it, and of each of its storages the address and the size."""
    storages: list[tuple[int, int]] = []

    def on_the_cpu(storage: Any, _: str) -> Any:  # noqa: ANN401 (torch's)
        storages.append((storage.data_ptr(), storage.nbytes()))
        return storage

    with _refusing(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = torch.load(path, weights_only=True, mmap=mapped, map_location=on_the_cpu)
    return loaded if isinstance(loaded, Mapping) else {}, storages


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn what another's parser raises into a typed error: whatever it is, the file is wrong.

    Raises:
        CheckpointError: ``bad-pickle``.
        OSError: It can't be read.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # that of an offset before the beginning
            raise
        what = f"it can't be read as PyTorch's pickled format: {_in_short(error)}"
        raise CheckpointError("bad-pickle", what) from None


def _in_short(error: Exception) -> str:
    """Return what matters in an error of torch, which also says how to read the file without its checks."""
    unsafe = _UNSAFE(str(error))
    if unsafe:
        fix = "load it where you trust it, and save the model's state_dict(), or save_pretrained(…)"
        return f"it needs {unsafe[1]}, which may run any code, and torch refuses that; {fix}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith(_ADVICE)]
    fix = "download it again, or save it as safetensors where it can be loaded"
    return f"{(lines or [type(error).__name__])[0][:_SHOWN_TEXT]}; {fix}"


def _state_of(loaded: Mapping[Any, Any], torch: ModuleType) -> tuple[str, Mapping[Any, Any]]:
    """Return the model's tensors by name, and the key that they are under; empty if they are at the top."""
    for wrapper in _WRAPPERS:
        inner = loaded.get(wrapper)
        if isinstance(inner, Mapping) and any(isinstance(value, torch.Tensor) for value in inner.values()):
            return wrapper, inner
    return "", loaded


def _base_of(storages: Sequence[tuple[int, int]], offsets: Mapping[int, int]) -> int | None:
    """Return the address where the file is mapped; None unless every storage is a record of the file."""
    if len(storages) != len(offsets) or not storages:
        return None
    base = min(storages)[0] - min(offsets)
    return base if {address - base: size for address, size in storages} == offsets else None


def _tensor(name: str, tensor: Any, path: str, source: ByteSource, base: int | None) -> SourceTensor:  # noqa: ANN401
    what = f"{name!r} is a"
    if str(tensor.layout) != "torch.strided" or tensor.device.type != "cpu":
        what = f"{what} tensor of {tensor.layout} on {tensor.device}"
        raise CheckpointError("unsupported-tensor", f"{what}: save it as a plain one, on the CPU")
    try:
        dtype = dtype_named(str(tensor.dtype).removeprefix("torch."))
    except UsageError:
        raise CheckpointError(
            "unsupported-dtype", f"{what} tensor of {tensor.dtype}: save it as another type"
        ) from None
    shape = tuple(int(size) for size in tensor.shape)
    plain = tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg()
    if base is not None and plain:
        nbytes = math.prod(shape) * dtype.itemsize
        start = tensor.untyped_storage().data_ptr() - base + tensor.storage_offset() * dtype.itemsize
        return SourceTensor(name, type_of(dtype), shape, path, FileRange(source, start, nbytes))
    return SourceTensor(name, type_of(dtype), shape, path, None, partial(_elements, _array_of(tensor, dtype)))


def _array_of(tensor: Any, dtype: np.dtype[Any]) -> Array:  # noqa: ANN401 (torch's)
    """View a tensor as an array; numpy and torch don't know each other's bfloat16, but integers of the same size."""
    torch = import_module("torch")
    plain = tensor.detach().resolve_conj().resolve_neg()
    integer = getattr(torch, f"int{8 * dtype.itemsize}")
    array: Array = plain.view(integer).numpy().view(dtype)
    return array


def _elements(array: Array, first: int, count: int) -> Array:
    """Return some elements of an array in C order, whatever its strides; only the rows that have them are copied."""
    if not array.ndim or not count:
        return array.reshape(-1)[first : first + count]
    width = array.size // len(array)
    row = first // width
    rows = array[row : -(-(first + count) // width)]
    return rows.reshape(-1)[first - row * width :][:count]
