"""Merged tensors have the values that peft's formulas give, rounded once; what doesn't fit is refused by name."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blobstore.checkpoint.reader import open_checkpoint
from blobstore.errors import CheckpointError
from tests.adapters import FLOATS, LAYER, exact_product, exactly, merged, notes, pair, write_adapter, write_base

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    Array = npt.NDArray[Any]

W = f"{LAYER}.weight"
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


def random(*shape: int, seed: int = 7, dtype: Any = np.float32) -> Array:  # noqa: ANN401 (numpy's argument)
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def embedding_pair() -> dict[str, Array]:
    """The two factors of an embedding of nine tokens."""
    return {"model.embed_tokens.lora_embedding_A": random(2, 9), "model.embed_tokens.lora_embedding_B": random(4, 2)}


def refusal(base: Path, *adapters: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        merged(base, *adapters)
    return str(caught.value)


def summed(base: Array, *terms: tuple[float, Array, Array]) -> Array:
    """The base and s · B · A of each term, in float64."""
    total = base.astype(np.float64)
    for scale, b, a in terms:
        total = total + scale * (b.astype(np.float64) @ a.astype(np.float64))
    return total


def assert_rounded(actual: Array, wanted: Array) -> None:
    """Each value is what float64 gives, rounded to float32 and then to the tensor's type; or that of a close value."""
    dtype = actual.dtype
    low, high = wanted - np.abs(wanted) * 1e-9 - 1e-12, wanted + np.abs(wanted) * 1e-9 + 1e-12
    assert actual.shape == wanted.shape
    assert (actual.astype(np.float64) >= low.astype(np.float32).astype(dtype).astype(np.float64)).all()
    assert (actual.astype(np.float64) <= high.astype(np.float32).astype(dtype).astype(np.float64)).all()


@settings(max_examples=25)
@given(data=st.data())
def test_the_sum_is_exact_but_for_one_rounding(tmp_path: Path, data: st.DataObject) -> None:
    out, width, rank = (data.draw(st.integers(1, 4)) for _ in range(3))
    dtype, seed = data.draw(st.sampled_from(FLOATS)), data.draw(st.integers(0, 1 << 20))
    rslora, transposed = data.draw(st.booleans()), data.draw(st.booleans())
    alpha = data.draw(st.integers(1, 40))
    factors = pair(LAYER, out, width, rank, seed)
    b, a = factors[f"{LAYER}.lora_B.weight"], factors[f"{LAYER}.lora_A.weight"]
    weights = random(*((width, out) if transposed else (out, width)), seed=seed + 1, dtype=dtype)
    base = write_base(tmp_path / "base", {W: weights})
    options = {"r": rank, "lora_alpha": alpha, "use_rslora": rslora, "fan_in_fan_out": transposed}
    result = merged(base, write_adapter(tmp_path / "lora", factors, **options))[W]
    scale = Fraction(alpha / (np.sqrt(rank) if rslora else rank))
    delta = exact_product(exactly(b), exactly(a))
    delta = [list(column) for column in zip(*delta, strict=True)] if transposed else delta
    for row, row_of_base, row_of_delta in zip(result, exactly(weights), delta, strict=True):
        for value, x, y in zip(row, row_of_base, row_of_delta, strict=True):
            exact = x + scale * y
            slack = abs(float(exact)) * 1e-9 + 1e-12
            near = [np.float32(float(exact) + sign * slack).astype(dtype) for sign in (-1, 1)]
            assert near[0] <= value <= near[1]


@settings(max_examples=25)
@given(data=st.data())
def test_any_run_is_what_the_whole_has(tmp_path: Path, data: st.DataObject) -> None:
    base = write_base(tmp_path / "base", {W: random(6, 5), EMBEDDING: random(9, 4)}, tie_word_embeddings=False)
    adapter = write_adapter(tmp_path / "lora", pair(LAYER, 6, 5) | embedding_pair())
    with open_checkpoint(base, adapters=[adapter]) as checkpoint:
        tensor = checkpoint.tensors[data.draw(st.sampled_from([W, EMBEDDING]))]
        whole = tensor.read(0, tensor.count)
        first = data.draw(st.integers(0, tensor.count))
        count = data.draw(st.integers(0, tensor.count - first))
        assert np.array_equal(tensor.read(first, count), whole[first : first + count])


def test_embeddings_are_transposed(tmp_path: Path) -> None:
    weights, a, b = random(9, 4), random(2, 9, seed=1), random(4, 2, seed=2)
    base = write_base(tmp_path / "base", {EMBEDDING: weights}, tie_word_embeddings=False)
    factors = {"model.embed_tokens.lora_embedding_A": a, "model.embed_tokens.lora_embedding_B": b}
    adapter = write_adapter(tmp_path / "lora", factors)
    assert_rounded(merged(base, adapter)[EMBEDDING], summed(weights, (1.5, a.T, b.T)))


@pytest.mark.parametrize("shape", [(5, 3, 2, 2), (5, 3, 1, 1), (5, 3, 4), (5, 3, 2, 1, 2)])
def test_convolutions(tmp_path: Path, shape: tuple[int, ...]) -> None:
    weights, a, b = random(*shape), random(2, *shape[1:], seed=1), random(5, 2, seed=2)
    base = write_base(tmp_path / "base", {W: weights})
    factors = {f"{LAYER}.lora_A.weight": a, f"{LAYER}.lora_B.weight": b.reshape(5, 2, *[1] * (len(shape) - 2))}
    result = merged(base, write_adapter(tmp_path / "lora", factors))[W]
    assert_rounded(result, summed(weights.reshape(5, -1), (1.5, b, a.reshape(2, -1))).reshape(shape))


def test_dora_gives_each_row_its_magnitude(tmp_path: Path) -> None:
    weights, magnitude = random(5, 7), np.abs(random(5, seed=3))
    factors = pair(LAYER, 5, 7)
    base = write_base(tmp_path / "base", {W: weights})
    names = ("lora_magnitude_vector", "lora_magnitude_vector.weight", "lora_magnitude_vector.default.weight")
    for name in names:
        adapter = write_adapter(tmp_path / name, factors | {f"{LAYER}.{name}": magnitude}, use_dora=True)
        total = summed(weights, (1.5, factors[f"{LAYER}.lora_B.weight"], factors[f"{LAYER}.lora_A.weight"]))
        wanted = total * (magnitude / np.sqrt((total**2).sum(axis=1)))[:, None]
        assert_rounded(merged(base, adapter)[W], wanted)


def test_biases_are_added_or_replaced(tmp_path: Path) -> None:
    bias, own, other = random(5, seed=3), random(5, seed=4), random(4, seed=5)
    base = write_base(tmp_path / "base", {W: random(5, 7), f"{LAYER}.bias": bias, "model.norm.bias": random(4)})
    added = write_adapter(tmp_path / "added", pair(LAYER, 5, 7) | {f"{LAYER}.lora_B.bias": own}, lora_bias=True)
    assert_rounded(merged(base, added)[f"{LAYER}.bias"], bias.astype(np.float64) + 1.5 * own)
    whole = {f"{LAYER}.base_layer.bias": own, "model.norm.bias": other}
    replaced = merged(base, write_adapter(tmp_path / "whole", pair(LAYER, 5, 7) | whole, bias="all"))
    assert np.array_equal(replaced[f"{LAYER}.bias"], own)
    assert np.array_equal(replaced["model.norm.bias"], other)


def test_several_adapters_add_up_in_their_order(tmp_path: Path) -> None:
    weights, first, second = random(5, 7), pair(LAYER, 5, 7, 2, 1), pair(LAYER, 5, 7, 3, 2)
    base = write_base(tmp_path / "base", {W: weights})
    one = write_adapter(tmp_path / "one", first)
    two = write_adapter(tmp_path / "two", second, r=3, lora_alpha=6)
    b, a = f"{LAYER}.lora_B.weight", f"{LAYER}.lora_A.weight"
    wanted = summed(weights, (1.5, first[b], first[a]), (2.0, second[b], second[a]))
    assert_rounded(merged(base, one, two)[W], wanted)
    assert_rounded(merged(base, two, one)[W], wanted)
    assert notes(base, one, two)[:2] == [
        "merged the adapter 'one': 1 tensor changed (rank 2, scale 1.5)",
        "merged the adapter 'two': 1 tensor changed (rank 3, scale 2)",
    ]


def test_modules_that_were_saved_whole(tmp_path: Path) -> None:
    norm, head = random(4, seed=3), random(9, 4, seed=4)
    base = write_base(tmp_path / "base", {W: random(4, 4), "model.norm.weight": random(4), HEAD: random(9, 4)})
    for place, names in enumerate(
        [("model.norm.weight", HEAD), ("model.norm.modules_to_save.default.weight", "lm_head.modules_to_save.weight")]
    ):
        tensors = dict(zip(names, (norm, head), strict=True)) | {"model.norm.original_module.weight": random(4)}
        adapter = write_adapter(tmp_path / f"lora{place}", tensors, modules_to_save=["norm", "lm_head"])
        result = merged(base, adapter)
        assert np.array_equal(result["model.norm.weight"], norm)
        assert np.array_equal(result[HEAD], head)
        told = notes(base, adapter)
        assert told[0] == f"merged the adapter 'lora{place}': 2 tensors replaced"
        assert "left out the tensor 'base_model.model.model.norm.original_module.weight'" in told[-1]


def test_a_new_head_is_added_and_told(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", {W: random(5, 7)})
    head = random(3, 7, seed=2)
    tensors = pair(LAYER, 5, 7) | {"score.weight": head}
    adapter = write_adapter(tmp_path / "lora", tensors, modules_to_save=["score"])
    assert np.array_equal(merged(base, adapter)["score.weight"], head)
    assert notes(base, adapter)[0] == "score.weight is new: the base has no such tensor, the adapter 'lora' has"
    unknown = write_adapter(tmp_path / "other", tensors)
    assert "adapter-names: " in refusal(base, unknown)
    assert "the base has no tensors for 'score.weight'" in refusal(base, unknown)


def test_rows_of_tokens_are_replaced(tmp_path: Path) -> None:
    weights, rows = random(9, 4), random(3, 4, seed=1)
    base = write_base(tmp_path / "base", {EMBEDDING: weights}, tie_word_embeddings=True)
    tensors = {"model.embed_tokens.token_adapter.trainable_tokens_delta": rows}
    for place, indices in enumerate(([2, 8, 0], {"embed_tokens": [2, 8, 0]})):
        adapter = write_adapter(tmp_path / f"lora{place}", tensors, trainable_token_indices=indices)
        result = merged(base, adapter)
        assert list(result) == [EMBEDDING]  # still tied
        weights[[2, 8, 0]] = rows
        assert np.array_equal(result[EMBEDDING], weights)
    for indices, part in (([2, 9, 0], "one of 9 or above"), ([2, 2, 0], "a row twice"), ([1, 2], "has shape [3, 4]")):
        assert part in refusal(base, write_adapter(tmp_path / "wrong", tensors, trainable_token_indices=indices))
    assert "doesn't say which rows" in refusal(base, write_adapter(tmp_path / "none", tensors))


# ---------------------------------------------------------------------------------------------------- tied weights


def tied(folder: Path) -> tuple[Path, Array]:
    weights = random(9, 4)
    return write_base(folder / "base", {EMBEDDING: weights, W: random(5, 7)}, tie_word_embeddings=True), weights


def test_only_the_head_is_adapted(tmp_path: Path) -> None:
    base, weights = tied(tmp_path)
    factors = pair("lm_head", 9, 4)
    adapter = write_adapter(tmp_path / "lora", factors)
    result = merged(base, adapter)
    assert np.array_equal(result[EMBEDDING], weights)
    a, b = factors["lm_head.lora_A.weight"], factors["lm_head.lora_B.weight"]
    assert_rounded(result[HEAD], summed(weights, (1.5, b, a)))
    told = f"{HEAD} shared the tensor '{EMBEDDING}', and the adapter changes only {HEAD}"
    assert f"{told}: {HEAD} becomes a tensor of its own" in notes(base, adapter)


@pytest.mark.parametrize("way", ["low rank", "whole"])
def test_only_the_embedding_is_adapted(tmp_path: Path, way: str) -> None:
    base, weights = tied(tmp_path)
    tensors = embedding_pair() if way == "low rank" else {EMBEDDING: random(9, 4, seed=3)}
    adapter = write_adapter(tmp_path / "lora", tensors, modules_to_save=["embed_tokens"])
    result = merged(base, adapter)
    assert np.array_equal(result[HEAD], weights)  # as it was trained: the head kept the base's values
    assert not np.array_equal(result[EMBEDDING], weights)
    told = f"{HEAD} shared the tensor '{EMBEDDING}', and the adapter changes only '{EMBEDDING}'"
    assert f"{told}: {HEAD} becomes a tensor of its own" in notes(base, adapter)
    keeping = write_adapter(tmp_path / "tied", tensors, modules_to_save=["embed_tokens"], ensure_weight_tying=True)
    assert HEAD not in merged(base, keeping)


def test_both_are_adapted_alike(tmp_path: Path) -> None:
    base, _ = tied(tmp_path)
    a, b = random(2, 9), random(4, 2)
    low_rank = {"model.embed_tokens.lora_embedding_A": a, "model.embed_tokens.lora_embedding_B": b}
    low_rank |= {"lm_head.lora_A.weight": b.T.copy(), "lm_head.lora_B.weight": a.T.copy()}
    whole = {EMBEDDING: random(9, 4, seed=3), HEAD: random(9, 4, seed=3)}
    for place, tensors in enumerate((low_rank, whole)):
        adapter = write_adapter(tmp_path / f"lora{place}", tensors)
        assert HEAD not in merged(base, adapter)
        why = f"the adapter changes it as '{EMBEDDING}', whose tensor it shares"
        assert f"left out the tensor '{HEAD}': {why}" in notes(base, adapter)
    apart = write_adapter(tmp_path / "apart", whole | {HEAD: random(9, 4, seed=4)})
    assert np.array_equal(merged(base, apart)[HEAD], random(9, 4, seed=4))
    assert any("changes both, each in its way" in line for line in notes(base, apart))


def test_a_resized_embedding_replaces_the_old_one(tmp_path: Path) -> None:
    base, _ = tied(tmp_path)
    longer = random(11, 4, seed=3)
    adapter = write_adapter(tmp_path / "lora", {EMBEDDING: longer})
    result = merged(base, adapter)
    assert np.array_equal(result[EMBEDDING], longer)
    assert HEAD not in result  # resized for both
    assert f"{EMBEDDING}: 9 rows of the base, 11 of the adapter 'lora'" in notes(base, adapter)


def test_what_is_resized_is_resized_for_both_where_one_is_adapted(tmp_path: Path) -> None:
    base, _ = tied(tmp_path)
    longer = random(11, 4, seed=3)
    embedding = {
        "model.embed_tokens.base_layer.weight": longer,
        "model.embed_tokens.lora_embedding_A": random(2, 11),
        "model.embed_tokens.lora_embedding_B": random(4, 2),
    }
    head = {"lm_head.base_layer.weight": longer, **pair("lm_head", 11, 4)}
    for place, (tensors, kept, changed) in enumerate(((embedding, HEAD, EMBEDDING), (head, EMBEDDING, HEAD))):
        result = merged(base, write_adapter(tmp_path / f"lora{place}", tensors))
        assert np.array_equal(result[kept], longer)
        assert result[changed].shape == longer.shape
        assert not np.array_equal(result[changed], longer)


def test_an_embedding_and_its_head_have_the_same_rows(tmp_path: Path) -> None:
    base, _ = tied(tmp_path)
    adapter = write_adapter(tmp_path / "lora", {EMBEDDING: random(11, 4)}, modules_to_save=["embed_tokens"])
    told = refusal(base, adapter)
    assert f"'{HEAD}' would have 9 rows, and '{EMBEDDING}' 11" in told
    assert "resize_token_embeddings" in told


def test_rows_of_an_adapter_before_stay_in_both(tmp_path: Path) -> None:
    base, weights = tied(tmp_path)
    rows = {"model.embed_tokens.token_adapter.trainable_tokens_delta": random(1, 4, seed=5)}
    first = write_adapter(tmp_path / "rows", rows, trainable_token_indices=[2])
    embedding = {
        "model.embed_tokens.lora_embedding_A": random(2, 9),
        "model.embed_tokens.lora_embedding_B": random(4, 2),
    }
    result = merged(base, first, write_adapter(tmp_path / "lora", embedding))
    weights[2] = random(1, 4, seed=5)
    assert np.array_equal(result[HEAD], weights)


# ----------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("language_model.model.layers.0.q_proj", "model.language_model.layers.0.q_proj"),
        ("model.language_model.layers.0.q_proj", "language_model.model.layers.0.q_proj"),
        ("language_model.model.layers.0.q_proj", "model.layers.0.q_proj"),
        ("vision_tower.vision_model.encoder.layers.0.q_proj", "model.vision_tower.encoder.layers.0.q_proj"),
        ("h.0.attn.c_attn", "transformer.h.0.attn.c_attn"),
        ("encoder.layer.0.dense", "bert.encoder.layer.0.dense"),
        ("bert.encoder.layer.0.dense", "encoder.layer.0.dense"),
        ("language_model.lm_head", "lm_head"),
    ],
)
def test_names_of_modules_in_memory(tmp_path: Path, ours: str, theirs: str) -> None:
    other = "vision_tower.vision_model.layers.0.q_proj.weight"
    base = write_base(tmp_path / "base", {f"{ours}.weight": random(5, 7), other: random(5, 7)})
    adapter = write_adapter(tmp_path / "lora", pair(theirs, 5, 7))
    result = merged(base, adapter)
    assert not np.array_equal(result[f"{ours}.weight"], random(5, 7))
    assert np.array_equal(result[other], random(5, 7))
    (told,) = notes(base, adapter)[1:]
    before, after = told.removeprefix("'").removesuffix("…' of the base").split("…' of the adapter is taken as '")
    assert theirs.removeprefix(before) == ours.removeprefix(after)
    assert (theirs.startswith(before), ours.startswith(after)) == (True, True)


def test_names_of_libraries_and_of_adapters_are_left_out(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", {W: random(5, 7)})
    plain = merged(base, write_adapter(tmp_path / "plain", pair(LAYER, 5, 7)))[W]
    factors = pair(LAYER, 5, 7)
    for change in (
        (".weight", ".default.weight"),
        ("model.", "_orig_mod.model."),
        (".lora", "._fsdp_wrapped_module.lora"),
    ):
        renamed = {name.replace(*change): array for name, array in factors.items()}
        assert np.array_equal(merged(base, write_adapter(tmp_path / change[1], renamed))[W], plain)


def test_the_vision_part_is_not_the_text_part(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", {"encoder.layers.0.q.weight": random(5, 7)})
    text = refusal(base, write_adapter(tmp_path / "lora", pair("vision_tower.encoder.layers.0.q", 5, 7)))
    assert "the base has no tensors for 'vision_tower.encoder.layers.0.q'" in text


def test_a_name_that_may_be_several_is_refused(tmp_path: Path) -> None:
    base = write_base(
        tmp_path / "base", {"model.layers.0.q.weight": random(5, 7), "transformer.layers.0.q.weight": random(5, 7)}
    )
    text = refusal(base, write_adapter(tmp_path / "lora", pair("language_model.layers.0.q", 5, 7)))
    assert "'language_model.layers.0.q.weight' of the adapter may be any of 'model.layers.0.q.weight', 'trans" in text


# -------------------------------------------------------------------------------------------------- what is refused


def test_every_module_needs_a_tensor_of_the_base(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", {W: random(5, 7)})
    tensors = {name: array for place in range(6) for name, array in pair(f"model.layers.{place}.x", 5, 7).items()}
    text = refusal(base, write_adapter(tmp_path / "lora", tensors, base_model_name_or_path="google/gemma-3-1b-pt"))
    assert text.startswith("adapter-names: ")
    assert "no tensors for 'model.layers.0.x', 'model.layers.1.x', 'model.layers.2.x' and 3 more" in text
    assert text.endswith("is it the model that the adapter was trained on, 'google/gemma-3-1b-pt'?")


A, B = f"{LAYER}.lora_A.weight", f"{LAYER}.lora_B.weight"
WRONG: dict[str, tuple[dict[str, Array | None], dict[str, Any], str]] = {
    "a factor is missing": ({B: None}, {}, "has no counterpart: is the file whole?"),
    "another width": ({A: random(2, 8)}, {}, "has shape [5, 8], the tensor of the base [5, 7]: is it another model?"),
    "another rank": ({}, {"r": 4}, "has rank 2, adapter_config.json says 4"),
    "ranks that differ": ({A: random(3, 7)}, {"r": 3}, "has shape [3, 7] and"),
    "no rank": ({A: np.zeros((0, 7), np.float32), B: np.zeros((5, 0), np.float32)}, {}, "has rank 0"),
    "a vector": ({A: random(7)}, {}, "has shape [7] and"),
    "a scalar": ({A: np.array(1, np.float32)}, {}, "has shape [] and"),
    "use_dora alone": ({}, {"use_dora": True}, "use_dora is set, but"),
    "a magnitude alone": ({f"{LAYER}.lora_magnitude_vector": random(5)}, {}, "is of DoRA, but use_dora isn't set"),
    "a magnitude of another size": (
        {f"{LAYER}.lora_magnitude_vector": random(4)},
        {"use_dora": True},
        "lora_magnitude_vector' has shape [4]",
    ),
    "a bias that the base lacks": ({f"{LAYER}.lora_B.bias": random(5)}, {}, "the base has no bias there"),
    "an unknown part": ({f"{LAYER}.lora_diag.weight": random(2)}, {}, "is not a part of LoRA that is known here"),
    "too many names": ({f"{LAYER}.lora_A.x.y.weight": random(2, 7)}, {}, "is not a part of LoRA that is known here"),
    "two adapters in one file": ({f"{LAYER}.lora_A.other.weight": random(2, 7)}, {}, "two adapters in one file?"),
    "integers": ({A: np.ones((2, 7), np.int32)}, {}, "is stored as i32, expected one of bf16, f16, f32, f64"),
    "a long name": ({"x" * 5000: random(2)}, {}, "has 5017 characters, more than 4096"),
    "another shape": ({W: random(5, 8)}, {}, f"'{W}' has shape [5, 8], but '{W}' has [5, 7]"),
    "nan": ({A: np.full((2, 7), np.nan, np.float32)}, {}, "has values that are not finite"),
    "infinity": ({B: np.full((5, 2), -np.inf, np.float32)}, {}, "has values that are not finite"),
    "an enormous float64": ({A: np.full((2, 7), 1e300)}, {}, "has values that are not finite, or not below 2^128"),
    "a sum that float32 lacks": ({A: np.full((2, 7), 1e38), B: np.full((5, 2), 1e38)}, {}, "is too large for float32"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_tensor_is_named(tmp_path: Path, name: str) -> None:
    change, config, part = WRONG[name]
    tensors = {key: array for key, array in (pair(LAYER, 5, 7) | change).items() if array is not None}
    base = write_base(tmp_path / "base", {W: random(5, 7)})
    text = refusal(base, write_adapter(tmp_path / "lora", tensors, **config))
    assert text.startswith("adapter-tensor: ")
    assert part in text


def test_dora_that_is_not_merged_here(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", {W: random(7, 5), EMBEDDING: random(9, 4)}, tie_word_embeddings=False)
    transposed = pair(LAYER, 5, 7) | {f"{LAYER}.lora_magnitude_vector": random(5)}
    text = refusal(base, write_adapter(tmp_path / "lora", transposed, use_dora=True, fan_in_fan_out=True))
    assert "DoRA of transposed weights is not merged here: merge with peft" in text
    text = refusal(base, write_adapter(tmp_path / "emb", embedding_pair(), use_dora=True))
    assert "DoRA of embeddings and convolutions is not merged here" in text


def test_dora_needs_rows_with_a_direction(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", {W: np.zeros((5, 7), np.float32)})
    factors = {name: array * 0 for name, array in pair(LAYER, 5, 7).items()}
    adapter = write_adapter(tmp_path / "lora", factors | {f"{LAYER}.lora_magnitude_vector": random(5)}, use_dora=True)
    assert "row 0 of what " in refusal(base, adapter)


def test_a_quantised_base_is_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", {W: np.ones((5, 7), np.uint8)})
    text = refusal(base, write_adapter(tmp_path / "lora", pair(LAYER, 5, 7)))
    assert text.startswith(f"adapter-base: '{W}' of the base is stored as u8, and an adapter is added to floats")


def test_a_tensor_is_replaced_once(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", {W: random(5, 7)})
    one = write_adapter(tmp_path / "one", {W: random(5, 7)})
    two = write_adapter(tmp_path / "two", {W: random(5, 7, seed=1)})
    assert "replaces a tensor that an adapter before it changes: leave out one of them" in refusal(base, one, two)
    changed = write_adapter(tmp_path / "changed", pair(LAYER, 5, 7))
    assert "replaces a tensor that an adapter before it changes" in refusal(base, changed, two)
    assert np.array_equal(merged(base, one, changed)[W], merged(base, changed)[W])  # the same values as the base's


def test_square_weights_are_transposed_as_their_siblings(tmp_path: Path) -> None:
    square, wide = random(4, 4), random(4, 6)
    base = write_base(tmp_path / "base", {"h.0.c_proj.weight": square, "h.0.c_fc.weight": wide})
    factors = pair("h.0.c_proj", 4, 4) | pair("h.0.c_fc", 6, 4)
    adapter = write_adapter(tmp_path / "lora", factors, fan_in_fan_out=False)  # as some files say
    b, a = factors["h.0.c_proj.lora_B.weight"], factors["h.0.c_proj.lora_A.weight"]
    assert_rounded(merged(base, adapter)["h.0.c_proj.weight"], summed(square, (1.5, a.T, b.T)))
    both = write_base(
        tmp_path / "both", {"h.0.c_proj.weight": square, "h.0.c_fc.weight": wide, "h.0.x.weight": random(6, 4)}
    )
    text = refusal(both, write_adapter(tmp_path / "mixed", factors | pair("h.0.x", 6, 4)))
    assert "'h.0.c_proj' is square, and whether its weights are transposed isn't known: merge with peft" in text


MODULES = [LAYER, "lm_head", "model.embed_tokens", "model.norm", "x"]
ENDS = [
    "lora_A.weight",
    "lora_B.weight",
    "lora_A.default.weight",
    "lora_embedding_A",
    "lora_embedding_B",
    "weight",
    "bias",
]
ENDS += ["lora_magnitude_vector", "lora_B.bias", "base_layer.weight", "modules_to_save.default.weight", "lora_", ""]
ENDS += ["token_adapter.trainable_tokens_delta", "original_module.weight", "lora_A", "base_layer", "modules_to_save"]
SHAPES = [(2, 7), (5, 2), (5, 7), (2, 9), (4, 2), (9, 4), (4,), (5,), (), (0, 7), (2, 7, 1, 1), (1, 4)]


@settings(max_examples=25)
@given(data=st.data())
def test_any_adapter_is_merged_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    base = write_base(tmp_path / "base", {W: random(5, 7), EMBEDDING: random(9, 4), "model.norm.weight": random(4)})
    names = st.builds("{}.{}".format, st.sampled_from(MODULES), st.sampled_from(ENDS))
    tensors = data.draw(st.dictionaries(names, st.sampled_from(SHAPES), max_size=5))
    arrays = {name: random(*shape) for name, shape in tensors.items()}
    options: dict[str, Any] = {
        "use_dora": data.draw(st.booleans()),
        "modules_to_save": data.draw(st.sampled_from([[], ["x"]])),
    }
    options["trainable_token_indices"] = data.draw(st.sampled_from([None, [3], {"x": [1]}]))
    adapter = write_adapter(tmp_path / "lora", arrays, **options)
    try:
        merged(base, adapter)
    except CheckpointError as error:
        assert error.reason.startswith("adapter-")  # noqa: PT017 (most are refused)
    else:
        assert notes(base, adapter)
