from __future__ import annotations

import errno
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import blobstore
from blobstore.cli import COMMANDS, main, parser
from blobstore.cli.formatting import size
from blobstore.codecs.element_types import BY_NAME
from blobstore.fileio.file_systems import file_system
from blobstore.gemma import ModelConfig
from blobstore.gemma.models import config_of
from tests.checkpoints import (
    EMBEDDING,
    HEAD,
    INDEX,
    SINGLE,
    linux_only,
    needs_pipes,
    small,
    snapshot,
    sparse_checkpoint,
    write_config,
    write_index,
    write_own,
    write_peer,
    write_shards,
)
from tests.cli.interrupts import interrupt
from tests.conftest import ROOT, VECTORS, load_manifest
from tests.tensor_strategies import DTYPES

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from tests.checkpoints import Array

ESC = "\x1b"
HOSTILE = [
    f"{ESC}[31mred{ESC}[0m",
    f"{ESC}]0;title\x07",
    "two\nlines",
    "two\r\nlines",
    "tab\tbed",
    "[red]x[/red]",
    "[/nothing-open]",
    "del\x7f",
    "c1\x9b31m",
    "bidi\u202egnp.exe",
    "line\u2028separator",
    "zero\u200bwidth",
]
# With unbuffered output nothing would be left to write when Python exits.
BUFFERED = os.environ | {"PYTHONUNBUFFERED": ""}
NAMES = {*COMMANDS}


@dataclass
class Done:
    """The result of a command: exit status and output."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:  # noqa: ANN401 (JSON is anything)
        return json.loads(self.out)

    @property
    def rows(self) -> list[list[str]]:
        """The cells of a listing's lines; fails if the last line isn't terminated."""
        assert not self.out or self.out.endswith("\n")
        return [line.split("\t") for line in self.out.split("\n")[:-1]]


class Cli:
    """Runs commands in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str | Path) -> Done:
        self._capsys.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse exits like this
            status = stop.code if isinstance(stop.code, int) else 1
        sys.stdout.flush()
        return Done(status, *self._capsys.readouterr())


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


def child(
    *arguments: str | Path, stdout: IO[bytes] | int = subprocess.PIPE, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "blobstore", *map(str, arguments)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=BUFFERED | environment,
        timeout=60,
        check=False,
    )


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A file with types, aliases, a tensor without elements, a blob of the runtime's own, and metadata."""
    path = tmp_path / "model.sbs"
    with blobstore.create(path, metadata={"license": "apache-2.0", "note": "a\nb"}) as writer:
        writer.add(EMBEDDING, np.arange(6, dtype=np.float32).reshape(2, 3))
        writer.alias(HEAD, EMBEDDING)
        for layer in range(2):
            writer.add(f"model.layers.{layer}.norm.weight", np.ones(3, dtype=ml_dtypes.bfloat16))
        writer.add("single", np.float64(3.5))
        writer.add("empty", np.zeros((2, 0), dtype=np.int8))
        writer.add_blob("tokenizer", b"tokens")
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder with a checkpoint whose head is tied to the embedding."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    write_peer(
        folder / SINGLE, {EMBEDDING: np.arange(6, dtype=np.float32).reshape(2, 3)} | small("a"), {"format": "pt"}
    )
    write_config(folder, {"tie_word_embeddings": True})
    return folder


# info


def test_info_tells_what_a_file_is(cli: Cli, store: Path) -> None:
    done = cli("info", store)
    assert done.status == 0
    assert done.err == ""
    for text in (str(store), "version 2", "6 names", "with digests", "2 × bf16", "license", "apache-2.0", "a\\nb"):
        assert text in done.out
    assert "27.08 bits each" in done.out
    assert len(done.out.splitlines()) == 11


def test_info_as_json_tells_the_same_as_the_package(cli: Cli, store: Path) -> None:
    done = cli("info", store, "--json")
    assert done.status == 0
    assert done.json == {
        "input": str(store),
        "format": "sbs",
        "access": "mmap",
        "set": None,
        "file_system": file_system(store.stat().st_dev),
        "version": 2,
        "nbytes": store.stat().st_size,
        "blobs": 6,
        "payload_nbytes": done.json["payload_nbytes"],
        "other_nbytes": store.stat().st_size - done.json["payload_nbytes"],
        "directory_sha256": done.json["directory_sha256"],
        "notes": [],
        "tensors": 6,
        "shared": 1,
        "types": {
            "bf16": {"count": 2, "nbytes": 12},
            "f32": {"count": 2, "nbytes": 24},
            "f64": {"count": 1, "nbytes": 8},
            "int8": {"count": 1, "nbytes": 0},
        },
        "weights": 13,
        "bits_per_weight": 8 * 44 / 13,
        "model": None,
        "runs": None,
        "readers": None,
        "runs_in": None,
        "newer": [],
        "index": {"place": "embedded", "path": str(store), "names": 6, "digests": True},
        "packed": None,
        "toc": False,
        "carried": {},
        "carried_fault": None,
        "metadata": {"license": "apache-2.0", "note": "a\nb"},
    }
    with blobstore.BlobReader(store) as reader:
        assert done.json["payload_nbytes"] == sum(map(len, reader.values()))


@pytest.mark.parametrize(
    ("file_system", "expected"), [("nfs4", "plain reads (nfs4)"), ("ext4", "mapped (ext4)"), ("", "mapped\n")]
)
def test_info_tells_how_a_file_is_read_and_why(
    cli: Cli, store: Path, monkeypatch: pytest.MonkeyPatch, file_system: str, expected: str
) -> None:
    for module in ("blobstore.fileio.source", "blobstore.cli.description"):
        monkeypatch.setattr(f"{module}.file_system", lambda _device: file_system)
    assert expected in cli("info", store).out


def test_info_of_a_file_without_an_index_says_so(cli: Cli, tmp_path: Path) -> None:
    with blobstore.BlobWriter(tmp_path / "plain.sbs") as writer:
        writer.add("a", b"1")
    assert "none" in cli("info", tmp_path / "plain.sbs").out
    assert cli("info", tmp_path / "plain.sbs", "--json").json["index"] is None


def test_info_of_a_model_tells_which(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "model.sbs"
    config = config_of("gemma3-270m-sfp-it")
    with blobstore.BlobWriter(file) as writer:
        writer.add("config", config.to_bytes())
        writer.add("tokenizer", b"a model")
    done = cli("info", file)
    assert done.status == 0
    assert "Gemma3_270M sfp it: 18 layers of 640, vocabulary 262144, with tokenizer" in done.out
    facts = cli("info", file, "--json").json["model"]
    assert (facts["model"], facts["weight"], facts["wrapping"]) == ("GEMMA3_270M", "sfp", "it")


def test_info_of_a_file_with_a_damaged_config_tells_the_rest_and_ends_1(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "model.sbs"
    with blobstore.BlobWriter(file) as writer:
        writer.add("config", b"\xff\xff\xff\x7f")
    done = cli("info", file)
    assert done.status == 1
    assert "damaged: fields-truncated" in done.out
    assert cli("info", file, "--json").json["model"]["fault"].startswith("fields-truncated")


@pytest.mark.parametrize(("name", "code"), [("files-gone", "files-missing"), ("files-absolute", "files-list")])
def test_info_of_a_file_with_damaged_files_tells_the_rest_and_ends_1(cli: Cli, name: str, code: str) -> None:
    done = cli("info", ROOT / "spec" / "vectors" / "verify" / f"{name}.sbs")
    assert done.status == 1
    assert "tensors" in done.out
    assert f"damaged: {code}: " in " ".join(done.out.split())


# ls


def test_ls_is_one_line_of_six_cells_for_each_tensor(cli: Cli, store: Path) -> None:
    listed = cli("ls", store)
    assert (listed.status, listed.err) == (0, "")
    with blobstore.open(store) as opened:
        expected = [
            [info.name, info.key, info.type.name, str(list(info.shape)), str(info.nbytes), str(info.offset)]
            for info in opened.infos()
        ]
    assert listed.rows == expected
    assert all(len(row) == 6 for row in listed.rows)


def test_ls_as_json_has_the_documented_fields(cli: Cli, store: Path) -> None:
    listed = cli("ls", store, "--json")
    with blobstore.open(store) as opened:
        assert listed.json == [
            {
                "name": info.name,
                "key": info.key,
                "type": info.type.name,
                "shape": list(info.shape),
                "scale": info.scale,
                "nbytes": info.nbytes,
                "offset": info.offset,
                "codec": info.codec,
                "file": str(store),
            }
            for info in opened.infos()
        ]


@pytest.mark.parametrize("as_json", [False, True], ids=["lines", "json"])
@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.layers.1.*", ["model.layers.1.norm.weight"]),
        ("?ingle", ["single"]),
        ("[e]mpty", ["empty"]),
        ("SINGLE", []),
        ("*", ["empty", HEAD, EMBEDDING, "model.layers.0.norm.weight", "model.layers.1.norm.weight", "single"]),
    ],
)
def test_ls_lists_what_a_glob_matches(cli: Cli, store: Path, pattern: str, expected: list[str], as_json: bool) -> None:
    listed = cli("ls", store, pattern, *["--json"] * as_json)
    assert listed.status == 0
    assert (
        [entry["name"] for entry in listed.json] == expected if as_json else [row[0] for row in listed.rows] == expected
    )


def test_ls_says_when_nothing_matches_and_prints_nothing(cli: Cli, store: Path) -> None:
    listed = cli("ls", store, "nothing")
    assert (listed.status, listed.out) == (0, "")
    assert "'nothing'" in listed.err


def test_ls_keys_lists_all_blobs_in_file_order(cli: Cli, store: Path) -> None:
    with blobstore.BlobReader(store) as reader:
        expected = [(key, len(data), reader.range(key)[0]) for key, data in reader.items()]
    assert [row[0] for row in cli("ls", store, "--keys").rows] == [key for key, *_ in expected]
    assert cli("ls", store, "--keys").rows == [[key, str(nbytes), str(offset)] for key, nbytes, offset in expected]
    assert cli("ls", store, "--keys", "--json").json == [
        {"key": key, "nbytes": nbytes, "offset": offset, "file": str(store)} for key, nbytes, offset in expected
    ]
    assert [row[0] for row in cli("ls", store, "tok*", "--keys").rows] == ["tokenizer"]


@pytest.mark.parametrize("extra", [[], ["--keys"], ["--json"], ["--keys", "--json"]], ids=" ".join)
def test_keys_that_are_no_utf_8_are_listed(cli: Cli, tmp_path: Path, extra: list[str]) -> None:
    with blobstore.BlobWriter(tmp_path / "keys.sbs") as writer:
        writer.add("\udcff\udcfe", b"1")
        writer.add("plain", b"22")
    listed = cli("ls", tmp_path / "keys.sbs", *extra)
    assert listed.status == 0
    if "--json" in extra:
        assert [entry["key"] for entry in listed.json] == ["\udcff\udcfe", "plain"]
    else:
        assert [row[0] for row in listed.rows] == ["\\udcff\\udcfe", "plain"]


# Text from a file must not reach the terminal unescaped.


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    path = tmp_path / "hostile.sbs"
    tensors = {name: np.array([place]) for place, name in enumerate(HOSTILE)}
    blobstore.save_file(tensors, path, metadata={name: name for name in HOSTILE})
    return path


def harmless(text: str) -> bool:
    return all(char.isprintable() or char == "\n" for char in text)


def test_names_can_not_break_a_listing(cli: Cli, hostile: Path) -> None:
    listed = cli("ls", hostile)
    assert len(listed.rows) == len(HOSTILE)
    assert all(len(row) == 6 for row in listed.rows)
    assert harmless(listed.out.replace("\t", ""))
    assert any(row[0] == "[red]x[/red]" for row in listed.rows)


def test_metadata_can_not_break_info(cli: Cli, hostile: Path) -> None:
    done = cli("info", hostile)
    assert harmless(done.out)
    assert len([line for line in done.out.splitlines() if line.startswith("metadata ")]) == len(HOSTILE)


@pytest.mark.parametrize("arguments", [["ls"], ["info"]], ids=" ".join)
def test_json_gives_names_back_as_they_are(cli: Cli, hostile: Path, arguments: list[str]) -> None:
    done = cli(*arguments, hostile, "--json")
    assert harmless(done.out)
    names = {entry["name"] for entry in done.json} if arguments == ["ls"] else set(done.json["metadata"])
    assert names == set(HOSTILE)


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_no_message_about_a_name_has_control_characters(cli: Cli, tmp_path: Path, hostile: Path, name: str) -> None:
    assert cli("get", hostile, name, "-o", tmp_path / "out.npy").status == 0
    missing = cli("get", hostile, name + "?", "-o", tmp_path / "out.npy")
    assert missing.status == 2
    assert harmless(missing.err)
    assert len(missing.err.splitlines()) == 1
    nothing = cli("ls", hostile, name + "-")
    assert harmless(nothing.err)
    assert len(nothing.err.splitlines()) == 1


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_no_message_about_a_file_has_control_characters(cli: Cli, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name.replace("/", "|")
    folder.mkdir()
    (folder / "wrong.sbs").write_bytes(b"no such file")
    blobstore.save_file(small("a"), folder / "right.sbs")
    for file in ("missing.sbs", "wrong.sbs", "right.sbs"):
        path = str(folder / file)
        for arguments in (
            ["info", path],
            ["ls", path, "nothing"],
            ["get", path, "nothing"],
            ["index", "attach", path],
            ["convert", path, "-o", str(tmp_path / "out")],
        ):
            done = cli(*arguments)
            assert harmless(done.out.replace("\t", "")), arguments
            assert harmless(done.err), arguments
            assert len(done.err.splitlines()) <= 1
            assert "Traceback" not in done.err


def test_a_hostile_checkpoint_can_not_break_a_plan_or_a_report(cli: Cli, tmp_path: Path) -> None:
    embedding = f"{HOSTILE[0]}.{EMBEDDING}"
    write_peer(tmp_path / SINGLE, small(*HOSTILE, embedding))
    write_index(tmp_path, dict.fromkeys([*HOSTILE[1:], embedding], SINGLE))
    write_config(tmp_path, {"tie_word_embeddings": True})
    for extra in (["--dry-run"], ["-o", tmp_path / "out.sbs"]):
        done = cli("convert", tmp_path / INDEX, *extra)
        assert done.status == 0
        assert harmless(done.out.replace("\t", ""))
        assert harmless(done.err)
        assert (done.out + done.err).count("lm_head.weight") == 1
    dry = cli("convert", tmp_path / INDEX, "--dry-run")
    assert len(dry.rows) == len(HOSTILE)
    assert len(dry.err.splitlines()) == 4  # what was read, is carried and is left out, and the alias


def on_terminal(*arguments: str | Path, **environment: str) -> tuple[int, str, str]:
    """Run a command whose output goes to a terminal → status, output, errors."""
    pty = pytest.importorskip("pty")
    parent, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "blobstore", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=subprocess.PIPE,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "300", "LINES": "50"} | environment,
    )
    os.close(terminal)
    shown = b""
    try:
        while piece := os.read(parent, 65536):
            shown += piece
    except OSError as error:  # Linux's way to say that the other end is closed
        if error.errno != errno.EIO:
            raise
    os.close(parent)
    _, errors = process.communicate(timeout=60)
    return process.returncode, shown.decode(), errors.decode()


def test_on_a_terminal_ls_is_a_table_that_names_can_not_break(hostile: Path) -> None:
    status, shown, errors = on_terminal("ls", hostile)
    assert (status, errors) == (0, "")
    assert "name" in shown.splitlines()[1]
    assert "[red]x[/red]" in shown
    assert "[/nothing-open]" in shown
    for raw in (f"{ESC}[31m", f"{ESC}]", "\x07", "\x9b", "\u202e", "\t", "two\n", "two\r"):
        assert raw not in shown
    for escaped in ("\\x1b[31mred", "\\x1b]0;title\\x07", "two\\nlines", "tab\\tbed", "\\u202egnp"):
        assert escaped in shown


@pytest.mark.parametrize("arguments", [["ls", "--keys"], ["info"], ["ls", "--json"]], ids=" ".join)
def test_on_a_terminal_nothing_of_a_file_is_obeyed(hostile: Path, arguments: list[str]) -> None:
    status, shown, _ = on_terminal(*arguments, hostile)
    assert status == 0
    assert f"{ESC}[31m" not in shown
    assert f"{ESC}]" not in shown


def test_on_a_terminal_bytes_are_refused(store: Path, checkpoint: Path) -> None:
    lines: list[list[str | Path]] = [
        ["get", store, "single"],
        ["get", store, "single", "-o", "-"],
        ["convert", checkpoint, "-o", "-"],
    ]
    for arguments in lines:
        status, shown, errors = on_terminal(*arguments)
        assert (status, shown) == (2, "")
        assert errors.startswith("blobstore: terminal: ")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, cli: Cli) -> Cli:
    """Runs commands in this process as if a terminal showed what they print."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda _: True)  # pytest's; it has one for each phase
    return cli


def test_on_a_terminal_ls_and_dry_run_have_a_heading(terminal: Cli, store: Path, checkpoint: Path) -> None:
    for arguments, columns in (
        (["ls", str(store)], "name key type shape size offset"),
        (["ls", str(store), "--keys"], "key size offset"),
        (["convert", str(checkpoint), "--dry-run"], "name key type shape size"),
    ):
        shown = terminal(*arguments)
        assert shown.status == 0
        text = re.sub(rf"{ESC}\[[0-9;]*m", "", shown.out)
        assert columns.split() in [line.split() for line in text.splitlines()]
        assert ESC not in text


def test_on_a_terminal_convert_shows_a_bar_and_removes_it(terminal: Cli, checkpoint: Path) -> None:
    shown = terminal("convert", checkpoint, "-o", checkpoint.parent / "out.sbs")
    assert shown.status == 0
    assert "converting" in shown.err
    assert shown.err.endswith(f"{ESC}[2Knote: read model.safetensors\nnote: carries config.json\n")
    assert contents(checkpoint.parent / "out.sbs") == EXPECTED


def test_on_a_terminal_json_stays_json(terminal: Cli, store: Path, checkpoint: Path) -> None:
    assert terminal("ls", store, "--json").json
    assert terminal("info", store, "--json").json
    assert terminal("convert", checkpoint, "-o", checkpoint.parent / "out.sbs", "--json").json["tensors"] == 2


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_output_that_knows_few_characters_is_no_error(tmp_path: Path, encoding: str) -> None:
    blobstore.save_file(small("權重", "é"), tmp_path / "model.sbs")
    for arguments in (["info"], ["ls"], ["ls", "--keys"], ["ls", "--json"]):
        done = child(*arguments, tmp_path / "model.sbs", PYTHONIOENCODING=encoding)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout


# get


def values(dtype: np.dtype[Any]) -> Array:
    """Every value of an 8-bit type, many of other types, including NaN and infinities."""
    count = 256 if dtype.itemsize == 1 else 512
    return np.arange(count * dtype.itemsize, dtype=np.int64).astype(np.uint8).view(dtype).reshape(-1, 4)


@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPES.values())
def test_get_writes_a_numpy_file_with_the_same_values(cli: Cli, tmp_path: Path, dtype: np.dtype[Any]) -> None:
    array = np.array([[True, False]]) if dtype == np.bool_ else values(dtype)
    blobstore.save_file({"x": array}, tmp_path / "x.sbs")
    done = cli("get", tmp_path / "x.sbs", "x", "-o", tmp_path / "x.npy")
    assert (done.status, done.out) == (0, "")
    loaded = np.load(tmp_path / "x.npy", allow_pickle=False)
    assert loaded.shape == array.shape
    if DTYPES[dtype] == "bf16" or DTYPES[dtype].startswith("f8"):
        assert loaded.dtype == np.float32
        assert "float32" in done.err
        number = ~np.isnan(loaded)
        assert (number == (array == array)).all()  # noqa: PLR0124 (numpy's isnan does not know all of these types)
        assert loaded[number].astype(dtype).tobytes() == array[number].tobytes()
    else:
        assert loaded.dtype == dtype
        assert loaded.tobytes() == array.tobytes()
        assert done.err == ""


@pytest.mark.parametrize("dtype", [np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1,) * 32], ids=str)
def test_get_writes_single_values_and_none(
    cli: Cli, tmp_path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike
) -> None:
    array = np.full(shape, 1.5, dtype=dtype)
    blobstore.save_file({"x": array, "y": np.ones(1)}, tmp_path / "x.sbs")
    assert cli("get", tmp_path / "x.sbs", "x", "-o", tmp_path / "x.npy").status == 0
    loaded = np.load(tmp_path / "x.npy", allow_pickle=False)
    assert loaded.shape == shape
    np.testing.assert_array_equal(loaded, array.astype(np.float64))


@pytest.mark.parametrize(
    "arguments", [["-o", "OUT.bin"], ["-o", "OUT.npy", "--raw"], ["--raw", "-o", "OUT.safetensors"]]
)
@pytest.mark.parametrize("by", ["name", "key"])
def test_get_writes_the_stored_bytes(cli: Cli, store: Path, arguments: list[str], by: str) -> None:
    name = EMBEDDING if by == "name" else blobstore.key_for(EMBEDDING)
    out = [argument.replace("OUT", str(store.parent / "out")) for argument in arguments]
    assert cli("get", store, name, *["--by", "keys"] * (by == "key"), *out).status == 0
    (written,) = store.parent.glob("out.*")
    assert written.read_bytes() == np.arange(6, dtype=np.float32).tobytes()


@pytest.mark.parametrize("arguments", [[], ["-o", "-"], ["--raw"]], ids=" ".join)
def test_get_writes_the_stored_bytes_to_a_pipe(store: Path, arguments: list[str]) -> None:
    done = child("get", store, HEAD, *arguments)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == np.arange(6, dtype=np.float32).tobytes()
    assert child("get", store, "tokenizer", *arguments).stdout == b"tokens"
    assert child("get", store, "empty", *arguments).stdout == b""


def test_get_says_what_a_name_may_have_meant(cli: Cli, store: Path) -> None:
    done = cli("get", store, "singel", "-o", store.parent / "out.npy")
    assert done.status == 2
    assert done.err.startswith("blobstore: name-not-found: ")
    assert "'single'" in done.err
    assert not (store.parent / "out.npy").exists()


def test_get_refuses_values_that_numpy_has_no_type_for_and_leaves_nothing(cli: Cli, tmp_path: Path) -> None:
    write_own(tmp_path / SINGLE, {"x": (BY_NAME["f4"], (4,), b"ab")})
    assert cli("convert", tmp_path, "-o", tmp_path / "x.sbs").status == 0
    done = cli("get", tmp_path / "x.sbs", "x", "-o", tmp_path / "x.npy")
    assert done.status == 1
    assert done.err.startswith("blobstore: packed-type: ")
    assert not (tmp_path / "x.npy").exists()
    assert cli("get", tmp_path / "x.sbs", "x", "-o", tmp_path / "x.raw").status == 0
    assert (tmp_path / "x.raw").read_bytes() == b"ab"


def test_get_does_not_replace_the_file_that_it_reads(cli: Cli, store: Path) -> None:
    before = snapshot(store.parent)
    done = cli("get", store, "single", "-o", store)
    assert done.status == 2
    assert snapshot(store.parent) == before


# convert


def contents(path: Path) -> dict[str, bytes]:
    with blobstore.open(path) as opened:
        return {name: opened[name].tobytes() for name in opened}


EXPECTED = {
    EMBEDDING: np.arange(6, dtype=np.float32).tobytes(),
    HEAD: np.arange(6, dtype=np.float32).tobytes(),
    "a": np.array([1], dtype=np.int32).tobytes(),
}


@pytest.mark.parametrize(
    ("version", "index", "digests"), list(itertools.product([1, 2], ["embedded", "external"], [True, False]))
)
def test_convert_writes_the_file_that_was_asked_for(
    cli: Cli, checkpoint: Path, version: int, index: str, digests: bool
) -> None:
    out = checkpoint.parent / "out.sbs"
    options = ["--container", str(version), "--index", index, *["--no-digests"] * (not digests)]
    done = cli("convert", checkpoint, "-o", out, *options)
    assert (done.status, done.err) == (0, "note: read model.safetensors\nnote: carries config.json\n")
    assert str(out) in done.out
    assert f"{HEAD} = {EMBEDDING}" in done.out
    assert contents(out) == EXPECTED
    assert out.with_name("out.sbs.idx").exists() == (index == "external")
    facts = cli("info", out, "--json").json
    assert facts["version"] == version
    assert (facts["index"]["place"], facts["index"]["digests"]) == (index, digests)


def test_convert_as_json_tells_what_was_done(cli: Cli, tmp_path: Path, checkpoint: Path) -> None:
    done = cli("convert", checkpoint, "-o", tmp_path / "out.sbs", "--json")
    assert done.status == 0
    assert done.json == {
        "input": str(checkpoint),
        "output": str(tmp_path / "out.sbs"),
        "names": 3,
        "nbytes": (tmp_path / "out.sbs").stat().st_size,
        "tensors": 2,
        "aliases": [{"name": HEAD, "target": EMBEDDING, "why": done.json["aliases"][0]["why"]}],
        "left_out": [],
        "read": [str(checkpoint / SINGLE)],
        "model": None,
        "runs_in": None,
        "carried": ["config.json"],
        "adapters": [],
        "stores": [],
        "kept": 0,
        "notes": ["carries config.json"],
        "seconds": done.json["seconds"],
    }
    assert done.json["seconds"] >= 0


def test_convert_writes_to_a_pipe_what_it_writes_to_a_file(tmp_path: Path, checkpoint: Path) -> None:
    done = child("convert", checkpoint, "-o", "-")
    assert (done.returncode, done.stderr) == (0, b"note: read model.safetensors\nnote: carries config.json\n")
    assert child("convert", checkpoint, "-o", tmp_path / "out.sbs").returncode == 0
    assert done.stdout == (tmp_path / "out.sbs").read_bytes()
    (tmp_path / "piped.sbs").write_bytes(done.stdout)
    assert contents(tmp_path / "piped.sbs") == EXPECTED


@pytest.mark.parametrize("arguments", [["--container", "1"], ["--index", "external"]])
def test_convert_refuses_what_a_pipe_can_not_have(checkpoint: Path, arguments: list[str]) -> None:
    done = child("convert", checkpoint, "-o", "-", *arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"blobstore: needs-")


def test_a_dry_run_shows_the_plan_and_writes_nothing(cli: Cli, tmp_path: Path, checkpoint: Path) -> None:
    before = snapshot(tmp_path)
    done = cli("convert", checkpoint, "--dry-run", "-o", tmp_path / "out.sbs")
    assert done.status == 0
    assert {row[0]: row[1:] for row in done.rows} == {
        EMBEDDING: [blobstore.key_for(EMBEDDING), "f32", "[2, 3]", "24"],
        "a": ["a", "i32", "[1]", "4"],
    }
    assert HEAD in done.err
    as_json = cli("convert", checkpoint, "--dry-run", "--json").json
    assert {entry["name"] for entry in as_json["tensors"]} == {EMBEDDING, "a"}
    assert [entry["name"] for entry in as_json["aliases"]] == [HEAD]
    assert as_json["metadata"] == {"format": "pt"}
    assert as_json["nbytes"] == 28
    assert snapshot(tmp_path) == before


def test_convert_takes_a_folder_of_shards_its_index_and_a_file(cli: Cli, tmp_path: Path) -> None:
    write_shards(tmp_path, [small("a"), small("b")])
    single = write_peer(tmp_path / "one.safetensors", small("b"))
    for source, names in ((tmp_path, {"a", "b"}), (tmp_path / INDEX, {"a", "b"}), (single, {"b"})):
        assert cli("convert", source, "-o", tmp_path / "out.sbs").status == 0
        assert set(contents(tmp_path / "out.sbs")) == names
    shard = tmp_path / "model-00002-of-00002.safetensors"
    assert cli("convert", shard, "-o", tmp_path / "out.sbs").err.startswith("blobstore: one-shard: ")
    for command in ("ls", "info"):  # they show a shard, and say what it is
        done = cli(command, shard)
        assert (done.status, "b" in done.out, f"note: {str(shard)!r} is one of 2 files" in done.err) == (0, True, True)


def test_convert_tells_what_it_left_out(cli: Cli, tmp_path: Path) -> None:
    write_peer(tmp_path / SINGLE, small("a", "stray"))
    write_index(tmp_path, {"a": SINGLE})
    done = cli("convert", tmp_path, "-o", tmp_path / "out.sbs", "--json")
    assert done.err.startswith("note: read model.safetensors\nnote: left out the tensor 'stray'")
    assert "'stray'" in done.json["notes"][0]
    assert [item["name"] for item in done.json["left_out"]] == ["stray"]


# index


def test_an_index_goes_out_of_a_file_and_back(cli: Cli, store: Path) -> None:
    idx = store.with_name("model.sbs.idx")
    original = store.read_bytes()
    done = cli("index", "detach", store)
    assert (done.status, done.out, done.err) == (0, f"{idx}: 6 names\n", "")
    assert cli("info", store, "--json").json["index"]["place"] == "external"
    assert "~index" not in cli("ls", store, "--keys").out
    done = cli("index", "attach", store, "--json").json
    assert (done["input"], done["output"], done["names"]) == (str(store), str(store), 6)
    assert not idx.exists()
    assert store.read_bytes() == original


@pytest.mark.parametrize("digests", [True, False])
@pytest.mark.parametrize("embed", [True, False])
def test_an_index_is_built_for_a_file_without_one(cli: Cli, tmp_path: Path, embed: bool, digests: bool) -> None:
    file = tmp_path / "plain.sbs"
    with blobstore.BlobWriter(file) as writer:
        writer.add("gating_ein_0", b"1234")
        writer.add("config", ModelConfig().to_bytes())
    done = cli("index", "build", file, *["--embed"] * embed, *["--digests"] * digests, "--json")
    assert done.status == 0
    assert done.err == ""
    where = str(file if embed else f"{file}.idx")
    assert done.json | {"seconds": 0} == {
        "input": str(file),
        "output": where,
        "nbytes": os.path.getsize(where),
        "seconds": 0,
        "names": 1,
        "lost_names": 0,
        "changed_names": 0,
        "notes": [],
    }
    facts = cli("info", file, "--json").json
    assert facts["index"]["place"] == ("embedded" if embed else "external")
    assert facts["index"]["digests"] == digests
    assert [row[0] for row in cli("ls", file).rows] == ["gating_ein_0"]
    assert set(snapshot(tmp_path)) == {"plain.sbs"} if embed else {"plain.sbs", "plain.sbs.idx"}


def test_index_refuses_what_makes_no_sense_and_changes_nothing(cli: Cli, tmp_path: Path, store: Path) -> None:
    with blobstore.BlobWriter(tmp_path / "plain.sbs") as writer:
        writer.add("a", b"1")
    before = snapshot(tmp_path)
    lines: list[tuple[list[str | Path], str]] = [
        (["attach", store], "has-index"),
        (["build", store], "has-index"),
        (["build", store, "--embed"], "has-index"),
        (["attach", tmp_path / "plain.sbs"], "no-index"),
        (["detach", tmp_path / "plain.sbs"], "no-index"),
    ]
    for arguments, reason in lines:
        done = cli("index", *arguments)
        assert (done.status, done.out) == (2, "")
        assert done.err.startswith(f"blobstore: {reason}: ")
        assert len(done.err.splitlines()) == 1
    assert snapshot(tmp_path) == before


def test_index_build_tells_how_many_names_are_lost(cli: Cli, store: Path) -> None:
    kept = cli("info", store, "--json").json["metadata"]
    assert kept
    done = cli("index", "build", store, "--force", "--embed", "--digests", "--json")
    assert done.status == 0
    assert done.json["lost_names"] > 0
    assert len(done.json["notes"]) == 1
    assert done.err == f"note: {done.json['notes'][0]}\n"
    assert f"{done.json['lost_names']} of the 6 names that the index had are lost" in done.err
    assert cli("info", store, "--json").json["metadata"] == kept


def test_an_index_of_another_file_is_not_attached(cli: Cli, tmp_path: Path, store: Path) -> None:
    blobstore.save_file(small("other"), tmp_path / "other.sbs")
    for file in (store, tmp_path / "other.sbs"):
        assert cli("index", "detach", file).status == 0
    (tmp_path / "other.sbs.idx").replace(tmp_path / "model.sbs.idx")
    before = snapshot(tmp_path)
    done = cli("index", "attach", store)
    assert done.status == 1
    assert done.err.startswith("blobstore: index-stale: ")
    assert snapshot(tmp_path) == before


# demo


def test_demo_makes_what_it_says(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = cli("demo")
    assert (done.status, done.err) == (0, "")
    last = shlex.split(done.out.splitlines()[-1].partition(": ")[2])
    assert last[:2] == ["blobstore", "ls"]
    assert Path(last[2]).exists()
    assert len(cli(*last[1:]).rows) == 29


def test_demo_as_json_compares_every_tensor(cli: Cli, tmp_path: Path) -> None:
    done = cli("demo", "-o", tmp_path / "here", "--json")
    assert done.status == 0
    facts = done.json
    assert facts["ok"] is True
    assert facts["not_as_the_source_makes_it"] == 0
    assert facts["exported_equal"] == 29
    assert Path(facts["checkpoint"]).exists()
    assert facts["nbytes"] == Path(facts["file"]).stat().st_size
    assert len(cli("ls", facts["file"]).rows) == facts["names"]


def test_demo_may_be_run_again(cli: Cli, tmp_path: Path) -> None:
    for _ in range(2):
        assert cli("demo", "-o", tmp_path / "here").status == 0


@pytest.mark.parametrize("name", [SINGLE, "config.json", INDEX])
def test_demo_does_not_touch_a_checkpoint_that_is_not_its_own(cli: Cli, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b'{"not": "yours"}')
    cli("demo", "-o", tmp_path)
    assert (tmp_path / name).read_bytes() == b'{"not": "yours"}'


# Wrong usage and wrong files: a status, one line, never a traceback.


@pytest.fixture
def wrong(tmp_path: Path, store: Path, checkpoint: Path) -> Path:
    """A folder with everything that can be wrong."""
    whole = store.read_bytes()
    source = (checkpoint / SINGLE).read_bytes()
    for name, data in {
        "truncated.sbs": whole[:-100],
        "flipped.sbs": bytes([whole[0] ^ 1]) + whole[1:],
        "flipped-end.sbs": whole[:-16] + bytes([whole[-16] ^ 1]) + whole[-15:],
        "empty.sbs": b"",
        "truncated.safetensors": source[:-1],
        "empty.safetensors": b"",
        "html.safetensors": b"<!DOCTYPE html>" * 10,
        "page.bin": b"<!DOCTYPE html>",
        "no-tensors.safetensors": b"\2\0\0\0\0\0\0\0{}",
    }.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "no-checkpoint").mkdir()
    write_index(tmp_path, {"a": "missing.safetensors"})
    return tmp_path


FAULTS = [
    ("info truncated.sbs", "no-directory"),
    ("ls truncated.sbs", "no-directory"),
    ("ls --keys truncated.sbs", "no-directory"),
    ("get truncated.sbs single -o out", "no-directory"),
    ("index attach truncated.sbs", "no-directory"),
    ("index detach truncated.sbs", "no-directory"),
    ("index build truncated.sbs", "no-directory"),
    ("info flipped.sbs", "bad-magic"),
    ("info flipped-end.sbs", "no-directory"),
    ("info empty.sbs", "truncated"),
    ("info truncated.safetensors", "safetensors-layout"),
    ("ls empty.safetensors", "safetensors-header"),
    ("info .", "missing-shard"),
    ("ls no-checkpoint", "no-checkpoint"),
    ("convert truncated.safetensors -o out", "safetensors-layout"),
    ("convert truncated.safetensors --dry-run", "safetensors-layout"),
    ("convert truncated.safetensors --dry-run --json", "safetensors-layout"),
    ("convert empty.safetensors -o out", "safetensors-header"),
    ("convert html.safetensors -o out", "not-safetensors"),
    ("convert no-tensors.safetensors -o out", "no-tensors"),
    ("convert page.bin -o out", "not-safetensors"),
    ("convert model.sbs -o out", "not-safetensors"),
    ("convert no-checkpoint -o out", "no-checkpoint"),
    ("convert model.safetensors.index.json -o out", "missing-shard"),
    ("convert checkpoint/config.json -o out", "bad-shard-index"),
]
MISUSES = [
    "info missing.sbs",
    "info missing/model.sbs",
    "info model.sbs/inside",
    "ls missing.sbs",
    "ls missing.sbs --json",
    "ls --keys missing.sbs",
    "ls --keys checkpoint",
    "ls --keys --stats model.sbs",
    "info model.sbs more",
    "get missing.sbs x -o out",
    "get model.sbs unknown -o out",
    "get model.sbs unknown",
    "get model.sbs single -o missing/out",
    "get model.sbs single -o checkpoint",
    "get checkpoint single -o out",
    "convert missing.safetensors -o out",
    "convert missing -o out",
    "convert checkpoint",
    "convert checkpoint -o missing/out",
    "convert checkpoint -o checkpoint",
    "convert checkpoint/model.safetensors -o checkpoint/model.safetensors",
    "index attach missing.sbs",
    "index detach missing.sbs",
    "index build missing.sbs",
    "index build checkpoint",
    "index attach model.sbs",
    "demo -o model.sbs",
    "demo -o model.sbs/inside",
]
UNPARSED = [
    "",
    "unknown",
    "info",
    "ls",
    "get model.sbs",
    "get model.sbs single -o",
    "convert",
    "convert checkpoint -o",
    "convert checkpoint -o out --container 3",
    "convert checkpoint -o out --container two",
    "convert checkpoint -o out --index beside",
    "index",
    "index unknown model.sbs",
    "index attach",
    "info --unknown model.sbs",
    "demo more",
    "get model.sbs '' -o out",
    "convert checkpoint -o ''",
]


def one_line(done: Done, start: str) -> None:
    assert done.err.startswith(f"blobstore: {start}")
    assert len(done.err.splitlines()) == 1
    assert done.err.endswith("\n")
    assert done.out == "" or list(done.json) == ["error"]


@pytest.mark.parametrize(("line", "reason"), FAULTS)
def test_a_fault_is_one_line_with_its_reason_and_ends_1(
    cli: Cli, wrong: Path, monkeypatch: pytest.MonkeyPatch, line: str, reason: str
) -> None:
    monkeypatch.chdir(wrong)
    before = snapshot(wrong)
    done = cli(*shlex.split(line))
    assert done.status == 1
    one_line(done, f"{reason}: ")
    assert snapshot(wrong) == before


@pytest.mark.parametrize("line", MISUSES)
def test_wrong_usage_is_one_line_and_ends_2(cli: Cli, wrong: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.chdir(wrong)
    before = snapshot(wrong)
    done = cli(*shlex.split(line))
    one_line(done, "")
    assert done.status == 2
    assert snapshot(wrong) == before


@pytest.mark.parametrize("line", UNPARSED)
def test_a_command_that_is_none_shows_the_usage_and_ends_2(
    cli: Cli, wrong: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.chdir(wrong)
    before = snapshot(wrong)
    done = cli(*shlex.split(line))
    assert done.status == 2
    assert done.out == ""
    assert done.err.startswith("usage: blobstore")
    assert snapshot(wrong) == before


@pytest.mark.parametrize("command", ["info", "ls"])
@pytest.mark.parametrize(
    "fact",
    [fact for fact in load_manifest()["invalid"] if (VECTORS / "invalid" / fact["file"]).exists()],
    ids=lambda fact: fact["file"],
)
def test_every_invalid_vector_is_one_line_with_its_reason(cli: Cli, fact: dict[str, Any], command: str) -> None:
    done = cli(command, VECTORS / "invalid" / fact["file"])
    assert done.status == 1
    one_line(done, f"{fact['reason']}: ")
    assert harmless(done.err)


@needs_pipes
def test_a_pipe_is_no_file_and_does_not_hang(cli: Cli, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    done = cli("info", tmp_path / "pipe")
    assert done.status in {1, 2}
    one_line(done, "not-a-file: ")


def test_the_module_runs_and_its_status_is_that_of_the_command(store: Path) -> None:
    right = child("info", store, "--json")
    assert (right.returncode, right.stderr) == (0, b"")
    assert json.loads(right.stdout)["tensors"] == 6
    missing = child("info", store.parent / "missing.sbs")
    assert (missing.returncode, missing.stdout) == (2, b"")
    assert missing.stderr == f"blobstore: {store.parent / 'missing.sbs'}: No such file or directory\n".encode()
    assert child("unknown").returncode == 2


@linux_only
@pytest.mark.parametrize("arguments", [["info"], ["ls"], ["ls", "--json"], ["get", EMBEDDING]], ids=" ".join)
def test_a_full_disk_behind_the_output_is_one_line(store: Path, arguments: list[str]) -> None:
    command, *rest = arguments
    with Path("/dev/full").open("wb") as full:
        done = child(command, store, *rest, stdout=full)
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == ["blobstore: No space left on device"]


@pytest.mark.parametrize("arguments", [["info"], ["ls"], ["ls", "--json"], ["get", EMBEDDING]], ids=" ".join)
def test_a_closed_output_is_no_traceback(store: Path, arguments: list[str]) -> None:
    command, *rest = arguments
    line = shlex.join([sys.executable, "-m", "blobstore", command, str(store), *rest]) + " >&-"
    done = subprocess.run(
        ["/bin/sh", "-c", line], stderr=subprocess.PIPE, env=BUFFERED, text=True, timeout=60, check=False
    )
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 1


@pytest.mark.parametrize("extra", [[], ["--json"], ["--keys", "--json"]], ids=" ".join)
def test_a_reader_that_has_seen_enough_ends_a_listing_quietly(tmp_path: Path, extra: list[str]) -> None:
    with blobstore.create(tmp_path / "many.sbs") as writer:
        for i in range(5000):
            writer.add(f"model.layers.{i}.self_attn.q_proj.weight", np.array([i]))
    process = subprocess.Popen(
        [sys.executable, "-m", "blobstore", "ls", tmp_path / "many.sbs", *extra],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=BUFFERED,
    )
    assert process.stdout
    assert process.stderr
    assert process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 141  # like cat
    process.stderr.close()


@pytest.mark.parametrize("command", ["info", "ls", "ls --json", "ls --keys", "get", "convert"])
def test_a_reader_that_is_gone_from_the_beginning_is_no_error(store: Path, checkpoint: Path, command: str) -> None:
    lines: dict[str, list[str | Path]] = {
        "get": ["get", store, EMBEDDING],
        "convert": ["convert", checkpoint, "-o", "-"],
    }
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as pipe:
        done = child(*lines.get(command, [*command.split(), store]), stdout=pipe)
    assert (done.returncode, done.stderr) == (141, b"")


def has_begun(pid: int, folder: Path) -> bool:
    """Whether a process is writing a file in the folder that has no name yet, or a temporary one."""
    fds = Path(f"/proc/{pid}/fd")
    for fd in fds.iterdir():
        try:
            target = os.readlink(fd)
        except FileNotFoundError:
            continue
        if target.startswith(f"{folder}/") and ("(deleted)" in target or target.endswith(".tmp")):
            return True
    return False


@linux_only
@pytest.mark.parametrize("index", ["embedded", "external"])
def test_an_interrupt_leaves_the_target_as_it_was_and_nothing_beside_it(tmp_path: Path, index: str) -> None:
    source = sparse_checkpoint(tmp_path / SINGLE, 8 << 30)
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.sbs").write_bytes(b"as it was")
    words = ("convert", source, "-o", out / "model.sbs", "--index", index)
    errors = interrupt(*words, begun=lambda pid: has_begun(pid, out))
    assert errors.splitlines() == ["blobstore: interrupted"]
    assert snapshot(out) == {"model.sbs": b"as it was"}


def test_an_interrupt_is_one_line(cli: Cli, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("blobstore.convert", interrupted)
    done = cli("convert", checkpoint, "-o", checkpoint.parent / "out.sbs")
    assert done.status == 130
    one_line(done, "interrupted")


@given(st.one_of(st.integers(0, 10**15 - 1), st.integers(0, 15).map(lambda power: 10**power - 1)))
def test_a_size_for_people_is_a_short_number_and_a_unit_and_right_to_a_percent(nbytes: int) -> None:
    number, unit = size(nbytes).split(" ")
    assert re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,2})?|1000", number)
    value = float(number) * 1000 ** ["bytes", "kB", "MB", "GB", "TB"].index(unit)
    assert value == pytest.approx(nbytes, rel=0.01)


# help


def helps() -> Sequence[list[str]]:
    return [[], *([name] for name in sorted(NAMES)), *(["index", action] for action in ("attach", "detach", "build"))]


@pytest.mark.parametrize("command", helps(), ids=" ".join)
def test_help_shows_an_example_that_can_be_typed(cli: Cli, command: list[str]) -> None:
    done = cli(*command, "--help")
    assert (done.status, done.err) == (0, "")
    if not command:
        assert set(done.out.split()) >= NAMES
        return
    examples = [
        line.split(" | ")[0].split("    (")[0] for line in done.out.splitlines() if line.startswith("  blobstore ")
    ]
    assert examples
    for line in examples:
        typed = shlex.split(line)
        assert typed[1 : 1 + len(command)] == command
        assert parser().parse_args(typed[1:]).run


def test_the_include_folder_has_the_header_and_its_cmake_package(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = cli("--include-dir")
    assert (done.status, done.err) == (0, "")
    folder = Path(done.out.removesuffix("\n"))
    assert folder.is_absolute()
    assert (folder / "blobstore.hpp").is_file()
    assert (folder / "cmake" / "blobstore-config.cmake").is_file()
    monkeypatch.setattr("blobstore.bench.cpp._INCLUDE", (str(tmp_path),))
    done = cli("--include-dir")
    assert (done.status, done.out) == (1, "")
    assert "no-header: " in done.err


def test_the_version_is_that_of_the_package(cli: Cli) -> None:
    assert cli("--version").out == f"blobstore {blobstore.__version__}\n"


def test_nothing_but_a_terminal_loads_rich(store: Path) -> None:
    code = "import sys; from blobstore.cli import main; main(sys.argv[1:]); sys.exit('rich' in sys.modules)"
    for arguments in (["info"], ["ls"], ["ls", "--json"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments, store], stdout=subprocess.DEVNULL, check=False, timeout=60
        )
        assert done.returncode == 0
