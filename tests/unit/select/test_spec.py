"""What a spec may say about exclusions and budgets, and how it is told when it may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raydelt.config import Select
from raydelt.errors import SpecError
from raydelt.select.budget import kept
from tests.flow import spec


def test_an_exclusion_names_a_component_and_one_bar(tmp_path: Path) -> None:
    exclude = [{"component": "consistency", "below": 0.25}]
    config = spec("in", tmp_path, rank__combine={"exclude": exclude})
    assert config.rank.combine.exclude[0].below == 0.25
    assert config.rank.combine.exclude[0].above is None


@pytest.mark.parametrize("bars", [{}, {"above": 0.5, "below": 0.1}])
def test_an_exclusion_without_one_bar_is_refused(tmp_path: Path, bars: dict[str, float]) -> None:
    with pytest.raises(SpecError, match="component 'consistency' needs one bar: give either `above` or `below`"):
        spec("in", tmp_path, rank__combine={"exclude": [{"component": "consistency", **bars}]})


def test_an_exclusion_by_a_component_that_is_not_scored_is_refused(tmp_path: Path) -> None:
    exclude = [{"component": "consistency", "below": 0.1}, {"component": "near_duplicates", "above": 0.5}]
    with pytest.raises(SpecError, match=r"rank\.combine\.exclude\.1\.component: no scorer .* 'near_duplicates'"):
        spec("in", tmp_path, rank__combine={"exclude": exclude})


@pytest.mark.parametrize("value", [0, 0.5, 10.5, -3])
def test_a_token_budget_is_a_whole_number(value: float) -> None:
    with pytest.raises(ValueError, match="must be a whole number of at least 1 when method is token_budget"):
        Select(method="token_budget", value=value)


def test_a_token_budget_needs_a_language_model(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"token_budget counts tokens, and model\.kind classifier has none"):
        spec("in", tmp_path, select={"method": "token_budget", "value": 1000})


@pytest.mark.parametrize("method", ["threshold", "token_budget"])
def test_quotas_need_a_number_of_examples(method: Any) -> None:
    with pytest.raises(ValueError, match=f"quotas need method ratio or top_k: a {method} fixes no number to share"):
        Select(method=method, value=3, quotas={"share": "balanced"})  # type: ignore[arg-type]


def test_top_k_above_what_exclusions_leave_is_refused_with_the_cure() -> None:
    with pytest.raises(SpecError, match=r"leave of 12: use at most 9, or exclude fewer"):
        kept(Select(method="top_k", value=10), 9, excluded=3)


def test_keeping_none_is_refused() -> None:
    with pytest.raises(SpecError, match=r"select\.value 0 keeps nothing: use at least 1"):
        kept(Select.model_construct(method="top_k", value=0.0), 9)
