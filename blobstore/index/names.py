"""Names: the key of each, and the keys that a runtime would misread.

Spec: spec/index.md, Names and keys.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from blobstore.container.keys import RESERVED_KEYS
from blobstore.container.layout import KEY_NBYTES
from blobstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_NAME_NBYTES = 4096
MAX_LAYER = 998  # the runtime aborts at more

_TYPE_LETTERS = frozenset("FB$2I4")  # type prefixes of files before 2025; 4 is q4_0 in runtimes since April 2026
_PLAIN = re.compile(r"[\x21-\x7e]{1,16}", re.ASCII)
_BASE32 = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz234567", np.uint8)
_MADE = re.compile("~[a-z2-7]{15}")
_LAYER = re.compile(rb"_([0-9]+)[^_]*\Z", re.DOTALL)


def key_for(name: str) -> str:
    """Return the key under which a tensor of this name is stored.

    A short name that is safe for the runtime is its own key. Any other gets ``~`` and 75 bits of its hash. The same
    name has the same key in every file and in every implementation.

    Raises:
        UsageError: ``bad-name``, as `encode_name`.

    Example:
        >>> blobstore.key_for("embed.weight")
        'embed.weight'
        >>> blobstore.key_for("model.layers.0.mlp.up_proj.weight")
        '~v4uglmlgbajydnt'

    Spec: spec/index.md, Names and keys.
    """
    encoded = encode_name(name)
    if _PLAIN.fullmatch(name) and name[0] != "~" and unsafe_for_runtime(encoded) is None:
        return name
    return hashed_key(encoded)


def keys_for(names: Sequence[str]) -> list[str]:
    """Return `key_for` of each name, in a third of the time when there are many.

    Raises:
        UsageError: ``bad-name``, as `encode_name`.
    """
    encoded = [encode_name(name) for name in names]
    hashed = _hashed_keys(encoded)
    short = {i: key_for(names[i]) for i, name in enumerate(encoded) if len(name) <= KEY_NBYTES}
    return [short.get(i, key) for i, key in enumerate(hashed)] if short else hashed


def _hashed_keys(encoded: Sequence[bytes]) -> list[str]:
    """Return `hashed_key` of each of these; for one alone numpy takes five times as long."""
    from hashlib import sha256  # noqa: PLC0415 (2.5 ms, and files open without it)

    digests = b"".join([sha256(one).digest() for one in encoded])
    halves = np.frombuffer(digests, np.uint8).reshape(-1, 32)[:, :10].reshape(-1, 2, 5).astype(np.uint64)
    bits = halves @ np.array([1 << 32, 1 << 24, 1 << 16, 1 << 8, 1], np.uint64)  # 40 of each half
    letters = _BASE32[(bits[:, :, None] >> np.arange(35, -1, -5, dtype=np.uint64)) & np.uint64(31)].reshape(-1, 16)
    text = np.insert(letters[:, :15], 0, ord("~"), axis=1).tobytes().decode()
    return [text[i : i + KEY_NBYTES] for i in range(0, len(text), KEY_NBYTES)]


def hashed_key(encoded: bytes) -> str:
    """Return ``~`` and 75 bits of the hash of these bytes."""
    from base64 import b32encode  # noqa: PLC0415 (files open without it)
    from hashlib import sha256  # noqa: PLC0415 (as above)

    return "~" + b32encode(sha256(encoded).digest()[:10]).decode().lower()[:15]


def is_made_key(key: str) -> bool:
    """Whether a key is one that `key_for` makes from the hash of a name."""
    return _MADE.fullmatch(key) is not None


def unsafe_for_runtime(key: bytes) -> str | None:
    """Say why gemma.cpp would misread a tensor with this key; None if it would not."""
    text = key.decode("utf-8", "surrogateescape")
    if text in RESERVED_KEYS:
        return f"{text!r} is one of the runtime's own blobs"
    if text[:1] in _TYPE_LETTERS:
        return f"the first letter, {text[0]!r}, reads as a type prefix"
    layer = layer_of(key)
    if layer is not None and layer > MAX_LAYER:
        return f"the number after the last '_' reads as layer {layer}: the runtime aborts above {MAX_LAYER}"
    return None


def layer_of(key: bytes) -> int | None:
    """Return the number right after the last ``_`` of a key, which the runtime reads as a layer; None without one."""
    match = _LAYER.search(key)
    return int(match[1]) if match else None


def encode_name(name: str) -> bytes:
    """Return a name's bytes.

    Raises:
        UsageError: ``bad-name`` when it is empty, longer than 4,096 bytes, has a NUL or a lone surrogate.
    """
    if not isinstance(name, str):
        raise UsageError("bad-name", f"a name is text, found {type(name).__name__}")
    try:
        encoded = name.encode()
    except UnicodeEncodeError as error:
        raise UsageError("bad-name", f"{name!r} is not Unicode text: {error.reason}") from None
    if not encoded:
        raise UsageError("bad-name", "a name has at least one character")
    if len(encoded) > MAX_NAME_NBYTES:
        raise UsageError("bad-name", f"'{name[:40]}…' has {len(encoded)} bytes, a name has at most {MAX_NAME_NBYTES}")
    if b"\0" in encoded:
        raise UsageError("bad-name", f"{name!r} has a NUL character")
    return encoded
