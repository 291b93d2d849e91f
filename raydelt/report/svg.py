"""Charts as SVG: inline in the page, where colours follow its theme, and alone, in the colours of the light theme.

Charts are drawn in the colours of `ROLES`, the page's light theme; in the page each becomes the variable of that name,
so that one chart reads in light and dark and in print. Ids get the chart's name as a prefix (a page holds many charts)
or go where nothing refers to them. Text stays text, and the same chart gives the same bytes. matplotlib is imported
here only, and only when a chart is drawn; no global state of it is touched.

Caution: text is laid out with matplotlib's own font and shown in the reader's, so leave room beside labels.
"""

from __future__ import annotations

import contextlib
import html
import re
import unicodedata
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The light theme of page.css; a test holds the two together. No two are the same, so a colour tells its role.
ROLES = {
    "paper": "#ffffff",
    "ink": "#17191c",
    "soft": "#5c636b",
    "rule": "#d5d9de",
    "selected": "#0072b2",
    "random": "#d55e00",
    "full": "#00805d",
    "gated": "#9c4a78",
}
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", Arial, sans-serif'
LABEL_LENGTH = 22
# CSS pixels per point: a chart of 6 inches is 576 pixels wide, and its text of 9 points 12 pixels high.
PIXELS = 4 / 3
# Points per inch, in which an SVG is drawn; places on the figure are then the places in the SVG.
DPI = 72


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

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    return figure, figure.add_subplot()


def body_of(text: str) -> tuple[str, float, float]:
    """What a stand-alone SVG of matplotlib's holds, made smaller, and its width and height in points."""
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    assert box is not None
    body = text[text.index(">", box.end()) + 1 :]
    body = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = body.replace("xlink:href", "href").replace(' transform="rotate(-0 ', ' data-drop="(')
    body = re.sub(r' data-drop="[^"]*"', "", body)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    body = re.sub(r' (?:d|x|y)="[^"]*"', lambda match: re.sub(r"(\.\d\d)\d+", r"\1", match[0]), body)
    # Line breaks inside path data and around elements are a tenth of the bytes.
    body = re.sub(r"\s*\n\s*", " ", body).replace("> <", "><")
    return body.strip(), float(box[1]), float(box[2])


def inline(text: str, *, name: str, alt: str, extra: str = "") -> str:
    """A stand-alone SVG of matplotlib's as part of a page; `extra` are further attributes."""
    body, width, height = body_of(text)
    body = _scoped(body, name)
    for role, colour in ROLES.items():
        body = body.replace(colour, f"var(--{role})")
    return (
        f'<svg role="img" aria-label="{html.escape(alt)}" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width * PIXELS:.0f}" height="{height * PIXELS:.0f}"{extra}>{body}'
    )


def alone(text: str, *, alt: str) -> str:
    """A stand-alone SVG of matplotlib's as a file for other documents, on white."""
    body, width, height = body_of(text)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width * PIXELS:.0f}" height="{height * PIXELS:.0f}">'
        f"<title>{html.escape(alt)}</title><style>text {{ font-family: {FONT}; }} "
        f"* {{ stroke-linejoin: round; stroke-linecap: butt; }}</style>"
        f'<rect width="100%" height="100%" fill="{ROLES["paper"]}"/>{body}\n'
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
