"""An exported checkpoint with tied weights, as safetensors and Candle read it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
import safetensors

from blobstore.cli import main
from tests.checkpoints import EMBEDDING, HEAD, SINGLE, own, write_config, write_own

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    Array = npt.NDArray[Any]

LAYERS, WIDTH, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY = 2, 64, 96, 4, 2, 16, 128


def llama(folder: Path, dtype: type) -> dict[str, Array]:
    """A small checkpoint with the tensors of meta-llama/Llama-3.2-1B: tied weights, no head."""
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (VOCABULARY, WIDTH), "model.norm.weight": (WIDTH,)}
    for i in range(LAYERS):
        at = f"model.layers.{i}."
        shapes |= {
            f"{at}self_attn.q_proj.weight": (HEADS * HEAD_DIM, WIDTH),
            f"{at}self_attn.k_proj.weight": (KV_HEADS * HEAD_DIM, WIDTH),
            f"{at}self_attn.v_proj.weight": (KV_HEADS * HEAD_DIM, WIDTH),
            f"{at}self_attn.o_proj.weight": (WIDTH, HEADS * HEAD_DIM),
            f"{at}mlp.gate_proj.weight": (HIDDEN, WIDTH),
            f"{at}mlp.up_proj.weight": (HIDDEN, WIDTH),
            f"{at}mlp.down_proj.weight": (WIDTH, HIDDEN),
            f"{at}input_layernorm.weight": (WIDTH,),
            f"{at}post_attention_layernorm.weight": (WIDTH,),
        }
    random = np.random.default_rng(3)
    tensors: dict[str, Array] = {name: random.normal(0, 0.05, shape).astype(dtype) for name, shape in shapes.items()}
    folder.mkdir()
    write_own(folder / SINGLE, own(tensors), {"format": "pt"})
    write_config(
        folder,
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": WIDTH,
            "intermediate_size": HIDDEN,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS,
            "head_dim": HEAD_DIM,
            "vocab_size": VOCABULARY,
            "tie_word_embeddings": True,
        },
    )
    return tensors


def there_and_back(folder: Path, *arguments: str) -> Path:
    """Checkpoint → .sbs → safetensors."""
    file, out = folder.parent / "model.sbs", folder.parent / "out.safetensors"
    assert main(["convert", str(folder), "-o", str(file)]) == 0
    assert main(["export", str(file), "-o", str(out), *arguments]) == 0
    return out


def expected(tensors: dict[str, Array], *, materialized: bool) -> dict[str, Array]:
    return tensors | ({HEAD: tensors[EMBEDDING]} if materialized else {})


@pytest.mark.parametrize("materialized", [True, False])
def test_safetensors_finds_a_materialized_head(tmp_path: Path, materialized: bool) -> None:
    tensors = llama(tmp_path / "c", np.float16)
    path = there_and_back(tmp_path / "c", *(["--materialize-aliases"] if materialized else []))
    with safetensors.safe_open(path, "numpy") as file:
        loaded = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    wanted = expected(tensors, materialized=materialized)
    assert {n: (a.dtype, a.shape, a.tobytes()) for n, a in loaded.items()} == {
        n: (a.dtype, a.shape, a.tobytes()) for n, a in wanted.items()
    }


@pytest.mark.candle
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16], ids=["f32", "f16", "bf16"])
@pytest.mark.parametrize("materialized", [True, False])
def test_candle_finds_a_materialized_head(tmp_path: Path, materialized: bool, dtype: type) -> None:
    # Without candle-nn this is an error, not a skip: the marker was asked for.
    candle = importlib.import_module("candle")
    load = importlib.import_module("candle.utils").load_safetensors
    tensors = llama(tmp_path / "c", dtype)
    path = there_and_back(tmp_path / "c", *(["--materialize-aliases"] if materialized else []))
    loaded = load(str(path))
    assert (HEAD in loaded) is materialized
    wanted = expected(tensors, materialized=materialized)
    assert set(loaded) == set(wanted)
    for name, array in wanted.items():
        tensor = loaded[name]
        assert tuple(tensor.shape) == array.shape
        values = np.array(tensor.to_dtype(candle.f32).values(), dtype=np.float32)
        assert np.array_equal(values, array.astype(np.float32)), name
