"""Where an index is found, and how much of it is checked."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import TYPE_CHECKING

import pytest

from blobstore import BlobReader, BlobWriter
from blobstore.errors import FormatError
from blobstore.index import Entry, IndexedBlob, build_index
from blobstore.index.locate import find_index, read_external

if TYPE_CHECKING:
    from pathlib import Path

SCALE_AT = 200  # of the only entry


def write(path: Path, *, external: bool, damaged: bool) -> None:
    """Write one blob with an index, whose only entry may be invalid."""
    with BlobWriter(path) as writer:
        writer.add("a", b"12345678")
        store = writer.directory() if external else None
        raw = bytearray(build_index([Entry("name", 0, 0, 8, 1, (2,))], [IndexedBlob(b"a", 8)], store=store))
        if damaged:
            raw[SCALE_AT : SCALE_AT + 4] = b"\0\0\x80\x7f"
        if not external:
            writer.add("~index", raw)
    if external:
        path.with_name("m.sbs.idx").write_bytes(raw)


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("damaged", [False, True])
def test_all_of_an_index_is_checked_unless_it_is_to_be_later(tmp_path: Path, external: bool, damaged: bool) -> None:
    path = tmp_path / "m.sbs"
    write(path, external=external, damaged=damaged)
    own = f"{path}.idx" if external else str(path)
    with BlobReader(path) as reader:
        later = find_index(reader, whole=False)
        assert later
        assert (later.path, later.external) == (own, external)
        with pytest.raises(FrozenInstanceError):
            later.path = ""  # type: ignore[misc]
        if not damaged:
            index = find_index(reader)
            assert index
            assert index.names == later.names == ["name"]
            return
        with pytest.raises(FormatError, match="index-scale"):
            later.check()
        with pytest.raises(FormatError, match="index-scale") as caught:
            find_index(reader)
        assert caught.value.path == own
        if external:
            with pytest.raises(FormatError, match="index-scale"):
                read_external(own, reader.directory)


def test_a_folder_in_place_of_an_index_is_ignored(tmp_path: Path) -> None:
    with BlobWriter(tmp_path / "m.sbs") as writer:
        writer.add("a", b"x")
    (tmp_path / "m.sbs.idx").mkdir()
    with BlobReader(tmp_path / "m.sbs") as reader:
        assert find_index(reader) is None
