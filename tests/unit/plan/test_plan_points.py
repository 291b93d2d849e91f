"""Points: every form of table reads the same; what no law fits is refused, the rest cautioned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from raydelt.errors import InputError
from raydelt.plan.checks import cautions
from raydelt.plan.points import from_columns, noise, read, small_run

SEEN = [500.0, 1000.0, 2000.0, 4000.0]


def columns(**changes: Any) -> dict[str, list[Any]]:
    """Two good buckets of 1000 examples with two seeds."""
    found: dict[str, list[Any]] = {
        "bucket": ["a"] * 8 + ["b"] * 8,
        "seen": SEEN * 4,
        "unique": [1000.0] * 16,
        "seed": ([0] * 4 + [1] * 4) * 2,
        "loss": [3.0, 2.5, 2.2, 2.1, 3.02, 2.48, 2.22, 2.08, 3.2, 2.8, 2.6, 2.5, 3.18, 2.82, 2.58, 2.52],
    }
    found.update(changes)
    return found


def codes(**changes: Any) -> list[str]:
    return [caution.code for caution in cautions(from_columns(columns(**changes)))]


def test_good_points_pass_without_a_caution() -> None:
    points = from_columns(columns())
    assert cautions(points) == ()
    assert points.names == ("a", "b")
    np.testing.assert_array_equal(points.sizes, [1000, 1000])
    assert noise(points) == pytest.approx(0.0141, abs=2e-3)
    # Two seeds a cell: the variance of a pair is half of its squared difference.
    apart = np.diff(np.log(points.loss).reshape(2, 2, 4), axis=1)
    assert noise(points, relative=True) == pytest.approx(np.sqrt(np.mean(apart**2) / 2))


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".json", ".jsonl"])
def test_every_form_of_table_reads_the_same(tmp_path: Path, suffix: str) -> None:
    frame, path = pd.DataFrame(columns()), tmp_path / f"points{suffix}"
    rows = frame.to_dict("records")
    if suffix == ".parquet":
        frame.to_parquet(path)
    elif suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        path.write_text(json.dumps(rows) if suffix == ".json" else "\n".join(json.dumps(row) for row in rows))
    points, direct = read(path, unit="tokens"), from_columns(columns())
    np.testing.assert_array_equal(points.loss, direct.loss)
    assert (points.unit, points.names, points.metric) == ("tokens", direct.names, "loss")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": [float("nan")] + [2.0] * 15}, "`loss` is nan in row 1"),
        ({"loss": ["high"] + [2.0] * 15}, "`loss` is 'high' in row 1"),
        ({"loss": [-1.0] + [2.0] * 15}, "`loss` is -1 in row 1: it must be above 0"),
        ({"seen": [0.0, *(SEEN * 4)[1:]]}, "`seen` is 0 in row 1"),
        ({"unit": ["tokens"] * 8 + ["examples"] * 8}, "units examples, tokens"),
        ({"unit": ["bytes"] * 16}, "units bytes"),
        ({"pool": ["ratio"] * 8 + ["bucket"] * 8}, "has the pools bucket, ratio"),
        ({"pool": ["half"] * 16}, "has the pools half"),
        ({"pool": ["ratio"] * 16}, "the pools of the ratios a, b do not grow"),
        ({"bucket": ["a"] * 8 + ["b"] * 5 + ["c"] * 3}, "bucket 'c' is measured at 3 different"),
        ({"seen": [500.0, 1000.0, 2000.0, 2000.0] * 4}, "bucket 'a' is measured at 3 different"),
        ({"loss": [2.0, 2.1, 2.2, 2.3] * 4}, "does not fall"),
        ({"error": [0.5] * 16}, "2 of the columns `loss` and `error`"),
    ],
)
def test_what_no_law_fits_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_columns(columns(**changes))


def test_an_error_above_one_is_refused() -> None:
    given = columns()
    given["error"] = given.pop("loss")
    with pytest.raises(InputError, match="at most 1"):
        from_columns(given)


def test_a_missing_column_is_named() -> None:
    with pytest.raises(InputError, match="no column `unique`"):
        from_columns({name: values for name, values in columns().items() if name != "unique"})


@pytest.mark.parametrize(("name", "text"), [("a.csv", ""), ("a.json", "{"), ("a.txt", "x"), ("none.parquet", None)])
def test_what_is_no_table_is_refused(tmp_path: Path, name: str, text: str | None) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=name):
        read(tmp_path / name)


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("no_repeats", {"unique": [5000.0] * 8 + [1000.0] * 8}),
        ("only_repeats", {"unique": [400.0] * 8 + [1000.0] * 8}),
        ("one_seed", {"seed": [0] * 8 + [0] * 4 + [1] * 4, "seen": [*SEEN, 600, 1100, 2100, 4100] + SEEN * 2}),
        ("rising", {"loss": [3.0, 2.2, 2.5, 2.1, 3.02, 2.22, 2.48, 2.08] + [3.2, 2.8, 2.6, 2.5] * 2}),
        (
            "out_of_order",
            {"bucket": ["b"] * 8 + ["a"] * 8, "loss": [3.2, 2.8, 2.6, 2.5] * 2 + [3.0, 2.5, 2.2, 2.1] * 2},
        ),
        ("duplicates", {"seed": [0] * 16}),
    ],
)
def test_what_points_leave_open_is_cautioned(code: str, changes: dict[str, Any]) -> None:
    assert code in codes(**changes)


def test_a_rise_within_the_noise_of_seeds_is_no_caution() -> None:
    assert codes(loss=[3.0, 2.5, 2.10, 2.11, 3.1, 2.4, 2.2, 2.19] + [3.2, 2.8, 2.6, 2.5] * 2) == []


def test_the_small_run_ranks_buckets_at_the_most_seen_by_all() -> None:
    seen, ranked = small_run(from_columns(columns(seen=[*SEEN * 2, *[500.0, 1000.0, 2000.0, 3000.0] * 2])))
    assert seen == 2000
    assert [name for name, _ in ranked] == ["a", "b"]
    assert ranked[0][1] == pytest.approx(2.21)
