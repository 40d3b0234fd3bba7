"""`Store`: a file's tensors as a mapping from name to array."""

from __future__ import annotations

import io
import os
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

from blobstore.container.keys import CONFIG_KEY, NO_TOKENIZER, RESERVED_KEYS, TOKENIZER_KEY
from blobstore.container.suggest import close_to
from blobstore.errors import NameNotFoundError, UsageError, in_file
from blobstore.fileio.closing import Closing
from blobstore.index.carried import files_in, known_files
from blobstore.index.locate import find_index, lost_index
from blobstore.index.records import directory_digest
from blobstore.index.sets import open_reader
from blobstore.store.by_identity import MappingByIdentity
from blobstore.store.carried import CarriedFiles
from blobstore.store.page import ReportPage
from blobstore.store.plain import Listed
from blobstore.store.slices import load_rows, slice_of
from blobstore.store.values import elements, stored
from blobstore.store.views import Views
from blobstore.store.vocabulary import By, Vocabularies, aliases_of, check_by

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Self

    import numpy.typing as npt

    from blobstore.container.reader import BlobReader
    from blobstore.fileio.types import Access, Array, Prefetch, Readable
    from blobstore.gemma.config import ModelConfig
    from blobstore.gemma.token_list import TokenList
    from blobstore.index import NameIndex
    from blobstore.store.blobs import UnpackedBlobs
    from blobstore.store.catalog import Catalog
    from blobstore.store.info import TensorInfo
    from blobstore.store.slices import Rows, TensorSlice

_SHOWN_IN_NOTEBOOK = 20


class Store(MappingByIdentity["Array"], Closing):
    """The tensors of a file, by name. `blobstore.open` makes one.

    Arrays are read-only views into the map (with ``access="read"``: copies), in the dtype they are stored in. They stay
    valid after `close`. A file that was converted from a Gemma checkpoint shows that checkpoint's tensors: views where
    they are stored as one run, gathered into a copy where not, and narrowed to the checkpoint's type where the runtime
    takes only a wider one. Encoded values (sfp, i8, q4_0, …) are decoded to a new float32 array each time.

    Stores are compared by identity. One can be copied and pickled, for other threads and processes: that opens the
    file again, and refuses one that has changed.

    Attributes:
        by: Which of the file's two vocabularies this is: ``names``, or ``keys``.
        reader: The file's blobs, by key.
        index: The file's name index, or None.

    Example:
        >>> with blobstore.open("model.sbs") as store:
        ...     weight = store["layer.weight"]
        >>> weight.shape, weight.dtype, weight.flags.writeable
        ((64, 32), dtype('float32'), False)
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
        by: By = "names",
    ) -> None:
        """Open a file; see `blobstore.open`. ``writable`` as `BlobReader` has it."""
        check_by(by)
        self.by: By = by
        self._base: Store | None = None
        self._options = {"access": access, "use_index": use_index, "writable": writable, "prefetch": prefetch}
        self.reader: BlobReader = open_reader(path, access=access, writable=writable, prefetch=prefetch)
        try:
            self.index: NameIndex | None = find_index(self.reader, whole=False) if use_index else None
            with in_file(self.reader.path):
                # For this package: all that the file lists, and both vocabularies.
                self.vocabularies: Vocabularies = Vocabularies(self.reader, self.index, use_index=use_index)
            # For this package, too: those of its tensors that are arrays as they are stored.
            self.views: Views = Views(self.reader, self.vocabularies, by)
            self._absolute = os.path.abspath(self.reader.path) if self.reader.has_path else self.reader.url
            self._base = None if base is None else Store(base, access=access)
        except BaseException:
            self.close()
            raise

    @cached_property
    def _catalog(self) -> Catalog:
        return self.vocabularies.by(self.by)

    @property
    def aliases(self) -> dict[str, str]:
        """The names of tensors that have a main name as well, name → main name.

        Main is the name that the checkpoint has (not the head that is the embedding), or else the one that the key was
        made from.

        Example:
            >>> blobstore.open("model.sbs").aliases
            {'tied.weight': 'layer.weight'}
        """
        return aliases_of(self._catalog)

    @cached_property
    def unpacked(self) -> UnpackedBlobs:
        """The file's blobs as they were before packing.

        Example:
            >>> _ = blobstore.pack("model.sbs", "packed.sbs")
            >>> blobstore.open("packed.sbs").unpacked.nbytes("layer.weight")
            8192
        """
        from blobstore.store.blobs import UnpackedBlobs  # noqa: PLC0415 (import blobstore stays cheap)

        base = self._base.unpacked if self._base else None
        return UnpackedBlobs(self.reader, self.index, base)

    @property
    def path(self) -> str:
        """The file's path, as given; for a file object its name, for bytes ``<bytes>``.

        Example:
            >>> blobstore.open("model.sbs").path
            'model.sbs'
        """
        return self.reader.path

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata that the writer added, text → text; empty without an index. A copy.

        Raises:
            FormatError: ``index-metadata``: it is damaged.

        Example:
            >>> blobstore.open("model.sbs").metadata
            {'license': 'apache-2.0'}
        """
        if not self.index:
            return {}
        with in_file(self.index.path):
            return dict(self.index.metadata)

    @cached_property
    def files(self) -> CarriedFiles:
        """The model's files that the file carries besides tensors, such as ``config.json``: name → bytes, read-only.

        Raises:
            FormatError: ``files-list``: the list of them is damaged; ``index-metadata``.

        Example:
            >>> with blobstore.create("carrying.sbs") as store:
            ...     store["w"] = np.ones(3)
            ...     store.add_file("config.json", b"{}")
            >>> list(blobstore.open("carrying.sbs").files)
            ['config.json']
        """
        if self.index is None:
            return CarriedFiles(self.reader, {})
        with in_file(self.index.path):
            return CarriedFiles(self.reader, files_in(self.index.metadata))

    @cached_property
    def config(self) -> ModelConfig | None:
        """The model's config, from the blob ``config`` of gemma.cpp; None without one.

        Raises:
            FormatError: ``fields-…``: it is damaged.

        Example:
            >>> _ = blobstore.convert("checkpoint", "gemma.sbs")
            >>> config = blobstore.open("gemma.sbs").config
            >>> config.display_name, config.num_layers, config.weight_name
            ('Gemma3_1B', 2, 'sfp')
        """
        if CONFIG_KEY not in self.reader:
            return None
        from blobstore.gemma.config import ModelConfig  # noqa: PLC0415 (6 ms, and most files are no models)

        with in_file(self.path):
            return ModelConfig.from_bytes(self.reader[CONFIG_KEY])

    @property
    def tokenizer(self) -> bytes | None:
        """The tokenizer that gemma.cpp uses, as it is stored; None without one. A copy.

        A SentencePiece model, unless the config's ``tokenizer_kind`` is BPE.

        Example:
            >>> _ = blobstore.convert("checkpoint", "gemma.sbs")
            >>> with open("checkpoint/tokenizer.model", "rb") as file:
            ...     blobstore.open("gemma.sbs").tokenizer == file.read()
            True
        """
        raw = bytes(self.reader.get(TOKENIZER_KEY, b""))
        return raw if raw not in (b"", NO_TOKENIZER) else None

    @cached_property
    def tokens(self) -> TokenList | None:
        """The tokens of that tokenizer; None without one. 260,000 take a second.

        Raises:
            FormatError: ``tokenizer-…``, ``bpe-…``, ``fields-…``: it is damaged, or the config is.

        Example:
            >>> _ = blobstore.convert("checkpoint", "gemma.sbs")
            >>> [token.text for token in blobstore.open("gemma.sbs").tokens.tokens[:3]]
            ['<unk>', 'p1', 'p2']
        """
        from blobstore.gemma.enums import TokenizerKind  # noqa: PLC0415 (import blobstore stays cheap)
        from blobstore.gemma.token_list import list_tokens  # noqa: PLC0415 (as above)

        raw, config = self.tokenizer, self.config
        if raw is None:
            return None
        with in_file(self.path):
            return list_tokens(raw, config.tokenizer_kind if config else TokenizerKind.SENTENCE_PIECE)

    @property
    def base_path(self) -> str | None:
        """Path of the file that packed tensors may be the difference to, as given; None without one.

        Example:
            >>> _ = blobstore.convert("checkpoint", "gemma.sbs")
            >>> _ = blobstore.pack("gemma.sbs", "packed.sbs", base="gemma.sbs")
            >>> blobstore.open("packed.sbs", base="gemma.sbs").base_path
            'gemma.sbs'
        """
        return self._base.path if self._base else None

    def info(self, name: str) -> TensorInfo:
        """Return a tensor's key, type, shape and place. Its data is not touched.

        Raises:
            NameNotFoundError: ``name-not-found``; the message says which names come close, and whether it is a key.
            FormatError: ``index-…``, ``toc-…``: its entry is damaged.

        Example:
            >>> blobstore.open("model.sbs").info("layer.weight").offset
            256
        """
        info = self._catalog.find(name) if isinstance(name, str) else None
        if info is None:
            raise NameNotFoundError("name-not-found", f"no tensor has the name {name!r}{self._hint(str(name))}")
        return info

    def infos(self) -> Iterator[TensorInfo]:
        """Yield the `info` of each tensor, in the order of the names.

        Raises:
            FormatError: ``index-…``, ``toc-…``: an entry is damaged.

        Example:
            >>> [info.name for info in blobstore.open("model.sbs").infos()]
            ['layer.bias', 'layer.weight', 'tied.weight']
        """
        return iter(self._catalog)

    def raw(self, name: str) -> memoryview:
        """Return the bytes of a tensor, by name, as its type stores them; of a blob of the runtime's; or of a file.

        A name that is not a tensor's is the key of a blob of the runtime's own, or the name of a file in `files`.

        A read-only view; a copy of the unpacked bytes where the tensor is packed. The bytes of any blob, as the file
        has them, are ``store.reader[key]``.

        Raises:
            NameNotFoundError: ``name-not-found``.
            FormatError, TruncatedError: As ``store[name]``.
            UsageError: ``not-one-run`` for a gathered tensor; ``needs-base``, ``wrong-base``: it is stored as the
                difference to a file that wasn't given; ``closed``.

        Example:
            >>> blobstore.open("model.sbs").raw("layer.weight").nbytes
            8192
        """
        info = self._catalog.find(name) if isinstance(name, str) else None
        if info is None and name in self.reader and self._is_not_a_tensor(name):
            return self.reader[name]
        if info is None and name in self.files:
            return self.files[name]
        info = info or self.info(name)
        if info.blocks:
            what = f"{name!r} is not stored as one run of bytes: store[{name!r}] gathers its values"
            raise UsageError("not-one-run", f"{what}, store.tobytes their bytes; blobstore get -o OUT.npy writes them")
        return stored(self, info, 0, info.element_nbytes)

    def _is_not_a_tensor(self, key: str) -> bool:
        return key in RESERVED_KEYS or self.vocabularies.by("keys").find(key) is None

    def _array(self, info: TensorInfo) -> Array:
        values = elements(self, info, 0, info.size)
        values.flags.writeable = False
        return values.reshape(info.shape)

    def load(
        self, name: str, *, dtype: npt.DTypeLike | None = None, rows: Rows | None = None, out: Array | None = None
    ) -> Array:
        """Return a tensor's values, or some of its rows, in a new array; writable.

        Args:
            name: Its name.
            dtype: To convert to; by default the one that ``store[name]`` has.
            rows: Which rows of the first dimension: a slice or a list of numbers, or one number, whose row has a
                dimension less. Only these are read and decoded.
            out: What is filled and returned instead of a new array, of the result's shape; its dtype counts.

        Raises:
            NameNotFoundError: ``name-not-found``.
            UsageError: ``no-rows`` when it has no dimension to choose from; ``bad-rows`` for rows that it doesn't have;
                ``bad-out`` for an ``out`` of another shape, together with another ``dtype``, or that can't be written
                to; ``bad-dtype`` for what numpy can't convert it to.
            CodecError: As ``store[name]``; ``not-float`` when encoded values are to be anything but floats.
            FormatError, TruncatedError, UsageError: As ``store[name]``.

        Example:
            >>> store = blobstore.open("model.sbs")
            >>> store.load("layer.weight", rows=slice(0, 8), dtype=np.float16).shape
            (8, 32)
            >>> store.load("layer.weight", rows=[5, 1]).shape, store.load("layer.weight", rows=-1).shape
            ((2, 32), (32,))
        """
        info = self.info(name)
        return load_rows(self, info, rows, dtype, out)

    def get_slice(self, name: str) -> TensorSlice:
        """Return a tensor that is read only where it is indexed, as ``safetensors.safe_open`` has it.

        Raises:
            NameNotFoundError, FormatError: As `info`.
            CodecError: ``unknown-type`` and others, as ``store[name]``: this version can't decode it.

        Example:
            >>> part = blobstore.open("model.sbs").get_slice("layer.weight")
            >>> part.get_shape(), part.get_dtype(), part[8:16, 4:6].shape
            ([64, 32], 'F32', (8, 2))
        """
        return slice_of(self, self.info(name))

    def tobytes(self, name: str) -> bytes:
        """Return the bytes of ``store[name]``, in C order; as they are stored where numpy doesn't have the type.

        Raises:
            NameNotFoundError, CodecError, FormatError, TruncatedError, UsageError: As ``store[name]``.

        Example:
            >>> len(blobstore.open("model.sbs").tobytes("layer.weight"))
            8192
        """
        info = self.info(name)
        return bytes(self.raw(name)) if info.dtype is None else self._array(info).tobytes()

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors as arrays; those with several names once.

        Raises:
            FormatError: As `infos`.

        Example:
            >>> blobstore.open("model.sbs").nbytes
            8448
        """
        sizes = {
            info.place: info.size * info.dtype.itemsize if info.dtype else info.element_nbytes for info in self.infos()
        }
        return sum(sizes.values())

    def glob(self, pattern: str) -> list[str]:
        """Return the names that match a pattern with ``*``, ``?`` and ``[…]``, in the order of the names.

        Raises:
            FormatError: As `infos`.

        Example:
            >>> blobstore.open("model.sbs").glob("*.weight")
            ['layer.weight', 'tied.weight']
        """
        from fnmatch import fnmatchcase  # noqa: PLC0415 (import blobstore stays cheap)

        return [name for name in self if fnmatchcase(name, pattern)]

    def load_all(self, names: Iterable[str] | None = None, *, workers: int | None = None) -> dict[str, Array]:
        """Return every tensor by name, in memory and writable: read in large pieces on several threads.

        Names for the same bytes share memory, as they do in the file. Small tensors that lie near each other share one
        allocation of up to 4 MiB. Encoded tensors are decoded.

        Args:
            names: Which tensors; by default all.
            workers: Threads; by default one for each core.

        Raises:
            NameNotFoundError, CodecError, FormatError: As ``store[name]``.
            UsageError: ``bad-workers`` for fewer than one; as ``store[name]``.
            TruncatedError: ``short-read`` when the file has shrunk.

        Example:
            >>> tensors = blobstore.open("model.sbs").load_all()
            >>> tensors["tied.weight"] is tensors["layer.weight"]
            False
            >>> np.shares_memory(tensors["tied.weight"], tensors["layer.weight"])
            True
        """
        from blobstore.store.load_all import load_all  # noqa: PLC0415 (import blobstore stays cheap)

        return load_all(self, self.views.listed() if names is None else Listed.of(map(self.info, names)), workers)

    def prefix(self, prefix: str) -> PrefixView:
        """Return a view of the names below a prefix.

        Example:
            >>> list(blobstore.open("model.sbs").prefix("layer"))
            ['bias', 'weight']
        """
        return PrefixView(self, prefix)

    def report(self, *, sample: bool = False) -> ReportPage:
        """Return a page that shows the file, which a notebook shows inline; `blobstore.report` writes it to a file.

        The file is read by its path once more: for its digests, and for its values.

        Args:
            sample: Read only 65,536 values of each larger tensor, which the page says.

        Raises:
            UsageError: ``needs-path``: the store was opened from bytes or a stream.
            BlobStoreError, OSError: As `blobstore.report`.

        Example:
            >>> blobstore.open("model.sbs").report(sample=True).html.startswith("<!DOCTYPE html>")
            True
        """
        if not self.reader.has_path:
            raise UsageError("needs-path", "a report is of a file, and this store was opened from bytes or a stream")
        page = io.BytesIO()
        reporting = import_module("blobstore.reporting.report")  # is above this layer
        reporting.report(self.path, output=page, sample=sample, base=self.base_path)
        return ReportPage(page.getvalue().decode())

    def close(self) -> None:
        """Let go of the file; arrays stay valid until the last of them is gone. The ``with`` block calls this.

        Example:
            >>> store = blobstore.open("model.sbs")
            >>> weight = store["layer.weight"]
            >>> store.close()
            >>> weight[0, :3].tolist()
            [0.0, 1.0, 2.0]
        """
        self.reader.close()
        if self._base:
            self._base.close()

    def _hint(self, name: str) -> str:
        names = self._catalog.names
        if self.vocabularies.by("keys" if self.by == "names" else "names").find(name) is not None:
            kind, by = ("key of the runtime's", "keys") if self.by == "names" else ("name", "names")
            return f": it is a {kind}: open(path, by={by!r}), or --by {by}"
        files = known_files(self.index)
        if name in files:
            return f": it is a file that is carried: store.files[{name!r}]"
        # Hugging Face leaves the head out when it is the embedding, but readers still look for it.
        tied = next((tensor for tensor in names if tensor.endswith("embed_tokens.weight")), None)
        if tied and name.endswith("lm_head.weight"):
            return f": in a model with tied weights it is the embedding, {tied!r}"
        lost = lost_index(self.reader)
        return f": {lost[0]}" if lost else close_to(name, [*names, *files])

    def __getitem__(self, name: str) -> Array:
        """Return a tensor's values in its shape, read-only; a view where the file holds them as numpy does.

        Raises:
            NameNotFoundError: ``name-not-found``; the message says which names come close.
            CodecError: ``unknown-type``, ``unknown-codec``, ``packed-type``, ``scaled-type``: this version can't decode
                it, and `raw` gives its bytes; ``sfp-reserved-code``: its bytes are wrong.
            FormatError: ``packed-…``: the packed blob is damaged; ``index-…``, ``toc-…``: its entry is.
            TruncatedError: ``short-read`` with ``access="read"`` when the file has shrunk.
            UsageError: ``needs-base``, ``wrong-base``: it is stored as the difference to a file that wasn't given;
                ``closed``.
        """
        values = self.views.get(name)
        if values is None:
            return self._array(self.info(name))
        if self.reader.writable:
            values.flags.writeable = False
        return values

    def get(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 (as a mapping's)
        """Return a tensor's values, or ``default``. Near misses are not searched for.

        Raises:
            CodecError, FormatError, TruncatedError, UsageError: As ``store[name]``.

        Example:
            >>> blobstore.open("model.sbs").get("head.weight") is None
            True
        """
        return self[name] if name in self else default  # noqa: SIM401 (this is get)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._catalog.find(name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._catalog.names)

    def __len__(self) -> int:
        return len(self._catalog.names)

    def __reduce__(self) -> tuple[Any, ...]:
        options = {**self._options, "base": self._base and self._base._location, "by": self.by}  # noqa: SLF001 (the same class)
        return self._reopen, (self._location, options, self._identity)

    @classmethod
    def _reopen(cls, location: str | bytes, options: dict[str, Any], identity: tuple[int, bytes, bytes]) -> Self:
        """Open the file of a pickled store again; refuse one that is not the same any more.

        Raises:
            UsageError: ``replaced``.
        """
        store = cls(location, **options)
        try:
            if identity != store._identity:
                what = "is not the file that was pickled: it, or the index beside it, has changed since"
                raise UsageError("replaced", f"{store.path!r} {what}")
        except BaseException:
            store.close()
            raise
        return store

    @property
    def _location(self) -> str | bytes:
        """What opens the file again, from whatever folder: its path, or its contents where these were given.

        Raises:
            UsageError: ``needs-path``: it was opened from a file object.
        """
        if self._absolute:
            return self._absolute
        if not self.reader.in_memory:
            what = "a store of a file object can't be pickled or copied, as that can't be opened again"
            raise UsageError("needs-path", f"{self.path!r}: {what}: open its path, or its bytes")
        return bytes(self.reader.view(0, self.reader.file_size))

    @property
    def _identity(self) -> tuple[int, bytes, bytes]:
        """What tells the file, and an index beside it, from those that have replaced them."""
        from blobstore.fileio.hashing import digest_of  # noqa: PLC0415 (it imports hashlib and threads)

        index = b"" if self.index is None else digest_of([self.index.raw])
        return self.reader.file_size, directory_digest(self.reader.directory), index

    def __repr__(self) -> str:
        return f"<Store {self.path!r}: {len(self)} tensors, {self.reader.file_size} bytes>"

    def _repr_html_(self) -> str:
        """Return a table of the first tensors, for notebooks."""
        from html import escape  # noqa: PLC0415 (1 ms)

        shown = (self._catalog.find(name) for name in self._catalog.names[:_SHOWN_IN_NOTEBOOK])
        rows = [(info.name, str(info.type), str(list(info.shape)), f"{info.nbytes:,}") for info in shown if info]
        more = len(self) - len(rows)
        lines = [*rows, (f"… and {more} more", "", "", "")] if more > 0 else rows
        head = "".join(f"<th>{title}</th>" for title in ("name", "type", "shape", "bytes"))
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>" for line in lines)
        return f"<p>{escape(repr(self))}</p><table><tr>{head}</tr>{body}</table>"


class PrefixView(MappingByIdentity["Array"]):
    """The tensors of a store whose names begin with a prefix and a dot, by the rest of the name. `Store.prefix`.

    Example:
        >>> layer = blobstore.open("model.sbs").prefix("layer")
        >>> layer["weight"].shape
        (64, 32)
    """

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

    def load_all(self, names: Iterable[str] | None = None, *, workers: int | None = None) -> dict[str, Array]:
        """As `Store.load_all`, for the tensors below the prefix, by the names that the view has.

        Example:
            >>> sorted(blobstore.open("model.sbs").prefix("layer").load_all())
            ['bias', 'weight']
        """
        cut = len(self._prefix)
        chosen = [self._prefix + name for name in (self if names is None else names)]
        return {name[cut:]: array for name, array in self._store.load_all(chosen, workers=workers).items()}

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
