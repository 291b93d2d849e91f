"""What annotation will cost, from seconds that the trajectory stage measured on its own machine.

    seconds = examples x visited steps x trajectories x seconds of one / actors

Caution: actors that share cores with others take longer.
"""

from __future__ import annotations

import logging

from raydelt import cluster
from raydelt.config import RunConfig
from raydelt.storage import Manifest

log = logging.getLogger(__name__)


def tell_estimate(config: RunConfig, walked: Manifest, examples: int) -> float:
    """Log how long the annotation of so many examples will take; the seconds."""
    facts, actors = walked.facts, config.cluster.actors
    passes = examples * len(facts["visits"]) * facts["trajectories"]
    pool = min(actors.max or cluster.cpus(), cluster.cpus())
    seconds: float = passes * facts["seconds_per_visit"] / max(1, pool)
    log.info(
        "lqs: %d examples x %d visited steps x %d trajectories, %.3g ms each: about %s on %d actors",
        examples,
        len(facts["visits"]),
        facts["trajectories"],
        1000 * facts["seconds_per_visit"],
        f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s",
        pool,
    )
    return seconds
