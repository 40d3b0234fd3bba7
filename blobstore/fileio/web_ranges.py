"""Ranges of what a web server has, each answer compared with what was looked at first."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from blobstore.errors import RemoteError

if TYPE_CHECKING:
    from collections.abc import Callable

    Fetch = Callable[[int, int], bytes | bytearray]

_SAYS = ("ETag", "Last-Modified")  # which contents these are: the first that a server says


def names_contents(info: dict[str, Any]) -> bool:
    """Whether a server says enough of an object to tell it from another one."""
    return any(info.get(name) for name in _SAYS)


def web_fetch(file_system: Any, url: str, info: dict[str, Any]) -> Fetch:  # noqa: ANN401 (fsspec's)
    """Return a function that fetches ranges in the session of fsspec's file system of the web.

    Args:
        file_system: It.
        url: As that names it.
        info: What it said of the object when it was looked at.
    """
    from fsspec.asyn import sync  # noqa: PLC0415 (an extra)

    said = [(name, info[name]) for name in _SAYS if info.get(name)][:1]

    async def get(start: int, end: int) -> bytearray:
        options = {**file_system.kwargs}
        # Not compressed: ranges would be those of what is compressed.
        asked = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        options["headers"] = {**options.get("headers", {}), **asked}
        session = await file_system.set_session()
        async with session.get(file_system.encode_url(url), **options) as answer:
            if answer.status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
                raise FileNotFoundError(url)
            if answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise RemoteError("remote-changed", "the file was replaced by a shorter one: begin again")
            answer.raise_for_status()
            _check(answer, said, start)
            data, done = bytearray(end - start), 0
            async for chunk in answer.content.iter_any():
                if done + len(chunk) > len(data):
                    raise RemoteError("remote-failed", f"more than {len(data)} bytes came")
                data[done : done + len(chunk)] = chunk
                done += len(chunk)
            return data if done == len(data) else data[:done]

    def fetch(start: int, end: int) -> bytearray:
        data: bytearray = sync(file_system.loop, get, start, end)
        return data

    return fetch


def _check(answer: Any, said: list[tuple[str, str]], start: int) -> None:  # noqa: ANN401 (aiohttp's)
    """Refuse an answer that isn't a range of the object that was looked at."""
    if any(answer.headers.get(name) != contents for name, contents in said):
        raise RemoteError("remote-changed", "the file was replaced while it was read: begin again")
    if answer.status != HTTPStatus.PARTIAL_CONTENT:
        raise RemoteError("needs-ranges", "the server doesn't serve ranges: download the file first")
    if not answer.headers.get("Content-Range", "").lower().startswith(f"bytes {start}-"):
        raise RemoteError("needs-ranges", f"the server sent other bytes than those at offset {start}")
