"""Memory budgets and backing off: batches follow from the budget alone, and running out of memory is no end."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from raydelt.config import ModelSpec
from raydelt.corpus.canonical import fixed_lists
from raydelt.errors import InputError
from raydelt.gradients.memory import backing_off, bytes_per_row, rows_within
from raydelt.models import classifier


def losses(forward: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return nn.functional.cross_entropy(forward(batch["x"]), batch["y"], reduction="none")


def test_bytes_of_a_row_grow_with_the_network_and_not_with_its_weights() -> None:
    row = {"x": torch.zeros(1, 64), "y": torch.zeros(1, dtype=torch.int64)}

    def measured(width: int) -> int:
        return bytes_per_row(nn.Sequential(nn.Linear(64, width), nn.Tanh(), nn.Linear(width, 3)), losses, row)

    narrow, wide = measured(1000), measured(4000)
    assert 3 < wide / narrow < 5
    assert wide < 4 * 64 * 4000  # the weights alone take more


def test_a_budget_smaller_than_a_row_still_takes_one() -> None:
    assert rows_within(10, 100) == 1
    assert rows_within(1000, 100) == 10


def test_groups_follow_from_the_budget_and_cover_every_row_once() -> None:
    model = classifier.build(ModelSpec(hidden=[500]), (8,), 3, seed=0)
    x = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)
    batch = pa.record_batch({"x": fixed_lists(x), "label": pa.array(np.zeros(100, np.int32))})
    rows = np.arange(0, 100, 2)
    small = model.groups(batch, rows, 20_000)
    assert len(small) > 2
    np.testing.assert_array_equal(np.concatenate(small), rows)
    assert len(model.groups(batch, rows, 1 << 30)) == 1


def test_backing_off_halves_until_it_fits_and_keeps_the_order() -> None:
    sizes: list[int] = []

    def compute(low: int, high: int) -> list[int]:
        sizes.append(high - low)
        if high - low > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return list(range(low, high))

    results = backing_off(compute, 10, what="a batch")
    assert [i for part in results for i in part] == list(range(10))
    assert sizes[0] == 10
    assert backing_off(compute, 0, what="a batch") == []


def test_other_errors_and_a_single_row_that_does_not_fit_are_told() -> None:
    def broken(low: int, high: int) -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        backing_off(broken, 4, what="a batch")

    def hopeless(low: int, high: int) -> None:
        raise MemoryError

    with pytest.raises(InputError, match="one document does not fit into memory: shorten it"):
        backing_off(hopeless, 4, what="one document")


def test_a_real_allocation_failure_backs_off_to_the_same_norms() -> None:
    """A process whose address space is limited cannot hold the whole batch; halves of it fit."""
    script = """
        import logging, resource, sys
        import torch
        from torch import nn
        from raydelt.gradients import PerExampleGradients
        from raydelt.gradients.memory import backing_off

        logging.basicConfig(stream=sys.stdout, format="%(message)s")
        torch.set_num_threads(1)
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(256, 2000), nn.ReLU(), nn.Linear(2000, 2000), nn.ReLU(), nn.Linear(2000, 5))
        x, y = torch.randn(8192, 256), torch.randint(0, 5, (8192,))
        losses = lambda f, b: nn.functional.cross_entropy(f(b["x"]), b["y"], reduction="none")
        engine = PerExampleGradients(model.eval(), losses)
        part = lambda low, high: engine({"x": x[low:high], "y": y[low:high]}).norms
        expected = torch.cat([part(low, low + 64) for low in range(0, 8192, 64)])
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 120 * 2**20,) * 2)
        found = torch.cat(backing_off(part, 8192, what="a row"))
        print("largest difference", float(((found - expected) / expected).abs().max()))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "out of memory with 8192 examples at once: going on with 4096" in done.stdout
    assert float(done.stdout.split("largest difference")[1]) < 1e-5
