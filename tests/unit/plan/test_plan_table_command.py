"""`raydelt plan table`: a plan without a run or Ray, and one sentence for tables that no law fits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from raydelt.cli.app import app
from raydelt.errors import RaydeltError
from tests.unit.plan.buckets import drawn_curves, measure

SEEN = [250.0, 500.0, 1000.0, 2000.0, 4000.0]


def good(**changes: Any) -> dict[str, list[Any]]:
    """Two buckets of 1000 examples with two seeds; the first has the lower loss at first."""
    loss = {"a": [3.0, 2.5, 2.2, 2.08, 2.05], "b": [3.4, 2.8, 2.4, 2.1, 1.95]}
    rows = [
        (name, seen, seed, loss[name][i] + 0.01 * seed)
        for name in loss
        for seed in (0, 1)
        for i, seen in enumerate(SEEN)
    ]
    found: dict[str, list[Any]] = dict(
        zip(("bucket", "seen", "seed", "loss"), map(list, zip(*rows, strict=True)), strict=True)
    )
    return found | {"unique": [1000.0] * len(rows)} | changes


def run(folder: Path, table: dict[str, list[Any]], *options: str) -> Result:
    path = folder / "points.parquet"
    pd.DataFrame(table).to_parquet(path)
    return CliRunner().invoke(app, ["plan", "table", str(path), "--draws", "5", *options])


def test_a_table_is_planned_for_every_budget(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    points = measure(drawn_curves(rng, 3), rng, seeds=3, point=0.002)
    table = {
        "bucket": [points.names[i] for i in points.bucket],
        "seen": points.seen,
        "unique": points.unique,
        "seed": points.seed,
        "loss": points.loss,
    }
    chart = tmp_path / "chart.png"
    budgets = ["--budget", "1e5", "--budget", "1e6", "--scoring", "5e3"]
    shown = run(tmp_path, table, *budgets, "--chart", str(chart))
    assert shown.exit_code == 0, shown.output
    assert "scoring costs 5 k examples" in shown.output
    assert chart.read_bytes().startswith(b"\x89PNG")
    plan = json.loads(run(tmp_path, table, *budgets, "--json").stdout)
    assert [one["budget"] for one in plan["advice"]] == [1e5, 1e6]
    assert [choice["seen"] for choice in plan["advice"][1]["choices"]] == [995e3, 995e3, 1e6]
    sized = run(tmp_path, table, *budgets, *["--size", "2e5"] * 3, "--json")
    assert json.loads(sized.stdout)["advice"][0]["choices"][2]["pool"] == 6e5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bucket": ["a"] * 10 + ["b"] * 3 + ["c"] * 7}, "bucket 'b' is measured at 3 different"),
        ({"loss": [float("nan"), *good()["loss"][1:]]}, "`loss` is nan in row 1"),
        ({"loss": [1.0 + 0.1 * i for i in range(20)]}, "does not fall"),
        ({"unit": ["examples"] * 10 + ["tokens"] * 10}, "is in the units examples, tokens"),
    ],
)
def test_a_table_that_no_law_fits_is_refused_in_one_sentence(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    done = run(tmp_path, good(**changes), "--budget", "5000")
    assert isinstance(done.exception, RaydeltError), done.output
    assert (done.exception.exit_code, "\n" in str(done.exception)) == (2, False)
    assert words in str(done.exception)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"unique": [1e5] * 20}, "no_repeats"),
        ({"bucket": ["b"] * 10 + ["a"] * 10, "loss": good()["loss"][10:] + good()["loss"][:10]}, "out_of_order"),
        ({"loss": [3.0, 2.5, 2.2, 2.08, 2.5] * 2 + good()["loss"][10:]}, "rising"),
        ({"loss": [2.0 * seen**-0.7 for seen in good()["seen"]]}, "at_bound"),
    ],
)
def test_what_leaves_a_plan_open_is_said_with_it(tmp_path: Path, changes: dict[str, Any], code: str) -> None:
    done = run(tmp_path, good(**changes), "--budget", "5000")
    assert done.exit_code == 0, done.exception
    assert f"caution ({code})" in done.stdout


def test_the_loss_is_what_counts_where_a_table_has_both(tmp_path: Path) -> None:
    both = good(error=[value / 10 for value in good()["loss"]])
    assert json.loads(run(tmp_path, both, "--budget", "5000", "--json").stdout)["metric"] == "loss"
    other = run(tmp_path, both, "--budget", "5000", "--metric", "error", "--json")
    assert json.loads(other.stdout)["metric"] == "error"
    missing = run(tmp_path, good(), "--budget", "5000", "--metric", "error")
    assert "has no column `error`" in str(missing.exception)


def test_a_budget_far_beyond_the_data_is_flagged(tmp_path: Path) -> None:
    done = run(tmp_path, good(), "--budget", "5000", "--budget", "16001")
    flags = [line.rsplit("  ", 1)[-1] for line in done.stdout.splitlines() if " top " in line]
    assert ["beyond_seen" in flag for flag in flags] == [False, False, True, True]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--budget", "-5"], "--budget"),
        (["--budget", "100", "--scoring", "200", "--size", "1"], "give one above 0 for each of the 2 buckets"),
        (["--budget", "100", "--unit", "flops"], "give plan.per_seen"),
        (["--budget", "100", "--gamma", "3"], "--gamma 3.0"),
        (["--budget", "100", "--chart", "x.pdf"], "charts are written as .svg or .png"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path: Path, options: list[str], words: str) -> None:
    done = run(tmp_path, good(), *options)
    assert isinstance(done.exception, RaydeltError), done.output
    assert words in str(done.exception)


def test_the_first_argument_that_names_no_command_is_a_spec() -> None:
    done = CliRunner().invoke(app, ["plan", "no-such-spec.yaml"])
    assert isinstance(done.exception, RaydeltError)
    assert "spec 'no-such-spec.yaml' does not exist" in str(done.exception)
    shown = CliRunner().invoke(app, ["plan", "--help"])
    assert all(name in shown.output for name in ("advise", "probe", "table"))
    assert CliRunner().invoke(app, ["plan", "probe", "no-such-spec.yaml"]).exit_code == 1
