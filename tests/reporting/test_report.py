"""What a report shows, and that foreign text can't be more than text in it."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import blobstore
from blobstore import UsageError
from blobstore.compare.statistics import statistics
from blobstore.errors import shown as readable
from blobstore.reporting.gathering import KINDS, layout_of, sampled_lines, tensors_of
from blobstore.reporting.measuring import BINS, SAMPLED, measure
from blobstore.reporting.naming import layer_and_role
from blobstore.reporting.page import escaped_json, library, page_of
from tests.packing_files import tuned, weights
from tests.sets import save_set

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    "<!--<script>",
    "]]><svg onload=alert(1)>",
    "a\u2028b\u2029c",
    "'\"><b>&lt;",
    "@name{safe} ${7*7} {{x}}",
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def data_of(page: str) -> Any:  # noqa: ANN401 (JSON)
    """The data of a page, as a browser finds it: up to the first end of a script."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script', page, re.DOTALL)
    assert found
    return json.loads(found[1])


def shown(path: str, other: str | None = None, **options: Any) -> Any:  # noqa: ANN401 (JSON)
    blobstore.report(path, other, output="page.html", **options)
    with open("page.html", encoding="utf-8") as file:
        return data_of(file.read())


@pytest.mark.parametrize(
    ("name", "layer", "role"),
    [
        ("model.layers.3.mlp.up_proj.weight", "model.layers.3", "mlp.up_proj.weight"),
        ("blk.12.attn_q.weight", "blk.12", "attn_q.weight"),
        ("model.layers.0.mlp.experts.7.w", "model.layers.0", "mlp.experts.7.w"),
        ("qkv_ein_3", "3", "qkv_ein"),
        ("model.embed_tokens.weight", "", "model.embed_tokens.weight"),
        ("conv2d.weight", "", "conv2d.weight"),
        ("7", "7", "7"),
        ("", "", ""),
    ],
)
def test_layers_are_found_in_names(name: str, layer: str, role: str) -> None:
    assert layer_and_role(name) == (layer, role)


# ---------------------------------------------------------------------------------------------------------- the values


def measured(array: Any, *, sample: bool = False) -> Any:  # noqa: ANN401 (of any type)
    blobstore.save_file({"x": array}, "x.sbs")
    with blobstore.open("x.sbs") as store:
        return measure(store, store.info("x"), sample=sample)


@pytest.mark.usefixtures("here")
def test_values_are_counted_as_numpy_counts_them() -> None:
    array = np.array([0, -0.0, 1, 2, 4, np.nan, np.inf, 4], np.float32)
    done = measured(array)
    assert done.statistics == statistics([array])
    assert (done.count, done.zeros) == (8, 2)
    assert done.histogram == (2, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 2)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("array", "histogram"),
    [
        (np.zeros(0, np.float32), ()),
        (np.full(3, np.nan), ()),
        (np.full(3, 7, np.int8), (0,) * 8 + (3,) + (0,) * 7),
        (np.array([-1.7e308, 1.7e308]), (1, *(0,) * 14, 1)),
        (np.array([False, True, True]), (1, *(0,) * 14, 2)),
        (np.array([0, 2**64 - 1], np.uint64), (1, *(0,) * 14, 1)),
    ],
)
def test_histograms_of_odd_values(array: Any, histogram: tuple[int, ...]) -> None:  # noqa: ANN401 (of any type)
    assert measured(array).histogram == histogram


@pytest.mark.usefixtures("here")
def test_what_is_not_a_number_has_no_values() -> None:
    assert measured(np.ones(3, np.complex64)) is None
    columns = shown("x.sbs")["tensors"]
    assert (columns["min"], columns["histogram"]) == ([None], [""])


@pytest.mark.usefixtures("here")
def test_a_sample_reads_evenly_and_says_so() -> None:
    large = np.arange(4 * SAMPLED + 5, dtype=np.int32)
    done = measured(large, sample=True)
    assert done.count == SAMPLED == sum(done.histogram)
    assert (done.statistics.min, len(large) - done.statistics.max) == (0, 6)
    assert max(done.histogram) - min(done.histogram) <= SAMPLED // BINS
    whole = measured(large)
    assert (whole.count, whole.statistics.max) == (len(large), len(large) - 1)
    assert SAMPLED <= sum(whole.histogram) <= 2 * SAMPLED
    with blobstore.open("x.sbs") as store:
        (line,) = sampled_lines(tensors_of(store, sample=True)[0])
        assert sampled_lines(tensors_of(store, sample=False)[0]) == []
    assert line.startswith(
        "Sampled: 1 tensors have more than 65,536 values each, of which 65,536 were read, 25.00% of all"
    )
    assert line in shown("x.sbs", sample=True)["told"]
    assert line in blobstore.report("x.sbs", output="page.html", sample=True).notes
    assert measured(np.arange(SAMPLED), sample=True).count == SAMPLED


# ---------------------------------------------------------------------------------------------------- what lies where


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("version", [1, 2])
def test_the_layout_has_each_byte_once(version: int) -> None:
    with blobstore.create("x.sbs", version=version) as store:
        store["model.layers.0.a"] = np.ones(100, np.float32)
        store["b"] = np.ones(1, np.int8)
    with blobstore.open("x.sbs") as opened:
        layout = layout_of(opened)
        spans = list(zip(layout["offset"], layout["nbytes"], strict=True))
        assert [offset for offset, _ in spans] == [0, *(offset + nbytes for offset, nbytes in spans[:-1])]
        assert sum(layout["nbytes"]) == opened.reader.file_size
        kinds = [KINDS[kind] for kind in layout["kind"]]
        assert kinds.count("tensor") == 2
        assert {"header", "padding", "index"} <= {*kinds}
        for key, span in zip(layout["key"], spans, strict=True):
            assert not key or opened.reader.range(key) == span


@pytest.mark.usefixtures("here")
def test_tensors_are_listed_once_with_their_further_names_and_digests() -> None:
    with blobstore.create("x.sbs") as store:
        store["model.embed_tokens.weight"] = np.ones((2, 3), np.float16)
        store.alias("lm_head.weight", "model.embed_tokens.weight")
        store["scalar"] = np.float32(2)
    columns = shown("x.sbs")["tensors"]
    assert len({len(column) for column in columns.values()}) == 1
    assert columns["name"] == ["model.embed_tokens.weight", "scalar"]
    assert columns["aliases"] == [["lm_head.weight"], []]
    assert columns["shape"] == ["2×3", "scalar"]
    assert columns["digest"][0] == hashlib.sha256(np.ones((2, 3), np.float16).tobytes()).hexdigest()
    with blobstore.create("y.sbs", digests=False) as store:
        store["model.embed_tokens.weight"] = np.ones(2)
    assert shown("y.sbs")["tensors"]["digest"] == [""]


@pytest.mark.usefixtures("here")
def test_two_files_show_what_changed() -> None:
    blobstore.save_file({"layers.0.w": np.zeros(4), "layers.1.w": np.ones(4), "gone": np.ones(1)}, "a.sbs")
    blobstore.save_file({"layers.0.w": np.array([0, 0, 0.5, np.inf]), "layers.1.w": np.ones(4)}, "b.sbs")
    changes = shown("a.sbs", "b.sbs")["changes"]
    compared = blobstore.diff("a.sbs", "b.sbs")
    assert (changes["a"], changes["b"], changes["counts"]) == ("a.sbs", "b.sbs", compared.counts)
    entries = changes["entries"]
    assert (entries["name"], entries["what"]) == (["gone", "layers.0.w"], ["removed", "values"])
    assert (entries["layer"][1], entries["role"][1], entries["differ"][1], entries["abs"][1]) == (
        "layers.0",
        "w",
        0.5,
        0.5,
    )
    assert entries["abs"][0] is None
    words = "1 where only one is finite, or the infinities differ; most at [3]: 0.0 → inf"
    assert entries["more"] == ["", words]
    assert shown("a.sbs")["changes"] is None


# ------------------------------------------------------------------------------------------------ findings, and faults


def test_findings_come_first_and_a_damaged_file_is_shown(here: Path) -> None:
    blobstore.save_file({"x": np.ones(300, np.float32)}, "x.sbs")
    raw = bytearray((here / "x.sbs").read_bytes())
    raw[300] ^= 1
    (here / "bad.sbs").write_bytes(raw)
    done = blobstore.report("bad.sbs", output="page.html")
    assert not done.ok
    assert done.findings[0].code == "damaged-blob"
    data = data_of((here / "page.html").read_text(encoding="utf-8"))
    assert data["findings"][0][:2] == ["error", "damaged-blob"]
    assert data["findings"][0][6] == "verify"
    assert data["tensors"]["name"] == ["x"]
    (here / "short.sbs").write_bytes(raw[:600])
    done = blobstore.report("short.sbs", output="page.html")
    assert (done.ok, done.tensors) == (False, 0)
    assert any(note.startswith("The file can't be shown in full: ") for note in done.notes)


@pytest.mark.usefixtures("here")
def test_tensors_whose_bytes_are_wrong_are_told() -> None:
    sfp = np.full(12, 0x80, np.uint8)  # a code that means nothing
    with blobstore.create("x.sbs") as store:
        for i in range(12):
            store.add_stored(f"w{i:02}", [sfp], "sfp", (12,))
        store["whole"] = np.ones(2)
    data = shown("x.sbs")
    assert data["told"][-2].startswith("w09 can't be read: sfp-reserved-code")
    assert data["told"][-1] == "2 more can't be read either"
    assert data["tensors"]["min"] == [*[None] * 12, 1.0]


@pytest.mark.usefixtures("here")
def test_progress_adds_up_to_what_is_expected() -> None:
    class Bar:
        done = total = 0

        def __call__(self, nbytes: int) -> None:
            self.done += nbytes

        def expect(self, nbytes: int) -> None:
            self.total = nbytes

    blobstore.save_file({"a": np.ones(70000), "b": np.ones((3, 5), np.float32)}, "x.sbs")
    bar = Bar()
    blobstore.report("x.sbs", "x.sbs", output="page.html", progress=bar)
    assert bar.done == bar.total > 2 * 560060


@pytest.mark.usefixtures("here")
def test_of_a_packed_file_the_values_are_shown() -> None:
    values = weights(1, 5000)
    for name, array in (("base", values), ("near", tuned(values, 2))):
        blobstore.save_file({"x": array}, f"{name}.sbs")
    blobstore.pack("near.sbs", "packed.sbs", base="base.sbs")
    expected = shown("near.sbs")["tensors"]
    found = shown("packed.sbs", base="base.sbs")["tensors"]
    assert all(found[key] == expected[key] for key in ("min", "max", "mean", "zeros", "histogram"))
    with pytest.raises(UsageError) as caught:
        blobstore.report("packed.sbs", output="page.html")
    assert caught.value.reason == "needs-base"


@pytest.mark.usefixtures("here")
def test_a_page_that_can_not_be_written_is_told_before_anything_is_read() -> None:
    blobstore.save_file({"x": np.ones(2)}, "x.sbs")
    steps: list[int] = []
    with pytest.raises(FileNotFoundError):
        blobstore.report("x.sbs", output="nothing/here.html", progress=steps.append)
    assert steps == []


def test_only_sbs_files_are_shown(here: Path) -> None:
    (here / "x.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    with pytest.raises(UsageError) as caught:
        blobstore.report("x.safetensors", output="page.html")
    assert caught.value.reason == "not-sbs"
    assert not (here / "page.html").exists()


# ------------------------------------------------------------------------------------------------------- foreign text


def test_json_in_a_page_is_ascii_without_markup() -> None:
    text = escaped_json({text: [text] for text in HOSTILE})
    assert not {*"<>&"} & {*text}
    assert text.isascii()
    assert json.loads(text) == {readable(text): [readable(text)] for text in HOSTILE}


@pytest.mark.usefixtures("here")
def test_hostile_names_and_metadata_are_only_in_the_data() -> None:
    with blobstore.create("x.sbs", metadata=dict.fromkeys(HOSTILE, HOSTILE[0])) as store:
        for name in HOSTILE:
            store[name] = np.ones(2)
    data = shown("x.sbs")
    assert sorted(data["tensors"]["name"]) == sorted(map(readable, HOSTILE))
    with open("page.html", encoding="utf-8") as file:
        page = file.read()
    blobstore.save_file({"plain": np.ones(2)}, "y.sbs")
    shown("y.sbs")
    with open("page.html", encoding="utf-8") as file:
        other = file.read()
    frame = [re.sub(r'(id="data">).*?</script', r"\1", text, count=1, flags=re.DOTALL) for text in (page, other)]
    assert frame[0] == frame[1]


def test_the_policy_lets_only_the_pages_own_scripts_run() -> None:
    page = page_of({"input": "</script>"}).decode()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert "http" not in policy
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert re.findall(r"'sha256-([^']*)'", policy) == digests
    assert len(digests) == (3 if library() else 1)
    assert page.index("Content-Security-Policy") < page.index("<script")


def test_the_script_makes_no_markup_of_text() -> None:
    page = page_of({}).decode()
    script = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)[-1]
    assert script.startswith('"use strict";')
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|\.href|fetch\(", script
    )


@pytest.mark.usefixtures("here")
def test_a_notebook_shows_the_page_in_a_frame_of_its_own() -> None:
    blobstore.save_file({HOSTILE[0]: np.ones(2)}, "x.sbs")
    with blobstore.open("x.sbs") as store:
        page = store.report()
    assert data_of(page.html)["tensors"]["name"] == [HOSTILE[0]]
    found = re.fullmatch(
        r'<iframe sandbox="allow-scripts" style="[^"<>]*" srcdoc="([^"]*)"></iframe>', page._repr_html_()
    )
    assert found
    assert html.unescape(found[1]) == page.html
    assert len(repr(page)) < 100
    with pytest.raises(UsageError) as caught:
        blobstore.open(blobstore.save({"x": np.ones(2)})).report()
    assert caught.value.reason == "needs-path"


def test_a_page_replaces_no_store_and_no_index(tmp_path: Path) -> None:
    sets = save_set([{"a": np.ones(3)}, {"b": np.ones(3)}], tmp_path / "set.sbs")
    blobstore.save_file({"c": np.ones(3)}, tmp_path / "other.sbs")
    (tmp_path / "other.sbs").rename(tmp_path / "other")
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    for output in ("set.sbs", "other", "new.sbs"):
        with pytest.raises(blobstore.UsageError, match="page-not-sbs"):
            blobstore.report(sets[0], output=tmp_path / output)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_name_that_would_hide_or_turn_around_is_escaped() -> None:
    data = json.loads(escaped_json({"name": ["\u202eabc", "\x1b[31m", "é"]}))
    assert data == {"name": [r"\u202eabc", r"\x1b[31m", "é"]}
