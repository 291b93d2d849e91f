"""The reader gives what the plan says, together with what belongs to it, and refuses files that are not whole."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydelt.errors import InputError
from raydelt.examples import LABEL, column_of, features_of
from raydelt.storage import Store
from raydelt.train.reader import Columns, OrderedReader
from tests.unit.train.conftest import BATCH, ROWS, plan


def decode(table: pa.Table) -> Columns:
    return {"x": features_of(table), "y": column_of(table, LABEL)}


def reader(ordered: tuple[Store, list[str]], *, batch: int = BATCH) -> OrderedReader:
    return OrderedReader(ordered[0], ordered[1], plan(batch_size=batch), decode)


def test_a_step_is_what_the_plan_says_for_any_number_of_workers(ordered: tuple[Store, list[str]]) -> None:
    one = reader(ordered)
    for step in range(20):
        positions = one.plan.positions(*one.plan.slice(step, 0, 1))
        whole = [f"{p:03d}" for p in positions]
        for workers in (1, 3, BATCH):
            slices = [one.step(step, worker=w, workers=workers).ids.tolist() for w in range(workers)]
            assert [key for part in slices for key in part] == whole


def test_a_step_is_the_same_whether_or_not_earlier_steps_were_read(ordered: tuple[Store, list[str]]) -> None:
    one = reader(ordered)
    last = [one.step(step) for step in range(20)][-1]
    assert reader(ordered).step(19).ids.tolist() == last.ids.tolist()


def test_features_labels_and_ids_belong_together(ordered: tuple[Store, list[str]]) -> None:
    batch = reader(ordered).step(17)
    positions = np.array([int(key) for key in batch.ids])
    assert batch.columns["x"][:, 0] == pytest.approx(positions / ROWS)
    assert batch.columns["y"].tolist() == (positions % 3).tolist()
    assert len({tuple(mark) for mark in batch.marks.tolist()}) == BATCH


def test_a_batch_larger_than_the_cache_of_files_is_read_whole(ordered: tuple[Store, list[str]]) -> None:
    batch = reader(ordered, batch=ROWS).step(2)
    assert sorted(batch.ids.tolist()) == [f"{p:03d}" for p in range(ROWS)]


@pytest.mark.parametrize("damage", ["missing", "truncated", "gap", "swapped", "short"])
def test_a_file_that_is_not_whole_is_refused(ordered: tuple[Store, list[str]], damage: str) -> None:
    store, files = ordered
    path = store.path(files[1])
    table = pq.read_table(path)
    if damage == "missing":
        store.delete(files[1])
    elif damage == "truncated":
        store.write_bytes(files[1], store.read_bytes(files[1])[:-50])
    elif damage == "gap":
        position = pa.array([*range(10, 15), *range(16, 21)])
        pq.write_table(table.set_column(table.schema.get_field_index("position"), "position", position), path)
    elif damage == "swapped":
        pq.write_table(table.take([1, 0, *range(2, 10)]), path)
    else:
        pq.write_table(table.slice(0, 9), path)
    with pytest.raises(InputError, match=r"part-00010\.parquet .*delete the folder `ordered`"):
        reader(ordered).step(1)
