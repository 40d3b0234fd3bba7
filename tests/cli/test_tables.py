"""Tables in terminals of several widths, with names of real models."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import blobstore
from blobstore.cli.formatting import shape
from blobstore.cli.shortening import shortened
from tests.checkpoints import SINGLE, write_peer
from tests.terminals import in_terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WIDTHS = (60, 80, 140)
LAYERS = 12


def llama() -> Iterator[str]:
    yield "model.embed_tokens.weight"
    for layer in range(LAYERS):
        for part in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "input_layernorm"):
            yield f"model.layers.{layer}.{part}.weight"
        for part in ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "post_attention_layernorm"):
            yield f"model.layers.{layer}.{part}.weight"


def bert() -> Iterator[str]:
    for layer in range(LAYERS):
        for part in ("attention.self.query", "attention.self.key", "attention.output.dense", "output.dense"):
            for kind in ("weight", "bias"):
                yield f"bert.encoder.layer.{layer}.{part}.{kind}"
        for part in ("attention.output.LayerNorm", "output.LayerNorm", "intermediate.dense"):
            yield f"bert.encoder.layer.{layer}.{part}.weight"


def vision() -> Iterator[str]:
    yield "model.vision_tower.vision_model.embeddings.patch_embedding.weight"
    for layer in range(LAYERS):
        for part in ("self_attn.q_proj", "self_attn.out_proj", "layer_norm1"):
            yield f"model.vision_tower.vision_model.encoder.layers.{layer}.{part}.weight"
            yield f"model.vision_tower.vision_model.encoder.layers.{layer}.{part}.bias"
        yield f"model.language_model.layers.{layer}.self_attn.q_proj.weight"
        yield f"base_model.model.model.vision_tower.encoder.layers.{layer}.self_attn.q_proj.lora_A"


MODELS = {"llama": llama, "bert": bert, "vision": vision}
NAMES = ["x" * 79 + end for end in "ab"] + [name for names in MODELS.values() for name in names()]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("width", [26, 30, 36, 48, 60, 100])
def test_shortened_names_fit_and_stay_different(model: str, width: int) -> None:
    names = list(MODELS[model]())
    short = shortened(names, width)
    assert max(map(len, short)) <= width
    assert [name for name in names if len(name) <= width] == [
        text for name, text in zip(names, short, strict=True) if len(name) <= width
    ]
    if width >= 30:
        assert len(set(short)) == len(set(names))


def test_a_name_gives_way_in_its_middle() -> None:
    names = [f"model.layers.{layer}.self_attn.{part}_proj.weight" for layer in range(12) for part in "qkvo"]
    assert shortened(names, 33)[:2] == ["model.layers.0.….q_proj.weight", "model.layers.0.….k_proj.weight"]
    assert shortened(["a" * 40], 10) == ["aaa…aaaaaa"]


@given(st.lists(st.text(alphabet="ab.12/", max_size=30), max_size=6), st.integers(1, 40))
def test_any_text_can_be_shortened(names: list[str], width: int) -> None:
    short = shortened(names, width)
    assert len(short) == len(names)
    assert all(len(text) <= width for text in short)
    assert all(text == name for name, text in zip(names, short, strict=True) if len(name) <= width)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files a.sbs and b.sbs, whose values differ, and a checkpoint with the same tensors."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "checkpoint").mkdir()
    for file in "ab":
        random = np.random.default_rng(ord(file))
        tensors = {}
        for place, name in enumerate(NAMES):
            size = (1152, 3, 2, 2) if "patch" in name else (place + 9, 137)
            kind = np.float32 if name.endswith("bias") else ml_dtypes.bfloat16
            tensors[name] = random.normal(0, 0.02, size).astype(kind)
        blobstore.save_file(tensors, folder / f"{file}.sbs")
    write_peer(folder / "checkpoint" / SINGLE, {name: one.astype(np.float32) for name, one in tensors.items()})
    return folder


COMMANDS = {
    "ls": "ls a.sbs",
    "ls --keys": "ls a.sbs --keys",
    "ls --stats": "ls a.sbs --stats",
    "ls of a checkpoint": "ls checkpoint a.sbs",
    "info": "info a.sbs",
    "diff": "diff a.sbs b.sbs",
    "convert --dry-run": "convert checkpoint --dry-run --as names",
    "export --dry-run": "export a.sbs --dry-run",
    "check": "check a.sbs --for gemma.cpp",
    "verify": "verify a.sbs",
    "pack": "pack a.sbs -o packed.sbs",
}
# Cells of numbers: the whole text of each tensor's is on one line.
WITH_SHAPES = ("ls", "ls of a checkpoint", "convert --dry-run", "export --dry-run")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_table_fits_its_terminal(models: Path, monkeypatch: pytest.MonkeyPatch, name: str, width: int) -> None:
    monkeypatch.chdir(models)
    lines = in_terminal(width, *COMMANDS[name].split())
    prose = re.compile(r"[^ ]*(a|b|checkpoint|packed)(\.sbs)?[,:] ")  # the line at the end
    assert [line for line in lines if len(line) > width and not prose.match(line)] == []
    assert any(line.strip() for line in lines)
    assert "Traceback" not in "\n".join(lines)
    if name in WITH_SHAPES:
        with blobstore.open("a.sbs") as store:
            shapes = [shape(info.shape) for info in store.infos()]
        for text in shapes:
            assert any(f" {text} " in line for line in lines), text
        rows = [line for line in lines if "f32" in line or "bf16" in line]
        assert len(rows) == len(NAMES) * (2 if "checkpoint a" in COMMANDS[name] else 1)
        if name == "ls":
            assert len({row.split()[0] for row in rows}) > (0.95 if width == WIDTHS[0] else 0.999) * len(NAMES)


def test_a_narrow_terminal_leaves_out_the_key_then_the_offset(models: Path) -> None:
    headings = [in_terminal(width, "ls", models / "a.sbs", "*q_proj.weight")[1].split() for width in (140, 110, 60)]
    assert headings == [
        ["name", "key", "type", "shape", "size", "offset"],
        ["name", "type", "shape", "size", "offset"],
        ["name", "type", "shape", "size"],
    ]


def test_what_a_narrow_diff_has_no_columns_for_is_below(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(models)
    lines = in_terminal(60, "diff", "a.sbs", "b.sbs")
    below = [line for line in lines if line.startswith("    ")]
    for word in ("most at", "cosine", "max rel"):
        assert sum(word in line for line in below) >= len(NAMES) - 2, word  # a line may end inside two words


@pytest.mark.parametrize("words", [("ls",), ("ls", "--keys"), ("info",)])
def test_quiet_leaves_out_notes_and_bars_and_nothing_else(
    models: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(models)
    quiet = in_terminal(60, *words, "a.sbs")
    loud = in_terminal(60, *words, "a.sbs", progress=True)
    assert quiet == [line for line in loud if not line.startswith("note: ")]
    assert (loud != quiet) == (words == ("ls",))
