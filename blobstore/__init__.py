"""Read and write weight files of gemma.cpp (.sbs), by key and by name.

Names and arrays: `open`, `create`, `save_file`, `load_file`, and `save` and `load` for bytes in memory.
Keys and bytes: `BlobReader`, `BlobWriter`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blobstore.checking.checkup import Checkup, check
    from blobstore.checking.codes import Severity
    from blobstore.checking.findings import Finding
    from blobstore.checking.repair import Repair, repair
    from blobstore.checking.verification import Verification, verify
    from blobstore.checkpoint.told import LeftOut
    from blobstore.codecs.element_types import ElementType
    from blobstore.compare.comparison import (
        ComparedEntry,
        ComparedSide,
        ComparedTolerance,
        ComparedValues,
        Comparison,
        LargestDifference,
        diff,
    )
    from blobstore.container.reader import BlobReader
    from blobstore.conversion import (
        Conversion,
        ConversionKind,
        ConversionPreview,
        ConvertedPart,
        ConvertedTensor,
        PlannedStore,
        convert,
        preview_conversion,
    )
    from blobstore.converting.plan import PlannedAlias
    from blobstore.converting.verify import Verdict
    from blobstore.edit.recover import LostBlob, Recovery, recover
    from blobstore.edit.reindex import Indexing, build_index, join_stores
    from blobstore.edit.rewrite import Rewriting, rewrite
    from blobstore.errors import (
        BlobStoreError,
        CheckpointError,
        ClusterError,
        CodecError,
        Fault,
        FormatError,
        KeyNotFoundError,
        KeyTooLongError,
        MissingExtraError,
        ModelMismatchError,
        NameNotFoundError,
        RemoteError,
        TruncatedError,
        UsageError,
    )
    from blobstore.exporting.export import Export, ExportPreview, TensorPreview, export, preview_export
    from blobstore.fileio.ranges import FileRange
    from blobstore.fileio.types import Access, BinaryFile, ByteSource, Prefetch, Readable, SourceAccess, Writable
    from blobstore.gemma.versions import RuntimeChoice
    from blobstore.index.blob_writer import BlobWriter
    from blobstore.index.locate import IndexPlace
    from blobstore.index.names import key_for
    from blobstore.packing.pack import PackedBlob, Packing, pack
    from blobstore.packing.unpack import Unpacking, unpack
    from blobstore.reporting.report import Report, report
    from blobstore.store.blobs import UnpackedBlobs
    from blobstore.store.blocks import Block
    from blobstore.store.carried import CarriedFiles
    from blobstore.store.files import load, load_file, save, save_file
    from blobstore.store.info import PackedRange, TensorInfo
    from blobstore.store.model_writer import ModelWriter
    from blobstore.store.page import ReportPage
    from blobstore.store.reader import PrefixView, Store
    from blobstore.store.safe_open import SafeOpen, safe_open
    from blobstore.store.slices import TensorSlice
    from blobstore.store.vocabulary import By
    from blobstore.store.writer import StoreWriter

__version__ = "0.1.0"

__all__ = [
    "Access",
    "BinaryFile",
    "BlobReader",
    "BlobStoreError",
    "BlobWriter",
    "Block",
    "By",
    "ByteSource",
    "CarriedFiles",
    "CheckpointError",
    "Checkup",
    "ClusterError",
    "CodecError",
    "ComparedEntry",
    "ComparedSide",
    "ComparedTolerance",
    "ComparedValues",
    "Comparison",
    "Conversion",
    "ConversionKind",
    "ConversionPreview",
    "ConvertedPart",
    "ConvertedTensor",
    "ElementType",
    "Export",
    "ExportPreview",
    "Fault",
    "FileRange",
    "Finding",
    "FormatError",
    "IndexPlace",
    "Indexing",
    "KeyNotFoundError",
    "KeyTooLongError",
    "LargestDifference",
    "LeftOut",
    "LostBlob",
    "MissingExtraError",
    "ModelMismatchError",
    "ModelWriter",
    "NameNotFoundError",
    "PackedBlob",
    "PackedRange",
    "Packing",
    "PlannedAlias",
    "PlannedStore",
    "Prefetch",
    "PrefixView",
    "Recovery",
    "RemoteError",
    "Repair",
    "Report",
    "ReportPage",
    "Rewriting",
    "RuntimeChoice",
    "SafeOpen",
    "Severity",
    "SourceAccess",
    "Store",
    "StoreWriter",
    "TensorInfo",
    "TensorPreview",
    "TensorSlice",
    "TruncatedError",
    "UnpackedBlobs",
    "Unpacking",
    "UsageError",
    "Verdict",
    "Verification",
    "build_index",
    "check",
    "convert",
    "create",
    "diff",
    "export",
    "join_stores",
    "key_for",
    "load",
    "load_file",
    "open",
    "pack",
    "preview_conversion",
    "preview_export",
    "recover",
    "repair",
    "report",
    "rewrite",
    "safe_open",
    "save",
    "save_file",
    "unpack",
    "verify",
]

_HOMES = {
    "Access": "fileio.types",
    "BinaryFile": "fileio.types",
    "BlobReader": "container.reader",
    "BlobStoreError": "errors",
    "BlobWriter": "index.blob_writer",
    "Block": "store.blocks",
    "By": "store.vocabulary",
    "ByteSource": "fileio.types",
    "CarriedFiles": "store.carried",
    "CheckpointError": "errors",
    "Checkup": "checking.checkup",
    "ClusterError": "errors",
    "CodecError": "errors",
    "ComparedEntry": "compare.comparison",
    "ComparedSide": "compare.comparison",
    "ComparedTolerance": "compare.comparison",
    "ComparedValues": "compare.comparison",
    "Comparison": "compare.comparison",
    "Conversion": "conversion",
    "ConversionKind": "conversion",
    "ConversionPreview": "conversion",
    "ConvertedPart": "conversion",
    "PlannedStore": "conversion",
    "ConvertedTensor": "conversion",
    "ElementType": "codecs.element_types",
    "Export": "exporting.export",
    "ExportPreview": "exporting.export",
    "Fault": "errors",
    "FileRange": "fileio.ranges",
    "Finding": "checking.findings",
    "FormatError": "errors",
    "IndexPlace": "index.locate",
    "Indexing": "edit.reindex",
    "KeyNotFoundError": "errors",
    "KeyTooLongError": "errors",
    "LargestDifference": "compare.comparison",
    "LostBlob": "edit.recover",
    "MissingExtraError": "errors",
    "ModelMismatchError": "errors",
    "ModelWriter": "store.model_writer",
    "NameNotFoundError": "errors",
    "RemoteError": "errors",
    "PackedBlob": "packing.pack",
    "PackedRange": "store.info",
    "Packing": "packing.pack",
    "PlannedAlias": "converting.plan",
    "LeftOut": "checkpoint.told",
    "Prefetch": "fileio.types",
    "PrefixView": "store.reader",
    "Recovery": "edit.recover",
    "Repair": "checking.repair",
    "Report": "reporting.report",
    "ReportPage": "store.page",
    "Rewriting": "edit.rewrite",
    "RuntimeChoice": "gemma.versions",
    "SafeOpen": "store.safe_open",
    "Severity": "checking.codes",
    "SourceAccess": "fileio.types",
    "Store": "store.reader",
    "StoreWriter": "store.writer",
    "TensorInfo": "store.info",
    "TensorPreview": "exporting.export",
    "TensorSlice": "store.slices",
    "TruncatedError": "errors",
    "UnpackedBlobs": "store.blobs",
    "Unpacking": "packing.unpack",
    "UsageError": "errors",
    "Verdict": "converting.verify",
    "Verification": "checking.verification",
    "build_index": "edit.reindex",
    "join_stores": "edit.reindex",
    "check": "checking.checkup",
    "convert": "conversion",
    "diff": "compare.comparison",
    "export": "exporting.export",
    "key_for": "index.names",
    "load": "store.files",
    "load_file": "store.files",
    "pack": "packing.pack",
    "preview_conversion": "conversion",
    "preview_export": "exporting.export",
    "recover": "edit.recover",
    "repair": "checking.repair",
    "report": "reporting.report",
    "rewrite": "edit.rewrite",
    "safe_open": "store.safe_open",
    "save": "store.files",
    "save_file": "store.files",
    "unpack": "packing.unpack",
    "verify": "checking.verification",
}

if not TYPE_CHECKING:  # so that type checkers find misspelt names

    def __getattr__(name: str) -> object:
        """Import a public name on first use: a program that only reads doesn't import what writes."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"blobstore.{_HOMES[name]}"), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def open(  # noqa: A001
    path: Readable,
    *,
    access: Access = "auto",
    use_index: bool = True,
    base: Readable | None = None,
    prefetch: Prefetch = "none",
    by: By = "names",
) -> Store:
    """Open a .sbs file: a mapping from tensor name to numpy array.

    Args:
        path: A file of version 1 or 2. Its name index is inside, or beside it (``path.idx``). Without an index and
            without a ``toc`` of gemma.cpp each blob is bytes under its key. One of:

            - a path: text, bytes or PathLike.
            - a binary file object that can seek: the file begins at its position 0, whatever its position is. Of what
              the builtin ``open`` returns for a file on disk the file is mapped, and the object isn't needed any more.
              All others (`io.BytesIO`, a zip member, a remote file) are read when data is asked for: each array is a
              copy, threads take turns, the object's position changes, and it must stay open.
            - the file's bytes (bytes, bytearray, memoryview, mmap), which must not change: arrays are views of them.

            ``bytes`` that contain a NUL are a file's bytes, as every file has some and no path has one; without a NUL
            they are a path. An index beside a file is only looked for by path.
        access: ``mmap`` maps the file: arrays are views, nothing is read before it is touched. ``read`` makes plain
            reads: for network drives, and for files that may be truncated while open. ``auto`` maps, unless the file
            is on a network drive. Only files on disk are mapped.
        use_index: False to ignore the index, for instance a stale one.
        base: For a packed file: the file that it is the difference to (`blobstore.pack`); whatever ``path`` can
            be.
        prefetch: How the map will be read; a hint to the system about data that is not in its page cache. It changes
            nothing for a cached file, for plain reads, and on systems without such hints.

            - ``none``: no hint.
            - ``all``: read the whole file before this returns. For files that fit into memory and are used as a whole:
              opening and touching 2 GB took 2 to 25 % less time.
            - ``random``: read only what is touched. For single rows: 200 rows took 0.02 s instead of 0.55; whole
              tensors take three times as long.
            - ``sequential``: read farther ahead. For some whole tensors: ten took 0.10 s instead of 0.15; all tensors
              take longer.
        by: The vocabulary: ``names``, for a file that was converted from a Gemma checkpoint exactly the checkpoint's
            (and that of its tied head); ``keys``, those under which gemma.cpp finds tensors, with the shapes that it
            sees. A file without a name index has only keys, which are its names.

    Raises:
        UsageError: ``bad-access``, ``bad-prefetch``, ``bad-by``; ``not-a-file``: a folder, pipe or device, or empty
            bytes; ``bad-file``: neither of the above, or a text file; ``needs-seek``; ``closed``.
        FormatError, TruncatedError: The file is wrong; ``reason`` is a code of the specification. The index is checked
            when it is used: one entry when a tensor is looked up, all of it when names are listed or not found.
        OSError: It can't be opened.

    Example:
        >>> blobstore.save_file({"embed.weight": np.ones((4, 2), dtype=np.float32)}, "small.sbs")
        >>> store = blobstore.open("small.sbs")
        >>> store["embed.weight"].shape
        (4, 2)
        >>> with open("small.sbs", "rb") as file:
        ...     data = file.read()
        >>> list(blobstore.open(data))
        ['embed.weight']
    """
    from blobstore.store.reader import Store  # noqa: PLC0415 (as above)

    return Store(path, access=access, use_index=use_index, base=base, prefetch=prefetch, by=by)


def create(
    target: Writable,
    *,
    version: int = 2,
    index: IndexPlace = "embedded",
    digests: bool = True,
    durable: bool = True,
    metadata: Mapping[str, str] | None = None,
) -> StoreWriter:
    """Begin a .sbs file that tensors are added to by name; a context manager.

    Args:
        target: A path: the file appears there when the ``with`` block ends without an error. Or a binary stream, which
            is written from its position on and stays open; it must have no bytes after that position. Version 2 goes
            to any stream, even a pipe; version 1 to one that can seek and be read, such as `io.BytesIO`. `open` finds
            only a file that begins at position 0. After an error a stream has no directory, and so is unreadable.
        version: Of the container: 2, or 1 for runtimes from before 2025-07-31.
        index: Where the name index goes: ``embedded``, the last blob; ``external``, the file ``path.idx``; ``none``,
            nowhere, if every name is its own key.
        digests: Store the SHA-256 of each blob in the index, for `verify`.
        durable: Wait at the end until a file at a path is on the disk. Without it the end comes sooner, and the file
            still appears at once and complete, also if the process is killed; but a crash of the machine within the
            next half minute or so may leave the old file, or an incomplete new one.
        metadata: Text → text; more can be set as ``store.metadata[key]``.

    Raises:
        UsageError: ``bad-version``, ``bad-index``, ``reserved-key`` in the metadata, ``not-a-file``; ``needs-path`` for
            an external index and a stream; ``bad-target``, ``not-empty``, ``needs-seek``, ``closed`` for a stream.
        OSError: The target's folder can't be written to.

    Example:
        >>> with blobstore.create("small.sbs", metadata={"license": "apache-2.0"}) as store:
        ...     store["embed.weight"] = np.ones((4, 2), dtype=np.float32)
        >>> blobstore.open("small.sbs").metadata
        {'license': 'apache-2.0'}
    """
    from blobstore.index.metadata import refuse_own  # noqa: PLC0415 (as above)
    from blobstore.store.writer import StoreWriter  # noqa: PLC0415 (as above)

    refuse_own(metadata or ())
    return StoreWriter(target, version=version, index=index, digests=digests, durable=durable, metadata=metadata)
