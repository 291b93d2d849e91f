"""Does planning pay off? A plan from short probes against the real training of every ratio at three budgets.

Fashion-MNIST, 12,000 training examples with 10 % of the labels flipped, ranked within each class by raydelt's
self-confidence (how probable a model that never saw an example finds its label), best first, in four buckets. Probes
go from a quarter of an epoch of a bucket to eight; the budgets are a tenth of an epoch of the corpus, 3 epochs and 40.
Then every ratio is trained with equal steps and `BENCH_SEEDS` (5) seeds, and its loss measured on 2,000 test examples
that neither probes nor scores saw. `BENCH_PROOF=digits` does the same on scikit-learn's digits, where recipe, noise,
score, budgets and probes were chosen. On Fashion-MNIST the plan was first refused, since the loss of a bucket rose
with repeats at a weight decay of 0.1; 1.0 was then chosen on digits, before any final training. The chart goes to
docs/. Scoring is free here, so that ratios alone are compared; the plan with its cost is printed at the end. Needs
`make assets`.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import stats
from sklearn.datasets import load_digits

from raydelt import cluster, pipeline
from raydelt.config import RunConfig
from raydelt.models.classifier import one_thread
from raydelt.order.stage import Examples, described, materialise
from raydelt.pipeline import Run
from raydelt.plan import plot
from raydelt.plan import stage as planning
from raydelt.plan.buckets import Bucket, pieces_of, placing, published
from raydelt.plan.make import Made, make
from raydelt.plan.probe import Probe, Probing, measured
from raydelt.scorers.protocol import Array
from raydelt.specfile import validate
from raydelt.storage import Stage
from raydelt.train.compare import paired
from raydelt.train.loop import Replicate, Work
from tests import classified

NAME = os.environ.get("BENCH_PROOF", "fashion")
SEEDS = range(100, 100 + int(os.environ.get("BENCH_SEEDS", "5")))
EPOCHS = (0.1, 3, 40)
PROBED = (0.25, 0.5, 1, 2, 4, 8)
BATCH = {"fashion": 32, "digits": 4}[NAME]
CHART = Path(__file__).parents[2] / "docs" / "plan-fashion-mnist.png"


def data(folder: Path) -> None:
    """Training, validation and test examples as files."""
    if NAME == "digits":
        pixels, labels = load_digits(return_X_y=True)
        rows = np.random.default_rng(0).permutation(len(labels))
        train, held = _digits(pixels, labels, rows[:1200]), _digits(pixels, labels, rows[1200:])
    else:
        train, held = classified.split("fashion")
    half = held.num_rows // 2
    for name, table in (("train", train), ("validation", held.slice(0, half)), ("test", held.slice(half))):
        (folder / name).mkdir()
        pq.write_table(table, folder / name / "0.parquet")


def _digits(pixels: Array, labels: Array, rows: Array) -> pa.Table:
    return pa.table({"pixels": pixels[rows].astype(np.float32).tolist(), "label": labels[rows]})


def config(folder: Path, examples: int) -> RunConfig:
    pool = examples // 4
    return validate(
        {
            "name": f"plan-{NAME}",
            "corpus": {
                "source": str(folder / "train"),
                "feature_columns": ["pixels"],
                "label_column": "label",
                "noise": {"fraction": 0.1},
                "validation": {"source": str(folder / "validation")},
                "test": {"source": str(folder / "test")},
            },
            "model": {"network": "mlp", "hidden": [32]},
            "score": [{"kind": "self_confidence"}],
            "rank": {"combine": {"weights": {"self_confidence": 1.0}, "gate": None}},
            "select": {"quotas": {}},
            "train": {
                "recipe": {
                    "optimizer": "adamw",
                    "lr": 1e-2,
                    "weight_decay": 1.0,
                    "schedule": "linear",
                    "batch_size": BATCH,
                    "epochs": 1,
                }
            },
            "plan": {
                "budgets": [epochs * examples for epochs in EPOCHS],
                "scoring": 0,
                "probes": {"budgets": [int(epochs * pool) for epochs in PROBED], "holdout": True},
            },
            "output": str(folder / "run"),
        }
    )


def finals(run: Run) -> tuple[list[float], Array]:
    """Shares of the corpus [k], and the losses [budgets, k, seeds] of training on each on the test split."""
    own, corpus = run.config, run.manifests["corpus"]
    pieces, counts = pieces_of(run.store, run.manifests["ranking"], len(corpus.facts["classes"]))
    buckets = [bucket for bucket, _ in published(run.manifests["buckets"])][: own.plan.buckets]
    stage, orders, pools = Stage(run.store, "finals", "proof"), [], []
    examples = Examples(run.store, tuple(part.file for part in corpus.parts), None)
    for k, bucket in enumerate(buckets):
        pool = Bucket(f"top {k + 1}", bucket.low, tuple(counts), sum(counts) - sum(bucket.low))
        parts, moments = materialise(stage, f"top-{k}", examples, pieces, placing(pool, seed=own.seed), pool.rows)
        orders.append(described(pool.name, parts, moments, corpus.facts))
        pools.append(pool)
    steps = [round(budget / BATCH) for budget in own.plan.budgets]
    probes = tuple(Probe(k, count, seed) for count in steps for k in range(len(pools)) for seed in SEEDS)
    work = Work(
        config=own.model_copy(update={"train": own.train.model_copy(update={"checkpoint_every": 1 << 60})}),
        stage=stage,
        replicates=tuple(Replicate(order.name, 0, order, True) for order in orders),
        steps=0,
        input_shape=tuple(corpus.facts["input_shape"]),
        classes=len(corpus.facts["classes"]),
        test_files=(),
        # What `measured` measures on: here the test split.
        validation_files=tuple(part.file for part in corpus.sides["test"]),
    )
    probing = Probing(work, tuple(pools), probes)
    calls = [(probing, index) for index in range(len(probes))]
    found = [row["loss"] for row in cluster.parallel(_final, calls, label="proof: trainings")]
    shares = [pool.rows / sum(counts) for pool in pools]
    return shares, np.asarray(found).reshape(len(steps), len(pools), len(SEEDS))


def _final(probing: Probing, index: int) -> dict[str, Any]:
    one_thread()
    return measured(probing, index)


def main() -> None:
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data(folder)
        own = config(folder, pq.read_metadata(folder / "train" / "0.parquet").num_rows)
        held: list[tuple[Run, Made, list[float], Array]] = []

        def prove(run: Run) -> None:
            pipeline.plan(run)
            before = planning.before(run.config, run.manifests, run.seconds, run.store)
            made = make(before.columns, own.plan, ground=before.ground, holdout=before.holdout, seed=own.seed)
            held.append((run, made, *finals(run)))
            print(made.text(), flush=True)
            compare(made, held[0][2], held[0][3])
            if NAME == "fashion":
                draw(made, held[0][3])
            with_cost = own.plan.model_copy(update={"scoring": None})
            dear = make(before.columns, with_cost, ground=before.ground, seed=own.seed)
            print(f"\nwith the cost of scoring, {dear.price.scoring:,.0f} examples:")
            for advice in dear.plan.advice:
                print(f"  {advice.budget:,.0f} examples: {advice.verdict}")

        pipeline.execute(own, until="ranking", then=prove)
    print(f"{time.perf_counter() - started:.0f} s in all")


def compare(made: Made, shares: list[float], losses: Array) -> None:
    """Predicted and real losses, and the plan's choice against the best in truth, paired by seed."""
    plan = made.plan
    trained = sum(advice.budget for advice in plan.advice) * losses.shape[1] * losses.shape[2]
    largest = max(advice.budget for advice in plan.advice)
    seen = made.probes_seen
    print(f"probes saw {seen:,.0f} examples, the final trainings {trained:,.0f}: {seen / trained:.1%}")
    print(f"(of one training at the largest budget: {seen / largest:.0%})\n")
    print(f"{'budget':>10} {'keep':>6} {'predicted':>10} {'5 % .. 95 %':>18} {'real (95 % of the mean)':>26}")
    winners = []
    for advice, values in zip(plan.advice, losses, strict=True):
        for choice, share, own in zip(advice.choices, shares, values, strict=True):
            real, half = own.mean(), stats.t.ppf(0.975, len(own) - 1) * own.std(ddof=1) / np.sqrt(len(own))
            mark = ">" if choice.buckets == advice.recommended else " "
            band = f"{choice.low:.4f} .. {choice.high:.4f}"
            told = f"{real:.4f} +- {half:.4f}"
            print(f"{mark}{advice.budget:>9,.0f} {share:>6.0%} {choice.loss:>10.4f} {band:>18} {told:>26}")
        best = int(values.mean(1).argmin())
        winners.append(best + 1)
        for name, chosen in (("recommended", advice.recommended - 1), ("least loss by the law", advice.best - 1)):
            print(f"  {name}: {shares[chosen]:.0%}, {_against(values[chosen], values[best], shares[best])}")
    turns = winners[0] < winners[-1] and winners == sorted(winners)
    asked = [advice.recommended for advice in plan.advice]
    planned = asked[0] < asked[-1] and asked == sorted(asked)
    print(f"\nbest in truth: {winners} buckets: {'turns' if turns else 'does not turn'} from small to large")
    print(f"the plan's:    {asked} buckets: {'turns' if planned else 'does not turn'} from small to large")


def _against(chosen: Array, best: Array, share: float) -> str:
    """What a choice is against the best in truth, by losses [seeds] each."""
    d = paired(chosen, best)
    if d.mean == 0:
        return "the best in truth"
    noise = "within noise of" if d.low is not None and d.low <= 0 else "worse than"
    return f"{noise} the best in truth, {share:.0%}: {d.mean:+.4f} [{d.low:+.4f}, {d.high:+.4f}]"


def draw(made: Made, losses: Array) -> None:
    """The plan's chart with the real losses of all ratios: the mean of the seeds, and their range."""
    ground = made.ground
    budgets = [advice.budget for advice in made.plan.advice]
    canvas = plot.figure(made.fitted, made.drawn, budgets, price=made.price, sizes=ground.sizes, whole=ground.whole)
    axes = canvas.axes[0]
    for k in range(losses.shape[1]):
        colour = plot.COLOURS[k % len(plot.COLOURS)]
        middle = losses[:, k].mean(1)
        spread = np.abs(np.stack([losses[:, k].min(1), losses[:, k].max(1)]) - middle)
        axes.errorbar(budgets, middle, spread, fmt="D", ms=5, mfc=colour, mec="black", mew=0.6, ecolor=colour, lw=1)
    axes.set_title("diamonds: real trainings on the test split, range of the seeds", fontsize=8)
    CHART.parent.mkdir(exist_ok=True)
    plot.save(canvas, CHART)


if __name__ == "__main__":
    main()
