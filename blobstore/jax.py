"""Jax arrays: `load_file`, `save_file` and `open` are modelled on ``safetensors.flax``. Needs jax.

On the CPU an array of `open` is a view of the mapped file, bfloat16 included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.errors import UsageError
from blobstore.store import files
from blobstore.store.framework import FrameworkStore, import_extra

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

    import jax

    from blobstore.fileio.types import Access, Array
    from blobstore.store.info import TensorInfo
else:
    jax = import_extra("jax")

__all__ = ["JaxStore", "load_file", "open", "save_file"]


class JaxStore(FrameworkStore["jax.Array"]):
    """The tensors of a file, by name, on jax's default device. `open` makes one.

    On the CPU arrays are views of the mapped file if they begin at a multiple of 64 bytes there, as every blob does (a
    part of one may not); jax copies all others. They stay valid after `close`. Tensors of type sfp, i8 and nuq are
    decoded to float32, to a new array each time.
    """

    def _convert(self, info: TensorInfo, values: Array) -> jax.Array:
        if jax.dtypes.canonicalize_dtype(values.dtype) != values.dtype:
            what = f"{info.name!r} is {info.type}, which jax would narrow to 32 bits"
            fix = "with jax.enable_x64(True): load it there, or load(name, dtype=…) converts it"
            raise UsageError("needs-x64", f"{what}: {fix}")
        array: jax.Array = jax.device_put(values)
        return array


def open(filename: str | PathLike[str], *, access: Access = "auto", use_index: bool = True) -> JaxStore:  # noqa: A001
    """Open a .sbs file: a mapping from name to jax array.

    Args:
        filename: As `blobstore.open`.
        access: As `blobstore.open`; with ``read`` each array is a copy.
        use_index: As `blobstore.open`.

    Raises:
        FormatError, TruncatedError, OSError: As `blobstore.open`.
    """
    return JaxStore(filename, access=access, use_index=use_index)


def load_file(filename: str | PathLike[str]) -> dict[str, jax.Array]:
    """Return every tensor of a file, in new arrays, as ``safetensors.flax.load_file`` does.

    All names of one tensor get the same array. For views without copies use `open`.

    Raises:
        FormatError, TruncatedError, OSError: As `blobstore.open`.
        CodecError: As `JaxStore.get_tensor`.
        UsageError: ``needs-x64`` for a type of 64 bits, which jax narrows unless told otherwise.
    """
    with JaxStore(filename) as store:
        return store.load_all()


def save_file(
    tensors: Mapping[str, jax.Array], filename: str | PathLike[str], metadata: Mapping[str, str] | None = None
) -> None:
    """Write arrays to a file, as ``safetensors.flax.save_file`` does.

    Arrays on the CPU are not copied; of those on other devices jax keeps a copy as long as they live. Two names for one
    array are stored once, as an alias.

    Args:
        tensors: Name → array.
        filename: Replaced only by a complete file.
        metadata: Text → text.

    Raises:
        UsageError: As `blobstore.StoreWriter.add`.
    """
    files.save_file(tensors, filename, metadata)
