"""Channels of drift: what is found in which, what they say together, and how often they cry wolf."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import kstest

from raydelt.config.monitor import Drift
from raydelt.examples import draw_keys
from raydelt.monitor.drift import Comparison, Side, compare, z_test
from raydelt.monitor.profile import Profile, ProfileOf, Sample

SPEC = Drift(permutations=199, rows=400)


def side(
    name: str, seed: int, *, n: int = 1000, score: float = 0.0, error: float | None = 0.2,
    classes: tuple[float, ...] = (0.5, 0.5), moved: float | None = 0.0,
) -> Side:  # fmt: skip
    rng = np.random.default_rng(seed)
    columns: dict[str, object] = {"example_id": [f"{name}{i}" for i in range(n)], "loss": rng.normal(score, 1, n)}
    columns["label"] = rng.choice([str(c) for c in range(len(classes))], n, p=classes)
    if error is not None:
        columns["error"] = (rng.random(n) < error).astype(float)
    table, kind = pa.table(columns), ProfileOf(("loss",))
    profile = kind.merge(kind.add(kind.zero(), table[: n // 3]), kind.add(kind.zero(), table[n // 3 :]))
    if moved is None:
        return Side(name, profile)
    sample = Sample(400, 1)
    return Side(name, profile, sample.add(sample.zero(), table["example_id"], rng.normal(moved, 1, (n, 3))))


def found(a: Side, b: Side, **more: bool) -> Comparison:
    return compare("arrivals", a, b, SPEC, seed=1, **more)


def test_nothing_drifts_where_nothing_changed() -> None:
    own = found(side("a", 1), side("b", 2))
    assert own.drifted == []
    assert own.concept is None
    assert {test.channel for test in own.tests} == {"feature", "label", "score", "error"}


@pytest.mark.parametrize(
    ("change", "channel"),
    [
        ({"score": 0.5}, "score"),
        ({"classes": (0.8, 0.2)}, "label"),
        ({"moved": 0.7}, "feature"),
        ({"error": 0.4}, "error"),
    ],
)
def test_each_change_is_found_in_its_own_channel_only(change: dict[str, float], channel: str) -> None:
    assert found(side("a", 1), side("b", 2, **change)).drifted == [channel]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"error": 0.4}, "concept drift"),
        ({"error": 0.4, "moved": 0.7}, "covariate drift, and the error rose"),
        ({"moved": 0.7}, "covariate drift"),
        ({"error": 0.4, "classes": (0.8, 0.2)}, "classes' shares"),
        ({"error": 0.4, "moved": None}, "without features"),
    ],
)
def test_channels_together_say_what_kind_of_drift(change: dict[str, float], words: str) -> None:
    assert words in str(found(side("a", 1), side("b", 2, **change)).concept)  # type: ignore[arg-type]


def test_a_fallen_error_is_no_concept_drift_and_the_same_examples_speak_of_the_model() -> None:
    assert found(side("a", 1, error=0.4), side("b", 2, error=0.2)).concept is None
    assert "model or the labels" in str(found(side("a", 1), side("b", 2, error=0.4), same=True).concept)


def test_a_difference_that_does_not_matter_is_slight() -> None:
    own = found(side("a", 1, n=40_000), side("b", 2, n=40_000, score=0.05))
    verdicts = {test.statistic: test.verdict for test in own.tests if test.channel == "score"}
    assert verdicts == {"PSI": "slight", "KS": "slight"}
    assert own.drifted == []


def test_p_values_of_equal_error_rates_are_uniform() -> None:
    p_values = [
        z_test(side("a", s, moved=None).profile, side("b", 10_000 + s, moved=None).profile)[1] for s in range(300)
    ]
    assert kstest(p_values, "uniform").pvalue > 0.01


def test_errors_without_variance() -> None:
    never, always = (side("x", 1, error=rate, moved=None).profile for rate in (0.0, 1.0))
    assert z_test(never, never) == (0.0, 1.0)
    assert z_test(never, always) == (1.0, 0.0)


def test_few_rows_new_classes_other_columns_and_bad_values_are_told() -> None:
    few = found(side("a", 1), side("b", 2, n=20))
    assert few.tests == []
    assert "fewer than monitor.drift.least_rows 50" in few.notes[-1]
    new = found(side("a", 1), side("b", 2, classes=(0.4, 0.4, 0.2)))
    assert "classes that a does not have: 2" in new.notes
    assert "label" in new.drifted
    kind = ProfileOf(("loss", "margin"))
    ids = [f"c{i}" for i in range(100)]
    loss = np.append(np.random.default_rng(0).normal(size=98), [np.nan, np.inf])
    table = pa.table({"example_id": ids, "loss": loss, "margin": np.zeros(100)})
    odd = found(side("a", 1), Side("c", kind.add(kind.zero(), table)))
    assert "2 values of loss in c are not finite, and were left out" in odd.notes
    assert "only c has margin" in odd.notes
    assert any("no error channel" in note for note in odd.notes)


def test_profiles_and_samples_depend_on_neither_order_nor_parts() -> None:
    rng = np.random.default_rng(0)
    ids = [f"x{i}" for i in range(500)]
    table = pa.table({"example_id": ids, "loss": rng.normal(size=500), "error": rng.random(500)})
    kind, sample, x = ProfileOf(("loss",)), Sample(50, 2), rng.normal(size=(500, 2))
    whole, rows = kind.add(kind.zero(), table), sample.add(sample.zero(), table["example_id"], x)
    state, drawn = kind.zero(), sample.zero()
    for own in np.array_split(rng.permutation(500), 6):
        state = kind.merge(kind.add(kind.zero(), table.take(pa.array(own))), state)
        drawn = sample.merge(
            sample.add(sample.zero(), pa.chunked_array([table["example_id"].take(own)]), x[own]), drawn
        )
    assert (state.judged, state.wrong, state.squares) == (whole.judged, whole.wrong, whole.squares)
    assert state.values["loss"].keys.tolist() == whole.values["loss"].keys.tolist()
    assert np.array_equal(drawn[0], rows[0])
    assert np.array_equal(drawn[1], rows[1])
    assert len(rows[0]) == 50
    error = table["error"].to_numpy()
    assert whole.error == pytest.approx(error.mean())
    assert whole.error_variance == pytest.approx(error.var(ddof=1))
    assert Profile().error is None
    assert len(set(draw_keys(ids).tolist())) == 500
