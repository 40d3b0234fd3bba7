"""What programs do with a file: walk through all tensors, load them for torch or jax, open and save a real model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import files
from benchmarks.measurement import Aim, Measured, run
from blobstore.bench import frameworks, page_cache
from blobstore.bench.cases import OursUndigested
from blobstore.bench.peers import PEERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.files import Files
    from benchmarks.measurement import Result, Setting

COUNTS = (100, 16_000, 100_000)
_PEERS = ("safetensors", "lmdb")  # what models come in, and what is made for many small values
_OTHERS = tuple(name for name in PEERS if name not in _PEERS)
_PLAIN = "safetensors"
_FRAMEWORKS = {"torch": "torch", "jax": "jax"}  # module → distribution


def walk(setting: Setting) -> Iterator[Result]:
    """Walk through 100, 16,000 and 100,000 small tensors."""
    for count in (5, 20, 100) if setting.quick else COUNTS:
        with files.written(setting, files.many(count), without=_OTHERS) as made:
            yield run(
                Measured(
                    f"walk-{count}",
                    f"walk {count:,} tensors",
                    "open, and one tensor after the other by its name; none is kept",
                    made.sides("walk"),
                    aims=[Aim(_PLAIN, 1)],
                ),
                setting,
            )
            yield run(
                Measured(
                    f"walk-again-{count}",
                    f"walk {count:,} tensors again",
                    "the same in the open file, which has been walked before",
                    made.sides("again"),
                    aims=[Aim(_PLAIN, 1)],
                ),
                setting,
            )


def load(setting: Setting) -> Iterator[Result]:
    """Load 16,000 small tensors as those of torch and of jax."""
    count = 50 if setting.quick else 16_000
    with files.written(setting, files.many(count), without=_OTHERS) as made:
        for framework, distribution in _FRAMEWORKS.items():
            sides = made.loading(framework)
            if not any(loader.installed for loader in frameworks.LOADERS.values() if loader.framework == framework):
                setting.left_out[f"loading with {framework}"] = f"{distribution} is not installed"
                continue
            yield run(
                Measured(
                    f"load-{framework}",
                    f"load {count:,} with {framework}",
                    "load_file, then one byte of each page (some loads are lazy); in a process that has loaded another",
                    sides,
                    aims=[Aim(_PLAIN, 1.5)],
                ),
                setting,
            )


def minilm(setting: Setting) -> Iterator[Result]:
    """Open, list and save the tensors of a real checkpoint."""
    source, which = files.checkpoint(setting)
    try:
        with files.written(setting, files.of_checkpoint(source), without=_OTHERS) as made:
            yield from _opening(setting, made, which)
            yield from _saving(setting, made, which)
    finally:
        if files.is_made_up(setting, source):
            page_cache.remove(source)


def _opening(setting: Setting, made: Files, which: str) -> Iterator[Result]:
    number = len(made.wanted.names)
    for key, case, title, what, aims in (
        ("minilm-open", "open", "open", "open the file, with its checks", ()),
        ("minilm-infos", "list", f"names, types, shapes of {number}", "open, list them", [Aim(_PLAIN, 1)]),
        ("minilm-one", "one", "one tensor", "open, use one tensor of middle size", ()),
        ("minilm-walk", "walk", f"walk {number} tensors", "open, one after the other by its name", ()),
        ("minilm-load", "read", "load all", "open, bring every tensor into memory of its own", ()),
    ):
        yield run(Measured(key, f"{which}: {title}", what, made.sides(case), aims=aims), setting)


def _saving(setting: Setting, made: Files, which: str) -> Iterator[Result]:
    # With digests, which only ours has, and without.
    aims = [Aim(_PLAIN, 0.9), Aim(_PLAIN, 0.9, side=OursUndigested.name)]
    ways = [
        ("write", "save, synced", "until it is on the disk", aims),
        ("write-unsynced", "save, not synced", "no side waits for the disk", aims),
        ("write-default", "save, each as by default", "ours waits for the disk, safetensors doesn't", []),
    ]
    for case, title, what, aims_of_way in ways:
        sides = made.writing(case, only=[_PLAIN])
        what = f"save_file from arrays in memory, {what}"  # noqa: PLW2901
        yield run(
            Measured(f"minilm-{case}", f"{which}: {title}", what, sides, made.wanted.nbytes, aims_of_way), setting
        )
