"""Killing what a scoring run consists of, and what is lost, doubled, stale or done again.

A Ray cluster of two worker nodes on one machine scores `BENCH_ROWS` (2,621,440: 40 parts) rows but for a test split
of a fifth, with a scorer that takes 10 us per row. In each of `BENCH_RUNS` (20) runs an actor is killed by SIGKILL at
a quarter of the parts, a worker node's raylet at half (another node joins in its place), and the driver at three
quarters; the last file that was written is cut short, and the command is given again. Every other run keeps its
output in S3 (rclone on loopback) behind a proxy that fails 5 % of the requests. Scores are compared byte for byte with
those of an undisturbed run.

    lost, doubled   ids of the corpus without a published score, and ids with several
    stale           files whose bytes differ from the undisturbed run's
    redone          rows scored / rows of the corpus - 1

The overhead of keeping every part is the time that looking for, writing and describing all parts takes on the local
disk, over the time of scoring them, both in the undisturbed run.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from ray.cluster_utils import Cluster

from raydelt.config import RunConfig
from raydelt.scorers.protocol import Array
from raydelt.scorers.registry import ScorerConfig
from raydelt.specfile import validate
from raydelt.storage import Manifest, Store, read_manifest
from tests.plugins import HashScorer
from tests.s3proxy import proxy
from tests.s3server import BUCKET, rclone, using

ROWS = int(os.environ.get("BENCH_ROWS", "2621440"))
RUNS = int(os.environ.get("BENCH_RUNS", "20"))
SECONDS_PER_ROW = 1e-5
FAULTS = {"slowdown": 0.02, "reset": 0.01, "lost": 0.01, "truncated": 0.01}
# So that a dead node is noticed after seconds and not after half a minute, which is most of a run's time otherwise.
QUICK_TO_NOTICE = {"health_check_initial_delay_ms": 2000, "health_check_period_ms": 1000}
LIMIT = 600
FEATURES = ["x", "y"]
ROOT = Path(__file__).parents[2]


class CountedConfig(ScorerConfig):
    """Takes a fixed time per row, and leaves a note in `folder` of how many rows it was asked for, and by whom."""

    kind: str = "tests.bench.chaos:CountedConfig"
    folder: str

    def build(self) -> CountedScorer:
        return CountedScorer(self)


class CountedScorer(HashScorer):
    def score(self, batch: pa.RecordBatch) -> dict[str, Array]:
        time.sleep(SECONDS_PER_ROW * batch.num_rows)
        (Path(self.config.folder) / f"{time.time_ns()}-{os.getpid()}-{batch.num_rows}").touch()
        return super().score(batch)


@dataclass(frozen=True)
class Place:
    """Where a run lies: as its spec names it, and as a folder on this disk."""

    output: str
    folder: Path


@dataclass
class Nodes:
    """A simulated cluster: a head without CPUs and two worker nodes of one."""

    cluster: Cluster
    workers: list[Any] = field(default_factory=list)

    def add(self) -> None:
        self.workers.append(self.cluster.add_node(num_cpus=1, object_store_memory=100_000_000))

    def kill(self) -> None:
        """SIGKILL the raylet of the older worker node, and let another join."""
        node = self.workers.pop(0)
        [raylet] = node.all_processes["raylet"]
        raylet.process.kill()
        self.cluster.remove_node(node, allow_graceful=False)
        self.add()


@contextlib.contextmanager
def nodes() -> Iterator[Nodes]:
    head = {"num_cpus": 0, "object_store_memory": 100_000_000, "_system_config": QUICK_TO_NOTICE}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    found = Nodes(cluster)
    try:
        found.add()
        found.add()
        yield found
    finally:
        cluster.shutdown()


def config(source: Path, notes: Path, output: str, address: str) -> RunConfig:
    return validate(
        {
            "name": "chaos",
            "corpus": {"source": str(source), "feature_columns": FEATURES, "label_column": "label"},
            "model": {"network": "logistic"},
            "score": [{"kind": "tests.bench.chaos:CountedConfig", "folder": str(notes)}],
            "rank": {"combine": {"weights": {"hash": 1.0}, "gate": None}},
            "cluster": {"address": address, "actors": {"min": 1, "max": 2}},
            "output": output,
        }
    )


@dataclass(frozen=True)
class Chaos:
    """What all runs share: the folder that holds spec and notes, and the cluster."""

    folder: Path
    nodes: Nodes

    @property
    def notes(self) -> Path:
        return self.folder / "notes"

    def started(self, place: Place) -> subprocess.Popen[bytes]:
        """The command `raydelt score`, in a process group of its own."""
        spec = self.folder / "spec.yaml"
        own = config(self.folder / "in", self.notes, place.output, self.nodes.cluster.address)
        spec.write_text(yaml.safe_dump(own.resolved()))
        command = [sys.executable, "-m", "raydelt", "score", str(spec)]
        with (self.folder / "said").open("ab") as said:
            return subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said, start_new_session=True)

    def ended(self, job: subprocess.Popen[bytes]) -> None:
        assert job.wait(timeout=LIMIT) == 0, (self.folder / "said").read_text()[-3000:]

    def scored(self) -> int:
        """Rows that scorers were asked for since the notes were cleared."""
        return sum(int(note.name.rpartition("-")[2]) for note in self.notes.iterdir())

    def clear(self) -> None:
        shutil.rmtree(self.notes, ignore_errors=True)
        self.notes.mkdir()

    def disturbed(self, place: Place, parts: int) -> None:
        """One run with its three kills and the cut file, and the same command again."""
        self.clear()
        job = self.started(place)
        _wait_for(job, place, parts // 4)
        newest = max(self.notes.iterdir(), key=lambda note: note.name)
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(newest.name.split("-")[1]), signal.SIGKILL)
        _wait_for(job, place, parts // 2)
        self.nodes.kill()
        _wait_for(job, place, 3 * parts // 4)
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
        last = max(_parts(place), key=lambda path: path.stat().st_mtime_ns)
        last.write_bytes(last.read_bytes()[:-100])
        self.ended(self.started(place))


def _parts(place: Place) -> list[Path]:
    return list((place.folder / "scores").glob("part-*.parquet"))


def _wait_for(job: subprocess.Popen[bytes], place: Place, parts: int) -> None:
    until = time.monotonic() + LIMIT
    while len(_parts(place)) < parts:
        assert job.poll() is None, "the job ended before it could be disturbed"
        assert time.monotonic() < until, f"no {parts} parts after {LIMIT} s"
        time.sleep(0.02)


def _scores(place: Place) -> Manifest:
    manifest = read_manifest(Store(str(place.folder)), "scores")
    assert manifest is not None
    return manifest


def _ids(place: Place, manifest: Manifest) -> pa.ChunkedArray:
    files = [place.folder / part.file for part in manifest.parts]
    return pa.concat_tables([pq.read_table(file, columns=["example_id"]) for file in files])["example_id"]


def overhead(place: Place) -> float:
    """Seconds of keeping all parts over those of scoring them, in an undisturbed run."""
    manifest, store = _scores(place), Store(str(place.folder))
    took = 0.0
    for part in manifest.parts:
        table = store.read_table(part.file)
        began = time.perf_counter()
        store.standing_part("scores/none.parquet")
        store.write_table("scores/again.parquet", table)
        took += time.perf_counter() - began
    store.remove(["scores/again.parquet"])
    return float(took / sum(manifest.facts["took"]["seconds"].values()))


def compare(chaos: Chaos, quiet: Place, place: Place) -> dict[str, float]:
    """What one disturbed run lost, doubled, left stale, and did again."""
    expected, found = _scores(quiet), _scores(place)
    ids, known = _ids(place, found), _ids(quiet, expected)
    pairs = zip(expected.parts, found.parts, strict=True)
    return {
        "lost": len(known) - pc.sum(pc.is_in(known, value_set=ids.combine_chunks())).as_py(),
        "doubled": len(ids) - pc.count_distinct(ids).as_py(),
        "stale": sum(one.digest != other.digest for one, other in pairs),
        "redone": chaos.scored() / expected.rows - 1,
    }


def main() -> None:
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name, nodes() as cluster, rclone(Path(name) / "s3") as server:
        folder = Path(name)
        (folder / "in").mkdir()
        # Two numbers a row: of one, some rows would be duplicates of others.
        table = {name: rng.normal(size=ROWS).astype(np.float32) for name in FEATURES}
        table["label"] = rng.integers(0, 2, ROWS)
        pq.write_table(pa.table(table), folder / "in" / "0.parquet")
        chaos, quiet = Chaos(folder, cluster), Place(str(folder / "quiet"), folder / "quiet")
        chaos.clear()
        chaos.ended(chaos.started(quiet))
        whole = _scores(quiet)
        parts = len(whole.parts)
        print(
            f"{ROWS:,} rows, {whole.rows:,} of them to score in {parts} parts; scored undisturbed: {chaos.scored():,}"
        )
        print(f"keeping every part / scoring: {overhead(quiet):.3f} (bar 0.05)", flush=True)
        found = []
        for index in range(RUNS):
            own = f"run-{index}"
            store = folder / "s3" / BUCKET / own
            place = Place(f"s3://{BUCKET}/{own}", store) if index % 2 else Place(str(folder / own), folder / own)
            # The corpus stands already: what is disturbed is the scoring.
            shutil.copytree(quiet.folder / "corpus", place.folder / "corpus")
            shutil.copy(quiet.folder / "spec.json", place.folder / "spec.json")
            with proxy(server.endpoint, **FAULTS) as between, using(server.at(between.endpoint)):
                chaos.disturbed(place, parts)
                faults = sum(between.faults.values())
            found.append(compare(chaos, quiet, place))
            where = f"s3, {faults} requests failed" if index % 2 else "local"
            print(f"run {index:2} ({where}): " + ", ".join(f"{k} {v:.3g}" for k, v in found[-1].items()), flush=True)
            shutil.rmtree(place.folder)
        if found:
            worst = {key: max(one[key] for one in found) for key in found[0]}
            told = ", ".join(f"{key} {value:.3g}" for key, value in worst.items())
            print(f"worst of {RUNS} runs: {told} (bars 0, 0, 0, 0.15)")


if __name__ == "__main__":
    main()
