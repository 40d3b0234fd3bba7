"""A web server that fails in every way: the right bytes after another try, or a typed error, never wrong bytes."""

from __future__ import annotations

import re
import socket
import struct
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pytest

import blobstore
from blobstore import RemoteError
from blobstore.fileio import remote_object

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.remote,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of aiohttp: a server that hangs up
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
TENSORS = {f"t{i}": np.random.default_rng(i).integers(0, 99, 700_000, dtype=np.int32) for i in range(8)}


class _Failing(BaseHTTPRequestHandler):
    """One file, in ranges; the next answers fail as `faults` says."""

    protocol_version = "HTTP/1.1"
    data: ClassVar[bytes] = b""
    tag: ClassVar[str] = '"1"'
    modified: ClassVar[str] = ""
    checks: ClassVar[bool] = True  # whether conditions of requests count
    faults: ClassVar[list[str]] = []
    asked: ClassVar[list[str]] = []

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        self._send(200, b"", len(self.data))

    def do_GET(self) -> None:
        fault = self.faults.pop(0) if self.faults else ""
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        self.asked.append(self.headers.get("Range", ""))
        meant = self.headers.get("If-Match", self.tag) == self.tag
        meant = meant and self.headers.get("If-Unmodified-Since", self.modified) == self.modified
        if fault.isdigit():
            self._send(int(fault), b"no")
        elif self.checks and not meant:
            self._send(412, b"")
        elif asked is None or fault == "whole":
            self._send(200, self.data)
        else:
            start, end = int(asked[1]), int(asked[2]) + 1
            if fault == "elsewhere":
                start, end = start - 8, end - 8
            part, self.sent = self.data[start:end], f"bytes {start}-{end - 1}/{len(self.data)}"
            if fault == "short":
                self._send(206, part[:-1])
            elif fault == "reset":
                self._send(206, part[: len(part) // 2], len(part))
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
            else:
                self._send(206, part)

    def _send(self, status: int, data: bytes, nbytes: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data) if nbytes is None else nbytes))
        sent = self.sent if status == 206 else ""
        for name, value in (("ETag", self.tag), ("Last-Modified", self.modified), ("Content-Range", sent)):
            if value:
                self.send_header(name, value)
        self.end_headers()
        with suppress(OSError):  # the client is gone
            self.wfile.write(data)
            self.wfile.flush()


@contextmanager
def _serving() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Failing)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/model.sbs"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(remote_object, "_WAITS", (0, 0))
    blobstore.save_file(TENSORS, tmp_path / "model.sbs")
    _Failing.data = (tmp_path / "model.sbs").read_bytes()
    _Failing.tag, _Failing.modified, _Failing.checks = '"1"', "", True
    _Failing.faults.clear()
    _Failing.asked.clear()
    with _serving() as address:
        yield address


@pytest.mark.parametrize("fault", ["500", "503", "short", "reset"])
def test_what_fails_is_asked_for_again(url: str, fault: str) -> None:
    _Failing.faults[:] = [fault]
    with blobstore.open(url) as store:
        _Failing.faults[:] = [fault, fault]
        np.testing.assert_array_equal(store["t1"], TENSORS["t1"])
        _Failing.faults[:] = ["", fault, "", fault]
        for name, array in store.load_all().items():
            np.testing.assert_array_equal(array, TENSORS[name])


@pytest.mark.parametrize("fault", ["500", "short", "reset", "whole", "elsewhere"])
def test_what_fails_again_and_again_is_an_error(url: str, fault: str) -> None:
    with blobstore.open(url) as store:
        _Failing.faults[:] = [fault] * 3
        with pytest.raises(RemoteError) as error:
            store["t1"]
        expected = {"500": "remote-failed", "short": "remote-short", "reset": "remote-failed"}
        assert error.value.reason == expected.get(fault, "needs-ranges")
        assert url in str(error.value)
        _Failing.faults.clear()
        np.testing.assert_array_equal(store["t1"], TENSORS["t1"])


@pytest.mark.parametrize("says", ["tag", "weak tag", "date", "nothing"])
@pytest.mark.parametrize("checks", [True, False])
def test_another_file_in_its_place_is_an_error(url: str, says: str, checks: bool) -> None:
    _Failing.tag = {"tag": '"1"', "weak tag": 'W/"1"'}.get(says, "")
    _Failing.modified = "Mon, 01 Jan 2024 00:00:00 GMT" * (says == "date")
    _Failing.checks = checks
    other = {name: array[::-1].copy() for name, array in TENSORS.items()}
    with blobstore.open(url) as store:
        np.testing.assert_array_equal(store["t1"], TENSORS["t1"])
        _Failing.data = blobstore.save(other | ({"more": np.zeros(99_999)} if says == "nothing" else {}))
        _Failing.tag = _Failing.tag.replace("1", "2")
        _Failing.modified = _Failing.modified.replace("2024", "2025")
        with pytest.raises(RemoteError, match="remote-changed"):
            store["t2"]


def test_opening_takes_two_requests_and_a_tensor_one(url: str) -> None:
    with blobstore.open(url) as store:
        assert len(_Failing.asked) == 1  # besides HEAD
        np.testing.assert_array_equal(store["t1"], TENSORS["t1"])
        assert len(_Failing.asked) == 2
