"""The ledger lies row by row beside the corpus, holds what the trainings saw, and does not depend on the layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from raydelt import pipeline
from raydelt.config import RunConfig
from raydelt.errors import InputError, SpecError
from raydelt.examples import column_of, features_of
from raydelt.models import classifier
from raydelt.models.moments import Moments
from raydelt.scorers.dynamics import LEDGER_MARGIN, LEDGER_P, dynamics, ledger_of
from raydelt.scorers.ledger import keep_ledger, ledger_seed, lengths
from raydelt.storage import Manifest, Stage, Store
from tests.flow import spec, write_digits

pytestmark = pytest.mark.usefixtures("ray_session")

MODELS, EPOCHS = 3, 6


@dataclass(frozen=True)
class Kept:
    """A corpus and its ledger."""

    config: RunConfig
    corpus: Manifest
    ledger: Manifest
    store: Store


def corpus_of(folder: Path, *, files: int = 1, **changes: Any) -> tuple[RunConfig, Manifest, Store]:
    """A small corpus of digits, a tenth of them flipped."""
    rank = {"rounds": MODELS, "proxy": {"epochs": EPOCHS, "lr": 0.01}}
    config = spec(write_digits(folder / "in", files=files), folder / "out", **({"rank": rank} | changes))
    run = pipeline.execute(config, until="corpus")
    return config, run.manifests["corpus"], run.store


def kept(folder: Path, **changes: Any) -> Kept:
    config, corpus, store = corpus_of(folder, **changes)
    ledger = keep_ledger(config.rank, config.model, corpus, Stage(store, "ledger", "0" * 32), seed=config.seed)
    return Kept(config, corpus, ledger, store)


@pytest.fixture(scope="module")
def reference(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return kept(tmp_path_factory.mktemp("reference"))


def joined(found: Kept, name: str) -> np.ndarray:
    """One column of the corpus [n], or of the ledger [M, n, E]."""
    if name in (LEDGER_MARGIN, LEDGER_P):
        batches = [b for part in found.ledger.parts for b in found.store.read_table(part.file).to_batches()]
        return np.concatenate([ledger_of(batch, name, MODELS) for batch in batches], axis=1)
    return np.concatenate([column_of(found.store.read_table(part.file), name) for part in found.corpus.parts])


def test_rows_lie_beside_those_of_the_corpus(reference: Kept) -> None:
    assert len(reference.ledger.parts) == len(reference.corpus.parts) > 2
    for own, part in zip(reference.ledger.parts, reference.corpus.parts, strict=True):
        table = reference.store.read_table(own.file)
        assert table.column_names == ["example_id", LEDGER_MARGIN, LEDGER_P]
        assert table["example_id"] == reference.store.read_table(part.file)["example_id"]
        for name in (LEDGER_MARGIN, LEDGER_P):
            assert str(table.schema.field(name).type.value_type) == "float"
            assert table.schema.field(name).type.list_size == MODELS * EPOCHS
            assert table[name].null_count == 0
    facts = dict(reference.ledger.facts)
    assert facts.pop("training_seconds") > 0
    rows = reference.corpus.rows
    assert facts == {"models": MODELS, "epochs": EPOCHS, "steps": EPOCHS * -(-rows // 32), "examples": rows}
    assert reference.ledger.rows == rows


def test_values_are_those_of_a_training_in_one_process(reference: Kept) -> None:
    tables = [reference.store.read_table(part.file) for part in reference.corpus.parts]
    x = np.concatenate([features_of(table) for table in tables])
    y, keys = joined(reference, "label").astype(np.int64), joined(reference, "draw_key").astype(np.uint64)
    margins, p = joined(reference, LEDGER_MARGIN), joined(reference, LEDGER_P)
    for m in (0, MODELS - 1):
        seed = ledger_seed(reference.config.seed, m)
        model = classifier.build(reference.config.model, reference.corpus.facts["input_shape"], 10, seed=seed)
        model.set_standardisation(*Moments.of(x).standardisation(reference.corpus.facts["input_shape"]))
        seen: list[np.ndarray] = []
        classifier.fit(
            model,
            x,
            y,
            keys,
            recipe=reference.config.rank.proxy,
            seed=seed,
            after_epoch=lambda _, model=model, seen=seen: seen.append(model.predict(x)),  # type: ignore[misc]
        )
        assert len(seen) == EPOCHS
        for epoch, logits in enumerate(seen):
            others = np.where(np.arange(10) == y[:, None], -np.inf, logits).max(axis=1)
            np.testing.assert_allclose(margins[m, :, epoch], logits[np.arange(len(y)), y] - others, atol=1e-3)
            np.testing.assert_allclose(p[m, :, epoch], softmax(logits, axis=1)[np.arange(len(y)), y], atol=1e-4)


def test_models_differ_and_another_seed_gives_others(reference: Kept) -> None:
    p = joined(reference, LEDGER_P)
    assert not np.allclose(p[0], p[1], atol=1e-3)
    assert len({ledger_seed(seed, m) for seed in range(20) for m in range(20)}) == 400


def test_bytes_do_not_depend_on_the_number_of_files(reference: Kept, tmp_path: Path) -> None:
    other = kept(tmp_path, files=3)
    assert [part.digest for part in other.ledger.parts] == [part.digest for part in reference.ledger.parts]


def test_flipped_labels_stand_out(reference: Kept) -> None:
    found = dynamics(joined(reference, LEDGER_MARGIN), joined(reference, LEDGER_P))
    flipped = joined(reference, "label") != joined(reference, "label_clean")
    assert 20 < flipped.sum() < 100
    confidence = found["confidence"].mean(axis=0)
    assert confidence[~flipped].mean() > confidence[flipped].mean() + 0.3
    assert roc_auc_score(flipped, -found["aum"].mean(axis=0)) > 0.9
    assert found["correctness"][:, ~flipped].mean() > 0.8


def test_recipes_in_steps_count_a_partial_epoch(tmp_path: Path) -> None:
    config, corpus, store = corpus_of(tmp_path, rank={"rounds": 1, "proxy": {"steps": 5}})
    per_epoch = -(-corpus.rows // 32)
    for steps, epochs in ((5, 1), (per_epoch, 1), (per_epoch + 1, 2)):
        rank = config.rank.model_copy(update={"proxy": config.rank.proxy.model_copy(update={"steps": steps})})
        assert lengths(rank.proxy, corpus.rows) == (steps, epochs)
        stage = Stage(store, "ledger", f"{steps:032d}")
        ledger = keep_ledger(rank, config.model, corpus, stage, seed=config.seed)
        assert (ledger.facts["steps"], ledger.facts["epochs"]) == (steps, epochs)
        last = store.read_table(ledger.parts[-1].file)
        assert last.schema.field(LEDGER_P).type.list_size == epochs
        assert np.isfinite(column_of(last, LEDGER_P)[0]).all()


def test_what_the_ledger_cannot_do_is_refused_in_one_sentence(reference: Kept) -> None:
    stage = Stage(reference.store, "refused", "1" * 32)
    rank, rows = reference.config.rank, reference.corpus.rows

    def keep(rank: Any, model: Any) -> None:
        keep_ledger(rank, model, reference.corpus, stage, seed=0)

    small = rank.model_copy(update={"max_proxy_examples": 100})
    with pytest.raises(
        SpecError, match=rf"all {rows} examples, but rank.max_proxy_examples is 100: raise it to {rows}"
    ):
        keep(small, reference.config.model)
    factory = {"kind": "torch", "network": "mlp", "factory": "tests.plugins:memoriser"}
    with pytest.raises(SpecError, match=r"model.factory 'tests.plugins:memoriser' .* dynamics .* epoch-wise training"):
        keep(rank, reference.config.model.model_copy(update=factory))
    wild = rank.proxy.model_copy(update={"optimizer": "sgd", "lr": 1e38})
    with pytest.raises(InputError, match="training diverged"):
        keep(rank.model_copy(update={"proxy": wild}), reference.config.model)
    assert stage.published() is None
