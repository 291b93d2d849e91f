"""Which documents of a mixed corpus are worth training on: `jobs/lm_quality.yaml`, and what its scores are worth.

First the distribution of every score by source, and how well each tells good documents from bad (AUROC). Then fresh
models of the same shape, trained on the same number of tokens: the best 30 % by each score, and for the trajectory
score also its orders, beside orders that tell nothing (the score negated, the length), a random part, and everything.
Needs `make assets`; trained arms are kept in the run directory, and BENCH_ARMS is a regular expression of those to
train. The settings of the job were chosen on `tuning.parquet`, which shares no document with the corpus.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from sklearn.metrics import roc_auc_score

from raydelt import cluster, pipeline
from raydelt.config import Cluster, RunConfig
from raydelt.specfile import load
from raydelt.storage import Store, fingerprint, read_manifest
from tests import graded
from tests.bench.lm_quality_training import Settings, arms, compare, ngram_perplexity, table

SEEDS = range(int(os.environ.get("BENCH_SEEDS", "5")))
PASSES = float(os.environ.get("BENCH_PASSES", "1"))
ARMS = re.compile(os.environ.get("BENCH_ARMS", ""))
RATIO = 0.3
SPEC = "jobs/lm_quality.yaml"
BAD = ["html", "headers", "shuffled"]
SCORES = ("lqs", "pds", "quality", "learnability", "reducible loss", "low loss", "low perplexity", "length")
TRAINED = ("lqs", "pds", "reducible loss", "low perplexity")
# Chosen on `tuning.parquet`: what learns most from so few tokens.
SETTINGS = Settings(batch=8, rate=3e-3)


def scored(config: RunConfig) -> pd.DataFrame:
    """Every scored document with its source, grade, scores, and the two scores that need no model of ours."""
    store = Store(config.output)
    documents = _rows(store, "corpus")[["example_id", "text"]]
    sources = pd.read_parquet(config.corpus.sources[0])
    found = documents.merge(_rows(store, "scores"), on="example_id").merge(sources, on="text")
    found["low loss"] = -found["loss"]
    # The sign that RHO-LOSS gives it: the learner's loss less the reference's.
    found["reducible loss"] = -found["excess_loss"]
    found["low perplexity"] = -ngram_perplexity(found["text"].tolist())
    found["length"] = found["text"].str.split().str.len()
    return found


def _rows(store: Store, stage: str) -> pd.DataFrame:
    manifest = read_manifest(store, stage)
    assert manifest is not None, f"{stage} is not published"
    return pa.concat_tables([store.read_table(part.file) for part in manifest.parts]).to_pandas()


def separation(found: pd.DataFrame, score: str, bad: list[str]) -> float:
    """AUROC of a score for edited prose against documents of these sources."""
    good = found["source"] == "edited"
    chosen = found[good | found["source"].isin(bad)]
    return float(roc_auc_score(chosen["source"] == "edited", chosen[score]))


def print_scores(found: pd.DataFrame) -> None:
    """Distributions by source, and AUROCs."""
    print(f"{'score':16}" + "".join(f"{source:>26}" for source in graded.GRADES))
    for score in SCORES:
        quartiles = found.groupby("source")[score].quantile([0.25, 0.5, 0.75]).unstack()
        cells = (quartiles.loc[source].tolist() for source in graded.GRADES)
        print(f"{score:16}" + "".join(f"{m:>10.3g} [{low:.3g}, {high:.3g}]".rjust(26) for low, m, high in cells))
    print(f"\nAUROC of edited prose against  {'all three':>10}" + "".join(f"{b:>10}" for b in [*BAD, "foreign"]))
    for score in SCORES:
        values = [separation(found, score, bad) for bad in (BAD, *([b] for b in [*BAD, "foreign"]))]
        print(f"{score:31}" + "".join(f"{value:>10.3f}" for value in values), flush=True)
    k = int(RATIO * len(found))
    for score in TRAINED:
        shares = found.nlargest(k, score)["source"].value_counts(normalize=True)
        print(f"best {RATIO:.0%} by {score}: " + ", ".join(f"{name} {share:.0%}" for name, share in shares.items()))


def print_training(found: pd.DataFrame, folder: Path) -> dict[str, list[float]]:
    """Train every arm, and print test losses with paired differences; a folder keeps what is trained."""
    ordered = found.set_index("text").loc[pd.read_parquet(graded.CORPUS)["text"].drop_duplicates()]
    known = dict(zip(pd.read_parquet(graded.CORPUS)["text"], graded.documents(graded.CORPUS), strict=True))
    tokens = [known[text] for text in ordered.index]
    scores = {name: ordered[name].to_numpy() for name in TRAINED}
    lengths = np.asarray([len(ids) for ids in tokens])
    # An order of all documents needs a whole pass of them, which this budget is not.
    every = arms(scores, lengths, ratio=RATIO)
    chosen = [arm for arm in every if not arm.name.startswith("all") and ARMS.search(arm.name)]
    best = np.argsort(scores["lqs"])[-int(RATIO * len(tokens)) :]
    budget = int(PASSES * (lengths[best] - 1).sum())
    print(
        f"\n{len(chosen)} arms x {len(SEEDS)} seeds, {budget} tokens each ({PASSES:g} passes of the best {RATIO:.0%})"
    )
    test = graded.documents(graded.TEST)
    what = [budget, asdict(SETTINGS), found[["example_id", *TRAINED]].values.tolist()]
    record = folder / f"arms-{fingerprint(what)[:10]}.json"
    results = compare(
        tokens, chosen, seeds=list(SEEDS), budget_tokens=budget, test=test, settings=SETTINGS, record=record
    )
    print(table(results))
    return results


def run(overrides: list[str]) -> RunConfig:
    """The job up to the training order."""
    config = load(SPEC, overrides)
    with cluster.connected(Cluster()):
        pipeline.execute(config, until="ordered")
    return config


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no-training", action="store_true")
    parser.add_argument("-o", action="append", default=[])
    options, _ = parser.parse_known_args(arguments)
    config = run(options.o)
    found = scored(config)
    print_scores(found)
    record: dict[str, Any] = {name: separation(found, name, BAD) for name in SCORES}
    if not options.no_training:
        record["losses"] = print_training(found, Path(config.output))
    if options.json:
        options.json.write_text(json.dumps(record))


if __name__ == "__main__":
    main()
