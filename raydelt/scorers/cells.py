"""Which scores stand already: the cells of an earlier version of a run, by example and by scorer.

A cell is what a scorer gave an example. It stands for as long as its key does,

    key = hash(scorer, its version and settings; the models it asks; what was fitted on the corpus as a whole)

and as the example's own content, label and time do. Parts of a corpus are ranges of draw keys, so the rows of a part
are looked up in the few earlier parts that cover its range. Cost: one look-up in a hash table a row; memory: a part
and those earlier ones.

Caution: scores of methods that look at the whole corpus at once (neighbours, ledger, values, trajectories) have a key
that changes with any example.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydelt.config import RunConfig
from raydelt.corpus.carried import Carried
from raydelt.corpus.sources import SourceFile
from raydelt.examples import DRAW_KEY, EXAMPLE_ID, GROUP_KEY, LABEL, TIME, column_of, partition_of
from raydelt.models import folder
from raydelt.models.identity import own_models
from raydelt.scorers import frame
from raydelt.scorers.protocol import Array, Need, ScoringContext
from raydelt.storage import Manifest, Part, Store, fingerprint

# What a scorer asks for, and the stage that computes it anew whenever the corpus changes.
WHOLE_CORPUS: Mapping[Need, str] = {
    "neighbours": "neighbours",
    "ledger": "ledger",
    "values": "values",
    "target": "targets",
    "trajectory": "trajectory",
    "data_scorer": "distilled",
}
SHAPE = ("classes", "input_shape", "standardize", "text", "width")
IN_FRAME: frozenset[Need] = frozenset({"vectors", "classifier", "gradients"})


@dataclass(frozen=True)
class Earlier:
    """An earlier version of a run; `keep` lets what was fitted on its corpus stand for new examples too.

    The examples of `unopened` source files are taken from it. `states` say who rests, where that is applied.
    """

    run: Store
    manifests: Mapping[str, Manifest]
    keep: bool = True
    unopened: frozenset[str] = frozenset()
    states: pa.Table | None = None

    @property
    def corpus(self) -> Manifest:
        return self.manifests["corpus"]

    @property
    def scores(self) -> Manifest:
        return self.manifests["scores"]

    def carried(self, files: Sequence[SourceFile]) -> Carried | None:
        """What is taken over of its corpus in place of some of these files; None where all are read."""
        splits = {file.path: file.split for file in files if file.path in self.unopened}
        return Carried(self.run, self.corpus, splits) if splits else None

    def keeps_for(self, corpus: Manifest) -> bool:
        """Whether what was fitted then can stand for this corpus: kept at all, and of the same shape."""
        same = all(corpus.facts[name] == self.corpus.facts.get(name) for name in SHAPE)
        return self.keep and same and bool(self.scores.sides.get("frame"))

    @property
    def frame(self) -> Part:
        """The file of what was fitted on its corpus as a whole."""
        return self.scores.sides["frame"][0]


def origin(manifest: Manifest) -> str:
    """The stage that really computed this one's models: itself, or the one that they were carried over from."""
    return str(manifest.facts.get("origin", manifest.fingerprint))


def cell_keys(
    config: RunConfig, corpus: Manifest, stages: Mapping[str, Manifest], context: ScoringContext
) -> dict[str, str]:
    """The key of every scorer's cells; `stages` are those before the scores, by name."""
    whole = [corpus.facts[name] for name in SHAPE]
    keys = {}
    for spec in config.score:
        scorer = spec.build()
        needs = scorer.needs
        parts: list[Any] = [whole, config.seed, spec.model_dump(mode="json"), scorer.version]
        parts += [stages[stage].fingerprint for need, stage in WHOLE_CORPUS.items() if need in needs & _known(stages)]
        proxies = stages.get("proxies")
        if proxies is not None and needs & {"classifier", "gradients"}:
            parts.append(origin(proxies))
        elif needs & {"classifier", "gradients", "language"}:
            parts.append(own_models(config.model))
        if hasattr(spec, "reference"):
            parts.append(folder.fingerprint(spec.reference))
        if config.encoder is not None and "vectors" in needs:
            parts.append([config.encoder.model_dump(mode="json"), folder.fingerprint(config.encoder.path)])
        if needs & IN_FRAME and not (config.model.kind == "causal_lm" and "vectors" not in needs):
            parts.append(frame.digest([context.mean, context.scale]))
        parts.append(_statistic(context.statistics.get(scorer.name), corpus))
        keys[scorer.name] = fingerprint(parts)
    return keys


def settings_of(specs: Sequence[Any]) -> dict[str, str]:
    """Identifies each scorer of a spec by its version and settings alone."""
    built = [(spec, spec.build()) for spec in specs]
    return {scorer.name: fingerprint([spec.model_dump(mode="json"), scorer.version]) for spec, scorer in built}


def _known(stages: Mapping[str, Manifest]) -> frozenset[Need]:
    return frozenset(need for need, stage in WHOLE_CORPUS.items() if stage in stages)


def _statistic(value: Any, corpus: Manifest) -> str:
    """Identifies a scorer's statistic; one of a kind that is not known stands for this very corpus."""
    try:
        return frame.digest(value)
    except TypeError:
        return str(corpus.facts["content"])


@dataclass(frozen=True)
class Found:
    """For rows [n]: where each stands in the earlier scores, -1 where it does not, and those scores."""

    place: Array
    scores: pa.Table

    def columns(self, names: Sequence[str], rows: Array) -> dict[str, Array]:
        """Some components [rows] of rows that were found, standard errors among them."""
        own = [name for name in (*names, *(f"{name}_se" for name in names)) if name in self.scores.column_names]
        return {name: column_of(self.scores, name)[self.place[rows]] for name in own}

    def versions(self, rows: Array) -> Array:
        """The version of the models [rows] that gave the scores of rows that were found."""
        names = np.asarray(self.scores["model_version"].to_pylist(), object)
        return np.asarray(names[self.place[rows]])


@dataclass(frozen=True)
class Cells:
    """Looks the rows of a part up in an earlier version. Picklable."""

    run: Store
    partitions: int
    corpus: Mapping[int, str]
    scores: Mapping[int, str]
    fresh: frozenset[str]

    @staticmethod
    def of(earlier: Earlier, keys: Mapping[str, str]) -> Cells | None:
        """The cells whose keys still stand; None where there are none."""
        held = earlier.scores.facts.get("cells", {})
        fresh = frozenset(name for name, key in keys.items() if held.get(name) == key)
        facts = earlier.corpus.facts
        if not fresh or "partitions" not in facts:
            return None
        index = facts["partition"]
        corpus = {i: part.file for i, part in zip(index, earlier.corpus.parts, strict=True)}
        scores = {i: part.file for i, part in zip(index, earlier.scores.parts, strict=True)}
        return Cells(earlier.run, facts["partitions"], corpus, scores, fresh)

    def find(self, rows: pa.Table) -> Found:
        """Where rows [n] (id, draw key, group key, label, perhaps time) stand with the same content as now."""
        keys = column_of(rows, DRAW_KEY).astype(np.uint64)
        low, high = (partition_of(np.array([key]), self.partitions)[0] for key in (keys.min(), keys.max()))
        parts = [index for index in range(int(low), int(high) + 1) if index in self.corpus]
        if not parts:
            return Found(np.full(len(keys), -1), pa.table({}))
        same = [name for name in (EXAMPLE_ID, GROUP_KEY, LABEL, TIME) if name in rows.column_names]
        corpus = pa.concat_tables([self.run.read_table(self.corpus[index], same) for index in parts])
        scores = pa.concat_tables([self.run.read_table(self.scores[index]) for index in parts]).unify_dictionaries()
        before = _places(rows, corpus)
        unchanged = before >= 0
        for name in same[1:]:
            then = _plain(corpus, name)[np.maximum(before, 0)]
            unchanged &= then == _plain(rows, name)
        return Found(np.where(unchanged, _places(rows, scores), -1), scores)


def _places(rows: pa.Table, held: pa.Table) -> Array:
    """Row [n] of each id in another table, or -1."""
    found = pc.index_in(rows[EXAMPLE_ID].combine_chunks(), value_set=held[EXAMPLE_ID].combine_chunks())
    return np.asarray(found.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)


def _plain(table: pa.Table, name: str) -> Array:
    """A column whose missing values equal each other."""
    column = table[name].combine_chunks()
    return (
        np.asarray(column.fill_null(-1).to_numpy(zero_copy_only=False))
        if column.null_count
        else column_of(table, name)
    )
