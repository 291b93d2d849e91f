"""A run that selects by a plan: its share, and one sentence for every plan that does not belong to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from raydelt.config import Select
from raydelt.errors import InputError, RaydeltError
from raydelt.plan.chosen import chosen
from raydelt.report.wording import planned

MADE_OF = {"corpus": "c", "score": "s", "rank": "r", "select.quotas": "q", "model": "m", "train.recipe": "t"}


def document(**changes: Any) -> dict[str, Any]:
    choices = [{"buckets": k, "share": k / 4} for k in (1, 2, 3, 4)]
    advice = [
        {"budget": 1000.0, "recommended": 1, "pays": True, "verdict": "keep", "choices": choices},
        {"budget": 50_000.0, "recommended": 3, "pays": True, "verdict": "keep", "choices": choices},
        {"budget": 1e6, "recommended": 4, "pays": False, "verdict": "does not pay", "choices": choices},
    ]
    found = {"advice": advice, "budget_unit": "examples", "seen_unit": "examples", "buckets": [], "rows": None}
    return found | {"made_of": MADE_OF} | changes


def written(folder: Path, **changes: Any) -> str:
    path = folder / "plan.json"
    path.write_text(json.dumps(document(**changes)))
    return str(path)


@pytest.mark.parametrize(("budget", "ratio"), [(1000, 0.25), (50_000, 0.75), (1e6, 1.0)])
def test_the_share_is_the_recommended_one_and_everything_where_selection_does_not_pay(
    tmp_path: Path, budget: float, ratio: float
) -> None:
    found = chosen(Select(plan=written(tmp_path), budget=budget), MADE_OF)
    assert found.select == Select(value=ratio)
    assert found.told is not None
    assert (found.told["ratio"], found.told["pays"]) == (ratio, ratio < 1)


def test_a_report_says_where_the_ratio_comes_from(tmp_path: Path) -> None:
    path = written(tmp_path)
    some, everything = (chosen(Select(plan=path, budget=budget), MADE_OF).told for budget in (1000, 1e6))
    assert some is not None
    assert everything is not None
    assert planned(some) == f"25.0 %, by {path} for 1000 examples: keep"
    assert planned(everything) == f"everything, by {path} for 1e+06 examples: does not pay"


def test_the_share_is_of_examples_where_buckets_are_not_equal(tmp_path: Path) -> None:
    path = written(tmp_path, rows=[10, 10, 20, 60])
    assert chosen(Select(plan=path, budget=50_000), MADE_OF).select.value == 0.4


def test_the_content_of_the_plan_is_part_of_what_the_selection_depends_on(tmp_path: Path) -> None:
    first = chosen(Select(plan=written(tmp_path), budget=1000), MADE_OF)
    (tmp_path / "b").mkdir()
    copy = chosen(Select(plan=written(tmp_path / "b"), budget=1000), MADE_OF)
    other = chosen(Select(plan=written(tmp_path, draws=7), budget=1000), MADE_OF)
    assert first.lasting == copy.lasting
    assert first.select == other.select
    assert first.lasting != other.lasting
    # Without a plan nothing is added to what runs of earlier versions depended on.
    assert set(chosen(Select(), MADE_OF).lasting[0]) == {"method", "value", "quotas", "sample", "strata"}


@pytest.mark.parametrize(
    ("changes", "budget", "words"),
    [
        ({}, None, r"has 3 budgets: set select\.budget to one of 1000, 50000, 1e\+06"),
        ({}, 70, r"select\.budget 70 examples is not in .*: it has 1000, 50000, 1e\+06"),
        ({"made_of": MADE_OF | {"corpus": "x"}}, 1000, r"made with another `corpus` than this run has"),
        ({"made_of": MADE_OF | {"rank": "x"}}, 1000, r"made with another `rank`"),
        ({"made_of": MADE_OF | {"score": "x"}}, 1000, r"made with another `score`"),
        ({"made_of": MADE_OF | {"select.quotas": "x"}}, 1000, r"made with another `select.quotas`"),
        ({"advice": None} | {"budget_unit": None}, 1000, r"is no plan"),
        ({"seen_unit": "tokens"}, 1000, r"shares out tokens"),
    ],
)
def test_a_plan_that_does_not_serve_is_told_in_one_sentence(
    tmp_path: Path, changes: dict[str, Any], budget: float | None, words: str
) -> None:
    with pytest.raises(RaydeltError, match=words) as told:
        chosen(Select(plan=written(tmp_path, **changes), budget=budget), MADE_OF)
    assert "\n" not in str(told.value)


def test_what_is_no_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read"):
        chosen(Select(plan=str(tmp_path / "none.json")), MADE_OF)
    with pytest.raises(InputError, match=r"holds no plan: run `raydelt plan`"):
        chosen(Select(plan=str(tmp_path)), MADE_OF)
    for text in ("{", "[1]", "{}", "\x00"):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(InputError, match=r"is no plan"):
            chosen(Select(plan=str(tmp_path / "bad.json")), MADE_OF)


def test_another_model_is_told_and_not_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = written(tmp_path, made_of=MADE_OF | {"model": "x"})
    assert chosen(Select(plan=path, budget=1000), MADE_OF).select.value == 0.25
    assert "was made with another model" in caplog.text


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"budget": 5}, "budget is one of a plan's"),
        ({"plan": "p", "method": "top_k", "value": 5}, "drop method top_k"),
        ({"plan": "p", "strata": {}}, "drop strata"),
    ],
)
def test_a_plan_goes_with_a_ratio_alone(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Select(**fields)
