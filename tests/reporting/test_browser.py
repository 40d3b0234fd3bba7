"""The page in a real browser: it renders, sorts, filters and zooms, and nothing foreign runs: ``make test-browser``."""

from __future__ import annotations

import importlib
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import blobstore
from blobstore.errors import shown as readable
from blobstore.reporting.page import library
from tests.reporting.test_report import HOSTILE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.browser
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
READY = "document.documentElement.dataset.ready === 'true'"
ATTACK = "</script><img src=x onerror=\"window.hacked = true; document.title = 'hacked'\">"
LAYERS = 3


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no chromium is installed (Debian's chromium): the report is not looked at in a browser")
    assert library(), "Bokeh is not installed: make test-browser installs it"
    playwright = importlib.import_module("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, "--disable-sync", "--no-first-run"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small.html, of two files with hostile text, many.html and plain.html, the latter without plots."""
    folder = tmp_path_factory.mktemp("pages")
    random = np.random.default_rng(23)
    for path, change in (("a.sbs", 0.0), ("b.sbs", 1e-3)):
        with blobstore.create(folder / path, metadata={ATTACK: ATTACK}) as store:
            for i in range(LAYERS):
                store[f"model.layers.{i}.up.weight"] = np.arange(2000, dtype=np.float32) + change * (i + 1)
                store[f"model.layers.{i}.norm.weight"] = np.ones(10 + i, dtype=np.float16)
            for name in (*HOSTILE, ATTACK, f"layers.{ATTACK}.0.{ATTACK}"):
                store[name] = random.normal(size=40000) * (1 + change)
            store.alias(f"tied {ATTACK}", "model.layers.0.up.weight")
    blobstore.report(folder / "a.sbs", folder / "b.sbs", output=folder / "small.html")
    with blobstore.create(folder / "many.sbs") as store:
        for i in range(16000):
            store[f"layers.{i // 100}.experts.{i % 100}.weight"] = np.full(4, i, dtype=np.float32)
    blobstore.report(folder / "many.sbs", output=folder / "many.html")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blobstore.reporting.page._SCRIPTS", ("not there",))
        blobstore.report(folder / "a.sbs", output=folder / "plain.html")
    return folder


def wait_for(page: Any, condition: str) -> None:  # noqa: ANN401 (Playwright's)
    """Wait until something holds in a page; Playwright's own way evaluates text there, which its policy forbids."""
    for _ in range(200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"not after 10 seconds: {condition}")


class Shown:
    """A page in the browser, and what it complained about or asked for."""

    def __init__(self, browser: Any, address: str = "", **options: Any) -> None:  # noqa: ANN401 (Playwright's)
        self.page = browser.new_page(**options)
        self.wrong: list[str] = []
        self.page.on("console", lambda told: self.wrong.append(told.text) if told.type != "info" else None)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda asked: self.wrong.append(asked.url) if asked.url != address else None)
        if address:
            self.page.goto(address)
            wait_for(self.page, READY)

    def table(self, place: int = -1) -> Any:  # noqa: ANN401 (Playwright's)
        return self.page.locator(".grid").nth(place)

    def cells(self, column: int, place: int = -1) -> list[str]:
        cells = self.table(place).locator(f"tbody tr:not(.space) td:nth-child({column})")
        return [text for text in cells.all_text_contents() if text]

    def ranges(self, place: int) -> list[list[float]]:
        """The visible range of a plot's axes."""
        axes = "[root.x_range, root.y_range].map((range) => [range.start, range.end])"
        found: list[list[float]] = self.page.evaluate(f"(([root]) => {axes})(Bokeh.documents[{place}].roots())")
        return found


@pytest.fixture
def small(browser: Any, pages: Path) -> Iterator[Shown]:  # noqa: ANN401 (Playwright's)
    shown = Shown(browser, (pages / "small.html").as_uri())
    yield shown
    assert shown.wrong == []
    assert shown.page.evaluate("window.hacked === undefined")
    assert shown.page.locator("img").count() == 0
    shown.page.close()


def test_it_renders_without_a_word_and_asks_for_nothing(small: Shown) -> None:
    titles = small.page.locator("h2").all_text_contents()
    assert titles == ["Findings", "File", "What changed", "Bytes", "Layout", "Tensors"]
    wait_for(small.page, "document.querySelectorAll('.plot').length === 3")
    wait_for(small.page, "Bokeh.documents.length === 3")
    assert small.page.title().endswith("blobstore report")
    assert small.page.locator(".findings").inner_text().startswith("note\tby-name")


def test_hostile_text_is_shown_and_does_not_run(small: Shown) -> None:
    names = small.cells(1)
    assert {ATTACK, *map(readable, HOSTILE)} <= {*names}
    assert ATTACK in small.page.locator(".facts").inner_text()
    for plot in small.page.locator(".plot").all():  # tooltips show names, too
        plot.scroll_into_view_if_needed()
        box = plot.bounding_box()
        for i in range(1, 12):
            small.page.mouse.move(box["x"] + box["width"] * i / 12, box["y"] + box["height"] / 2)
            small.page.wait_for_timeout(20)
    for i in range(len(names)):
        small.table().locator("tbody tr:not(.space)").nth(i).click()


def test_the_policy_stops_scripts_that_are_not_ours(browser: Any, pages: Path) -> None:  # noqa: ANN401 (Playwright's)
    shown = Shown(browser, (pages / "small.html").as_uri())
    made = "const made = document.createElement('script'); made.textContent = 'window.hacked = true';"
    shown.page.evaluate(f"() => {{ {made} document.body.append(made); }}")
    shown.page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hacked = true\">')")
    shown.page.evaluate("fetch('https://example.org/').catch(() => {})")
    shown.page.wait_for_timeout(200)
    assert shown.page.evaluate("window.hacked === undefined")
    assert sum("Content Security Policy" in text for text in shown.wrong) >= 3
    shown.page.close()


def test_it_sorts(small: Shown) -> None:
    heading = small.table().locator("th button").nth(3)
    for direction in ("ascending", "descending"):
        heading.click()
        sizes = [int(text.replace(",", "")) for text in small.cells(4)]
        assert sizes == sorted(sizes, reverse=direction == "descending")
        assert len({*sizes}) > 3
        assert small.table().locator(f"th[aria-sort={direction}]").count() == 1


def test_it_filters(small: Shown) -> None:
    small.page.get_by_label("filter").last.fill("LAYERS.1 norm")
    assert small.cells(1) == ["model.layers.1.norm.weight"]
    assert small.page.locator("section.long [aria-live]").inner_text().startswith("1 of ")
    small.page.get_by_label("filter").last.fill("norm f16")
    assert len(small.cells(1)) == LAYERS


def test_plots_zoom_by_keyboard_and_wheel(small: Shown) -> None:
    for place in range(3):
        before = small.ranges(place)
        plot = small.page.locator(".plot").nth(place)
        plot.focus()
        small.page.keyboard.press("+")
        small.page.keyboard.press("ArrowRight")
        zoomed = small.ranges(place)
        assert zoomed[0][1] - zoomed[0][0] == pytest.approx((before[0][1] - before[0][0]) / 2)
        assert zoomed[0][0] > before[0][0] + (before[0][1] - before[0][0]) / 4
        small.page.keyboard.press("0")
        assert small.ranges(place) == before
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    small.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    small.page.wait_for_timeout(200)
    small.page.mouse.wheel(0, -200)
    wait_for(small.page, f"Bokeh.documents[2].roots()[0].x_range.end < {before[0][1]}")


def test_a_row_is_chosen_by_keyboard_and_has_a_histogram(small: Shown) -> None:
    small.table().focus()
    small.page.keyboard.press("ArrowDown")
    small.page.keyboard.press("ArrowDown")
    chosen = small.table().locator("tr[aria-selected=true] td").first
    assert chosen.text_content() == small.cells(1)[1] == small.page.locator(".title").text_content()
    wait_for(small.page, "Bokeh.documents.length === 4")


def test_a_click_in_the_treemap_finds_the_tensor(small: Shown) -> None:
    plot = small.page.locator(".plot").nth(1)
    plot.scroll_into_view_if_needed()
    small.page.wait_for_timeout(300)
    plot.click(position={"x": 150, "y": 200})
    small.page.wait_for_selector("tr[aria-selected=true]")
    assert small.table().locator("tr[aria-selected=true]").count() == 1


def test_the_largest_differences_come_first(small: Shown) -> None:
    found = [float(text) for text in small.cells(6, 0) if text != "–"]
    assert found == sorted(found, reverse=True)
    assert len(found) > LAYERS


def test_it_is_dark_or_light_and_prints_light(browser: Any, pages: Path) -> None:  # noqa: ANN401 (Playwright's)
    ground = "[getComputedStyle(document.body).backgroundColor, Bokeh.documents[0].roots()[0].background_fill_color]"
    shown = Shown(browser, (pages / "small.html").as_uri(), color_scheme="dark")
    assert shown.page.evaluate(ground) == ["rgb(20, 24, 29)", "#14181d"]
    shown.page.emulate_media(color_scheme="light")
    wait_for(shown.page, "Bokeh.documents[0].roots()[0].background_fill_color === '#fff'")
    assert shown.page.evaluate(ground) == ["rgb(255, 255, 255)", "#fff"]
    shown.page.emulate_media(color_scheme="dark", media="print")
    wait_for(shown.page, "Bokeh.documents[0].roots()[0].background_fill_color === '#fff'")
    assert not shown.page.locator(".bar").first.is_visible()
    assert shown.page.pdf().startswith(b"%PDF-")
    assert shown.page.evaluate(ground) == ["rgb(255, 255, 255)", "#fff"]
    assert shown.wrong == []
    shown.page.close()


def test_of_many_tensors_only_those_in_sight_are_in_the_page(browser: Any, pages: Path) -> None:  # noqa: ANN401 (as above)
    shown = Shown(browser, (pages / "many.html").as_uri())
    assert 0 < shown.table().locator("tr").count() < 100
    shown.table().focus()
    shown.page.keyboard.press("End")
    wait_for(shown.page, "document.querySelector('tr[aria-selected=true]') !== null")
    assert shown.cells(1)[-1] == shown.table().locator("tr[aria-selected=true] td").first.text_content()
    assert shown.table().locator("tr").count() < 100
    shown.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert shown.table().locator("tbody tr").count() == 500
    assert shown.page.locator("[aria-live]").inner_text() == "the first 500 of 16,000 rows are printed"
    shown.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert shown.table().locator("tr").count() < 100
    assert shown.wrong == []
    shown.page.close()


def test_without_plots_the_rest_is_there(browser: Any, pages: Path) -> None:  # noqa: ANN401 (Playwright's)
    shown = Shown(browser, (pages / "plain.html").as_uri())
    assert "No plots" in shown.page.locator(".told").first.inner_text()
    assert shown.page.locator(".plot").count() == 0
    shown.table().locator("tbody tr:not(.space)").first.click()
    assert ATTACK in shown.cells(1)
    assert shown.wrong == []
    shown.page.close()


def test_a_notebook_shows_it_in_a_frame(browser: Any, pages: Path) -> None:  # noqa: ANN401 (Playwright's)
    with blobstore.open(pages / "a.sbs") as store:
        markup = store.report()._repr_html_()
    shown = Shown(browser)
    shown.page.set_content(f"<!DOCTYPE html><title>notebook</title>{markup}")
    frame = shown.page.frames[1]
    wait_for(frame, READY)
    assert frame.locator(".plot").count() == 2
    assert frame.evaluate("(() => { try { return parent.document.title } catch { return 'out of reach' } })()") == (
        "out of reach"
    )
    assert shown.page.title() == "notebook"
    assert not [text for text in shown.wrong if text != "about:srcdoc"]
    shown.page.close()
