"""Exact gradient norms of a 135M-parameter language model on a GPU, in bfloat16: cost against a plain pass.

The network has SmolLM2-135M's shape (30 layers, width 576, tied embeddings, vocabulary 49,152) and random weights, on
which the cost does not depend. Printed: time against a plain forward and backward pass, documents and tokens per
second, peak memory, and the share of the matrix-product peak that the machine reaches in the same run, counting 6
operations per parameter and token for a plain pass. BENCH_DEVICE=cpu runs a small one on the CPU, to see that it runs.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from raydelt.gradients import PerExampleGradients
from raydelt.models.causal_lm import CausalLM

DEVICE = os.environ.get("BENCH_DEVICE", "cuda")
SMALL = DEVICE == "cpu"
ROWS, LENGTH = (4, 64) if SMALL else (16, 512)
ROUNDS = 3 if SMALL else 20
MATRIX = 512 if SMALL else 8192


def model() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=2 if SMALL else 30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
        max_position_embeddings=2048,
    )
    return LlamaForCausalLM(config).to(DEVICE, torch.bfloat16).eval()  # type: ignore[no-any-return]


def seconds(run: Callable[[], Any]) -> float:
    """Median over the rounds, the device's queue emptied before and after."""
    taken = []
    for _ in range(ROUNDS + 2):
        _wait()
        started = time.perf_counter()
        run()
        _wait()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[2:])


def _wait() -> None:
    if not SMALL:
        torch.cuda.synchronize()


def matmul_peak() -> float:
    """Operations per second of one large bfloat16 product."""
    a = torch.randn(MATRIX, MATRIX, device=DEVICE, dtype=torch.bfloat16)
    return 2 * MATRIX**3 / seconds(lambda: a @ a)


def main() -> None:
    if not SMALL and not torch.cuda.is_available():
        print("no CUDA device here: left out")
        return
    network = model()
    ids = torch.randint(0, 49_152, (ROWS, LENGTH), device=DEVICE)
    batch = {"ids": ids, "targets": torch.cat([ids[:, 1:], torch.full_like(ids[:, :1], -100)], 1)}
    engine = PerExampleGradients(network, CausalLM.losses)
    vector = {name: torch.randn_like(p.detach()) for name, p in network.named_parameters()}

    def plain() -> None:
        for p in network.parameters():
            p.grad = None
        CausalLM.losses(network, batch).sum().backward()

    peak, parameters = matmul_peak(), sum(p.numel() for p in network.parameters())
    name = torch.cuda.get_device_name() if not SMALL else "CPU"
    print(
        f"{name}, torch {torch.__version__}; {parameters / 1e6:.1f}M parameters, {ROWS} documents of {LENGTH} tokens"
    )
    print(f"bfloat16 product of {MATRIX} x {MATRIX}: {peak / 1e12:.2f} Tflop/s")
    base = seconds(plain)
    runs = {"plain": plain, "norms": lambda: engine(batch), "norms + dot": lambda: engine(batch, vectors=[vector])}
    for what, run in runs.items():
        for p in network.parameters():
            p.grad = None
        if not SMALL:
            torch.cuda.reset_peak_memory_stats()
        own = seconds(run)
        memory = "" if SMALL else f"   peak {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB"
        share = 6 * parameters * ROWS * LENGTH / own / peak
        print(
            f"  {what:12} / plain {own / base:5.2f}   {ROWS / own:8.1f} documents/s   "
            f"{ROWS * LENGTH / own:10.0f} tokens/s   {100 * share:5.1f} % of the product's rate{memory}",
            flush=True,
        )
    print(f"backend {engine.backend}")


if __name__ == "__main__":
    main()
