"""What gemma.cpp stores besides tensors: its config, its table of contents, and which tensors a model has.

Data and small pure functions; nothing below this package knows that Gemma exists. Spec: spec/gemma.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blobstore.gemma.config import ModelConfig
    from blobstore.gemma.tensors import TensorSpec, check_tensors, tensors_of
    from blobstore.gemma.toc import TocEntry, build_toc, parse_toc
    from blobstore.store.model_writer import ModelWriter

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

# Imported when asked for: import blobstore stays cheap, and the writer stands above the store, which stands above this.
_HOMES = {
    "ModelConfig": "blobstore.gemma.config",
    "ModelWriter": "blobstore.store.model_writer",
    "TensorSpec": "blobstore.gemma.tensors",
    "TocEntry": "blobstore.gemma.toc",
    "build_toc": "blobstore.gemma.toc",
    "check_tensors": "blobstore.gemma.tensors",
    "parse_toc": "blobstore.gemma.toc",
    "tensors_of": "blobstore.gemma.tensors",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 (whatever the module has)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
