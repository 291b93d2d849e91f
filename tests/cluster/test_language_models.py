"""Documents scored by a language model on a real cluster: the numbers, their independence of the layout, bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raydelt import pipeline
from raydelt.config import RunConfig
from raydelt.errors import InputError, SpecError
from tests.flow import spec, table
from tests.language import sentences, tiny_lm, write_documents

pytestmark = pytest.mark.usefixtures("ray_session")

ALL = [
    {"kind": "lm_loss"},
    {"kind": "grad_norm", "parameters": "all"},
    {"kind": "target_alignment"},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_lm(tmp_path_factory.mktemp("lm"))


def language_spec(source: str, output: Path, path: Any, **changes: Any) -> RunConfig:
    return spec(
        source,
        output,
        **{
            "corpus": {"source": source, "text_column": "text", "validation": {"fraction": 0.15}},
            "model": {"kind": "causal_lm", "path": path, "context": 32},
            "score": ALL,
            "rank": {"method": "score", "combine": {"weights": {"grad_norm": 1.0}, "gate": None}},
        }
        | changes,
    )


def scores_of(config: RunConfig) -> dict[str, dict[str, float]]:
    pipeline.execute(config, until="scores")
    rows = table(Path(config.output), "scores").to_pylist()
    return {row["example_id"]: row for row in rows}


def truth(model: str, texts: dict[str, str], target: list[str], context: int) -> dict[str, tuple[float, float, float]]:
    """Loss, gradient norm and product with the target's gradient, one document at a time in float64."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    module = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64).eval()
    parameters = list(module.parameters())

    def one(text: str) -> tuple[float, torch.Tensor]:
        ids = torch.tensor([tokenizer(text)["input_ids"][:context]])
        loss = module(input_ids=ids, labels=ids).loss
        return float(loss.detach()), torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])

    mean = torch.stack([one(text)[1] for text in target]).mean(0)
    result = {}
    for key, text in texts.items():
        loss, gradient = one(text)
        result[key] = (loss, float(gradient.norm()), float(gradient @ mean))
    return result


def test_scores_equal_one_document_at_a_time_in_float64(model: str, tmp_path: Path) -> None:
    source = write_documents(tmp_path / "in.jsonl", sentences(60))
    config = language_spec(source, tmp_path / "out", model)
    found = scores_of(config)
    run = tmp_path / "out"
    texts = {row["example_id"]: row["text"] for row in table(run, "corpus").to_pylist()}
    expected = truth(model, texts, _validation(run), 32)
    assert set(found) == set(texts)
    for key, (loss, norm, dot) in expected.items():
        assert found[key]["loss"] == pytest.approx(loss, rel=1e-5)
        assert found[key]["grad_norm"] == pytest.approx(norm, rel=1e-5)
        assert found[key]["alignment"] == pytest.approx(dot, rel=1e-4, abs=1e-6)


def _validation(run: Path) -> list[str]:
    from raydelt.storage import Store, read_manifest

    manifest = read_manifest(Store(str(run)), "corpus")
    assert manifest is not None
    parts = [Store(str(run)).read_table(part.file) for part in manifest.sides["validation"]]
    return [text for part in parts for text in part["text"].to_pylist()]


def test_packed_rows_split_documents_and_small_batches_change_no_score(model: str, tmp_path: Path) -> None:
    source = write_documents(tmp_path / "in.jsonl", sentences(80, longest=28))
    plain = scores_of(language_spec(source, tmp_path / "a", model))
    packed = {"kind": "causal_lm", "path": model, "context": 32, "batching": "packed"}
    others = {
        "packed": language_spec(source, tmp_path / "b", model, model=packed),
        "small": language_spec(source, tmp_path / "c", model, cluster={"actors": {"batch_bytes": 200_000, "max": 1}}),
    }
    for name, config in others.items():
        found = scores_of(config)
        assert found.keys() == plain.keys()
        for key, row in plain.items():
            for column in ("loss", "grad_norm", "alignment"):
                assert found[key][column] == pytest.approx(row[column], rel=1e-5, abs=1e-7), (name, column)


def test_a_document_longer_than_the_context_is_split_truncated_or_quarantined(model: str, tmp_path: Path) -> None:
    long = " ".join(sentences(8, shortest=30))
    source = write_documents(tmp_path / "in.jsonl", [*sentences(30, longest=12), long])
    ways = ("split", "truncate", "quarantine")
    found = {}
    for way in ways:
        own = {"kind": "causal_lm", "path": model, "context": 16, "long_documents": way}
        config = language_spec(source, tmp_path / way, model, model=own, corpus__test={"fraction": 0})
        found[way] = scores_of(config)
    lengths = {way: max(row["tokens"] for row in rows.values()) for way, rows in found.items()}
    assert lengths["split"] == len(long.split()) - 1
    assert lengths["truncate"] == 15
    assert len(found["quarantine"]) == len(found["split"]) - 1
    reasons = [row["reason"] for row in _quarantine(tmp_path / "quarantine")]
    assert reasons == [f"document of {len(long.split())} tokens is longer than model.context 16"]


def _quarantine(run: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    files = sorted((run / "quarantine").glob("part-score-*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def test_documents_without_a_target_go_to_quarantine_with_their_reason(model: str, tmp_path: Path) -> None:
    texts = [*(f"{s} Answer: {s}" for s in sentences(40, longest=8)), "fox", "the dog sleeps", "fox jumps Answer:"]
    source = write_documents(tmp_path / "in.jsonl", texts)
    own = {"kind": "causal_lm", "path": model, "context": 64, "answer_after": "Answer:"}
    corpus = {"source": source, "text_column": "text", "test": {"fraction": 0}, "error_budget": 0.2}
    score = [{"kind": "lm_loss"}, {"kind": "grad_norm"}]
    found = scores_of(language_spec(source, tmp_path / "out", model, model=own, corpus=corpus, score=score))
    assert len(found) == 40
    reasons = sorted(row["reason"] for row in _quarantine(tmp_path / "out"))
    assert reasons == [
        "document of 1 tokens: nothing to predict",
        "no token to predict behind model.answer_after 'Answer:'",
        "no token to predict behind model.answer_after 'Answer:'",
    ]


def test_excess_loss_is_zero_against_itself_and_refuses_another_tokenizer(model: str, tmp_path: Path) -> None:
    source = write_documents(tmp_path / "in.jsonl", sentences(30))
    rank = {"method": "score", "combine": {"weights": {"excess_loss": 1.0}, "gate": None}}
    same = [{"kind": "excess_loss", "reference": model}, {"kind": "lm_loss"}]
    found = scores_of(language_spec(source, tmp_path / "a", model, score=same, rank=rank))
    assert all(row["excess_loss"] == 0 for row in found.values())
    other = tiny_lm(tmp_path / "other", seed=1)
    twice = language_spec(source, tmp_path / "b", [model, other], score=[{"kind": "lm_loss"}, same[0]], rank=rank)
    both = scores_of(twice)
    assert any(abs(row["excess_loss"]) > 1e-3 for row in both.values())
    assert all("loss_se" in row for row in both.values())
    foreign = tiny_lm(tmp_path / "foreign", words=["zebra"])
    wrong = [{"kind": "excess_loss", "reference": foreign}]
    with pytest.raises(InputError, match="have different tokenizers"):
        scores_of(language_spec(source, tmp_path / "c", model, score=wrong, rank=rank))


def test_a_pickled_broken_or_mismatched_model_is_named(model: str, tmp_path: Path) -> None:
    import safetensors.torch

    source = write_documents(tmp_path / "in.jsonl", sentences(20))

    def attempt(path: str) -> None:
        scores_of(language_spec(source, tmp_path / "out", path, score=[{"kind": "lm_loss"}], rank=rank))

    rank = {"method": "score", "combine": {"weights": {"loss": 1.0}, "gate": None}}
    pickled = Path(tiny_lm(tmp_path / "pickled"))
    weights = safetensors.torch.load_file(pickled / "model.safetensors")
    (pickled / "model.safetensors").unlink()
    torch.save(weights, pickled / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin is a pickle.*convert it to safetensors"):
        attempt(str(pickled))
    (pickled / "pytorch_model.bin").unlink()
    with pytest.raises(InputError, match="has no weights"):
        attempt(str(pickled))
    [name, *_] = sorted(key for key in weights if "down_proj" in key)
    torn = {"metadata": {"format": "pt"}}
    rest = {key: value for key, value in weights.items() if key != name}
    safetensors.torch.save_file(rest, pickled / "model.safetensors", **torn)
    with pytest.raises(InputError, match=f"1 tensors are missing .{name}"):
        attempt(str(pickled))
    safetensors.torch.save_file(weights | {"extra.weight": torch.zeros(2)}, pickled / "model.safetensors", **torn)
    with pytest.raises(InputError, match=r"1 tensors are left over .extra\.weight"):
        attempt(str(pickled))
    small = tiny_lm(tmp_path / "small", vocabulary=40)
    with pytest.raises(InputError, match="ids but the model only 40 embeddings"):
        attempt(small)
    with pytest.raises(InputError, match=r"model\.path .* is no folder"):
        attempt(str(tmp_path / "nowhere"))


def test_what_a_language_model_cannot_do_is_refused_before_anything_is_read(model: str, tmp_path: Path) -> None:
    source = write_documents(tmp_path / "in.jsonl", sentences(20))
    with pytest.raises(SpecError, match=r"score\.0: difficulty needs a classifier"):
        pipeline.execute(
            language_spec(
                source,
                tmp_path / "out",
                model,
                score=[{"kind": "difficulty"}],
                rank={"method": "score", "combine": {"gate": None}},
            ),
            until="scores",
        )
    assert not (tmp_path / "out").exists()


def test_a_language_model_run_goes_on_to_an_order(model: str, tmp_path: Path) -> None:
    source = write_documents(tmp_path / "in.jsonl", sentences(60))
    config = language_spec(source, tmp_path / "out", model)
    run = pipeline.execute(config, until="ordered")
    assert run.manifests["ordered"].rows == round(0.5 * run.manifests["ranking"].rows)
    again = pipeline.execute(config, until="ordered")
    assert not any(again.fresh.values())
    assert np.isfinite(table(tmp_path / "out", "ranking")["score"].to_numpy()).all()
