"""Has the pool come to differ from what was labelled? Adversarial validation of the two, on samples of both.

Cost: that of adversarial validation on at most 20,000 examples of either; both are read by one task each. What a
verdict means and the sources are told there.

Caution: what a strategy asked for differs from the pool by design, so a warning is common and only an alarm counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from raydelt import cluster
from raydelt.active.adversarial import adversarial_validation
from raydelt.active.choice import first_rows
from raydelt.active.two_sets import LEAST_ROWS
from raydelt.examples import FEATURES, GROUP_KEY, UInt64Array, column_of, features_of
from raydelt.scorers.protocol import Array
from raydelt.storage import Manifest, Part, Store

COMPARED = 20_000


def pool_drift(run: Store, corpus: Manifest, *, seed: int) -> dict[str, Any] | None:
    """What adversarial validation says of the labelled examples and the pool; None where either has too few."""
    sides = [corpus.parts, corpus.sides.get("pool", [])]
    if min(sum(part.rows for part in parts) for parts in sides) < LEAST_ROWS:
        return None
    calls = [(run, parts) for parts in sides]
    (a, a_keys), (b, b_keys) = cluster.parallel(_compared, calls, label="label: compared")
    found = adversarial_validation(a, b, a_keys, b_keys, seed=seed)
    told = {name: getattr(found, name) for name in ("auc", "low", "high", "p_value", "verdict", "ess")}
    return told | {"features": found.features}


def _compared(run: Store, parts: Sequence[Part]) -> tuple[Array, UInt64Array]:
    table = first_rows(run, parts, [FEATURES, GROUP_KEY], COMPARED)
    return features_of(table), column_of(table, GROUP_KEY).astype(np.uint64)
