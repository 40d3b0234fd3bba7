"""GGUF files, written by the package gguf, or by hand where they are to be wrong."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import gguf
import ml_dtypes
import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from tests.gemma_checkpoints import Recipe

    Given = npt.NDArray[Any] | tuple[npt.NDArray[Any], str]
    Tensors = dict[str, Given]

    Array = npt.NDArray[Any]

TYPES = {kind.name.lower(): kind for kind in GGMLQuantizationType}
# Those that the package can write and read. TQ1_0, NVFP4 and the IQ types are only read.
WRITABLE = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "tq1_0", "tq2_0", "mxfp4", "bf16")


def write_gguf(
    path: Path,
    tensors: Mapping[str, Given],
    metadata: Mapping[str, Any] | None = None,
    architecture: str = "llama",
    split: tuple[int, int, int] | None = None,
) -> Path:
    """Write a file with the package gguf, and return its path.

    Args:
        path: Of the file.
        tensors: Name → values; or stored blocks, shape (rows, bytes of a row), and the type's name.
        metadata: Key → value. Lists hold one type.
        architecture: What llama.cpp calls the model.
        split: Number of this part, of how many, and how many tensors these have.
    """
    path.parent.mkdir(exist_ok=True)
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in (metadata or {}).items():
        if isinstance(value, list):
            writer.add_array(key, value)
        else:
            writer.add_key_value(key, value, _type_of(value))
    if split is not None:
        writer.add_uint16("split.no", split[0])
        writer.add_uint16("split.count", split[1])
        writer.add_int32("split.tensors.count", split[2])
    for name, given in tensors.items():
        array, kind = given if isinstance(given, tuple) else (given, "")
        if array.dtype == ml_dtypes.bfloat16:
            array, kind = array.view(np.uint8), "bf16"
        writer.add_tensor(name, array, raw_dtype=TYPES[kind] if kind else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _type_of(value: object) -> GGUFValueType:
    types = {bool: GGUFValueType.BOOL, int: GGUFValueType.UINT32, float: GGUFValueType.FLOAT32}
    return types.get(type(value), GGUFValueType.STRING)


def quantised(values: Array, kind: str) -> tuple[Array, str]:
    """Return values as blocks of a type, as `write_gguf` takes them."""
    return gguf.quants.quantize(values.astype(np.float32), TYPES[kind]), kind


def blocks(kind: str, rows: int, columns: int, seed: int = 0) -> tuple[Array, str]:
    """Return random blocks of any type, with finite scales, as `write_gguf` takes them."""
    count, nbytes = gguf.GGML_QUANT_SIZES[TYPES[kind]]
    raw = np.random.default_rng(seed).integers(0, 256, (rows, columns // count * nbytes), np.uint8)
    raw &= 0x3F  # no part of it is the exponent of a NaN or an infinity
    return raw, kind


def dequantised(path: Path) -> dict[str, Array]:
    """Return what the package itself reads of a file: every tensor as it decodes it."""
    values = {}
    for tensor in gguf.GGUFReader(path).tensors:
        shape = tuple(int(size) for size in reversed(tensor.shape.tolist()))
        plain = tensor.tensor_type.name.startswith(("I", "F")) and not tensor.tensor_type.name.startswith("IQ")
        data = tensor.data if plain else gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        values[tensor.name] = np.array(data).reshape(shape)
    return values


def text(value: str) -> bytes:
    """Return a text as the format has it."""
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def key(name: str, number: int, value: bytes) -> bytes:
    """Return an entry of the metadata."""
    return text(name) + struct.pack("<I", number) + value


def tensor(name: str, shape: Sequence[int], kind: int = 0, offset: int = 0) -> bytes:
    """Return an entry of the list of tensors; ``shape`` in C order."""
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), kind, offset)


def raw_gguf(
    keys: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    version: int = 3,
    counts: tuple[int, int] | None = None,
    alignment: int = 32,
) -> bytes:
    """Return a file's bytes, right or wrong."""
    tensor_count, key_count = counts or (len(tensors), len(keys))
    head = b"GGUF" + struct.pack("<IQQ", version, tensor_count, key_count) + b"".join([*keys, *tensors])
    return head + bytes(-len(head) % alignment) + data


HF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def own_name(name: str, family: str = "gemma3") -> str:
    """Return what llama.cpp calls a tensor of a checkpoint."""
    if family == "qwen3":
        name = name.replace("post_attention_layernorm", "pre_feedforward_layernorm")  # its place in a Gemma
    stem = name.removesuffix(".weight")
    if stem in HF_NAMES:
        return f"{HF_NAMES[stem]}.weight"
    _, _, layer, rest = stem.split(".", 3)
    return f"blk.{layer}.{HF_NAMES[rest]}.weight"


def gemma_metadata(recipe: Recipe) -> dict[str, Any]:
    """Return what llama.cpp's converter says of a Gemma or a Qwen3 in a file's metadata."""
    size, gemma3 = recipe.size, recipe.family == "gemma3"
    own: dict[str, Any] = {
        "context_length": 32768 if gemma3 else 8192,
        "embedding_length": size.width,
        "block_count": size.layers,
        "feed_forward_length": size.hidden,
        "attention.head_count": size.heads,
        "attention.head_count_kv": size.kv_heads,
        "attention.key_length": size.head,
        "attention.value_length": size.head,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "attention.sliding_window": 512 if gemma3 else 4096,
    }
    own |= {"rope.freq_base": 1e6} if gemma3 else {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    tokens: dict[str, Any] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [f"t{i}" for i in range(size.vocabulary)],
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.padding_token_id": 0,
        "general.file_type": 1,
    }
    if recipe.family == "qwen3":
        for key in ("attention.sliding_window", "attn_logit_softcapping", "final_logit_softcapping"):
            del own[key]
        own |= {"context_length": 40960, "rope.freq_base": 1e6}
        tokens |= {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.eos_token_id": 151645}
    return {f"{recipe.family}.{key}": value for key, value in own.items()} | tokens


def write_gemma(
    path: Path,
    recipe: Recipe,
    kind: str = "",
    metadata: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Given] | None = None,
) -> Path:
    """Write a Gemma 2, Gemma 3 or Qwen3 as llama.cpp's converter does: norms as f32, a Gemma's as 1 + weight.

    Args:
        path: Of the file.
        recipe: Of the checkpoint that it is made of.
        kind: Type of the matrices; by default the checkpoint's own.
        metadata: More of it, or other values; None leaves a key out.
        tensors: More tensors, by GGUF's names, or others in place of the recipe's.
    """
    given: Tensors = {}
    for name, array in recipe.tensors().items():
        if array.ndim == 1:
            given[own_name(name, recipe.family)] = array.astype(np.float32) + np.float32(recipe.family != "qwen3")
        else:
            given[own_name(name, recipe.family)] = quantised(array, kind) if kind else array
    fields = gemma_metadata(recipe) | dict(metadata or {})
    fields = {key: value for key, value in fields.items() if value is not None}
    return write_gguf(path, given | dict(tensors or {}), fields, recipe.family)
