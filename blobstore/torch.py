"""Torch tensors: `load_file`, `save_file` and `open` are modelled on ``safetensors.torch``. Needs torch.

On the CPU a tensor of `open` is a view of the mapped file, bfloat16 included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from blobstore.codecs.element_types import dtype_named
from blobstore.errors import UsageError
from blobstore.store.files import save_each
from blobstore.store.framework import FrameworkStore, import_extra

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

    import numpy.typing as npt
    import torch

    from blobstore.fileio.types import Access, Array
    from blobstore.store.info import TensorInfo

    Device: TypeAlias = str | int | torch.device
else:
    torch = import_extra("torch")

__all__ = ["TorchStore", "load_file", "open", "save_file"]


class TorchStore(FrameworkStore["torch.Tensor"]):
    """The tensors of a file, by name. `open` makes one.

    On the CPU tensors are views of the mapped file and stay valid after `close`. The map is copy-on-write, as in
    safetensors: you can write to a tensor; all tensors that share its memory change with it, the file never does.
    Tensors of type sfp, i8 and nuq are decoded to float32, to a new tensor each time.

    ``store[name][8:16]`` reads only these rows of a view. Of an encoded one, `load` decodes only the rows you ask for.

    Attributes:
        device: Where tensors are put. Any device but the CPU gets copies.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        device: Device = "cpu",
        *,
        access: Access = "auto",
        use_index: bool = True,
    ) -> None:
        """Open a file; see `open`."""
        super().__init__(path, access=access, use_index=use_index, writable=True)
        self.device = device

    def load(
        self, name: str, *, dtype: torch.dtype | npt.DTypeLike | None = None, rows: slice | None = None
    ) -> torch.Tensor:
        """Return a tensor, or some of its rows, in a new tensor.

        Args:
            name: Its name.
            dtype: A dtype of torch or numpy to convert to (encoded tensors are decoded to it); by default the one that
                ``self[name]`` has.
            rows: Which rows of the first dimension. Only these are read and decoded.

        Raises:
            NameNotFoundError, CodecError, UsageError: As `get_tensor`; ``no-rows``.
        """
        return super().load(name, dtype=_numpy_dtype(dtype) if isinstance(dtype, torch.dtype) else dtype, rows=rows)

    def _convert(self, info: TensorInfo, values: Array) -> torch.Tensor:
        dtype = getattr(torch, values.dtype.name, None)
        if dtype is None:
            what = f"{info.name!r} is {info.type}, and torch {torch.__version__} has no {values.dtype.name}"
            raise UsageError("unsupported-dtype", f"{what}: load(name, dtype=torch.float32) converts it")
        # numpy and torch don't know each other's bfloat16: pass integers of the same size.
        plain = torch.from_numpy(values.view(f"i{values.itemsize}"))
        return plain.view(dtype).to(self.device)


def open(  # noqa: A001
    filename: str | PathLike[str], device: Device = "cpu", *, access: Access = "auto", use_index: bool = True
) -> TorchStore:
    """Open a .sbs file: a mapping from name to torch tensor.

    Args:
        filename: As `blobstore.open`.
        device: Where tensors are put: on the CPU as views of the mapped file, elsewhere as copies.
        access: As `blobstore.open`; with ``read`` each tensor is a copy.
        use_index: As `blobstore.open`.

    Raises:
        FormatError, TruncatedError, OSError: As `blobstore.open`.
    """
    return TorchStore(filename, device, access=access, use_index=use_index)


def load_file(filename: str | PathLike[str], device: Device = "cpu") -> dict[str, torch.Tensor]:
    """Return every tensor of a file, in new tensors, as ``safetensors.torch.load_file`` does.

    All names of one tensor get the same tensor: tied weights stay tied. For views without copies use `open`.

    Raises:
        FormatError, TruncatedError, OSError: As `blobstore.open`.
        CodecError, UsageError: As `TorchStore.get_tensor`.
    """
    with TorchStore(filename, device) as store:
        return store.load_all()


def save_file(
    tensors: Mapping[str, torch.Tensor], filename: str | PathLike[str], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors to a file, as ``safetensors.torch.save_file`` does.

    Two names for one tensor (the same memory, shape, strides and dtype) are stored once, as an alias. Tensors may have
    any strides: they are written in C order, without a copy of the whole. Tensors on other devices are copied to the
    CPU one at a time.

    Args:
        tensors: Name → tensor.
        filename: Replaced only by a complete file.
        metadata: Text → text.

    Raises:
        UsageError: ``not-a-tensor``; ``unsupported-tensor`` for a tensor that is sparse, quantised, nested or without
            data (meta); ``unsupported-dtype``; and as `blobstore.StoreWriter.add`.
    """
    checked = ((name, _checked(name, tensor)) for name, tensor in tensors.items())
    save_each(checked, filename, metadata, place=_place, values=_as_array)


def _checked(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor that has its values in strided memory; refuse others."""
    if not isinstance(tensor, torch.Tensor):
        raise UsageError("not-a-tensor", f"{name!r} is a {type(tensor).__name__}, expected a torch.Tensor")
    if tensor.is_quantized:
        raise _unsupported(name, "quantised", "save tensor.dequantize(), or tensor.int_repr() and the scales")
    if tensor.is_nested:
        raise _unsupported(name, "nested", "save its parts, tensor.unbind()")
    if tensor.layout != torch.strided:
        raise _unsupported(name, f"of layout {tensor.layout}", "save tensor.to_dense()")
    if tensor.is_meta:
        raise _unsupported(name, "on the device meta", "it has no values: load or initialise it first")
    try:
        _numpy_dtype(tensor.dtype)
    except UsageError as error:
        raise UsageError(error.reason, f"{name!r}: {error.message}") from None
    return tensor


def _unsupported(name: str, what: str, fix: str) -> UsageError:
    return UsageError("unsupported-tensor", f"{name!r} is {what}, which has no stored form: {fix}")


def _place(tensor: torch.Tensor) -> object:
    if not tensor.numel():
        return None
    # data_ptr is the first element's address: it includes the offset in the storage.
    bits = (tensor.dtype, tensor.is_conj(), tensor.is_neg())
    return tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), bits


def _as_array(tensor: torch.Tensor) -> Array:
    """Return a tensor's values; without a copy when it is on the CPU and not a lazy conjugate."""
    dtype = _numpy_dtype(tensor.dtype)
    plain = tensor.detach().cpu().resolve_conj().resolve_neg()
    integers = getattr(torch, np.dtype(f"i{dtype.itemsize}").name)
    array: Array = plain.view(integers).numpy()
    return array.view(dtype)


def _numpy_dtype(dtype: torch.dtype) -> np.dtype[np.generic]:
    """Return the numpy dtype of the same name: torch and ml_dtypes agree on names."""
    return dtype_named(str(dtype).removeprefix("torch."))
