"""A finished run made by hand: small Parquet files in a temporary directory, and the manifests that describe them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raydelt import cluster
from raydelt.config import RunConfig
from raydelt.examples import QUARANTINE_SCHEMA, RANKING_SCHEMA, SELECTION_SCHEMA
from raydelt.rank.noise import errors_of, noise_of
from raydelt.report.parts import ScoredParts
from raydelt.report.stage import summarise
from raydelt.specfile import validate
from raydelt.storage import Manifest, Store
from raydelt.train.compare import paired

Columns = dict[str, np.ndarray[Any, Any]]


@dataclass
class HandMade:
    """The settings of a hand-made run; `make` writes it."""

    rows: int = 240
    cuts: Sequence[int] = (80, 160)
    classes: Sequence[str] = ("cat", "dog", "owl")
    flips: bool = True
    errors: bool = True
    columns: Columns | None = None
    baselines: Sequence[str] = ("random", "full")
    seeds: Sequence[int] = (0, 1, 2)
    source_file: str = "in/a.parquet"
    sources: Sequence[str] = ()
    texts: Sequence[str] = ()
    shape: Sequence[int] = ()
    id_prefix: str = ""
    copies: bool = False
    bad: Sequence[tuple[str, int | None, str]] = ()
    spec: dict[str, Any] = field(default_factory=dict)

    def scores(self) -> Columns:
        """Component values [rows]; difficulty and consistency tell flipped labels apart, diversity does not."""
        if self.columns is not None:
            return self.columns
        rng = np.random.default_rng(3)
        difficulty = np.clip(rng.beta(2, 6, self.rows) + 0.6 * self.flipped(), 0, 1)
        columns = {
            "difficulty": difficulty,
            "consistency": np.round((1 - difficulty) * 5) / 5,
            "diversity": rng.normal(0.3, 0.1, self.rows),
        }
        if self.errors:
            columns["difficulty_se"] = rng.uniform(0.01, 0.05, self.rows)
        return {name: values.astype(np.float32) for name, values in columns.items()}

    def flipped(self) -> np.ndarray[Any, Any]:
        return (np.arange(self.rows) % 10 == 3) & self.flips

    def make(self, folder: Path) -> Finished:
        """Write the files."""
        return Finished(self, Store(str(folder)))


@dataclass
class Finished:
    """A hand-made run on disk."""

    made: HandMade
    store: Store

    def __post_init__(self) -> None:
        self.columns = self.made.scores()
        self.components = [name for name in self.columns if not name.endswith("_se")]
        self.manifests = {
            "corpus": self._corpus(),
            "scores": self._scores(),
            "ranking": self._ranking(),
            "selection": self._selection(),
            "model": self._model(),
        }
        if self.made.copies:
            self.manifests["neighbours"] = self._neighbours()
        self.parts = ScoredParts.of(self.store, self.manifests["corpus"], self.manifests["scores"])

    @property
    def config(self) -> RunConfig:
        gated = "consistency" in self.columns
        base = {
            "name": "hand-made",
            "corpus": {"source": "in", "label_column": "label"},
            "score": [{"kind": kind} for kind in ("difficulty", "consistency", "diversity")],
            "rank": {"combine": {"gate": {"component": "consistency", "at_least": 0.5} if gated else None}},
            "select": {"value": 0.5},
            "output": "runs/hand-made",
        }
        return validate(base | self.made.spec)

    def summary(self) -> dict[str, Any]:
        seconds = {"corpus": 1.5, "scores": 3.0, "ranking": 0.2, "selection": 0.1, "model": 30.0}
        return summarise(self.config, self.manifests, seconds, self.store)

    def _write(self, stage: str, table: pa.Table, cuts: Sequence[int]) -> list[Any]:
        edges = [0, *cuts, table.num_rows]
        slices = [table.slice(low, high - low) for low, high in itertools.pairwise(edges)]
        return [self.store.write_table(f"{stage}/part-{i:05d}.parquet", own) for i, own in enumerate(slices)]

    def _ids(self) -> list[str]:
        return [f"{self.made.id_prefix}{row:032x}" for row in range(self.made.rows)]

    def _corpus(self) -> Manifest:
        made, n, count = self.made, self.made.rows, len(self.made.classes)
        clean = np.arange(n, dtype=np.int32) % max(count, 1)
        label = np.where(made.flipped(), (clean + 1) % max(count, 1), clean).astype(np.int32)
        missing = np.full(n, count == 0)
        sources = made.sources or [made.source_file]
        columns = {
            "example_id": self._ids(),
            "label": pa.array(label, mask=missing),
            "label_clean": pa.array(clean, mask=missing),
            "source_file": [sources[row % len(sources)] for row in range(n)],
            "row": np.arange(n),
        }
        if made.texts:
            columns["text"] = [made.texts[row % len(made.texts)] for row in range(n)]
        if made.shape:
            x = np.random.default_rng(8).normal(size=(n, int(np.prod(made.shape)))).astype(np.float32)
            columns["x"] = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])
        table = pa.table(columns)
        bad = pa.table(
            [[b[i] for b in made.bad] for i in range(3)] + [["digest"] * len(made.bad)], schema=QUARANTINE_SCHEMA
        )
        sides = {"quarantine": [self.store.write_table("quarantine/part.parquet", bad)]} if made.bad else {}
        facts = dict.fromkeys(("validation", "pool", "duplicates", "overlap", "bad_files"), 0)
        rows = sum(b[1] is not None for b in made.bad)
        facts |= {"read": n + 60 + rows, "corpus": n, "test": 60, "quarantined": rows}
        facts |= {"flipped": int(made.flipped().sum()), "bad_files": len(made.bad) - rows}
        facts |= {"text": bool(made.texts), "input_shape": list(made.shape)}
        return Manifest(
            "corpus", "c" * 32, self._write("corpus", table, made.cuts), sides, facts | {"classes": list(made.classes)}
        )

    def _scores(self) -> Manifest:
        table = pa.table({"example_id": self._ids(), **self.columns})
        facts = {"scored": self.made.rows, "quarantined": 0, "columns": {"all": self.components}, "concentration": {}}
        return Manifest("scores", "d" * 32, self._write("scores", table, self.made.cuts), {}, facts)

    def _ranking(self) -> Manifest:
        n, first = self.made.rows, self.columns[self.components[0]].astype(np.float64)
        gate = self.columns["consistency"] >= 0.5 if "consistency" in self.columns else np.ones(n, bool)
        order = np.lexsort((first, gate))
        labels = np.arange(n) % max(len(self.made.classes), 1)
        edges = [0, *self.made.cuts, n]
        part = np.searchsorted(edges, np.arange(n), side="right") - 1
        self.ranked = pa.table(
            {
                "example_id": [self._ids()[i] for i in order],
                "score": first[order],
                "score_se": pa.array(np.full(n, 0.03), mask=np.full(n, not self.made.errors)),
                "eligible": np.ones(n, bool),
                "gate": gate[order],
                "rank": np.arange(n),
                "percentile": np.arange(n) / n,
                "label": pa.array(labels[order], mask=np.full(n, not self.made.classes)),
                "tokens": pa.nulls(n, pa.int64()),
                "part": part[order],
                "part_row": (np.arange(n) - np.array(edges)[part])[order],
            }
        ).cast(RANKING_SCHEMA)
        facts = {"weights": {self.components[0]: 1.0}, "gated_out": int((~gate).sum()), "rows": n}
        return Manifest("ranking", "e" * 32, self._write("ranking", self.ranked, [n // 3]), {}, facts)

    def _selection(self) -> Manifest:
        n = self.made.rows
        first = n - n // 2
        kept = self.ranked.slice(first)
        k = kept.num_rows
        table = pa.table(
            [
                kept["example_id"],
                kept["rank"],
                pa.array(np.random.default_rng(5).permutation(k)),
                pa.array(np.ones(k)),
                pa.nulls(k, pa.float64()),
                pa.array(["among the highest"] * k),
                kept["part"],
                kept["part_row"],
            ],
            schema=SELECTION_SCHEMA,
        )
        gates = kept["gate"].to_numpy()
        cut = float(kept["score"].to_numpy()[gates].min()) if gates.any() else None
        facts = {"kept": k, "of": n, "below_gate": int((~gates).sum()), "cut_score": cut}
        facts["noise"] = self._noise(cut, np.arange(n) >= first)
        below = max(0, n // 3 - first)
        return Manifest("selection", "f" * 32, self._write("selection", table, [below]), {}, facts)

    def _noise(self, cut: float | None, kept: np.ndarray[Any, Any]) -> dict[str, Any] | None:
        score, gate = self.ranked["score"].to_numpy(), self.ranked["gate"].to_numpy()
        found = None if cut is None else noise_of(score, errors_of(self.ranked), kept, cut, gate=gate).finish()
        return None if found is None else asdict(found)

    def _neighbours(self) -> Manifest:
        """Every fifth example is a copy of the first of its part, and one more is a copy of a copy."""
        n, tables = self.made.rows, []
        edges = [0, *self.made.cuts, n]
        for low, high in itertools.pairwise(edges):
            row = np.arange(low, high)
            copy = (row % 5 == 4) & (row > low)
            head = np.where(row == high - 1, low + 4, low)
            ids = self._ids()
            neighbour = [ids[h] if c else None for h, c in zip(head, copy, strict=True)]
            cosine = np.where(copy, 0.999 - 1e-5 * row, 0.2).astype(np.float32)
            names, heads = pa.array(ids[low:high], pa.string()), pa.array(neighbour, pa.string())
            tables.append(pa.table({"example_id": names, "earlier_cosine": cosine, "neighbour": heads}))
        return Manifest("neighbours", "b" * 32, self._write("neighbours", pa.concat_tables(tables), self.made.cuts))

    def _model(self) -> Manifest:
        rng = np.random.default_rng(11)
        levels = {"selected": 0.95, "random": 0.93, "full": 0.96}
        accuracy, results = {}, []
        for arm in ["selected", *self.made.baselines]:
            accuracy[arm] = [levels[arm] + 0.002 * rng.standard_normal() for _ in self.made.seeds]
            for seed, value in zip(self.made.seeds, accuracy[arm], strict=True):
                curve = [[step, 2.0 / step**0.5 + 0.01 * rng.random()] for step in range(10, 101, 10)]
                results.append({"arm": arm, "seed": seed, "curve": curve, "accuracy": value})
        differences = {}
        for arm in self.made.baselines:
            d = paired(accuracy["selected"], accuracy[arm])
            differences[arm] = {**d.__dict__, "verdict": d.verdict()}
        facts = {
            "steps": 100,
            "results": results,
            "metric": "accuracy",
            "values": accuracy,
            "differences": differences,
        }
        return Manifest("model", "a" * 32, [], {}, facts | {"rows_processed": 3200 * len(results)})


def without_ray(patch: pytest.MonkeyPatch) -> None:
    """Let tasks run one after another in this process."""

    def serial(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], **_: Any) -> list[Any]:
        return [function(*call) for call in calls]

    def dealt(inputs: Sequence[Any], split: Any, merge: Any, partitions: int, **_: Any) -> list[Any]:
        rows = [split(item, partitions) for item in inputs]
        return [merge(place, [row[place] for row in rows]) for place in range(partitions)]

    patch.setattr(cluster, "parallel", serial)
    patch.setattr(cluster, "shuffle", dealt)


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Finished]:
    """Writes a hand-made run, whose tasks run in this process."""
    without_ray(monkeypatch)
    return lambda **changes: HandMade(**changes).make(tmp_path / str(len(list(tmp_path.iterdir()))))
