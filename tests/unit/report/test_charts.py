"""Charts as files and in the page: the same marks, the theme's colours, and nothing but drawing in them."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from importlib import resources
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

from raydelt.report.charts import charts_of
from raydelt.report.charts.chart import MARKS, Chart
from raydelt.report.charts.composition import within
from raydelt.report.charts.over_time import stages, versions
from raydelt.report.charts.plan import plan
from raydelt.report.charts.training import curves, evaluations
from raydelt.report.svg import ROLES
from raydelt.report.wording import METRICS


def test_the_light_theme_is_the_colours_that_charts_are_drawn_in() -> None:
    css = resources.files("raydelt.report").joinpath("page.css").read_text(encoding="utf-8")
    light, dark = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    told = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", light))
    assert {role: told[role] for role in ROLES} == ROLES
    assert len(set(ROLES.values())) == len(ROLES)
    assert set(ROLES) <= dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", dark)).keys()


def test_every_chart_stands_alone_and_takes_the_theme_in_the_page(finished: Callable[..., Any]) -> None:
    texts = ("a text of a few words", "ein längerer Text, der aus mehr Wörtern besteht")
    summary = finished(texts=texts, sources=("in/a.csv", "in/b.csv")).summary()
    charts = charts_of(summary)
    assert {"sources", "scores-by-source", "languages", "lengths"} <= charts.keys()
    for name, chart in charts.items():
        root = ElementTree.fromstring(chart.alone())
        assert root.tag.endswith("svg")
        assert root.find("{*}script") is None
        assert ROLES["ink"] in chart.alone() or ROLES["soft"] in chart.alone()
        assert "var(--" not in chart.alone()
        assert re.findall(r"#[0-9a-f]{6}\b", chart.svg) == [], name
        image = Image.open(io.BytesIO(chart.png()))
        assert image.format == "PNG"
        assert min(image.size) > 100
        corner = image.convert("RGB").getpixel((0, 0))
        assert corner == (255, 255, 255)
        colours = image.convert("RGB").getcolors(1 << 22)
        assert colours is not None
        assert len(colours) > 10


def test_marks_lie_within_the_frame_of_their_chart(finished: Callable[..., Any]) -> None:
    for chart in charts_of(finished().summary()).values():
        [frame] = re.findall(r'data-frame="(\[.*?\])"', chart.svg)
        left, top, right, bottom = json.loads(frame)
        marks = marks_of(chart)
        assert len(marks) == len(chart.marks) > 0
        for x, y, told in marks:
            assert left - 1 <= x <= right + 1, (chart.name, told)
            assert top - 1 <= y <= bottom + 1, (chart.name, told)
            assert told


def marks_of(chart: Chart) -> Any:
    """The marks of a chart as the page's script reads them."""
    root = ElementTree.fromstring(chart.svg)
    return json.loads(root.attrib["data-marks"])


def test_evaluations_on_the_way_are_drawn_by_arm() -> None:
    results = [
        {"arm": arm, "evaluations": [[step, {"accuracy": 0.5 + 0.1 * place}] for step in (10, 20, 30)]}
        for place, arm in enumerate(("selected", "random"))
        for _ in range(2)
    ]
    chart = evaluations(results, METRICS["accuracy"], "accuracy")
    assert chart is not None
    assert next(told for _, _, told in chart.marks) == "step 10: selected 50, random 60"
    assert evaluations([{"arm": "selected", "evaluations": []}], METRICS["accuracy"], "accuracy") is None


def trainings(ends: dict[str, tuple[int, ...]], every: int = 10) -> list[dict[str, Any]]:
    """Trainings that took so many steps each, by arm; the loss of the s-th seed is 1 + s at all of them."""
    return [
        {"arm": arm, "steps": end, "curve": [[step, 1.0 + seed] for step in range(every, end + 1, every)]}
        for arm, steps in ends.items()
        for seed, end in enumerate(steps)
    ]


def test_curves_end_where_their_trainings_ended() -> None:
    chart = curves(trainings({"selected": (30, 50), "random": (20, 20)}))
    told = [text for _, _, text in chart.marks]
    assert told[:2] == [f"step {step}: selected 1.5, random 1.5" for step in (10, 20)]
    assert told[2:] == ["step 30: selected 1.5", "step 40: selected 2", "step 50: selected 2"]
    assert "stopped early" in chart.caption
    assert len(marks_of(chart)) == 5
    assert "stopped early" not in curves(trainings({"selected": (30, 30)})).caption


def test_the_first_arm_may_end_first() -> None:
    chart = curves(trainings({"selected": (20,), "random": (30,)}))
    assert [text for _, _, text in chart.marks][-1] == "step 30: random 1"


def test_many_evaluations_are_thinned() -> None:
    chart = curves(trainings({"selected": (20_000,), "random": (15_000,)}, every=1))
    assert len(chart.marks) <= MARKS
    assert (chart.marks[0][0], chart.marks[-1][0]) == (1.0, 20_000.0)
    assert max(len(line.get_xdata()) for line in chart.figure.axes[0].lines) <= 4 * MARKS  # type: ignore[arg-type]
    assert len(chart.text) < 200_000


def test_a_mark_that_is_no_number_is_left_out_of_the_page() -> None:
    chart = curves(trainings({"selected": (30,)}))
    odd = Chart(chart.name, chart.figure, "", "", [(10.0, float("nan"), "nothing"), *chart.marks])
    assert [text for _, _, text in marks_of(odd)] == [text for _, _, text in chart.marks]
    assert "data-marks" not in Chart(chart.name, chart.figure, "", "", [(10.0, float("nan"), "nothing")]).svg


def test_a_plan_is_a_line_for_every_budget() -> None:
    choices = [
        {"buckets": k, "share": k / 4, "loss": 3.0 - 0.1 * k, "low": 2.5, "high": 3.1, "p_best": 0.2, "repeats": 1.0}
        for k in (1, 2, 3, 4)
    ]
    choices[0]["low"] = None  # type: ignore[assignment]
    budgets = [{"budget": 1e4, "recommended": 2, "pays": True, "verdict": "", "choices": choices}]
    chart = plan({"metric": "loss", "unit": "examples", "budgets": budgets})
    assert [told for _, _, told in chart.marks][1] == "10 k examples, keep 50 %: loss 2.8 (recommended)"
    assert ElementTree.fromstring(chart.alone()) is not None


def test_what_there_is_nothing_for_is_no_chart() -> None:
    assert stages([{"stage": "corpus", "seconds": None}], []) is None
    one = {"versions": [{"number": 0, "quantiles": {"difficulty": [0, 1, 2]}}]}
    assert versions(one, "difficulty", name="version-0") is None


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["/data/mails/ham", "/data/mails/spam"], ["ham", "spam"]),
        (["s3://b/x/a.csv", "s3://b/x/c/d.csv", "others"], ["a.csv", "c/d.csv", "others"]),
        (["a", "b"], ["a", "b"]),
        (["/x/ab/1", "/x/ac/2"], ["ab/1", "ac/2"]),
    ],
)
def test_sources_are_named_without_the_folder_of_all(names: list[str], told: list[str]) -> None:
    assert within(names) == told
