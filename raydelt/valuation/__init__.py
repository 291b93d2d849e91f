"""What every training example is worth, and the losses that learn it; torch is imported with the first of these."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raydelt.valuation.losses import lossval_cross_entropy, lossval_mse

__all__ = ["lossval_cross_entropy", "lossval_mse"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"raydelt.valuation has no {name}: there are {', '.join(__all__)}")
    from raydelt.valuation import losses

    return getattr(losses, name)
