"""The tensors of a file in PyTorch's pickled format (``.bin``, ``.pt``, ``.pth``, ``.ckpt``), read by torch.

torch reads the names; of tensors that lie in the file as they are, the bytes are then read like those of any other file.
"""

from __future__ import annotations

import math
import re
import struct
import sys
import warnings
import zipfile
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from blobstore.checkpoint.tensors import LeftOut, SourceTensor
from blobstore.codecs.element_types import dtype_named, type_of
from blobstore.errors import CheckpointError, MissingExtraError, UsageError
from blobstore.fileio.ranges import FileRange

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    import numpy as np

    from blobstore.fileio.types import Array, ByteSource

_ZIP = b"PK\3\4"
_PICKLE = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
_STORAGE = re.compile(r"[^/]+/data/[0-9]+").fullmatch
_BYTE_ORDER = re.compile(r"[^/]+/byteorder").fullmatch
_LENGTHS_AT = 26  # of a record's name and more, in its header
_UNSAFE = re.compile(r"Unsupported (?:global|class|operand)[^:]*:? *(?:GLOBAL )?([\w.]+)").search
_SAFE_FROM = (2, 6)  # before, weights_only=True runs code of a hostile file (CVE-2025-32434)
# What trainers save a model's tensors under.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
_SHOWN_TEXT = 200


class Pickled(NamedTuple):
    """What a pickled file has.

    Attributes:
        tensors: Those of the model, in the order of their bytes.
        left_out: What isn't a tensor of the model.
        notes: What a user should know.
    """

    tensors: list[SourceTensor]
    left_out: list[LeftOut]
    notes: list[str]


def looks_pickled(head: bytes) -> bool:
    """Whether a file may be PyTorch's, by its first bytes."""
    return head.startswith((_ZIP, *_PICKLE)) and b".npy" not in head


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
    torch = _torch(path)
    offsets = _offsets_in_zip(path, source)
    loaded, storages = _loaded(torch, path, mapped=offsets is not None)
    wrapper, state = _state_of(loaded, torch)
    left_out = [LeftOut(str(key), "tensor", f"in {path!r}, but not under {wrapper!r}") for key in loaded if wrapper and key != wrapper]
    notes = [f"{path!r}: the tensors under {wrapper!r} are taken"] if wrapper else []
    if offsets is None:
        notes.append(f"{path!r} can't be mapped, as torch.save writes it since 1.6: all of it is in memory")
    base = _base_of(storages, offsets or {})
    tensors = []
    for name, value in state.items():
        if isinstance(name, str) and isinstance(value, torch.Tensor):
            tensors.append(_tensor(name, value, path, source, base))
        else:
            left_out.append(LeftOut(str(name), "tensor", f"in {path!r}, but not a tensor"))
    if not tensors:
        raise CheckpointError("no-tensors", f"{path!r} has no tensors by name, as torch.save(model.state_dict(), …) writes")
    tensors.sort(key=lambda tensor: tensor.stored.offset if tensor.stored else -1)
    return Pickled(tensors, left_out, notes)


def _torch(path: str) -> ModuleType:
    fix = "pip install 'torch>=2.6'; or save it as safetensors elsewhere: save_pretrained(…, safe_serialization=True)"
    what = f"{path!r} is in PyTorch's pickled format"
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
    if not bytes(source.view(0, min(4, source.size))).startswith(_ZIP):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            foreign = any(_BYTE_ORDER(one.filename) and archive.read(one) != sys.byteorder.encode() for one in records)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError) as error:
        raise _unreadable(path, f"{error}: truncated download?") from None
    storages = [one for one in records if _STORAGE(one.filename)]
    if foreign or any(one.compress_type != zipfile.ZIP_STORED for one in storages):
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

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(path, weights_only=True, mmap=mapped, map_location=on_the_cpu)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 (another's parser: whatever it raises, the file is wrong)
        raise _unreadable(path, _in_short(str(error) or type(error).__name__)) from None
    if not isinstance(loaded, Mapping):
        loaded = {}
    return loaded, storages


def _in_short(error: str) -> str:
    """Return what matters in an error of torch, whose advice is to read the file without its checks."""
    unsafe = _UNSAFE(error)
    if unsafe:
        return f"it needs {unsafe[1]}, which may run any code, and torch refuses that"
    return error.split("WeightsUnpickler error:")[-1].strip().split("\n")[0][:_SHOWN_TEXT]


def _unreadable(path: str, why: str) -> CheckpointError:
    fix = "save it as safetensors where it can be loaded"
    return CheckpointError("bad-pickle", f"{path!r} can't be read as PyTorch's pickled format: {why}; {fix}")


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


def _tensor(name: str, tensor: Any, path: str, source: ByteSource, base: int | None) -> SourceTensor:  # noqa: ANN401 (torch's)
    what = f"{name!r} in {path!r} is a"
    if str(tensor.layout) != "torch.strided" or tensor.device.type != "cpu":
        what = f"{what} tensor of {tensor.layout} on {tensor.device}"
        raise CheckpointError("unsupported-tensor", f"{what}: save it as a plain one, on the CPU")
    try:
        dtype = dtype_named(str(tensor.dtype).removeprefix("torch."))
    except UsageError:
        raise CheckpointError("unsupported-dtype", f"{what} tensor of {tensor.dtype}: save it as another type") from None
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
