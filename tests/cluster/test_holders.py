"""Reductions by actors that keep what they read: as often as asked, whatever they keep, and past an actor's death."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raydelt import cluster
from raydelt.cluster import holders
from raydelt.errors import InputError

PARTS = 7


@dataclass(frozen=True)
class Noted:
    """Parts of 100 numbers; every reading leaves a file in the folder."""

    folder: Path

    def __call__(self, index: int) -> pa.RecordBatch:
        (self.folder / f"{index}-{len(list(self.folder.iterdir()))}-{os.getpid()}").touch()
        return pa.record_batch({"x": np.arange(100) * 10.0**index})


@dataclass(frozen=True)
class Joined:
    """Monoid of the parts' sums times a factor, in the order of merging; kills its process once where told to."""

    factor: float
    deadly: Path | None = None

    def zero(self) -> tuple[float, ...]:
        return ()

    def add(self, state: tuple[float, ...], batch: pa.RecordBatch) -> tuple[float, ...]:
        if self.deadly is not None and self.deadly.exists():
            self.deadly.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return (*state, self.factor * float(np.sum(batch["x"].to_numpy())))

    def merge(self, left: tuple[float, ...], right: tuple[float, ...]) -> tuple[float, ...]:
        return left + right

    def finish(self, state: tuple[float, ...]) -> tuple[float, ...]:
        return state


EXPECTED = tuple(4950 * 10.0**index for index in range(PARTS))


@pytest.mark.parametrize(("most", "readings"), [(1 << 20, PARTS), (900, PARTS + 5), (0, 2 * PARTS)])
def test_what_fits_is_read_once(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, readings: int
) -> None:
    monkeypatch.setattr(holders, "KEPT_BYTES", most)
    with cluster.passes(Noted(tmp_path), PARTS, label="sum") as reduce:
        assert reduce(Joined(1.0)) == EXPECTED
        assert reduce(Joined(2.0)) == tuple(2 * value for value in EXPECTED)
    assert len(list(tmp_path.iterdir())) == readings


def test_the_result_is_that_of_one_task_per_part(ray_session: None, tmp_path: Path) -> None:
    with cluster.passes(Noted(tmp_path), PARTS, label="sum") as reduce:
        assert reduce(Joined(3.0)) == cluster.reduce_parts(Joined(3.0), Noted(tmp_path), PARTS, label="sum")


def test_an_actor_that_dies_reads_again(ray_session: None, tmp_path: Path) -> None:
    deadly = tmp_path / "deadly"
    deadly.touch()
    (tmp_path / "read").mkdir()
    with cluster.passes(Noted(tmp_path / "read"), PARTS, label="sum") as reduce:
        assert reduce(Joined(1.0, deadly)) == EXPECTED
        assert reduce(Joined(1.0)) == EXPECTED
    assert not deadly.exists()


def test_an_error_for_the_user_comes_as_it_is(ray_session: None) -> None:
    with pytest.raises(InputError, match="part 0 is gone"), cluster.passes(_gone, PARTS, label="sum") as reduce:
        reduce(Joined(1.0))


def _gone(index: int) -> pa.RecordBatch:
    raise InputError(f"part {index} is gone")
