"""`ModelWriter`: write arrays under the runtime's keys, to a file that gemma.cpp runs."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from blobstore.codecs import encode_pieces, scale_for
from blobstore.codecs.element_types import BY_NAME, as_element_type
from blobstore.container.keys import CONFIG_KEY, NO_TOKENIZER, TOC_KEY, TOKENIZER_KEY
from blobstore.container.layout import MAX_PORTABLE_BLOBS
from blobstore.container.suggest import close_to
from blobstore.errors import UsageError, listed
from blobstore.fileio.closing import Completing
from blobstore.gemma.models import is_gemma3
from blobstore.gemma.tensors import check_tensors, default_type, tensors_of
from blobstore.gemma.toc import TocEntry, build_toc, toc_entry
from blobstore.store.writer import StoreWriter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy.typing as npt

    from blobstore.codecs.element_types import ElementType
    from blobstore.fileio.ranges import FileRange
    from blobstore.fileio.types import Buffer, Writable
    from blobstore.gemma.config import ModelConfig
    from blobstore.gemma.families.specs import TensorSpec
    from blobstore.index.locate import IndexPlace

_SHOWN = 20  # faults that an error names; it counts the others


class ModelWriter(Completing):
    """Write a model for gemma.cpp, tensor by tensor; a context manager.

    Each tensor is checked against the config and encoded piece by piece; nothing is kept. The blobs ``config``,
    ``tokenizer`` and ``toc`` follow at the end, then the name index, in which each tensor's name is its key.

    Attributes:
        config: Of the model.
        store: The `blobstore.StoreWriter` that writes the file; for aliases, parts and metadata.

    Example:
        >>> _ = blobstore.convert("checkpoint", "gemma.sbs")
        >>> gemma = blobstore.open("gemma.sbs", by="keys")
        >>> with blobstore.ModelWriter("doubled.sbs", gemma.config, tokenizer=gemma.tokenizer) as writer:
        ...     for key, values in gemma.items():
        ...         writer.add(key, 2 * values.astype(np.float32))
        >>> blobstore.check("doubled.sbs").ok
        True
    """

    def __init__(
        self,
        target: Writable,
        config: ModelConfig,
        *,
        tokenizer: bytes | None = None,
        version: int = 2,
        index: IndexPlace = "embedded",
        digests: bool = True,
        metadata: Mapping[str, str] | None = None,
        max_blobs: int = MAX_PORTABLE_BLOBS,
    ) -> None:
        """Begin a file.

        Args:
            target: A path or URL, where the file appears when complete; or a binary stream, as for `blobstore.create`.
            config: The model's dimensions; ``weight`` is the narrowest type among its tensors.
            tokenizer: The bytes of the SentencePiece ``tokenizer.model``, or those of a `blobstore.gemma.BpeTokenizer`
                if the config's ``tokenizer_kind`` is BPE; None for a model without one.
            version: Of the container.
            index: Where the name index goes; ``none`` leaves it out.
            digests: Store the SHA-256 of each blob in the index.
            metadata: Text → text, for the index.
            max_blobs: How many blobs the file may have, as for `blobstore.BlobWriter`.

        Raises:
            UsageError: As `blobstore.create`; ``bad-max-blobs``; ``bad-field`` for a config that can't be stored;
                ``global-rope`` for the config of a Gemma 3 that doesn't say whether global layers have a RoPE base of
                their own.
        """
        if is_gemma3(config) and not config.use_global_timescale and config.extent is None:
            what = "a Gemma 3 needs use_global_timescale=True: without it gemma.cpp since October 2025 gives its global"
            fix = f"if you mean that, set the config's extent to {config.CORE} (no word) or {config.CORE + 1} (0)"
            raise UsageError("global-rope", f"{what} layers a wrong RoPE base; {fix}")
        config.to_bytes()  # fail now, not after gigabytes
        self.config = config
        self.store: StoreWriter = StoreWriter(
            target, version=version, index=index, digests=digests, metadata=metadata, max_blobs=max_blobs
        )
        self._tokenizer = tokenizer or NO_TOKENIZER
        self._specs = {spec.key: spec for spec in tensors_of(config)}
        self._toc: dict[str, TocEntry] = {}
        self._closed = False

    def add(
        self,
        key: str,
        array: npt.ArrayLike,
        *,
        type: ElementType | str | None = None,  # noqa: A002 (the field's word)
    ) -> None:
        """Encode and write one tensor.

        Args:
            key: One of the model's: ``linear_w_0``.
            array: Floats, in the tensor's shape or one that folds into its rows and columns.
            type: Element type, or its name: ``sfp``, ``bf16``, ``f32``, ``i8``, ``q4_0``. By default the config's
                weight type, or the narrowest that the runtime takes for this tensor.

        Raises:
            UsageError: ``unknown-tensor``, ``wrong-shape``, ``wrong-type``, ``duplicate-name``, ``closed``.
            CodecError: ``not-finite`` and others: a value that the type can't hold, with its index; ``not-float``;
                ``no-encoder`` for nuq and mxfp4. After one that is found while values are written (``i8-range``) the
                file can't be completed.

        Example:
            >>> writer = blobstore.ModelWriter("gemma.sbs", blobstore.gemma.config_of("gemma3-270m-sfp-it"))
            >>> writer.add("c_final_norm", np.ones(640))
            >>> writer.add("linear_w_0", np.zeros((640, 2048)), type="bf16")
            >>> list(writer.store)
            ['c_final_norm', 'linear_w_0']
            >>> writer.discard()
        """
        values = np.asarray(array)
        spec = self._spec(key)
        element_type = self._type(spec, type)
        if not _folds(values.shape, spec):
            raise UsageError(
                "wrong-shape", f"{key!r} has shape {values.shape}, the config says {spec.rows} × {spec.cols}"
            )
        scale = scale_for(element_type, values, name=repr(key))
        self._add(spec, encode_pieces(element_type, values, scale), element_type, scale)

    def add_stored(
        self,
        key: str,
        data: Iterable[Buffer | FileRange],
        type: ElementType | str,  # noqa: A002 (as above)
        *,
        scale: float = 1.0,
        immutable: bool = False,
    ) -> None:
        """Write one tensor whose bytes are already encoded.

        Args:
            key: One of the model's.
            data: Its bytes, in pieces.
            type: Their element type, or its name.
            scale: Decoded values are multiplied by it.
            immutable: As in `blobstore.StoreWriter.add_stored`.

        Raises:
            UsageError: As `add`; ``wrong-size`` when type and shape need another number of bytes: the file can't be
                completed after that.

        Example:
            >>> writer = blobstore.ModelWriter("gemma.sbs", blobstore.gemma.config_of("gemma3-270m-sfp-it"))
            >>> writer.add_stored("linear_w_0", [bytes(640 * 2048)], "sfp", scale=0.5)
            >>> writer.store.scale_of("linear_w_0")
            0.5
            >>> writer.discard()
        """
        spec = self._spec(key)
        self._add(spec, data, self._type(spec, type), scale, immutable=immutable)

    def close(self) -> None:
        """Complete the file. The ``with`` block calls this.

        Raises:
            UsageError: ``incomplete-model`` when tensors are missing, naming them, or when the config's weight
                type isn't the narrowest one; as `blobstore.StoreWriter.close`. The file is then discarded.

        Example:
            >>> writer = blobstore.ModelWriter("gemma.sbs", blobstore.gemma.config_of("gemma3-270m-sfp-it"))
            >>> try:
            ...     writer.close()
            ... except blobstore.UsageError as error:
            ...     error.reason
            'incomplete-model'
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
        """Discard the file.

        Example:
            >>> writer = blobstore.ModelWriter("gemma.sbs", blobstore.gemma.config_of("gemma3-270m-sfp-it"))
            >>> writer.add("c_final_norm", np.ones(640))
            >>> writer.discard()
            >>> import os
            >>> os.path.exists("gemma.sbs")
            False
        """
        self._closed = True
        self.store.discard()

    def _finish(self) -> None:
        faults = [fault.message for fault in check_tensors(self.config, self._toc)]
        if faults:
            raise UsageError("incomplete-model", listed(faults, _SHOWN, "; "))
        self.store.add_blob(CONFIG_KEY, self.config.to_bytes())
        self.store.add_blob(TOKENIZER_KEY, self._tokenizer)
        self.store.add_blob(TOC_KEY, build_toc(self._toc.values()))
        self.store.close()

    def _spec(self, key: str) -> TensorSpec:
        spec = self._specs.get(key)
        if spec is None:
            hint = close_to(key, list(self._specs))
            raise UsageError("unknown-tensor", f"{self.config.display_name} has no tensor {key!r}{hint}")
        return spec

    def _type(self, spec: TensorSpec, requested: ElementType | str | None) -> ElementType:
        """Return the type to store a tensor in: the requested one, or the default; one that the runtime takes."""
        weight = self.config.weight_name
        element_type = None
        with suppress(UsageError):  # reported below, with what the runtime takes
            element_type = as_element_type(requested or default_type(spec, weight))
        refused = f"{spec.key!r} can't be {str(requested or element_type)!r}"
        if element_type is None or not spec.allows(element_type):
            raise UsageError("wrong-type", f"{refused}: the runtime takes {spec.allowed}")
        if element_type.bits < BY_NAME[weight].bits:
            what = f"the config says that weights are {weight}, and nothing may be narrower"
            raise UsageError("wrong-type", f"{refused}: {what}")
        return element_type

    def _add(
        self,
        spec: TensorSpec,
        data: Iterable[Buffer | FileRange],
        element_type: ElementType,
        scale: float,
        *,
        immutable: bool = False,
    ) -> None:
        shape = (spec.rows, spec.cols)
        self.store.add_stored(spec.key, data, element_type, shape, scale=scale, key=spec.key, immutable=immutable)
        self._toc[spec.key] = toc_entry(spec.key, element_type, spec.rows, spec.cols, scale)


def _folds(shape: tuple[int, ...], spec: TensorSpec) -> bool:
    """Whether the leading dimensions multiply to the rows, and the rest to the columns."""
    return any((math.prod(shape[:i]), math.prod(shape[i:])) == (spec.rows, spec.cols) for i in range(len(shape) + 1))
