"""With ``--json`` an error is JSON, too: of every command that has the flag."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import blobstore
from blobstore.cli import main, parser
from blobstore.cli.output import print_json
from tests.cli.test_outputs import commands

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

JSON = {name: command for name, command in commands(parser()) if "--json" in command._option_string_actions}


def words_for(name: str, command: argparse.ArgumentParser, file: str) -> list[str]:
    """Return words that a command takes: this file for what it reads, or as a code; OUT in a folder that isn't."""
    words = name.split()
    for action in command._actions:
        if not action.option_strings and (action.nargs not in ("?", "*") or name == "explain"):
            words.append(file)
        elif action.required or action.dest == "output":
            words += [action.option_strings[0], "nothing/here/out.sbs" if name != "demo" else file]
    if any(group.required for group in command._mutually_exclusive_groups) and "-o" not in words:
        words += ["-o", "nothing/here/out.sbs"]
    return [*words, "--json"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def error_of(capsys: pytest.CaptureFixture[str], words: list[str]) -> tuple[int, dict[str, Any], str]:
    """Run a command that fails → its status, the error in JSON, and standard error."""
    status = main(words)
    done = capsys.readouterr()
    said = json.loads(done.out)
    assert list(said) == ["error"]
    assert list(said["error"]) == ["reason", "message", "path", "offset"]
    return status, said["error"], done.err


@pytest.mark.parametrize("name", JSON)
def test_a_file_that_is_not_there(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = "missing.sbs"
    if name == "demo":  # it reads none
        file = "file"
        (folder / file).write_bytes(b"")
    status, error, line = error_of(capsys, words_for(name, JSON[name], file))
    assert status in (1, 2)
    assert error["reason"]
    assert error["message"] in line
    assert line.startswith("blobstore: ")
    assert line.count("\n") == 1


def test_an_error_of_the_system_has_a_reason_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, error, line = error_of(capsys, ["ls", "missing.sbs", "--json"])
    assert (status, error["reason"], error["path"]) == (2, "file-not-found", "missing.sbs")
    assert line == f"blobstore: missing.sbs: {error['message']}\n"
    (folder / "file").touch()
    assert error_of(capsys, ["demo", "-o", "file", "--json"])[1]["reason"] == "file-exists"
    assert error_of(capsys, ["demo", "-o", "file/below", "--json"])[1]["reason"] == "not-a-directory"


@pytest.mark.parametrize(
    "name", [name for name in JSON if name not in ("demo", "check", "verify", "report")]
)  # they find
def test_a_file_that_is_wrong(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "wrong.sbs").write_bytes(b"GGUF" + bytes(70_000))
    status, error, line = error_of(capsys, words_for(name, JSON[name], "wrong.sbs"))
    assert status in (1, 2)
    first = ["nothing/here"] if name == "index join" else []  # its target, which is looked at first
    assert error["path"] in ("wrong.sbs", None, *first)
    assert error["message"] in line


@pytest.mark.parametrize("name", JSON)
def test_wrong_words(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*name.split(), "--no-such-flag", "--json"])
    assert ended.value.code == 2
    done = capsys.readouterr()
    error = json.loads(done.out)["error"]
    assert error["reason"] == "wrong-usage"
    assert f": error: {error['message']}\n" in done.err
    assert done.err.startswith("usage: blobstore")


@pytest.mark.parametrize("words", [["ls", "--no-such-flag"], ["ls", "--no-such-flag", "--", "--json"], ["nothing"]])
def test_without_the_flag_wrong_words_are_for_people_only(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(words)
    done = capsys.readouterr()
    assert done.out == ""
    assert done.err.startswith("usage: blobstore")


def test_a_file_called_json_asks_for_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", "--", "--json"]) == 2
    assert capsys.readouterr().out == ""


def test_the_offset_of_a_fault_is_in_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blobstore.save_file({"a": np.ones(3)}, "m.sbs")
    (folder / "m.sbs").write_bytes(b"GGUF" + (folder / "m.sbs").read_bytes()[4:])
    _, error, _ = error_of(capsys, ["ls", "m.sbs", "--json"])
    assert (error["reason"], error["offset"], error["path"]) == ("bad-magic", 0, "m.sbs")


@dataclass(frozen=True)
class Part:
    numbers: tuple[float, ...]


@dataclass(frozen=True)
class Whole:
    name: str
    parts: tuple[Part, ...]
    by_name: dict[str, Part]


def test_a_result_is_json_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    part = Part((1.5, float("inf"), float("-inf"), float("nan")))
    print_json(Whole("not UTF-8: \udcff", (part,), {"a": part}))
    text = capsys.readouterr().out
    text.encode("ascii")
    numbers = {"numbers": [1.5, "inf", "-inf", "nan"]}
    assert json.loads(text) == {"name": "not UTF-8: \udcff", "parts": [numbers], "by_name": {"a": numbers}}
