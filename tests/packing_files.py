"""Files to be packed, and what must hold of one that was: the file comes back, and each tensor reads the same."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

import blobstore
from blobstore.container.keys import INDEX_KEY
from blobstore.container.reader import BlobReader
from blobstore.errors import CodecError
from blobstore.index.names import encode_name
from blobstore.packing.pack import pack
from blobstore.packing.unpack import unpack

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from blobstore.fileio.types import Access
    from blobstore.index.locate import IndexPlace
    from blobstore.packing.pack import Packing
    from blobstore.store.reader import Store

    Array = npt.NDArray[Any]

ROWS = (slice(0, 1), slice(1, None), slice(None, None, -2), slice(0, 0))


def weights(seed: int, count: int) -> Array:
    """Values as a model's: they get smaller by a third."""
    return (np.random.default_rng(seed).standard_normal(count, dtype=np.float32) / 50).astype(ml_dtypes.bfloat16)


def tuned(values: Array, seed: int) -> Array:
    """The same values, but for two bits of some: one of the mantissa, one of the exponent."""
    bits = values.view(np.uint16).copy()
    places = np.random.default_rng(seed).integers(0, len(bits), max(1, len(bits) // 20))
    bits[places] ^= np.uint16(0x81)
    return bits.view(values.dtype)


def write_weights(
    path: Path, tensors: dict[str, Array], *, index: IndexPlace = "embedded", version: int = 2, digests: bool = True
) -> Path:
    """A file of these tensors."""
    with blobstore.create(path, index=index, version=version, digests=digests, metadata={"format": "pt"}) as store:
        for name, values in tensors.items():
            store.add(name, values)
    return path


def index_beside(path: Path) -> bytes | None:
    """The index beside a file, unless it has one inside, which makes that none of it."""
    with BlobReader(path) as reader:
        if INDEX_KEY in reader:
            return None
    with suppress(FileNotFoundError):
        return path.with_name(f"{path.name}.idx").read_bytes()
    return None


def there_and_back(path: Path, **options: Any) -> tuple[Path, Packing]:  # noqa: ANN401 (pack's)
    """Pack a file, and fail unless it can be unpacked → the packed one, beside it."""
    packed, back = path.with_name("packed.sbs"), path.with_name("back.sbs")
    done = pack(path, packed, **options)
    assert done.nbytes == path.stat().st_size
    assert done.packed_nbytes == packed.stat().st_size
    assert not packed.with_name("packed.sbs.idx").exists()
    result = unpack(packed, back, base=options.get("base"))
    assert back.read_bytes() == path.read_bytes()
    assert index_beside(back) == index_beside(path)
    assert result.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert result.nbytes == path.stat().st_size
    return packed, done


def outcome(store: Store, name: str) -> tuple[str, bytes] | str:
    """Dtype and bytes of a tensor, or the reason why it has no values."""
    try:
        values = store[name]
    except CodecError as error:
        return error.reason
    assert not values.flags.writeable
    return str(values.dtype), values.tobytes()


def check_same_tensors(path: Path, packed: Path, base: Path | None = None) -> None:
    """Fail unless each tensor of a packed file reads as in the file that it was made of, in each way."""
    accesses: tuple[Access, ...] = ("mmap", "read")
    for access in accesses:
        with blobstore.open(path, access=access) as one, blobstore.open(packed, access=access, base=base) as other:
            assert sorted(filter(is_name, one)) == list(other)
            for name in other:
                check_same_tensor(one, other, name)
            decodable = all(info.dtype is not None for info in one.infos())
            # What is no name is left out.
            if decodable:
                wanted = {name: outcome(one, name) for name in other}
                for workers in (1, 2):
                    loaded = other.load_all(workers=workers)
                    assert all(values.flags.writeable for values in loaded.values() if values.size)
                    assert {name: (str(found.dtype), found.tobytes()) for name, found in loaded.items()} == wanted


def is_name(key: str) -> bool:
    """Whether a key can be a name: others are packed files' blobs still, but no tensors."""
    try:
        encode_name(key)
    except blobstore.UsageError:
        return False
    return True


def check_same_tensor(one: Store, other: Store, name: str) -> None:
    a, b = one.info(name), other.info(name)
    assert (a.type, a.shape, a.scale, a.dtype, a.element_nbytes) == (
        b.type,
        b.shape,
        b.scale,
        b.dtype,
        b.element_nbytes,
    )
    assert b in list(other.infos())
    wanted = outcome(one, name)
    assert outcome(other, name) == wanted
    # A tensor's bytes are its own, packed or not, and wherever in a blob it lies; what is stored is the blob's.
    assert bytes(other.raw(name)) == bytes(one.raw(name))
    assert bytes(other.stored(b, 0, b.element_nbytes)) == bytes(one.raw(name))
    if isinstance(wanted, str):
        return
    assert other.load(name).tobytes() == one.load(name).tobytes()
    middle = a.count // 3
    assert other.elements(b, middle, a.count - middle).tobytes() == one.elements(a, middle, a.count - middle).tobytes()
    for rows in ROWS if a.shape else ():
        found = other.load(name, rows=rows)
        assert found.flags.writeable
        assert found.flags.c_contiguous
        assert found.tobytes() == one.load(name, rows=rows).tobytes()
    if a.dtype == ml_dtypes.bfloat16 or a.encoded:
        dtype = np.dtype(">f4") if not a.encoded else np.dtype(np.float32)
        assert other.load(name, dtype=dtype).tobytes() == one.load(name, dtype=dtype).tobytes()
