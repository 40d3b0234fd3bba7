"""Damaged checkpoints of each family: a file that gives them back, or a refusal, and `check` says which before."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

import blobstore
from blobstore.errors import CheckpointError
from tests.gemma4_checkpoints import TINY
from tests.gemma_checkpoints import small_recipe, sound_recipe

if TYPE_CHECKING:
    from pathlib import Path

RECIPES: dict[str, Any] = {
    "qwen3": small_recipe("qwen3"),
    "t5gemma": sound_recipe("t5gemma"),
} | {f"gemma4 {name}": recipe for name, recipe in TINY.items() if name != "moe-26b"}
ODD: tuple[Any, ...] = (
    None,
    True,
    0,
    1,
    -1,
    2,
    1.5,
    1e300,
    10**30,
    float("nan"),
    "x",
    [],
    [1],
    [None],
    {},
    {"a": 1},
    "gemma3_text",
)
TIMES = 12


def mutate(chance: random.Random, config: dict[str, Any], tensors: dict[str, Any]) -> None:
    """Change one value of the config, leave out a key or a tensor, rename or cut a tensor."""
    places = [config, *(value for value in config.values() if isinstance(value, dict) and value)]
    place, name = chance.choice(places), chance.choice(sorted(tensors))
    what = chance.randrange(6)
    if what == 0:
        del place[chance.choice(sorted(place))]
    elif what <= 2:
        place[chance.choice([*sorted(place), "tie_word_embeddings", "rope_scaling"])] = chance.choice(ODD)
    elif what == 3:
        del tensors[name]
    elif what == 4:
        tensors[name.replace("layers.1.", "layers.9.") + "x" * chance.randrange(2)] = tensors.pop(name)
    else:
        tensors[name] = tensors[name][1:]


@pytest.mark.parametrize("family", RECIPES)
def test_it_is_converted_or_refused_and_check_agrees(tmp_path: Path, family: str) -> None:
    for seed in range(TIMES):
        chance, recipe = random.Random(f"{family} {seed}"), RECIPES[family]
        config, tensors = recipe.config(), dict(recipe.tensors())
        mutate(chance, config, tensors)
        folder, file = recipe.write(tmp_path / str(seed), tensors, config), tmp_path / f"{seed}.sbs"
        # Other errors are of the runtime with the file, which is made all the same: too few positions for a prompt.
        if "blobstore convert refuses it" in {finding.effect for finding in blobstore.check(folder).findings}:
            with pytest.raises(CheckpointError, match="cannot-convert"):
                blobstore.convert(folder, file)
            assert not file.exists()
            continue
        done = blobstore.convert(folder, file)
        assert blobstore.verify(file, against=folder).ok
        if done.model:
            blobstore.convert(folder, file, weights="f32")
        left_out = {item.name for item in done.left_out}
        with blobstore.open(file) as store:
            for name, array in tensors.items():
                assert name in left_out or store[name].tobytes() == array.tobytes(), (seed, name)
