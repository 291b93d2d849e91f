"""The report page in a real headless Chromium: it opens from disk, draws, answers, and runs nothing of the data.

The page is made by the real code from a small run that holds what a page must survive: markup in every place that the
data reach, right-to-left text, emoji, huge texts, and paths with spaces.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydelt.report.page import render
from tests.unit.report.conftest import HandMade, without_ray

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
ATTACK = "<script>window.ran = 1</script>"
QUOTED = '"\'><img src=x onerror="window.ran = 1"></script></style>' + ATTACK
TEXTS = (
    f"hello {ATTACK}",
    "שלום עולם, مرحبا بالعالم",
    "👩‍👩‍👧‍👦 fine\x00\x07",
    QUOTED,
    "no_break" * 20_000,
    "{{ 7 * 7 }} </td></table>",
)
SOURCES = ("in put/a file.parquet", f"in put/{ATTACK}.csv", "in put/deep/" + "very long name " * 30 + ".jsonl")
CONTRAST = (Path(__file__).parent / "contrast.js").read_text(encoding="utf-8")


def made() -> HandMade:
    """A run whose data would like to be markup."""
    rng = np.random.default_rng(2)
    difficulty = rng.beta(2, 6, 240).astype(np.float32)
    columns = {"difficulty": difficulty, "consistency": 1 - difficulty, ATTACK: rng.random(240).astype(np.float32)}
    return HandMade(
        columns={**columns, "difficulty_se": np.full(240, 0.02, np.float32)},
        classes=[ATTACK, QUOTED, "שלום עולם", "🦉🔥"],
        sources=SOURCES,
        texts=TEXTS,
        id_prefix="<b onmouseover='window.ran=1'>",
        copies=True,
        bad=[(f"{ATTACK}.csv", 1, f"{ATTACK} is no number")],
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A page on disk, in a folder with a space in its name, and its summary."""
    folder = tmp_path_factory.mktemp("report") / "a run"
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        summary = made().make(folder).summary()
    path = folder / "index.html"
    path.write_text(render(summary), encoding="utf-8")
    return path, summary


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium for all tests of this file."""
    if CHROMIUM is None:
        pytest.skip("no Chromium: `apt-get install chromium`, or name one in the variable CHROMIUM")
    driver = pytest.importorskip("playwright.sync_api", reason="no Playwright: `pip install playwright`")
    with driver.sync_playwright() as play:
        found = play.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield found
        found.close()


@pytest.fixture
def page(browser: Any, report: tuple[Path, dict[str, Any]]) -> Iterator[Any]:
    """The page, opened; nothing may be said on the console, asked of a network, or run of the data."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    own, told, asked = context.new_page(), [], []
    own.on("console", lambda message: told.append(message.text))
    own.on("pageerror", lambda error: told.append(str(error)))
    own.on("dialog", lambda dialog: (told.append("a dialog"), dialog.dismiss()))
    own.on("request", lambda request: asked.append(request.url))
    own.goto(report[0].as_uri())
    yield own
    assert told == []
    assert [url for url in asked if not url.startswith("data:")] == [report[0].as_uri()]
    assert own.evaluate("window.ran") is None
    context.close()


def test_every_chart_is_drawn_and_nothing_of_it_is_cut_off(page: Any) -> None:
    boxes = page.evaluate(
        """() => [...document.querySelectorAll("svg")].map(svg => {
          const box = svg.getBoundingClientRect();
          const texts = [...svg.querySelectorAll("text")].map(own => own.getBoundingClientRect());
          return {
            label: svg.ariaLabel, width: box.width, height: box.height,
            drawn: svg.querySelectorAll("path").length,
            out: texts.filter(t => t.left < box.left - 8 || t.right > box.right + 8 || t.top < box.top - 3
              || t.bottom > box.bottom + 3).length };
        })"""
    )
    assert len(boxes) == 15
    for box in boxes:
        assert box["width"] > 150, box
        assert box["height"] > 40, box
        assert box["drawn"] > 4, box
        assert box["out"] == 0, box


def test_a_chart_tells_values_to_the_pointer_and_to_the_arrow_keys(page: Any, report: tuple[Path, Any]) -> None:
    tip, chart = page.locator("#tip"), page.locator("svg[aria-label^='Histogram of the combined']")
    assert not tip.is_visible()
    box = chart.bounding_box()
    chart.hover(position={"x": box["width"] / 2, "y": box["height"] / 2})
    assert re.fullmatch(r"[\d.e−]+ to [\d.e−]+: kept [\d,]+, not kept [\d,]+.*", tip.inner_text())
    page.mouse.move(0, 0)
    assert not tip.is_visible()
    chart.focus()
    told = []
    for key in ("ArrowRight", "ArrowRight", "End", "Home"):
        page.keyboard.press(key)
        assert tip.is_visible()
        told.append(tip.inner_text())
    assert told[0] == told[3] != told[1] != told[2]
    page.keyboard.press("Escape")
    assert not tip.is_visible()
    counts = [int(n.replace(",", "")) for n in re.findall(r"kept ([\d,]+)", " ".join(told[:1]))]
    assert all(0 <= count <= report[1]["selection"]["of"] for count in counts)
    for other in page.locator("svg[data-marks]").all():
        other.focus()
        page.keyboard.press("ArrowRight")
        assert tip.inner_text()


def shown(page: Any) -> list[str]:
    """Ids of the visible rows of the table of examples, from above."""
    rows = page.locator("#examples-table tbody tr:not([hidden]) th .id").all_inner_texts()
    return [row.split(">")[-1] for row in rows]


def wanted(rows: list[dict[str, Any]]) -> list[str]:
    from raydelt.report.svg import label

    return [label(row["id"], 40).split(">")[-1] for row in rows]


def test_examples_are_filtered_by_list_score_and_words(page: Any, report: tuple[Path, Any]) -> None:
    rows, known = report[1]["examples"]["rows"], report[1]["shown"]
    assert shown(page) == wanted(rows)
    page.select_option("[name=list]", "borderline")
    assert shown(page) == wanted([row for row in rows if "borderline" in row["lists"]])
    page.click("button[type=reset]")
    page.select_option("[name=kept]", "no")
    assert shown(page) == wanted([row for row in rows if not row["kept"]])
    page.click("button[type=reset]")
    middle = sorted(row["score"] for row in rows)[len(rows) // 2]
    page.fill("[name=low]", str(middle))
    above = [row for row in rows if row["score"] >= middle]
    assert shown(page) == wanted(above)
    page.fill("[name=high]", str(middle))
    assert shown(page) == wanted([row for row in above if row["score"] <= middle])
    page.click("button[type=reset]")
    page.fill("[name=words]", rows[3]["id"][-9:])
    found = [row for row in rows if rows[3]["id"][-9:] in row["id"]]
    assert shown(page) == wanted(found)
    assert page.locator("output").inner_text() == f"{len(found)} of {len(rows)} examples"
    page.fill("[name=words]", "שלום עולם, مرحبا")
    assert shown(page) == wanted([row for row in rows if known[row["id"]]["text"].startswith("שלום")])
    page.fill("[name=words]", "nothing like this")
    assert shown(page) == []


def test_filters_and_heads_work_by_keyboard(page: Any, report: tuple[Path, Any]) -> None:
    rows = report[1]["examples"]["rows"]
    page.locator("[name=high]").focus()
    page.keyboard.press("Tab")
    page.keyboard.type(rows[-1]["id"][-9:])
    assert shown(page) == wanted([rows[-1]])
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.locator("output", has_text=f"{len(rows)} of {len(rows)} examples").wait_for()
    head = page.locator("#examples-table thead th", has_text="rank").locator("button")
    head.focus()
    page.keyboard.press("Enter")
    assert shown(page) == wanted(sorted(rows, key=lambda row: -row["rank"]))
    page.keyboard.press("Space")
    assert shown(page) == wanted(sorted(rows, key=lambda row: row["rank"]))
    assert page.locator("#examples-table th[aria-sort=ascending]").count() == 1


def test_a_click_on_any_head_sorts(page: Any, report: tuple[Path, Any]) -> None:
    rows, known = report[1]["examples"]["rows"], report[1]["shown"]
    heads = page.locator("#examples-table thead th")
    names = [text.split("\n")[0] for text in heads.all_inner_texts()]
    assert len(names) == 9 + 3
    for place in range(len(names)):
        heads.nth(place).locator("button").click()
        assert len(shown(page)) == len(rows)
        assert heads.nth(place).get_attribute("aria-sort") == "descending"
    by_name = {name: place for place, name in enumerate(names)}
    heads.nth(by_name["consistency"]).locator("button").click()
    heads.nth(by_name["consistency"]).locator("button").click()
    values = [known[row["id"]]["components"]["consistency"] for row in rows]
    ids = shown(page)
    assert [values[wanted(rows).index(name)] for name in ids] == sorted(values)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_is_legible(page: Any, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    found = page.evaluate(CONTRAST)
    assert {name: round(ratio, 2) for name, ratio in found.items() if ratio < (3 if name[:2] == "--" else 4.5)} == {}
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")


def test_a_narrow_screen_scrolls_in_one_direction(page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_print_holds_everything(page: Any, tmp_path: Path) -> None:
    page.emulate_media(media="print", color_scheme="dark")
    # What is left of A4 between the margins of the page's style.
    page.set_viewport_size({"width": 703, "height": 1000})
    out = page.evaluate(
        """() => [...document.querySelectorAll("main *, header *, footer *")].filter(own => {
          const box = own.getBoundingClientRect();
          return box.width && !own.closest("svg") && (box.right > innerWidth + 2 || box.left < -2);
        }).map(own => own.outerHTML.slice(0, 120))"""
    )
    assert out == []
    assert not page.locator("form").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    clipped = "[...document.querySelectorAll('.scroll')].filter(own => own.scrollHeight > own.clientHeight + 2).length"
    assert page.evaluate(clipped) == 0
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


def test_the_data_stand_as_text(page: Any) -> None:
    text = page.locator("main").inner_text()
    for planted in (ATTACK, "{{ 7 * 7 }}", "שלום עולם, مرحبا بالعالم", "👩‍👩‍👧‍👦 fine", "window.ran=1"):
        assert planted in text
    assert "160,000 characters" in text
    assert page.locator("script").count() == 1
    assert page.locator("main img, main b, main iframe").count() == 0
    assert page.evaluate("document.querySelectorAll('[onmouseover], [onerror], [onload]').length") == 0


def test_without_scripts_everything_is_there(browser: Any, report: tuple[Path, dict[str, Any]]) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report[0].as_uri())
    assert page.locator("#examples-table tbody tr").count() == len(report[1]["examples"]["rows"])
    assert not page.locator("form").is_visible()
    context.close()
