"""Per-example gradients without materialising them: norms, dot products and sketches from one backward pass."""

from raydelt.gradients.per_example import GradientBatch, PerExampleGradients
from raydelt.gradients.selection import Selection, select
from raydelt.gradients.sketch import Sketch

__all__ = ["GradientBatch", "PerExampleGradients", "Selection", "Sketch", "select"]
