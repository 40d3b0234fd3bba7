"""One table: every command, on every place that a model can be in, says and makes the same as with one file."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from blobstore import cli
from tests.cli.test_outputs import commands, run_for_bytes
from tests.places import NAMES, PLACES, Place, contents, held, make_places, upload

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True)
class Done:
    """What a command has left.

    Attributes:
        status: Its exit status.
        printed: On standard output.
        place: With the model.
        out: The folder for what it writes.
    """

    status: int
    printed: bytes
    place: Place
    out: Path


@dataclass(frozen=True)
class Row:
    """A command.

    Attributes:
        words: With the names of files as {model} and so on, {ck} for the checkpoint, {out} for a folder to write to,
            {here} before the name of a file beside the model.
        meaning: What must be the same in all places.
        refused: In which places it is refused, and why.
        changes: Whether it changes the file that it is given.
    """

    words: str
    meaning: Callable[[Done], object] = lambda _: None
    refused: dict[str, str] = field(default_factory=dict)
    changes: bool = False


def told(*keys: str) -> Callable[[Done], object]:
    """Compare these keys of the JSON, or all but where and how long."""

    def meaning(done: Done) -> object:
        facts = json.loads(done.printed)
        return done.status, [facts[key] for key in keys] if keys else without_places(facts)

    return meaning


def without_places(facts: Any) -> Any:  # noqa: ANN401 (JSON)
    """Return JSON without what tells where a tensor lies, and how long it took."""
    if isinstance(facts, dict):
        places = {"offset", "file", "seconds", "nbytes_per_second"}
        return {key: without_places(value) for key, value in facts.items() if key not in places}
    return [without_places(value) for value in facts] if isinstance(facts, list) else facts


def listed(done: Done) -> object:
    """Compare a list of blobs, in whatever order."""
    return sorted((fact["key"], fact["nbytes"]) for fact in json.loads(done.printed) if fact["key"] != "~index")


def codes(done: Done) -> object:
    """Compare findings."""
    facts = json.loads(done.printed)
    return done.status, facts["ok"], sorted((found["severity"], found["code"]) for found in facts["findings"])


def differing(done: Done) -> object:
    """Compare which tensors differ from the source, and at which byte of them."""
    facts = json.loads(done.printed)
    return done.status, facts["ok"], [(fault["name"], fault["fault"].split(",")[0]) for fault in facts["faults"]]


def printed(done: Done) -> object:
    """Compare standard output."""
    return done.status, done.printed


def written(done: Done) -> object:
    """Compare all files that were written, byte for byte."""
    return done.status, {str(path.relative_to(done.out)): path.read_bytes() for path in done.out.rglob("*.*")}


# The original of a packed file, of which a set has one for each of its files; and where the blobs of the base are.
OF_PLACES = {"blobstore.packed", "blobstore.base"}


def made(name: str = "made.sbs", base: str | None = None) -> Callable[[Done], object]:
    """Compare the contents of the .sbs file, or the set, that was written."""

    def meaning(done: Done) -> object:
        found = contents(done.out / name, done.place.name(base) if base else None)
        found["metadata"] = {key: value for key, value in found["metadata"].items() if key not in OF_PLACES}
        return done.status, found

    return meaning


def packed(done: Done) -> object:
    """Compare what became of each blob, and the contents."""
    return sorted(map(str, json.loads(done.printed)["blobs"])), made()(done)


NOT_FILE = dict.fromkeys(("set", "set-url"), "set-not-file")
BESIDE = {"url": "needs-path"}  # two objects elsewhere don't appear at once
ROWS = [
    Row("info {model} --json", told("format", "tensors", "shared", "types", "weights", "carried", "metadata", "notes")),
    Row("info {packed} --json", told("tensors", "types", "weights", "carried", "runs")),
    Row("ls {model} --json", told()),
    Row("ls {model} *.norm --stats --json", told()),
    Row("ls {packed} --stats --json", told()),
    Row("ls {model} --keys --json", listed),
    Row("get {model} ids", printed),
    Row("get {model} config.json", printed),
    Row("get {model} model.layers.2.mlp.weight -o {out}/w.npy", written),
    Row("get {packed} model.embed_tokens.weight -o {out}/w.npy", written),
    Row("get {difference} model.layers.3.mlp.weight --base {model} -o {out}/w.npy", written),
    Row("convert {model} -o {out}/made.sbs", refused=dict.fromkeys(PLACES, "not-safetensors")),
    Row("check {model} --json", codes),
    Row("check {model} --for gemma.cpp --json", codes),
    Row("check {packed} --strict --json", codes),
    Row("verify {model} --json", codes),
    Row("verify {model} --values --json", told("ok", "findings", "compared", "nbytes")),
    Row("verify {difference} --values --base {model} --json", codes),
    Row("verify {model} --against {ck} --json", told("ok", "faults", "verdicts", "notes", "compared")),
    Row("verify {tuned} --against {ck} --json", differing),
    Row("diff {model} {ck} --json", told("differ", "counts", "entries", "nbytes")),
    Row("diff {model} {tuned} --all --json", told("differ", "counts", "entries", "nbytes")),
    Row("diff {packed} {model} --by keys --json", told("differ", "counts", "entries", "nbytes")),
    Row("diff {difference} {tuned} --base {model} --json", told("differ", "counts", "entries", "nbytes")),
    Row("report {model} {tuned} -o {out}/report.html --json", codes),
    Row("report {difference} --base {model} -o {out}/report.html --sample --json", codes),
    Row("export {model} -o {out}/made.safetensors", written),
    Row("export {model} -o {out}/ --max-shard-size 100kB --dtype bf16", written),
    Row("export {difference} --base {model} -o {out}/made.safetensors", written),
    Row("index attach {model}", refused={"file": "has-index", "url": "has-index", **NOT_FILE}),
    Row("index detach {model}", lambda done: contents(done.place.name("model.sbs")), BESIDE | NOT_FILE, changes=True),
    Row("index build {model} --force", refused=BESIDE | NOT_FILE, changes=True),
    Row("index build {model} --force --embed", refused=NOT_FILE, changes=True),
    Row(
        "index join {model} -o {here}joined.sbs",
        lambda done: contents(done.place.name("joined.sbs")),
        NOT_FILE,
        changes=True,
    ),
    Row("rewrite {model} -o {out}/made.sbs", made()),
    Row("rewrite {model} -o {out}/made.sbs --drop *.norm --rename ids=numbers --set a=b --sort", made()),
    Row("rewrite {model} -o {out}/made.sbs --container 1 --index external", made()),
    Row("rewrite {packed} -o {out}/made.sbs --unset format", refused=dict.fromkeys(PLACES, "packed-file")),
    Row(
        "rewrite {model} --in-place --set a=b",
        lambda done: contents(done.place.name("model.sbs")),
        NOT_FILE,
        changes=True,
    ),
    Row("recover {model} -o {out}/made.sbs", made(), NOT_FILE),
    Row("repair {model} -o {out}/made.sbs", refused={"file": "no-config", "url": "no-config", **NOT_FILE}),
    Row("pack {model} -o {out}/made.sbs --json", packed),
    Row("pack {model} --only *.weight -o {out}/made.sbs", made()),
    Row("pack {tuned} --base {model} -o {out}/made.sbs", made(base="model.sbs")),
    Row("unpack {packed} -o {out}/made.sbs", made()),
    Row("unpack {difference} --base {model} -o {out}/made.sbs", made()),
    Row(
        "bench {model} --warm --runs 1 --json",
        told("tensors", "nbytes"),
        dict.fromkeys(("url", "set-url"), "needs-path"),
    ),
]
WITHOUT_A_FILE = {"demo", "explain", "completion"}


def command_of(row: Row) -> str:
    return row.words.partition(" {")[0]


def test_every_command_has_a_row() -> None:
    assert {name for name, _ in commands(cli.parser())} == {command_of(row) for row in ROWS} | WITHOUT_A_FILE
    for name in NAMES:
        assert any("{" + name.removesuffix(".sbs") + "}" in row.words for row in ROWS)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("places")
    make_places(folder)
    return folder


def run_row(row: Row, place: str, places: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Run a row's command in a copy of a place → its meaning, or None if it was refused."""
    site, out = folder / place, folder / f"{place}-out"
    shutil.copytree(places / place, site)
    out.mkdir()
    monkeypatch.chdir(site)
    monkeypatch.setenv("PATH", "")  # no compiler for bench
    where = PLACES[place]
    upload(where, site)
    before = held(where, site)
    files = {name.removesuffix(".sbs"): where.name(name) for name in NAMES}
    words = row.words.format(**files, here=where.url, ck=places / "ck", out=out)
    status, shown, err = run_for_bytes(words.split())
    if place in row.refused:
        assert err.startswith(f"blobstore: {row.refused[place]}: "), err
        assert (status != 0, held(where, site), list(out.iterdir())) == (True, before, [])
        return None
    assert not err.startswith("blobstore:"), err
    assert row.changes or held(where, site) == before
    return row.meaning(Done(status, shown, where, out))


def slowly(row: Row) -> list[pytest.MarkDecorator]:
    return [pytest.mark.slowly] if command_of(row) == "bench" else []


@pytest.mark.parametrize("row", [pytest.param(row, id=row.words, marks=slowly(row)) for row in ROWS])
def test_it_is_the_same_everywhere(row: Row, places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meanings = {place: run_row(row, place, places, tmp_path, monkeypatch) for place in PLACES}
    for place, meaning in meanings.items():
        assert place in row.refused or "file" in row.refused or meaning == meanings["file"], place
