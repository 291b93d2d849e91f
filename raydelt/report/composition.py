"""What the selection is made of beside the corpus: sources, lengths, and scores by source and by class.

    sources   files, or the folders that hold them, as fine as `GROUPS` names can tell apart
    languages of texts, as a library tells them, of the first `HEARD` of the sample; the rare ones together
    lengths   tokens where the ranking counted them, else characters of the texts; bins of equal width in log(length)
    scores    5, 25, 50, 75 and 95 % of the combined score in each of the largest groups

All of it comes from the first parts of the corpus, which are a uniform random sample: up to `ROWS` rows and `PARTS`
parts, so the whole of a small corpus. One task gathers the sample's rows of the ranking (25 bytes each) and reads
these parts one by one. Cost: four columns of the ranking, and the sample's texts.

Caution: of a sample, a share is off by 50 / sqrt(rows) points at the most (standard error; 0.1 at 262,144 rows).
"""

from __future__ import annotations

import functools
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydelt import cluster
from raydelt.examples import LABEL, SOURCE_FILE, column_of
from raydelt.report.languages import languages
from raydelt.scorers.protocol import Array
from raydelt.storage import Manifest, Part, Store

ROWS = 1 << 18
PARTS = 16
GROUPS = 24
BINS = 30
HEARD = 4096
RARE = 0.005
QUANTILES = (5, 25, 50, 75, 95)
OTHER = "others"


@dataclass(frozen=True)
class Of:
    """What is looked at: the first files of the corpus, its classes, whether it has texts, whether all are ranked."""

    run: Store
    files: tuple[str, ...]
    classes: tuple[str, ...]
    text: bool
    whole: bool


@dataclass(frozen=True)
class Sample:
    """Of each sampled example [n]: kept or not, score (NaN: unknown), class, source as an index, length (-1: none).

    `language` is an index into `languages`, -1 where none was asked for.
    """

    kept: Array
    score: Array
    label: Array
    source: Array
    length: Array
    language: Array
    sources: list[str]
    languages: list[str]
    unit: str | None


def composition(run: Store, corpus: Manifest, ranking: Manifest, selection: Manifest) -> dict[str, Any]:
    """`rows` of the `of` examples were looked at; `sources`, `classes`, `languages`, `lengths` are None without."""
    parts = sampled(corpus.parts)
    facts = corpus.facts
    files = tuple(part.file for part in parts)
    of = Of(run, files, tuple(facts["classes"]), bool(facts.get("text")), "decision" not in ranking.facts)
    pairs = [(a.file, b.file) for a, b in zip(ranking.parts, selection.parts, strict=True)]
    split, merge = functools.partial(_ranked_of, run, len(files)), functools.partial(_described, of)
    [found] = cluster.shuffle(pairs, split, merge, 1, label="report: composition")
    return found | {"of": corpus.rows, "exact": len(files) == len(corpus.parts)}


def sampled(parts: Sequence[Part]) -> list[Part]:
    """The first parts that hold `ROWS` rows together, at most `PARTS` of them."""
    held = np.cumsum([0, *(part.rows for part in parts[:-1])])
    return [part for part, before in zip(parts, held, strict=False) if before < ROWS][:PARTS]


def _ranked_of(run: Store, parts: int, pair: tuple[str, str], _: int) -> list[pa.Table]:
    """The sample's rows in one file of the ranking: place, score, tokens, and whether they are kept."""
    table = run.read_table(pair[0], ["part", "part_row", "score", "tokens", "rank"])
    table = table.filter(pc.less(table["part"], parts))
    kept = np.isin(column_of(table, "rank"), column_of(run.read_table(pair[1], ["rank"]), "rank"))
    return [table.drop_columns(["rank"]).append_column("kept", pa.array(kept))]


def _described(of: Of, _: int, pieces: list[pa.Table]) -> dict[str, Any]:
    sample = sample_of(of, pa.concat_tables(pieces))
    by_class = [str(name) for name in of.classes]
    return {
        "rows": len(sample.kept),
        "sources": groups(sample, sample.source, sample.sources) if len(sample.sources) > 1 else None,
        "classes": groups(sample, sample.label, by_class) if by_class else None,
        "languages": spoken(sample),
        "lengths": lengths(sample),
    }


def sample_of(of: Of, ranked: pa.Table) -> Sample:
    """The sampled examples, part by part."""
    columns: list[tuple[Array, ...]] = []
    names: dict[str, int] = {}
    tongues: dict[str, int] = {}
    heard, part = 0, column_of(ranked, "part")
    for index, file in enumerate(of.files):
        table = of.run.read_table(file, [LABEL, SOURCE_FILE, *(["text"] if of.text else [])])
        own = ranked.filter(pa.array(part == index))
        at, n = column_of(own, "part_row"), table.num_rows
        kept, score, tokens, known = np.zeros(n, bool), np.full(n, np.nan), np.full(n, -1), np.zeros(n, bool)
        kept[at], score[at], known[at] = column_of(own, "kept"), column_of(own, "score"), True
        tokens[at] = own["tokens"].fill_null(-1).to_numpy()
        characters = pc.utf8_length(table["text"]).fill_null(-1).to_numpy() if of.text else np.full(n, -1)
        label = table[LABEL].fill_null(-1).to_numpy()
        use = known if of.whole else np.ones(n, bool)
        language = np.full(n, -1)
        if of.text and heard < HEARD:
            asked = np.flatnonzero(use)[: HEARD - heard]
            told = languages(table["text"].take(pa.array(asked)).to_pylist())
            language[asked] = [tongues.setdefault(own, len(tongues)) for own in told]
            heard += len(asked)
        each = (kept, score, label, _coded(table[SOURCE_FILE], names), tokens, characters, language)
        columns.append(tuple(own[use] for own in each))
    kept, score, label, source, tokens, characters, language = map(np.concatenate, zip(*columns, strict=True))
    unit = "tokens" if (tokens >= 0).any() else "characters" if of.text else None
    source, sources = coarser(source, list(names))
    length = tokens if unit == "tokens" else characters
    return Sample(kept, score, label, source, length, language, sources, list(tongues), unit)


def _coded(column: pa.ChunkedArray, names: dict[str, int]) -> Array:
    """Names as numbers [n], new ones added to `names`."""
    encoded = pc.dictionary_encode(column.combine_chunks().fill_null("none"))
    encoded = pa.concat_arrays(encoded.chunks) if isinstance(encoded, pa.ChunkedArray) else encoded
    own = np.array([names.setdefault(name, len(names)) for name in encoded.dictionary.to_pylist()], np.int64)
    indices: Array = encoded.indices.to_numpy().astype(np.int64)
    return own[indices] if len(own) else indices


def coarser(source: Array, files: list[str]) -> tuple[Array, list[str]]:
    """Sources [n] by the finest names that are at most `GROUPS`: files, folders, folders of folders.

    Where folders become one before they are few, the most frequent of the level before stand beside all others.
    """
    names = files
    while len(names) > GROUPS:
        above = [posixpath.dirname(name) for name in names]
        fewer = sorted(set(above))
        if len(fewer) < 2 or fewer == sorted(names):
            return _frequent(source, names)
        place = {name: index for index, name in enumerate(fewer)}
        source, names = np.array([place[name] for name in above])[source], fewer
    return source, names


def _frequent(source: Array, names: list[str]) -> tuple[Array, list[str]]:
    """The most frequent sources and one for all others, if those together are not most; else nothing to tell."""
    counts = np.bincount(source, minlength=len(names))
    most = sorted(range(len(names)), key=lambda i: (-counts[i], names[i]))[: GROUPS - 1]
    if 2 * counts[most].sum() < counts.sum():
        return np.zeros_like(source), [OTHER]
    code = np.full(len(names), len(most))
    code[most] = np.arange(len(most))
    return code[source], [*(names[i] for i in most), OTHER]


def groups(sample: Sample, code: Array, names: Sequence[str]) -> list[dict[str, Any]]:
    """The `GROUPS` largest groups by a code [n]: name, examples of the corpus and selected, quantiles of the score."""
    known = code >= 0
    corpus = np.bincount(code[known], minlength=len(names))
    selected = np.bincount(code[known & sample.kept], minlength=len(names))
    told = []
    for index in sorted(np.argsort(-corpus, kind="stable")[:GROUPS].tolist()):
        if not corpus[index]:
            continue
        scores = sample.score[(code == index) & np.isfinite(sample.score)]
        own = np.percentile(scores, QUANTILES).tolist() if len(scores) else None
        entry = {"name": names[index], "corpus": int(corpus[index]), "selected": int(selected[index])}
        told.append(entry | {"quantiles": own})
    return told


def spoken(sample: Sample) -> list[dict[str, Any]] | None:
    """The languages by the number of examples, rare ones together; None where there is one or none."""
    counts = np.bincount(sample.language[sample.language >= 0], minlength=len(sample.languages))
    often = [int(i) for i in np.argsort(-counts, kind="stable")[: GROUPS - 1] if counts[i] >= RARE * counts.sum() > 0]
    if len(often) < 2:
        return None
    place = np.full(len(counts) + 1, len(often))
    place[often], place[-1] = np.arange(len(often)), -1
    return groups(sample, place[sample.language], [*(sample.languages[i] for i in often), OTHER])


def lengths(sample: Sample) -> dict[str, Any] | None:
    """Counts of lengths in the corpus and in the selection, by bins; None where examples have no length."""
    if sample.unit is None:
        return None
    known = sample.length >= 0
    length, kept = np.maximum(sample.length[known], 1), sample.kept[known]
    if not len(length):
        return None
    high = max(int(length.max()), int(length.min()) + 1)
    edges = np.geomspace(length.min(), high, BINS + 1)
    # The ends are the least and the greatest length themselves, not what rounding makes of them.
    edges[0], edges[-1] = length.min(), high
    found: dict[str, Any] = {"unit": sample.unit, "edges": edges.tolist()}
    for name, own in (("corpus", length), ("selected", length[kept])):
        found[name] = np.histogram(own, edges)[0].tolist()
        found[f"{name}_median"] = float(np.median(own)) if len(own) else None
    return found
