"""What is public: type checkers find misspelt names, and every type that a public signature mentions is public, too."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from typing import TYPE_CHECKING

import pytest

from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    Home = tuple[str, str]  # the module that defines a name, and the name

PUBLIC = ["blobstore", "blobstore.gemma", "blobstore.torch", "blobstore.jax", "blobstore.distributed"]
GIVEN = {"SafeOpen", "UnpackedBlobs"}  # classes that users are given: nobody else calls their constructors


def path_of(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(path_of(module).read_text(encoding="utf-8"))


@cache
def imports_of(module: str) -> dict[str, Home]:
    """Where the names come from that a module imports out of the package, for its types as well."""
    return {
        name.asname or name.name: (str(node.module), name.name)
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("blobstore")
        for name in node.names
    }


def home_of(module: str, name: str) -> Home:
    while name in imports_of(module):
        module, name = imports_of(module)[name]
    return module, name


def definition_of(home: Home) -> ast.stmt | None:
    for node in tree_of(home[0]).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == home[1]:
            return node
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == home[1]:
            return node
    return None


def is_type(home: Home) -> bool:
    """Whether it is a class, or a choice of strings. Aliases of other libraries' types need no public name."""
    node = definition_of(home)
    if isinstance(node, ast.Assign):
        return isinstance(node.value, ast.Subscript) and ast.unparse(node.value.value) == "Literal"
    return isinstance(node, ast.ClassDef)


@cache
def names_of(module: str) -> list[str]:
    """Return what ``__all__`` lists."""
    node = definition_of((module, "__all__"))
    assert isinstance(node, ast.Assign)
    names: list[str] = ast.literal_eval(node.value)
    return names


HOMES = {f"{module}.{name}": home_of(module, name) for module in PUBLIC for name in names_of(module)}


def annotations_of_function(node: ast.FunctionDef) -> Iterator[ast.expr]:
    arguments = node.args
    for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]:
        if argument and argument.annotation:
            yield argument.annotation
    if node.returns:
        yield node.returns


def is_for_users(method: ast.FunctionDef, owner: ast.ClassDef) -> bool:
    if method.name == "__init__":
        return owner.name not in GIVEN
    return method.name.endswith("__") or not method.name.startswith("_")


def annotations_of(node: ast.stmt) -> Iterator[ast.expr]:
    if isinstance(node, ast.FunctionDef):
        yield from annotations_of_function(node)
    if not isinstance(node, ast.ClassDef):
        return
    for part in node.body:
        if isinstance(part, ast.AnnAssign):
            yield part.annotation
        elif isinstance(part, ast.FunctionDef) and is_for_users(part, node):
            yield from annotations_of_function(part)


@pytest.mark.parametrize("public", HOMES)
def test_the_types_of_a_public_signature_are_public(public: str) -> None:
    module, name = HOMES[public]
    definition = definition_of((module, name))
    assert definition, f"{module} doesn't define {name}"
    named = {node.id for expr in annotations_of(definition) for node in ast.walk(expr) if isinstance(node, ast.Name)}
    types = {home for home in (home_of(module, one) for one in named) if is_type(home)}
    assert types <= set(HOMES.values())


def test_type_checkers_find_misspelt_names_and_know_all_others(tmp_path: Path) -> None:
    right, wrong = tmp_path / "right.py", tmp_path / "wrong.py"
    right.write_text("\n".join([f"import {module}" for module in PUBLIC] + [f"print({name})" for name in HOMES]))
    wrong.write_text("from blobstore import load_fiel\nimport blobstore.gemma\nprint(blobstore.gemma.nothing)\n")
    # What the modules import is skipped: `make lint` checks it, and reading numpy alone would take most of the time.
    options = ["--no-incremental", "--config-file=", "--follow-imports=skip", "--ignore-missing-imports"]
    files = [right, wrong, *map(path_of, PUBLIC)]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *files], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert [line.removeprefix(str(tmp_path)) for line in done.stdout.splitlines()[:-1]] == [
        '/wrong.py:1: error: Module "blobstore" has no attribute "load_fiel"; maybe "load_file"?  [attr-defined]',
        '/wrong.py:3: error: Module has no attribute "nothing"  [attr-defined]',
    ]
