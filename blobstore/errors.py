"""Every exception of the package, each with a stable ``reason`` code.

``str(error)`` is ``reason: message``. Messages say what was found, what was expected, where, and what to do.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

__all__ = [
    "BlobStoreError",
    "CheckpointError",
    "ClusterError",
    "CodecError",
    "Fault",
    "FormatError",
    "KeyNotFoundError",
    "KeyTooLongError",
    "MissingExtraError",
    "ModelMismatchError",
    "NameNotFoundError",
    "RemoteError",
    "TruncatedError",
    "UsageError",
]


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://[^\s'\"<>]+")
_USER = re.compile(r"(?<!hf)(://)[^/?#\n]*@")  # may have spaces
_SECRET = re.compile(r"(?<=[?#])\S+")
_VALUE = re.compile(r"([?&][\w.~-]+=)[^\s&'\"…]+")  # behind a space or a quote, where a URL seems to end


def without_secrets(text: str) -> str:
    """Return a text, such as a URL or a message, in which URLs have no password, token or signature.

    ``https://user:secret@host/a?sig=x`` becomes ``https://…@host/a?…``.
    """
    if "://" not in text:
        return text
    cut = _URL.sub(lambda url: _SECRET.sub("…", url[0]), _USER.sub(r"\1…@", text))
    return _VALUE.sub(r"\1…", cut)


class BlobStoreError(Exception):
    """Root of all errors that this package itself raises.

    Attributes:
        reason: A stable code such as ``bad-magic``; safe to compare with.
        message: What happened, in words that may change.
        path: The file it happened in, once known.

    Example:
        >>> try:
        ...     blobstore.open("model.sbs", access="fast")
        ... except blobstore.BlobStoreError as error:
        ...     error.reason, error.path
        ('bad-access', 'model.sbs')
    """

    def __init__(self, reason: str, message: str) -> None:
        """Take the code and the words."""
        message = without_secrets(message)
        super().__init__(reason, message)
        self.reason = reason
        self.message = message
        self.path: str | None = None

    def __str__(self) -> str:
        where = f" [{self.path}]" if self.path else ""
        return f"{self.reason}: {self.message}{where}"


class FormatError(BlobStoreError, ValueError):
    """A file is wrong.

    Attributes:
        offset: Where, in bytes from the beginning of what was parsed; None when it is not a single place.

    Example:
        >>> try:
        ...     blobstore.open(bytes(512))
        ... except blobstore.FormatError as error:
        ...     error.reason, error.offset
        ('bad-magic', 0)
    """

    def __init__(self, reason: str, message: str, offset: int | None = None) -> None:
        """Take the code, the words, and where."""
        super().__init__(reason, message)
        self.offset = offset


class TruncatedError(FormatError, EOFError):
    """A file ends too early.

    Example:
        >>> with open("model.sbs", "rb") as file:
        ...     data = file.read()
        >>> try:
        ...     blobstore.open(data[:-64])
        ... except blobstore.TruncatedError as error:
        ...     error.reason
        'no-directory'
    """


class UsageError(BlobStoreError, ValueError):
    """The request is invalid.

    Example:
        >>> try:
        ...     blobstore.create("small.sbs", version=3)
        ... except blobstore.UsageError as error:
        ...     str(error)
        'bad-version: a container has version 1 or 2, not 3'
    """


class KeyTooLongError(UsageError):
    """A key has more than 16 bytes.

    Example:
        >>> with blobstore.BlobWriter("raw.sbs") as writer:
        ...     writer["embedding"] = b"four"
        ...     try:
        ...         writer["model.embed_tokens.weight"] = b"four"
        ...     except blobstore.KeyTooLongError as error:
        ...         error.reason
        'key-too-long'
    """


class KeyNotFoundError(BlobStoreError, KeyError):
    """No blob has this key.

    Example:
        >>> try:
        ...     blobstore.BlobReader("model.sbs")["layer.weights"]
        ... except blobstore.KeyNotFoundError as error:
        ...     error.message
        "no blob has the key 'layer.weights': did you mean 'layer.weight'?"
    """

    def __str__(self) -> str:
        return BlobStoreError.__str__(self)  # KeyError's would be the repr of its argument


class NameNotFoundError(KeyNotFoundError):
    """No tensor has this name; the message says which names come close.

    Example:
        >>> try:
        ...     blobstore.open("model.sbs")["layer.wieght"]
        ... except blobstore.NameNotFoundError as error:
        ...     error.message
        "no tensor has the name 'layer.wieght': did you mean 'layer.weight'?"
    """


class CodecError(BlobStoreError, ValueError):
    """Stored bytes can't be decoded, or values can't be encoded.

    Example:
        >>> with blobstore.create("damaged.sbs") as store:
        ...     key = store.add_stored("w", [bytes([0x80])], "sfp", (1,))
        >>> try:
        ...     blobstore.open("damaged.sbs")["w"]
        ... except blobstore.CodecError as error:
        ...     error.reason
        'sfp-reserved-code'
    """


class Fault(NamedTuple):
    """One thing that is wrong with a checkpoint or a model; several are reported at once.

    Attributes:
        reason: A stable code such as ``missing-tensor``; safe to compare against.
        name: The tensor, or the field of a config.
        message: What was found, what was expected and what to do, in words that may change.

    Example:
        >>> config = blobstore.gemma.config_of("gemma3-270m-sfp-it")
        >>> fault = blobstore.gemma.check_tensors(config, {})[0]
        >>> fault.reason, fault.name
        ('missing', 'c_embedding')
    """

    reason: str
    name: str
    message: str


class CheckpointError(BlobStoreError, ValueError):
    """A checkpoint can't be converted, and why.

    Attributes:
        faults: Everything that is wrong; empty when the message says it all.

    Example:
        >>> try:
        ...     blobstore.convert("model.sbs", "converted.sbs")
        ... except blobstore.CheckpointError as error:
        ...     error.reason, error.faults
        ('not-safetensors', ())
    """

    faults: Sequence[Fault] = ()


class ClusterError(BlobStoreError, RuntimeError):
    """Other machines, or processes, couldn't do their part of the work.

    Example:
        >>> issubclass(blobstore.ClusterError, RuntimeError)  # blobstore.distributed raises it without a scheduler
        True
    """


class MissingExtraError(BlobStoreError, ImportError):
    """An optional dependency is missing; the message names what to install.

    Example:
        >>> issubclass(blobstore.MissingExtraError, ImportError)  # import blobstore.torch raises it without torch
        True
    """


class RemoteError(BlobStoreError):
    """Something that lies elsewhere can't be reached, or has changed; ``path`` is its URL, without secrets.

    Example:
        >>> issubclass(blobstore.RemoteError, blobstore.BlobStoreError)
        True
    """


class ModelMismatchError(BlobStoreError, RuntimeError):
    """A file and a model have other names or shapes; a RuntimeError, as torch's ``load_state_dict`` raises.

    Example:
        >>> issubclass(blobstore.ModelMismatchError, RuntimeError)  # blobstore.torch.load_model raises it
        True
    """


def listed(names: Sequence[str], most: int, between: str = ", ") -> str:
    """Return the first names as text for a message, and how many more there are."""
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    if between.strip() == ",":
        return " ".join([between.join(names[:most]), *more])
    return between.join([*names[:most], *more])


def shown(text: str) -> str:
    """Return foreign text that is safe in a terminal, a table or a page: unprintable characters are escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class in_file:  # noqa: N801 (used as a function; a class is entered faster than a generator)
    """Name ``path`` in errors raised inside, the system's as well, unless they already name a file."""

    __slots__ = ("_path",)

    def __init__(self, path: str | PathLike[str]) -> None:
        """Name this path."""
        self._path = path

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Name the path in an error; it passes on."""
        if error is None or not self._path:
            return
        if isinstance(error, BlobStoreError):
            if error.path is None:
                error.path = without_secrets(str(self._path))
        elif isinstance(error, OSError) and error.filename is None and error.errno is not None:
            error.filename = without_secrets(str(self._path))
