"""README.md and docs/: what they show is what happens, and what they link to is there."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

import blobstore
from blobstore import cli
from tests.adapters import LAYER, factors_of, write_adapter
from tests.checkpoints import write_peer
from tests.conftest import ROOT
from tests.gemma_checkpoints import sound_recipe
from tests.terminals import in_terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted((ROOT / "docs").glob("*.md"))
LINKING = [*ROOT.glob("*.md"), *PAGES, *(ROOT / "spec").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")]


def blocks(language: str) -> list[str]:
    """The blocks of README in a language; empty: those of commands and of pictures."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [text for its_language, text in found if its_language == language]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which README's Python was run."""
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102 (our own page)
    return tmp_path


@pytest.mark.usefixtures("here")
def test_values_in_readme_are_those_that_its_code_has() -> None:
    (code,) = blocks("python")
    namespace: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), namespace)  # noqa: S102 (our own page)
    shown = re.findall(r"^(\S.*?) +# → (.*?)(?:: [a-z].*)?$", code, re.MULTILINE)
    assert len(shown) == 3
    for expression, value in shown:
        assert eval(expression, namespace) == ast.literal_eval(value)  # noqa: S307 (as above)


def test_the_listing_in_readme_is_what_a_terminal_shows(here: Path) -> None:
    (shown,) = (block.split("\n", 1)[1] for block in blocks("") if block.startswith("$ blobstore ls"))
    assert [line.rstrip() for line in in_terminal(100, "ls", here / "model.sbs") if line] == [
        line for line in shown.splitlines() if line
    ]


def test_the_picture_in_readme_has_the_places_of_that_file(here: Path) -> None:
    (picture,) = (block for block in blocks("") if "├" in block)
    with blobstore.BlobReader(here / "model.sbs") as reader:
        starts = [reader.range(key)[0] for key in reader]
        tail = reader.file_size - 16 - 32 * len(reader)
        places = [0, *starts, tail, reader.file_size]
        assert re.findall(r"[0-9,]+", picture.splitlines()[0]) == [f"{at:,}" for at in places]
        assert all(key in picture for key in reader)


def test_commands_of_readme_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = sound_recipe("gemma3")
    recipe.write(here / "gemma-3-270m-it")
    write_adapter(here / "lora", factors_of(recipe, LAYER))
    (here / "Llama-3.2-1B").mkdir()
    write_peer(here / "Llama-3.2-1B" / "model.safetensors", blobstore.load_file(here / "model.sbs"))
    lines = [line for block in blocks("") for line in block.splitlines() if line.startswith("blobstore ")]
    lines += re.findall(r"`(blobstore convert [^`]*)`", README)
    assert len(lines) == 5
    for line in lines:
        assert cli.main(shlex.split(line, comments=True)[1:]) == 0, line
    capsys.readouterr()


def test_the_c_of_readme_finds_its_tensor(here: Path) -> None:
    compiler = shutil.which("g++")
    if not compiler:
        pytest.skip("no g++ is installed: README's C++ is not tested")
    (code,) = blocks("cpp")
    (here / "example.cpp").write_text(code, encoding="utf-8")
    warnings = ("-std=c++17", "-Wall", "-Wextra", "-Werror")
    command = [compiler, *warnings, "-I", str(ROOT / "spec" / "cpp"), "-o", "example", "example.cpp"]
    subprocess.run(command, check=True, cwd=here)
    done = subprocess.run([here / "example", "model.sbs"], check=True, capture_output=True, cwd=here)
    assert re.fullmatch(r"f32 at 0x[0-9a-f]+, 2 dimensions\n", done.stdout.decode())


def commands(parser: argparse.ArgumentParser, before: str = "") -> Iterator[str]:
    """Yield the name of each command; of groups, of those inside."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inside in action.choices.items():
                yield from list(commands(inside, f"{before}{name} ")) or [before + name]


def test_every_command_is_in_readme_and_has_a_line() -> None:
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    for name in commands(cli.parser()):
        assert f"`blobstore {name.split()[0]}" in page or name.startswith("index"), name
        assert f"`{name}`" in README or name == "completion", name


def anchors(text: str) -> set[str]:
    """Return what links can lead to, as GitHub makes it of headings."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKING, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        if anchor and found.suffix == ".md":
            assert anchor in anchors(found.read_text(encoding="utf-8")), target


def test_every_page_can_be_found_from_readme() -> None:
    for page in PAGES:
        assert f"(docs/{page.name}" in README, page.name
