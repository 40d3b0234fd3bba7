"""The places that a model can be in: one file, a set of files, each of these at a URL. All have the same contents."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import fsspec
import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

import blobstore
from tests.checkpoints import snapshot

if TYPE_CHECKING:
    from pathlib import Path

    from blobstore.fileio.types import Array

MOST = 140_000  # bytes of a file of the set: some have several tensors


@dataclass(frozen=True)
class Place:
    """A way to keep a model.

    Attributes:
        most: Bytes of a file; None for a single one.
        url: Of the folder, if it is elsewhere: fsspec's, in memory.
    """

    most: int | None = None
    url: str = ""

    def name(self, name: str) -> str:
        """Return what a command that runs in the folder calls a file in it."""
        return self.url + name


PLACES = {
    "file": Place(),
    "set": Place(MOST),
    "url": Place(url="memory://places/url/"),
    "set-url": Place(MOST, "memory://places/set/"),
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
        for checkpoint, made in (("ck", "model.sbs"), ("ck-tuned", "tuned.sbs")):
            blobstore.convert(folder / checkpoint, site / made, as_="names", max_shard_size=place.most)
        blobstore.pack(site / "model.sbs", site / "packed.sbs")
        blobstore.pack(site / "tuned.sbs", site / "difference.sbs", base=site / "model.sbs")


def upload(place: Place, folder: Path) -> None:
    """Copy the files of a place that is elsewhere to where it is."""
    if place.url:
        elsewhere = fsspec.filesystem("memory")
        for path in folder.iterdir():
            elsewhere.pipe_file(place.url + path.name, path.read_bytes())


def held(place: Place, folder: Path) -> dict[str, bytes]:
    """Return the files of a place, by their names."""
    if place.url:
        elsewhere = fsspec.filesystem("memory")
        return {path.rpartition("/")[2]: elsewhere.cat_file(path) for path in elsewhere.ls(place.url, detail=False)}
    return snapshot(folder)


def contents(path: str | Path, base: str | Path | None = None) -> dict[str, Any]:
    """Return all that a file, or a set, holds, wherever it holds it."""
    with blobstore.open(path, base=base) as store:
        held = {info.name: (info.key, info.type.name, info.shape, store.tobytes(info.name)) for info in store.infos()}
        files = {name: bytes(store.files[name]) for name in store.files}
        return {"tensors": held, "aliases": store.aliases, "metadata": store.metadata, "files": files}
