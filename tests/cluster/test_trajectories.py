"""Trajectory scores of whole runs: against a computation from scratch, and whatever the cluster does."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
import torch
from torch.nn.functional import cross_entropy

from raydelt import pipeline
from raydelt.config import RunConfig
from raydelt.errors import InputError, SpecError
from raydelt.examples import LABEL, column_of, features_of, mix
from raydelt.lqs.starts import Starts, spec_of
from raydelt.storage import Store, read_manifest
from tests.faults import kill_when, worker_called
from tests.flow import spec, table, write_digits
from tests.language import sentences, tiny_lm, write_documents

pytestmark = pytest.mark.usefixtures("ray_session")

STEPS, INTERVAL, LR, BATCH = 12, 3, 0.2, 8
LQS = {"kind": "lqs", "steps": STEPS, "interval": INTERVAL, "lr": LR, "batch_size": BATCH}


def config(source: Path, output: Path, *, lqs: dict[str, Any] | None = None, **changes: Any) -> RunConfig:
    """A small classifier on digits, scored by trajectories."""
    own = LQS | (lqs or {})
    main = "pds" if own.get("mode") == "pds" else "lqs"
    return spec(
        source,
        output,
        corpus__validation={"fraction": 0.1},
        score=[own],
        rank={"method": "score", "combine": {"weights": {main: 1.0}, "gate": None}},
        **changes,
    )


def scores_of(output: Path, column: str = "lqs", *, stage: str = "scores") -> dict[str, float]:
    rows = table(output, stage)
    return dict(zip(rows["example_id"].to_pylist(), rows[column].to_pylist(), strict=True))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits") / "in", rows=300)


@pytest.fixture(scope="module")
def reference(ray_session: None, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("reference") / "out"
    pipeline.execute(config(source, output), until="scores")
    return output


def from_scratch(run: RunConfig, output: Path) -> dict[str, np.ndarray]:
    """lqs and pds of all examples in float64 by double backward passes, without any of the package's own steps."""
    own, store = spec_of(run), Store(str(output))
    corpus = table(output, "corpus")
    manifest = read_manifest(store, "corpus")
    walked = read_manifest(store, "trajectory")
    assert manifest is not None
    assert walked is not None
    held = pa.concat_tables([store.read_table(part.file) for part in manifest.sides["validation"]])
    mean, scale = (np.asarray(v) for v in walked.facts["standardisation"])
    start = Starts(run.model, tuple(manifest.facts["input_shape"]), 10, mean, scale, run.seed)
    network = start.model(0, "cpu").module.double()
    theta = [p.detach().clone() for p in network.parameters()]
    names = [name for name, _ in network.named_parameters()]

    def losses(at: list[torch.Tensor], rows: Any) -> torch.Tensor:
        x, y = torch.from_numpy(features_of(rows)).double(), torch.from_numpy(column_of(rows, LABEL)).long()
        logits = torch.func.functional_call(network, dict(zip(names, at, strict=True)), (x,))
        return cross_entropy(logits, y, reduction="none")

    def gradient(at: list[torch.Tensor], rows: Any, **options: bool) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(losses(at, rows).mean(), at, **options)

    order = np.argsort(mix(column_of(corpus, "draw_key").astype(np.uint64), run.seed, "lqs", 0, 0))
    steps = [corpus.take(order[t * BATCH : (t + 1) * BATCH]) for t in range(STEPS)]
    path = [theta]
    for rows in steps:
        at = [p.clone().requires_grad_() for p in path[-1]]
        path.append([(p - LR * g).detach() for p, g in zip(at, gradient(at, rows), strict=True)])
    at = [p.clone().requires_grad_() for p in path[STEPS]]
    adjoints = {STEPS: gradient(at, held)}
    for t in range(STEPS - 1, 0, -1):
        at = [p.clone().requires_grad_() for p in path[t]]
        along = sum(
            (g * v).sum() for g, v in zip(gradient(at, steps[t], create_graph=True), adjoints[t + 1], strict=True)
        )
        product = torch.autograd.grad(along, at)
        source = gradient(at, held)
        adjoints[t] = tuple(v + s - LR * h for v, s, h in zip(adjoints[t + 1], source, product, strict=True))
    result = {"lqs": np.zeros(len(corpus)), "pds": np.zeros(len(corpus))}
    for n in range(len(corpus)):
        row = corpus.slice(n, 1)
        dots, norms = {}, {}
        for t in range(0, STEPS + 1, INTERVAL):
            at = [p.clone().requires_grad_() for p in path[t]]
            own_gradient = gradient(at, row)
            norms[t] = float(sum(g.square().sum() for g in own_gradient)) ** 0.5
            if t < STEPS:
                dots[t] = float(sum((g * v).sum() for g, v in zip(own_gradient, adjoints[t + 1], strict=True)))
        result["pds"][n] = LR * sum(dots.values())
        result["lqs"][n] = LR * sum(dots[t] / norms[t + INTERVAL] for t in dots if t > 0)
    assert own.steps == STEPS
    return result


def test_published_scores_are_those_of_a_computation_from_scratch(source: Path, reference: Path) -> None:
    truth = from_scratch(config(source, reference), reference)
    ids = table(reference, "corpus")["example_id"].to_pylist()
    for column, values in truth.items():
        found = scores_of(reference, column)
        assert np.abs(np.array([found[i] for i in ids]) - values).max() <= 1e-4 * np.abs(values).max()


@pytest.mark.parametrize(
    ("files", "changes"),
    [
        (7, {"cluster": {"actors": {"min": 3, "max": 3, "num_cpus": 0.3}}}),
        (1, {"cluster": {"actors": {"min": 1, "max": 1, "batch_bytes": 1}}}),
    ],
)
def test_scores_do_not_depend_on_blocks_actors_or_batches(
    reference: Path, tmp_path: Path, files: int, changes: dict[str, Any]
) -> None:
    shuffled = write_digits(tmp_path / "in", rows=300, files=files, shuffle=3)
    pipeline.execute(config(shuffled, tmp_path / "out", **changes), until="scores")
    truth, found = scores_of(reference), scores_of(tmp_path / "out")
    assert truth.keys() == found.keys()
    largest = max(abs(value) for value in truth.values())
    assert max(abs(found[i] - truth[i]) for i in truth) <= 1e-6 * largest


def test_workers_share_the_target_and_the_batches(source: Path, reference: Path, tmp_path: Path) -> None:
    pipeline.execute(config(source, tmp_path / "out", lqs={"workers": 2}), until="scores")
    truth, found = scores_of(reference), scores_of(tmp_path / "out")
    largest = max(abs(value) for value in truth.values())
    assert max(abs(found[i] - truth[i]) for i in truth) <= 1e-5 * largest


def test_several_trajectories_give_a_standard_error_and_a_killed_worker_changes_nothing(
    source: Path, tmp_path: Path
) -> None:
    own = {"trajectories": 2, "mode": "released"}
    pipeline.execute(config(source, tmp_path / "quiet", lqs=own), until="scores")
    killed: list[int] = []

    def walking() -> int | None:
        begun = list((tmp_path / "killed" / "trajectory").glob("step-*"))
        return worker_called("RayTrainWorker") if begun else None

    watcher = kill_when(walking, killed)
    pipeline.execute(config(source, tmp_path / "killed", lqs=own), until="scores")
    watcher.join(timeout=5)
    assert killed, "no worker was killed: the test proved nothing"
    for name in ("lqs", "lqs_se", "quality", "learnability_se", "pds"):
        assert scores_of(tmp_path / "quiet", name) == scores_of(tmp_path / "killed", name)
    assert min(scores_of(tmp_path / "quiet", "lqs_se").values()) > 0


@pytest.mark.slow
def test_trajectories_of_equal_weight_are_divided_by_their_scales(source: Path, tmp_path: Path) -> None:
    found = {}
    for weigh in ("as_is", "equal"):
        own = {"trajectories": 2, "mode": "pds", "weigh": weigh}
        run = pipeline.execute(config(source, tmp_path / weigh, lqs=own), until="scores")
        found[weigh] = [scores_of(tmp_path / weigh, name) for name in ("pds", "pds_se")]
        if weigh == "equal":
            first, second = (scales["pds"] for scales in run.manifests["trajectory"].facts["scales"])
    assert 0 < first != second > 0
    (mean, se), (equal, _) = found["as_is"], found["equal"]
    # Two values are their mean plus and minus its standard error, in an order that is not told.
    for key, value in equal.items():
        low, high = mean[key] - se[key], mean[key] + se[key]
        either = [(low / first + high / second) / 2, (high / first + low / second) / 2]
        assert min(abs(value - other) for other in either) <= 1e-4 * max(map(abs, either))


KILLED_RUN = """
import json, sys
from raydelt import pipeline, cluster
from raydelt.config import Cluster
from raydelt.specfile import validate
pipeline.execute(validate(json.loads(sys.argv[1])), until="scores")
"""


def test_a_driver_that_is_killed_after_the_trajectory_does_not_walk_it_again(
    source: Path, reference: Path, tmp_path: Path
) -> None:
    run = config(source, tmp_path / "out")
    environment = os.environ | {"PYTHONPATH": os.getcwd(), "RAY_ADDRESS": "local"}
    own = run.model_copy(update={"cluster": run.cluster.model_copy(update={"num_cpus": 2})})
    driver = subprocess.Popen(
        [sys.executable, "-c", KILLED_RUN, own.model_dump_json()], env=environment, stderr=subprocess.DEVNULL
    )
    manifest = tmp_path / "out" / "trajectory" / "manifest.json"
    deadline = time.monotonic() + 240
    while not manifest.exists() and driver.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    children = psutil.Process(driver.pid).children(recursive=True) if driver.poll() is None else []
    driver.kill()
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    driver.wait()
    written = manifest.stat().st_mtime_ns
    again = pipeline.execute(run, until="scores")
    assert not again.fresh["trajectory"]
    assert manifest.stat().st_mtime_ns == written
    assert scores_of(tmp_path / "out") == scores_of(reference)


def test_a_killed_annotating_actor_changes_nothing(source: Path, reference: Path, tmp_path: Path) -> None:
    killed: list[int] = []

    def annotating() -> int | None:
        done = len(list((tmp_path / "out" / "scores").glob("part-*")))
        return worker_called("MapWorker") if done in (1, 2) else None

    watcher = kill_when(annotating, killed)
    # One example at a time, so that an actor is still at work when the first part is done.
    pipeline.execute(
        config(source, tmp_path / "out", cluster={"actors": {"min": 1, "max": 1, "batch_bytes": 1}}), until="scores"
    )
    watcher.join(timeout=5)
    assert killed, "no actor was killed: the test proved nothing"
    truth, found = scores_of(reference), scores_of(tmp_path / "out")
    assert truth.keys() == found.keys()
    largest = max(abs(value) for value in truth.values())
    assert max(abs(found[i] - truth[i]) for i in truth) <= 1e-6 * largest


def test_a_language_model_with_a_target_of_its_own_prefers_documents_like_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = sentences(120)
    junk = [" ".join(["7"] * (5 + i % 20)) + f" {i}" for i in range(60)]
    source = write_documents(tmp_path / "in.jsonl", [*texts[:60], *junk])
    target = write_documents(tmp_path / "target.jsonl", [*texts[60:], texts[0]])
    run = spec(
        source,
        tmp_path / "out",
        corpus={"source": source, "text_column": "text", "test": {"fraction": 0}},
        model={"kind": "causal_lm", "path": tiny_lm(tmp_path / "lm"), "context": 32, "long_documents": "split"},
        score=[LQS | {"target": target, "steps": 20, "interval": 5}],
        rank={"method": "score", "combine": {"weights": {"lqs": 1.0}, "gate": None}},
    )
    with caplog.at_level(logging.WARNING):
        pipeline.execute(run, until="scores")
    assert "1 example of the corpus is also" in caplog.text
    known = {row["example_id"]: row["text"] for row in table(tmp_path / "out", "corpus").to_pylist()}
    found = {known[key]: value for key, value in scores_of(tmp_path / "out").items()}
    assert texts[0] not in found
    assert np.mean([found[t] for t in texts[1:60]]) > np.mean([found[t] for t in junk])


@pytest.mark.slow
def test_trajectories_start_where_they_are_told_and_read_the_same_tokens(tmp_path: Path) -> None:
    documents = write_documents(tmp_path / "in" / "documents.jsonl", sentences(60))
    paths = [tiny_lm(tmp_path / f"lm-{seed}", seed=seed) for seed in (0, 1)]
    other = tiny_lm(tmp_path / "other", words=["something", "else"])

    def run(name: str, path: str, **lqs: Any) -> dict[str, float]:
        made = spec(
            documents,
            tmp_path / name,
            corpus={"source": documents, "text_column": "text", "validation": {"fraction": 0.2}},
            model={"kind": "causal_lm", "path": path, "context": 32},
            score=[LQS | {"steps": 6} | lqs],
            rank={"method": "score", "combine": {"weights": {"lqs": 1.0}, "gate": None}},
        )
        pipeline.execute(made, until="scores")
        return scores_of(tmp_path / name)

    plain, started = run("plain", paths[1]), run("started", paths[0], starts=[paths[1]])
    assert started == pytest.approx(plain, rel=1e-6)
    assert run("own", paths[0]) != pytest.approx(plain, rel=1e-2)
    with pytest.raises(InputError, match="have different tokenizers: start at checkpoints of the same model"):
        run("mixed", paths[0], starts=[paths[0], other])


@pytest.mark.parametrize(
    ("lqs", "told"),
    [
        ({"lr": 1e30}, r"score\.lqs\.lr 1e\+30: the (trajectory|adjoint) diverged.* at step \d+.*lower the learning"),
        ({"batch_size": 5000}, r"score\.lqs\.batch_size 5000 is more than the \d+ examples"),
    ],
)
def test_what_cannot_be_walked_is_told_in_a_sentence(
    source: Path, tmp_path: Path, lqs: dict[str, Any], told: str
) -> None:
    with pytest.raises((InputError, SpecError), match=told):
        pipeline.execute(config(source, tmp_path / "out", lqs=lqs), until="scores")


def test_an_empty_target_is_refused(source: Path, tmp_path: Path) -> None:
    run = spec(
        source,
        tmp_path / "out",
        corpus__validation={"fraction": 1e-6},
        score=[LQS],
        rank={"method": "score", "combine": {"weights": {"lqs": 1.0}, "gate": None}},
    )
    with pytest.raises(InputError, match=r"corpus\.validation leaves no example"):
        pipeline.execute(run, until="scores")


@pytest.mark.slow
def test_a_corpus_too_large_to_annotate_is_scored_by_what_a_sample_taught(
    source: Path, reference: Path, tmp_path: Path
) -> None:
    annotate = {"proxy": 150, "lr": 0.01, "epochs": 8, "patience": 8, "validation": 0.3, "least_spearman": -1}
    run = config(source, tmp_path / "out", lqs={"annotate": annotate})
    done = pipeline.execute(run, until="scores")
    assert done.manifests["annotated"].rows == 150
    annotated, exact = scores_of(tmp_path / "out", stage="annotated"), scores_of(reference)
    first = table(tmp_path / "out", "corpus")["example_id"].to_pylist()[:150]
    assert annotated == {key: exact[key] for key in first}
    facts = done.manifests["distilled"].facts
    assert facts["train"] + facts["validation"] == 150
    assert -1 <= facts["spearman"] <= 1
    found = scores_of(tmp_path / "out")
    assert found.keys() == exact.keys()
    assert np.isfinite(list(found.values())).all()
    assert table(tmp_path / "out", "scores").column_names == ["example_id", "lqs", "model_version"]
    again = pipeline.execute(run, until="scores")
    assert not any(again.fresh.values())
    other = pipeline.execute(
        config(source, tmp_path / "out", lqs={"annotate": annotate | {"epochs": 1}}), until="scores"
    )
    assert [name for name, fresh in other.fresh.items() if fresh] == ["distilled", "scores"]
