"""What every valuation method reads, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from raydelt.errors import InputError
from raydelt.scorers.protocol import Array


@dataclass(frozen=True)
class Problem:
    """A training set to value, and a validation set that says what is good.

    `x` [n, d] and `val_x` [J, d] are features (raw standardised ones, or embeddings); `y` [n] and `val_y` [J] are
    classes 0..`classes`-1, or where `classes` is None targets [n] or [n, k] of a regression.

    Raises:
        InputError: a side is empty, features are no matrix, widths or lengths differ, a number is not finite, or a
            class is no whole number or out of range.
    """

    x: Array
    y: Array
    val_x: Array
    val_y: Array
    classes: int | None = None

    def __post_init__(self) -> None:
        for name, x, y in (("training", self.x, self.y), ("validation", self.val_x, self.val_y)):
            if len(x) == 0:
                raise InputError(f"the {name} set is empty: valuation needs examples on both sides")
            if np.ndim(x) < 2:
                raise InputError(f"the {name} set has features of shape {list(np.shape(x))}: give one row per example")
            if len(x) != len(y):
                raise InputError(f"the {name} set has {len(x)} rows of features and {len(y)} labels: give as many")
            if not (np.isfinite(x).all() and np.isfinite(y).all()):
                raise InputError(f"the {name} set holds values that are not finite: drop or repair those rows")
            known = self.classes is None or (y >= 0) & (y < self.classes) & (y % 1 == 0)
            if not np.all(known):
                raise InputError(
                    f"the {name} set holds class {y[np.argmin(known)]:g}, and there are {self.classes} classes: "
                    "give whole numbers from 0 on"
                )
        if self.x.shape[1:] != self.val_x.shape[1:]:
            raise InputError(
                f"training features have width {self.x.shape[1]}, validation features {self.val_x.shape[1]}: "
                "give both the same features"
            )
        if self.classes is None and self.targets.shape[1] != self.val_y.reshape(len(self.val_y), -1).shape[1]:
            raise InputError(
                f"training targets have shape {list(self.y.shape)}, validation targets {list(self.val_y.shape)}: "
                "give both the same targets"
            )

    @cached_property
    def targets(self) -> Array:
        """The targets of a regression [n, k] as float64."""
        return np.asarray(self.y, np.float64).reshape(len(self.y), -1)


@dataclass(frozen=True)
class Values:
    """Values [n], higher is better, in the order of the training set; standard errors [n] where a method has them."""

    values: Array
    errors: Array | None = None
