"""Which rule of selection `raydelt init` should write: half of a corpus by several rules, against a random half.

Five sets of numbers (letter, satellite, optdigits, penbased, texture), 80 % for training, as they are and with 10 %
of the training labels flipped; scores from the score stage as `init` writes it, then a network as `init` writes it
for the steps that `init` writes, from the same weights of its seed. Differences are paired by seed; the last lines
are over all sets. Fashion-MNIST, SpamAssassin and 20 Newsgroups, of which the README tells, have no part in it.
`BENCH_SEEDS` seeds (10). Needs `make assets`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from raydelt import cluster, pipeline
from raydelt.config import Cluster, Recipe
from raydelt.examples import LABEL, column_of, features_of
from raydelt.scorers.protocol import Array
from raydelt.select import strata
from raydelt.setup.sizes import KEPT, Sizes, sizes
from raydelt.specfile import validate
from raydelt.storage import Store
from raydelt.train.compare import paired
from tests import valued
from tests.bench.classifiers import MODEL, Splits, accuracy_on, rows_of

SEEDS = range(int(os.environ.get("BENCH_SEEDS", "10")))
NAMES = ("letter", "satellite", "optdigits", "penbased", "texture")
NOISES = (0.0, 0.1)
HELD_OUT, HARDEST = 0.2, 0.1


@dataclass(frozen=True)
class Data(Splits):
    """The splits, and of the training rows [n] the difficulty's rank in [0, 1] and the gate."""

    rank: Array
    passing: Array
    sizes: Sizes


def at_random(data: Data, rng: np.random.Generator) -> Array:
    return rng.permutation(len(data.y))[: _half(data)]


def hardest(data: Data, rng: np.random.Generator) -> Array:
    """The hardest half behind the gate."""
    return np.lexsort((data.rank, data.passing))[-_half(data) :]


def by_strata(data: Data, rng: np.random.Generator) -> Array:
    """All difficulties alike but for the hardest tenth; no gate."""
    within = np.flatnonzero(data.rank <= np.quantile(data.rank, 1 - HARDEST))
    own = strata.stratum(data.rank[within], 0.0, float(data.rank[within].max()))
    budgets = strata.budgets(np.bincount(own, minlength=strata.STRATA), _half(data))
    draws = rng.integers(0, 2**63, len(within)).astype(np.uint64)
    return within[strata.lowest(own, draws, budgets)]


def drawn(temperature: float) -> Callable[[Data, np.random.Generator], Array]:
    """Half of the examples behind the gate, the harder the likelier (Gumbel top-k)."""

    def draw(data: Data, rng: np.random.Generator) -> Array:
        z = (data.rank - data.rank.mean()) / data.rank.std()
        return np.lexsort((z / temperature + rng.gumbel(size=len(z)), data.passing))[-_half(data) :]

    return draw


RULES: dict[str, Callable[[Data, np.random.Generator], Array]] = {
    "random": at_random,
    "hardest behind the gate": hardest,
    "strata": by_strata,
    "drawn behind the gate, temperature 0.5": drawn(0.5),
    "drawn behind the gate, temperature 1": drawn(1.0),
    "drawn behind the gate, temperature 2": drawn(2.0),
    "any behind the gate": drawn(1e9),
}


def _half(data: Data) -> int:
    return round(KEPT * len(data.y))


def scored(name: str, noise: float, folder: Path) -> Data:
    """The splits of a data set, and what the score stage finds with the spec of `init`."""
    x, y = valued.load(name)
    order = np.random.default_rng(0).permutation(len(y))
    held = round(HELD_OUT * len(y))
    for split, rows in (("test", order[:held]), ("train", order[held:])):
        (folder / split).mkdir(parents=True)
        column = pa.FixedSizeListArray.from_arrays(pa.array(x[rows].ravel()), x.shape[1])
        pq.write_table(pa.table({"x": column, "label": y[rows]}), folder / split / "0.parquet")
    size = sizes(len(y) - held, held_out=0.0)
    config = validate(
        {
            "name": name,
            "corpus": {
                "source": str(folder / "train"),
                "feature_columns": ["x"],
                "label_column": "label",
                "test": {"source": str(folder / "test")},
                "noise": {"fraction": noise} if noise else None,
            },
            "model": MODEL.model_dump(),
            "score": [{"kind": "difficulty"}, {"kind": "consistency", "variants": 5}],
            "rank": {
                "folds": size.folds,
                "rounds": size.rounds,
                "proxy": {"epochs": size.epochs, "batch_size": size.batch, "lr": 0.001},
            },
            "output": str(folder / "run"),
        }
    )
    pipeline.execute(config, until="scores")
    store = Store(config.output)
    corpus, scores = (rows_of(store, stage) for stage in ("corpus", "scores"))
    test = rows_of(store, "corpus", "test")
    difficulty = column_of(scores, "difficulty")
    rank = difficulty.argsort(kind="stable").argsort() / (len(difficulty) - 1)
    passing = column_of(scores, "consistency") >= 0.5
    train, other = (features_of(corpus), column_of(corpus, LABEL)), (features_of(test), column_of(test, LABEL))
    return Data(*train, *other, rank, passing, size)


def accuracy(data: Data, rule: str | None, seed: int) -> float:
    """Test accuracy, %, after training on what a rule keeps; on everything without one."""
    rng = np.random.default_rng([3, seed])
    rows = rng.permutation(np.arange(len(data.y)) if rule is None else RULES[rule](data, rng))
    recipe = Recipe(batch_size=data.sizes.batch)
    return 100 * accuracy_on(data, rows, recipe, steps=data.sizes.steps, seed=seed)


def main() -> None:
    with cluster.connected(Cluster()):
        for noise in NOISES:
            _compare(noise)


def _compare(noise: float) -> None:
    """A table of all sets for one share of wrong labels: accuracies, and differences to a random half."""
    arms = [*RULES, None]
    found = np.empty((len(NAMES), len(arms), len(SEEDS)))
    for place, name in enumerate(NAMES):
        with tempfile.TemporaryDirectory() as folder:
            data = scored(name, noise, Path(folder))
        held = ray.put(data)
        calls = [(held, arm, seed) for arm in arms for seed in SEEDS]
        found[place] = np.reshape(cluster.parallel(accuracy, calls, label="train"), found.shape[1:])
    print(f"\n{noise:.0%} wrong labels; accuracy of half, - a random half [95 %] over {len(SEEDS)} seeds")
    for at, arm in enumerate(arms):
        line = f"{arm or 'everything':40}"
        for place, name in enumerate(NAMES):
            d = paired(found[place, at], found[place, 0])
            line += f"  {name} {found[place, at].mean():.2f} ({d.mean:+.2f} [{d.low:+.2f}, {d.high:+.2f}])"
        print(f"{line}  all {np.mean(found[:, at] - found[:, 0]):+.2f}", flush=True)


if __name__ == "__main__":
    main()
