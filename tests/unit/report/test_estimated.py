"""The page and the terminal put an estimate beside what was measured, where there is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from raydelt.report.console import estimated_lines
from raydelt.report.page import render

ROWS = [
    {"what": "scores", "unit": "seconds", "estimated": 8.0, "actual": 10.0, "ratio": 1.25},
    {"what": "total", "unit": "seconds", "estimated": 100.0, "actual": 90.0, "ratio": 0.9},
    {"what": "peak memory", "unit": "bytes", "estimated": 2**31, "actual": 3 * 2**30, "ratio": 1.5},
    {"what": "object store", "unit": "bytes", "estimated": 0, "actual": 2**20, "ratio": None},
]


def test_the_page_has_a_table_of_the_estimate_only_where_there_is_one(finished: Callable[..., Any]) -> None:
    summary = finished().summary()
    plain = render(summary)
    page = render(summary | {"estimated": ROWS})
    assert "raydelt estimate" not in plain
    for told in ("raydelt estimate", "peak memory", "3 GiB", "2 GiB", "1.50", "1.25", "0.90"):
        assert told in page


def test_the_terminal_tells_totals_and_no_single_stages() -> None:
    assert estimated_lines(ROWS)[1:] == [
        "peak memory 3 GiB, 2 GiB estimated (ratio 1.50)",
        "object store 1 MiB, 0 bytes estimated",
    ]
    assert estimated_lines(ROWS)[0].startswith("total ")
    assert estimated_lines([]) == []


@pytest.mark.parametrize(("number", "told"), [(512, "512 bytes"), (3 << 19, "1.5 MiB"), (2000 << 30, "2,000 GiB")])
def test_bytes_read_well(number: float, told: str) -> None:
    from raydelt.report.wording import size

    assert size(number) == told
