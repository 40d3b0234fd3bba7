"""Packed files: tensors compressed without loss, each still there by its name, and the way back.

Spec: spec/packed.md.
"""

from __future__ import annotations

from blobstore.packing.packer import PackedBlob, Packing, pack
from blobstore.packing.unpacker import Unpacked, original_of, unpack

__all__ = ["PackedBlob", "Packing", "Unpacked", "original_of", "pack", "unpack"]
