"""The page: what it says, and that it is whole in odd cases, inert, self-contained, small and repeatable."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from raydelt.report.charts import charts_of
from raydelt.report.page import balance, render
from raydelt.report.svg import inline, label

LOADING = ("src", "href", "data", "action", "poster", "srcset", "xlink:href")


class Outline(HTMLParser):
    """Tags, attributes and text of a page, and what is left open at its end."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "img", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def checked(page: str) -> Outline:
    """The outline of a page that must be whole, self-contained and accessible."""
    outline = Outline(page)
    assert outline.open == []
    ids = Counter(attributes["id"] for _, attributes in outline.tags if "id" in attributes)
    assert [name for name, count in ids.items() if count > 1] == []
    assert outline.all("link") == outline.all("iframe") == outline.all("object") == []
    [script] = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert outline.all("script") == [{}]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    [allowed] = [own["content"] for own in outline.all("meta") if own.get("http-equiv") == "Content-Security-Policy"]
    assert allowed is not None
    assert f"script-src 'sha256-{digest}';" in allowed
    assert "default-src 'none'" in allowed
    for image in outline.all("img"):
        assert (image.pop("src") or "").startswith("data:image/png;base64,")
        assert image["alt"]
    for tag, attributes in outline.tags:
        for name in LOADING:
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
            assert (attributes.get(name) or "#")[1:] in {*ids, ""}, (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")]
        for target in re.findall(r"url\(#([^)]*)\)", attributes.get("clip-path") or ""):
            assert target in ids
    style = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert len(style) == 1
    assert "@import" not in style[0]
    assert "url(" not in style[0]
    assert all(attributes.get("aria-label") for attributes in outline.all("svg"))
    assert all(attributes.get("scope") for attributes in outline.all("th"))
    assert len(outline.all("caption")) == len(outline.all("table"))
    assert len(outline.all("figcaption")) == len(outline.all("figure")) == len(outline.all("svg"))
    assert len(outline.all("h1")) == 1
    return outline


def test_the_page_says_what_was_found(finished: Callable[..., Any]) -> None:
    summary = finished().summary()
    page = render(summary)
    outline = checked(page)
    text = " ".join(" ".join(outline.text).split())
    assert "120 of 240" in text
    assert "better" in text
    assert "95 % interval" in text
    for title in ("Result", "Training", "Scores", "Classes", "Doubtful labels", "Training order", "Corpus"):
        assert title in text
    for component in summary["distributions"]:
        assert component in text
    assert "The counts add up" in text
    assert "cut at" in text
    assert "label_column: label" in text
    charts = charts_of(summary)
    assert set(charts) == {
        *("differences", "curves", "values", "ranking", "component-00", "component-01", "component-02"),
        *("classes", "scores-by-class", "order", "stages"),
    }
    assert len(outline.all("svg")) == len(charts)
    assert all(len(json.loads(own["data-marks"] or "")) for own in outline.all("svg"))


def test_equal_summaries_give_equal_bytes(finished: Callable[..., Any]) -> None:
    summary = finished().summary()
    assert render(summary) == render(json.loads(json.dumps(summary)))


def one_scorer(n: int = 240) -> dict[str, Any]:
    return {"diversity": np.linspace(0, 1, n).astype(np.float32)}


ODD: dict[str, dict[str, Any]] = {
    "no baselines": {"baselines": ()},
    "only random": {"baselines": ("random",)},
    "one seed": {"seeds": (4,)},
    "no noise simulated": {"flips": False},
    "no standard errors": {"errors": False},
    "only diversity": {"columns": one_scorer(), "flips": False},
    "only diversity, with flips": {"columns": one_scorer()},
    "unlabelled": {"columns": one_scorer(), "flips": False, "classes": ()},
    "constant scores": {
        "columns": {name: np.full(240, 0.6, np.float32) for name in ("difficulty", "consistency", "diversity")}
    },
    "huge scores": {"columns": {"diversity": np.geomspace(1e-30, 3e38, 240).astype(np.float32)}},
    "two hundred classes": {"classes": [f"a class with a rather long name, number {i}" for i in range(200)]},
    "right-to-left and emoji": {
        "classes": ["שלום עולם", "مرحبا", "🦉🔥", "a$b_{c}$", "\x00\x07\n\ud800".replace("\ud800", "")]
    },
    "one part": {"cuts": ()},
    "an empty part": {"cuts": (0, 100, 100)},
    "three examples": {"rows": 3, "cuts": (), "flips": False},
    "quarantine": {"bad": [("in/a.parquet", 3, "row 3: label 'x' is unknown"), ("in/b.csv", None, "not a CSV file")]},
    "quotas and raw scores": {
        "spec": {"select": {"value": 0.5, "quotas": {}}, "rank": {"combine": {"normalise": "raw", "gate": None}}}
    },
}


@pytest.mark.parametrize("case", ODD)
def test_the_page_holds_together(finished: Callable[..., Any], case: str) -> None:
    summary = finished(**ODD[case]).summary()
    json.dumps(summary, allow_nan=False)
    page = render(summary)
    checked(page)
    assert "nan" not in re.sub(r"\w*nan\w+|\w+nan", "", page.lower().split("<pre")[0])
    assert len(page.encode()) < 1_000_000


def test_no_baseline_and_a_single_seed_claim_nothing(finished: Callable[..., Any]) -> None:
    alone = render(finished(baselines=()).summary())
    assert "whether the selection helps is not known" in alone
    assert "better than" not in alone
    single = render(finished(seeds=(0,)).summary())
    assert "no difference shown" in single
    assert "one seed, no interval" in single
    assert "better than" not in single


def test_markup_in_the_data_is_inert(finished: Callable[..., Any]) -> None:
    attack = "<script>alert(1)</script>"
    summary = finished(
        classes=[attack, '"><img src=x onerror=alert(1)>', "]]><svg onload=alert(1)>", "{{ 7 * 7 }}"],
        source_file=f"in/{attack}.parquet",
        bad=[(f"{attack}.csv", 1, f"{attack} is no number")],
    ).summary()
    summary["name"] = attack
    summary["spec"]["corpus"]["source"] = "</pre><script>alert(1)</script>"
    page = render(summary)
    checked(page)
    assert page.lower().count("<script") == 1
    assert "<img" not in page
    assert "&lt;script&gt;" in page
    assert "{{ 7 * 7 }}" in page


def test_nothing_is_loaded_from_the_network(finished: Callable[..., Any]) -> None:
    summary = finished().summary()
    assert re.findall(r"https?:", render(summary)) == []


def test_the_page_stays_small_for_a_large_run(finished: Callable[..., Any]) -> None:
    rng = np.random.default_rng(0)
    columns = {f"component_{i}": rng.random(240).astype(np.float32) for i in range(60)}
    summary = finished(
        columns=columns,
        classes=[f"class {i} " + "x" * 100 for i in range(20_000)],
        seeds=range(300),
        source_file="in/" + "deep/" * 2000 + "a.parquet",
        bad=[(f"in/{i}.csv" + "y" * 5000, i, f"{chr(97 + i % 26) * 900} is bad") for i in range(500)],
    ).summary()
    summary["spec"]["corpus"]["source"] = [f"s3://bucket/{i:06d}.parquet" for i in range(50_000)]
    page = render(summary)
    checked(page)
    assert len(page.encode()) < 1_000_000
    assert "The first 24 of 60 components" in page
    assert "the 30 whose share moved most of 20000 classes" in page


def test_counts_that_do_not_add_up_are_said_so(finished: Callable[..., Any]) -> None:
    summary = finished().summary()
    summary["corpus"]["read"] += 5
    page = render(summary)
    assert "do not add up" in page
    assert "by -5" in page


def test_kept_duplicates_are_no_loss() -> None:
    counts = {"read": 10, "corpus": 8, "validation": 0, "test": 2, "duplicates": 3, "overlap": 0, "quarantined": 0}
    assert balance(counts, "keep") | {"rows": None} == {"rows": None, "off": 0, "copies": 3}
    assert balance(counts, "drop")["off"] == 3


def test_a_chart_keeps_only_its_own_ids() -> None:
    text = '<svg viewBox="0 0 3 4"><g id="axes_1"><path id="m1" d="M 0.12345 1"/><use xlink:href="#m1"/></g></svg>'
    found = inline(text, name="first", alt='a "b" <c>')
    assert found == (
        '<svg role="img" aria-label="a &quot;b&quot; &lt;c&gt;" viewBox="0 0 3 4" width="4" height="5">'
        '<g><path id="first-m1" d="M 0.12 1"/><use href="#first-m1"/></g></svg>'
    )


def test_labels_are_one_short_line() -> None:
    assert label("a\n b\tc") == "a b c"
    assert label("a name that is too long, number 12", 12) == "a name …r 12"
    assert label("a\x00b") == "a\N{REPLACEMENT CHARACTER}b"
