"""raydelt: score training data on Ray, rank it, select and order the best part, train on it, and see if it helped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raydelt.ask.run import Run as Run
    from raydelt.ask.score import score as score

__version__ = "0.1.0"
__all__ = ["Run", "__version__", "score"]


def __getattr__(name: str) -> Any:
    """`Run` and `score`, imported when they are first asked for: importing raydelt itself costs nothing."""
    if name == "Run":
        from raydelt.ask.run import Run

        return Run
    if name == "score":
        from raydelt.ask.score import score

        return score
    raise AttributeError(f"module 'raydelt' has no attribute {name!r}")
