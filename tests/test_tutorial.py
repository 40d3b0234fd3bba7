"""docs/tutorial.md, followed by the letter from an empty folder: what it shows is what happens."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

import pytest

from blobstore import cli
from tests.conftest import ROOT
from tests.terminals import in_terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGE = ROOT / "docs" / "tutorial.md"
_BLOCK = re.compile(r"(?:as `(\w+\.\w+)`[^\n]*:\n\n)?^```([\w ]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MEASURED = re.compile(r"[\d.]+ ([kMG]?B/s|m?s\b)")  # differ from run to run, and so do their units


class Block(NamedTuple):
    """A block of the page: the file that it is to be saved as, its language, and its text."""

    file: str
    language: str
    text: str


BLOCKS = [Block(*found) for found in _BLOCK.findall(PAGE.read_text(encoding="utf-8"))]


def steps(block: Block) -> Iterator[tuple[str, list[str]]]:
    """Yield each command of a block, with the lines that it prints."""
    for step in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, *lines = step.splitlines()
        yield command, [line for line in lines if line]


def is_about(block: Block, *words: str) -> bool:
    return any(word in block.text for word in words)


def printed(command: str) -> list[str]:
    """Run a command as its reader does → the lines that it prints, without empty ones."""
    words = shlex.split(command)
    if words[0] == "blobstore" and ">" not in words:
        lines = in_terminal(100, *words[1:])
    else:
        done = subprocess.run(["/bin/sh", "-c", command], check=True, capture_output=True, text=True)
        lines = done.stdout.splitlines()
    return [line.rstrip() for line in lines if line.strip()]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which ``blobstore`` and ``python`` are those of this test."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, arguments in (("python", ""), ("blobstore", "-m blobstore")):
        (programs / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments} "$@"\n')
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    (tmp_path / "lesson").mkdir()
    monkeypatch.chdir(tmp_path / "lesson")
    return tmp_path / "lesson"


def follow(folder: Path, blocks: list[Block]) -> int:
    """Do what the blocks say; return how many commands there were."""
    count = 0
    for block in blocks:
        if block.file:
            (folder / block.file).write_text(block.text, encoding="utf-8")
        elif not block.language:
            for command, shown in steps(block):
                count += 1
                found = printed(command)
                assert [_MEASURED.sub("…", line) for line in found] == [_MEASURED.sub("…", line) for line in shown], (
                    command
                )
        else:
            run_python(block)
    return count


def run_python(block: Block) -> None:
    """Run a block in a process of its own; what it prints is in the comments of its lines."""
    done = subprocess.run([sys.executable, "-c", block.text], check=True, capture_output=True, text=True)
    expected = [
        re.split(r": a ", comment)[0] for comment in re.findall(r"^print.*\)  +# (.*)$", block.text, re.MULTILINE)
    ]
    assert expected
    assert done.stdout.splitlines() == expected


def test_its_commands_are_understood() -> None:
    commands = [shlex.split(command, comments=True) for block in BLOCKS for command, _ in steps(block)]
    ours = [words[1:] for words in commands if words[0] == "blobstore"]
    assert len(ours) == 12
    for words in ours:
        cli.parser().parse_args(words[: words.index(">")] if ">" in words else words)


@pytest.mark.slowly
def test_the_page_followed_by_the_letter(here: Path) -> None:
    blocks = [block for block in BLOCKS if block.language != "python torch" and not is_about(block, "g++", ".hpp")]
    assert follow(here, blocks) == 16


@pytest.mark.slowly
def test_its_c_plus_plus(here: Path) -> None:
    if not shutil.which("g++"):
        pytest.skip("no g++ is installed: the tutorial's C++ is not tested")
    begin = [block for block in BLOCKS if is_about(block, "make_llama", "LlamaForCausalLM")]
    assert follow(here, [*begin, *(block for block in BLOCKS if is_about(block, "g++", ".hpp"))]) == 4


@pytest.mark.torch
def test_its_torch(here: Path) -> None:
    begin = [block for block in BLOCKS if is_about(block, "make_llama", "LlamaForCausalLM")]
    assert follow(here, [*begin, *(block for block in BLOCKS if block.language == "python torch")]) == 2
