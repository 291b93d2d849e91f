"""Does the order matter, and does the choice? Orders x scores x ratios against random and full, at equal steps.

Fashion-MNIST (images) and 20 Newsgroups (hashed words), of each 12,000 training and 4,000 test examples, 10 % of the
training labels flipped. Scores come from one run of the score stage; every arm then trains the same network for the
same steps from the same weights of its seed, in its order, which later epochs repeat. Differences are paired by seed.
Nothing is tuned here: recipes are the defaults, ratios and options of orders those of their authors. `BENCH_SEEDS`
seeds (10). Needs `make assets`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray

from raydelt import cluster, pipeline
from raydelt.config import Cluster, Order, Recipe
from raydelt.examples import LABEL, column_of, features_of
from raydelt.order.orders import ranks_at
from raydelt.scorers.protocol import Array
from raydelt.specfile import validate
from raydelt.storage import Store
from raydelt.train.compare import paired
from tests import classified
from tests.bench.classifiers import MODEL, Splits, accuracy_on, rows_of

SEEDS = range(int(os.environ.get("BENCH_SEEDS", "10")))
STEPS = int(os.environ.get("BENCH_ORDER_STEPS", "750"))
RATIOS = (0.3, 0.5, 1.0)
SCORES = ("difficulty", "grad_norm", "prototype_distance")
RECIPE = Recipe()
ORDERS = {
    "shuffled": Order(method="shuffled"),
    "sorted": Order(method="sorted"),
    "descending": Order(method="sorted", descending=True),
    "folding": Order(method="folding"),
    "zigzag": Order(method="zigzag"),
    "segment": Order(method="segment"),
    "stair": Order(method="stair"),
    "saw": Order(method="saw"),
    "folding, window 64": Order(method="folding", window=64),
}


@dataclass(frozen=True)
class Data(Splits):
    """The splits, and the training rows [n] from the lowest to the highest by score."""

    ranked: dict[str, Array]


@dataclass(frozen=True)
class Arm:
    """What is trained on: the best share by a score in an order; at random without a score."""

    score: str | None
    ratio: float
    order: str

    @property
    def name(self) -> str:
        return f"{self.score or 'random'} {self.ratio:.0%}, {self.order}"

    def rows(self, data: Data, seed: int) -> Array:
        """Rows of the data in training order."""
        n = len(data.y)
        k = round(self.ratio * n)
        if self.score is None:
            return np.random.default_rng([1, seed]).permutation(n)[:k]
        best = data.ranked[self.score][n - k :]
        return best[ranks_at(np.arange(k), k, ORDERS[self.order], seed=seed)]


def arms() -> Iterator[Arm]:
    """The baselines first: a random part for every ratio, the last of which is everything."""
    yield from (Arm(None, ratio, "shuffled") for ratio in RATIOS)
    yield from (Arm(s, r, o) for s in SCORES for r in RATIOS for o in ORDERS if (r, o) != (1.0, "shuffled"))


def scored(name: str, folder: Path) -> Data:
    """The training and test split of a data set, with its rankings."""
    train, test = classified.split(name)
    for split, table in (("train", train), ("test", test)):
        (folder / split).mkdir(parents=True)
        pq.write_table(table, folder / split / "0.parquet")
    columns = {"text_column": "text"} if "text" in train.column_names else {"feature_columns": ["pixels"]}
    config = validate(
        {
            "name": name,
            "corpus": {
                "source": str(folder / "train"),
                "label_column": "label",
                "noise": {"fraction": 0.1},
                "test": {"source": str(folder / "test")},
                **columns,
            },
            "model": MODEL.model_dump(),
            "score": [{"kind": kind} for kind in ("difficulty", "consistency", "grad_norm", "prototype")],
            "rank": {"folds": 3, "rounds": 2, "proxy": {"epochs": 5}},
            "output": str(folder / "run"),
        }
    )
    pipeline.execute(config, until="scores")
    store = Store(config.output)
    corpus, scores = (rows_of(store, stage) for stage in ("corpus", "scores"))
    held_out = rows_of(store, "corpus", "test")
    passing = column_of(scores, "consistency") >= 0.5
    ranked = {name: np.lexsort((column_of(scores, name), passing)) for name in SCORES}
    return Data(
        features_of(corpus), column_of(corpus, LABEL), features_of(held_out), column_of(held_out, LABEL), ranked
    )


def accuracy(data: Data, arm: Arm, seed: int) -> float:
    """Test accuracy after training on an arm."""
    return accuracy_on(data, arm.rows(data, seed), RECIPE, steps=STEPS, seed=seed)


def main() -> None:
    with cluster.connected(Cluster()):
        for name in classified.NAMES:
            with tempfile.TemporaryDirectory() as folder:
                data = scored(name, Path(folder))
            compare(name, data)


def compare(name: str, data: Data) -> None:
    """Train all arms and print their table."""
    chosen, held = list(arms()), ray.put(data)
    print(f"\n{name}: {len(data.y)} examples, {len(chosen)} arms x {len(SEEDS)} seeds, {STEPS} steps each", flush=True)
    calls = [(held, arm, seed) for arm in chosen for seed in SEEDS]
    found = np.asarray(cluster.parallel(accuracy, calls, label="train arms")).reshape(len(chosen), len(SEEDS))
    by_arm: dict[Arm, Any] = dict(zip(chosen, 100 * found, strict=True))
    print(f"{'arm':36}  accuracy   - random part of this size   - everything, shuffled   - the same, shuffled")
    for arm, values in by_arm.items():
        line = f"{arm.name:36}  {values.mean():7.2f} %"
        same = Arm(None if arm.ratio == 1.0 else arm.score, arm.ratio, "shuffled")
        for baseline in dict.fromkeys((Arm(None, arm.ratio, "shuffled"), Arm(None, 1.0, "shuffled"), same)):
            d = paired(values, by_arm[baseline])
            line += "" if arm == baseline else f"   {d.mean:+6.2f} [{d.low:+.2f}, {d.high:+.2f}]"
        print(line, flush=True)


if __name__ == "__main__":
    main()
