"""Merged adapters against peft's own merge_and_unload: ``make test-peft``. The models are small, with random weights.

In float32 both add one product to each weight; peft's is rounded to float32 before that, and summed up in an order of
its own. So values differ by the rounding of numbers as large as the weights and the product: `FLOAT32` of the largest.
In bfloat16 and float16 peft also rounds the product to that type first: two roundings, ours is one.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest

import blobstore
from tests.adapters import merged, notes
from tests.test_transformers import VISION

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    import numpy.typing as npt

    Array = npt.NDArray[Any]
    Options = dict[str, Any]

pytestmark = [
    pytest.mark.peft,
    # Of the libraries themselves, whichever version.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]

FLOAT32 = 4e-7  # of the largest value: three roundings
HALF = {"bfloat16": 2.0**-7, "float16": 2.0**-10}  # of a value: one rounding of two
TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 97}
HEADS = {"num_key_value_heads": 2, "head_dim": 8}
MODELS = {
    "llama": ("Llama", "CausalLM", {**TEXT, **HEADS, "tie_word_embeddings": False}),
    "gemma2": ("Gemma2", "CausalLM", {**TEXT, **HEADS}),
    "gemma3": ("Gemma3", "CausalLM", {**TEXT, **HEADS}),
    "gpt2": ("GPT2", "LMHeadModel", {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 97, "n_positions": 16}),
    "bert": ("Bert", "ForSequenceClassification", {**TEXT, "max_position_embeddings": 16}),
}
LINEAR = {"target_modules": ["q_proj", "down_proj"], "r": 4, "lora_alpha": 7}
CONV1D = {"target_modules": ["c_attn", "c_proj", "c_fc"], "r": 4, "fan_in_fan_out": True}
CASES: dict[str, tuple[str, Options]] = {
    "lora": ("llama", LINEAR),
    "rslora": ("llama", LINEAR | {"use_rslora": True}),
    "patterns": (
        "llama",
        LINEAR
        | {
            "rank_pattern": {"layers.1.self_attn.q_proj": 2, r".*\.0\.mlp\.down_proj": 3},
            "alpha_pattern": {r".*\.1\..*q_proj": 3, "^model.layers.0.mlp.down_proj": 5, "(q|down)_proj": 11},
        },
    ),
    "dora": ("llama", LINEAR | {"use_dora": True}),
    "modules to save": ("llama", LINEAR | {"modules_to_save": ["embed_tokens", "lm_head"]}),
    "embedding": ("llama", {"target_modules": ["embed_tokens", "q_proj"], "r": 4}),
    "head": ("llama", {"target_modules": ["lm_head", "q_proj"], "r": 4}),
    "tokens": ("llama", LINEAR | {"trainable_token_indices": [3, 50, 7]}),
    "all linear": ("gemma2", {"target_modules": "all-linear", "r": 8}),
    "gemma 3": ("gemma3", {"target_modules": ["q_proj", "k_proj", "o_proj", "gate_proj"], "r": 4}),
    "gemma 3, tokens": ("gemma3", LINEAR | {"trainable_token_indices": [3, 50, 7]}),
    "gemma 3, both saved": ("gemma3", LINEAR | {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}),
    "transposed": ("gpt2", CONV1D),
    "transposed, with biases": ("gpt2", CONV1D | {"lora_bias": True}),
    "transposed, with an embedding": ("gpt2", CONV1D | {"target_modules": ["c_attn", "wpe"]}),
    "a new classifier": ("bert", {"target_modules": ["query", "dense"], "r": 4, "task_type": "SEQ_CLS"}),
    "all biases": ("bert", {"target_modules": ["query"], "r": 4, "bias": "all"}),
    "biases of its modules": ("bert", {"target_modules": ["query"], "r": 4, "bias": "lora_only"}),
}


class Libraries(NamedTuple):
    """The modules that a test needs."""

    transformers: ModuleType
    torch: ModuleType
    peft: ModuleType
    safetensors: ModuleType


# Without the libraries this is an error, not a skip: the marker was asked for.
@pytest.fixture(scope="module")
def libraries() -> Libraries:
    return Libraries(*map(importlib.import_module, ("transformers", "torch", "peft", "safetensors.torch")))


def model_of(libraries: Libraries, kind: str) -> Any:  # noqa: ANN401 (a module)
    family, ending, options = MODELS[kind]
    libraries.torch.manual_seed(0)
    config = getattr(libraries.transformers, f"{family}{'Text' if kind == 'gemma3' else ''}Config")(**options)
    return getattr(libraries.transformers, f"{family}{'For' if ending == 'CausalLM' else ''}{ending}")(config)


def write(libraries: Libraries, folder: Path, kind: str, options: Options, dtype: str = "float32") -> Any:  # noqa: ANN401
    """Write a base and an adapter → peft's model of both, read anew, not merged."""
    torch, peft = libraries.torch, libraries.peft
    base = model_of(libraries, kind).to(getattr(torch, dtype))
    base.save_pretrained(folder / "base")
    with_adapter = peft.get_peft_model(base, peft.LoraConfig(**options))
    with torch.no_grad():
        for name, parameter in with_adapter.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter) * 0.1 + ("magnitude" in name))
    with_adapter.save_pretrained(folder / "lora")
    fresh = type(base).from_pretrained(folder / "base", dtype=getattr(torch, dtype))
    return peft.PeftModel.from_pretrained(fresh, folder / "lora")


def by_peft(libraries: Libraries, folder: Path, model: Any) -> dict[str, Array]:  # noqa: ANN401
    """Merge with peft → the tensors of the saved model, as float64."""
    model.merge_and_unload().save_pretrained(folder / "merged")
    tensors = libraries.safetensors.load_file(folder / "merged" / "model.safetensors")
    return {name: tensor.double().numpy() for name, tensor in tensors.items()}


@pytest.mark.parametrize("case", CASES)
def test_merged_as_peft_merges(libraries: Libraries, tmp_path: Path, case: str) -> None:
    kind, options = CASES[case]
    wanted = by_peft(libraries, tmp_path, write(libraries, tmp_path, kind, options))
    ours = merged(tmp_path / "base", tmp_path / "lora")
    assert ours.keys() == wanted.keys()
    base = merged(tmp_path / "base")
    assert any(not np.array_equal(ours[name], base[name]) for name in base)
    for name, values in wanted.items():
        limit = FLOAT32 * np.abs(values).max()
        assert np.abs(ours[name].astype(np.float64) - values).max() <= limit, name


@pytest.mark.parametrize("dtype", HALF)
def test_other_types_differ_by_one_rounding(libraries: Libraries, tmp_path: Path, dtype: str) -> None:
    wanted = by_peft(libraries, tmp_path, write(libraries, tmp_path, "llama", LINEAR, dtype))
    for name, values in merged(tmp_path / "base", tmp_path / "lora").items():
        limit = HALF[dtype] * np.abs(wanted[name]).max()
        assert np.abs(values.astype(np.float64) - wanted[name]).max() <= limit, name


@pytest.mark.parametrize(
    ("modules", "options"),
    [
        (["embed_tokens", "q_proj"], {}),
        (["embed_tokens", "q_proj"], {"ensure_weight_tying": True}),
        (["lm_head", "q_proj"], {}),
    ],
    ids=["embedding", "embedding, tied", "head"],
)
def test_of_tied_weights_the_model_before_merging_counts(
    libraries: Libraries, tmp_path: Path, modules: list[str], options: Options
) -> None:
    # merge_and_unload adds what is trained to the one tensor that both share, for each of them.
    torch = libraries.torch
    model = write(libraries, tmp_path, "gemma3", {"target_modules": modules, "r": 4} | options).eval()
    tokens = torch.arange(20).reshape(2, 10)
    ours = merged(tmp_path / "base", tmp_path / "lora")
    fresh = model_of(libraries, "gemma3").eval()
    if "lm_head.weight" in ours:
        fresh.lm_head.weight = torch.nn.Parameter(fresh.lm_head.weight.detach().clone())
    fresh.load_state_dict({name: torch.from_numpy(array) for name, array in ours.items()}, strict=False)
    fresh.eval()
    with torch.no_grad():
        assert torch.allclose(fresh(tokens).logits, model(tokens).logits, rtol=1e-4, atol=1e-4)
    assert ("lm_head.weight" in ours) != bool(options)


def test_two_adapters_add_up(libraries: Libraries, tmp_path: Path) -> None:
    torch, peft = libraries.torch, libraries.peft
    for place, name in enumerate(("one", "two")):
        write(libraries, tmp_path / name, "llama", LINEAR | {"r": 2 + place})
    base = type(model_of(libraries, "llama")).from_pretrained(tmp_path / "one" / "base", dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(base, tmp_path / "one" / "lora", adapter_name="one")
    model.load_adapter(tmp_path / "two" / "lora", adapter_name="two")
    model.base_model.set_adapter(["one", "two"])
    wanted = by_peft(libraries, tmp_path, model)
    for name, values in merged(tmp_path / "one" / "base", tmp_path / "one" / "lora", tmp_path / "two" / "lora").items():
        assert np.abs(values - wanted[name]).max() <= FLOAT32 * np.abs(wanted[name]).max(), name


def test_a_converted_file_exports_the_merged_model(libraries: Libraries, tmp_path: Path) -> None:
    options = {"target_modules": ["q_proj", "v_proj", "o_proj", "up_proj"], "r": 4}
    wanted = by_peft(libraries, tmp_path, write(libraries, tmp_path, "gemma2", options))
    lora = tmp_path / "lora"
    done = blobstore.convert(tmp_path / "base", tmp_path / "tuned.sbs", adapters=lora, as_="names")
    assert done.adapters == (str(lora),)
    assert blobstore.verify(tmp_path / "tuned.sbs", against=tmp_path / "base", adapters=lora).ok
    with blobstore.open(tmp_path / "tuned.sbs") as store:
        for name, values in wanted.items():
            assert np.abs(store[name] - values).max() <= FLOAT32 * np.abs(values).max(), name


def test_names_of_a_vision_model(libraries: Libraries, tmp_path: Path) -> None:
    library = libraries.transformers
    parts = {"text_config": {"model_type": "gemma3_text", **TEXT, **HEADS}, "vision_config": VISION}
    libraries.torch.manual_seed(0)
    base = library.Gemma3ForConditionalGeneration(library.Gemma3Config(**parts, mm_tokens_per_image=4))
    base.save_pretrained(tmp_path / "base")
    peft = libraries.peft
    model = peft.get_peft_model(base, peft.LoraConfig(target_modules=["q_proj"], r=4, init_lora_weights=False))
    model.save_pretrained(tmp_path / "lora")
    wanted = by_peft(libraries, tmp_path, model)
    ours = merged(tmp_path / "base", tmp_path / "lora")
    assert ours.keys() == wanted.keys()
    for name, values in wanted.items():
        assert np.abs(ours[name] - values).max() <= FLOAT32 * np.abs(values).max(), name
    assert any("is taken as" in line for line in notes(tmp_path / "base", tmp_path / "lora"))
