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
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from raydelt.gradients import PerExampleGradients
from raydelt.scorers.concentration import concentration

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "15"))
SETTLE = 2
SLOW_ROUNDS = 3

Task = tuple[nn.Module, Callable[..., Tensor], dict[str, Tensor]]


class Block(nn.Module):
    """Pre-norm attention and a four times wider MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, t, d))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """A small causal language model with an output layer of its own."""

    def __init__(self, width: int = 128, layers: int = 4, vocabulary: int = 2000, length: int = 64) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, 4) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1], device=ids.device).repeat(len(ids), 1)
        x = self.tokens(ids) + self.places(places)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))  # type: ignore[no-any-return]


def mlp() -> Task:
    """256-512-512-10, batch 256."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    batch = {"x": torch.randn(256, 256), "y": torch.randint(0, 10, (256,))}
    return model.eval(), lambda f, b: functional.cross_entropy(f(b["x"]), b["y"], reduction="none"), batch


def transformer() -> Task:
    """4 layers, d = 128, T = 64, V = 2000, batch 32."""
    torch.manual_seed(0)
    batch = {"ids": torch.randint(0, 2000, (32, 64))}

    def losses(forward: Callable[..., Tensor], b: dict[str, Tensor]) -> Tensor:
        logits = forward(b["ids"])[:, :-1]
        each = functional.cross_entropy(logits.flatten(0, 1), b["ids"][:, 1:].flatten(), reduction="none")
        return each.reshape(len(logits), -1).mean(1)

    return Transformer().eval(), losses, batch


TASKS: dict[str, Callable[[], Task]] = {"mlp": mlp, "transformer": transformer}


def plain(task: Task) -> Callable[[], Any]:
    """Forward and backward of the summed loss."""
    model, losses, batch = task

    def run() -> None:
        for p in model.parameters():
            p.grad = None
        losses(model, batch).sum().backward()

    return run


def ours(task: Task, *, backend: str = "ghost", dots: int = 0) -> Callable[[], Any]:
    model, losses, batch = task
    engine = PerExampleGradients(model, losses, backend=backend)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    vectors = [
        {name: torch.randn(p.shape, generator=generator) for name, p in model.named_parameters()} for _ in range(dots)
    ]
    return lambda: engine(batch, vectors=vectors).norms


def vmapped(task: Task) -> Callable[[], Any]:
    """torch.func as its tutorial has it: vmap(grad) over the batch, then norms."""
    model, losses, batch = task
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(own: dict[str, Tensor], row: dict[str, Tensor]) -> Tensor:
        return losses(lambda *a: torch.func.functional_call(model, own, a), {k: v[None] for k, v in row.items()})[0]

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))

    def run() -> Tensor:
        grads = each(parameters, batch)
        return torch.stack([g.flatten(1).square().sum(1) for g in grads.values()]).sum(0).sqrt()

    return run


def loop(task: Task) -> Callable[[], Any]:
    """One backward pass per example."""
    model, losses, batch = task
    parameters = list(model.parameters())

    def run() -> Tensor:
        norms = []
        for i in range(len(next(iter(batch.values())))):
            [value] = losses(model, {name: x[i : i + 1] for name, x in batch.items()})
            norms.append(torch.stack([g.square().sum() for g in torch.autograd.grad(value, parameters)]).sum().sqrt())
        return torch.stack(norms)

    return run


def opacus(task: Task) -> Callable[[], Any]:
    """Opacus' ghost clipping module; its loss must be the mean or sum over the batch."""
    import warnings

    from opacus.grad_sample import GradSampleModuleFastGradientClipping

    warnings.simplefilter("ignore")
    model, losses, batch = task
    model.train()  # it records in training mode only; these models behave alike in both
    wrapped = GradSampleModuleFastGradientClipping(
        model, loss_reduction="sum", use_ghost_clipping=True, max_grad_norm=1.0, strict=False
    )

    def run() -> Tensor:
        wrapped.zero_grad()
        losses(wrapped, batch).sum().backward()
        norms: Tensor = wrapped.get_norm_sample()
        return norms

    return run


def bergson(task: Task) -> Callable[[], Any]:
    """bergson's collector, which hooks linear layers alone and materialises their gradients."""
    from bergson.collector.gradient_collectors import GradientCollector
    from bergson.config import IndexConfig
    from bergson.gradients import GradientProcessor
    from datasets import Dataset

    model, losses, batch = task
    ids = batch["ids"]
    data = Dataset.from_dict({"input_ids": ids.tolist(), "length": [ids.shape[1]] * len(ids)})
    folder = IndexConfig(run_path=tempfile.mkdtemp())
    collector = GradientCollector(model=model, data=data, cfg=folder, processor=GradientProcessor(), skip_index=True)

    def run() -> Tensor:
        with collector:
            losses(model, batch).sum().backward()
        squares = [g.float().square().flatten(1).sum(1) for g in collector.mod_grads.values()]
        collector.mod_grads.clear()
        return torch.stack(squares).sum(0).sqrt()

    return run


def linear(task: Task) -> Callable[[], Any]:
    """Ours over the same weights as bergson's."""
    model, losses, batch = task
    names = [f"{path}.weight" for path, module in model.named_modules() if isinstance(module, nn.Linear)]
    engine = PerExampleGradients(model, losses, parameters=names)
    return lambda: engine(batch).norms


METHODS: dict[str, Callable[[Task], Callable[[], Any]]] = {
    "plain": plain,
    "raydelt": ours,
    "raydelt+dot": lambda task: ours(task, dots=1),
    "opacus": opacus,
    "vmap": vmapped,
    "loop": loop,
    "raydelt (linear layers)": linear,
    "bergson (linear layers)": bergson,
}
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
