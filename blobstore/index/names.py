"""Names: the key of each, and the keys that a runtime would misread.

Spec: spec/index.md, Names and keys.
"""

from __future__ import annotations

import base64
import hashlib
import re

from blobstore.container.keys import RESERVED_KEYS
from blobstore.errors import UsageError

MAX_NAME_NBYTES = 4096
MAX_LAYER = 998  # the runtime aborts at more

_TYPE_LETTERS = frozenset("FB$2I4")  # type prefixes of files before 2025; 4 is q4_0 in runtimes since April 2026
_PLAIN = re.compile(r"[\x21-\x7e]{1,16}", re.ASCII)
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


def hashed_key(encoded: bytes) -> str:
    """Return ``~`` and 75 bits of the hash of these bytes."""
    return "~" + base64.b32encode(hashlib.sha256(encoded).digest()).decode().lower()[:15]


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
