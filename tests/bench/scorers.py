"""All scorers of classifiers on the bundled digits with 10 % of labels flipped: the figures of docs/scorers.

One spec with all of them, settings as they come, proxies as in `jobs/quickstart.yaml`, over BENCH_SEEDS spec seeds
(3), each with a split, flips, folds and models of its own. For every column, means over the seeds of

    AUROC          of the flips against the clean by high values: 1 where every flip is high, 0 where every flip is low
    top, bottom    flips among the highest and the lowest tenth, as shares of that tenth (chance is 0.1)
    by difficulty  Spearman's correlation with `difficulty`
    nearest        the other column with the greatest correlation by size
    classes        the commonest true digit of the highest and the lowest tenth, with its share, at the first seed

and then the seconds of the stages, and of each scorer within the score stage, at the first seed.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from sklearn.metrics import roc_auc_score

from raydelt import cluster, pipeline
from raydelt.config import Cluster
from raydelt.report.parts import ScoredParts, component_columns, flips
from raydelt.specfile import validate

SEEDS = range(7, 7 + int(os.environ.get("BENCH_SEEDS", "3")))
KINDS = (
    *("difficulty", "consistency", "uncertainty", "grad_norm", "input_saliency", "dynamics", "target_alignment"),
    *("gradient_neighbours", "diversity", "prototype", "typicality", "near_duplicates", "sample_weight", "lqs"),
    *("lossval", "knn_shapley", "data_oob", "self_confidence", "lava", "random_values"),
)
TENTH = 0.1


def spec(folder: Path, seed: int) -> dict[str, Any]:
    """The spec of one seed, as plain data."""
    return {
        "name": "scorers",
        "seed": seed,
        "corpus": {
            "source": "builtin://digits",
            "noise": {"fraction": 0.1},
            "test": {"fraction": 0.2},
            "validation": {"fraction": 0.1},
        },
        "score": [{"kind": kind} for kind in KINDS],
        "rank": {"folds": 5, "rounds": 3, "proxy": {"epochs": 30, "batch_size": 32, "lr": 0.001}},
        "output": str(folder / str(seed)),
    }


def scored(run: pipeline.Run) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """The components of every example [n], which are flipped [n], and their true classes [n]."""
    corpus, scores = run.manifests["corpus"], run.manifests["scores"]
    parts, columns = ScoredParts.of(run.store, corpus, scores), component_columns(scores)
    found = pa.concat_tables([parts.scores_of(i, columns) for i in range(len(parts))]).to_pandas()
    labels = pa.concat_tables([parts.examples_of(i, ["label", "label_clean"]) for i in range(len(parts))])
    return found, flips(labels), labels["label_clean"].to_numpy()


def told(found: pd.DataFrame, flipped: np.ndarray) -> pd.DataFrame:
    """AUROC and shares of flips at either end, one row a column."""
    size = round(TENTH * len(found))
    rows = {}
    for name in found:
        order = np.argsort(found[name].to_numpy(), kind="stable")
        rows[name] = {
            "AUROC": roc_auc_score(flipped, found[name]),
            "top": flipped[order[-size:]].mean(),
            "bottom": flipped[order[:size]].mean(),
        }
    return pd.DataFrame(rows).T


def ends(values: np.ndarray, classes: np.ndarray) -> str:
    """The commonest class of the highest and of the lowest tenth."""
    order, size = np.argsort(values, kind="stable"), round(TENTH * len(values))
    names = []
    for rows in (order[-size:], order[:size]):
        counts = np.bincount(classes[rows])
        names.append(f"{counts.argmax()} ({counts.max() / size:.2f})")
    return " ".join(names)


def seconds(run: pipeline.Run) -> None:
    """Seconds of the stages, and of the scorers within the score stage."""
    for stage, own in run.seconds.items():
        print(f"stage {stage:24} {own:8.2f} s")
    for name, own in run.manifests["scores"].facts["took"]["seconds"].items():
        print(f"scorer {name:23} {own:8.3f} s")


def main() -> None:
    tables: list[pd.DataFrame] = []
    correlations: list[pd.DataFrame] = []
    first: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder, cluster.connected(Cluster()):
        for seed in SEEDS:
            run = pipeline.execute(validate(spec(Path(folder), seed)), until="scores")
            found, flipped, classes = scored(run)
            constant = [name for name in found if found[name].nunique() == 1]
            found = found.drop(columns=constant)
            tables.append(told(found, flipped))
            correlations.append(found.corr("spearman"))
            if not first:
                first = {name: ends(found[name].to_numpy(), classes) for name in found}
                print(f"{len(found)} examples, {flipped.sum()} flipped, {len(SEEDS)} seeds from {SEEDS[0]}")
                print(f"the same for every example: {', '.join(constant) or 'none'}")
                print(f"near-duplicates at epsilon 0.05: {found['near_duplicate'].sum():.0f}")
                seconds(run)
    show(tables, sum(correlations[1:], correlations[0]) / len(correlations), first)


def show(tables: list[pd.DataFrame], rho: pd.DataFrame, classes: dict[str, str]) -> None:
    """Means over the seeds, one line a column."""
    print("column | AUROC [least, most] | top | bottom | by difficulty | nearest by size | classes of both ends")
    for name in rho:
        own = pd.DataFrame([table.loc[name] for table in tables])
        mean, least, most = own.mean(), own["AUROC"].min(), own["AUROC"].max()
        nearest = rho[name].drop(name).abs().idxmax()
        print(
            f"{name} | {mean['AUROC']:.3f} [{least:.3f}, {most:.3f}] | {mean['top']:.2f} | {mean['bottom']:.2f} | "
            f"{rho.loc['difficulty', name]:+.2f} | {nearest} {rho.loc[nearest, name]:+.2f} | {classes[name]}"
        )


if __name__ == "__main__":
    main()
