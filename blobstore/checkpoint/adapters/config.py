"""The adapter_config.json of peft: what of it decides the merged weights, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blobstore.checkpoint.adapters.patterns import Patterns
from blobstore.checkpoint.small_files import json_object
from blobstore.errors import CheckpointError, listed
from blobstore.index.strict_json import parse_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MERGE_FIRST = "merge it with peft (merge_and_unload, then save_pretrained) and convert the result"
_MAX_RANK = 1 << 20
_MAX_ALPHA = 1e30
_SHOWN = 8  # options
# Options that change what is merged, in ways that the tensors of the file alone don't tell.
_REFUSED = {
    "alora_invocation_tokens": "an activated LoRA (aLoRA) acts only after its invocation tokens and can't be merged",
    "arrow_config": "Arrow chooses an adapter for each token and can't be merged",
    "kasa_config": f"KaSA truncates the base weights: {MERGE_FIRST}",
    "layer_replication": f"it repeats layers of the base: {MERGE_FIRST}",
    "monteclora_config": f"Monteclora is not merged here: {MERGE_FIRST}",
    "target_parameters": f"LoRA on parameters, such as those of fused experts, is not merged here: {MERGE_FIRST}",
    "use_bdlora": f"block-diagonal LoRA is not merged here: {MERGE_FIRST}",
    "use_qalora": "QALoRA belongs to a quantised base, and is not merged here: merge it with the library it is from",
}
# These ways to begin also subtract B·A from the base: with another base the sum is wrong.
_CHANGE_BASE = ("corda", "loftq", "lora_ga", "olora", "pissa")
# What only concerns training, or what other keys and the tensors say as well.
_WITHOUT_EFFECT = {
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "enable_lora",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_bias",
    "lora_dropout",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "merge_weights",
    "modules_to_tie",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "target_modules_to_tie",
    "task_type",
    "velora_config",
}
_USED = {
    "alpha_pattern",
    "ensure_weight_tying",
    "fan_in_fan_out",
    "init_lora_weights",
    "lora_alpha",
    "modules_to_save",
    "peft_type",
    "r",
    "rank_pattern",
    "trainable_token_indices",
    "use_dora",
    "use_rslora",
}
_KNOWN = {*_USED, *_WITHOUT_EFFECT, *_REFUSED}


@dataclass(frozen=True)
class AdapterConfig:
    """What decides how an adapter is merged.

    Attributes:
        ranks: Each rank that a module may have.
        alpha: Of modules that no pattern matches.
        alphas: Patterns of module names, and their alpha.
        use_dora: Whether each row has a magnitude.
        use_rslora: Divide by the square root of the rank instead of the rank.
        fan_in_fan_out: Whether the base has transposed weights, as GPT-2 has; only square ones need it said.
        modules_to_save: Names of modules that were trained whole.
        token_indices: Name of an embedding module → the rows that were trained.
        keeps_ties: Whether the head was trained as the embedding.
        base: What the adapter says that it was trained on; empty when it doesn't.
    """

    ranks: frozenset[int]
    alpha: float
    alphas: Patterns
    use_dora: bool
    use_rslora: bool
    fan_in_fan_out: bool
    modules_to_save: tuple[str, ...]
    token_indices: Mapping[str, tuple[int, ...]]
    keeps_ties: bool
    base: str

    def scale(self, module: str, rank: int) -> float:
        """Return what B·A of a module is multiplied by."""
        value = self.alphas.value_of(module)
        alpha = self.alpha if value is None else value
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank


def parse_adapter_config(raw: bytes, path: str) -> AdapterConfig:
    """Check an adapter_config.json.

    Raises:
        CheckpointError: ``adapter-config``: it isn't one; ``adapter-option``: an option that can't be merged, and why.
    """
    config = json_object(path, raw, "adapter-config", parse_json)
    _refuse_options(config, path)
    fields = _Fields(config, path)
    rank_pattern = fields.numbers("rank_pattern", _is_rank, "whole numbers from 1")
    alpha_pattern = fields.numbers("alpha_pattern", _is_alpha, "numbers")
    return AdapterConfig(
        ranks=frozenset(
            {int(fields.number("r", 8, _is_rank, "a whole number from 1")), *map(int, rank_pattern.values())}
        ),
        alpha=fields.number("lora_alpha", 8, _is_alpha, "a number"),
        alphas=Patterns({key: float(value) for key, value in alpha_pattern.items()}, f"alpha_pattern of {path!r}"),
        use_dora=fields.flag("use_dora"),
        use_rslora=fields.flag("use_rslora"),
        fan_in_fan_out=fields.flag("fan_in_fan_out"),
        modules_to_save=fields.names("modules_to_save"),
        token_indices=fields.indices("trainable_token_indices"),
        keeps_ties=fields.flag("ensure_weight_tying"),
        base=base_named(config),
    )


def base_named(config: dict[str, Any]) -> str:
    """Return what an adapter_config.json calls the base; empty where it doesn't."""
    name = config.get("base_model_name_or_path")
    return name if isinstance(name, str) else ""


def _refuse_options(config: dict[str, Any], path: str) -> None:
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        what = f"{path!r}: peft_type is {str(kind)[:80]!r}, and only LORA is merged here: {MERGE_FIRST}"
        raise CheckpointError("adapter-option", what)
    for name, why in _REFUSED.items():
        if config.get(name):
            raise CheckpointError("adapter-option", f"{path!r}: {name}: {why}")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGE_BASE):
        what = f"init_lora_weights is {start[:80]!r}, which also changed the base: save the adapter with"
        fix = f"{what} path_initial_model_for_weight_conversion, or, if BASE is the changed one, set it to true"
        raise CheckpointError("adapter-option", f"{path!r}: {fix}")
    unknown = sorted(name for name, value in config.items() if value and name not in _KNOWN)
    if unknown:
        shown = listed([name[:200] for name in unknown], _SHOWN)
        what = f"{shown}: unknown to this version, and may change what is merged"
        raise CheckpointError("adapter-option", f"{path!r}: {what}: remove it if it only concerns training")


def _is_rank(value: object) -> bool:
    return type(value) is int and 0 < value <= _MAX_RANK


def _is_alpha(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _MAX_ALPHA


class _Fields:
    """The fields of a config; each is checked as it is taken, and null is the same as none."""

    def __init__(self, config: dict[str, Any], path: str) -> None:
        self._config = config
        self._path = path

    def _refuse(self, name: str, expected: str) -> CheckpointError:
        found = repr(self._config[name])[:80]
        return CheckpointError("adapter-config", f"{self._path!r}: {name}: expected {expected}, found {found}")

    def flag(self, name: str) -> bool:
        value = self._config.get(name)
        if value is not None and not isinstance(value, bool):
            raise self._refuse(name, "true or false")
        return bool(value)

    def number(self, name: str, default: float, fits: Callable[[object], bool], expected: str) -> float:
        value = self._config.get(name)
        if value is None:
            return default
        if not fits(value):
            raise self._refuse(name, expected)
        return float(value)

    def numbers(self, name: str, fits: Callable[[object], bool], expected: str) -> dict[str, float]:
        value = self._config.get(name) or {}
        if not isinstance(value, dict) or not all(map(fits, value.values())):
            raise self._refuse(name, f"an object of {expected}")
        return value

    def names(self, name: str) -> tuple[str, ...]:
        value = self._config.get(name) or []
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
            raise self._refuse(name, "a list of names")
        return tuple(value)

    def indices(self, name: str) -> dict[str, tuple[int, ...]]:
        value = self._config.get(name) or {}
        value = {"": value} if isinstance(value, list) else value
        if not isinstance(value, dict):
            raise self._refuse(name, "lists of row numbers")
        for rows in value.values():
            if not isinstance(rows, list) or not all(type(row) is int and row >= 0 for row in rows):
                raise self._refuse(name, "lists of row numbers")
        return {module: tuple(rows) for module, rows in value.items()}
