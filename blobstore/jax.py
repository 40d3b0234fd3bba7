"""Jax arrays, with the functions of ``safetensors.flax``. Needs jax.

On the CPU an array of `open` is a view of the mapped file, bfloat16 included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore.codecs.element_types import type_of
from blobstore.errors import UsageError
from blobstore.store import files
from blobstore.store.framework import FrameworkStore, import_extra

if TYPE_CHECKING:
    from collections.abc import Mapping

    import jax

    from blobstore.codecs.element_types import ElementType
    from blobstore.fileio.types import Access, Array, Buffer, Prefetch, Readable, Writable
    from blobstore.store.vocabulary import By
else:
    jax = import_extra("jax")

__all__ = ["JaxStore", "load", "load_file", "open", "save", "save_file"]


class JaxStore(FrameworkStore["jax.Array"]):
    """The tensors of a file, by name, on jax's default device. `open` makes one.

    On the CPU arrays are views of the mapped file if they begin at a multiple of 64 bytes there, as every blob does (a
    part of one may not); jax copies all others. They stay valid after `close`. Encoded ones (sfp, i8, …) are decoded to
    float32, to a new array each time.

    Example:
        >>> blobstore.jax.open("model.sbs")["layer.weight"].shape
        (64, 32)
    """

    def _convert(self, name: str, kind: ElementType | None, values: Array) -> jax.Array:
        if jax.dtypes.canonicalize_dtype(values.dtype) != values.dtype:
            what = f"{name!r} is {kind or type_of(values.dtype)}, which jax would narrow to 32 bits"
            fix = "with jax.enable_x64(True): load it there, or load(name, dtype=…) converts it"
            raise UsageError("needs-x64", f"{what}: {fix}")
        array: jax.Array = jax.device_put(values)
        return array


def open(  # noqa: A001
    path: Readable,
    *,
    access: Access = "auto",
    use_index: bool = True,
    base: Readable | None = None,
    prefetch: Prefetch = "none",
    by: By = "names",
) -> JaxStore:
    """Open a .sbs file: a mapping from name to jax array.

    Args:
        path: As `blobstore.open`.
        access: As `blobstore.open`; with ``read`` each array is a copy.
        use_index: As `blobstore.open`.
        base: As `blobstore.open`.
        prefetch: As `blobstore.open`.
        by: As `blobstore.open`.

    Raises:
        UsageError, FormatError, TruncatedError, OSError: As `blobstore.open`.

    Example:
        >>> with blobstore.jax.open("model.sbs") as store:
        ...     rows = store.load("layer.weight", rows=slice(0, 8))
        >>> rows.shape
        (8, 32)
    """
    return JaxStore(path, access=access, use_index=use_index, base=base, prefetch=prefetch, by=by)


def load_file(
    path: Readable,
    *,
    access: Access = "auto",
    use_index: bool = True,
    base: Readable | None = None,
    prefetch: Prefetch = "none",
    by: By = "names",
) -> dict[str, jax.Array]:
    """Return every tensor of a file, in new memory, as ``safetensors.flax.load_file`` does.

    All names of one tensor get the same array. For views without copies use `open`.

    Args:
        path: As `blobstore.open`.
        access: As `blobstore.open`.
        use_index: As `blobstore.open`.
        base: As `blobstore.open`.
        prefetch: As `blobstore.open`.
        by: As `blobstore.open`.

    Raises:
        UsageError, FormatError, TruncatedError, OSError: As `blobstore.open`.
        CodecError: As `JaxStore.get_tensor`.
        UsageError: ``needs-x64`` for a type of 64 bits, which jax narrows unless told otherwise.

    Example:
        >>> blobstore.jax.save_file({"w": jax.numpy.ones((4, 2))}, "w.sbs")
        >>> blobstore.jax.load_file("w.sbs")["w"].shape
        (4, 2)
    """
    with JaxStore(path, access=access, use_index=use_index, base=base, prefetch=prefetch, by=by) as store:
        return store.load_all()


def load(data: Buffer) -> dict[str, jax.Array]:
    """Return every tensor of a file whose bytes are in memory, as ``safetensors.flax.load`` does.

    Args:
        data: All bytes of the file; read, not kept.

    Raises:
        UsageError: ``not-bytes``, ``not-contiguous``, ``needs-x64``.
        FormatError, TruncatedError, CodecError: As `load_file`.

    Example:
        >>> blobstore.jax.load(blobstore.jax.save({"w": jax.numpy.ones(2)}))["w"].shape
        (2,)
    """
    return load_file(files.contents(data))


def save_file(
    tensors: Mapping[str, jax.Array],
    path: Writable,
    metadata: Mapping[str, str] | None = None,
    *,
    digests: bool = True,
    durable: bool = True,
) -> None:
    """Write arrays to a file, as ``safetensors.flax.save_file`` does.

    Arrays on the CPU are not copied; of those on other devices jax keeps a copy as long as they live. Two names for one
    array are stored once, as an alias.

    Args:
        tensors: Name → array.
        path: Replaced only by a complete file; or a binary stream, as for `blobstore.create`.
        metadata: Text → text.
        digests: As for `blobstore.create`.
        durable: As for `blobstore.create`.

    Raises:
        UsageError: As `blobstore.save_file`.

    Example:
        >>> blobstore.jax.save_file({"w": jax.numpy.ones((4, 2))}, "w.sbs", {"license": "apache-2.0"})
        >>> blobstore.jax.open("w.sbs").metadata
        {'license': 'apache-2.0'}
    """
    files.save_file(tensors, path, metadata, digests=digests, durable=durable)


def save(tensors: Mapping[str, jax.Array], metadata: Mapping[str, str] | None = None, *, digests: bool = True) -> bytes:
    """Return the bytes of the file that `save_file` writes, as ``safetensors.flax.save`` does.

    Args:
        tensors: Name → array.
        metadata: Text → text.
        digests: As for `blobstore.create`.

    Raises:
        UsageError: As `save_file`.

    Example:
        >>> blobstore.jax.save({"w": jax.numpy.ones(2)})[:3]
        b'SBS'
    """
    return files.save(tensors, metadata, digests=digests)
