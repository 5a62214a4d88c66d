"""Figures for a page: drawn on Figure objects and returned as SVG text that can stand beside others in one document.

matplotlib is imported when something is drawn.
"""

from __future__ import annotations

import re
from html import escape
from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GREY, PALE = "#222222", "#555555", "#D9D9D9"
_ID = re.compile(r'(\bid="|href="#|url\(#)')
_PROLOGUE = re.compile(r"^.*?(?=<svg\b)", re.DOTALL)
_METADATA = re.compile(r"<metadata>.*?</metadata>\s*", re.DOTALL)


def canvas(
    width: float, height: float, rows: int = 1, columns: int = 1, *, shares_x: bool = False
) -> tuple[Figure, list[Axes]]:
    """Return a figure of so many inches and its axes, row by row, in the style of `sim.plots`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - takes seconds to import
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.06)
    axes = [one for line in figure.subplots(rows, columns, squeeze=False, sharex=shares_x) for one in line]
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(visible=True, color=PALE, linewidth=0.6)
        one.set_axisbelow(True)
    return figure, axes


def svg(figure: Figure, name: str, label: str) -> str:
    """Return a figure as an `<svg>` element; the same figure gives the same text.

    Args:
        figure: what is drawn.
        name: put before every id, so that several figures can stand in one document.
        label: what a reader who cannot see it is told.
    """
    import matplotlib as mpl  # noqa: PLC0415 - takes seconds to import

    text = StringIO()
    with mpl.rc_context({"svg.hashsalt": "chameleon-sim", "svg.fonttype": "path"}):
        figure.savefig(text, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
    bare = _METADATA.sub("", _PROLOGUE.sub("", text.getvalue()))
    own = _ID.sub(rf"\g<1>{name}-", bare)
    return own.replace("<svg ", f'<svg role="img" aria-label="{escape(label, quote=True)}" ', 1).strip()
