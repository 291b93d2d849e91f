"""The one wrapper over Ray: connecting, parallel tasks, actor pools, a shuffle, and progress.

Work items are published files (`parts`) whose boundaries depend on the data alone, so results do not depend on how
many tasks, actors or nodes there are. Arrow tables travel through the object store, which spills to disk; the driver
sees counts and file names only.
"""

from raydelt.cluster.connect import connected, session
from raydelt.cluster.failures import plain_errors
from raydelt.cluster.holders import Reduce, passes
from raydelt.cluster.pool import actor_map
from raydelt.cluster.progress import remote_progress
from raydelt.cluster.resources import capacity, cpus, places, require, require_places, wait_for_free
from raydelt.cluster.shuffles import reduce_parts, regroup, shuffle
from raydelt.cluster.tasks import cancelled, fetched, parallel, scatter, shared

__all__ = [
    "Reduce",
    "actor_map",
    "cancelled",
    "capacity",
    "connected",
    "cpus",
    "fetched",
    "parallel",
    "passes",
    "places",
    "plain_errors",
    "reduce_parts",
    "regroup",
    "remote_progress",
    "require",
    "require_places",
    "scatter",
    "session",
    "shared",
    "shuffle",
    "wait_for_free",
]
