"""``blobstore demo``."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

import blobstore
from blobstore.atomic import write_file
from blobstore.cli.output import add_command, add_json, print_json, shape, shown, size
from blobstore.convert.checkpoint import open_checkpoint
from blobstore.convert.plan import plan_by_name
from blobstore.convert.run import run_plan
from blobstore.convert.safetensors import dump_header
from blobstore.elements import type_of
from blobstore.errors import UsageError

if TYPE_CHECKING:
    import argparse
    from typing import Any

    import numpy.typing as npt

    from blobstore.store import Store

EXAMPLE = """example:
  blobstore demo
  blobstore demo -o somewhere"""

_LAYERS, _WIDTH, _HIDDEN, _VOCABULARY = 2, 64, 128, 512
_MARK = "made_by_blobstore_demo"
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    text = "Show the whole way on a small model: make a checkpoint, convert it, list it, read it back, compare."
    parser = add_command(commands, "demo", run, text, EXAMPLE)
    parser.add_argument(
        "-o", "--output", metavar="FOLDER", default="blobstore-demo", help="where (default: blobstore-demo)"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns 1 when a value read back isn't the one written."""
    folder: str = options.output
    path = os.path.join(folder, "demo.sbs")
    os.makedirs(folder, exist_ok=True)
    _refuse_foreign(folder)
    tensors = _tensors()
    _write_checkpoint(folder, tensors)
    with open_checkpoint(folder) as checkpoint:
        plan = plan_by_name(checkpoint)
        run_plan(plan, checkpoint, path)
    with blobstore.open(path) as store:
        expected = tensors | {_HEAD: tensors[_EMBEDDING]}
        equal = sum(_equal(store[name], array) for name, array in expected.items())
        by_key = sum(bytes(store.reader[blobstore.key_for(name)]) == array.tobytes() for name, array in tensors.items())
        facts = {
            "checkpoint": os.path.join(folder, "model.safetensors"),
            "file": path,
            "nbytes": store.reader.file_size,
            "names": len(store),
            "equal_by_name": equal,
            "equal_by_key": by_key,
        }
        right = equal == len(expected) == len(store) and by_key == len(tensors)
        if options.json:
            print_json(facts | {"right": right})
        else:
            _tell(facts, store)
    return 0 if right else 1


def _tell(facts: dict[str, Any], store: Store) -> None:
    print(f"1. made      {facts['checkpoint']}: a small model with tied weights, as Hugging Face's tools write it")
    print(f"2. converted {facts['file']}: {size(facts['nbytes'])}, an .sbs file that gemma.cpp's reader takes")
    print("3. listed")
    for name in list(store)[:4]:
        one = store.info(name)
        print(f"     {shown(name)}  key {one.key}  {one.type} {shape(one.shape)}  at {one.offset}")
    print(f"     … {len(store)} names in all")
    head = store.info(_HEAD)
    print(f"     {_HEAD} is the blob {head.key} as well: tied weights are stored once and found by both names")
    print(
        f"4. read back {facts['equal_by_name']} tensors by name and {facts['equal_by_key']} by key: all values compared"
    )
    print(f"\nLook at it: blobstore ls {facts['file']}")


def _tensors() -> dict[str, npt.NDArray[Any]]:
    random = np.random.default_rng(2026)
    shapes = {_EMBEDDING: (_VOCABULARY, _WIDTH), "model.norm.weight": (_WIDTH,)}
    for layer in range(_LAYERS):
        at = f"model.layers.{layer}"
        shapes |= {f"{at}.self_attn.{one}_proj.weight": (_WIDTH, _WIDTH) for one in ("q", "k", "v", "o")}
        shapes |= {f"{at}.mlp.{one}_proj.weight": (_HIDDEN, _WIDTH) for one in ("gate", "up")}
        shapes[f"{at}.mlp.down_proj.weight"] = (_WIDTH, _HIDDEN)
        shapes |= {f"{at}.{one}_layernorm.weight": (_WIDTH,) for one in ("input", "post_attention")}
    return {name: random.normal(0, 0.02, one).astype(ml_dtypes.bfloat16) for name, one in shapes.items()}


def _write_checkpoint(folder: str, tensors: dict[str, npt.NDArray[Any]]) -> None:
    header = dump_header(((name, type_of(one.dtype), one.shape) for name, one in tensors.items()), {"format": "pt"})
    data = header + b"".join(one.tobytes() for one in tensors.values())
    write_file(os.path.join(folder, "model.safetensors"), data)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": True, _MARK: True}
    write_file(os.path.join(folder, "config.json"), json.dumps(config, indent=1).encode())


def _refuse_foreign(folder: str) -> None:
    """Refuse a folder with files that no demo has made."""
    config = os.path.join(folder, "config.json")
    if os.path.exists(config):
        with open(config, "rb") as file:
            if f'"{_MARK}"'.encode() in file.read(10_000):
                return
    if os.listdir(folder):
        raise UsageError("not-empty", f"{folder!r} has files that no demo has made: choose another folder")


def _equal(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
