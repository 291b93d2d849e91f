"""The select stage: mark the kept examples in the ranking, and give each its place in the training order.

The budget becomes a cut (`raydelt.select.decision`); where the ranking holds kept examples alone, the cut that was
taken before it stands. Then one pass writes, file by file as the ranking has them. Memory of a task: one file.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from raydelt import cluster
from raydelt.config import Order, Select
from raydelt.examples import EXAMPLE_ID, SELECTION_SCHEMA, column_of
from raydelt.order.orders import positions
from raydelt.rank.cuts import groups_of
from raydelt.rank.noise import NoiseSums, errors_of, noise_of
from raydelt.scorers.protocol import Array
from raydelt.select.decision import Decision, decide, source_of, stood_by
from raydelt.select.resting import weights_of
from raydelt.storage import Manifest, Part, Stage, Store


def select_examples(
    select: Select,
    order: Order,
    ranking: Manifest,
    classes: list[str],
    stage: Stage,
    *,
    seed: int,
    planned: Mapping[str, Any] | None = None,
    resting: Manifest | None = None,
) -> Manifest:
    """Publish the selection in rank order, each example with its position in the training order.

    `planned` says which plan the ratio comes from. Those who stand for others that are `resting` weigh more.

    Raises:
        SpecError: the budget cannot be met (top_k above n, quotas above k) or keeps nothing.
    """
    files = [part.file for part in ranking.parts]
    if "decision" in ranking.facts:
        decision = stood_by(select, ranking.facts["decision"], [part.rows for part in ranking.parts], seed=seed)
    else:
        source = source_of(select, files, functools.partial(_read, stage.run), len(classes))
        decision = decide(select, source, seed=seed)
    below, whole = np.cumsum([0, *decision.counts]), "decision" not in ranking.facts
    rests = resting.parts[0].file if resting is not None else None
    writes = [(stage, decision, order, seed, i, file, int(below[i]), rests) for i, file in enumerate(files)]
    written = cluster.parallel(_write, writes, label="select: write")
    facts: dict[str, Any] = {
        "kept": decision.rows,
        "of": ranking.facts["rows"],
        "below_gate": sum(entry[1] for entry in written),
        "cut_score": min((entry[2] for entry in written if entry[2] is not None), default=None),
        "noise": _told(functools.reduce(NoiseSums.merge, (entry[3] for entry in written)), whole=whole),
    }
    if planned is not None:
        facts["plan"] = dict(planned)
    if resting is not None:
        facts["left_out"] = {"retired": resting.facts["retired"]}
    return stage.publish([entry[0] for entry in written], facts)


def _read(run: Store, file: str, columns: Sequence[str]) -> pa.Table:
    return run.read_table(file, columns)


def _write(
    stage: Stage, decision: Decision, order: Order, seed: int, index: int, file: str, below: int, rests: str | None
) -> tuple[Part, int, float | None, NoiseSums]:
    """The kept rows of one file of the ranking; how many are below the gate, the lowest score of the others, noise."""
    ranking = stage.run.read_table(file)
    mask = decision.mask(ranking)
    chosen = ranking.filter(pa.array(mask))
    within = np.arange(below, below + chosen.num_rows, dtype=np.int64)
    gates = column_of(chosen, "gate").astype(bool)
    # Reasons by (group, gate), looked up rather than written row by row.
    reasons = [decision.reason(group, ok) for group in range(len(decision.per_group)) for ok in (False, True)]
    groups = groups_of(chosen, decision.group)
    probability, weight = decision.importance(chosen)
    if rests is not None:
        weight = weight * weights_of(stage.run, rests, chosen[EXAMPLE_ID])
    table = pa.table(
        [
            chosen[EXAMPLE_ID],
            chosen["rank"],
            pa.array(positions(within, decision.rows, order, seed=seed)),
            pa.array(weight),
            pa.array(probability, mask=np.isnan(probability)),
            pa.array(reasons, pa.string()).take(pa.array(2 * groups + gates)),
            chosen["part"],
            chosen["part_row"],
        ],
        schema=SELECTION_SCHEMA,
    )
    passing = column_of(chosen, "score")[gates]
    lowest = float(passing.min()) if len(passing) else None
    part = stage.run.write_table(stage.file("part", index), table)
    return part, int(np.count_nonzero(~gates)), lowest, _noise(decision, ranking, mask)


def _noise(decision: Decision, ranking: pa.Table, mask: Array) -> NoiseSums:
    """How many rows of the ranking their own errors could carry over the cut."""
    cut = decision.cut_scores(ranking)
    if cut is None:
        return NoiseSums()
    return noise_of(column_of(ranking, "score"), errors_of(ranking), mask, cut, gate=~np.isnan(cut))


def _told(sums: NoiseSums, *, whole: bool) -> dict[str, Any] | None:
    """The noise as plain data; what is left is not known where the ranking is not `whole`."""
    found = sums.finish()
    if found is None:
        return None
    return asdict(found) | ({} if whole else {"undecided_left": None, "expected_missed": None})
