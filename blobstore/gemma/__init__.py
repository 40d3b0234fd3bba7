"""What gemma.cpp stores besides tensors: its config, its table of contents, and which tensors a model has.

Data and small pure functions; nothing below this package knows that Gemma exists. Spec: spec/gemma.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blobstore.gemma.config import ModelConfig
from blobstore.gemma.tensors import TensorSpec, check_tensors, tensors_of
from blobstore.gemma.toc import TocEntry, build_toc, parse_toc

if TYPE_CHECKING:
    from blobstore.model_writer import ModelWriter

__all__ = [
    "ModelConfig",
    "ModelWriter",
    "TensorSpec",
    "TocEntry",
    "build_toc",
    "check_tensors",
    "parse_toc",
    "tensors_of",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 (whatever the module has)
    # The writer stands above the store, which stands above this package: it can't be imported here at once.
    if name == "ModelWriter":
        from blobstore.model_writer import ModelWriter  # noqa: PLC0415

        return ModelWriter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
