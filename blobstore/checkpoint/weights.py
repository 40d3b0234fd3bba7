"""The tensors of one file of weights, in safetensors or in PyTorch's pickled format."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from blobstore.checkpoint.file_names import is_pickled
from blobstore.checkpoint.pickled import looks_pickled, read_pickled
from blobstore.checkpoint.safetensors import parse_header
from blobstore.checkpoint.tensors import SourceTensor
from blobstore.container.foreign import HEAD_NBYTES, foreign_format
from blobstore.container.layout import MAGIC_BYTES
from blobstore.errors import CheckpointError, FormatError
from blobstore.fileio.ranges import FileRange
from blobstore.fileio.streamed import tell_ranges

if TYPE_CHECKING:
    from blobstore.checkpoint.safetensors import SafetensorsHeader
    from blobstore.fileio.types import ByteSource


@dataclass(frozen=True)
class Weights:
    """What a file of weights has.

    Attributes:
        format: Of the file.
        tensors: In the order of their bytes.
        metadata: Of its header.
        others: What isn't a tensor of the model: its keys. A note names them.
        notes: What a user should know.
    """

    format: Literal["safetensors", "pytorch"]
    tensors: list[SourceTensor]
    metadata: dict[str, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_weights(path: str, source: ByteSource) -> Weights:
    """Read which tensors a file has.

    Args:
        path: Of the file.
        source: The same file, open.

    Raises:
        CheckpointError: ``not-safetensors``: it is something else, and what; as `read_pickled`.
        MissingExtraError: As `read_pickled`.
        FormatError, TruncatedError: Its header is wrong.
        OSError: It can't be read.
    """
    if looks_pickled(path, source):
        pickled = read_pickled(path, source)
        return Weights("pytorch", pickled.tensors, others=pickled.others, notes=pickled.notes)
    header = _header(path, source)
    tell_ranges(source, (entry.offset + entry.nbytes for entry in header.entries))
    tensors = [
        SourceTensor(entry.name, entry.type, entry.shape, path, FileRange(source, entry.offset, entry.nbytes))
        for entry in header.entries
    ]
    return Weights("safetensors", tensors, header.metadata)


def _header(path: str, source: ByteSource) -> SafetensorsHeader:
    try:
        return parse_header(source.view, source.size)
    except FormatError:  # only then: a header may be as long as a gzip file's first bytes say
        head = bytes(source.view(0, min(HEAD_NBYTES, source.size)))
        what = "an .sbs file already" if head.startswith(MAGIC_BYTES) else foreign_format(head)
        if not what and is_pickled(path):
            what = "neither in PyTorch's pickled format nor safetensors: save it again, as safetensors"
        if not what:
            raise
        raise CheckpointError("not-safetensors", f"this is {what}") from None
