"""Ids travel as 16 bytes where they are 32 hexadecimal digits, and come out as they went in."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydelt.rank import packing

HEX = st.text("0123456789abcdef", min_size=32, max_size=32)


@given(st.lists(HEX, min_size=1, max_size=20), st.data())
def test_ids_of_32_digits_come_out_as_they_went_in(ids: list[str], data: st.DataObject) -> None:
    light = packing.packed(pa.array(ids))
    assert light.type == pa.binary(16)
    assert light.to_pylist() == [bytes.fromhex(name) for name in ids]
    rows = np.array(data.draw(st.lists(st.integers(0, len(ids) - 1))), np.int64)
    table = pa.table({"score": np.arange(len(rows)), "example_id": packing.take(light, rows)})
    low = data.draw(st.integers(0, len(rows)))
    found = packing.unpacked(pa.concat_tables([table, table]).slice(low))
    assert found["example_id"].type == pa.string()
    assert found["example_id"].to_pylist() == ([ids[row] for row in rows] * 2)[low:]
    assert found.column_names == ["score", "example_id"]


@pytest.mark.parametrize(
    "odd", ["0" * 31, "0" * 33, "0" * 31 + "G", "A" * 32, "0" * 30 + "é", "", "0" * 31 + "/", "0" * 31 + ":"]
)
def test_one_other_id_and_all_stay_as_they_are(odd: str) -> None:
    ids = pa.array(["f" * 32, odd, "0" * 32])
    assert packing.packed(ids).equals(ids)
    assert packing.take(ids, np.array([1, 0])).to_pylist() == [odd, "f" * 32]
    table = pa.table({"example_id": ids})
    assert packing.unpacked(table).equals(table)


def test_a_slice_and_nothing_at_all_are_packed_too() -> None:
    ids = pa.array([f"{i:032x}" for i in range(10)]).slice(3, 4)
    assert packing.packed(ids).to_pylist() == [bytes([0] * 15 + [i]) for i in range(3, 7)]
    nothing = packing.packed(pa.array([], pa.string()))
    assert packing.unpacked(pa.table({"example_id": nothing})).num_rows == 0
