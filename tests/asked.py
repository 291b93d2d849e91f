"""A finished run of any size made without Ray, by the definitions: ids hashed into parts, scores, ranking, selection.

Used by tests of `raydelt.ask` and by its benchmark.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raydelt import rundir
from raydelt.config import RunConfig
from raydelt.examples import (
    QUARANTINE_SCHEMA,
    RANKING_SCHEMA,
    SELECTION_SCHEMA,
    corpus_schema,
    draw_keys,
    partition_of,
)
from raydelt.order.orders import positions
from raydelt.order.stage import ROWS_PER_FILE
from raydelt.rank.exact import in_order, percentiles
from raydelt.scorers.composite import Distribution, combined
from raydelt.specfile import validate
from raydelt.storage import Manifest, Part, Stage, Store

CLASSES = ("cat", "dog", "owl")
WIDTH = 4
STEPS = 60


@dataclass
class Asked:
    """The settings of a run; `make` writes it. `bad` is the row of the first part whose score went to quarantine."""

    rows: int = 1500
    parts: int = 8
    ranges: int = 4
    share: float = 0.4
    weights: dict[str, float] = field(default_factory=lambda: {"difficulty": 1.0})
    gate: bool = True
    balanced: bool = False
    texts: tuple[str, ...] = ()
    partitions: bool = True
    bad: int | None = 3
    seed: int = 0
    trained: bool = True
    width: int = WIDTH

    def make(self, folder: Path | str) -> Made:
        return Made(self, Store(str(folder)))


class Made:
    """A run on disk; `corpus`, `scores`, `ranking` and `selection` are its tables, whole."""

    def __init__(self, made: Asked, store: Store) -> None:
        self.made, self.store = made, store
        self.config = spec_of(made, store.root)
        store.write_json(rundir.SPEC, self.config.resolved())
        self.manifests: dict[str, Manifest] = {}
        self._corpus()
        self._scores()
        self._ranking()
        self._selection()
        self._ordered()
        if made.trained:
            results = [{"arm": arm, "seed": s, "steps": STEPS} for arm in ("selected", "random") for s in (0, 1)]
            self._publish("model", [], {"steps": STEPS, "results": results})
        measured: dict[str, Any] = {"peaks": {}, "cluster": {}, "start": 0.0}
        rundir.record(store, self.config, self.manifests, {}, measured)

    def _publish(
        self, name: str, parts: list[Part], facts: dict[str, Any], sides: dict[str, list[Part]] | None = None
    ) -> None:
        self.manifests[name] = self._stage(name).publish(parts, facts, sides)

    def _stage(self, name: str) -> Stage:
        return Stage(self.store, name, f"{self.made.seed:02d}{name}".ljust(32, "0"))

    def _write(self, stage: Stage, kind: str, index: int, table: pa.Table) -> Part:
        return self.store.write_table(stage.file(kind, index), table.combine_chunks())

    def _corpus(self) -> None:
        made, n, stage = self.made, self.made.rows, self._stage("corpus")
        # The examples are the same whatever the seed of the scores is.
        rng = np.random.default_rng(1)
        ids = _ids(rng, n)
        keys = draw_keys(ids.to_pylist())
        order = np.argsort(keys)
        ids, keys = ids.take(pa.array(order)), keys[order]
        x = rng.normal(size=(n, made.width)).astype(np.float32)
        label = rng.integers(0, len(CLASSES), n).astype(np.int32)
        columns = [ids, pa.array(keys), pa.array(keys), _lists(x), pa.array(label), pa.array(label)]
        columns += [pa.array(np.array(["in/a.parquet", "in/b c.parquet"])[rng.integers(0, 2, n)])]
        columns += [pa.array(np.arange(n))]
        if made.texts:
            columns.append(pa.array([made.texts[i % len(made.texts)] for i in range(n)], pa.string()))
        self.all = pa.table(columns, schema=corpus_schema(made.width, text=bool(made.texts)))
        held = np.arange(n) % 10 == 0
        starts = np.searchsorted(partition_of(keys, made.parts), np.arange(made.parts + 1))
        sides: dict[str, list[Part]] = {"validation": [], "test": [], "pool": []}
        parts, edges = [], [0]
        for index, (low, high) in enumerate(itertools.pairwise(starts.tolist())):
            rows, out = self.all.slice(low, high - low), held[low:high]
            own = rows.filter(pa.array(~out))
            parts.append(self._write(stage, "part", index, own))
            edges.append(edges[-1] + own.num_rows)
            sides["test"].append(self._write(stage, "test", index, rows.filter(pa.array(out))))
        entry = pa.table([["in/a.parquet"], [77], ["no label"], ["digest-of-a-bad-row"]], schema=QUARANTINE_SCHEMA)
        sides["quarantine"] = [self._write(stage, "quarantine", 0, entry)]
        self.corpus, self.edges = self.all.filter(pa.array(~held)), edges
        self.test = self.all.filter(pa.array(held))
        facts: dict[str, Any] = {"classes": list(CLASSES), "width": made.width, "text": bool(made.texts)}
        if made.partitions:
            facts |= {"partitions": made.parts, "partition": list(range(made.parts))}
        self._publish("corpus", parts, facts, sides)

    def _scores(self) -> None:
        n, stage, rng = self.corpus.num_rows, self._stage("scores"), np.random.default_rng([2, self.made.seed])
        columns = {
            "difficulty": np.round(rng.beta(2, 5, n), 3),
            "consistency": np.round(rng.uniform(0.2, 1, n), 1),
            "diversity": rng.normal(size=n),
            "difficulty_se": rng.uniform(0.01, 0.1, n),
        }
        table = pa.table(
            {
                "example_id": self.corpus["example_id"],
                **{name: values.astype(np.float32) for name, values in columns.items()},
                "model_version": pa.array(["v1"] * n),
            }
        )
        good = np.ones(n, bool)
        if self.made.bad is not None:
            good[self.made.bad] = False
        parts = [
            self._write(stage, "part", index, table.slice(low, high - low).filter(pa.array(good[low:high])))
            for index, (low, high) in enumerate(itertools.pairwise(self.edges))
        ]
        where = self.corpus.filter(pa.array(~good))
        reasons = pa.array(["score not finite: difficulty = nan"] * where.num_rows, pa.string())
        aside = pa.table([where["source_file"], where["row"], reasons, where["example_id"]], schema=QUARANTINE_SCHEMA)
        sides = {"quarantine": [self._write(stage, "quarantine", 0, aside)]}
        self.good = np.flatnonzero(good)
        self.scores = table.filter(pa.array(good))
        facts = {"columns": {"all": ["difficulty", "consistency", "diversity"]}}
        self._publish("scores", parts, facts, sides)

    def _ranking(self) -> None:
        made, stage, scores = self.made, self._stage("ranking"), self.scores
        n = scores.num_rows
        components = {name: scores[name].to_numpy() for name in made.weights}
        distributions = {name: Distribution.of(values) for name, values in components.items()}
        errors = {"difficulty": scores["difficulty_se"].to_numpy()} if "difficulty" in made.weights else {}
        score, se = combined(components, errors, distributions, made.weights, self.config.rank.combine)
        gate = scores["consistency"].to_numpy() >= np.float32(0.5) if made.gate else np.ones(n, bool)
        part = np.searchsorted(self.edges, self.good, side="right") - 1
        table = in_order(
            pa.table(
                {
                    "example_id": scores["example_id"],
                    "score": score,
                    "score_se": pa.array(se, mask=np.full(n, not errors)),
                    "eligible": np.ones(n, bool),
                    "gate": gate,
                    "label": self.corpus["label"].combine_chunks().take(pa.array(self.good)),
                    "tokens": pa.nulls(n, pa.int64()),
                    "part": part.astype(np.int32),
                    "part_row": (self.good - np.array(self.edges)[part]).astype(np.int32),
                }
            )
        )
        table = table.append_column("rank", pa.array(np.arange(n)))
        table = table.append_column("percentile", pa.array(percentiles(0, n, n)))
        self.ranking = table.select(RANKING_SCHEMA.names).cast(RANKING_SCHEMA)
        self.cuts = np.linspace(0, n, made.ranges + 1).astype(int).tolist()
        parts = [
            self._write(stage, "part", index, self.ranking.slice(low, high - low))
            for index, (low, high) in enumerate(itertools.pairwise(self.cuts))
        ]
        self._publish("ranking", parts, {"weights": made.weights, "rows": n, "gated_out": int((~gate).sum())})

    def _selection(self) -> None:
        made, n, stage = self.made, self.ranking.num_rows, self._stage("selection")
        k = round(made.share * n)
        mask = np.zeros(n, bool)
        if made.balanced:
            labels = self.ranking["label"].to_numpy()
            for label in range(len(CLASSES)):
                mask[np.flatnonzero(labels == label)[-(k // len(CLASSES)) :]] = True
        else:
            mask[n - k :] = True
        chosen = self.ranking.filter(pa.array(mask))
        k = chosen.num_rows
        self.selection = pa.table(
            [
                chosen["example_id"],
                chosen["rank"],
                pa.array(positions(np.arange(k), k, self.config.order, seed=self.config.seed)),
                pa.array(np.ones(k)),
                pa.nulls(k, pa.float64()),
                pa.array([f"among the highest {k} of {n}"] * k),
                chosen["part"],
                chosen["part_row"],
            ],
            schema=SELECTION_SCHEMA,
        )
        rank = chosen["rank"].to_numpy()
        parts = []
        for index, (low, high) in enumerate(itertools.pairwise(self.cuts)):
            own = self.selection.filter(pa.array((rank >= low) & (rank < high)))
            parts.append(self._write(stage, "part", index, own))
        passing = chosen["score"].to_numpy()[chosen["gate"].to_numpy()]
        facts = {"kept": k, "of": n, "below_gate": 0, "cut_score": float(passing.min()), "noise": None}
        self._publish("selection", parts, facts)

    def _ordered(self) -> None:
        stage, chosen = self._stage("ordered"), self.selection.sort_by("position")
        at = np.array(self.edges)[chosen["part"].to_numpy()] + chosen["part_row"].to_numpy()
        names = ["example_id", "draw_key", "text" if self.made.texts else "x", "label"]
        table = self.corpus.select(names).take(pa.array(at))
        table = table.append_column("position", chosen["position"]).append_column("weight", chosen["weight"])
        count = -(-table.num_rows // ROWS_PER_FILE)
        parts = [
            self._write(stage, "part", index, table.slice(index * ROWS_PER_FILE, ROWS_PER_FILE))
            for index in range(count)
        ]
        orders = [{"name": "selected", "files": [part.file for part in parts], "rows": table.num_rows}]
        self._publish("ordered", parts, {"orders": orders})

    @property
    def kept(self) -> set[str]:
        return set(self.selection["example_id"].to_pylist())


def spec_of(made: Asked, output: str) -> RunConfig:
    """The spec that such a run would have."""
    gate = {"component": "consistency", "at_least": 0.5} if made.gate else None
    return validate(
        {
            "name": "asked",
            "corpus": {"source": "in", "label_column": "label"},
            "score": [{"kind": kind} for kind in ("difficulty", "consistency", "diversity")],
            "rank": {"combine": {"weights": made.weights, "gate": gate}},
            "select": {"value": made.share, "quotas": {"share": "balanced"} if made.balanced else None},
            "train": {"recipe": {"steps": STEPS, "batch_size": 32}, "seeds": [0, 1]},
            "output": output,
        }
    )


def _ids(rng: np.random.Generator, n: int) -> pa.StringArray:
    """Ids [n] of 32 random hex digits."""
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)[rng.integers(0, 16, (n, 32), dtype=np.uint8)]
    offsets = np.arange(0, 32 * n + 1, 32, dtype=np.int32)
    return pa.StringArray.from_buffers(n, pa.py_buffer(offsets), pa.py_buffer(digits.tobytes()))


def _lists(x: np.ndarray[Any, Any]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])
