"""The house: a folder imports only from those above it, and no modules import each other in a circle."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# From the lowest to the highest. CONTRIBUTING.md says what is in each.
LAYERS = [
    "errors",
    "fileio",
    "codecs",
    "compression",
    "container",
    "index",
    "gemma",
    "tokenizer",
    "store",
    "checkpoint",
    "exporting",
    "edit",
    "torch",
    "jax",
    "converting",
    "packing",
    "checking",
    "conversion",
    "compare",
    "explaining",
    "reporting",
    "distributed",
    "bench",
    "cli",
]
PACKAGE = ROOT / "blobstore"
FILES = sorted(PACKAGE.rglob("*.py"))
OUTERMOST = {"__init__", "__main__"}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in FILES}


def imported(path: Path) -> Iterator[str]:
    """Yield the modules of the package that one imports: anywhere in it, and for its types, too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            for name in node.names:
                full = f"{node.module}.{name.name}"
                yield from (one for one in [full if full in MODULES else str(node.module)] if one in MODULES)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name in MODULES)


def layer_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_the_top_holds_folders_and_what_everybody_uses() -> None:
    flat = {path.stem for path in PACKAGE.glob("*.py")}
    assert flat == OUTERMOST | {"errors", "torch", "jax", "conversion"}
    assert {layer_of(module) for module in MODULES} == {*LAYERS, "", "__main__"}


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_only_from_those_below_it(layer: str) -> None:
    allowed = {*LAYERS[: LAYERS.index(layer) + 1]}
    allowed |= {""} if layer in ("bench", "cli") else set()  # the public package: what others would use
    for module, path in MODULES.items():
        if layer_of(module) == layer:
            assert {layer_of(one) for one in imported(path)} <= allowed, module


def test_no_modules_import_each_other() -> None:
    try:
        TopologicalSorter({module: set(imported(path)) for module, path in MODULES.items()}).prepare()
    except CycleError as error:
        steps = " → ".join(f"{a} imports {b}" for b, a in pairwise(error.args[1]))
        pytest.fail(f"a circle: {steps}")
