"""A real model of 135M parameters with tied weights, through the whole score stage. Slow; `make assets` first."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from raydelt import pipeline
from tests.assets import SMOLLM2
from tests.flow import spec, table
from tests.language import write_documents

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.usefixtures("ray_session"),
    pytest.mark.skipif(not SMOLLM2.exists(), reason="no real model: run `make assets`"),
]

CONTEXT = 64


def paragraphs() -> list[str]:
    """Prose of this repository."""
    texts = [Path(name).read_text() for name in ("README.md", "LICENSE")]
    found = [" ".join(part.split()) for text in texts for part in text.split("\n\n")]
    return [part for part in found if 40 <= len(part.split()) <= 120 and "|" not in part][:12]


def test_gradient_norms_of_a_real_model_equal_autograd_and_shuffled_words_are_harder(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    good = paragraphs()
    rng = random.Random(0)
    junk = [" ".join(rng.sample(text.split(), len(text.split()))) for text in good]
    source = write_documents(tmp_path / "in.jsonl", [*good, *junk])
    config = spec(
        source,
        tmp_path / "out",
        corpus={"source": source, "text_column": "text", "test": {"fraction": 0}},
        model={"kind": "causal_lm", "path": str(SMOLLM2), "context": CONTEXT},
        score=[{"kind": "lm_loss"}, {"kind": "grad_norm", "parameters": "all"}],
        rank={"method": "score", "combine": {"weights": {"grad_norm": 1.0}, "gate": None}},
        cluster={"actors": {"min": 1, "max": 1, "num_cpus": 1}},
    )
    pipeline.execute(config, until="scores")
    texts = {row["example_id"]: row["text"] for row in table(tmp_path / "out", "corpus").to_pylist()}
    scores = {texts[row["example_id"]]: row for row in table(tmp_path / "out", "scores").to_pylist()}
    assert np.mean([scores[text]["loss"] for text in junk]) > np.mean([scores[text]["loss"] for text in good]) + 0.5

    tokenizer = AutoTokenizer.from_pretrained(SMOLLM2)
    module = AutoModelForCausalLM.from_pretrained(SMOLLM2, dtype=torch.float32).eval()
    parameters = list(module.parameters())
    for text in (good[0], junk[1]):
        ids = torch.tensor([tokenizer(text)["input_ids"][:CONTEXT]])
        loss = module(input_ids=ids, labels=ids).loss
        norm = torch.stack([g.square().sum() for g in torch.autograd.grad(loss, parameters)]).sum().sqrt()
        assert scores[text]["loss"] == pytest.approx(float(loss.detach()), rel=1e-4)
        assert scores[text]["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
