"""Folding and zigzag: passes from low to high ranks, each over every L-th of them, in closed form.

With n examples, L layers, (q, m) = divmod(n, L), rank r, layer l = r mod L and step i = floor(r / L):

    size(l) = q + [l < m],    start(l) = sum_{j<l} size(j) = l q + min(l, m)
    folding:  position = start(l) + i
    zigzag:   position = start(l) + i              in even layers
              position = start(l) + size(l) - 1 - i   in odd layers, which run from high to low

Folding is the order of DELT (arXiv 2506.21545), zigzag that of arXiv 2605.30334. Cost: O(1) per rank; n and L may
differ from rank to rank. One layer is the sort, and so are n layers.

Caution: with more than n layers the last ones are empty, which callers refuse where a user asked for them.
"""

from __future__ import annotations

import numpy as np

from raydelt.order.permutation import Positions

Size = int | Positions


def folding(ranks: Positions, n: Size, layers: Size, *, zigzag: bool = False) -> Positions:
    """Positions [k] of the ranks [k] in 0..n-1, folded in layers; n and layers are numbers or one [k] per rank."""
    step, layer = np.divmod(ranks, layers)
    start, size = _span(layer, n, layers)
    result: Positions = start + (_turned(step, size, layer) if zigzag else step)
    return result


def unfolding(positions: Positions, n: Size, layers: Size, *, zigzag: bool = False) -> Positions:
    """The ranks [k] that `folding` puts at the positions [k]."""
    size, longer = np.divmod(n, layers)
    in_longer = longer * (size + 1)
    # More layers than examples make the shorter layers empty: no position lies there.
    layer = np.where(
        positions < in_longer, positions // (size + 1), longer + (positions - in_longer) // np.maximum(size, 1)
    )
    start, size = _span(layer, n, layers)
    step = positions - start
    result: Positions = (_turned(step, size, layer) if zigzag else step) * layers + layer
    return result


def _span(layer: Positions, n: Size, layers: Size) -> tuple[Positions, Positions]:
    """Where each layer starts, and how many examples it has."""
    size, longer = np.divmod(n, layers)
    return layer * size + np.minimum(layer, longer), size + (layer < longer)


def _turned(step: Positions, size: Positions, layer: Positions) -> Positions:
    turned: Positions = np.where(layer % 2 == 1, size - 1 - step, step)
    return turned
