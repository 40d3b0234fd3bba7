"""Outputs of commands: never over an input; to standard output if possible; no flag is ignored."""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import load_file

import blobstore
from blobstore import cli
from blobstore.bench import plot
from blobstore.checking.repair import repair
from blobstore.cli.output import output_of
from blobstore.converting.choices import Choices
from blobstore.edit.recover import recover
from blobstore.edit.rewrite import Edits, apply_edits
from blobstore.packing.pack import pack
from blobstore.packing.unpack import unpack
from tests.adapters import LAYER, factors_of, write_adapter
from tests.checkpoints import snapshot, write_peer
from tests.gemma_checkpoints import convert, sound_recipe, tokenizer
from tests.packing_files import tuned, weights
from tests.strategies import WriteOnly

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


NAME = "model.layers.0.mlp.up_proj.weight"


@dataclass(frozen=True)
class Writing:
    """A command that writes: its words, with OUT for the output, and the files that it reads."""

    words: str
    reads: tuple[str, ...]
    suffix: str = ""
    streams: bool = False


CHECKPOINT = ("config.json", "model.safetensors", "tokenizer.model", "notes.txt", "tokenizer_config.json")
IN_CHECKPOINT = tuple(f"ck/{name}" for name in CHECKPOINT)
ADAPTER = ("lora/adapter_config.json", "lora/adapter_model.safetensors")
DIFFERENCE = ("near.sbs", "base.sbs", "base.sbs.idx")
WRITING = {
    "get": Writing(f"get near.sbs {NAME} --base base.sbs --raw -o OUT", DIFFERENCE, streams=True),
    "get .npy": Writing(f"get plain.sbs {NAME} -o OUT", ("plain.sbs", "plain.sbs.idx"), ".npy"),
    "convert": Writing("convert ck -o OUT", IN_CHECKPOINT, streams=True),
    "convert a file": Writing(
        "convert ck/model.safetensors --tokenizer other.model -o OUT", (*IN_CHECKPOINT[:2], "other.model"), streams=True
    ),
    "convert by name": Writing("convert ck --as names -o OUT", IN_CHECKPOINT, streams=True),
    "convert with an adapter": Writing("convert ck --adapter lora -o OUT", (*IN_CHECKPOINT, *ADAPTER), streams=True),
    "export with an adapter": Writing("export made.sbs --adapter lora -o OUT", ("made.sbs", *ADAPTER), streams=True),
    "verify with an adapter": Writing(
        "verify tuned_by_lora.sbs --against ck --adapter lora --receipt OUT",
        ("tuned_by_lora.sbs", *IN_CHECKPOINT, *ADAPTER),
        streams=True,
    ),
    "verify": Writing("verify made.sbs --against ck --receipt OUT", ("made.sbs", *IN_CHECKPOINT), streams=True),
    "export": Writing("export near.sbs --base base.sbs -o OUT", DIFFERENCE, streams=True),
    "export shards": Writing("export near.sbs --base base.sbs --max-shard-size 1kB -o OUT", DIFFERENCE),
    "rewrite": Writing("rewrite plain.sbs --index embedded -o OUT", ("plain.sbs", "plain.sbs.idx"), streams=True),
    "recover": Writing(
        "recover plain.sbs --index other.idx -o OUT", ("plain.sbs", "plain.sbs.idx", "other.idx"), streams=True
    ),
    "repair": Writing("repair made.sbs -o OUT", ("made.sbs",), streams=True),
    "report": Writing(
        "report near.sbs plain.sbs --base base.sbs -o OUT", (*DIFFERENCE, "plain.sbs", "plain.sbs.idx"), streams=True
    ),
    "report beside a checkpoint": Writing("report made.sbs ck -o OUT", ("made.sbs", *IN_CHECKPOINT), streams=True),
    "index join": Writing("index join made.sbs -o OUT", ("made.sbs",)),
    "pack": Writing("pack plain.sbs --base base.sbs -o OUT", ("plain.sbs", "plain.sbs.idx", *DIFFERENCE[1:])),
    "unpack": Writing("unpack near.sbs --base base.sbs -o OUT", DIFFERENCE, streams=True),
    "bench": Writing("bench plain.sbs --plot OUT", ("plain.sbs", "plain.sbs.idx"), ".png"),
}
# These change the file that they are given, or write to a folder of their own.
IN_PLACE = {"index attach", "index detach", "index build", "demo"}
READING = {"info", "ls", "check", "diff", "explain", "completion"}


def commands(parser: argparse.ArgumentParser, before: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield each command with its parser; for groups, those inside."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, parser_inside in action.choices.items():
                inside = list(commands(parser_inside, f"{before}{name} "))
                yield from inside or [(before + name, parser_inside)]


def run_for_bytes(words: list[str]) -> tuple[int, bytes, str]:
    """Run a command in this process → exit status, bytes on standard output, text on standard error."""
    raw, err = WriteOnly(), io.StringIO()
    out = io.TextIOWrapper(raw, "utf-8")
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = out, err
    try:
        status = cli.main(words)
        out.flush()
    finally:
        sys.stdout, sys.stderr = before
    return status, raw.getvalue(), err.getvalue()


def run(words: list[str]) -> tuple[int, str, str]:
    """Run a command in this process → exit status, standard output, standard error."""
    status, out, err = run_for_bytes(words)
    return status, out.decode("utf-8", "replace"), err


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All files that the commands read."""
    folder = tmp_path_factory.mktemp("made")
    recipe = sound_recipe("gemma3")
    recipe.write(folder / "ck")
    (folder / "ck" / "notes.txt").write_text("of the model")
    (folder / "ck" / "tokenizer_config.json").write_text("{}")
    (folder / "other.model").write_bytes(tokenizer(recipe.size.vocabulary))
    convert(folder / "ck", folder / "made.sbs", Choices())
    write_adapter(folder / "lora", factors_of(recipe, LAYER))
    blobstore.convert(folder / "ck", folder / "tuned_by_lora.sbs", adapters=folder / "lora")
    values = weights(1, 5000)
    for name, array in (("base", values), ("plain", tuned(values, 2))):
        with blobstore.create(folder / f"{name}.sbs", index="external") as store:
            store.add(NAME, array)
            store.add("b", np.arange(300, dtype=np.int32))
    with blobstore.create(folder / "tuned.sbs") as store:
        store.add(NAME, tuned(values, 2))
        store.add("b", np.arange(300, dtype=np.int32))
    pack(folder / "tuned.sbs", folder / "near.sbs", base=folder / "base.sbs")
    shutil.copy(folder / "plain.sbs.idx", folder / "other.idx")
    return folder


@pytest.fixture
def site(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path / "site")
    monkeypatch.chdir(tmp_path / "site")
    return tmp_path / "site"


def everything(folder: Path) -> dict[str, bytes]:
    return snapshot(folder) | {f"ck/{name}": data for name, data in snapshot(folder / "ck").items()}


def test_the_table_has_every_command_and_every_output() -> None:
    words = [f"{command.words} " for command in WRITING.values()]
    known = {name for name, _ in commands(cli.parser()) if any(text.startswith(f"{name} ") for text in words)}
    writing = set()
    for name, parser in commands(cli.parser()):
        outputs = {
            command
            for action in parser._actions
            if action.metavar in ("OUT", "FOLDER")
            for command in action.option_strings
        }
        assert bool(outputs) == (name in known | {"demo"}), name
        writing |= {name} if outputs else set()
        for option in outputs:
            short = {"--output": "-o"}.get(option, option)
            assert name == "demo" or any(
                command.words.startswith(name) and short in command.words.split() for command in WRITING.values()
            )
    assert {name for name, _ in commands(cli.parser())} == writing | IN_PLACE | READING


WAYS: dict[str, Callable[[Path, Path, str], str]] = {}


def way(make: Callable[[Path, Path, str], str]) -> Callable[[Path, Path, str], str]:
    WAYS[make.__name__] = make
    return make


@way
def itself(site: Path, read: Path, suffix: str) -> str:
    return hard(site, read, suffix) if suffix else str(read)


@way
def symbolic(site: Path, read: Path, suffix: str) -> str:
    link = site / f"elsewhere{suffix}"
    link.symlink_to(read)
    return str(link)


@way
def hard(site: Path, read: Path, suffix: str) -> str:
    link = site / f"elsewhere{suffix}"
    link.hardlink_to(read)
    return str(link)


@way
def as_index(site: Path, read: Path, suffix: str) -> str:
    """The index beside the output would be the input."""
    (site / f"elsewhere{suffix}.idx").hardlink_to(read)
    return str(site / f"elsewhere{suffix}")


def ways_to(name: str) -> list[str]:
    """How the output of a command can be an input: shards have names of their own, and not every output an index."""
    impossible = {"as_index"} if name.split(maxsplit=1)[0] in ("get", "verify", "export", "bench", "report") else set()
    impossible |= {"itself"} if name == "export shards" else set()
    return [how for how in WAYS if how not in impossible]


CASES = [(name, read, how) for name, command in WRITING.items() for read in command.reads for how in ways_to(name)]


@pytest.mark.parametrize(("name", "read", "how"), CASES)
def test_no_output_replaces_or_removes_an_input(
    site: Path, name: str, read: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plot, "check", lambda _: None)
    writing = WRITING[name]
    given = WAYS[how](site, site / read, writing.suffix)
    if name == "export shards":
        os.rename(given, f"{site}/some-00001-of-00002.safetensors")
        given = f"{site}/some.safetensors"
    before = everything(site)
    status, printed, errors = run([given if word == "OUT" else word for word in writing.words.split()])
    assert (status, printed) == (2, "")
    assert "same-file" in errors
    assert everything(site) == before


FUNCTIONS: dict[str, tuple[Callable[[str], object], tuple[str, ...]]] = {
    "rewrite": (lambda out: apply_edits("plain.sbs", out, Edits()), ("plain.sbs", "plain.sbs.idx")),
    "repair": (lambda out: repair("made.sbs", out), ("made.sbs",)),
    "recover": (lambda out: recover("plain.sbs", out, index="other.idx"), ("plain.sbs", "other.idx")),
    "pack": (lambda out: pack("plain.sbs", out, base="base.sbs"), ("plain.sbs", "base.sbs", "base.sbs.idx")),
    "unpack": (lambda out: unpack("near.sbs", out, base="base.sbs"), DIFFERENCE),
}


@pytest.mark.parametrize(("name", "read"), [(name, path) for name, (_, reads) in FUNCTIONS.items() for path in reads])
def test_functions_keep_the_rule_as_well(site: Path, name: str, read: str) -> None:
    before = everything(site)
    for out in (read, hard(site, site / read, "")):
        with pytest.raises(blobstore.UsageError, match="same-file"):
            FUNCTIONS[name][0](out)
    os.unlink("elsewhere")
    assert everything(site) == before


def test_an_index_never_takes_the_place_of_its_file(site: Path) -> None:
    (site / "odd.sbs.idx").symlink_to(site / "tuned.sbs")
    (site / "odd.sbs").hardlink_to(site / "tuned.sbs")
    before = everything(site)
    status, _, errors = run(["index", "detach", "odd.sbs"])
    assert (status, "same-file" in errors) == (2, True)
    assert everything(site) == before
    # Earlier results of conversions in a checkpoint's folder are not part of it.
    for _ in range(2):
        assert run(["convert", "ck", "-o", "ck/out.sbs", "--index", "external"])[0] == 0


@pytest.mark.parametrize(
    ("words", "way"),
    [
        ("rewrite plain.sbs -o plain.sbs", "--in-place"),
        ("rewrite plain.sbs -o ./link.sbs", "--in-place"),
        ("repair made.sbs -o made.sbs", "without -o"),
    ],
)
def test_who_would_replace_the_file_itself_is_told_how(site: Path, words: str, way: str) -> None:
    (site / "link.sbs").symlink_to("plain.sbs")
    before = everything(site)
    status, _, told = run(words.split())
    assert (status, "same-file" in told, way in told) == (2, True, True), told
    assert everything(site) == before


@pytest.mark.parametrize("name", [name for name, one in WRITING.items() if one.suffix != ".png"])
def test_an_output_is_called_what_the_user_calls_it(site: Path, name: str) -> None:
    writing = WRITING[name]
    for given, named in (
        (f"no/x{writing.suffix}", "blobstore: no: no such folder\n"),
        (f"in/sub{writing.suffix}", f"not-a-file: 'in/sub{writing.suffix}'"),
    ):
        (site / "in" / f"sub{writing.suffix}").mkdir(parents=True, exist_ok=True)
        if name.startswith("export") and "sub" in given:
            continue  # a folder is filled
        status, _, told = run([given if one == "OUT" else one for one in writing.words.split()])
        assert (status, named in told, str(site) in told) == (2, True, False), told


def test_an_older_export_beside_the_demos_is_told_without_a_flag_that_it_lacks(site: Path) -> None:
    (site / "d").mkdir()
    (site / "d" / "config.json").write_text('{"made_by_blobstore_demo": true}')
    (site / "d" / "exported-00001-of-00002.safetensors").write_bytes(b"older")
    before = everything(site)
    status, _, told = run(["demo", "-o", "d"])
    assert (status, "superseded" in told, "--force" in told) == (2, True, False)
    assert (everything(site), sorted(os.listdir("d"))) == (
        before,
        ["config.json", "exported-00001-of-00002.safetensors"],
    )


# ----------------------------------------------------------------------------------------------------- standard output


@pytest.mark.parametrize("name", WRITING)
def test_the_help_says_what_can_be_standard_output(name: str) -> None:
    writing = WRITING[name]
    words = writing.words.split()
    option = words[words.index("OUT") - 1]
    # The longest: index join, not index.
    _, parser = max(
        (one for one in commands(cli.parser()) if writing.words.startswith(f"{one[0]} ")), key=lambda one: len(one[0])
    )
    (action,) = [one for one in parser._actions if option in one.option_strings]
    streams = any(one.streams for one in WRITING.values() if one.words.startswith(f"{words[0]} "))
    assert ("- is standard output" in (action.help or "")) == streams


@pytest.mark.skipif(not os.path.exists("/dev/stdout"), reason="no such name")
@pytest.mark.parametrize("words", ["rewrite tuned.sbs -o /dev/stdout", "pack tuned.sbs -o /dev/stdout"])
@pytest.mark.usefixtures("site")
def test_another_name_of_standard_output_is_told(words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "blobstore", *words.split()], capture_output=True, text=True, check=False
    )
    way = "this needs a file" if words.startswith("pack") else "-o -"
    assert (done.returncode, done.stdout, "not-a-file: '/dev/stdout' is standard output" in done.stderr) == (
        2,
        "",
        True,
    )
    assert way in done.stderr


@pytest.mark.parametrize("name", [name for name, one in WRITING.items() if one.streams])
def test_what_can_stream_writes_to_standard_output_what_it_writes_to_a_file(site: Path, name: str) -> None:
    words = WRITING[name].words.split()
    status, streamed, errors = run_for_bytes([("-" if word == "OUT" else word) for word in words])
    assert status == 0, errors
    assert run([("written" if word == "OUT" else word) for word in words])[0] == 0
    assert streamed == (site / "written").read_bytes()
    assert not (site / "-").exists()


@pytest.mark.parametrize(
    "name", [name for name, command in WRITING.items() if not command.streams and not command.suffix]
)
def test_what_can_not_stream_says_so(site: Path, name: str) -> None:
    status, printed, errors = run([("-" if word == "OUT" else word) for word in WRITING[name].words.split()])
    assert (status, printed) == (2, "")
    assert "no-stream" in errors or "needs-path" in errors
    assert not (site / "-").exists()


def test_what_needs_a_place_beside_it_is_no_stream(site: Path) -> None:
    run(["pack", "plain.sbs", "-o", "packed.sbs"])
    for words, reason in (
        (["convert", "ck", "-o", "-", "--index", "external"], "needs-path"),
        (["rewrite", "plain.sbs", "-o", "-"], "needs-path"),
        (["rewrite", "tuned.sbs", "-o", "-", "--container", "1"], "needs-seek"),
        (["unpack", "packed.sbs", "-o", "-"], "needs-path"),
        (["demo", "-o", "-"], "no-stream"),
        (["rewrite", "tuned.sbs", "-o", "-", "--json"], "two-ways"),
        (["verify", "made.sbs", "--against", "ck", "--receipt", "-", "--json"], "two-ways"),
    ):
        status, printed, errors = run(words)
        said = json.loads(printed)["error"]["reason"] if "--json" in words else printed or reason
        assert (status, said, reason in errors) == (2, reason, True), (words, errors)
    assert not (site / "-").exists()


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def test_no_bytes_go_to_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal(io.BytesIO()))
    with pytest.raises(blobstore.UsageError, match="terminal"):
        output_of(argparse.Namespace(), "-")


def test_a_damaged_packed_file_gives_a_stream_that_no_one_takes_for_the_file(site: Path) -> None:
    run(["pack", "tuned.sbs", "-o", "packed.sbs"])
    with blobstore.open("packed.sbs") as store:
        metadata = json.loads(store.metadata["blobstore.packed"])
    metadata["sha256"] = "0" * 64
    rewritten = json.dumps(metadata, sort_keys=True, separators=(",", ":")).encode()
    raw = (site / "packed.sbs").read_bytes()
    with blobstore.open("packed.sbs") as store:
        before = store.metadata["blobstore.packed"].encode()
    # Text inside JSON inside the index: quoted.
    raw = raw.replace(json.dumps(before.decode()).encode()[1:-1], json.dumps(rewritten.decode()).encode()[1:-1])
    (site / "packed.sbs").write_bytes(raw)
    target = io.BytesIO()
    with pytest.raises(blobstore.BlobStoreError) as caught:
        unpack("packed.sbs", target, workers=1)
    assert caught.value.reason == "unpacked-digest"
    assert len(target.getvalue()) < metadata["nbytes"]
    (site / "stream.sbs").write_bytes(target.getvalue())
    with pytest.raises(blobstore.FormatError):
        blobstore.open("stream.sbs")


@pytest.mark.usefixtures("site")
def test_a_stream_that_is_cut_off_ends_as_cat_does() -> None:
    for words in (["export", "tuned.sbs", "-o", "-"], ["ls", "tuned.sbs"], ["get", "tuned.sbs", NAME]):
        process = subprocess.Popen(
            [sys.executable, "-m", "blobstore", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout
        process.stdout.close()
        assert process.stderr
        assert (process.wait(), process.stderr.read()) == (141, b""), words
        process.stderr.close()


# ------------------------------------------------------------------------------------------------------- flags in vain


@pytest.mark.parametrize(
    "words",
    [
        *(f"convert other {flag} -o out.sbs" for flag in ("--weights sfp", "--layout split", "--wrapping it")),
        "convert ck --as names --tokenizer other.model -o out.sbs",
        "convert other --weights bf16 --dry-run",
        "check other --weights bf16",
        "check made.sbs --weights bf16",
        "verify plain.sbs --quick --workers 2",
        "diff other ck --by keys",
        "diff other ck --by names",
        "bench plain.sbs --tmp other",
    ],
)
def test_flags_that_would_do_nothing_are_refused(site: Path, words: str) -> None:
    (site / "other").mkdir()
    write_peer(site / "other" / "model.safetensors", {"a": np.zeros(3, np.float32)})
    status, printed, errors = run(words.split())
    assert (status, printed, "needless-flag" in errors) == (2, "", True), errors
    assert not (site / "out.sbs").exists()


@pytest.mark.parametrize(
    "words",
    [
        "get plain.sbs b --base base.sbs",
        "export plain.sbs --base base.sbs -o x",
        "unpack packed.sbs --base base.sbs -o x",
        "verify plain.sbs --values --base base.sbs",
        "verify made.sbs --against ck --base base.sbs",
        "diff plain.sbs tuned.sbs --base base.sbs",
        "diff plain.sbs ck --base base.sbs",
        "get some.sbs b --base base.sbs -o x",
        "get near.sbs ~index --base base.sbs -o x",
    ],
)
@pytest.mark.usefixtures("site")
def test_a_base_that_nothing_needs_is_refused(words: str) -> None:
    run(["pack", "plain.sbs", "-o", "packed.sbs"])
    run(["pack", "tuned.sbs", "-o", "some.sbs", "--base", "base.sbs", "--only", NAME])
    status, printed, told = run(words.split())
    assert (status, printed, "needless-base" in told) == (2, "", True), told


@pytest.mark.parametrize("words", ["convert ck", "export tuned.sbs"])
def test_a_dry_run_names_the_file_that_it_does_not_write(site: Path, words: str) -> None:
    for output, named in (("out", "out"), ("-", "standard output")):
        status, _, told = run([*words.split(), "--dry-run", "-o", output])
        assert (status, f"note: a dry run: {named} is not written\n" in told) == (0, True)
    assert not (site / "out").exists()


def texts() -> Iterator[list[str]]:
    """Yield, for each argument of each command that takes any text, the words up to it, and it empty."""
    for name, parser in commands(cli.parser()):
        before = name.split()
        for action in parser._actions:
            if action.type is None and action.choices is None and action.nargs != 0:
                yield [*before, *action.option_strings[-1:], ""]
            if not action.option_strings:
                before.append("x")


@pytest.mark.parametrize("words", list(texts()), ids=" ".join)
def test_no_argument_is_empty(site: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    before = everything(site)
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "is empty: is a shell variable not set?" in last
    assert everything(site) == before


# --------------------------------------------------------------------------------------------- exports over older ones


def layouts(site: Path) -> dict[str, list[str]]:
    single = ["export", "tuned.sbs", "-o", f"{site}/out/model.safetensors"]
    return {"one file": single, "shards": [*single, "--max-shard-size", "1kB"]}


@pytest.mark.parametrize(("first", "then"), [("one file", "shards"), ("shards", "one file")])
def test_an_export_leaves_no_other_layout_beside_it(site: Path, first: str, then: str) -> None:
    (site / "out").mkdir()
    assert run(layouts(site)[first])[0] == 0
    (site / "out" / "model-00003-of-00003.safetensors").write_bytes(b"of one of three")
    (site / "out" / "other.safetensors").write_bytes(b"of another export")
    before = snapshot(site / "out")
    status, _, errors = run(layouts(site)[then])
    assert (status, "superseded" in errors) == (2, True)
    why = "would stay beside the new files, and be read instead of them or with them: --force removes such files"
    assert f"{why}, or choose another output" in errors
    named = {name for name in before if repr(f"{site}/out/{name}") in errors}
    assert named == set(before) - {"other.safetensors"}
    assert snapshot(site / "out") == before
    assert run([*layouts(site)[then], "--force"])[0] == 0
    left = snapshot(site / "out")
    shutil.rmtree(site / "out")
    (site / "out").mkdir()
    run(layouts(site)[then])
    assert left == snapshot(site / "out") | {"other.safetensors": b"of another export"}
    tensors: dict[str, np.ndarray] = {}
    for name in left:
        if name.endswith(".safetensors") and name != "other.safetensors":
            tensors |= load_file(site / "out" / name)
    assert set(tensors) == {NAME, "b"}


def test_an_error_while_shards_are_replaced_keeps_or_names_what_is_complete(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (site / "out").mkdir()
    words = layouts(site)["shards"]
    run(words)
    old = snapshot(site / "out")
    real = os.replace
    for fails_at in range(4):  # the index that refuses readers, a shard, the other one, the index
        calls = iter(range(100))

        def replace(source: str, target: str) -> None:
            at = next(calls)  # noqa: B023
            if at == fails_at if fails_at < 2 else at >= fails_at:  # noqa: B023
                raise OSError(5, "Input/output error", source, None, target)
            real(source, target)

        monkeypatch.setattr(os, "replace", replace)
        status, _, errors = run(words)
        monkeypatch.setattr(os, "replace", real)
        assert status == 1
        files = snapshot(site / "out")
        if fails_at < 2:
            assert files == old
        else:
            kept = {name for name in files if name.startswith(".blobstore-")}
            assert len(kept) == 4 - fails_at
            assert all(name in errors for name in kept)
            for name in kept:
                os.unlink(site / "out" / name)
            run(words)


def test_an_export_follows_links(site: Path) -> None:
    (site / "out").mkdir()
    (site / "real").mkdir()
    words = layouts(site)["shards"]
    assert run(words)[0] == 0
    index = site / "out" / "model.safetensors.index.json"
    index.rename(site / "real" / "i.json")
    index.symlink_to(site / "real" / "i.json")
    assert run(words)[0] == 0
    assert index.is_symlink()
    assert index.exists()
    assert run(["export", "tuned.sbs", "-o", "real/m.safetensors", "--max-shard-size", "1kB"])[0] == 0
    (site / "m.safetensors").symlink_to("real/m.safetensors")
    status, _, errors = run(["export", "tuned.sbs", "-o", "m.safetensors"])
    assert (status, "superseded" in errors) == (2, True)


def test_standard_output_is_an_output_as_well(site: Path) -> None:
    for words in (["get", "tuned.sbs", NAME], ["rewrite", "tuned.sbs", "-o", "-"], ["convert", "ck", "-o", "-"]):
        read = site / ("ck/model.safetensors" if words[1] == "ck" else words[1])
        before = read.read_bytes()
        with open(read, "ab") as stream:
            command = [sys.executable, "-m", "blobstore", *words]
            done = subprocess.run(command, stdout=stream, stderr=subprocess.PIPE, text=True, check=False)
        assert (done.returncode, "same-file" in done.stderr) == (2, True), words
        assert read.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["export", "tuned.sbs", "-o", "x", "--max-shard-size", "0.1B"], "bad-size"),
        (["export", "tuned.sbs", "-o", "x", "--max-shard-size", "0.0004kB"], "bad-size"),
        (["export", "tuned.sbs", "-o", "out/.safetensors", "--max-shard-size", "1kB"], "bad-name"),
        (
            ["verify", "made.sbs", "--against", "ck/model.safetensors", "--receipt", "ck/chat_template.jinja"],
            "same-file",
        ),
        (["verify", "made.sbs", "--against", "ck", "--receipt", "ck/earlier.sbs"], "same-file"),
    ],
)
def test_outputs_that_can_not_be_meant_are_refused(site: Path, words: list[str], reason: str) -> None:
    (site / "ck" / "chat_template.jinja").write_text("{{ bos_token }}")
    shutil.copy(site / "tuned.sbs", site / "ck" / "earlier.sbs")
    before = everything(site)
    status, printed, errors = run(words)
    assert (status, printed, reason in errors) == (2, "", True), errors
    assert everything(site) == before
