"""Which examples of the pool a round asks for: typical ones while cold, later useful ones that differ.

    cold      the examples nearest to the centres of k-means||, as many as a batch has places
    iterate   committee -> the highest utilities -> a batch of different ones, or what the user's own function picks

Cost: while cold about thirty passes over the pool, later one. Memory: one part of the pool per task, and a shortlist.
The parts of a corpus are in the order of hashes, so the first rows of the first parts are a uniform sample.

Caution: a function of the user's own sees the shortlist of the highest margins, not the pool.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydelt.active.batch import Candidates, choose
from raydelt.active.centres import k_means_parallel, lloyd, nearest_examples
from raydelt.active.pool import (
    HIDDEN,
    PROBABILITIES,
    Pool,
    load_committee,
    probabilities,
    shortlisted,
    standardised_passes,
)
from raydelt.active.utilities import NAMES, Predictor, custom
from raydelt.config import RunConfig
from raydelt.examples import EXAMPLE_ID, FEATURES, features_of, matrix_of
from raydelt.scorers.protocol import Array
from raydelt.storage import Manifest, Part, Store

SEEN = 5_000
NEEDS_LABELLED = ("k_center", "typical")
CONTENT = ("source_file", "row")


def typical(config: RunConfig, pool: Pool, corpus: Manifest) -> list[str]:
    """The examples nearest to the centres of as many clusters as a batch has places."""
    passes = standardised_passes(pool, corpus.facts["width"])
    seeds = k_means_parallel(passes, config.label.batch, seed=config.seed)
    return nearest_examples(passes, lloyd(passes, seeds, iterations=20).centres)


def useful(config: RunConfig, pool: Pool, corpus: Manifest, committee: Manifest) -> list[str]:
    """The most useful examples, and of these different ones."""
    label = config.label
    own = label.utility not in NAMES
    size = label.batch * (label.shortlist if label.diversify or own else 1)
    found = shortlisted(pool, label.utility, config.model, corpus, committee, size, seed=config.seed)
    ids = found[EXAMPLE_ID].to_pylist()
    if own:
        rows = _by_users_function(config, pool, corpus, committee, ids)
    elif label.diversify is None:
        rows = np.arange(min(label.batch, len(ids)))
    else:
        h, p = (matrix_of(found, name) for name in (HIDDEN, PROBABILITIES))
        seen = _hidden_of_labelled(config, corpus, committee, pool.run) if label.diversify in NEEDS_LABELLED else None
        candidates = Candidates(np.array(ids, object), h, p, seen)
        rows = choose(label.diversify, candidates, label.batch, seed=config.seed)
    return [ids[row] for row in rows]


def first_rows(run: Store, parts: Sequence[Part], columns: Sequence[str], most: int) -> pa.Table:
    """At most so many rows of these parts, of which there is one at least: a uniform sample of all."""
    tables, left = [], most
    for part in parts:
        tables.append(run.read_table(part.file, columns).slice(0, left))
        left -= tables[-1].num_rows
        if left <= 0:
            break
    return pa.concat_tables(tables)


def content_of(run: Store, corpus: Manifest, ids: pa.Array) -> pa.Table:
    """What people need to see of these examples of the pool: the text where there is one, and where it came from."""
    columns = [EXAMPLE_ID, *(["text"] if corpus.facts["text"] else []), *CONTENT]
    found = [pa.table({EXAMPLE_ID: pa.array([], pa.string())})]
    for part in corpus.sides.get("pool", []) if len(ids) else []:
        table = run.read_table(part.file, columns)
        found.append(table.filter(pc.is_in(table[EXAMPLE_ID], value_set=ids)))
    own = pa.concat_tables(found, promote_options="default")
    return own.take(pc.drop_null(pc.index_in(ids, value_set=own[EXAMPLE_ID].combine_chunks()))).select(
        [EXAMPLE_ID, *(name for name in columns[1:] if name in own.column_names)]
    )


def _by_users_function(
    config: RunConfig, pool: Pool, corpus: Manifest, committee: Manifest, ids: Sequence[str]
) -> Array:
    """Rows of the shortlist that the user's own function picks, which looks at their features."""
    members = load_committee(pool.run, config.model, corpus.facts, committee.sides["models"])
    wanted = pa.array(ids, pa.string())
    tables = [pool.part(index, [EXAMPLE_ID, FEATURES]) for index in range(len(pool.files))]
    table = pa.concat_tables([own.filter(pc.is_in(own[EXAMPLE_ID], value_set=wanted)) for own in tables])
    table = table.take(pc.index_in(wanted, value_set=table[EXAMPLE_ID].combine_chunks())).combine_chunks()
    predictor = Predictor(lambda x: probabilities(members, x), len(members), len(corpus.facts["classes"]))
    return custom(config.label.utility)(predictor, features_of(table), config.label.batch)


def _hidden_of_labelled(config: RunConfig, corpus: Manifest, committee: Manifest, run: Store) -> Array:
    """Features of the first member [l, h] of labelled examples; of a uniform sample where there are many."""
    first = load_committee(run, config.model, corpus.facts, committee.sides["models"][:1])[0]
    hidden: Array = first.predict(features_of(first_rows(run, corpus.parts, [FEATURES], SEEN)), features=True)
    return hidden
