"""Torch tensors, with the functions of ``safetensors.torch``. Needs torch.

On the CPU a tensor of `open` is a view of the mapped file, bfloat16 included.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

from blobstore.codecs.element_types import BY_NAME, dtype_named, type_of
from blobstore.errors import ModelMismatchError, UsageError, in_file
from blobstore.store.files import Stored, bytes_of_each, contents, pairs_of, save_each
from blobstore.store.framework import FrameworkStore, import_extra

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    import numpy.typing as npt
    import torch

    from blobstore.codecs.element_types import ElementType
    from blobstore.fileio.types import Access, Array, Buffer, Prefetch, Readable, Writable
    from blobstore.store.info import TensorInfo
    from blobstore.store.slices import Rows
    from blobstore.store.vocabulary import By

    Device: TypeAlias = str | int | torch.device
else:
    torch = import_extra("torch")

__all__ = ["TorchStore", "load", "load_file", "load_model", "open", "save", "save_file", "save_model"]

_FLOAT4 = "float4_e2m1fn_x2"  # two values in each element; since torch 2.8


class TorchStore(FrameworkStore["torch.Tensor"]):
    """The tensors of a file, by name. `open` makes one.

    On the CPU tensors are views of the mapped file and stay valid after `close`. The map is copy-on-write, as in
    safetensors: you can write to a tensor; all tensors that share its memory change with it, the file never does.
    Encoded tensors (sfp, i8, q4_0, …) are decoded to float32, to a new tensor each time.

    ``store[name][8:16]`` reads only these rows of a view. Of an encoded one, `load` decodes only the rows you ask for.

    Attributes:
        device: Where tensors are put. Any device but the CPU gets copies.

    Example:
        >>> blobstore.torch.save_file({"w": torch.ones(4, 2)}, "w.sbs")
        >>> store = blobstore.torch.open("w.sbs")
        >>> store["w"].sum()
        tensor(8.)
    """

    def __init__(
        self,
        path: Readable,
        device: Device = "cpu",
        *,
        access: Access = "auto",
        use_index: bool = True,
        base: Readable | None = None,
        prefetch: Prefetch = "none",
        by: By = "names",
    ) -> None:
        """Open a file; see `open`."""
        super().__init__(path, access=access, use_index=use_index, base=base, prefetch=prefetch, by=by, writable=True)
        self.device = device

    def load(
        self, name: str, *, dtype: torch.dtype | npt.DTypeLike | None = None, rows: Rows | None = None
    ) -> torch.Tensor:
        """Return a tensor, or some of its rows, in a new tensor.

        Args:
            name: Its name.
            dtype: A dtype of torch or numpy to convert to (encoded tensors are decoded to it); by default the one that
                ``self[name]`` has.
            rows: Which rows of the first dimension: one, a slice, or a list. Only these are read and decoded.

        Raises:
            NameNotFoundError, CodecError, UsageError: As `get_tensor`; ``no-rows``.
        """
        info = self.store.info(name)
        if isinstance(dtype, torch.dtype):
            is_its_own = self._viewed(info) is not info and str(dtype) == f"torch.{_FLOAT4}"
            dtype = None if is_its_own else _numpy_dtype(dtype)
        return super().load(name, dtype=dtype, rows=rows)

    def load_all(self) -> dict[str, torch.Tensor]:
        """Return every tensor in new memory: on the CPU read in large pieces on several threads.

        All names of one tensor get the same tensor. On the CPU names for some of its bytes share its memory, as they do
        in the file, and small tensors that lie near each other share one allocation of up to 4 MiB. On another device
        no tensor is held on the CPU besides.

        Raises:
            CodecError, UsageError: As `get_tensor`.
        """
        return super().load_all() if torch.device(self.device).type == "cpu" else self.get_tensors()

    def _convert(self, name: str, kind: ElementType | None, values: Array) -> torch.Tensor:
        dtype, is_shared = _torch_dtype(values.dtype)
        if kind and kind.name == "f4":
            dtype = getattr(torch, _FLOAT4)
        if dtype is None:
            lacking = f"torch {torch.__version__} has no {values.dtype.name}"
            what = f"{name!r} is {kind or type_of(values.dtype)}, and {lacking}"
            raise UsageError("unsupported-dtype", f"{what}: load(name, dtype=torch.float32) converts it")
        # numpy and torch don't know each other's bfloat16: pass integers of the same size.
        tensor = torch.from_numpy(values if is_shared else values.view(f"i{values.itemsize}"))
        if tensor.dtype != dtype:
            tensor = tensor.view(dtype)
        return tensor if self.device == "cpu" else tensor.to(self.device)

    def _viewed(self, info: TensorInfo) -> TensorInfo:
        if info.type.name != "f4" or info.scale != 1.0 or not info.shape or info.shape[-1] % 2:
            return info
        if not hasattr(torch, _FLOAT4):
            return info
        return info._replace(type=BY_NAME["u8"], shape=(*info.shape[:-1], info.shape[-1] // 2))


def open(  # noqa: A001
    path: Readable,
    device: Device = "cpu",
    *,
    access: Access = "auto",
    use_index: bool = True,
    base: Readable | None = None,
    prefetch: Prefetch = "none",
    by: By = "names",
) -> TorchStore:
    """Open a .sbs file: a mapping from name to torch tensor.

    Args:
        path: As `blobstore.open`.
        device: Where tensors are put: on the CPU as views of the mapped file, elsewhere as copies.
        access: As `blobstore.open`; with ``read`` each tensor is a copy.
        use_index: As `blobstore.open`.
        base: As `blobstore.open`.
        prefetch: As `blobstore.open`.
        by: As `blobstore.open`.

    Raises:
        UsageError, FormatError, TruncatedError, OSError: As `blobstore.open`.

    Example:
        >>> with blobstore.torch.open("model.sbs") as store:
        ...     rows = store.load("layer.weight", rows=slice(0, 8), dtype=torch.bfloat16)
        >>> rows.shape, rows.dtype
        (torch.Size([8, 32]), torch.bfloat16)
    """
    return TorchStore(path, device, access=access, use_index=use_index, base=base, prefetch=prefetch, by=by)


def load_file(
    path: Readable,
    device: Device = "cpu",
    *,
    access: Access = "auto",
    use_index: bool = True,
    base: Readable | None = None,
    prefetch: Prefetch = "none",
    by: By = "names",
) -> dict[str, torch.Tensor]:
    """Return every tensor of a file, in new memory, as ``safetensors.torch.load_file`` does.

    All names of one tensor get the same tensor: tied weights stay tied. For views without copies use `open`.

    Args:
        path: As `blobstore.open`.
        device: Where the tensors are put.
        access: As `blobstore.open`.
        use_index: As `blobstore.open`.
        base: As `blobstore.open`.
        prefetch: As `blobstore.open`.
        by: As `blobstore.open`.

    Raises:
        UsageError, FormatError, TruncatedError, OSError: As `blobstore.open`.
        CodecError, UsageError: As `TorchStore.get_tensor`.

    Example:
        >>> blobstore.torch.save_file({"w": torch.ones(4, 2)}, "w.sbs")
        >>> blobstore.torch.load_file("w.sbs")["w"].shape
        torch.Size([4, 2])
    """
    with TorchStore(path, device, access=access, use_index=use_index, base=base, prefetch=prefetch, by=by) as store:
        return store.load_all()


def load(data: Buffer, device: Device = "cpu") -> dict[str, torch.Tensor]:
    """Return every tensor of a file whose bytes are in memory, as ``safetensors.torch.load`` does.

    Args:
        data: All bytes of the file; read, not kept.
        device: Where the tensors are put.

    Raises:
        UsageError: ``not-bytes``, ``not-contiguous``.
        FormatError, TruncatedError, CodecError: As `load_file`.

    Example:
        >>> blobstore.torch.load(blobstore.torch.save({"w": torch.ones(2)}))
        {'w': tensor([1., 1.])}
    """
    return load_file(contents(data), device)


def save_file(
    tensors: Mapping[str, torch.Tensor],
    path: Writable,
    metadata: Mapping[str, str] | None = None,
    *,
    digests: bool = True,
    durable: bool = True,
) -> None:
    """Write tensors to a file, as ``safetensors.torch.save_file`` does.

    Two names for one tensor (the same memory, shape, strides and dtype) are stored once, as an alias. Tensors may have
    any strides: they are written in C order, without a copy of the whole. Tensors on other devices are copied to the
    CPU one at a time.

    Args:
        tensors: Name → tensor.
        path: Replaced only by a complete file; or a binary stream, as for `blobstore.create`.
        metadata: Text → text.
        digests: As for `blobstore.create`.
        durable: As for `blobstore.create`.

    Raises:
        UsageError: ``not-a-mapping``; ``not-a-tensor``; ``unsupported-tensor`` for a tensor that is sparse, quantised,
            nested or without data (meta); ``unsupported-dtype``; and as `blobstore.StoreWriter.add`.

    Example:
        >>> embedding = torch.ones(8, 4)
        >>> blobstore.torch.save_file({"embed": embedding, "head": embedding}, "tied.sbs")
        >>> tensors = blobstore.torch.load_file("tied.sbs")
        >>> tensors["embed"] is tensors["head"]
        True
    """
    save_each(_pairs(tensors), path, metadata, place=_place, values=_values, digests=digests, durable=durable)


def save(
    tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None, *, digests: bool = True
) -> bytes:
    """Return the bytes of the file that `save_file` writes, as ``safetensors.torch.save`` does.

    Args:
        tensors: Name → tensor.
        metadata: Text → text.
        digests: As for `blobstore.create`.

    Raises:
        UsageError: As `save_file`.

    Example:
        >>> blobstore.torch.save({"w": torch.ones(2)})[:3]
        b'SBS'
    """
    return bytes_of_each(_pairs(tensors), metadata, place=_place, values=_values, digests=digests)


def save_model(
    model: torch.nn.Module,
    path: Writable,
    metadata: Mapping[str, str] | None = None,
    *,
    digests: bool = True,
    durable: bool = True,
) -> None:
    """Write the state of a model, as ``safetensors.torch.save_model`` does.

    All names of tied weights are in the file, their values once. It is ``save_file(model.state_dict(), path)``.

    Args:
        model: Its ``state_dict()`` is written.
        path: As `save_file`.
        metadata: Text → text.
        digests: As for `blobstore.create`.
        durable: As for `blobstore.create`.

    Raises:
        UsageError: As `save_file`.

    Example:
        >>> model = torch.nn.Linear(4, 2)
        >>> blobstore.torch.save_model(model, "linear.sbs")
        >>> blobstore.torch.load_model(torch.nn.Linear(4, 2), "linear.sbs")
        ([], [])
    """
    save_file(model.state_dict(), path, metadata, digests=digests, durable=durable)


def load_model(
    model: torch.nn.Module,
    path: Readable,
    strict: bool = True,  # noqa: FBT001, FBT002 (as safetensors.torch has it)
    device: Device = "cpu",
    *,
    access: Access = "auto",
    use_index: bool = True,
    base: Readable | None = None,
    prefetch: Prefetch = "none",
    by: By = "names",
) -> tuple[list[str], list[str]]:
    """Copy the tensors of a file into a model, as ``safetensors.torch.load_model`` does.

    Of tied weights the file may have any name, or all. A name is unexpected as well if the model ties it to another
    for which the file has other values: the model can hold only one of them.

    Args:
        model: Changed in place. Its tensors keep their dtype and device.
        path: As `blobstore.open`.
        strict: Refuse a file that has other names than the model.
        device: Where tensors are put before they are copied into the model. On the CPU they are views of the file.
        access: As `blobstore.open`.
        use_index: As `blobstore.open`.
        base: As `blobstore.open`.
        prefetch: As `blobstore.open`.
        by: As `blobstore.open`.

    Returns:
        The names of the model that the file hasn't, and those of the file that the model hasn't; sorted.

    Raises:
        ModelMismatchError: ``model-mismatch``: with ``strict``, missing or unexpected names; always, other shapes. The
            model has been changed where names and shapes agree, as by ``load_state_dict``.
        UsageError, FormatError, TruncatedError, OSError, CodecError: As `load_file`.

    Example:
        >>> blobstore.torch.save_file({"weight": torch.ones(2, 4)}, "weight.sbs")
        >>> blobstore.torch.load_model(torch.nn.Linear(4, 2), "weight.sbs", strict=False)
        (['bias'], [])
    """
    with TorchStore(path, device, access=access, use_index=use_index, base=base, prefetch=prefetch, by=by) as store:
        state = store.get_tensors()
        with in_file(store.store.path):
            return _load_state(model, state, strict=strict)


def _load_state(
    model: torch.nn.Module, state: Mapping[str, torch.Tensor], *, strict: bool
) -> tuple[list[str], list[str]]:
    ties = _ties(model.state_dict())
    try:
        result = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # torch's, for other shapes
        raise ModelMismatchError("model-mismatch", str(error)) from None
    missing, unexpected = set(result.missing_keys), set(result.unexpected_keys)
    for names in ties:
        found = [name for name in names if name in state]
        if found:
            missing -= set(names)
            unexpected |= {name for name in found if not _same(state[name], state[found[0]])}
    if strict and (missing or unexpected):
        message = _mismatch(type(model).__name__, sorted(missing), sorted(unexpected))
        raise ModelMismatchError("model-mismatch", message)
    return sorted(missing), sorted(unexpected)


def _mismatch(model: str, missing: list[str], unexpected: list[str]) -> str:
    kinds = [(kind, names) for kind, names in (("Missing", missing), ("Unexpected", unexpected)) if names]
    lists = "; ".join(
        f"{kind} key(s) in state_dict: " + ", ".join(f'"{name}"' for name in names) for kind, names in kinds
    )
    return f"the file doesn't fit {model}: {lists}: strict=False loads the rest"


def _ties(state: Mapping[str, Any]) -> list[list[str]]:
    """Return the names of each tensor of a model that has several."""
    by_place: dict[object, list[str]] = {}
    for name, tensor in state.items():
        place = _place(tensor) if isinstance(tensor, torch.Tensor) and not tensor.is_meta else None
        if place is not None:
            by_place.setdefault(place, []).append(name)
    return [names for names in by_place.values() if len(names) > 1]


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a is b:
        return True
    # As integers: a NaN is itself, and 8-bit floats have no comparison.
    same_kind = (a.shape, a.dtype) == (b.shape, b.dtype)
    return same_kind and torch.equal(a.view(_integers(a)), b.view(_integers(b)))


def _integers(tensor: torch.Tensor) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, f"int{8 * tensor.itemsize}")
    return dtype


def _pairs(tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    return ((name, _checked(name, tensor)) for name, tensor in pairs_of(tensors))


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
    if str(tensor.dtype) == f"torch.{_FLOAT4}":
        return tensor
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


def _values(tensor: torch.Tensor) -> Array | Stored:
    """Return a tensor's values; without a copy when it is on the CPU and not a lazy conjugate."""
    if str(tensor.dtype) == f"torch.{_FLOAT4}":
        octets = tensor.detach().cpu().view(torch.uint8).contiguous()
        shape = tuple(tensor.shape)
        return Stored(octets.numpy(), "f4", (*shape[:-1], 2 * shape[-1]))
    dtype = _numpy_dtype(tensor.dtype)
    plain = tensor.detach().cpu().resolve_conj().resolve_neg()
    array: Array = plain.view(_integers(plain)).numpy()
    return array.view(dtype)


@cache
def _torch_dtype(dtype: np.dtype[np.generic]) -> tuple[torch.dtype | None, bool]:
    """Return the torch dtype of the same name, if there is one; and whether torch takes arrays of numpy's."""
    return getattr(torch, dtype.name, None), dtype.type.__module__ == "numpy"


def _numpy_dtype(dtype: torch.dtype) -> np.dtype[np.generic]:
    """Return the numpy dtype of the same name: torch and ml_dtypes agree on names."""
    return dtype_named(str(dtype).removeprefix("torch."))
