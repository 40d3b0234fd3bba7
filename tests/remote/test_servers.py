"""Real clients against real servers: S3, the hub's API, the web."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import blobstore
from tests.conftest import ROOT
from tests.remote.servers import hub_server, nginx_server, s3_environment, s3_server
from tests.remote.test_urls import WRITERS, model, refused, told, write_named

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.remote,
    # Of the clients and moto: connections and sockets that they close when they are collected.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
PART_NBYTES = 5 << 20  # the least that S3 takes


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: ANN401 (s3fs has no types)
    """The S3 file system, with an empty bucket of a new name."""
    import s3fs  # noqa: PLC0415 (an extra)

    for name, value in s3_environment(endpoint).items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    file_system = s3fs.S3FileSystem()
    file_system.bucket = f"bucket-{os.urandom(4).hex()}"
    file_system.mkdir(file_system.bucket)
    return file_system


def unfinished(s3: Any) -> int:  # noqa: ANN401 (as above)
    """Return how many uploads were begun and neither completed nor given up."""
    return len(s3.call_s3("list_multipart_uploads", Bucket=s3.bucket).get("Uploads", ()))


def test_a_checkpoint_in_a_bucket_becomes_a_file_in_a_bucket(tmp_path: Path, s3: Any) -> None:  # noqa: ANN401
    folder = write_named(tmp_path / "ck")
    s3.put(str(folder), f"{s3.bucket}/ck", recursive=True)
    here = blobstore.convert(folder, tmp_path / "here.sbs")
    there = blobstore.convert(f"s3://{s3.bucket}/ck", f"s3://{s3.bucket}/out/made.sbs")
    assert s3.cat_file(f"{s3.bucket}/out/made.sbs") == (tmp_path / "here.sbs").read_bytes()
    assert told(here) == told(there)
    assert blobstore.verify(tmp_path / "here.sbs", against=f"s3://{s3.bucket}/ck").ok
    assert not unfinished(s3)


@pytest.mark.parametrize("name", [name for name in WRITERS if not name.startswith("get")])
def test_what_is_written_to_a_bucket_is_what_is_written_here(tmp_path: Path, s3: Any, name: str) -> None:  # noqa: ANN401
    file = model(tmp_path)
    WRITERS[name](file, tmp_path / "here")
    WRITERS[name](file, f"s3://{s3.bucket}/there")
    assert s3.cat_file(f"{s3.bucket}/there") == (tmp_path / "here").read_bytes()
    assert not unfinished(s3)


def test_an_upload_that_fails_in_the_middle_leaves_the_old_object(
    s3: Any,  # noqa: ANN401
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("blobstore.fileio.uploads._BLOCK_NBYTES", PART_NBYTES)
    s3.pipe_file(f"{s3.bucket}/made.sbs", b"old")

    def write(error: BaseException | None) -> None:
        with blobstore.BlobWriter(f"s3://{s3.bucket}/made.sbs") as writer:
            for key in "abc":
                writer.add(key, np.full(PART_NBYTES, ord(key), np.uint8))
            if error:
                assert unfinished(s3) == 1
                raise error

    for error in (ValueError("stop"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            write(error)
        assert s3.cat_file(f"{s3.bucket}/made.sbs") == b"old"
        assert not unfinished(s3)
    write(None)
    assert s3.info(f"{s3.bucket}/made.sbs", refresh=True)["size"] > 3 * PART_NBYTES
    with pytest.raises(FileNotFoundError), blobstore.BlobWriter("s3://no-such-bucket/made.sbs") as writer:
        writer.add("a", b"four")


KILLED = """
import sys, time
import numpy as np
import blobstore
from blobstore.fileio import uploads
uploads._BLOCK_NBYTES = 5 << 20
with blobstore.BlobWriter(sys.argv[1]) as writer:
    for key in "abc":
        writer.add(key, np.zeros(5 << 20, np.uint8))
    print("ready", flush=True)
    time.sleep(600)
"""


def test_a_writer_that_is_killed_leaves_the_old_object(s3: Any) -> None:  # noqa: ANN401
    s3.pipe_file(f"{s3.bucket}/made.sbs", b"old")
    words = [sys.executable, "-c", KILLED, f"s3://{s3.bucket}/made.sbs"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
    s3.invalidate_cache()
    assert s3.cat_file(f"{s3.bucket}/made.sbs") == b"old"
    assert s3.ls(s3.bucket) == [f"{s3.bucket}/made.sbs"]


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own: the hub's client reads its endpoint once."""
    return subprocess.run(
        [sys.executable, "-m", "blobstore", *words],
        env=os.environ | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_model_of_the_hub_is_converted_without_a_copy(tmp_path: Path) -> None:
    folder = write_named(tmp_path / "hub" / "org" / "name")
    blobstore.convert(folder, tmp_path / "here.sbs")
    home = tmp_path / "home"
    with hub_server(tmp_path / "hub") as (address, requests):
        hub = {"HF_ENDPOINT": address, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HOME": str(home), "HF_TOKEN": "hf_secret"}
        for model_url in ("hf://org/name", "hf://org/name@v1"):
            requests.seen.clear()
            done = run("convert", model_url, "-o", str(tmp_path / "there.sbs"), **hub)
            assert done.returncode == 0, done.stderr
            assert (tmp_path / "there.sbs").read_bytes() == (tmp_path / "here.sbs").read_bytes()
            for shard in folder.glob("*.safetensors"):
                assert requests.nbytes(shard.name) == shard.stat().st_size
            assert sum("/tree/" in path for _, path, _ in requests.seen) <= 4  # not one for each file
            assert "hf_secret" not in done.stdout + done.stderr
        assert b"hf_secret" not in (tmp_path / "there.sbs").read_bytes()
        dry = run("convert", "hf://org/name", "--dry-run", "--json", **hub)
        assert dry.returncode == 0, dry.stderr
        assert run("verify", str(tmp_path / "there.sbs"), "--against", "hf://org/name", **hub).returncode == 0
        missing = run("convert", "hf://org/none", "-o", str(tmp_path / "none.sbs"), **hub)
        assert (missing.returncode, missing.stderr.count("\n")) == (2, 1), missing.stderr
        assert "hf auth login" in missing.stderr
        assert not (tmp_path / "none.sbs").exists()
        upload = run("convert", str(folder), "-o", "hf://org/name/made.sbs", **hub)
        assert "no-upload" in upload.stderr
        files = [file for file in home.rglob("*") if file.is_file() and file.stat().st_size > 10_000]
        assert not files, "the checkpoint lies on the disk"


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The address of a folder that nginx serves."""
    (tmp_path / "www").mkdir()
    (tmp_path / "nginx").mkdir()
    try:
        with nginx_server(tmp_path / "www", tmp_path / "nginx") as address:
            yield address
    except FileNotFoundError:
        pytest.skip("there is no nginx here: apt-get install nginx-light")


def test_a_checkpoint_of_the_web(tmp_path: Path, web: str) -> None:
    folder = write_named(tmp_path / "www" / "ck")
    file = "model-00001-of-00002.safetensors"
    os.link(folder / file, folder / "model.safetensors")
    (folder / file).unlink()
    (folder / "model-00002-of-00002.safetensors").unlink()
    blobstore.convert(folder / "model.safetensors", tmp_path / "here.sbs")
    for query in ("", "?sig=secret"):
        done = blobstore.convert(f"{web}/ck/model.safetensors{query}", tmp_path / "there.sbs")
        assert "secret" not in str(done)
        assert b"secret" not in (tmp_path / "there.sbs").read_bytes()
        with blobstore.open(tmp_path / "there.sbs") as there, blobstore.open(tmp_path / "here.sbs") as here:
            assert list(there) == list(here)
            assert {*there.files} == {"config.json", "tokenizer.json"}
    refused("no-listing", lambda: blobstore.convert(f"{web}/ck/", tmp_path / "none.sbs"))
    with pytest.raises(FileNotFoundError):
        blobstore.convert(f"{web}/none.safetensors", tmp_path / "none.sbs")
    text = refused("no-upload", lambda: blobstore.convert(folder, f"{web}/made.sbs?sig=secret"))
    assert "secret" not in text


def test_a_web_server_that_is_gone_is_not_a_missing_file(tmp_path: Path) -> None:
    url = "http://user:pass@127.0.0.1:9/model.safetensors?sig=secret"
    text = refused("remote-failed", lambda: blobstore.convert(url, tmp_path / "none.sbs"))
    assert "secret" not in text
    assert "pass" not in text
