"""Seeded variants of feature vectors: noise, masking, image shifts; pure functions of (seed, k, example).

    noise:  x + strength * scale * N(0, 1)             scale = the feature's standard deviation over the corpus
    mask:   each feature set to 0 with probability strength
    shift:  the image moved by up to `strength` pixels, never by none, edges filled with 0

Cost: O(K width) per example. Caution: an augmentation that never changes the prediction makes consistency 0 or 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.special import ndtri

from raydelt.errors import SpecError
from raydelt.examples import UInt64Array, mix, uniform
from raydelt.scorers.protocol import Array


class Augmentation(Protocol):
    """One way of changing features a little."""

    def check(self, input_shape: tuple[int, ...], strength: float) -> None: ...
    def apply(self, x: Array, keys: UInt64Array, strength: float, seed: int, k: int, scale: Array) -> Array: ...


@dataclass(frozen=True)
class Noise:
    """Gaussian noise in units of each feature's spread."""

    def check(self, input_shape: tuple[int, ...], strength: float) -> None:
        return None

    def apply(self, x: Array, keys: UInt64Array, strength: float, seed: int, k: int, scale: Array) -> Array:
        flat = x.reshape(len(x), -1)
        normal = ndtri(_grid(keys, flat.shape[1], seed, "noise", k))
        changed: Array = (flat + strength * scale.reshape(1, -1) * normal).reshape(x.shape).astype(np.float32)
        return changed


@dataclass(frozen=True)
class Mask:
    """Features set to zero at random."""

    def check(self, input_shape: tuple[int, ...], strength: float) -> None:
        if strength >= 1:
            raise SpecError(f"score.consistency.strength {strength} masks every feature: use a share below 1")

    def apply(self, x: Array, keys: UInt64Array, strength: float, seed: int, k: int, scale: Array) -> Array:
        flat = x.reshape(len(x), -1)
        keep = _grid(keys, flat.shape[1], seed, "mask", k) >= strength
        changed: Array = (flat * keep).reshape(x.shape).astype(np.float32)
        return changed


@dataclass(frozen=True)
class Shift:
    """Images [B, channels, height, width] moved by whole pixels."""

    def check(self, input_shape: tuple[int, ...], strength: float) -> None:
        if len(input_shape) != 3:
            raise SpecError(
                f"score.consistency.augment 'shift' needs images, but the features have shape {list(input_shape)}: "
                "use noise or mask"
            )
        if strength < 1 or strength != int(strength) or strength >= min(input_shape[1:]):
            raise SpecError(f"score.consistency.strength {strength} must be a whole number of pixels inside the image")

    def apply(self, x: Array, keys: UInt64Array, strength: float, seed: int, k: int, scale: Array) -> Array:
        reach = int(strength)
        moves = [(dy, dx) for dy in range(-reach, reach + 1) for dx in range(-reach, reach + 1) if (dy, dx) != (0, 0)]
        choice = (uniform(keys, seed, "shift", k) * len(moves)).astype(np.int64)
        height, width = x.shape[-2:]
        padded = np.pad(x, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
        changed = np.empty_like(x)
        for index, (dy, dx) in enumerate(moves):
            rows = np.flatnonzero(choice == index)
            top, left = reach - dy, reach - dx
            changed[rows] = padded[rows, :, top : top + height, left : left + width]
        return changed


AUGMENTATIONS: dict[str, Augmentation] = {"noise": Noise(), "mask": Mask(), "shift": Shift()}


def variants(
    x: Array,
    keys: UInt64Array,
    *,
    kind: str,
    count: int,
    strength: float,
    seed: int,
    scale: Array,
    input_shape: tuple[int, ...],
) -> Array:
    """K variants [B, K, width] of features [B, width] whose examples have draw keys [B]."""
    shaped = x.reshape(len(x), *input_shape)
    made = [AUGMENTATIONS[kind].apply(shaped, keys, strength, seed, k, scale) for k in range(count)]
    return np.stack([variant.reshape(len(x), -1) for variant in made], axis=1)


def _grid(keys: UInt64Array, width: int, seed: int, salt: str, k: int) -> Array:
    """Uniform draws [B, width]: one independent stream per (k, feature)."""
    streams = mix(np.arange(width, dtype=np.uint64), seed, salt, k)
    return uniform((keys[:, None] ^ streams[None, :]).reshape(-1), seed, salt, k, "grid").reshape(len(keys), width)
