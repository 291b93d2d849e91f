"""Training from the ordered files against the same training from tensors in memory: seconds per step, in pairs.

The transformer of the gradient bench (4 layers, width 128, vocabulary 2000) on documents of 64 tokens, 32 a step, one
thread. One side is what a worker runs: files of the order, the plan, the certificate, the schedule. The other is the
shortest loop over a tensor that holds all documents. Both take the same steps from the same weights, so their last
losses agree.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.nn import functional

from raydelt.corpus.tokens import LOSS_FROM, TOKENS
from raydelt.examples import EXAMPLE_ID
from raydelt.models.recipe import optimizer
from raydelt.order.stage import ROWS_PER_FILE
from raydelt.specfile import validate
from raydelt.storage import Stage, Store
from raydelt.train.learners import LanguageLearner
from raydelt.train.plan import Plan
from raydelt.train.training import Training, fresh_state

ROUNDS = int(os.environ.get("BENCH_ORDERED_ROUNDS", "7"))
STEPS = int(os.environ.get("BENCH_ORDERED_STEPS", "40"))
LENGTH, BATCH, VOCABULARY, DOCUMENTS = 64, 32, 2000, 20_000


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = _model(Path(folder) / "lm")
        documents = np.random.default_rng(0).integers(0, VOCABULARY, (DOCUMENTS, LENGTH))
        store = Store(str(Path(folder) / "run"))
        files = [_write(store, documents)]
        print(f"{STEPS} steps of {BATCH} documents of {LENGTH} tokens, {ROUNDS} rounds, torch {torch.__version__}")
        ratios = []
        for turn in range(ROUNDS):
            sides = [lambda: _ordered(path, store, files), lambda: _in_memory(path, documents)]
            found = [side() for side in (sides if turn % 2 == 0 else sides[::-1])]
            (ours, our_loss), (plain, plain_loss) = found if turn % 2 == 0 else found[::-1]
            assert abs(our_loss - plain_loss) < 1e-4, f"the two sides differ: {our_loss} and {plain_loss}"
            ratios.append(ours / plain)
            told = f"  ordered {1e3 * ours:.1f} ms/step   tensor {1e3 * plain:.1f} ms/step"
            print(f"{told}   {ratios[-1]:.3f}", flush=True)
    low, high = np.quantile(ratios, [0.05, 0.95])
    print(f"ordered / in-memory tensor: median {np.median(ratios):.3f} [{low:.3f}, {high:.3f}]")


def _model(folder: Path) -> str:
    from tests.language import tiny_lm

    shape = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_key_value_heads": 4}
    return tiny_lm(folder, vocabulary=VOCABULARY, **shape)


def _write(store: Store, documents: Any) -> str:
    assert len(documents) <= ROWS_PER_FILE
    table = pa.table(
        {
            EXAMPLE_ID: [f"{i:032x}" for i in range(len(documents))],
            TOKENS: pa.array(documents.tolist(), pa.list_(pa.int32())),
            LOSS_FROM: np.ones(len(documents), np.int32),
            "position": np.arange(len(documents)),
            "weight": np.ones(len(documents)),
        }
    )
    return store.write_table("ordered/part-00000.parquet", table).file


def _learner(path: str) -> tuple[Any, LanguageLearner]:
    config = validate(
        {
            "name": "bench",
            "corpus": {"source": "nowhere", "text_column": "text"},
            "model": {"kind": "causal_lm", "path": path, "context": LENGTH},
            "score": [{"kind": "lm_loss"}],
            "rank": {"method": "score", "combine": {"weights": {"loss": 1.0}, "gate": None}},
            "train": {"recipe": {"batch_size": BATCH, "optimizer": "adamw"}, "checkpoint_every": 10_000},
            "output": "nowhere",
        }
    )
    return config, LanguageLearner(config.model, None, seed=0, dtype=torch.float32, device="cpu")


def _ordered(path: str, store: Store, files: list[str]) -> tuple[float, float]:
    """Seconds per step and last loss of a worker's training."""
    config, learner = _learner(path)
    training = Training(
        config=config,
        stage=Stage(store, "model", "bench"),
        name="selected-0",
        index=0,
        files=files,
        plan=Plan("bench", DOCUMENTS, ROWS_PER_FILE, BATCH, 0, True),
        steps=STEPS,
        learner=learner,
        validation_files=[],
        keep_model=False,
        worker=0,
        workers=1,
        advance=None,
        save=lambda state: None,
    )
    training.reader.step(0)  # the file is opened once in a training, whatever its number of steps
    state = fresh_state(0, [])
    started = time.perf_counter()
    training.run(state)
    return (time.perf_counter() - started) / STEPS, state["curve"][-1][1]


def _in_memory(path: str, documents: Any) -> tuple[float, float]:
    """The same of the loop that anyone would write."""
    config, learner = _learner(path)
    module, optimiser = learner.module.train(), optimizer(learner.module, config.train.recipe)
    held, losses = torch.from_numpy(documents), []
    started = time.perf_counter()
    for step in range(STEPS):
        ids = held[step * BATCH : (step + 1) * BATCH]
        optimiser.zero_grad(set_to_none=True)
        logits = module(input_ids=ids, use_cache=False).logits[:, :-1]
        loss = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    seconds = (time.perf_counter() - started) / STEPS
    every = max(1, STEPS // 20)
    return seconds, float(np.mean(losses[-every:]))


if __name__ == "__main__":
    main()
