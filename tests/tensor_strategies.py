"""Strategies for tests of the typed level: names, arrays, and whole files of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

import blobstore
from blobstore.codecs import element_types
from blobstore.index.metadata import OWN_METADATA
from tests.strategies import payload, versions

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

    from blobstore.index.locate import IndexPlace

    Array = npt.NDArray[Any]

# Every numpy dtype that an element type stores as it is, and the type's name in the specification.
DTYPES: dict[np.dtype[Any], str] = {
    np.dtype(np.float32): "f32",
    np.dtype(ml_dtypes.bfloat16): "bf16",
    np.dtype(np.float64): "f64",
    np.dtype(np.uint32): "u32",
    np.dtype(np.uint64): "u64",
    np.dtype(np.float16): "f16",
    np.dtype(np.int8): "int8",
    np.dtype(np.uint8): "u8",
    np.dtype(np.int16): "i16",
    np.dtype(np.uint16): "u16",
    np.dtype(np.int32): "i32",
    np.dtype(np.int64): "i64",
    np.dtype(np.bool_): "bool",
    np.dtype(ml_dtypes.float8_e4m3fn): "f8_e4m3",
    np.dtype(ml_dtypes.float8_e5m2): "f8_e5m2",
    np.dtype(np.complex64): "c64",
    np.dtype(ml_dtypes.float8_e8m0fnu): "f8_e8m0",
    np.dtype(ml_dtypes.float8_e4m3fnuz): "f8_e4m3fnuz",
    np.dtype(ml_dtypes.float8_e5m2fnuz): "f8_e5m2fnuz",
}
LAYOUTS = ("c", "fortran", "strided", "reversed", "broadcast")

places: st.SearchStrategy[IndexPlace] = st.sampled_from(["embedded", "external"])
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
# Hypothesis also draws texts that it finds in the code, and these keys are refused.
metadata_maps = st.dictionaries(texts.filter(lambda key: not key.startswith(OWN_METADATA)), texts, max_size=4)

# Full names of models, names that are unsafe as keys, any text, and few letters, so that some are prefixes of others.
names = st.one_of(
    st.from_regex(r"model\.layers\.[0-9]{1,3}\.(mlp\.up_proj|self_attn\.q_proj)\.weight", fullmatch=True),
    st.sampled_from(
        ["B_x", "foo_998", "foo_999", "~x", "~index", "config", "toc", "tokenizer", "Fscales", "F", "$", "2"]
    ),
    st.sampled_from(["a b", "c_embedding", "權重", "e\u0301", "\u00e9", "\U0001f600", "\uff5e", "x" * 4096]),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=40),
    st.text("ab.", min_size=1, max_size=6),
)
shapes = st.lists(st.sampled_from([0, 1, 1, 2, 3, 5, 8]), max_size=4).map(tuple)


def stored_bytes(array: Array) -> bytes:
    """The bytes that an array is stored as: C order, little-endian."""
    whole = np.ascontiguousarray(array)
    if whole.dtype.byteorder != ">":
        return whole.tobytes()
    # Not byteswap: in numpy 2.0 it doesn't change a single bfloat16.
    width = whole.dtype.itemsize // (1 + (whole.dtype.kind == "c"))
    return np.frombuffer(whole.tobytes(), np.uint8).reshape(-1, width)[:, ::-1].tobytes()


def arranged(values: Array, layout: str) -> Array:
    """The same values, or more of them, in another memory layout."""
    if layout == "fortran":
        return np.asfortranarray(values)
    if layout == "strided":
        wide = np.zeros((*values.shape, 2), dtype=values.dtype)
        wide[..., 0] = values
        return wide[..., 0]
    if layout == "reversed":
        return values[(slice(None, None, -1),) * values.ndim]
    if layout == "broadcast":
        return np.broadcast_to(values, (2, *values.shape))
    return values


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    """Arrays of all dtypes with any bits (NaN payloads too), in any order and byte order, some without elements."""
    dtype = draw(st.sampled_from(list(DTYPES)))
    shape = draw(shapes)
    raw = payload(draw(st.integers(0, 20)), int(np.prod(shape)) * dtype.itemsize)
    if dtype == np.bool_:
        raw = bytes(byte & 1 for byte in raw)
    stored = dtype.newbyteorder(draw(st.sampled_from("<>")))
    return arranged(np.frombuffer(raw, dtype=stored).reshape(shape), draw(st.sampled_from(LAYOUTS)))


@dataclass(frozen=True)
class Part:
    """A range of a tensor's bytes under a name of its own."""

    target: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class Model:
    """What goes into a file, and what must come back."""

    tensors: Mapping[str, Array]
    aliases: Mapping[str, str]
    parts: Mapping[str, Part]
    blobs: Mapping[str, bytes]
    metadata: Mapping[str, str]
    version: int
    index: IndexPlace
    digests: bool

    def write(self, path: Path | BinaryIO) -> dict[str, str]:
        """Write the file, and return the key of each name."""
        with blobstore.create(
            path, version=self.version, index=self.index, digests=self.digests, metadata=self.metadata
        ) as store:
            for key, data in self.blobs.items():
                store.add_blob(key, data)
            keys = {name: store.add(name, array) for name, array in self.tensors.items()}
            for name, target in self.aliases.items():
                store.alias(name, target)
            for name, part in self.parts.items():
                store.part(name, part.target, element_types.type_of(part.dtype), part.shape, offset=part.offset)
        targets = dict(self.aliases) | {name: part.target for name, part in self.parts.items()}
        return keys | {name: keys[target] for name, target in targets.items()}

    def expected(self) -> dict[str, tuple[np.dtype[Any], tuple[int, ...], bytes]]:
        """Dtype, shape and bytes of each name."""
        out = {
            name: (array.dtype.newbyteorder("<"), array.shape, stored_bytes(array))
            for name, array in self.tensors.items()
        }
        out |= {name: out[target] for name, target in self.aliases.items()}
        for name, part in self.parts.items():
            nbytes = int(np.prod(part.shape)) * part.dtype.itemsize
            raw = out[part.target][2][part.offset : part.offset + nbytes]
            out[name] = (part.dtype.newbyteorder("<"), part.shape, raw)
        return out


@st.composite
def models(draw: st.DrawFn, *, index: IndexPlace | None = None) -> Model:
    """Whole files: at least one tensor with elements, aliases, parts, blobs of the runtime, metadata."""
    listed = draw(st.lists(st.tuples(names, arrays()), max_size=5, unique_by=lambda tensor: tensor[0]))
    tensors = dict(listed) | {"first": np.arange(3, dtype=np.int32)}
    more = draw(st.lists(names.filter(lambda name: name not in tensors), max_size=4, unique=True))
    aliases = {name: draw(st.sampled_from(list(tensors))) for name in more[:2]}
    return Model(
        tensors=tensors,
        aliases=aliases,
        parts={name: draw(_parts(tensors)) for name in more[2:]},
        blobs=draw(st.dictionaries(st.sampled_from(["config", "tokenizer", "toc"]), st.binary(min_size=1, max_size=9))),
        metadata=draw(metadata_maps),
        version=draw(versions),
        index=draw(places) if index is None else index,
        digests=draw(st.booleans()),
    )


@st.composite
def _parts(draw: st.DrawFn, tensors: Mapping[str, Array]) -> Part:
    target = draw(st.sampled_from([name for name, array in tensors.items() if array.nbytes]))
    nbytes = tensors[target].nbytes
    dtype = draw(st.sampled_from([dtype for dtype in DTYPES if dtype.itemsize <= nbytes and dtype != np.bool_]))
    count = draw(st.integers(1, nbytes // dtype.itemsize))
    offset = draw(st.integers(0, nbytes - count * dtype.itemsize))
    return Part(target, dtype, draw(st.sampled_from([(count,), (1, count)])), offset)


# --------------------------------------------------------------------------------------------- indexes with faults

_VALUES = [0, 1, 2, 7, 8, 32, 33, 127, 128, 255, 256, 999, 4096, 4097, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**32]
_VALUES += [2**57 - 1, 2**57, 2**61, 2**63 - 1, 2**63, 2**64 - 256, 2**64 - 8, 2**64 - 1]
_NBYTES_AT, _DIGEST_AT = slice(16, 24), slice(104, 136)


@st.composite
def mutated(draw: st.DrawFn, raw: bytes) -> bytes:
    """A valid index with one to three faults; mostly the size that it states is right, sometimes its digest as well."""
    out = bytearray(raw)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        _mutate(draw, out)
    if draw(st.sampled_from([True, True, False])):
        out[_NBYTES_AT] = len(out).to_bytes(8, "little")
    return sealed(bytes(out)) if draw(st.booleans()) else bytes(out)


def sealed(index: bytes) -> bytes:
    """The index with its own digest corrected, if it is long enough to have one."""
    if len(index) < 160:
        return index
    out = bytearray(index)
    out[_DIGEST_AT] = bytes(32)
    out[_DIGEST_AT] = hashlib.sha256(out).digest()
    return bytes(out)


def _mutate(draw: st.DrawFn, out: bytearray) -> None:
    fault = draw(
        st.sampled_from(["flip", "flip", "field", "field", "field", "field", "splice", "cut", "insert", "delete"])
    )
    # Seldom the magic and the like, whose faults hide all others; often the first entries and the first blobs.
    lowest = draw(st.sampled_from([0, 8, 24, 160, 160, 160, 160, 208]))
    start = min(lowest + draw(st.integers(0, 96) | st.integers(0, max(0, len(out) - lowest))), len(out))
    if fault == "flip" and start < len(out):
        out[start] ^= draw(st.sampled_from([1, 2, 128]) | st.integers(1, 255))
    elif fault == "field":
        width = draw(st.sampled_from([2, 4, 8]))
        value = draw(st.sampled_from([*_VALUES, len(out)]) | st.integers(0, 2**64 - 1))
        start -= start % width
        out[start : start + width] = (value % 256**width).to_bytes(width, "little")
    elif fault == "cut":
        del out[start:]
    elif fault == "splice":
        piece = out[start : start + draw(st.sampled_from([1, 8, 48, 64]))]
        to = draw(st.integers(0, len(out)) | st.just(start + len(piece)))
        out[to : to + len(piece)] = piece
    elif fault == "insert":
        out[start:start] = bytes(draw(st.sampled_from([1, 8, 48, 64])))
    elif fault == "delete":
        del out[start : start + draw(st.sampled_from([1, 8, 48, 64]))]
