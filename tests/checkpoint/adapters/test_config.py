"""adapter_config.json: every option that decides the weights is used or refused by name."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.checkpoint.adapters.config import AdapterConfig, parse_adapter_config
from blobstore.errors import CheckpointError
from tests.strategies import json_values


def parsed(**config: Any) -> AdapterConfig:  # noqa: ANN401 (JSON is anything)
    return parse_adapter_config(json.dumps({"peft_type": "LORA", **config}).encode(), "lora/adapter_config.json")


def refusal(**config: Any) -> str:  # noqa: ANN401
    with pytest.raises(CheckpointError) as caught:
        parsed(**config)
    return str(caught.value)


def test_the_scale() -> None:
    config = parsed(r=4, lora_alpha=6, alpha_pattern={"k_proj": 2, r".*\.1\..*": 10})
    assert config.scale("model.layers.0.q_proj", 4) == 1.5
    assert config.scale("model.layers.0.k_proj", 4) == 0.5
    assert config.scale("model.layers.1.q_proj", 8) == 1.25
    assert parsed(r=4, lora_alpha=6, use_rslora=True).scale("q", 9) == 2.0
    assert parsed(r=4, lora_alpha=1, use_rslora=True).scale("q", 2) == 1 / math.sqrt(2)


def test_defaults_are_those_of_peft() -> None:
    config = parsed()
    assert config.ranks == {8}
    assert (config.alpha, config.use_rslora, config.use_dora) == (8.0, False, False)
    assert parsed(r=4, rank_pattern={"a": 2, "b": 16}).ranks == {2, 4, 16}
    assert parsed(r=None, modules_to_save=None, trainable_token_indices=None).modules_to_save == ()


@pytest.mark.parametrize(
    ("option", "value", "part"),
    [
        ("peft_type", "IA3", "peft_type is 'IA3', and only LORA is merged here"),
        ("peft_type", ["x"], "peft_type is"),
        ("target_parameters", ["experts.gate_up_proj"], "target_parameters: LoRA on parameters"),
        ("layer_replication", [[0, 4], [2, 5]], "layer_replication: it repeats layers"),
        ("alora_invocation_tokens", [1, 2], "acts only after its invocation tokens"),
        ("use_qalora", True, "QALoRA belongs to a quantised base"),
        ("use_bdlora", {"nblocks": 2}, "block-diagonal LoRA"),
        ("arrow_config", {"top_k": 3}, "Arrow chooses an adapter for each token"),
        ("kasa_config", {"beta": 1}, "KaSA truncates the base"),
        ("monteclora_config", {"x": 1}, "Monteclora"),
        ("init_lora_weights", "pissa_niter_16", "path_initial_model_for_weight_conversion"),
        ("init_lora_weights", "LoftQ", "init_lora_weights is 'LoftQ', which also changed the base"),
        ("use_something_new", True, "use_something_new: unknown to this version, and may change what is merged"),
    ],
)
def test_what_cannot_be_merged_is_named(option: str, value: object, part: str) -> None:
    text = refusal(**{option: value})
    assert text.startswith("adapter-option: 'lora/adapter_config.json': ")
    assert part in text


@pytest.mark.parametrize(
    "harmless",
    [
        {"init_lora_weights": "eva", "eva_config": {"rho": 2}},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": True, "loftq_config": {}},
        {"megatron_config": None, "megatron_core": "megatron.core"},
        {"use_something_new": False, "another": None, "use_qalora": False, "layer_replication": []},
        {"lora_dropout": 0.1, "bias": "all", "task_type": "CAUSAL_LM", "revision": "main", "peft_version": "0.21.2"},
    ],
)
def test_what_does_not_decide_the_weights_is_taken(harmless: dict[str, object]) -> None:
    assert parsed(**harmless).alpha == 8


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("r", 0, "a whole number from 1, found 0"),
        ("r", 2.5, "a whole number from 1, found 2.5"),
        ("r", True, "a whole number from 1, found True"),
        ("r", 1 << 60, "a whole number from 1"),
        ("lora_alpha", "16", "a number, found '16'"),
        ("lora_alpha", 1e40, "a number"),
        ("use_rslora", 1, "true or false"),
        ("rank_pattern", {"a": 0}, "an object of whole numbers from 1"),
        ("rank_pattern", [4], "an object of whole numbers from 1"),
        ("alpha_pattern", {"a": None}, "an object of numbers"),
        ("modules_to_save", [1], "a list of names"),
        ("trainable_token_indices", {"embed_tokens": [-1]}, "lists of row numbers"),
        ("trainable_token_indices", "all", "lists of row numbers"),
        ("trainable_token_indices", [1.5], "lists of row numbers"),
    ],
)
def test_what_is_wrong_is_named(option: str, value: object, expected: str) -> None:
    assert refusal(**{option: value}).startswith(
        f"adapter-config: 'lora/adapter_config.json': {option}: expected {expected}"
    )


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b'{"r": NaN}', b'{"r": 1, "r": 2}', b"\xff", b"[" * 100_000])
def test_what_is_no_config_is_refused(raw: bytes) -> None:
    with pytest.raises(CheckpointError, match="adapter-config"):
        parse_adapter_config(raw, "adapter_config.json")


OPTIONS = ["peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "modules_to_save"]
OPTIONS += ["trainable_token_indices", "base_model_name_or_path", "init_lora_weights", "fan_in_fan_out", "x"]


@given(config=st.dictionaries(st.sampled_from(OPTIONS), json_values, max_size=5))
def test_any_config_is_taken_or_refused(config: dict[str, object]) -> None:
    with suppress(CheckpointError):
        taken = parse_adapter_config(json.dumps(config).encode(), "adapter_config.json")
        assert math.isfinite(taken.scale("model.layers.0.q_proj", 4))
