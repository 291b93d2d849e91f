"""Exact per-example gradient norms: cost against a plain forward and backward pass, and against other libraries.

Every figure is a ratio of times measured in turns within one run (the order of the methods changes every round), as
the median with the first and third quartile over the rounds. Memory is measured apart, each method in a process of its
own: the peak of live tensors, which no allocator changes, and the growth of the resident set. Models have random
weights: the cost does not depend on them. Peers are measured where they are installed.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from torch import Tensor, nn

from raydelt.gradients import PerExampleGradients
from raydelt.scorers.concentration import concentration
from tests.bench.norm_methods import METHODS, TASKS

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "15"))
SETTLE = 2
SLOW_ROUNDS = 3

# What `make peers` installs, beside the environment: their own requirements would bring CUDA packages along.
PEERS = Path("build/peers")


def methods_for(name: str) -> list[str]:
    """Methods that are installed and can do a task."""
    missing = {"opacus", "bergson"} - installed()
    found = [method for method in METHODS if method.split()[0] not in missing]
    return [method for method in found if name == "transformer" or "linear" not in method]


def installed() -> set[str]:
    return {peer for peer in ("opacus", "bergson") if importlib.util.find_spec(peer) is not None}


def timings(name: str) -> dict[str, list[float]]:
    """Seconds of every method, each round running all of them in another order."""
    runs = {}
    for method in methods_for(name):
        runs[method] = METHODS[method](TASKS[name]())
    seconds: dict[str, list[float]] = {method: [] for method in runs}
    for round_ in range(SETTLE + ROUNDS):
        order = list(runs)
        order = order[round_ % len(order) :] + order[: round_ % len(order)]
        for method in order:
            if method in ("vmap", "loop") and round_ >= SETTLE + SLOW_ROUNDS:
                continue
            started = time.perf_counter()
            runs[method]()
            taken = time.perf_counter() - started
            if round_ >= SETTLE:
                seconds[method].append(taken)
    return seconds


def peaks(name: str, method: str) -> tuple[float, float]:
    """Peak MiB of a pass, in a process of its own: of live tensors, and of the resident set above the start."""
    command = [sys.executable, "-m", "tests.bench.gradients", "--peak", name, method]
    tensors, resident = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return tensors / 2**20, resident / 2**20


def _report_peaks(name: str, method: str) -> None:
    run = METHODS[method](TASKS[name]())
    before = _status("VmRSS")
    run()  # buffers of libraries, and our check of the first batch
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    run()
    resident = _status("VmHWM") - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))
    print(json.dumps([max(live), resident]))


def _status(field: str) -> int:
    """Bytes of a line of /proc/self/status."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)]
    return 1024 * int(line.split()[1])


def _check_equal(name: str) -> None:
    """How far every method is from the truth; all compute the same thing, or a comparison would mean nothing."""
    for method in methods_for(name):
        if method == "plain":
            continue
        truth = _in_float64(name, linear_only="linear" in method)
        worst = ((METHODS[method](TASKS[name]())().double() - truth) / truth).abs().max()
        print(f"  {method:24} max relative error against batch-1 float64 autograd {worst:.1e}", flush=True)


def _in_float64(name: str, *, linear_only: bool) -> Tensor:
    """Norms by one backward pass per example in float64, over all parameters or those of linear layers."""
    model, losses, batch = TASKS[name]()
    model.double()
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
    parameters = [layer.weight for layer in layers] if linear_only else list(model.parameters())
    norms = []
    for i in range(len(next(iter(batch.values())))):
        row = {key: x[i : i + 1].double() if x.is_floating_point() else x[i : i + 1] for key, x in batch.items()}
        [value] = losses(model, row)
        norms.append(torch.stack([g.square().sum() for g in torch.autograd.grad(value, parameters)]).sum().sqrt())
    return torch.stack(norms)


def steps_of_digits() -> None:
    """How last-layer norms rank beside full ones, and how concentrated they are, as training goes on."""
    x, y = (torch.from_numpy(a) for a in load_digits(return_X_y=True))
    x, y = (x.float() - 8) / 8, y.long()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses, batch = TASKS["mlp"]()[1], {"x": x, "y": y}
    print(
        "digits, MLP 64-64-10, Adam 1e-3, batch 32: Spearman of last-layer and full norms; share of the top 20 %, Gini"
    )
    done = 0
    for step in (30, 100, 300, 1000, 3000):
        for _ in range(step - done):
            rows = torch.randint(0, len(x), (32,))
            optimiser.zero_grad()
            losses(model, {"x": x[rows], "y": y[rows]}).mean().backward()
            optimiser.step()
        done = step
        full = PerExampleGradients(model, losses)(batch).norms
        last = PerExampleGradients(model, losses, parameters="last_layer")(batch).norms
        assert full is not None
        own = concentration(full.numpy())
        print(f"  step {step:5}   {spearmanr(full, last).statistic:.4f}   {own['top_share']:.2f}   {own['gini']:.2f}")


def quartiles(values: list[float]) -> tuple[float, float, float]:
    low, middle, high = statistics.quantiles(values, n=4)
    return low, middle, high


def main() -> None:
    sys.path.append(str(PEERS.absolute()))
    parser = argparse.ArgumentParser()
    parser.add_argument("--peak", nargs=2)
    arguments, _ = parser.parse_known_args()
    if arguments.peak:
        _report_peaks(*arguments.peak)
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {ROUNDS} rounds")
    print("peers that are not installed (make peers):", ", ".join({"opacus", "bergson"} - installed()) or "none")
    for name, make in TASKS.items():
        print(f"{name}: {make.__doc__}")
        _check_equal(name)
        seconds = timings(name)
        rows = len(next(iter(make()[2].values())))
        for method, values in seconds.items():
            ratios = [a / b for a, b in zip(values, seconds["plain"], strict=False)]
            low, middle, high = quartiles(ratios)
            tensors, resident = peaks(name, method)
            print(
                f"  {method:24} / plain {middle:6.2f} [{low:.2f}, {high:.2f}]   "
                f"{rows / statistics.median(values):9.0f} rows/s   "
                f"peak {tensors:7.1f} MiB of tensors, {resident:7.1f} MiB resident",
                flush=True,
            )
    steps_of_digits()


if __name__ == "__main__":
    main()
