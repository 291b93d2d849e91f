"""Per-example gradients without materialising them: norms, dot products and sketches from one backward pass."""

from raydelt.gradients.answer import GradientBatch
from raydelt.gradients.per_example import PerExampleGradients
from raydelt.gradients.selection import Selection, select
from raydelt.gradients.sketch import Sketch

__all__ = ["GradientBatch", "PerExampleGradients", "Selection", "Sketch", "select"]
