"""What is searched follows from the spec, and every point of it is a spec that the command line can say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from raydelt.config import RunConfig
from raydelt.errors import SpecError
from raydelt.specfile import load
from raydelt.tune.space import Space, candidate, fragment, overrides, space_of, tidy
from tests.flow import spec

NO_MODEL = {"score": [{"kind": "diversity"}], "rank": {"combine": {"weights": {"diversity": 1}, "gate": None}}}


def spec_of(tune: dict[str, Any] | None = None, **changes: Any) -> RunConfig:
    return spec("in.parquet", "out", tune=tune or {}, **changes)


def drawn(space: Space, number: int) -> list[dict[str, Any]]:
    """Points of a space by chance."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=number))
    return [tidy(space, study.ask(space.axes).params) | space.fixed for _ in range(number)]


def test_the_space_has_the_components_that_the_scorers_give() -> None:
    space = space_of(spec_of())
    weights = {name for name in space.axes if name.startswith("weights.")}
    assert weights == {
        f"weights.{name}" for name in ("difficulty", "consistency", "diversity", "prototype_distance", "grad_norm")
    }
    assert space.axes["gate"] == CategoricalDistribution([None, 0.25, 0.5, 0.75])
    assert space.axes["folds"] == CategoricalDistribution([2, 4])
    assert space.axes["layers"] == CategoricalDistribution([1, 2, 3, 5, 8])
    assert space.own["weights.difficulty"] == 1.0
    assert space.own["weights.diversity"] == 0.0
    assert (space.own["ratio"], space.own["gate"]) == (0.5, 0.5)


def test_what_a_spec_has_not_is_not_searched() -> None:
    config = spec_of(
        score=[{"kind": "diversity"}],
        rank={"combine": {"weights": {"diversity": 1}, "gate": None}},
        select={"method": "top_k", "value": 50},
        order={"method": "sorted"},
        tune={"layers": "auto"},
    )
    with pytest.raises(SpecError, match="nothing to search"):
        space_of(config)


@pytest.mark.parametrize(
    ("tune", "changes", "words"),
    [
        ({"weights": {"dificulty": 0.5}}, {}, "no scorer of this spec gives the component 'dificulty'"),
        ({"ratio": [0.1, 0.2]}, {"select": {"method": "top_k", "value": 50}}, "select.method is top_k"),
        ({"layers": [1, 2]}, {"order": {"method": "sorted"}}, "not for order.method sorted"),
        ({"folds": [2, 3]}, NO_MODEL, "is for proxies"),
        ({"gate": [0.1, 0.2]}, NO_MODEL, "bars consistency"),
        (dict.fromkeys(("weights", "gate", "folds", "ratio", "layers"), "own"), {}, "nothing to search"),
        ({"weights": {"difficulty": 0}}, {}, "all 0"),
    ],
)
def test_a_space_that_cannot_be_is_refused(tune: dict[str, Any], changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        space_of(spec_of(tune, **changes))


@pytest.mark.parametrize(
    ("tune", "words"),
    [
        ({"ratio": {"low": 0.9, "high": 0.1}}, "tune.ratio.range: low 0.9 is above high 0.1"),
        ({"folds": [1, 5]}, "tune.folds: 1 is no value of folds"),
        ({"folds": {"low": 2, "high": 5, "step": 0.5}}, "tune.folds: a step of 0.5 leaves the whole numbers"),
        ({"layers": 2.5}, "tune.layers: 2.5 is no value of layers"),
        ({"ratio": 1.5}, "tune.ratio: 1.5 is no value of the ratio: give 0 to 1"),
        ({"ratio": 0}, "a ratio of 0 keeps nothing"),
        ({"ratio": [None]}, "null is no value of the ratio"),
        ({"gate": [0.5, 0.5]}, "listed twice"),
        ({"weights": {"difficulty": -1}}, "-1 is no value of the weight of difficulty"),
        ({"ratio": {"low": 0, "high": 1, "log": True}}, "log needs a low above 0"),
        ({"pruner": {"kind": "wilcoxon", "p": 0.1}}, "cannot prune before the last of 3 seeds"),
        ({"final_seeds": [1, 1]}, "each seed once"),
        ({"trails": 3}, "did you mean 'trials'"),
    ],
)
def test_a_wrong_section_is_refused_by_field_value_and_cure(tune: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        spec_of(tune)


def test_one_value_is_set_and_not_searched() -> None:
    space = space_of(spec_of({"ratio": 0.7, "layers": [2], "folds": {"low": 3, "high": 3}, "weights": "own"}))
    assert space.fixed == {"ratio": 0.7, "layers": 2, "folds": 3}
    assert set(space.axes) == {"gate"}
    config = candidate(spec_of(), {**space.fixed, "gate": None})
    assert (config.select.value, config.order.layers, config.rank.folds) == (0.7, 2, 3)
    assert config.rank.combine.gate is None


def test_ranges_are_ranges() -> None:
    tune = {"ratio": {"low": 0.1, "high": 0.9, "log": True}, "layers": {"low": 1, "high": 9, "step": 2}}
    axes = space_of(spec_of(tune)).axes
    assert axes["ratio"] == FloatDistribution(0.1, 0.9, log=True)
    assert axes["layers"] == IntDistribution(1, 9, step=2)


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"rank": {"folds": 2, "combine": {"weights": {"grad_norm": 2.0}, "gate": None}}},
        {"rank": {"combine": {"gate": {"component": "self_consistency", "at_least": 0.9}}}, "order": {"layers": 7}},
    ],
)
def test_the_overrides_of_a_point_make_the_spec_that_was_tried(tmp_path: Path, sections: dict[str, Any]) -> None:
    raw = {"name": "a", "output": "out", "corpus": {"source": "builtin://digits"}} | sections
    file = tmp_path / "spec.yaml"
    file.write_text(yaml.safe_dump(raw))
    config = load(file)
    space = space_of(config)
    for point in drawn(space, 20):
        tried = candidate(config, point)
        assert load(file, overrides(fragment(config, point))) == tried
        assert tried.select.value == point["ratio"]
        assert tried.rank.combine.weights["diversity"] == point["weights.diversity"]


def test_the_own_point_is_the_spec() -> None:
    config = spec_of()
    own = candidate(config, space_of(config).own)
    kept = {name: weight for name, weight in own.rank.combine.weights.items() if weight > 0}
    assert kept == config.rank.combine.weights
    assert own.rank.combine.gate == config.rank.combine.gate
    assert (own.select, own.order, own.rank.folds) == (config.select, config.order, config.rank.folds)


def test_weights_that_are_all_zero_are_no_spec() -> None:
    with pytest.raises(SpecError, match="weight above 0"):
        candidate(spec_of(), {"weights.difficulty": 0.0})
