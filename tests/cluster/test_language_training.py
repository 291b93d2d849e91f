"""Language models are fine-tuned in order: all of their weights or adapters, by any number of workers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raydelt import pipeline
from raydelt.config import RunConfig
from raydelt.errors import InputError, SpecError
from raydelt.storage import Store
from raydelt.train.verify import verify
from tests.faults import kill_when, worker_called
from tests.flow import spec, table
from tests.language import sentences, tiny_lm, write_documents

pytestmark = pytest.mark.usefixtures("ray_session")

TRAIN: dict[str, Any] = {
    "recipe": {"steps": 30, "batch_size": 8, "lr": 3e-3, "optimizer": "adamw", "schedule": "cosine", "warm_up": 0.1},
    "seeds": [0, 1],
    "baselines": ["random"],
    "checkpoint_every": 10,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_lm(tmp_path_factory.mktemp("lm"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    # One document is a single word, which gives a model nothing to predict.
    return write_documents(tmp_path_factory.mktemp("in") / "documents.jsonl", [*sentences(120), "fox"])


def language_spec(source: str, output: Path, path: str, **changes: Any) -> RunConfig:
    return spec(
        source,
        output,
        **{
            "corpus": {
                "source": source,
                "text_column": "text",
                "validation": {"fraction": 0.15},
                "test": {"fraction": 0.2},
            },
            "model": {"kind": "causal_lm", "path": path, "context": 32},
            "score": [{"kind": "lm_loss"}],
            "rank": {"method": "score", "combine": {"weights": {"loss": 1.0}, "gate": None}},
            "train": TRAIN,
        }
        | changes,
    )


def facts(config: RunConfig) -> dict[str, Any]:
    return pipeline.execute(config).manifests["model"].facts


def test_a_fine_tuned_model_is_a_plain_folder_that_has_learned(model: str, source: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = language_spec(source, tmp_path / "out", model)
    found = facts(config)
    assert found["metric"] == "loss"
    assert {arm: len(values) for arm, values in found["values"].items()} == {"selected": 2, "random": 2}
    tuned = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "model")
    assert tokenizer("quick fox")["input_ids"] == AutoTokenizer.from_pretrained(model)("quick fox")["input_ids"]

    def test_loss(module: torch.nn.Module) -> float:
        rows = table_of(tmp_path / "out", "test")
        total = count = 0.0
        for ids in rows:
            logits = module(input_ids=torch.tensor([ids])).logits[0, :-1]
            total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum"))
            count += len(ids) - 1
        return total / count

    with torch.no_grad():
        after, before = test_loss(tuned.eval()), test_loss(AutoModelForCausalLM.from_pretrained(model).eval())
    assert after == pytest.approx(found["values"]["selected"][0], rel=1e-4)
    assert after < before - 0.5
    assert (tmp_path / "out" / "report" / "index.html").exists()
    assert all(verdict.accepted for verdict in verify(config, Store(str(tmp_path / "out"))))


def table_of(output: Path, split: str) -> list[list[int]]:
    """The tokens of a held-out split that can be used."""
    manifest = json.loads((output / "tokens" / "manifest.json").read_text())
    store = Store(str(output))
    rows = [row for part in manifest["sides"][split] for row in store.read_table(part["file"]).to_pylist()]
    return [row["tokens"] for row in rows if row["reason"] is None]


def test_two_workers_and_small_passes_learn_the_same(model: str, source: str, tmp_path: Path) -> None:
    train = TRAIN | {"precision": "float64", "seeds": [0], "baselines": []}
    changes: list[dict[str, Any]] = [{}, {"workers": 2}, {"micro_batch": 3}]
    found = [
        facts(language_spec(source, tmp_path / str(i), model, train=train | own))["results"][0]
        for i, own in enumerate(changes)
    ]
    for other in found[1:]:
        np.testing.assert_allclose(found[0]["curve"], other["curve"], rtol=1e-9)
        assert found[0]["loss"] == pytest.approx(other["loss"], rel=1e-9)
    chains = [json.loads((tmp_path / str(i) / "model" / "order-certificate.json").read_text()) for i in range(3)]
    assert len({json.dumps(chain["chains"][0]["head"]) for chain in chains}) == 1


def test_a_model_that_is_cut_up_among_workers_learns_the_same(model: str, source: str, tmp_path: Path) -> None:
    train = TRAIN | {"seeds": [0], "baselines": [], "workers": 2, "evaluate_every": 10, "keep_best": 1}
    found = {
        how: facts(language_spec(source, tmp_path / how, model, train=train | {"parallel": how}))["results"][0]
        for how in ("ddp", "fsdp")
    }
    np.testing.assert_allclose(found["ddp"]["curve"], found["fsdp"]["curve"], rtol=1e-4)
    assert found["ddp"]["loss"] == pytest.approx(found["fsdp"]["loss"], rel=1e-4)
    assert found["ddp"]["evaluations"][-1][1]["loss"] == pytest.approx(
        found["fsdp"]["evaluations"][-1][1]["loss"], rel=1e-4
    )


@pytest.mark.slow
def test_a_model_that_is_cut_up_goes_on_after_a_worker_is_killed(model: str, source: str, tmp_path: Path) -> None:
    recipe = TRAIN["recipe"] | {"steps": 100}
    train = TRAIN | {"recipe": recipe, "seeds": [0], "baselines": [], "workers": 2, "parallel": "fsdp"}
    train |= {"precision": "float64"}
    [whole] = facts(language_spec(source, tmp_path / "whole", model, train=train))["results"]
    output, killed = tmp_path / "killed", []

    def training() -> int | None:
        begun = list((output / ".training").glob("*/checkpoint_*/state.pt"))
        return worker_called("RayTrainWorker") if begun else None

    watcher = kill_when(training, killed)
    [found] = facts(language_spec(source, output, model, train=train))["results"]
    watcher.join(timeout=5)
    assert killed, "no worker was killed: the test proved nothing"
    np.testing.assert_allclose(found["curve"], whole["curve"], rtol=1e-9)
    chains = [
        json.loads((tmp_path / at / "model" / "order-certificate.json").read_text()) for at in ("whole", "killed")
    ]
    assert chains[0]["chains"][0]["head"] == chains[1]["chains"][0]["head"]


@pytest.mark.parametrize("merge", [True, False])
def test_adapters_learn_and_can_be_merged(model: str, source: str, tmp_path: Path, merge: bool) -> None:
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    train = TRAIN | {"seeds": [0], "baselines": [], "lora": {"rank": 4, "merge": merge}}
    found = facts(language_spec(source, tmp_path / "out", model, train=train))["results"][0]
    assert found["curve"][-1][1] < found["curve"][0][1]
    folder = tmp_path / "out" / "model"
    assert (folder / "adapter_config.json").exists() != merge
    loaded = (AutoModelForCausalLM if merge else AutoPeftModelForCausalLM).from_pretrained(folder)
    assert sum(p.numel() for p in loaded.parameters()) > 10_000


def test_documents_that_cannot_be_used_are_in_no_arm(model: str, source: str, tmp_path: Path) -> None:
    config = language_spec(source, tmp_path / "out", model, train=TRAIN | {"baselines": ["full"], "seeds": [0]})
    run = pipeline.execute(config, until="ordered")
    store = Store(str(tmp_path / "out"))
    rows = [row for part in run.manifests["ordered"].sides["full"] for row in store.read_table(part.file).to_pylist()]
    scored = table(tmp_path / "out", "scores")["example_id"].to_pylist()
    assert sorted(row["example_id"] for row in rows) == sorted(scored)
    assert min(len(row["tokens"]) for row in rows) > 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": TRAIN | {"precision": "float16"}}, "train.precision float16 needs GPUs: use bfloat16"),
        ({"train": TRAIN | {"lora": {"targets": ["nothing"]}}}, r"train.lora.targets \['nothing'\] do not fit"),
        ({"train": TRAIN | {"evaluate_every": 5}, "corpus": None}, "train.evaluate_every looks at the validation"),
    ],
)
def test_what_cannot_be_trained_is_told_in_one_sentence(
    model: str, source: str, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    if changes.get("corpus", ()) is None:
        changes = changes | {"corpus": {"source": source, "text_column": "text", "test": {"fraction": 0.2}}}
    with pytest.raises((SpecError, InputError), match=message):
        pipeline.execute(language_spec(source, tmp_path / "out", model, **changes))
