"""Exact rank and exact top 10 % on Ray, out of core, against DuckDB on the same Parquet files; and a cost model.

Rank: Parquet (example_id of 32 hex digits, score float64, in parts of 1M rows) to Parquet in rank order with a rank
column. Top 10 %: the same files to Parquet of the kept ids. Both against DuckDB's ORDER BY score, example_id of the
same files into Parquet, in alternation within a round; beside them polars and Ray Data's own sort. Files are in the
page cache, Ray is warm. `BENCH_ROWS` rows (10M), `BENCH_ROUNDS` rounds (3).

The cost model is least squares of seconds = a + b rows + c parts (b, c >= 0, relative residuals) over 1M, 3M and 10M
rows in parts of 1M and 3M rows in parts of 100k; `BENCH_LARGE=1` adds 30M and 100M, `BENCH_NODES=1` fits 1, 2 and 4
simulated nodes of one CPU each. With every size goes the peak of the PSS of all processes, this one included.

Caution: the predictions take for granted that throughput per core stays what it is here, that pieces (parts times
sorting tasks) are paid for in proportion to the parts, and that no network is in the way; simulated nodes share one
machine's cores, memory bandwidth and disk, so they show the cost of being several, not what several would gain.
"""

from __future__ import annotations

import functools
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import numpy as np
import polars
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
from scipy.optimize import nnls

from raydelt import cluster
from raydelt.config import Cluster
from raydelt.rank import exact, keys, radix
from raydelt.rank.cuts import Cut
from raydelt.rank.stage import PLAIN
from raydelt.storage import Store
from tests.bench.quickstart import tree_pss

ROWS = int(os.environ.get("BENCH_ROWS", "10000000"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
LARGE = bool(os.environ.get("BENCH_LARGE"))
NODES = bool(os.environ.get("BENCH_NODES"))
ROWS_PER_PART = 1_000_000
SIZES = [(1_000_000, ROWS_PER_PART), (3_000_000, ROWS_PER_PART), (3_000_000, 100_000), (10_000_000, ROWS_PER_PART)]
LARGER = [(30_000_000, ROWS_PER_PART), (100_000_000, ROWS_PER_PART)]
PREDICTED = (1_000_000_000, 10_000_000_000)
STORE_BYTES = 7 << 29
KEPT = 0.1
HEX = np.frombuffer(b"0123456789abcdef", np.uint8)


def main() -> None:
    cores = os.cpu_count() or 1
    versions = ", ".join(f"{m.__name__} {m.__version__}" for m in (ray, pa, np, duckdb, polars))
    print(f"{ROWS:,} rows, {cores} cores, {ROUNDS} rounds; {versions}; DuckDB and polars with {cores} threads")
    with tempfile.TemporaryDirectory(prefix="rank-") as folder:
        with _ray(cores):
            _compare(Path(folder), cores)
            measured = [_timed(Path(folder), *size) for size in SIZES + (LARGER if LARGE else [])]
        if LARGE:
            _growth(measured)
        _model("this machine", measured, cores)
        for nodes in (1, 2, 4) if NODES else ():
            with _simulated(nodes):
                measured = [_timed(Path(folder), *size) for size in SIZES]
            _model(f"{nodes} simulated nodes of 1 CPU", measured, nodes)


def _compare(folder: Path, cores: int) -> None:
    """The paired rounds of bars 1 and 2."""
    files = write_rows(folder / "in", ROWS)
    ways: dict[str, Callable[[], float]] = {
        "DuckDB sort": functools.partial(_duckdb, files, folder / "duckdb.parquet", cores),
        "exact rank": functools.partial(rank, files, folder / "rank", ROWS),
        "exact top 10 %": functools.partial(top, files, folder / "top", ROWS),
        "polars sort": functools.partial(_polars, files, folder / "polars.parquet"),
        "Ray Data sort": functools.partial(_ray_data, files, folder / "raydata"),
    }
    ways["exact rank"]()
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            # Ours syncs every file it puts, and must not pay for what another way left in the page cache.
            os.sync()
            found[name].append(way())
    for name, seconds in found.items():
        ratios = [own / base for own, base in zip(seconds, found["DuckDB sort"], strict=True)]
        print(
            f"  {name:15s} median {statistics.median(seconds):6.2f} s ({min(seconds):.2f} to {max(seconds):.2f})   "
            f"/ DuckDB {statistics.median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            flush=True,
        )
    _check(folder)


def _check(folder: Path) -> None:
    """Ours and DuckDB's agree on the order, and the top is its end."""
    ours = pa.concat_tables([pq.read_table(file, columns=["example_id"]) for file in sorted(folder.glob("rank/*"))])
    top_ids = pa.concat_tables([pq.read_table(file) for file in sorted(folder.glob("top/*"))])["example_id"]
    theirs = pq.read_table(folder / "duckdb.parquet", columns=["example_id"])
    assert ours["example_id"].equals(theirs["example_id"]), "the order differs from DuckDB's"
    wanted = theirs["example_id"].slice(ROWS - top_ids.length())
    assert top_ids.length() == round(KEPT * ROWS)
    assert top_ids.combine_chunks().sort().equals(wanted.combine_chunks().sort()), "the top differs from DuckDB's"


def write_rows(folder: Path, rows: int, rows_per_part: int = ROWS_PER_PART) -> list[str]:
    """Parquet parts of random ids and uniform scores, and their paths."""
    folder.mkdir(parents=True)
    files = []
    for index, low in enumerate(range(0, rows, rows_per_part)):
        n = min(rows_per_part, rows - low)
        generator = np.random.default_rng(index)
        raw = generator.integers(0, 256, (n, 16), np.uint8)
        digits = np.stack([HEX[raw >> 4], HEX[raw & 15]], axis=-1)
        offsets = np.arange(0, 32 * n + 1, 32, dtype=np.int32)
        ids = pa.StringArray.from_buffers(n, pa.py_buffer(offsets), pa.py_buffer(digits))
        files.append(str(folder / f"{index:05d}.parquet"))
        table = pa.table({"example_id": ids, "score": generator.random(n)})
        pq.write_table(table, files[-1], compression="zstd", use_dictionary=False)
    return files


def rank(files: Sequence[str], out: Path, rows: int) -> float:
    """Seconds of the full rank."""
    shutil.rmtree(out, ignore_errors=True)
    started = time.perf_counter()
    exact.rank_rows(files, pq.read_table, functools.partial(_write_ranked, Store(str(out))), rows=rows)
    return time.perf_counter() - started


def _write_ranked(store: Store, index: int, table: pa.Table, below: int) -> int:
    ranks = pa.array(np.arange(below, below + table.num_rows))
    return store.write_table(f"{index:05d}.parquet", table.append_column("rank", ranks), plain=PLAIN).rows


def top(files: Sequence[str], out: Path, rows: int) -> float:
    """Seconds of the exact top share."""
    shutil.rmtree(out, ignore_errors=True)
    started = time.perf_counter()
    source = radix.Source(files, _read)
    cut = radix.cut(source, np.array([round(KEPT * rows)]), radix.census(source))
    calls = [(Store(str(out)), cut, index, file) for index, file in enumerate(files)]
    assert sum(cluster.parallel(_write_top, calls, label="top: write")) == round(KEPT * rows)
    return time.perf_counter() - started


def _read(file: str, columns: Sequence[str]) -> pa.Table:
    return pq.read_table(file, columns=[name for name in columns if name in ("example_id", "score")])


def _write_top(store: Store, cut: Cut, index: int, file: str) -> int:
    table = pq.read_table(file)
    kept = keys.take(keys.ids_of(table), np.flatnonzero(cut.mask(table)))
    return store.write_table(f"{index:05d}.parquet", pa.table({"example_id": kept}), plain=PLAIN).rows


def _duckdb(files: Sequence[str], out: Path, threads: int) -> float:
    started = time.perf_counter()
    with duckdb.connect() as database:
        database.execute(f"SET threads = {threads}")
        query = f"SELECT example_id, score FROM read_parquet({list(files)}) ORDER BY score, example_id"
        database.execute(f"COPY ({query}) TO '{out}' (FORMAT parquet)")
    return time.perf_counter() - started


def _polars(files: Sequence[str], out: Path) -> float:
    started = time.perf_counter()
    polars.read_parquet(files).sort(["score", "example_id"]).with_row_index("rank").write_parquet(out)
    return time.perf_counter() - started


def _ray_data(files: Sequence[str], out: Path) -> float:
    shutil.rmtree(out, ignore_errors=True)
    started = time.perf_counter()
    ray.data.read_parquet(list(files)).sort(["score", "example_id"]).write_parquet(str(out))
    return time.perf_counter() - started


def _timed(folder: Path, rows: int, rows_per_part: int) -> tuple[int, int, float, float]:
    """Rows, parts, and the median seconds of rank and of top over the rounds; prints the peak of the PSS."""
    own = folder / f"{rows}"
    files = write_rows(own / "in", rows, rows_per_part)
    with _peak() as peak:
        ranked = _median(lambda: rank(files, own / "rank", rows))
    with _peak() as lighter:
        cut = _median(lambda: top(files, own / "top", rows))
    shutil.rmtree(own)
    print(
        f"  {rows:>11,} rows in {len(files):3d} parts: rank {ranked:7.2f} s, peak {peak[0] / 2**30:.2f} GiB; "
        f"top 10 % {cut:7.2f} s, peak {lighter[0] / 2**30:.2f} GiB",
        flush=True,
    )
    return rows, len(files), ranked, cut


def _median(way: Callable[[], float]) -> float:
    """The median seconds over the rounds, none of which pays for what was written before it."""
    found = []
    for _ in range(ROUNDS):
        os.sync()
        found.append(way())
    return statistics.median(found)


def _growth(measured: Sequence[tuple[int, int, float, float]]) -> None:
    """How much longer the largest size takes than 10M rows."""
    (_, _, *small), (rows, _, *large) = measured[len(SIZES) - 1], measured[-1]
    ratios = ", ".join(f"{what} {b / a:.1f}" for what, a, b in zip(("rank", "top 10 %"), small, large, strict=True))
    print(f"  {rows:,} rows / 10,000,000 rows: {ratios}", flush=True)


@contextmanager
def _peak() -> Iterator[list[int]]:
    """The highest sum of PSS over this process and its descendants, sampled four times a second."""
    peak, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.25):
            peak[0] = max(peak[0], tree_pss(psutil.Process()))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def _model(name: str, measured: list[tuple[int, int, float, float]], cores: int) -> None:
    """Fit seconds to rows and parts, and say what that means for a billion rows and more in parts of 1M."""
    rows, parts = (np.array([entry[i] for entry in measured], np.float64) for i in (0, 1))
    for column, what in ((2, "rank"), (3, "top 10 %")):
        seconds = np.array([entry[column] for entry in measured])
        terms = np.stack([np.ones_like(rows), rows / 1e6, parts], axis=1)
        # Relative residuals, so that the largest size does not decide alone.
        (a, b, c), _ = nnls(terms / seconds[:, None], np.ones_like(seconds))
        worst = np.max(np.abs(terms @ (a, b, c) / seconds - 1))
        print(
            f"  {name}, {what}: {a:.2f} s + {b:.3f} s per 1M rows + {1000 * c:.0f} ms per part, "
            f"worst residual {100 * worst:.0f} %"
        )
        for n in PREDICTED:
            whole = a + b * n / 1e6 + c * n / ROWS_PER_PART
            print(f"    {n:,} rows: {whole:,.0f} s on {cores} cores", flush=True)


@contextmanager
def _ray(cores: int) -> Iterator[None]:
    with cluster.connected(Cluster(address="local", num_cpus=cores, object_store_bytes=STORE_BYTES)):
        yield


@contextmanager
def _simulated(nodes: int) -> Iterator[None]:
    """A Ray of several nodes of one CPU each on this machine."""
    from ray.cluster_utils import Cluster as Simulated

    one = {"num_cpus": 1, "object_store_memory": STORE_BYTES // nodes}
    simulated = Simulated(initialize_head=True, head_node_args=one)
    for _ in range(nodes - 1):
        simulated.add_node(**one)
    try:
        with cluster.connected(Cluster(address=simulated.address)):
            yield
    finally:
        simulated.shutdown()


if __name__ == "__main__":
    main()
