"""What ``blobstore demo`` shows: a small checkpoint is made, converted, verified, listed and exported."""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

import blobstore
from blobstore.checkpoint.reader import open_checkpoint
from blobstore.checkpoint.safetensors import dump_header
from blobstore.cli.formatting import shape, shown, size
from blobstore.cli.output import output_of, print_json
from blobstore.codecs.element_types import type_of
from blobstore.errors import UsageError
from blobstore.exporting.run import superseded
from blobstore.fileio.atomic import write_file
from blobstore.fileio.source import read_beginning
from blobstore.gemma.models import specifier_of

if TYPE_CHECKING:
    import argparse
    from typing import Any

    from blobstore.fileio.types import Array
    from blobstore.store.reader import Store
    from blobstore.store.vocabulary import By

    Tensors = dict[str, Array]

_LAYERS, _WIDTH, _HIDDEN, _HEADS, _HEAD_SIZE, _VOCABULARY = 2, 64, 128, 2, 32, 512
_MARK = "made_by_blobstore_demo"
_EXPORTED = "exported.safetensors"
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def demonstrate(options: argparse.Namespace) -> int:
    """Show all steps on a small model; returns 1 if anything read back isn't what was written."""
    folder = str(output_of(options, options.output, streams=False))
    os.makedirs(folder, exist_ok=True)
    _refuse_foreign(folder)
    tensors = _tensors()
    _write_checkpoint(folder, tensors)
    small, exact = os.path.join(folder, "demo-sfp.sbs"), os.path.join(folder, "demo-bf16.sbs")
    wrong = _convert(folder, small, "sfp") + _convert(folder, exact, "bf16")
    exported = os.path.join(folder, _EXPORTED)
    blobstore.export(exact, exported, materialize_aliases=True)
    expected = tensors | {_HEAD: tensors[_EMBEDDING]}
    equal = _count_equal(exported, expected)
    with blobstore.open(small) as store:
        facts = {
            "checkpoint": os.path.join(folder, "model.safetensors"),
            "file": small,
            "nbytes": store.reader.file_size,
            "names": len(store),
            "not_as_the_source_makes_it": wrong,
            "exported": exported,
            "exported_from": exact,
            "exported_equal": equal,
        }
        ok = not wrong and equal == len(expected)
        if options.json:
            print_json(facts | {"ok": ok})
        else:
            _tell(facts, store, len(expected))
    return 0 if ok else 1


def _tell(facts: dict[str, Any], store: Store, count: int) -> None:
    config = store.config
    print(f"1. made      {facts['checkpoint']}: a small Gemma 3, as Hugging Face's tools write it")
    print(f"2. converted {facts['file']}: {size(facts['nbytes'])}, {config and specifier_of(config)}, for gemma.cpp")
    print(f"3. verified  every byte recomputed from the source: {facts['not_as_the_source_makes_it']} differ")
    print("4. listed, by the runtime's keys and by the source's names")
    listed: list[tuple[str, By]] = [(key, "keys") for key in ("c_embedding", "gating1_w_0")]
    listed += [(name, "names") for name in (_EMBEDDING, _HEAD, "model.layers.0.mlp.gate_proj.weight")]
    for name, by in listed:
        with blobstore.open(store.path, by=by) as vocabulary:
            info = vocabulary.info(name)
        print(f"     {shown(name):<36} blob {info.key:<12} {info.type} {shape(info.shape)} at {info.offset}")
    print(f"     … {len(store)} names in all; tied and renamed weights are stored once")
    same = f"{facts['exported_equal']} of {count} tensors are the source's, bit for bit"
    print(f"5. exported  {facts['exported']} from {facts['exported_from']}, the same with bf16 weights: {same}")
    print(f"\nLook at it: {_program()} ls {facts['file']}")


def _program() -> str:
    """Return how to call this program: by its path, if that is how it was called and the name alone isn't found."""
    called = sys.argv[0]
    if shutil.which("blobstore") or not os.path.basename(called).startswith("blobstore"):
        return "blobstore"
    return os.path.relpath(called)


def _convert(folder: str, path: str, weights: str) -> int:
    """Convert and verify; return the number of wrong tensors, names and blobs."""
    blobstore.convert(folder, path, weights=weights)
    return len(blobstore.verify(path, against=folder).faults)


def _count_equal(path: str, expected: Tensors) -> int:
    with open_checkpoint(path) as exported:
        stored = {name: b"".join(map(bytes, tensor.chunks())) for name, tensor in exported.tensors.items()}
    return sum(stored.get(name) == tensor.tobytes() for name, tensor in expected.items())


def _tensors() -> Tensors:
    random = np.random.default_rng(2026)
    queries = _HEADS * _HEAD_SIZE
    shapes: dict[str, tuple[int, ...]] = {_EMBEDDING: (_VOCABULARY, _WIDTH), "model.norm.weight": (_WIDTH,)}
    for layer in range(_LAYERS):
        at = f"model.layers.{layer}"
        shapes |= {
            f"{at}.self_attn.q_proj.weight": (queries, _WIDTH),
            f"{at}.self_attn.k_proj.weight": (_HEAD_SIZE, _WIDTH),
            f"{at}.self_attn.v_proj.weight": (_HEAD_SIZE, _WIDTH),
            f"{at}.self_attn.o_proj.weight": (_WIDTH, queries),
            f"{at}.self_attn.q_norm.weight": (_HEAD_SIZE,),
            f"{at}.self_attn.k_norm.weight": (_HEAD_SIZE,),
            f"{at}.mlp.gate_proj.weight": (_HIDDEN, _WIDTH),
            f"{at}.mlp.up_proj.weight": (_HIDDEN, _WIDTH),
            f"{at}.mlp.down_proj.weight": (_WIDTH, _HIDDEN),
        }
        norms = ("input", "post_attention", "pre_feedforward", "post_feedforward")
        shapes |= {f"{at}.{norm}_layernorm.weight": (_WIDTH,) for norm in norms}
    return {name: random.normal(0, 0.02, one).astype(ml_dtypes.bfloat16) for name, one in shapes.items()}


def _write_checkpoint(folder: str, tensors: Tensors) -> None:
    header = dump_header(
        ((name, type_of(tensor.dtype), tensor.shape) for name, tensor in tensors.items()), {"format": "pt"}
    )
    data = header + b"".join(tensor.tobytes() for tensor in tensors.values())
    write_file(os.path.join(folder, "model.safetensors"), data)
    config = {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "hidden_size": _WIDTH,
        "intermediate_size": _HIDDEN,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": 1,
        "head_dim": _HEAD_SIZE,
        "query_pre_attn_scalar": _HEAD_SIZE,
        "sliding_window": 512,
        "vocab_size": _VOCABULARY,
        _MARK: True,
    }
    write_file(os.path.join(folder, "config.json"), json.dumps(config, indent=1).encode())


def _refuse_foreign(folder: str) -> None:
    """Refuse a folder with files that weren't made by a demo."""
    config = os.path.join(folder, "config.json")
    if os.path.exists(config) and f'"{_MARK}"'.encode() in bytes(read_beginning(config, 10_000)):
        others = superseded(os.path.join(folder, _EXPORTED), 1)
        if others:
            what = f"{', '.join(map(repr, others))} would be read instead of the demo's export, or with it"
            raise UsageError("superseded", f"{what}: remove what isn't needed, or choose another folder")
        return
    if os.listdir(folder):
        raise UsageError("not-empty", f"{folder!r} has files that weren't made by a demo: choose another folder")
