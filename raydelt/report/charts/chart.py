"""One chart: drawn once, shown inline in the page, as a stand-alone SVG, and as a PNG.

A chart carries marks: places that tell a value when the pointer or the arrow keys come to them. `along` says along
which axis the nearest mark is looked for. Cost: about 60 ms for the SVG and 60 ms for the PNG.
"""

from __future__ import annotations

import html
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from raydelt.report.svg import ROLES, alone, inline, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Mark = tuple[float, float, str]
PNG_DPI = 144
# As many marks as a pointer can tell apart along a chart of this width.
MARKS = 240


@dataclass(frozen=True)
class Chart:
    """A figure with one pair of axes, the sentence or two that stand below it, and its marks in data coordinates."""

    name: str
    figure: Figure
    alt: str
    caption: str
    marks: Sequence[Mark] = ()
    along: Literal["x", "y", "both"] = "x"

    @cached_property
    def text(self) -> str:
        """The SVG as matplotlib writes it."""
        buffer = io.StringIO()
        with style():
            metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            self.figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
        return buffer.getvalue()

    @cached_property
    def svg(self) -> str:
        """The chart as an inline `<svg>` that takes the keyboard where it has marks."""
        return inline(self.text, name=self.name, alt=self.alt, extra=self._told())

    def alone(self) -> str:
        """The chart as a file of its own."""
        return alone(self.text, alt=self.alt)

    def png(self) -> bytes:
        """The chart as a picture on white."""
        buffer = io.BytesIO()
        with style():
            # The layout of the SVG stands; another one would cost as much again.
            _ = self.text
            self.figure.set_layout_engine("none")
            self.figure.savefig(
                buffer, format="png", dpi=PNG_DPI, facecolor=ROLES["paper"], metadata={"Software": None}
            )
        return buffer.getvalue()

    def _told(self) -> str:
        """The marks as attributes, in the coordinates of the SVG; call when it is drawn."""
        if not self.marks:
            return ""
        _ = self.text
        [ax], height = self.figure.axes, self.figure.bbox.height
        places = ax.transData.transform([(x, y) for x, y, _ in self.marks])
        box = ax.get_window_extent()
        told: list[Any] = [
            [round(float(x), 1), round(float(height - y), 1), text]
            for (x, y), (_, _, text) in zip(places, self.marks, strict=True)
            if np.isfinite(x) and np.isfinite(y)
        ]
        if not told:
            return ""
        frame = [round(float(value), 1) for value in (box.x0, height - box.y1, box.x1, height - box.y0)]
        data = html.escape(json.dumps(told, ensure_ascii=False, allow_nan=False))
        return f' tabindex="0" data-along="{self.along}" data-frame="{json.dumps(frame)}" data-marks="{data}"'
