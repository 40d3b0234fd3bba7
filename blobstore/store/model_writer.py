"""`ModelWriter`: arrays under the runtime's keys → a file that gemma.cpp runs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from blobstore.codecs import encode_pieces, scale_for
from blobstore.codecs.element_types import BY_NAME
from blobstore.container.keys import CONFIG_KEY, NO_TOKENIZER, TOC_KEY, TOKENIZER_KEY
from blobstore.container.suggest import close_to
from blobstore.errors import UsageError
from blobstore.fileio.closing import Completing
from blobstore.gemma.models import is_gemma3
from blobstore.gemma.tensors import check_tensors, default_type, tensors_of
from blobstore.gemma.toc import TocEntry, build_toc, toc_entry
from blobstore.store.writer import StoreWriter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from os import PathLike
    from typing import BinaryIO

    import numpy.typing as npt

    from blobstore.codecs.element_types import ElementType
    from blobstore.fileio.ranges import FileRange
    from blobstore.fileio.types import Buffer
    from blobstore.gemma.config import ModelConfig
    from blobstore.gemma.tensors import TensorSpec
    from blobstore.index.locate import IndexPlace

_SHOWN = 20


class ModelWriter(Completing):
    """Write a model tensor by tensor. `blobstore.gemma.ModelWriter`; a context manager.

    Each tensor is checked against the config and encoded piece by piece; nothing is kept. At the end the blobs
    ``config``, ``tokenizer`` and ``toc`` follow, and the name index, in which each tensor's name is its key.

    Attributes:
        config: What the model is.
        store: The writer below, for aliases and parts under other names.
    """

    def __init__(
        self,
        path: str | PathLike[str] | BinaryIO,
        config: ModelConfig,
        *,
        tokenizer: bytes | None = None,
        version: int = 2,
        index: IndexPlace = "embedded",
        digests: bool = True,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Begin a file.

        Args:
            path: Where it appears when it is complete; or a binary stream.
            config: The model's dimensions; ``weight`` is the narrowest type that its tensors will have.
            tokenizer: The bytes of the SentencePiece ``tokenizer.model``; None when there is none.
            version: Of the container.
            index: Where the name index goes; ``none`` leaves it out.
            digests: Keep the SHA-256 of each blob.
            metadata: Text → text, for the index.

        Raises:
            UsageError: As `blobstore.create`; ``bad-field`` for a config that can't be stored; ``global-rope`` for a
                Gemma 3's that doesn't say whether global layers have a RoPE base of their own.
        """
        if is_gemma3(config) and not config.use_global_timescale and config.extent is None:
            what = "a Gemma 3 needs use_global_timescale=True, or gemma.cpp since October 2025 gives its global layers"
            meant = f"where that is meant, set the config's extent to {config.CORE} (no word) or {config.CORE + 1} (0)"
            raise UsageError("global-rope", f"{what} a wrong RoPE base; {meant}")
        config.to_bytes()  # what can't be stored is better known now than after gigabytes
        self.config = config
        self.store = StoreWriter(path, version=version, index=index, digests=digests, metadata=metadata)
        self._tokenizer = tokenizer or NO_TOKENIZER
        self._specs = {spec.key: spec for spec in tensors_of(config)}
        self._toc: dict[str, TocEntry] = {}
        self._closed = False

    def add(self, key: str, array: npt.ArrayLike, *, type: str | None = None) -> None:  # noqa: A002 (the field's word)
        """Encode and write one tensor.

        Args:
            key: One of the model's: ``linear_w_0``.
            array: Floats, of the tensor's shape or one that folds into its rows and columns.
            type: Element type: ``sfp``, ``bf16``, ``f32``, ``i8``. By default the config's weight type, or the
                narrowest that the runtime takes for this tensor.

        Raises:
            UsageError: ``unknown-tensor``, ``wrong-shape``, ``wrong-type``, ``duplicate-name``.
            CodecError: ``not-finite`` and others: a value that the type can't hold, with its index.
        """
        values = np.asarray(array)
        spec = self._spec(key, type)
        if not _folds(values.shape, spec):
            raise UsageError(
                "wrong-shape", f"{key!r} has shape {values.shape}, the config says {spec.rows} × {spec.cols}"
            )
        kind = BY_NAME[type] if type else default_type(spec, self.config.weight_name)
        scale = scale_for(kind, values, name=repr(key))
        self._add(spec, encode_pieces(kind, values, scale), kind, scale)

    def add_stored(
        self,
        key: str,
        data: Iterable[Buffer | FileRange],
        type: str,  # noqa: A002
        *,
        scale: float = 1.0,
        immutable: bool = False,
    ) -> None:
        """Write one tensor whose bytes are encoded already.

        Args:
            key: One of the model's.
            data: Its bytes, in pieces.
            type: The element type that they have.
            scale: Decoded values are multiplied by it.
            immutable: As `BlobWriter.add_chunks` has it.

        Raises:
            UsageError: As `add`; ``wrong-size`` when the bytes are not what the shape says: the file is given up.
        """
        self._add(self._spec(key, type), data, BY_NAME[type], scale, immutable=immutable)

    def close(self) -> None:
        """Complete the file. Called by the ``with`` block.

        Raises:
            UsageError: ``incomplete-model`` when tensors are missing, naming them, or when the config's weight
                type isn't the narrowest one; the file is given up.
        """
        if self._closed:
            return
        self._closed = True
        try:
            self._finish()
        except BaseException:
            self.store.discard()
            raise

    def discard(self) -> None:
        """Give the file up."""
        self._closed = True
        self.store.discard()

    def _finish(self) -> None:
        faults = [fault.message for fault in check_tensors(self.config, self._toc)]
        if faults:
            more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
            raise UsageError("incomplete-model", "; ".join(faults[:_SHOWN]) + more)
        self.store.add_blob(CONFIG_KEY, self.config.to_bytes())
        self.store.add_blob(TOKENIZER_KEY, self._tokenizer)
        self.store.add_blob(TOC_KEY, build_toc(self._toc.values()))
        self.store.close()

    def _spec(self, key: str, kind: str | None) -> TensorSpec:
        spec = self._specs.get(key)
        if spec is None:
            hint = close_to(key, list(self._specs))
            raise UsageError("unknown-tensor", f"{self.config.display_name} has no tensor {key!r}{hint}")
        chosen = kind or default_type(spec, self.config.weight_name).name
        if chosen not in BY_NAME or not spec.allows(BY_NAME[chosen]):
            raise UsageError("wrong-type", f"{key!r} can't be {chosen!r}: the runtime takes {spec.allowed}")
        if BY_NAME[chosen].bits < BY_NAME[self.config.weight_name].bits:
            what = f"the config says that weights are {self.config.weight_name}, and nothing may be narrower"
            raise UsageError("wrong-type", f"{key!r} can't be {chosen!r}: {what}")
        return spec

    def _add(
        self,
        spec: TensorSpec,
        data: Iterable[Buffer | FileRange],
        kind: ElementType,
        scale: float,
        *,
        immutable: bool = False,
    ) -> None:
        shape = (spec.rows, spec.cols)
        self.store.add_stored(spec.key, data, kind, shape, scale=scale, key=spec.key, immutable=immutable)
        self._toc[spec.key] = toc_entry(spec.key, kind, spec.rows, spec.cols, scale)


def _folds(shape: tuple[int, ...], spec: TensorSpec) -> bool:
    """Whether leading dimensions multiply to the rows, and the rest to the columns."""
    splits: Any = range(len(shape) + 1)
    return any((math.prod(shape[:i]), math.prod(shape[i:])) == (spec.rows, spec.cols) for i in splits)
