"""The one look at the test split: the winner against the spec as it is, at the full budget, paired over seeds.

Both train for the same number of steps from the same initial weights. What every training measures is kept as soon as
it is known, and so is what the split said of a winner: the same winner is not put to it twice, and another one, after
a longer search or one of another space, is told how many came before it. Cost: 2 x seeds trainings.

Caution: it knows only of looks in this run directory.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from raydelt import __version__, cluster
from raydelt.config import RunConfig
from raydelt.storage import Store, fingerprint
from raydelt.train.compare import paired
from raydelt.train.loop import Work
from raydelt.tune import verdict
from raydelt.tune.objective import FOLDER, Sums, launched
from raydelt.tune.telling import metric_of

log = logging.getLogger(__name__)


def final_seeds(config: RunConfig) -> list[int]:
    """The seeds of the comparison."""
    return config.tune.final_seeds or config.train.seeds


def judged(config: RunConfig, store: Store, default: Work, winner: Work, *, steps: int) -> dict[str, Any]:
    """The verdict and what it rests on, as plain data."""
    seeds, arms = final_seeds(config), {"default": default, "winner": winner}
    metric = "accuracy" if metric_of(config) == "error" else "loss"
    c = config.resolved()
    trained = [config.train.lasting(), c["model"], c["order"]["later_epochs"], steps]
    keys = {
        arm: fingerprint([__version__, work.replicates[0].order.digest, trained])[:10] for arm, work in arms.items()
    }
    place = f"{fingerprint([keys, seeds, metric])[:10]}.json"
    past = store.at(f"{FOLDER}/verdicts")
    if past.exists(place):
        return dict(past.read_json(place))
    log.info("the winner and the spec as it is train for %d steps, %d seeds each", steps, len(seeds))
    looks = 1 + len(past.names())
    sums = _trained(store.at(f"{FOLDER}/final"), arms, keys, seeds, steps)
    told = _compared(sums, metric, looks) | {
        "rows": {arm: work.replicates[0].order.rows for arm, work in arms.items()},
    }
    past.write_json(place, told)
    return told


def _trained(
    store: Store, arms: dict[str, Work], keys: dict[str, str], seeds: Sequence[int], steps: int
) -> dict[str, list[Sums]]:
    """What the trainings of each arm measure on the test split, seed by seed."""
    known = set(store.names())
    names = {arm: [f"{keys[arm]}-{seed}.json" for seed in seeds] for arm in arms}
    pending = [
        (name, launched(arms[arm], index, seeds[index], steps, arms[arm].test_files))
        for arm, own in names.items()
        for index, name in enumerate(own)
        if name not in known
    ]
    for name, reference in pending:
        store.write_json(name, cluster.fetched([reference])[0])
    return {arm: [store.read_json(name) for name in own] for arm, own in names.items()}


def _compared(sums: dict[str, list[Sums]], metric: str, looks: int) -> dict[str, Any]:
    """The difference of the arms with its interval, and what may be claimed of it."""
    name = "hits" if metric == "accuracy" else "loss"
    table = {arm: [one[name] for one in own] for arm, own in sums.items()}
    values = {arm: [sum(one[name]) / sum(one["count"]) for one in own] for arm, own in sums.items()}
    difference = verdict.compared(table["winner"], table["default"], sums["winner"][0]["count"], looks=looks)
    return {
        "verdict": verdict.told(difference, higher_is_better=metric == "accuracy"),
        "metric": metric,
        **asdict(difference),
        "looks": looks,
        "seeds_alone": asdict(paired(values["winner"], values["default"])),
        "values": values,
    }
