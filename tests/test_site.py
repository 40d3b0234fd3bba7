"""What ``make docs`` gives to Sphinx: every page, public name, command, option and code is in it."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

import pytest

from blobstore import cli
from blobstore.explaining import CODES
from tests.conftest import ROOT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def pages() -> Any:  # noqa: ANN401 (a script, not a module of a package)
    spec = importlib.util.spec_from_file_location("pages", ROOT / "docs" / "site" / "pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(pages: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: ANN401 (as above)
    folder = tmp_path_factory.mktemp("site")
    pages.main(folder)
    return folder


def test_every_page_is_there_and_can_be_chosen(site: Path) -> None:
    start = (site / "index.md").read_text(encoding="utf-8").splitlines()
    for page in [*(ROOT / "docs").glob("*.md"), *(ROOT / "spec").glob("*.md"), *(ROOT / "spec").glob("*/README.md")]:
        name = str(page.relative_to(ROOT).with_suffix(""))
        text = page.read_text(encoding="utf-8").replace("](../README.md", "](../index.md")
        assert (site / f"{name}.md").read_text(encoding="utf-8") == text
        assert start.count(name) == 1


def test_every_public_name_is_in_the_reference(pages: Any, site: Path) -> None:  # noqa: ANN401 (as above)
    for module in pages.MODULES:
        text = (site / "reference" / f"{module.rpartition('.')[2]}.rst").read_text(encoding="utf-8")
        names, _ = pages.public_names(module)
        if module not in pages.WITHOUT_IMPORT:
            assert sorted(names) == sorted(importlib.import_module(module).__all__)
        described = [line.split()[-1].rpartition(".")[2] for line in text.splitlines() if "::" in line]
        assert sorted(described[1:]) == sorted(names)


def test_every_command_has_all_its_options(pages: Any, site: Path) -> None:  # noqa: ANN401 (as above)
    text = (site / "reference" / "commands.md").read_text(encoding="utf-8")
    sections = {part.partition("\n")[0]: part for part in text.split("\n## ")[1:]}
    commands = dict(pages.commands(cli.parser()))
    assert {*sections} == {*commands}
    for name, parser in commands.items():
        for action in parser._actions:
            assert f"\n| {pages.argument(action)} | " in sections[name], name
            assert "%(" not in pages.help_of(action)
            assert "{}" not in pages.argument(action)


def test_every_code_has_a_heading(site: Path) -> None:
    lines = (site / "reference" / "codes.md").read_text(encoding="utf-8").splitlines()
    assert [line.removeprefix("### ") for line in lines if line.startswith("### ")] == [*CODES]
