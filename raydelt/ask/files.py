"""Reading published Parquet files piece by piece, with what is wrong with a file told in one sentence.

A local file is mapped into memory; of one in a store, only the ranges that are asked for travel. Cost of opening: the
footer of one file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raydelt.errors import InputError
from raydelt.examples import EXAMPLE_ID
from raydelt.storage import Part, Store, opened


@contextmanager
def opened_file(store: Store, part: Part) -> Iterator[pq.ParquetFile]:
    """A published file, to read row groups and statistics of.

    Raises:
        InputError: it is missing, or not whole.
    """
    try:
        if store.is_local:
            with pq.ParquetFile(store.path(part.file), memory_map=True) as parquet:
                yield parquet
            return
        with opened(store.url(part.file)) as file, pq.ParquetFile(file) as parquet:
            yield parquet
    except FileNotFoundError as error:
        raise InputError(f"{store.url(part.file)} is missing: {_cure(part)}") from error
    except (OSError, pa.ArrowInvalid) as error:
        told = " ".join(str(error).split())[:120]
        raise InputError(f"{store.url(part.file)} cannot be read ({told}): {_cure(part)}") from error


def read(
    store: Store, part: Part, columns: Sequence[str] | None = None, groups: Sequence[int] | None = None
) -> pa.Table:
    """Columns of a published file, of all its row groups or of some.

    Raises:
        InputError: it is missing, not whole, or has no such column.
    """
    with opened_file(store, part) as parquet:
        return of_groups(store, part, parquet, columns, groups)


def of_groups(
    store: Store,
    part: Part,
    parquet: pq.ParquetFile,
    columns: Sequence[str] | None = None,
    groups: Sequence[int] | None = None,
) -> pa.Table:
    """What `read` gives, of a file that is open."""
    absent = [name for name in columns or () if name not in parquet.schema_arrow.names]
    if absent:
        raise InputError(
            f"{store.url(part.file)} has no column {absent[0]!r}, as files of another version of raydelt may: run it "
            "again, or ask it with the version that wrote it"
        )
    wanted = list(columns) if columns is not None else None
    if groups is None:
        return parquet.read(columns=wanted)
    return parquet.read_row_groups(list(groups), columns=wanted)


def row_of(store: Store, part: Part, example: str) -> dict[str, Any] | None:
    """The row of an example in a file that is sorted by id; other columns than the ids are read where it is there."""
    with opened_file(store, part) as parquet:
        for group in range(parquet.num_row_groups):
            limits = bounds(parquet, group, EXAMPLE_ID)
            if limits is not None and not limits[0] <= example <= limits[1]:
                continue
            row = pc.index(of_groups(store, part, parquet, [EXAMPLE_ID], [group])[EXAMPLE_ID], example).as_py()
            if row >= 0:
                found: dict[str, Any] = of_groups(store, part, parquet, None, [group]).slice(row, 1).to_pylist()[0]
                return found
    return None


def present(store: Store, part: Part, columns: Sequence[str]) -> list[str]:
    """Those of the columns that a file has."""
    with opened_file(store, part) as parquet:
        return [name for name in columns if name in parquet.schema_arrow.names]


def bounds(parquet: pq.ParquetFile, group: int, column: str) -> tuple[Any, Any] | None:
    """Least and greatest value of a column in a row group by the file's statistics; None where they are not known."""
    names = [parquet.metadata.schema.column(i).path for i in range(parquet.metadata.num_columns)]
    if column not in names:
        return None
    statistics = parquet.metadata.row_group(group).column(names.index(column)).statistics
    return (statistics.min, statistics.max) if statistics is not None and statistics.has_min_max else None


def _cure(part: Part) -> str:
    return f"delete the folder {part.file.split('/')[0]!r} of the run and run again"
