"""Stores behind real servers: S3, the hub's API, the web."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import blobstore
from blobstore import RemoteError
from tests.remote.servers import hub_server, nginx_server, s3_server
from tests.remote.test_servers import run
from tests.remote.test_stores import tensors

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.remote,
    # Of the clients and moto: connections and sockets that they close when they are collected.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def assert_reads(url: str, path: Path) -> None:
    """Assert that a store at a URL has what one here has, in all ways of reading."""
    here = blobstore.load_file(path)
    with blobstore.open(url) as store:
        np.testing.assert_array_equal(store["layer.7.weight"], here["layer.7.weight"])
        np.testing.assert_array_equal(store.load("embedding", rows=[7, 3]), here["embedding"][[7, 3]])
        for name, array in store.load_all().items():
            np.testing.assert_array_equal(array, here[name])
    assert blobstore.verify(url).ok
    assert not blobstore.diff(url, path).differ


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "served" / "org" / "name" / "model.sbs"
    path.parent.mkdir(parents=True)
    blobstore.save_file(tensors(), path)
    return path


def test_a_bucket(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs  # noqa: PLC0415 (an extra)

    with s3_server() as endpoint:
        given = {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret", "DEFAULT_REGION": "us-east-1"}
        for name, value in {"ENDPOINT_URL": endpoint, **given}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        s3fs.S3FileSystem.clear_instance_cache()
        s3: Any = s3fs.S3FileSystem()
        bucket = f"bucket-{os.urandom(4).hex()}"
        s3.mkdir(bucket)
        s3.put_file(str(model), f"{bucket}/model.sbs")
        url = f"s3://{bucket}/model.sbs"
        assert_reads(url, model)
        with blobstore.open(url) as store, blobstore.open(s3.open(url)) as of_file:
            np.testing.assert_array_equal(store["scalar"], of_file["scalar"])
            s3.pipe_file(
                f"{bucket}/model.sbs", blobstore.save({name: one[::-1] for name, one in tensors().items() if one.ndim})
            )
            with pytest.raises(RemoteError, match="remote-changed"):
                store["layer.3.weight"]


def test_the_hub(model: Path, tmp_path: Path) -> None:
    with hub_server(model.parents[2]) as (address, requests):
        hub = {"HF_ENDPOINT": address, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HOME": str(tmp_path / "home")}
        url = "hf://org/name/model.sbs"
        got = run("get", url, "layer.7.weight", "-o", str(tmp_path / "one.npy"), **hub)
        assert got.returncode == 0, got.stderr
        np.testing.assert_array_equal(np.load(tmp_path / "one.npy"), blobstore.load_file(model)["layer.7.weight"])
        assert requests.nbytes("model.sbs") < 2 << 20
        for command in (["verify", url], ["diff", url, str(model)]):
            done = run(*command, **hub)
            assert done.returncode == 0, done.stderr


def test_nginx(model: Path, tmp_path: Path) -> None:
    work = tmp_path / "nginx"
    work.mkdir()
    try:
        with nginx_server(model.parent, work) as address:
            assert_reads(f"{address}/model.sbs", model)
    except FileNotFoundError:
        pytest.skip("there is no nginx")
