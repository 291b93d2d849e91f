"""A data scorer learns what can be learned, is refused where there is nothing, and does not depend on its workers."""

from __future__ import annotations

import logging
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from torch import Tensor, nn

from raydelt import pipeline
from raydelt.config import RunConfig
from raydelt.errors import InputError, SpecError
from raydelt.examples import features_of
from raydelt.lqs.data_scorer import DataScorer, load
from raydelt.lqs.distil import distil, is_held_out
from raydelt.lqs.starts import spec_of
from raydelt.storage import Manifest, Stage, Store
from tests.flow import spec
from tests.language import WORDS, tiny_lm, write_documents

pytestmark = pytest.mark.usefixtures("ray_session")

ROWS = 400
GOOD = set(WORDS[::3])
TRAINING = {"proxy": ROWS, "validation": 0.25, "epochs": 5, "batch_size": 16, "lr": 3e-3}
Scores = Callable[[pa.Table], NDArray[Any]]


@dataclass(frozen=True)
class Corpus:
    """A corpus on disk, and an annotation of its first rows by some function of them."""

    config: RunConfig
    manifest: Manifest

    @property
    def scratch(self) -> Path:
        return Path(self.config.output) / ".training"

    def table(self) -> pa.Table:
        run = Store(self.config.output)
        return pa.concat_tables([run.read_table(part.file) for part in self.manifest.parts])

    def annotated(self, scores: Scores, rows: int = ROWS) -> Manifest:
        """Files for the first parts; the last one is not full, every 17th row is missing, one score is no number."""
        run, parts = Store(self.config.output), []
        stage = Stage(run, "annotated", "a" * 32)
        for index, part in enumerate(self.manifest.parts):
            table = run.read_table(part.file).slice(0, rows)
            rows -= table.num_rows
            if table.num_rows == 0:
                break
            values = scores(table).astype(np.float32)
            values[3] = np.nan
            own = pa.table({"example_id": table["example_id"], "lqs": values})
            kept = np.arange(table.num_rows) % 17 != 16
            parts.append(run.write_table(stage.file("part", index), own.filter(pa.array(kept))))
        assert len(parts) > 1
        return stage.publish(parts, {})

    def distil(self, annotated: Manifest, name: str, **changes: Any) -> Manifest:
        config = self.changed(**changes)
        stage = Stage(Store(config.output), name, name[0] * 32)
        return distil(config, spec_of(config), self.manifest, annotated, stage)

    def scorer(self, distilled: Manifest, **changes: Any) -> DataScorer:
        config, facts = self.changed(**changes), self.manifest.facts
        return load(Store(config.output), config, spec_of(config), facts, distilled, device="cpu")

    def changed(self, **changes: Any) -> RunConfig:
        [own] = [one.model_dump() for one in self.config.score]
        own["annotate"] |= changes
        raw = self.config.model_dump(mode="json") | {"score": [own]}
        return RunConfig.model_validate(raw)


def corpus_of(source: str, output: Path, **changes: Any) -> Corpus:
    score = [{"kind": "lqs", "annotate": TRAINING}]
    combine = {"weights": {"lqs": 1.0}, "gate": None}
    config = spec(source, output, score=score, rank={"method": "score", "combine": combine}, **changes)
    return Corpus(config, pipeline.execute(config, until="corpus").manifests["corpus"])


@pytest.fixture(scope="module")
def documents(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Random words, and an encoder that has seen none."""
    folder, rng = tmp_path_factory.mktemp("documents"), np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, rng.integers(4, 30))) for _ in range(700)]
    source = write_documents(folder / "in.jsonl", texts)
    own = {"source": source, "text_column": "text", "validation": {"fraction": 0.1}, "test": {"fraction": 0}}
    # Wide and flat, since deeper ones blow the rounding of sums up to the first digit within a hundred steps.
    wide = {"hidden_size": 128, "num_hidden_layers": 1, "initializer_range": 0.1}
    model = {"kind": "causal_lm", "path": tiny_lm(folder / "lm", **wide), "context": 32}
    small = {"actors": {"batch_bytes": 1 << 20}}
    return corpus_of(source, folder / "out", corpus=own, model=model, cluster=small)


def share_of_good_words(table: pa.Table) -> NDArray[Any]:
    return np.asarray([np.mean([word in GOOD for word in text.split()]) for text in table["text"].to_pylist()])


@pytest.fixture(scope="module")
def learned(documents: Corpus) -> Manifest:
    return documents.distil(documents.annotated(share_of_good_words), "learned")


def rank_correlation(left: NDArray[Any], right: NDArray[Any]) -> float:
    return float(spearmanr(left, right).statistic)


def test_a_scorer_learns_a_function_of_the_text(documents: Corpus, learned: Manifest) -> None:
    table, facts = documents.table(), learned.facts
    found, exact = documents.scorer(learned).predict(table), share_of_good_words(table)
    assert rank_correlation(found[ROWS:], exact[ROWS:]) > 0.9
    # In standard deviations of the sample, around its mean.
    scaled = (exact - facts["mean"]) / facts["std"]
    assert float(np.mean((found[ROWS:] - scaled[ROWS:]) ** 2)) < 0.3
    assert facts["history"][facts["best_epoch"] - 1] == max(facts["history"]) == facts["spearman"] > 0.9
    assert facts["mse"] < 0.3
    assert facts["top30_overlap"] > 0.7
    assert facts["random_overlap"] == pytest.approx(0.3, abs=0.01)
    assert facts["rows_processed"] == len(facts["history"]) * facts["train"]
    published = (Path(documents.config.output) / "learned").iterdir()
    assert sorted(path.suffix for path in published) == [".json", ".safetensors"]
    assert not list(documents.scratch.glob("*"))


def test_the_published_scorer_predicts_what_its_training_judged(documents: Corpus, learned: Manifest) -> None:
    table = documents.table()
    first = np.flatnonzero(np.arange(table.num_rows) < ROWS)
    counts = [part.rows for part in documents.manifest.parts]
    place = np.concatenate([np.arange(rows) for rows in counts])
    usable = first[(place[first] % 17 != 16) & (place[first] != 3)]
    keys = table["draw_key"].to_numpy().astype(np.uint64)
    held_out = usable[is_held_out(keys[usable], documents.config.seed, TRAINING["validation"])]
    assert (learned.facts["validation"], learned.facts["train"]) == (len(held_out), len(usable) - len(held_out))
    found = documents.scorer(learned).predict(table.take(pa.array(held_out)))
    exact = share_of_good_words(table)[held_out]
    assert rank_correlation(found, exact) == pytest.approx(learned.facts["spearman"], abs=1e-4)
    own = share_of_good_words(table)[np.setdiff1d(usable, held_out)]
    assert learned.facts["mean"] == pytest.approx(own.mean(), rel=1e-6)
    assert learned.facts["std"] == pytest.approx(own.std(), rel=1e-6)


def test_two_workers_learn_what_one_learns(documents: Corpus, learned: Manifest) -> None:
    both = documents.distil(documents.annotated(share_of_good_words), "both", workers=2)
    np.testing.assert_allclose(both.facts["history"], learned.facts["history"], atol=1e-3)
    table = documents.table()
    one, two = (documents.scorer(manifest).predict(table) for manifest in (learned, both))
    np.testing.assert_allclose(two, one, atol=1e-4)


def test_what_cannot_be_trained_is_refused_at_once(documents: Corpus, tmp_path: Path) -> None:
    good = documents.annotated(share_of_good_words)
    with pytest.raises(InputError, match=r"tokenizer has \d+ ids but the encoder only 20 embeddings"):
        documents.distil(good, "mismatch", encoder=tiny_lm(tmp_path / "lm", vocabulary=20))
    with pytest.raises(InputError, match=r"proxy 400 leaves \d+ scores to train .* and \d to validate it"):
        documents.distil(good, "few", validation=0.005)
    with pytest.raises(SpecError, match=r"workers 17 is more than the 1\d examples of a batch"):
        documents.distil(good, "many", workers=17)
    alike = documents.annotated(lambda table: np.full(table.num_rows, 0.1))
    with pytest.raises(InputError, match=r"all \d+ annotated scores are 0\.1: check lr"):
        documents.distil(alike, "alike")


# Classifiers

WATCH = "watch-of-the-data-scorer"


class Watch:
    """Counts the passes of a training; at one of them, when there is a checkpoint to go on from, it says to die."""

    def __init__(self, fatal: int, scratch: Path) -> None:
        self.passes, self.fatal, self.scratch = 0, fatal, scratch

    def passed(self) -> bool:
        self.passes += 1
        while self.passes == self.fatal:
            if any("checkpoint_" in file.read_text() for file in self.scratch.glob("*/checkpoint_manager*.json")):
                return True
            time.sleep(0.05)
        return False

    def count(self) -> int:
        return self.passes


class Watched(nn.Module):
    """A linear network whose process dies when the watch says so."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        try:
            if ray.get(ray.get_actor(WATCH).passed.remote()):
                os.kill(os.getpid(), signal.SIGKILL)
        except ValueError:  # nobody watches
            pass
        outputs: Tensor = self.linear(x)
        return outputs


def watched(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return Watched(input_shape[0], num_classes)


@pytest.fixture(scope="module")
def digits(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("digits")
    images, digits = load_digits(return_X_y=True)
    source = str(folder / "digits.parquet")
    pq.write_table(pa.table({"pixels": images[:800].tolist(), "label": digits[:800] % 2}), source)
    model = {"kind": "torch", "factory": f"{__name__}:watched"}
    own = {"source": source, "feature_columns": ["pixels"], "label_column": "label", "validation": {"fraction": 0.1}}
    return corpus_of(source, folder / "out", corpus=own, model=model, train={"checkpoint_every": 7})


def by_label(table: pa.Table) -> NDArray[Any]:
    """How much brighter the upper half is for even digits, and the lower half for odd ones."""
    x = features_of(table)
    return (x[:, :32].mean(1) - x[:, 32:].mean(1)) * np.where(table["label"].to_numpy() == 0, 1.0, -1.0)


def test_a_killed_worker_goes_on_from_its_checkpoint(digits: Corpus, caplog: pytest.LogCaptureFixture) -> None:
    annotated = digits.annotated(by_label)
    settings = {"epochs": 4, "lr": 6e-2}
    with caplog.at_level(logging.INFO, logger="raydelt.lqs.distil"):
        quiet = digits.distil(annotated, "quiet", **settings)
    told = r"data scorer: validation Spearman 0\.9\d, top 30 % overlap \d\.\d\d \(random 0\.\d\d\), epoch \d of 4"
    assert any(re.fullmatch(told, record.getMessage()) for record in caplog.records)
    steps = -(-quiet.facts["train"] // TRAINING["batch_size"])
    # Two passes to measure memory, and then one for each step and each validation.
    fatal, whole = 2 + steps + 1 + 11, 2 + 4 * (steps + 1)
    watch = ray.remote(Watch).options(name=WATCH, num_cpus=0).remote(fatal, digits.scratch)
    killed = digits.distil(annotated, "killed", **settings)
    passes = ray.get(watch.count.remote())
    ray.kill(watch)
    assert whole < passes < fatal + whole, "not killed, or begun again"
    assert killed.facts | {"seconds": 0} == quiet.facts | {"seconds": 0}
    assert killed.sides["scorer"][0].digest == quiet.sides["scorer"][0].digest
    table = digits.table()
    found = digits.scorer(quiet).predict(table)
    assert rank_correlation(found[ROWS:], by_label(table)[ROWS:]) > 0.9
