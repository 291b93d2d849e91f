"""The reader feeds the same global batches to any number of workers, and can start anywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydelt.corpus.canonical import fixed_lists
from raydelt.storage import Store
from raydelt.train.reader import OrderedReader

ROWS, PER_FILE = 53, 10


@pytest.fixture(scope="module")
def ordered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, list[str]]:
    store = Store(str(tmp_path_factory.mktemp("ordered")))
    files = []
    for start in range(0, ROWS, PER_FILE):
        positions = np.arange(start, min(start + PER_FILE, ROWS))
        table = pa.table(
            {
                "example_id": [f"{p:03d}" for p in positions],
                "x": fixed_lists(positions.astype(np.float32).reshape(-1, 1)),
                "label": pa.array(positions % 3, pa.int32()),
                "weight": np.ones(len(positions)),
            }
        )
        files.append(store.write_table(f"part-{start:05d}.parquet", table).file)
    return store, files


def reader(ordered: tuple[Store, list[str]], *, batch: int = 8, shuffle: bool = True, seed: int = 3) -> OrderedReader:
    return OrderedReader(ordered[0], ordered[1], ROWS, PER_FILE, batch, seed, shuffle)


def test_the_first_epoch_is_the_materialised_order(ordered: tuple[Store, list[str]]) -> None:
    assert reader(ordered).places(0, ROWS).tolist() == list(range(ROWS))


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_epoch_sees_every_example_once(ordered: tuple[Store, list[str]], shuffle: bool) -> None:
    one = reader(ordered, shuffle=shuffle)
    for epoch in range(4):
        places = one.places(epoch * ROWS, (epoch + 1) * ROWS).tolist()
        assert sorted(places) == list(range(ROWS))
        assert (places == list(range(ROWS))) == (not shuffle or epoch == 0)


@settings(deadline=None, max_examples=40)
@given(step=st.integers(0, 60), workers=st.integers(1, 8))
def test_the_slices_of_all_workers_are_the_global_batch(
    ordered: tuple[Store, list[str]], step: int, workers: int
) -> None:
    one = reader(ordered)
    whole = one.step(step).ids.tolist()
    slices = [one.step(step, worker=w, workers=workers).ids.tolist() for w in range(workers)]
    assert [key for part in slices for key in part] == whole
    assert len(whole) == 8


def test_a_step_is_the_same_whether_or_not_earlier_steps_were_read(ordered: tuple[Store, list[str]]) -> None:
    one = reader(ordered)
    for step in range(20):
        last = one.step(step)
    assert reader(ordered).step(19).ids.tolist() == last.ids.tolist()


def test_features_labels_and_ids_belong_together(ordered: tuple[Store, list[str]]) -> None:
    batch = reader(ordered).step(17)
    positions = np.array([int(key) for key in batch.ids])
    assert batch.x[:, 0].tolist() == positions.tolist()
    assert batch.y.tolist() == (positions % 3).tolist()


def test_seeds_shuffle_differently(ordered: tuple[Store, list[str]]) -> None:
    one, other = reader(ordered, seed=1), reader(ordered, seed=2)
    assert one.places(ROWS, 2 * ROWS).tolist() != other.places(ROWS, 2 * ROWS).tolist()


def test_a_batch_larger_than_the_cache_of_files_is_read_whole(ordered: tuple[Store, list[str]]) -> None:
    batch = reader(ordered, batch=ROWS, shuffle=True).step(2)
    assert sorted(batch.ids.tolist()) == [f"{p:03d}" for p in range(ROWS)]


def test_a_missing_file_is_an_error(ordered: tuple[Store, list[str]], tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        OrderedReader(store, ordered[1], ROWS, PER_FILE, 8, 0, False).step(0)
