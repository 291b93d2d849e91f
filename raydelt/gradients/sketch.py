"""A seeded random projection of gradients to k dimensions that keeps inner products in expectation.

Every coordinate j goes to bucket h(j) with sign s(j) (count sketch). For the coordinates (r, c) of a matrix, h = h1(r)
+ h2(c) mod k and s = s1(r) s2(c), so the sketch of an outer product is the circular convolution of two small sketches:

    sketch(p (x) q) = ifft(fft(sketch1(p)) fft(sketch2(q)))

and a layer's sketch is one inverse transform of a sum over positions: O(T (a + b + k log k)) time, and memory for
hashes of a + b, not a b. Parameters have hashes of their own and their sketches add up, so the result is the sketch of
the whole gradient. E<Sx, Sy> = <x, y> with a variance of O(|x|^2 |y|^2 / k). Source: Pham and Pagh 2013.

Caution: its guarantee is on the variance (Chebyshev), weaker in the tails than a dense Gaussian matrix of the same k.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
import xxhash
from torch import Tensor

CHUNK_BYTES = 64 << 20


@dataclass
class Sketch:
    """A projection to k dimensions, the same for the same seed, parameter names and shapes."""

    k: int
    seed: int = 0
    _hashes: dict[tuple[str, int, torch.device], tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"a sketch needs at least one dimension, not {self.k}")

    def outer(self, p: Tensor, q: Tensor, name: str) -> Tensor:
        """Sketches [n, k] of sum_t p_t (x) q_t for p [n, T, a], q [n, T, b]."""
        step = max(1, CHUNK_BYTES // (16 * self.k * p.shape[1]))
        result = [self._outer(p[i : i + step], q[i : i + step], name) for i in range(0, len(p), step)]
        return torch.cat(result) if result else p.new_zeros(0, self.k)

    def rows(self, ids: Tensor, q: Tensor, count: int, name: str) -> Tensor:
        """Sketches [n, k] of sum_t onehot(ids_t) (x) q_t for ids [n, T] below `count`, q [n, T, b]."""
        left, left_sign = self._side(f"{name}/0", count, q.device)
        right, right_sign = self._side(f"{name}/1", q.shape[2], q.device)
        buckets = (left[ids][:, :, None] + right) % self.k
        values = q * right_sign.to(q.dtype) * left_sign.to(q.dtype)[ids][:, :, None]
        return q.new_zeros(len(ids), self.k).scatter_add_(1, buckets.flatten(1), values.flatten(1))

    def dense(self, value: Tensor, name: str) -> Tensor:
        """Sketches [n, k] of gradients [n, *shape]; a matrix gets the hashes that its outer products would get."""
        shape = value.shape[1:]
        if len(shape) < 2:
            buckets, signs = self._side(f"{name}/0", int(np.prod(shape, dtype=int)), value.device)
        else:
            left, left_sign = self._side(f"{name}/0", shape[0], value.device)
            right, right_sign = self._side(f"{name}/1", int(np.prod(shape[1:])), value.device)
            buckets = ((left[:, None] + right) % self.k).flatten()
            signs = (left_sign[:, None] * right_sign).flatten()
        flat = value.reshape(len(value), -1) * signs.to(value.dtype)
        return value.new_zeros(len(value), self.k).index_add_(1, buckets, flat)

    def _outer(self, p: Tensor, q: Tensor, name: str) -> Tensor:
        left = torch.fft.rfft(self._counted(p, f"{name}/0"), n=self.k)
        right = torch.fft.rfft(self._counted(q, f"{name}/1"), n=self.k)
        convolved: Tensor = torch.fft.irfft((left * right).sum(1), n=self.k)
        return convolved

    def _counted(self, x: Tensor, side: str) -> Tensor:
        buckets, signs = self._side(side, x.shape[2], x.device)
        return x.new_zeros(*x.shape[:2], self.k).index_add_(2, buckets, x * signs.to(x.dtype))

    def _side(self, name: str, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Buckets [size] int64 and signs [size] of +-1, drawn from (seed, name)."""
        key = (name, size, device)
        if key not in self._hashes:
            stream = xxhash.xxh3_64_intdigest(repr((self.seed, "sketch", name)).encode())
            draws = np.random.Generator(np.random.Philox(key=stream)).integers(0, 2**63, size, dtype=np.int64)
            buckets = torch.from_numpy((draws >> 1) % self.k).to(device)
            signs = torch.from_numpy(1 - 2 * (draws & 1)).to(device)
            self._hashes[key] = (buckets, signs)
        return self._hashes[key]
