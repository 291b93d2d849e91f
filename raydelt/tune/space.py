"""What a search may change, and what a point of it makes of a spec. Pure functions.

A point is a value for every setting that is searched: `weights.COMPONENT`, `gate`, `folds`, `ratio`, `layers`. What
`auto` searches follows from the spec:

    weights   0 ... 1 for the first column of every scorer, and whatever the spec weighs (only ratios of them matter)
    gate      none, 0.25, 0.5, 0.75 and the spec's own bar
    folds     the spec's own and twice as many, where proxies are cross-fitted: each costs one more scoring
    ratio     0.05 ... 1, where the selection keeps a ratio
    layers    1, 2, 3, 5, 8 and the spec's own, where the order has layers

Caution: the larger the space, the more of what a winner seems to gain is luck; only the verdict on the test split
says what is left of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from raydelt.config import ORDER_DEFAULTS, Axis, Gate, Range, RunConfig
from raydelt.errors import SpecError
from raydelt.specfile import validate

Point = Mapping[str, Any]
GATES = (0.25, 0.5, 0.75)
LAYERS = (1, 2, 3, 5, 8)
LEAST_RATIO = 0.05
WHOLE = ("folds", "layers")


@dataclass(frozen=True)
class Space:
    """The settings that are searched, those that have one value throughout, and the spec's own point."""

    axes: dict[str, BaseDistribution]
    fixed: dict[str, Any]
    own: dict[str, Any]

    def told(self) -> dict[str, str]:
        """The axes as plain data."""
        return {name: distribution_to_json(axis) for name, axis in self.axes.items()}


def space_of(config: RunConfig) -> Space:
    """The space of a spec.

    Raises:
        SpecError: a setting that this spec has no use for, or nothing to search.
    """
    own = _own(config)
    asked = {name: _asked(config, name, own) for name in ("gate", "folds", "ratio", "layers")}
    found = _weights(config, own) | {name: axis for name, axis in asked.items() if axis != "own"}
    built = {name: _distribution(axis, whole=name in WHOLE) for name, axis in found.items()}
    axes = {name: axis for name, axis in built.items() if not axis.single()}
    fixed = {name: _only(axis) for name, axis in built.items() if axis.single()}
    if not axes:
        raise SpecError("tune has nothing to search: every setting is fixed; give one a list or a range")
    _check_weights(config, axes, fixed)
    return Space(axes, fixed, {name: own[name] for name in (*axes, *fixed)})


def tidy(space: Space, point: Point) -> dict[str, Any]:
    """A point with five significant digits in place of sixteen, still within the space."""
    found = dict(point)
    for name, axis in space.axes.items():
        if isinstance(axis, FloatDistribution):
            digits = 5 if axis.step is None else 12
            found[name] = min(max(float(f"{point[name]:.{digits}g}"), axis.low), axis.high)
    return found


def candidate(config: RunConfig, point: Point) -> RunConfig:
    """The spec with the settings of a point.

    Raises:
        SpecError: the settings do not go together, such as weights that are all 0.
    """
    return validate(_merged(config.resolved(), fragment(config, point)), origin="trial")


def fragment(config: RunConfig, point: Point) -> dict[str, Any]:
    """The sections of a spec that a point sets."""
    rank: dict[str, Any] = {}
    weights = {name.partition(".")[2]: value for name, value in point.items() if name.startswith("weights.")}
    combine: dict[str, Any] = {"weights": config.rank.combine.weights | weights} if weights else {}
    if "gate" in point:
        bar = point["gate"]
        combine["gate"] = None if bar is None else {"component": _gate(config).component, "at_least": bar}
    if combine:
        rank["combine"] = combine
    if "folds" in point:
        rank["folds"] = int(point["folds"])
    found: dict[str, Any] = {"rank": rank} if rank else {}
    if "ratio" in point:
        found["select"] = {"value": point["ratio"]}
    if "layers" in point:
        found["order"] = {"layers": int(point["layers"])}
    return found


def overrides(sections: Mapping[str, Any], *, under: str = "") -> list[str]:
    """Nested sections as `section.field=value`, as the command line takes them."""
    found = []
    for name, value in sections.items():
        if isinstance(value, Mapping):
            found += overrides(value, under=f"{under}{name}.")
        else:
            found.append(f"{under}{name}={yaml.safe_dump(value).splitlines()[0]}")
    return found


def _own(config: RunConfig) -> dict[str, Any]:
    """Where the spec itself lies."""
    combine, weights = config.rank.combine, config.rank.combine.weights
    columns = [column for spec in config.score for column in spec.build().columns]
    return {
        **{f"weights.{name}": weights.get(name, 0.0) for name in columns},
        "gate": combine.gate.at_least if combine.gate else None,
        "folds": config.rank.folds,
        "ratio": config.select.value,
        "layers": config.order.layers,
    }


def _gate(config: RunConfig) -> Gate:
    return config.rank.combine.gate or Gate()


def _weights(config: RunConfig, own: Point) -> dict[str, Axis]:
    """The axes of the weights."""
    asked = config.tune.weights
    if asked == "own":
        return {}
    whole = Range(low=0.0, high=max(1.0, *config.rank.combine.weights.values()))
    if asked == "auto":
        first = [spec.build().columns[0] for spec in config.score]
        names = dict.fromkeys([*first, *config.rank.combine.weights])
        # The weight of the only component changes nothing.
        return {f"weights.{name}": whole for name in names} if len(names) > 1 else {}
    known = {name.partition(".")[2] for name in own if name.startswith("weights.")}
    unknown = sorted(set(asked) - known)
    if unknown:
        raise SpecError(
            f"tune.weights.{unknown[0]}: no scorer of this spec gives the component {unknown[0]!r}: the scorers give "
            f"{', '.join(sorted(known))}"
        )
    full = {name: whole if axis == "auto" else axis for name, axis in asked.items()}
    return {f"weights.{name}": axis for name, axis in full.items() if axis != "own"}


def _asked(config: RunConfig, name: str, own: Point) -> Axis:
    """What is to be searched of a setting, `auto` filled in; refused where the spec has no use for it."""
    axis: Axis = getattr(config.tune, name)
    missing = _missing(config, name, own)
    if axis == "auto":
        return "own" if missing else _auto(name, own)
    if missing and axis != "own":
        raise SpecError(f"tune.{name} {missing}, or drop it")
    return axis


def _missing(config: RunConfig, name: str, own: Point) -> str | None:
    """Why this spec has no such setting, and the cure."""
    if name == "gate" and f"weights.{_gate(config).component}" not in own:
        return f"bars {_gate(config).component}, which no scorer of this spec gives: set rank.combine.gate.component"
    needs = {need for spec in config.score for need in spec.build().needs}
    fitted = config.rank.method == "folding_sort" and needs & {"classifier", "gradients"}
    if name == "folds" and not fitted:
        return "is for proxies, and this spec has none: set rank.method to folding_sort with a scorer that needs them"
    if name == "ratio" and config.select.method != "ratio":
        return f"is the share that is kept, and select.method is {config.select.method}: set it to ratio"
    if name == "layers" and "layers" not in ORDER_DEFAULTS.get(config.order.method, {}):
        return f"is not for order.method {config.order.method}: take folding, zigzag, stair or saw"
    return None


def _auto(name: str, own: Point) -> Axis:
    value = own[name]
    if name == "gate":
        return [None, *sorted({*GATES, *([value] if value is not None else [])})]
    if name == "ratio":
        return Range(low=min(LEAST_RATIO, value), high=1.0)
    return [value, 2 * value] if name == "folds" else [float(n) for n in sorted({*LAYERS, value})]


def _distribution(axis: Axis, *, whole: bool) -> BaseDistribution:
    """An axis as Optuna has it."""
    if isinstance(axis, Range):
        if whole:
            return IntDistribution(int(axis.low), int(axis.high), log=axis.log, step=int(axis.step or 1))
        return FloatDistribution(axis.low, axis.high, log=axis.log, step=axis.step)
    values: Sequence[Any] = axis if isinstance(axis, list) else [axis]
    return CategoricalDistribution([int(v) if whole and v is not None else v for v in values])


def _only(axis: BaseDistribution) -> Any:
    """The value of an axis that has one."""
    if isinstance(axis, FloatDistribution | IntDistribution):
        return axis.low
    assert isinstance(axis, CategoricalDistribution)
    return axis.choices[0]


def _check_weights(config: RunConfig, axes: Mapping[str, BaseDistribution], fixed: Point) -> None:
    """Refuse weights that are 0 at every point."""
    searched = {**axes, **fixed}
    stay = [weight for name, weight in config.rank.combine.weights.items() if f"weights.{name}" not in searched]
    named = [value for name, value in fixed.items() if name.startswith("weights.")]
    if not any(name.startswith("weights.") for name in axes) and sum(stay) + sum(named) == 0:
        raise SpecError("tune.weights are all 0, which ranks nothing: give one a value above 0")


def _merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """The base with the change laid over it, section by section."""
    found = dict(base)
    for name, value in change.items():
        both = isinstance(value, Mapping) and isinstance(found.get(name), Mapping)
        found[name] = _merged(found[name], value) if both else value
    return found
