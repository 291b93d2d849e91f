"""The section `order`: in which order the kept examples are trained on."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from raydelt.config.section import Fraction, Positive, Section

ORDERS = Literal["folding", "zigzag", "segment", "stair", "saw", "sorted", "shuffled"]
# What the authors of each order use (DELT, arXiv 2506.21545; its successors, arXiv 2605.30334).
ORDER_DEFAULTS: dict[str, dict[str, float]] = {
    "folding": {"layers": 3},
    "zigzag": {"layers": 5},
    "segment": {"front": 0.1, "back": 0.1},
    "stair": {"layers": 3, "sections": 2, "reach": 0.225},
    "saw": {"layers": 2, "sections": 3, "reach": 0.075},
}


class Order(Section):
    """The order of the selected examples within an epoch; later epochs repeat it or reshuffle.

    `layers`, `sections` and `reach` are filled in with what the method's authors use, and refused where the method has
    no use for them.
    """

    method: ORDERS = "folding"
    layers: Positive | None = None
    sections: Annotated[int, Field(ge=2)] | None = None
    reach: Annotated[float, Field(gt=0, le=0.5)] | None = None
    front: Fraction | None = None
    back: Fraction | None = None
    window: Positive = 1
    descending: bool = False
    later_epochs: Literal["same", "shuffled"] = "shuffled"

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_method(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        method = raw.get("method", "folding")
        if method not in get_args(ORDERS):
            return raw  # the field itself tells what is wrong
        own = ORDER_DEFAULTS.get(method, {})
        for name in ("layers", "sections", "reach", "front", "back"):
            if raw.get(name) is not None and name not in own:
                users = ", ".join(method for method, names in ORDER_DEFAULTS.items() if name in names)
                raise ValueError(f"{name} is for {users}: drop it, or choose one of these methods")
        return raw | {name: value for name, value in own.items() if raw.get(name) is None}

    @model_validator(mode="after")
    def _segments_fit(self) -> Order:
        if (self.front or 0.0) + (self.back or 0.0) > 1:
            raise ValueError("front and back are more than everything: let them add up to at most 1")
        return self
