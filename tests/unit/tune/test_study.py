"""The next trial is a function of the trials before it, and nothing else; pruners do what their definitions say."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from raydelt.config import Tune
from raydelt.tune.space import Space, space_of
from raydelt.tune.study import Trial, best_of, generation_of, gives_up, proposals
from tests.flow import spec

SPACE = space_of(spec("in.parquet", "out"))


def value_of(point: dict[str, Any], seed: int) -> float:
    """A made-up objective with a best ratio and a best layer, and noise that a seed shares among trials."""
    return abs(point["ratio"] - 0.3) + 0.05 * (point["layers"] != 2) + 0.01 * math.sin(7 * seed)


def searched(tune: Tune, finished: dict[int, Trial], until: int, space: Space = SPACE) -> dict[int, Trial]:
    """A search up to a number of trials, going on from those that are done."""
    for number in range(until):
        generation = generation_of(number, tune.at_once)
        point = proposals(space, tune, list(finished.values()), generation)[number - generation.start]
        if number in finished:
            continue
        values: list[float] = []
        state = "complete"
        for seed in range(tune.seeds):
            values.append(value_of(point, seed))
            if len(values) < tune.seeds and gives_up(space, tune, list(finished.values()), number, values):
                state = "pruned"
                break
        finished[number] = Trial(number, point, state, values, 10, 1.0)  # type: ignore[arg-type]
    return finished


@pytest.mark.parametrize("at_once", [1, 4])
@pytest.mark.parametrize("kind", ["median", "wilcoxon", "none"])
def test_a_search_that_is_resumed_proposes_what_it_would_have(at_once: int, kind: Any) -> None:
    tune = Tune.model_validate({"at_once": at_once, "seeds": 4, "pruner": {"kind": kind, "p": 0.2, "start_trials": 2}})
    whole = searched(tune, {}, 22)
    assert len({str(trial.point) for trial in whole.values()}) == 22
    for kept in (1, 6, 13):
        resumed = searched(tune, {number: whole[number] for number in range(kept)}, 22)
        assert resumed == whole
    # A generation of which some are done, in whatever order, is completed to the same.
    holes = {number: trial for number, trial in whole.items() if number not in (17, 19, 20, 21)}
    assert searched(tune, dict(reversed(holes.items())), 22) == whole


def test_times_do_not_matter_and_the_seed_does() -> None:
    tune = Tune()
    whole = searched(tune, {}, 14)
    slower = {n: dataclasses.replace(trial, seconds=99.0 * n) for n, trial in whole.items()}
    again = proposals(SPACE, tune, list(slower.values()), range(14, 15))
    assert again == proposals(SPACE, tune, list(whole.values()), range(14, 15))
    other = tune.model_copy(update={"sampler_seed": 1})
    assert proposals(SPACE, other, list(whole.values()), range(14, 15)) != again


def test_the_first_trial_is_the_spec_itself_even_outside_of_the_space() -> None:
    space = space_of(spec("in.parquet", "out", tune={"ratio": [0.2, 0.3], "layers": [1, 2]}))
    assert proposals(space, Tune(), [], generation_of(0, 3)) == [space.own]
    assert space.own["ratio"] == 0.5
    finished = searched(Tune(), {}, 12, space)
    assert {trial.point["ratio"] for trial in finished.values() if trial.number > 0} == {0.2, 0.3}


def test_failed_trials_are_not_learnt_from() -> None:
    tune = Tune()
    whole = searched(tune, {}, 14)
    failed = whole | {13: dataclasses.replace(whole[13], state="failed", values=[])}
    without = {number: trial for number, trial in whole.items() if number < 13}
    generation = range(14, 15)
    assert proposals(SPACE, tune, list(failed.values()), generation) == proposals(
        SPACE, tune, list(without.values()), generation
    )


@pytest.mark.parametrize("seen", [1, 2, 3])
def test_the_median_pruner_compares_means_over_the_same_seeds(seen: int) -> None:
    tune = Tune.model_validate({"seeds": 4, "pruner": {"start_trials": 3}})
    rng = np.random.default_rng(3)
    # Seed 0 is easy: only a comparison on the same seeds is fair.
    table = rng.random((40, 4)) + np.array([0.0, 2.0, 2.0, 2.0])
    finished = [Trial(n, SPACE.own, "complete", list(table[n]), 1, 1.0) for n in range(6)]
    median = np.median(table[:6, :seen].mean(axis=1))
    told = [gives_up(SPACE, tune, finished, 6, list(values[:seen])) for values in table[6:]]
    assert told == [bool(values[:seen].mean() > median) for values in table[6:]]
    assert True in told
    assert False in told
    assert not gives_up(SPACE, tune, finished[:2], 6, [99.0])


def test_the_wilcoxon_pruner_tests_against_the_best_trial_seed_by_seed() -> None:
    tune = Tune.model_validate({"seeds": 6, "pruner": {"kind": "wilcoxon", "p": 0.1}})
    rng = np.random.default_rng(1)
    table = rng.random((60, 6))
    finished = [Trial(n, SPACE.own, "complete", list(table[n]), 1, 1.0) for n in range(4)]
    best = np.asarray(best_of(finished).values)
    assert best.mean() == table[:4].mean(axis=1).min()
    told = []
    for values in table[4:]:
        worse = stats.wilcoxon(values[:5] - best[:5], alternative="greater", zero_method="zsplit").pvalue < 0.1
        expected = bool(worse and values[:5].mean() > best.mean())
        told.append(expected)
        assert gives_up(SPACE, tune, finished, 4, list(values[:5])) == expected
    assert True in told
    assert False in told


def test_the_spec_itself_is_never_given_up_and_wins_ties() -> None:
    assert not gives_up(SPACE, Tune(), [], 0, [9e9])
    tied = [Trial(n, SPACE.own, "complete", [0.1, 0.2], 1, 1.0) for n in (2, 0, 1)]
    assert best_of(tied).number == 0


@pytest.mark.parametrize(("at_once", "expected"), [(1, [0, 1, 2, 3]), (3, [0, 1, 1, 1, 4, 4, 4, 7])])
def test_generations_part_the_trials(at_once: int, expected: list[int]) -> None:
    assert [generation_of(number, at_once).start for number in range(len(expected))] == expected
