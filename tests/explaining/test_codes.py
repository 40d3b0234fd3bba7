"""``blobstore explain``: each code that can be raised or reported has an entry, and no other code has."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict

import pytest

from blobstore import cli
from blobstore.checking.codes import CODES as KINDS
from blobstore.explaining import CODES, TOPICS, explain
from tests.explaining.reasons import raised, raised_in_cpp


def test_every_code_of_the_source_has_an_entry_and_no_other() -> None:
    existing = raised() | raised_in_cpp() | {*KINDS}
    assert existing - {*CODES} == set()
    assert {*CODES} - existing == set()


def test_a_code_belongs_to_one_topic() -> None:
    assert sum(map(len, TOPICS.values())) == len(CODES)


@pytest.mark.parametrize("code", CODES)
def test_an_explanation_is_a_few_whole_sentences(code: str) -> None:
    explained = explain(code)
    for text in filter(None, (explained.cause, explained.fix, explained.effect)):
        assert re.search(r"[.?]$|^(blobstore|gemma) ", text), text
        assert len(re.findall(r"[.?] [A-Z]", text)) <= 2, text
        assert "  " not in text


def test_a_finding_has_its_effect_and_severity() -> None:
    assert {code for code in CODES if explain(code).severity is not None} == {*KINDS}
    assert explain("damaged-blob").effect == "These tensors have wrong values."
    assert explain("padding").fix == KINDS["padding"].fix  # a command, to be copied


def test_the_tables_import_no_numpy() -> None:
    run = "import blobstore.explaining, sys; print('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", run], check=True, capture_output=True).stdout.split() == [b"False"]


def test_a_code_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", "file-size"]) == 0
    explained = explain("file-size")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(maxsplit=1) for line in lines] == [
        ["code", "file-size"],
        ["cause", explained.cause],
        ["effect", explained.effect],
        ["finding", "error, of blobstore check or blobstore verify"],
        ["fix", explained.fix],
    ]
    assert cli.main(["explain", "bad-access"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["code", "cause", "fix"]


def test_explanations_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", "index-stale", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == asdict(explain("index-stale"))
    assert cli.main(["explain", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [asdict(explain(code)) for code in CODES]


def test_all_codes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert rows == [[topic, code, entry.cause] for topic, entries in TOPICS.items() for code, entry in entries.items()]


@pytest.mark.parametrize(
    ("wrong", "near"), [("bad-majic", "bad-magic"), ("stale", "index-stale"), ("nothing near", "lists all")]
)
def test_an_unknown_code_names_those_that_are_near(wrong: str, near: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", wrong]) == 2
    assert near in capsys.readouterr().err
    assert cli.main(["explain", wrong, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["reason"] == "unknown-code"
