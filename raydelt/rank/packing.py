"""Ids of 32 hexadecimal digits as 16 bytes, for the tables that travel through the object store.

Ids that raydelt makes are such digits, and a row of id and score takes 24 bytes in place of 44: 100M rows fit an
object store that they overflowed. Other ids, of which one in a table is enough, travel as they are. Cost: two table
look-ups a byte, some 60 ms for 1M ids there and back.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from raydelt.examples import EXAMPLE_ID
from raydelt.rank import keys
from raydelt.scorers.protocol import Array

DIGITS = 32
PACKED = pa.binary(DIGITS // 2)
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8).astype(np.uint16)
# Two characters as they lie in memory, read as one number: the lower byte is the first.
_PAIR_OF = (_HEX[np.arange(256) >> 4] | (_HEX[np.arange(256) & 15] << 8)).astype("<u2")
_NONE = 256
_BYTE_OF = np.full(1 << 16, _NONE, np.uint16)
_BYTE_OF[_PAIR_OF] = np.arange(256)


def packed(ids: pa.StringArray) -> pa.Array:
    """The ids as 16 bytes each, where all are 32 small hexadecimal digits; else as they are."""
    characters = keys.fixed_rows(ids)
    if characters is None or characters.shape[1] != DIGITS:
        return ids
    values = _BYTE_OF[np.ascontiguousarray(characters).view("<u2")]
    if (values == _NONE).any():
        return ids
    return _of_bytes(values.astype(np.uint8))


def take(ids: pa.Array, rows: Array) -> pa.Array:
    """The ids of these rows, packed or not."""
    if ids.type != PACKED:
        return keys.take(ids, rows)
    return _of_bytes(_bytes(ids).view(f"V{DIGITS // 2}").take(rows))


def unpacked(table: pa.Table) -> pa.Table:
    """The table with its ids as strings."""
    place = table.schema.get_field_index(EXAMPLE_ID)
    if table.schema.field(place).type != PACKED:
        return table
    chunks = [_digits(chunk) for chunk in table[EXAMPLE_ID].chunks]
    return table.set_column(place, EXAMPLE_ID, pa.chunked_array(chunks, pa.string()))


def _digits(ids: pa.Array) -> pa.StringArray:
    offsets = np.arange(0, DIGITS * len(ids) + 1, DIGITS, dtype=np.int32)
    return pa.StringArray.from_buffers(len(ids), pa.py_buffer(offsets), pa.py_buffer(_PAIR_OF[_bytes(ids)]))


def _bytes(ids: pa.Array) -> Array:
    """The bytes [16 n] of packed ids."""
    half = DIGITS // 2
    data = ids.buffers()[1]
    whole = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    return whole[ids.offset * half : (ids.offset + len(ids)) * half]


def _of_bytes(values: Array) -> pa.Array:
    flat = np.ascontiguousarray(values)
    return pa.Array.from_buffers(PACKED, flat.nbytes // (DIGITS // 2), [None, pa.py_buffer(flat)])
