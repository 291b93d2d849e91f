"""What a training really fed to its model, as a hash chain, and the certificate that it ends with.

Every example has a mark m, 128 bits of its id. At sequence place t it counts as h(m, t), a mixture of both; a step's
digest is the sum over its global batch, and the digests form a chain:

    d_s = sum_{t in [s B, (s + 1) B)} h(m_t, t)  mod 2^64, twice        head_{s+1} = SHA-256(head_s | s | d_s)

Sums do not depend on how many workers share a batch, yet two examples that change places change them. Workers add up
what they fed, and the sums meet when a checkpoint is written, so a step pays for no message of its own.
Cost: O(1) per example, 16 bytes per step. Caution: it proves the absence of accidents, not of malice: a sum of 128
bits can be forged by who sets out to.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import xxhash

from raydelt.examples import mix
from raydelt.scorers.protocol import Array

FILE = "order-certificate.json"


def marks_of(ids: Iterable[str]) -> Array:
    """Marks [n, 2] uint64 of example ids."""
    digests = b"".join(xxhash.xxh3_128_digest(str(example_id).encode()) for example_id in ids)
    return np.frombuffer(digests, np.uint64).reshape(-1, 2)


def fed(marks: Array, places: Array) -> Array:
    """The sum [2] uint64 of what examples with these marks [n, 2] count as at their sequence places [n]."""
    places = places.astype(np.uint64)
    with np.errstate(over="ignore"):
        both = [mix(marks[:, half] ^ mix(places, half, "place"), half, "fed").sum(dtype=np.uint64) for half in (0, 1)]
    return np.asarray(both, np.uint64)


def start_of_chain(plan: str) -> str:
    """The head before the first step: it names the plan."""
    return hashlib.sha256(plan.encode()).hexdigest()


def extended(head: str, digests: Array, first: int) -> str:
    """The head after further steps with these digests [k, 2], the first of which is step `first`."""
    for step, digest in enumerate(digests, first):
        head = hashlib.sha256(bytes.fromhex(head) + step.to_bytes(8, "big") + digest.tobytes()).hexdigest()
    return head


@dataclass(frozen=True)
class Chain:
    """What one training fed: the plan that it followed, its steps, the chain's head, and (step, head) at checkpoints.

    `file` holds the digests of all steps.
    """

    arm: str
    seed: int
    plan: str
    order: str
    batch_size: int
    steps: int
    head: str
    checkpoints: list[tuple[int, str]]
    file: str


@dataclass(frozen=True)
class Certificate:
    """The chains of all trainings of a run, and the fingerprints of the spec and the order that they followed."""

    spec: str
    order: str
    chains: list[Chain]

    def dump(self) -> bytes:
        return (json.dumps(asdict(self), indent=2) + "\n").encode()


def load(raw: dict[str, Any]) -> Certificate:
    """A certificate from its JSON."""
    chains = [Chain(**{**chain, "checkpoints": [tuple(c) for c in chain["checkpoints"]]}) for chain in raw["chains"]]
    return Certificate(raw["spec"], raw["order"], chains)


def first_difference(planned: Array, fed_digests: Array) -> int | None:
    """The first step [0, …) at which two sequences of digests [k, 2] differ, a missing step included; None if none."""
    common = min(len(planned), len(fed_digests))
    different = np.flatnonzero((planned[:common] != fed_digests[:common]).any(axis=1))
    if len(different):
        return int(different[0])
    return common if len(planned) != len(fed_digests) else None


def checkpoint_heads(plan: str, digests: Array, steps: Sequence[int]) -> list[tuple[int, str]]:
    """The heads after these ascending numbers of steps."""
    head, done, found = start_of_chain(plan), 0, []
    for step in steps:
        head, done = extended(head, digests[done:step], done), step
        found.append((step, head))
    return found
