"""Digits with 10 % flipped labels: the selected half against a random half and the full noisy set, over many seeds.

Every repetition has a spec seed of its own, so split, flips, folds, proxies and selection are all drawn anew; the
training seeds within a repetition are averaged before pairing. Settings are those of `jobs/quickstart.yaml`.
"""

from __future__ import annotations

import os
import tempfile

import numpy as np

from raydelt import cluster, pipeline
from raydelt.specfile import load
from raydelt.train.compare import paired

SPEC_SEEDS = range(int(os.environ.get("BENCH_FIRST_SEED", "100")), int(os.environ.get("BENCH_LAST_SEED", "112")))
TRAIN_SEEDS = [0, 1, 2]


def main() -> None:
    accuracy: dict[str, list[float]] = {}
    found: list[tuple[float, float, float]] = []
    extra = os.environ.get("BENCH_OVERRIDES", "").split()
    first = load("jobs/quickstart.yaml")
    with tempfile.TemporaryDirectory() as folder, cluster.connected(first.cluster):
        for seed in SPEC_SEEDS:
            overrides = [f"seed={seed}", f"output={folder}/{seed}", f"train.seeds={TRAIN_SEEDS}", *extra]
            run = pipeline.execute(load("jobs/quickstart.yaml", overrides))
            summary = run.manifests["report"].facts["summary"]
            for arm, values in summary["training"]["values"].items():
                accuracy.setdefault(arm, []).append(float(np.mean(values)))
            d = summary["detection"]
            found.append((d["auroc"], d["precision_at_k"], d["kept_flipped"]))
            print(seed, {arm: f"{100 * values[-1]:.2f}" for arm, values in accuracy.items()}, found[-1], flush=True)
    print(f"{len(SPEC_SEEDS)} spec seeds x {len(TRAIN_SEEDS)} training seeds; overrides: {extra or 'none'}")
    for arm, values in accuracy.items():
        print(f"accuracy {arm:9} {100 * np.mean(values):.2f} %")
    for a, b in (("selected", "full"), ("random", "full"), ("selected", "random")):
        d = paired(accuracy[a], accuracy[b])
        print(f"{a:8} - {b:8} {100 * d.mean:+.2f} points [{100 * (d.low or 0):+.2f}, {100 * (d.high or 0):+.2f}]")
    means = np.mean(found, axis=0)
    print(f"flipped labels: AUROC {means[0]:.4f}, precision at k {means[1]:.3f}, left in the selection {means[2]:.1f}")


if __name__ == "__main__":
    main()
