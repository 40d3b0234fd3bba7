"""`Store`: a file's tensors as a mapping from name to array."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from blobstore.codecs import decode
from blobstore.container.keys import CONFIG_KEY, NO_TOKENIZER, TOKENIZER_KEY
from blobstore.container.reader import BlobReader
from blobstore.container.suggest import close_to
from blobstore.errors import CodecError, FormatError, NameNotFoundError, UsageError, in_file
from blobstore.fileio.closing import Closing
from blobstore.fileio.threads import check_workers
from blobstore.index.locate import find_index
from blobstore.store.catalog import BlobCatalog, open_catalog

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from blobstore.fileio.types import Access, Array, Bytes, Prefetch, Readable
    from blobstore.gemma.config import ModelConfig
    from blobstore.store.blobs import UnpackedBlobs
    from blobstore.store.catalog import Catalog
    from blobstore.store.info import TensorInfo


class Store(Mapping[str, "Array"], Closing):
    """The tensors of a file, by name. `blobstore.open` makes one.

    Arrays are read-only views into the map (with ``access="read"``: copies), in the dtype they are stored in. They stay
    valid after `close`.

    Attributes:
        reader: The file's blobs, by key.
        index: The file's name index, or None.
    """

    def __init__(
        self,
        path: Readable,
        *,
        access: Access = "auto",
        use_index: bool = True,
        base: Readable | None = None,
        writable: bool = False,
        prefetch: Prefetch = "none",
    ) -> None:
        """Open a file; see `blobstore.open`. ``writable`` as `BlobReader` has it, for `elements` and `raw`."""
        self._base: Store | None = None
        self.reader = BlobReader(path, access=access, writable=writable, prefetch=prefetch)
        try:
            self.index = find_index(self.reader, whole=False) if use_index else None
            with in_file(self.reader.path):
                self._catalog = self._open_catalog(use_index=use_index)
            self._base = None if base is None else Store(base, access=access)
        except BaseException:
            self.close()
            raise

    def _open_catalog(self, *, use_index: bool) -> Catalog:
        if not use_index:
            return BlobCatalog(self.reader.directory)
        return open_catalog(self.reader, self.reader.directory, self.index)

    @cached_property
    def unpacked(self) -> UnpackedBlobs:
        """The file's blobs as they were before packing."""
        from blobstore.store.blobs import UnpackedBlobs  # noqa: PLC0415 (import blobstore stays cheap)

        base = self._base.unpacked if self._base else None
        return UnpackedBlobs(self.reader, self.index, base)

    @property
    def path(self) -> str:
        """The file's path, as given."""
        return self.reader.path

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata that the writer added, text → text; empty without an index. A copy.

        Raises:
            FormatError: ``index-metadata``: it is damaged.
        """
        if not self.index:
            return {}
        with in_file(self.index.path):
            return dict(self.index.metadata)

    @cached_property
    def config(self) -> ModelConfig | None:
        """The model's config, from the blob ``config`` of gemma.cpp; None without one.

        Raises:
            FormatError: ``fields-…``: it is damaged.
        """
        from blobstore.gemma.config import ModelConfig  # noqa: PLC0415 (import blobstore stays cheap)

        if CONFIG_KEY not in self.reader:
            return None
        with in_file(self.path):
            return ModelConfig.from_bytes(self.reader[CONFIG_KEY])

    @property
    def tokenizer(self) -> bytes | None:
        """The SentencePiece model that gemma.cpp tokenizes with; None without one. A copy."""
        raw = bytes(self.reader.get(TOKENIZER_KEY, b""))
        return raw if raw not in (b"", NO_TOKENIZER) else None

    @property
    def base_path(self) -> str | None:
        """Path of the file that packed tensors may be the difference to, as given; None without one."""
        return self._base.path if self._base else None

    def info(self, name: str) -> TensorInfo:
        """Return a tensor's key, type, shape and place. Its data is not touched.

        Raises:
            NameNotFoundError: ``name-not-found``; the message says which names come close.
        """
        info = self._catalog.find(name) if isinstance(name, str) else None
        if info is None:
            raise NameNotFoundError("name-not-found", f"no tensor has the name {name!r}{self._hint(str(name))}")
        return info

    def infos(self) -> Iterator[TensorInfo]:
        """Yield the `info` of each tensor, in the order of the names."""
        return iter(self._catalog)

    def raw(self, name: str) -> memoryview:
        """Return the bytes of a tensor, by name, as its type stores them; or those of any blob, by key.

        A read-only view; a copy of the unpacked bytes where the tensor is packed. Its packed bytes are
        ``store.reader[info.key]``.

        Raises:
            NameNotFoundError: ``name-not-found``: neither a name nor a key.
            FormatError: ``packed-…``: the packed blob is damaged.
            UsageError: ``needs-base``, ``wrong-base``: as `stored`.
        """
        info = self._catalog.find(name)
        if info is None and name in self.reader:
            return self.reader[name]
        info = info or self.info(name)
        return self.stored(info, 0, info.element_nbytes)

    def array(self, info: TensorInfo) -> Array:
        """Return a tensor's values, read-only, as ``store[name]`` does.

        A view where the file holds them as numpy does, a copy where they are packed; encoded ones are decoded to a new
        float32 array.

        Args:
            info: From `info` or `infos`.

        Raises:
            CodecError: ``unknown-type``, ``unknown-codec``, ``packed-type``, ``scaled-type``: this version can't decode
                it; ``sfp-reserved-code``: its bytes are wrong.
            FormatError: ``packed-…``: the packed blob is damaged.
        """
        if info.dtype is None:
            raise _undecodable(info)
        values = self.elements(info, 0, info.count)
        values.flags.writeable = False
        return values.reshape(info.shape)

    def load(self, name: str, *, dtype: npt.DTypeLike | None = None, rows: slice | None = None) -> Array:
        """Return a tensor's values, or some of its rows, in a new array; writable.

        Args:
            name: Its name.
            dtype: To convert to; by default the one that ``store[name]`` has.
            rows: Which rows of the first dimension. Only these are read and decoded.

        Raises:
            NameNotFoundError: ``name-not-found``.
            UsageError: ``no-rows`` when it has no dimension to slice.
            CodecError: As `array`; ``not-float`` when encoded values are to be anything but floats.
        """
        info = self.info(name)
        if info.dtype is None:
            raise _undecodable(info)
        wanted = np.dtype(dtype) if dtype is not None else info.dtype
        shape, first, count, step = _rows(info, rows)
        if info.encoded:
            values = self._decode(info, first, count, wanted).reshape(shape)
            return values if step == 1 else values[::step].copy()
        view = self._view(info, first, count).reshape(shape)
        if info.packed and step == 1 and view.dtype == wanted and view.size:
            return view  # already a copy
        return np.array(view if step == 1 else view[::step], dtype=wanted)

    def elements(self, info: TensorInfo, first: int, count: int) -> Array:
        """Return some elements of a tensor, shape (count,): a view where numpy has their type, else decoded.

        Args:
            info: From `info` or `infos`.
            first: The first element.
            count: How many; all inside the tensor.

        Raises:
            CodecError: As `array`.
        """
        if info.dtype is None:
            raise _undecodable(info)
        return self._decode(info, first, count, info.dtype) if info.encoded else self._view(info, first, count)

    def load_all(self, *, workers: int | None = None) -> dict[str, Array]:
        """Return every tensor by name, in memory and writable: read in large pieces on several threads.

        Names for the same bytes share memory, as they do in the file. Small tensors that lie near each other share one
        allocation of up to 4 MiB. Encoded tensors are decoded.

        Args:
            workers: Threads; by default one for each core.

        Raises:
            UsageError: ``bad-workers`` for fewer than one.
            CodecError: As `array`.
            TruncatedError: ``short-read`` when the file has shrunk.
        """
        from blobstore.store.load_all import load_all  # noqa: PLC0415 (import blobstore stays cheap)

        check_workers(workers)
        with in_file(self.path), self.reader.reading() as read_into:
            return load_all(self.infos(), read_into, lambda: self.unpacked, lambda info: self.load(info.name), workers)

    def stored(self, info: TensorInfo, start: int, nbytes: int, *, out: Bytes | None = None) -> memoryview:
        """Return bytes of a tensor as its type stores them; a view, or a copy where it is packed.

        Args:
            info: From `info` or `infos`.
            start: The first byte.
            nbytes: How many; all inside the tensor.
            out: What a packed tensor is unpacked to, shape (nbytes,); allocated unless given.

        Raises:
            FormatError: ``packed-…``: the packed blob is damaged.
            UsageError: ``needs-base``, ``wrong-base``: it is stored as the difference to a file that wasn't given.
        """
        if not info.packed:
            return self.reader.view(info.offset + start, nbytes)
        with in_file(self.path):
            try:
                return self.unpacked.read_packed(info.key, info.unpacked_nbytes, info.inside + start, nbytes, out=out)
            except FormatError as error:
                if error.path not in (None, self.path):  # the base's
                    raise
                raise type(error)(error.reason, f"{info.name!r}, in {error.message}", error.offset) from None
            except UsageError as error:
                if error.reason != "needs-base":
                    raise
                raise UsageError(error.reason, f"{info.name!r}, blob {error.message}") from None

    def _view(self, info: TensorInfo, first: int, count: int) -> Array:
        """View elements that are stored as numpy has them."""
        size = info.type.bits // 8
        if not count:
            return np.empty(0, dtype=info.dtype)
        return np.frombuffer(self.stored(info, first * size, count * size), dtype=info.type.dtype)

    def _decode(self, info: TensorInfo, first: int, count: int, dtype: npt.DTypeLike) -> Array:
        """Decode elements. Only the groups that they are in are read."""
        element_type = info.type
        group = element_type.group or 1
        start = first // group * group
        # Each group is stored with its table: from its first element on, the rest is stored as if it were alone.
        raw = self.stored(info, element_type.nbytes(start), element_type.nbytes(first + count - start))
        try:
            return decode(element_type, raw, count, scale=info.scale, dtype=dtype, start=first - start)
        except CodecError as error:
            raise CodecError(error.reason, f"{info.name!r}: {error.message}") from None

    def prefix(self, prefix: str) -> PrefixView:
        """Return a view of the names below a prefix: ``store.prefix("model.layers.0")["mlp.up_proj.weight"]``."""
        return PrefixView(self, prefix)

    def close(self) -> None:
        """Let go of the file; arrays stay valid until the last of them is gone."""
        self.reader.close()
        if self._base:
            self._base.close()

    def _hint(self, name: str) -> str:
        names = self._catalog.names
        # Hugging Face leaves the head out when it is the embedding, but readers still look for it.
        tied = next((tensor for tensor in names if tensor.endswith("embed_tokens.weight")), None)
        if tied and name.endswith("lm_head.weight"):
            return f": in a model with tied weights it is the embedding, {tied!r}"
        return close_to(name, names)

    def __getitem__(self, name: str) -> Array:
        return self.array(self.info(name))

    def get(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 (as a mapping's)
        """Return a tensor's values, or ``default``. Near misses are not searched for."""
        info = self._catalog.find(name)
        return default if info is None else self.array(info)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._catalog.find(name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._catalog.names)

    def __len__(self) -> int:
        return len(self._catalog.names)

    def __repr__(self) -> str:
        return f"<Store {self.path!r}: {len(self)} tensors, {self.reader.file_size} bytes>"


class PrefixView(Mapping[str, "Array"]):
    """The tensors of a store whose names begin with a prefix and a dot, by the rest of the name."""

    def __init__(self, store: Store, prefix: str) -> None:
        """View ``store``, without a copy."""
        self._store = store
        self._prefix = prefix.rstrip(".") + "." if prefix else ""

    def info(self, name: str) -> TensorInfo:
        """As `Store.info`."""
        return self._store.info(self._prefix + name)

    def raw(self, name: str) -> memoryview:
        """As `Store.raw`, but for names only."""
        return self._store.raw(self.info(name).name)

    def prefix(self, prefix: str) -> PrefixView:
        """As `Store.prefix`."""
        return PrefixView(self._store, self._prefix + prefix)

    def __getitem__(self, name: str) -> Array:
        return self._store[self._prefix + name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._prefix + name in self._store

    def __iter__(self) -> Iterator[str]:
        cut = len(self._prefix)
        return (name[cut:] for name in self._store if name.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"<{len(self)} tensors below {self._prefix!r} in {self._store.path!r}>"


def _rows(info: TensorInfo, rows: slice | None) -> tuple[tuple[int, ...], int, int, int]:
    """Return what to read for some rows: its shape, its first element, its number of elements, and the step to take."""
    if rows is None:
        return info.shape, 0, info.count, 1
    if not info.shape:
        raise UsageError("no-rows", f"{info.name!r} is a single value: it has no rows to choose from")
    chosen = range(info.shape[0])[rows]
    # Not min(chosen) and max(chosen), which visit all rows: a tensor without elements can have 2⁵⁷ of them.
    low, high = (min(chosen[0], chosen[-1]), max(chosen[0], chosen[-1]) + 1) if chosen else (0, 0)
    width = math.prod(info.shape[1:])
    return (high - low, *info.shape[1:]), low * width, (high - low) * width, chosen.step


def _undecodable(info: TensorInfo) -> CodecError:
    fix = f"store.raw({info.name!r}) gives its bytes"
    if info.codec and not info.packed:
        what = f"{info.name!r} is stored with codec {info.codec}, which this version of blobstore doesn't know"
        return CodecError("unknown-codec", f"{what}: {fix}")
    if not info.type.bits:
        what = f"{info.name!r} is {info.type}, an element type newer than this version of blobstore"
        return CodecError("unknown-type", f"{what}: {fix}")
    if info.type.dtype is None:
        why = f"in blocks of {info.type.group}, not decoded here" if info.type.whole else "which numpy can't view"
        return CodecError("packed-type", f"{info.name!r} is {info.type}, smaller than a byte, {why}: {fix}")
    return CodecError("scaled-type", f"{info.name!r} is {info.type} with scale {info.scale}: {fix}")
