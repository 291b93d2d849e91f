"""Charts as inline SVG: text stays text, colours follow the page's theme, the same chart gives the same bytes.

Charts are drawn in the colours of `ROLES`; here each becomes the page's variable of that name, so that one chart reads
in light and dark and in print. Ids get the chart's name as a prefix (a page holds many charts) or go where nothing
refers to them. matplotlib is imported here only, and only when a chart is drawn; no global state of it is touched.

Caution: text is laid out with matplotlib's own font and shown in the reader's, so leave room beside labels.
"""

from __future__ import annotations

import contextlib
import html
import io
import re
import unicodedata
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROLES = {
    name: f"#0101{index:02x}"
    for index, name in enumerate(
        ("ink", "soft", "rule", "selected", "random", "full", "clean", "flipped", "gated"), 16
    )
}
LABEL_LENGTH = 22
# CSS pixels per point: a chart of 6 inches is 576 pixels wide, and its text of 9 points 12 pixels high.
PIXELS = 4 / 3


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The look of all charts; glyphs that matplotlib's own font lacks are the reader's font's business."""
    import matplotlib

    look: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "raydelt",
        "text.parse_math": False,
        "font.family": "DejaVu Sans",
        "font.size": 9.0,
        "axes.labelsize": 9.0,
        "axes.edgecolor": ROLES["soft"],
        "axes.labelcolor": ROLES["ink"],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.unicode_minus": True,
        "grid.color": ROLES["rule"],
        "grid.linewidth": 0.6,
        "text.color": ROLES["ink"],
        "xtick.color": ROLES["soft"],
        "ytick.color": ROLES["soft"],
        "xtick.labelcolor": ROLES["ink"],
        "ytick.labelcolor": ROLES["ink"],
        "legend.frameon": False,
        "lines.linewidth": 1.6,
        "path.simplify": True,
    }
    with matplotlib.rc_context(look), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def axes(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of width x height inches with one pair of axes; call inside `style()`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def drawn(figure: Figure, *, name: str, alt: str) -> str:
    """The figure as an inline `<svg>` with the alternative text `alt`; call inside `style()`.

    `name` must differ between the charts of a page.
    """
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
    )
    return inline(buffer.getvalue(), name=name, alt=alt)


def inline(text: str, *, name: str, alt: str) -> str:
    """A stand-alone SVG of matplotlib's as part of a page."""
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    assert box is not None
    body = text[text.index(">", box.end()) + 1 :]
    body = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = body.replace("xlink:href", "href").replace(' transform="rotate(-0 ', ' data-drop="(')
    body = re.sub(r' data-drop="[^"]*"', "", body)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    body = _scoped(body, name)
    for role, colour in ROLES.items():
        body = body.replace(colour, f"var(--{role})")
    body = re.sub(r' (?:d|x|y)="[^"]*"', lambda match: re.sub(r"(\.\d\d)\d+", r"\1", match[0]), body)
    # Line breaks inside path data and around elements are a tenth of the bytes.
    body = re.sub(r"\s*\n\s*", " ", body).replace("> <", "><")
    width, height = box.groups()
    return (
        f'<svg role="img" aria-label="{html.escape(alt)}" viewBox="0 0 {width} {height}" '
        f'width="{float(width) * PIXELS:.0f}" height="{float(height) * PIXELS:.0f}">{body.strip()}'
    )


def _scoped(body: str, name: str) -> str:
    """Ids that something refers to with the prefix `name-`, the others dropped."""
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda match: f' id="{name}-{match[1]}"' if match[1] in used else "", body)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", body)


def label(text: str, length: int = LABEL_LENGTH) -> str:
    """A name as a label: one line, no control characters, cut in the middle to `length` characters."""
    shown = "".join("\N{REPLACEMENT CHARACTER}" if _invisible(c) else c for c in " ".join(text.split()))
    if len(shown) <= length:
        return shown
    end = length // 3
    return f"{shown[: length - end - 1]}…{shown[-end:]}"


def _invisible(character: str) -> bool:
    """Control characters and lone surrogates; marks that join or direct text are left in it."""
    return unicodedata.category(character) in ("Cc", "Cs")
