"""Which file-system layer is faster against an S3 server, and what a run in S3 costs against one on a local disk.

The server is rclone on loopback, which serves the same disk. The first table compares s3fs with pyarrow's S3FileSystem
at what the package does: Parquet files, many small objects, ranged reads. The second runs a corpus of text through
cheap scorers and one fixed model up to the selection, in pairs of runs that differ in nothing but where corpus and
output lie; the time to start Ray is left out, as it is the same.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from raydelt import cluster, pipeline
from raydelt.config import RunConfig
from raydelt.models import classifier
from raydelt.specfile import validate
from raydelt.storage import Store
from raydelt.storage.places import filesystem
from tests import s3server
from tests.s3server import BUCKET, Server

ROWS = int(os.environ.get("BENCH_S3_ROWS", "1000000"))
ROUNDS = int(os.environ.get("BENCH_S3_ROUNDS", "3"))
REPEATS = 3
OBJECTS, OBJECT_BYTES, RANGES = 200, 4096, 200
THREADS = 8
FILES = 16
WORDS = 30_000
TEXT_FEATURES = 64


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _write_corpus(root / "s3" / BUCKET / "in")
        with s3server.rclone(root / "s3", remember="5m") as server, s3server.using(server):
            _layers(server)
            _pipelines(root)


def _layers(server: Server) -> None:
    fast = {"s3fs": filesystem(f"s3://{BUCKET}")[0], "pyarrow": _pyarrow(server)}
    table = pa.table({"x": np.random.default_rng(0).standard_normal(8 << 20)})
    print(f"{'':24}{'s3fs':>12}{'pyarrow':>12}   (median of {REPEATS})")
    for name, unit, amount, work in _tasks(table):
        rates = {}
        for layer, fs in fast.items():
            times = []
            for _ in range(REPEATS):
                started = time.perf_counter()
                work(fs)
                times.append(time.perf_counter() - started)
            rates[layer] = amount / float(np.median(times))
        print(f"{name:24}{rates['s3fs']:12.0f}{rates['pyarrow']:12.0f}   {unit}", flush=True)


def _pyarrow(server: Server) -> pyarrow.fs.S3FileSystem:
    for name in ("REQUEST_CHECKSUM_CALCULATION", "RESPONSE_CHECKSUM_VALIDATION"):
        os.environ[f"AWS_{name}"] = "when_required"
    where = urlsplit(server.endpoint)
    return pyarrow.fs.S3FileSystem(
        endpoint_override=where.netloc, scheme=where.scheme, region="us-east-1", request_timeout=60
    )


def _tasks(table: pa.Table) -> Iterator[tuple[str, str, float, Callable[[Any], object]]]:
    """Name, unit, amount and work of each comparison."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    data, small = buffer.getvalue(), os.urandom(OBJECT_BYTES)
    big = len(data) / 1e6

    def put(fs: Any, key: str, value: bytes) -> None:
        if isinstance(fs, pyarrow.fs.S3FileSystem):
            with fs.open_output_stream(f"{BUCKET}/{key}") as stream:
                stream.write(value)
        else:
            fs.pipe_file(f"{BUCKET}/{key}", value)

    def get(fs: Any, key: str) -> bytes:
        if isinstance(fs, pyarrow.fs.S3FileSystem):
            with fs.open_input_file(f"{BUCKET}/{key}") as file:
                return bytes(file.read())
        return bytes(fs.cat_file(f"{BUCKET}/{key}", max_concurrency=1))

    def ranges(fs: Any) -> None:
        starts = np.random.default_rng(1).integers(0, len(data) - OBJECT_BYTES, RANGES).tolist()
        if isinstance(fs, pyarrow.fs.S3FileSystem):
            with fs.open_input_file(f"{BUCKET}/big.parquet") as file, ThreadPoolExecutor(THREADS) as pool:
                list(pool.map(lambda start: file.read_at(OBJECT_BYTES, start), starts))
        else:
            paths = [f"{BUCKET}/big.parquet"] * RANGES
            fs.cat_ranges(paths, starts, [start + OBJECT_BYTES for start in starts], batch_size=THREADS)

    def many(work: Callable[..., object], *rest: Any) -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda index: work(*rest[:1], f"small/{index}", *rest[1:]), range(OBJECTS)))

    def read_table(fs: Any) -> None:
        if isinstance(fs, pyarrow.fs.S3FileSystem):
            pq.read_table(f"{BUCKET}/big.parquet", filesystem=fs)
        else:
            Store(f"s3://{BUCKET}").read_table("big.parquet")

    yield "Parquet written", "MB/s", big, lambda fs: put(fs, "big.parquet", data)
    yield "Parquet read", "MB/s", big, read_table
    yield "small objects put", "objects/s", OBJECTS, lambda fs: many(put, fs, small)
    yield "small objects read", "objects/s", OBJECTS, lambda fs: many(get, fs)
    yield "ranges of 4 kB read", "ranges/s", RANGES, ranges


def _pipelines(root: Path) -> None:
    shutil.copytree(root / "s3" / BUCKET / "in", root / "in")
    checkpoint = root / "model.safetensors"
    configs = {
        "local": _spec(str(root / "in"), str(root / "out"), checkpoint),
        "s3": _spec(f"s3://{BUCKET}/in", f"s3://{BUCKET}/out", checkpoint),
    }
    network = classifier.build(configs["local"].model, (TEXT_FEATURES,), 2, seed=0)
    checkpoint.write_bytes(classifier.dump(network))
    print(f"\n{ROWS} rows of text, {FILES} files, up to the selection, {ROUNDS} pairs")
    ratios = []
    with cluster.connected(configs["local"].cluster):
        for turn in range(-1, ROUNDS):
            # The first pair warms caches and is not counted; the order of a pair alternates.
            seconds = {}
            for name in sorted(configs, reverse=turn % 2 == 1):
                with _empty(configs[name].output):
                    started = time.perf_counter()
                    pipeline.execute(configs[name], until="selection")
                    seconds[name] = time.perf_counter() - started
            if turn < 0:
                continue
            ratios.append(seconds["local"] / seconds["s3"])
            rates = "   ".join(
                f"{name} {ROWS / own:8.0f} rows/s, {own:.1f} s" for name, own in sorted(seconds.items())
            )
            print(f"  {rates}   ratio {ratios[-1]:.3f}", flush=True)
    print(f"rows/s in S3 / on the local disk: median {np.median(ratios):.3f}")


@contextmanager
def _empty(output: str) -> Iterator[None]:
    store = Store(output)
    try:
        yield
    finally:
        store.delete("")


def _write_corpus(folder: Path) -> None:
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    words = np.array([f"w{index}" for index in range(WORDS)])
    for index in range(FILES):
        rows = ROWS // FILES
        picks = words[np.minimum(generator.zipf(1.3, (rows, 30)), WORDS) - 1]
        texts = [" ".join(row) for row in picks.tolist()]
        table = pa.table({"text": texts, "label": generator.integers(0, 2, rows)})
        pq.write_table(table, folder / f"{index:03d}.parquet", row_group_size=65_536, compression="zstd")


def _spec(source: str, output: str, checkpoint: Path) -> RunConfig:
    raw: dict[str, Any] = {
        "name": "bench",
        "corpus": {
            "source": source,
            "text_column": "text",
            "text_features": TEXT_FEATURES,
            "label_column": "label",
            "test": {"fraction": 0},
        },
        "model": {"network": "mlp", "hidden": [256], "checkpoint": str(checkpoint)},
        "score": [{"kind": "difficulty"}, {"kind": "grad_norm"}, {"kind": "prototype"}],
        "rank": {"method": "score", "combine": {"weights": {"difficulty": 1.0, "grad_norm": 1.0}, "gate": None}},
        "select": {"value": 0.3},
        "output": output,
        "cluster": {"address": "local"},
    }
    return validate(raw)


if __name__ == "__main__":
    main()
