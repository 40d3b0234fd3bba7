"""Names of the other formats, as a report and ``--help`` show them."""

from __future__ import annotations

SAFETENSORS, NPZ, GGUF, HDF5, ZARR, LMDB = NAMES = ("safetensors", "npz", "gguf", "hdf5", "zarr", "lmdb")
