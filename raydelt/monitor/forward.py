"""Weights that decay with age, without ever rewriting a row.

    ln w_i(t) = ln w_i - ln 2 (t - t_i) / h = stored_i - ln 2 (t - T) / h,    stored_i = ln w_i + ln 2 (t_i - T) / h

T is a reference time: a row's stored log weight is written once, and at any later time all differ from it by one
number (forward decay). The order of the examples, and which k a weighted sample keeps (keys of `select/sampling.py`
plus that number), therefore never change until rows are added; a new row is drawn against the old ones with its own
stored weight. A new reference is a shift of all. Cost O(1) per row. Source: Cormode, Shkapenyuk, Srivastava, Xu 2009.

Caution: one half-life holds for all rows of a sample; rows that decay at different rates do change places.
"""

from __future__ import annotations

import math

import numpy as np

from raydelt.errors import InputError
from raydelt.scorers.protocol import Array

LOG_2 = math.log(2.0)


def stored(times: Array, *, reference: float, half_life: float, log_weights: Array | None = None) -> Array:
    """Log weights [n] to store for rows of these times [n]; a row without a time (NaN) counts as of the reference.

    Raises:
        InputError: the half-life is not above 0.
    """
    if not half_life > 0:
        raise InputError(f"half-life {half_life:g} must be above 0, in the unit of the times")
    ages = np.nan_to_num(reference - np.asarray(times, np.float64), nan=0.0)
    found: Array = (0.0 if log_weights is None else np.asarray(log_weights)) - LOG_2 * ages / half_life
    return found


def at(stored: Array, time: float, *, reference: float, half_life: float) -> Array:
    """Log weights [n] at a time, from those stored for the reference."""
    found: Array = np.asarray(stored, np.float64) - LOG_2 * (time - reference) / half_life
    return found


def rebased(stored: Array, *, reference: float, new: float, half_life: float) -> Array:
    """Log weights [n] to store for another reference: the same weights at every time."""
    return at(stored, new, reference=reference, half_life=half_life)


def effective_size(log_weights: Array) -> float:
    """(sum w)^2 / sum w^2 of log weights [n], which no common shift changes; 0 without rows."""
    if not len(log_weights):
        return 0.0
    w = np.exp(np.asarray(log_weights) - np.max(log_weights))
    return float(w.sum() ** 2 / np.square(w).sum())
