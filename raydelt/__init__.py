"""raydelt: score training data on Ray, rank it, select and order the best part, train on it, and see if it helped."""

from __future__ import annotations

__version__ = "0.1.0"
