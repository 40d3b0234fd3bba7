"""Files to pack, and checks of packed ones: the file is restored, and each tensor reads the same."""

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
from blobstore.store.values import elements, stored

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
    """Return values like those of a model: they get smaller by a third."""
    return (np.random.default_rng(seed).standard_normal(count, dtype=np.float32) / 50).astype(ml_dtypes.bfloat16)


def tuned(values: Array, seed: int) -> Array:
    """Return the values with two bits of some of them flipped: one of the mantissa, one of the exponent."""
    bits = values.view(np.uint16).copy()
    places = np.random.default_rng(seed).integers(0, len(bits), max(1, len(bits) // 20))
    bits[places] ^= np.uint16(0x81)
    return bits.view(values.dtype)


def write_weights(
    path: Path, tensors: dict[str, Array], *, index: IndexPlace = "embedded", version: int = 2, digests: bool = True
) -> Path:
    """Write a file of these tensors."""
    with blobstore.create(path, index=index, version=version, digests=digests, metadata={"format": "pt"}) as store:
        for name, values in tensors.items():
            store.add(name, values)
    return path


def index_beside(path: Path) -> bytes | None:
    """Return the external index of a file; None if it has one inside, which readers take first."""
    with BlobReader(path) as reader:
        if INDEX_KEY in reader:
            return None
    with suppress(FileNotFoundError):
        return path.with_name(f"{path.name}.idx").read_bytes()
    return None


def there_and_back(path: Path, **options: Any) -> tuple[Path, Packing]:  # noqa: ANN401 (pack's)
    """Pack a file beside it, and fail unless unpacking restores it → the packed file, and the result of `pack`."""
    packed, back = path.with_name("packed.sbs"), path.with_name("back.sbs")
    done = pack(path, packed, **options)
    assert done.unpacked_nbytes == path.stat().st_size
    assert done.nbytes == packed.stat().st_size
    assert not packed.with_name("packed.sbs.idx").exists()
    result = unpack(packed, back, base=options.get("base"))
    assert back.read_bytes() == path.read_bytes()
    assert index_beside(back) == index_beside(path)
    assert result.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert result.nbytes == path.stat().st_size
    return packed, done


def outcome(store: Store, name: str) -> tuple[str, bytes] | str:
    """Return dtype and bytes of a tensor, or the reason why it can't be decoded."""
    try:
        values = store[name]
    except CodecError as error:
        return error.reason
    assert not values.flags.writeable
    return str(values.dtype), values.tobytes()


def check_same_tensors(path: Path, packed: Path, base: Path | None = None) -> None:
    """Fail unless each tensor of a packed file reads as in the original, in every way to read it."""
    accesses: tuple[Access, ...] = ("mmap", "read")
    for access in accesses:
        with (
            blobstore.open(path, access=access) as plain,
            blobstore.open(packed, access=access, base=base) as packed_store,
        ):
            assert sorted(filter(is_name, plain)) == list(packed_store)
            for name in packed_store:
                check_same_tensor(plain, packed_store, name)
            decodable = all(info.dtype is not None for info in plain.infos())
            # Keys that can't be names are not listed.
            if decodable:
                wanted = {name: outcome(plain, name) for name in packed_store}
                for workers in (1, 2):
                    loaded = packed_store.load_all(workers=workers)
                    assert all(values.flags.writeable for values in loaded.values() if values.size)
                    assert {name: (str(values.dtype), values.tobytes()) for name, values in loaded.items()} == wanted


def is_name(key: str) -> bool:
    """Whether a key can be a name: any other blob of a packed file is not listed as a tensor."""
    try:
        encode_name(key)
    except blobstore.UsageError:
        return False
    return True


def check_same_tensor(plain: Store, packed_store: Store, name: str) -> None:
    a, b = plain.info(name), packed_store.info(name)
    assert (a.type, a.shape, a.scale, a.dtype, a.element_nbytes) == (
        b.type,
        b.shape,
        b.scale,
        b.dtype,
        b.element_nbytes,
    )
    assert b in list(packed_store.infos())
    wanted = outcome(plain, name)
    assert outcome(packed_store, name) == wanted
    # The raw and stored bytes are those of the tensor alone, packed or not, wherever in a blob it lies.
    if not a.blocks:
        assert bytes(packed_store.raw(name)) == bytes(plain.raw(name))
        assert bytes(stored(packed_store, b, 0, b.element_nbytes)) == bytes(plain.raw(name))
    if isinstance(wanted, str):
        return
    assert packed_store.load(name).tobytes() == plain.load(name).tobytes()
    middle = a.size // 3
    assert (
        elements(packed_store, b, middle, a.size - middle).tobytes()
        == elements(plain, a, middle, a.size - middle).tobytes()
    )
    for rows in ROWS if a.shape else ():
        values_of_rows = packed_store.load(name, rows=rows)
        assert values_of_rows.flags.writeable
        assert values_of_rows.flags.c_contiguous
        assert values_of_rows.tobytes() == plain.load(name, rows=rows).tobytes()
    if a.dtype == ml_dtypes.bfloat16 or a.encoded:
        dtype = np.dtype(">f4") if not a.encoded else np.dtype(np.float32)
        assert packed_store.load(name, dtype=dtype).tobytes() == plain.load(name, dtype=dtype).tobytes()
