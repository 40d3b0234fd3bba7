"""The places that a model can be in: one file, a set of files, here or elsewhere. Each has the same contents."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

import blobstore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from blobstore.fileio.types import Array

MOST = 140_000  # bytes of a file of the set: some have several tensors


@dataclass(frozen=True)
class Place:
    """A way to keep a model.

    Attributes:
        make: Writes the checkpoint in a folder under a path.
        before: What a file's name has in front of it on the command line, which is run in the file's folder.
    """

    make: Callable[[Path, Path], object]
    before: str = ""

    @property
    def is_elsewhere(self) -> bool:
        """Whether the files are at URLs: in fsspec's memory."""
        return bool(self.before)


def _make_file(checkpoint: Path, path: Path) -> object:
    return blobstore.convert(checkpoint, path, as_="names")


def _make_set(checkpoint: Path, path: Path) -> object:
    return blobstore.convert(checkpoint, path, as_="names", max_shard_size=MOST)


PLACES = {
    "file": Place(_make_file),
    "set": Place(_make_set),
    "remote file": Place(_make_file, "memory://file/"),
    "remote set": Place(_make_set, "memory://set/"),
}
CHANGED = "model.layers.3.mlp.weight"  # in the tuned model
NAMES = ("model.sbs", "tuned.sbs", "packed.sbs", "difference.sbs")


def tensors(seed: int = 0) -> dict[str, Array]:
    """All kinds of tensors, by name."""
    rng = np.random.default_rng(seed)
    held: dict[str, Array] = {
        f"model.layers.{i}.mlp.weight": rng.standard_normal((128, 96)).astype(np.float32) for i in range(6)
    }
    held |= {f"model.layers.{i}.norm": rng.standard_normal(96).astype(ml_dtypes.bfloat16) for i in range(6)}
    held["model.embed_tokens.weight"] = rng.standard_normal((200, 96)).astype(np.float16)
    held |= {"ids": np.arange(100), "one": np.array(3.5, np.float32), "none": np.zeros((0, 4), np.float32)}
    return held


def write_checkpoint(folder: Path, held: dict[str, Array]) -> None:
    """Write a checkpoint by name, with files that are carried."""
    folder.mkdir(parents=True)
    save_file(held, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"model_type": "other", "tie_word_embeddings": True}))
    (folder / "tokenizer_config.json").write_text("{}")


def make_places(folder: Path) -> None:
    """Write ``ck`` and ``ck-tuned``, and a folder for each place, with the files `NAMES`."""
    base = tensors()
    tuned = base | {CHANGED: base[CHANGED].copy()}
    tuned[CHANGED][0] += 1
    write_checkpoint(folder / "ck", base)
    write_checkpoint(folder / "ck-tuned", tuned)
    for name, place in PLACES.items():
        site = folder / name
        site.mkdir()
        place.make(folder / "ck", site / "model.sbs")
        place.make(folder / "ck-tuned", site / "tuned.sbs")
        blobstore.pack(site / "model.sbs", site / "packed.sbs")
        blobstore.pack(site / "tuned.sbs", site / "difference.sbs", base=site / "model.sbs")


def contents(path: Path | str, base: Path | str | None = None) -> dict[str, Any]:
    """Return all that a file, or a set, holds, wherever it holds it."""
    with blobstore.open(path, base=base) as store:
        held = {info.name: (info.key, info.type.name, info.shape, store.tobytes(info.name)) for info in store.infos()}
        files = {name: bytes(store.files[name]) for name in store.files}
        return {"tensors": held, "aliases": store.aliases, "metadata": store.metadata, "files": files}
