"""Findings about sets: every store that is missing, wrong or damaged is named, and the others are looked at."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

from blobstore.checking import check_file, verify_file
from blobstore.errors import FormatError
from blobstore.index.records import HEADER_FIELDS, HEADER_NBYTES, SELF_DIGEST_AT, Header, section_spans
from blobstore.packing.pack import pack
from tests.sets import save_set

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from blobstore.checking.findings import Finding


@pytest.fixture
def stores(tmp_path: Path) -> list[Path]:
    """Three, of the set m.sbs."""
    held = [{f"layer.{i}": np.arange(100, dtype=np.float32) + i} for i in range(3)]
    return save_set(held, tmp_path / "m.sbs")


def missing(stores: list[Path]) -> None:
    stores[1].unlink()


def a_folder(stores: list[Path]) -> None:
    stores[1].unlink()
    stores[1].mkdir()


def a_lost_link(stores: list[Path]) -> None:
    stores[1].rename(stores[1].with_suffix(".elsewhere"))
    stores[1].symlink_to("nowhere")


def another(stores: list[Path]) -> None:
    stores[1].write_bytes(stores[2].read_bytes())


def longer(stores: list[Path]) -> None:
    with stores[1].open("ab") as file:
        file.write(b"more")


def something_else(stores: list[Path]) -> None:
    stores[1].write_bytes(bytes(stores[1].stat().st_size))


FAULTS: dict[Callable[[list[Path]], None], str] = {
    missing: "set-missing-store",
    a_folder: "set-missing-store",
    a_lost_link: "set-missing-store",
    another: "set-stale",
    longer: "set-stale",
    something_else: "bad-magic",
}


def damage(store: Path, offset: int = 256) -> None:
    raw = bytearray(store.read_bytes())
    raw[offset] ^= 1
    store.write_bytes(raw)


def said(findings: list[Finding]) -> set[tuple[str, str]]:
    return {(found.code, found.subject) for found in findings if found.severity != "note"}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_store_that_is_not_there_is_a_finding_and_the_others_are_verified(
    fault: Callable[[list[Path]], None], stores: list[Path]
) -> None:
    fault(stores)
    damage(stores[2])
    path, expected = stores[0].with_name("m.sbs"), (FAULTS[fault], stores[1].name)
    assert said(check_file(path)) == {expected}
    verified = verify_file(path, values=True)
    assert said(verified.findings) == {expected, ("damaged-blob", f"{stores[2].name}: layer.2")}
    assert (verified.blobs, verified.nbytes) == (2, 800)
    with pytest.raises(FormatError) as caught:  # nothing is made of such a set
        pack(path, path.with_name("packed.sbs"))
    assert (caught.value.reason, caught.value.path) == (FAULTS[fault], str(stores[1]))
    assert not list(path.parent.glob("packed*"))


def test_damage_is_reported_with_its_place_in_its_store(stores: list[Path]) -> None:
    damage(stores[2], 300)
    verified = verify_file(stores[0].with_name("m.sbs"))
    (found,) = verified.findings
    assert (found.code, found.subject, found.offset, found.names) == ("damaged-blob", "layer.2", 256, ("layer.2",))
    assert stores[2].name in found.message
    assert verified.blobs == 3


def test_each_index_has_a_digest_of_its_own(stores: list[Path]) -> None:
    path = stores[0].with_name("m.sbs")
    damage(path, path.stat().st_size - 1 - path.read_bytes()[::-1].index(b"}"))
    assert {code for code, _ in said(verify_file(path).findings)} >= {"index-metadata"}
    damage(path, path.stat().st_size - 1)  # whole again
    raw = stores[1].read_bytes()
    at = raw.index(b"SBSINDEX")
    spans = section_spans(Header._make(HEADER_FIELDS.unpack(raw[at : at + HEADER_NBYTES])))
    scale = at + spans["entry scale"][0]
    damage(stores[1], scale)  # another scale is as good for all other checks
    assert said(verify_file(path).findings) == {("index-digest", stores[1].name)}
    assert said(check_file(path)) == {("index-digest", stores[1].name)}
    damage(stores[1], scale)
    damage(stores[1], at + SELF_DIGEST_AT)  # which the set knows
    assert said(verify_file(path).findings) == {("set-stale", stores[1].name)}


def test_errors_name_the_store_as_the_set_was_named(stores: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    stores[1].unlink()
    monkeypatch.chdir(stores[0].parent)
    (found,) = [found for found in check_file("m.sbs") if found.severity == "error"]
    assert found.message.startswith("store 2 of 3 of the set 'm.sbs' is missing")
    assert os.sep not in found.subject
