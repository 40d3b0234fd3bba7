"""Memory of converting: made-up Gemma 3 checkpoints of several sizes, each in a process of its own.

Each process is the command line, from start to end. The peak is of all its memory, including Python, imports and mapped
pages; *own* is the maximum of its anonymous memory, read every few milliseconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from benchmarks.measurement import OURS, Measured, Side, run
from blobstore.bench import page_cache
from blobstore.bench.measure import Sample
from blobstore.checkpoint.safetensors import dump_header
from blobstore.cli.formatting import size
from blobstore.codecs.element_types import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.measurement import Result, Setting

_WAYS = [(weights, layout) for weights in ("sfp", "bf16", "f32") for layout in ("split", "stock")]
_WAYS.append(("i8", "split"))  # stock has rows that end inside groups
_RUNS = 2  # memory varies little
_PATTERN = 1 << 22  # values to make; each tensor repeats them
_EVERY = 0.003  # seconds between two readings
# Runs the command, then prints this program's peak: a child's ru_maxrss starts with its parent's.
_CHILD = """
import sys
from blobstore.cli import main
status = main(sys.argv[1:])
try:
    with open("/proc/self/status") as file:
        print(*(line for line in file if line.startswith("VmHWM:")), file=sys.stderr)
except OSError:
    pass
sys.exit(status)
"""


@dataclass(frozen=True)
class Shape:
    """A text model's dimensions; by default those of Gemma 3 1B."""

    layers: int = 26
    width: int = 1152
    hidden: int = 6912
    heads: int = 4
    head: int = 256
    vocabulary: int = 262_144

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Return name → shape; with one head for keys and values, like the smaller Gemma 3."""
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocabulary, self.width),
            "model.norm.weight": (self.width,),
        }
        queries = self.heads * self.head
        layer: dict[str, tuple[int, ...]] = {
            "self_attn.q_proj": (queries, self.width),
            "self_attn.k_proj": (self.head, self.width),
            "self_attn.v_proj": (self.head, self.width),
            "self_attn.o_proj": (self.width, queries),
            "self_attn.q_norm": (self.head,),
            "self_attn.k_norm": (self.head,),
            "mlp.gate_proj": (self.hidden, self.width),
            "mlp.up_proj": (self.hidden, self.width),
            "mlp.down_proj": (self.width, self.hidden),
        }
        norms = ("input", "post_attention", "pre_feedforward", "post_feedforward")
        layer |= {f"{norm}_layernorm": (self.width,) for norm in norms}
        for i in range(self.layers):
            shapes |= {f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()}
        return shapes

    def config(self) -> dict[str, object]:
        """Return the contents of config.json."""
        return {
            "architectures": ["Gemma3ForCausalLM"],
            "model_type": "gemma3_text",
            "hidden_size": self.width,
            "intermediate_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": 1,
            "head_dim": self.head,
            "vocab_size": self.vocabulary,
            "sliding_window": 512,
            "query_pre_attn_scalar": self.head,
            "tie_word_embeddings": True,
        }


_SHAPES = {
    OURS: Shape(),
    "blobstore, 4 of 26 layers": Shape(layers=4),
    "blobstore, tiny checkpoint": Shape(1, 128, 256, 2, 128, 256),
}
_QUICK_SHAPES = {OURS: Shape(2, 128, 256, 2, 128, 256), "blobstore, tiny checkpoint": Shape(1, 128, 256, 2, 128, 256)}


def measure(setting: Setting) -> Iterator[Result]:
    """Convert checkpoints of all sizes, to each type, in each layout."""
    shapes = _QUICK_SHAPES if setting.quick else _SHAPES
    folders = {name: os.path.join(setting.folder, f"checkpoint-{i}") for i, name in enumerate(shapes)}
    target = os.path.join(setting.folder, "converted.sbs")
    try:
        for name, shape in shapes.items():
            setting.tell(f"  writing the checkpoint of {name}")
            _write(folders[name], shape)
        nbytes = [os.path.getsize(os.path.join(folder, "model.safetensors")) for folder in folders.values()]
        what = f"a whole process; Gemma 3 1B, made up: checkpoints of {', '.join(map(size, nbytes))}"
        for weights, layout in _WAYS:
            options = ("-o", target, "--weights", weights, "--layout", layout, "--wrapping", "pt")
            sides = [
                Side(name, partial(_convert, ("convert", folder, *options), target)) for name, folder in folders.items()
            ]
            title = f"convert to {weights}, {layout}"
            yield run(Measured(f"memory-{weights}-{layout}", title, what, sides, runs=_RUNS), setting)
    finally:
        page_cache.remove(target)
        for folder in folders.values():
            page_cache.remove(folder)


def _write(folder: str, shape: Shape) -> None:
    """Write a checkpoint of normal values in bfloat16, tensor by tensor."""
    bf16, tensors = BY_NAME["bf16"], shape.tensors()
    values = np.random.default_rng(1).standard_normal(_PATTERN, np.float32) / 50
    pattern = values.astype(ml_dtypes.bfloat16).view(np.uint8).data
    os.makedirs(folder)
    with open(os.path.join(folder, "model.safetensors"), "wb") as file:
        file.write(dump_header((name, bf16, shape_of_tensor) for name, shape_of_tensor in tensors.items()))
        for shape_of_tensor in tensors.values():
            nbytes = bf16.nbytes(int(np.prod(shape_of_tensor)))
            file.writelines(pattern[: nbytes - done] for done in range(0, nbytes, len(pattern)))
        file.flush()
        os.fsync(file.fileno())
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump(shape.config(), file)


def _convert(arguments: tuple[str, ...], target: str) -> Sample:
    """Run the command line and watch its memory."""
    page_cache.remove(target)
    own: list[int] = []
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", _CHILD, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as child:
        while child.poll() is None:
            own += _anonymous(child.pid)
            time.sleep(_EVERY)
        seconds = time.perf_counter() - start
        output = child.communicate()[1].split()
    if child.returncode:
        raise AssertionError(f"{' '.join(arguments)} ended with {child.returncode}: {' '.join(output)}")
    peak = int(output[output.index("VmHWM:") + 1]) << 10 if "VmHWM:" in output else None
    return Sample(seconds, peak, max(own, default=None), None, None)


def _anonymous(process: int) -> list[int]:
    """Return the size of a process's anonymous memory, if the system reports it."""
    with suppress(OSError), open(f"/proc/{process}/status", encoding="ascii", errors="replace") as file:
        return [int(line.split()[1]) << 10 for line in file if line.startswith("RssAnon:")]
    return []
