"""Samples and strata on Ray: what the definitions keep of everything at once, for any parts, with their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from raydelt import pipeline
from raydelt.config import Select
from raydelt.errors import SpecError
from raydelt.examples import draw_keys
from raydelt.select import strata
from raydelt.select.sampling import Gumbel, Poisson, Priority, log_weights
from tests.cluster.test_ranking import ROWS, Scored, ranked, scored, selected, table
from tests.flow import spec, write_digits
from tests.flow import table as flow_table

pytestmark = pytest.mark.usefixtures("ray_session")

K = 400
OPEN: dict[str, Any] = {"gate": None}


def kept(one: Scored, select: dict[str, Any], *, extent: str = "all", **combine: Any) -> dict[str, dict[str, Any]]:
    """The selected rows by id."""
    ranking = ranked(one, only=Select(**select) if extent == "kept" else None, **OPEN | combine)
    return {row["example_id"]: row for row in table(one, selected(one, ranking, **select)).to_pylist()}


def scores(one: Scored) -> dict[str, float]:
    """The combined scores: the mid-rank distribution function of the only component."""
    rows = table(one, ranked(one, **OPEN)).to_pylist()
    return {row["example_id"]: row["score"] for row in rows}


@pytest.mark.parametrize("method", ["poisson", "priority", "gumbel"])
def test_a_sample_is_what_its_keys_say_with_its_weights(tmp_path: Path, method: str) -> None:
    one = scored(tmp_path)
    sample = {"method": method, "temperature": 0.5}
    found = kept(one, {"method": "top_k", "value": K, "sample": sample})
    known = scores(one)
    ids, values = list(known), np.array(list(known.values()))
    log_w = log_weights(values, mean=values.mean(), std=values.std(), temperature=0.5)
    own: Any = {"poisson": Poisson(), "priority": Priority(), "gumbel": Gumbel()}[method]
    keys = own.keys(log_w, draw_keys(ids), 1)
    order = np.argsort(-keys)
    if method == "gumbel":
        assert {row["probability"] for row in found.values()} == {None}
        assert {row["weight"] for row in found.values()} == {1.0}
    else:
        probability = np.array([found[key]["probability"] for key in found])
        weight = np.array([found[key]["weight"] for key in found])
        np.testing.assert_allclose(weight, 1 / probability, rtol=1e-12)
    if method == "poisson":
        assert abs(len(found) - K) < 5 * np.sqrt(K)
        # The weights of the kept estimate the number of all examples.
        assert weight.sum() == pytest.approx(ROWS, rel=0.25)
        order = order[: len(found)]
    assert set(found) == {ids[i] for i in order[: len(found)]}
    if method != "poisson":
        assert len(found) == K
    if method == "priority":
        threshold = keys[order[K]]
        for i in order[:K]:
            assert found[ids[i]]["probability"] == pytest.approx(min(1.0, np.exp(log_w[i] - threshold)), rel=1e-9)


SELECTS: list[dict[str, Any]] = [
    {"method": "ratio", "value": 0.2, "sample": {"method": "priority"}},
    {"method": "ratio", "value": 0.2, "sample": {"method": "poisson", "temperature": 2.0}},
    {"method": "ratio", "value": 0.2, "strata": {"count": 10, "hardest": 0.2}},
]


@pytest.mark.parametrize("select", SELECTS)
def test_neither_parts_nor_extent_change_what_is_kept(tmp_path: Path, select: dict[str, Any]) -> None:
    names = ("weight", "probability", "reason")
    found = []
    for number, extent in ((1, "all"), (7, "all"), (3, "kept")):
        rows = kept(scored(tmp_path / f"{number}-{extent}", parts=number), select, extent=extent)
        found.append({key: [row[name] for name in names] for key, row in rows.items()})
    assert found[0] == found[1]
    assert found[0].keys() == found[2].keys()
    for key, (weight, _, reason) in found[0].items():
        assert weight == pytest.approx(found[2][key][0], rel=1e-9)
        assert reason == found[2][key][2]


def test_strata_keep_their_budgets_and_set_the_hardest_aside(tmp_path: Path) -> None:
    one = scored(tmp_path)
    found = kept(one, {"method": "top_k", "value": K, "strata": {"count": 10, "hardest": 0.25}})
    known = scores(one)
    ids = sorted(known, key=lambda key: (known[key], key))
    rest = ids[: ROWS - strata.set_aside(ROWS, 0.25)]
    values = np.array([known[key] for key in rest])
    place = strata.stratum(values, values.min(), values.max(), 10)
    budgets = strata.budgets(np.bincount(place, minlength=10), K)
    order = strata.draws(draw_keys(rest), 1)
    expected = {rest[i] for i in np.flatnonzero(strata.lowest(place, order, budgets))}
    assert set(found) == expected
    assert len(found) == K


def test_examples_below_the_gate_come_last_in_a_sample(tmp_path: Path) -> None:
    one = scored(tmp_path)
    gate = {"gate": {"component": "consistency", "at_least": 0.2}}
    found = kept(one, {"method": "top_k", "value": K, "sample": {"method": "gumbel"}}, **gate)
    passing = dict(zip(one.rows["example_id"], one.rows["consistency"] >= np.float32(0.2), strict=True))
    assert all(passing[key] for key in found)


def test_the_noise_at_the_cut_is_told(tmp_path: Path) -> None:
    rank = {"folds": 2, "rounds": 3, "proxy": {"epochs": 3}, "combine": {"gate": None}}
    source = write_digits(tmp_path / "in", rows=300)
    config = spec(source, tmp_path / "out", score=[{"kind": "difficulty"}], rank=rank)
    noise = pipeline.execute(config, until="selection").manifests["selection"].facts["noise"]
    rows = flow_table(tmp_path / "out", "ranking").to_pylist()
    kept = set(flow_table(tmp_path / "out", "selection")["example_id"].to_pylist())
    cut = min(row["score"] for row in rows if row["example_id"] in kept)
    near = [row["example_id"] for row in rows if abs(row["score"] - cut) <= row["score_se"]]
    assert noise["undecided_kept"] == len(kept.intersection(near)) > 0
    assert noise["undecided_left"] == len(set(near) - kept) > 0
    assert noise["share"] == pytest.approx(noise["undecided_kept"] / len(kept))
    wrong = [norm.cdf((cut - row["score"]) / row["score_se"]) for row in rows if row["example_id"] in kept]
    assert noise["expected_wrong"] == pytest.approx(np.nansum(wrong), rel=0.02)


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ({"quotas": {}, "sample": {"method": "gumbel"}}, "quotas and sample exclude each other"),
        ({"method": "threshold", "strata": {}}, "strata need method ratio or top_k"),
        ({"sample": {"method": "poisson", "temperature": 0}}, "temperature"),
    ],
)
def test_what_cannot_be_sampled_is_told(select: dict[str, Any], message: str) -> None:
    from raydelt.specfile import validate

    raw = {"name": "small", "corpus": {"source": "nowhere", "label_column": "y"}, "output": "out", "select": select}
    with pytest.raises(SpecError, match=message):
        validate(raw)
