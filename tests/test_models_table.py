"""The table of models in docs/gemma.md: each cell against the tables of the code, and a small model of each row."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

import blobstore
from blobstore.checking.config import check_config
from blobstore.checking.findings import runs_in
from blobstore.converting.gemma_families import FAMILIES
from blobstore.gemma.enums import Model, WeightType
from blobstore.gemma.models import model_config
from blobstore.gemma.runtimes import LATEST
from blobstore.gemma.versions import NAMES
from tests.conftest import ROOT
from tests.gemma4_checkpoints import MOE, PLE
from tests.gemma_checkpoints import facts_in, small_recipe, sound_recipe

if TYPE_CHECKING:
    from pathlib import Path

    from tests.gemma4_checkpoints import Gemma4
    from tests.gemma_checkpoints import Recipe

_LM = (Model.GEMMA3_4B_LM, Model.GEMMA3_12B_LM, Model.GEMMA3_27B_LM)


class Row(NamedTuple):
    """What a row is of: models, and a small checkpoint of their family."""

    models: tuple[Model, ...]
    recipe: Recipe | Gemma4


ROWS = {
    "Gemma 2 2B, 9B, 27B": Row((Model.GEMMA2_2B, Model.GEMMA2_9B, Model.GEMMA2_27B), small_recipe("gemma2")),
    "PaliGemma 2 3B, 10B": Row(
        (Model.PALIGEMMA2_3B_224, Model.PALIGEMMA2_3B_448, Model.PALIGEMMA2_10B_224, Model.PALIGEMMA2_10B_448),
        small_recipe("paligemma2"),
    ),
    "Gemma 3 270M": Row((Model.GEMMA3_270M,), sound_recipe("gemma3")),
    "Gemma 3 1B": Row((Model.GEMMA3_1B,), sound_recipe("gemma3")),
    "Gemma 3 4B, 12B, 27B": Row((Model.GEMMA3_4B, Model.GEMMA3_12B, Model.GEMMA3_27B), sound_recipe("gemma3vlm")),
    "the same, text only": Row((Model.GEMMA3_4B, Model.GEMMA3_12B, Model.GEMMA3_27B), sound_recipe("gemma3")),
    "the same, `--runtime latest`": Row(_LM, sound_recipe("gemma3")),
    "Qwen3 0.6B, 1.7B, 4B": Row((Model.QWEN3_600M, Model.QWEN3_2B, Model.QWEN3_4B), small_recipe("qwen3")),
    "T5Gemma S/S": Row((Model.T5GEMMA_S_S,), small_recipe("t5gemma")),
    "Gemma 4 E2B, E4B, text": Row((Model.GEMMA4_2B_LM, Model.GEMMA4_E4B_LM), PLE),
    "Gemma 4 26B, text": Row((Model.GEMMA4_26B_MOE,), MOE),
}
HEAD = ["model", *NAMES, "converted", "exported"]


def table() -> dict[str, list[str]]:
    """Return the table: the cells behind each model."""
    lines = (ROOT / "docs" / "gemma.md").read_text("utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    start = rows.index([HEAD[0], *(f"`{name}`" for name in NAMES), *HEAD[-2:]])
    return {row[0]: row[1:] for row in rows[start + 1 : start + 1 + len(ROWS)]}


def test_the_table_has_every_published_model() -> None:
    assert list(table()) == list(ROWS)
    converted = {model for family in FAMILIES.values() for model in family.models} | {*_LM}
    assert {model for row in ROWS.values() for model in row.models} == converted


@pytest.mark.parametrize("name", ROWS)
def test_a_row_says_which_runtimes_run_a_model(name: str) -> None:
    """`run` where one of the family was run in that runtime, `read` where it is only known from the source."""
    for model in ROWS[name].models:
        config = model_config(model, WeightType.SFP)
        running = runs_in(check_config(config))
        for runtime, cell in zip(NAMES, table()[name][:-2], strict=True):
            known = "read" if runtime == LATEST.name else "run"
            inexact = "inexact" if model == Model.GEMMA3_270M else "no"
            assert cell == (known if runtime in running else inexact), (model, runtime)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_says_what_is_converted_and_comes_back(tmp_path: Path, name: str) -> None:
    recipe = ROWS[name].recipe
    folder, file, out = recipe.write(tmp_path / "c"), tmp_path / "m.sbs", tmp_path / "out.safetensors"
    runtime = "latest" if "--runtime" in name else None
    blobstore.convert(folder, file, as_="gemma", weights="bf16", runtime=runtime)
    blobstore.export(file, out)
    assert facts_in(out) == facts_in(folder)
    whole, exported = table()[name][-2:]
    assert (whole, exported) == ("text part" if "Gemma 4" in name else "all", "bit for bit")
