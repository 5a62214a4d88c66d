"""Pictures of results: drawn on Figure objects, without pyplot's global state, and written whole or not at all.

matplotlib is imported when something is drawn. What the numbers mean is decided in
`sim.experiments.sweep` and `sim.results.tails`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.files.output import drafted

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

    from sim.experiments.sweep import Row
    from sim.statistics import Interval

FORMATS = (".svg", ".png", ".pdf")
# Okabe and Ito's colours, which readers of every colour vision can tell apart; each has a marker of its own as well.
COLOURS = ("#D55E00", "#009E73", "#0072B2", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
PART_COLOURS = {
    "queue": "#0072B2",
    "adapter_wait": "#D55E00",
    "overhead": "#999999",
    "prefill": "#56B4E9",
    "preempt": "#E69F00",
}
INK, PALE = "#222222", "#D9D9D9"
LOAD = "load (requests/s)"
UNSTABLE = "queue not stable: grows with the run"
LOG_FROM = 20.0  # a linear axis that shows this ratio of values hides the small ones


def ttft_vs_load(rows: Sequence[Row], *, slo_s: float | None, title: str = "", note: str = "") -> Figure:
    """Return P50 (dashed) and P99 (solid) TTFT in s against requests/s: a colour per system, a band per 95 % interval.

    Markers are open where the queue of any run was not stable, because such a percentile grows with the run.

    Args:
        rows: of one sweep; those without a completed request are left out.
        slo_s: objective to draw as a line, in s; None draws none.
        title: the words above.
        note: the small words below: what was run.

    Raises:
        ValueError: if no row has a percentile.
    """
    drawn = [row for row in rows if row.p50_ms is not None and row.p99_ms is not None]
    if not drawn:
        msg = f"nothing to draw: none of {len(rows)} rows has a completed request"
        raise ValueError(msg)
    figure, axes = _canvas(8.4, 5.0, title, note)
    systems = list(dict.fromkeys(row.system for row in drawn))
    for place, system in enumerate(systems):
        _curves(axes, [row for row in drawn if row.system == system], place)
    _scale(axes, drawn, slo_s)
    _end_labels(axes, drawn, systems)
    _line_key(axes, slo_s)
    axes.set_xlabel("load (requests/s)")
    axes.set_ylabel("time to first token (s)")
    return figure


def ttft_parts(parts: pd.DataFrame, *, title: str = "", note: str = "") -> Figure:
    """Return the mean TTFT of groups of requests as bars, each stacked from its parts (`sim.results.tails.ttft_parts`).

    Args:
        parts: a row per group (its index is the label, in one level or more), columns in ms as in
            `sim.results.summary.PARTS`, and `n`.
        title: the words above.
        note: the small words below.
    """
    figure, axes = _canvas(7.6, 1.6 + 0.36 * len(parts), title, note)
    groups = [", ".join(group) if isinstance(group, tuple) else str(group) for group in parts.index]
    labels = [f"{group}  (n = {n})" for group, n in zip(groups, parts["n"], strict=True)]
    left = parts["n"].to_numpy() * 0.0
    for part, colour in PART_COLOURS.items():
        width = parts[part].to_numpy()
        if width.any():
            axes.barh(labels, width, left=left, color=colour, label=part.replace("_", " "), height=0.66)
        left = left + width
    for place, total in enumerate(left):
        axes.annotate(f"{total:,.0f} ms", (total, place), (4, 0), textcoords="offset points", va="center", color=INK)
    axes.invert_yaxis()
    axes.set_xlim(0, float(left.max()) * 1.15)
    axes.set_xlabel("mean time to first token (ms)")
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside upper right", frameon=False, ncols=len(PART_COLOURS), fontsize=9)
    return figure


def p99_over_time(
    curves: Mapping[str, pd.DataFrame], *, slo_s: float | None, title: str = "", note: str = ""
) -> Figure:
    """Return the P99 TTFT of each window of arrivals as steps, a colour per run (`sim.results.frames.p99_over_time`).

    Args:
        curves: name of a run and its table with `t_s` and `p99_ttft_s`.
        slo_s: objective to draw as a line, in s; None draws none.
        title: the words above.
        note: the small words below.
    """
    figure, axes = _canvas(8.4, 3.4, title, note)
    for place, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[place % len(COLOURS)]
        axes.step(curve["t_s"], curve["p99_ttft_s"], where="post", color=colour, linewidth=1.8, label=name)
    if slo_s is not None:
        axes.axhline(slo_s, color=INK, linewidth=1.0, linestyle=(0, (1, 1.5)), label=f"objective {slo_s:g} s")
    axes.set_ylim(0, None)
    axes.set_xlabel("time of arrival (s)")
    axes.set_ylabel("P99 TTFT of the window (s)")
    figure.legend(loc="outside upper right", frameon=False, ncols=len(curves) + 1, fontsize=9)
    return figure


def ttft_heat_map(rows: Sequence[Row], *, title: str = "", note: str = "") -> Figure:
    """Return P99 TTFT in s over two axes as a colour on a logarithmic scale and as a number, a panel per system.

    Numbers with a star are from queues that were not stable; cells without a number completed nothing, or failed.

    Args:
        rows: of one sweep, over two axes that take several values: the rate or keys that were varied.
        title: the words above.
        note: the small words below: what was run.

    Raises:
        ValueError: if there are not two such axes, or no row has a percentile.
    """
    x, y = _two_axes(rows)
    known = [row.p99_ms.estimate / 1e3 for row in rows if row.p99_ms is not None]
    if not known:
        msg = f"nothing to draw: none of {len(rows)} rows has a completed request"
        raise ValueError(msg)
    systems = list(dict.fromkeys(row.system for row in rows))
    across, up = (list(dict.fromkeys(_place(row)[axis] for row in rows)) for axis in (x, y))
    figure, first = _canvas(
        2.0 + len(systems) * (1.0 + 0.85 * len(across)), 2.2 + 0.5 * len(up), "", f"{note}\n* {UNSTABLE}".strip()
    )
    first.remove()
    panels = figure.subplots(1, len(systems), sharey=True, squeeze=False)[0]
    for panel, system in zip(panels, systems, strict=True):
        own = [row for row in rows if row.system == system]
        image = _heat(panel, [(row, across.index(_place(row)[x]), up.index(_place(row)[y])) for row in own], known)
        panel.set_title(system, fontsize=11)
        panel.set_xticks(range(len(across)), across)
        panel.set_yticks(range(len(up)), up)
        panel.set_xlabel(x)
    panels[0].set_ylabel(y)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12.5, fontweight="bold", color=INK)
    figure.colorbar(image, ax=list(panels), label="P99 TTFT (s)", pad=0.02)
    return figure


def _place(row: Row) -> dict[str, str]:
    return {LOAD: f"{row.rate_per_s:g}", **dict(row.settings)}


def _two_axes(rows: Sequence[Row]) -> tuple[str, str]:
    values: dict[str, set[str]] = {}
    for row in rows:
        for axis, value in _place(row).items():
            values.setdefault(axis, set()).add(value)
    wide = [axis for axis, found in values.items() if len(found) > 1]
    if len({row.settings for row in rows}) == len({(row.settings, row.rate_per_s) for row in rows}) and len(wide) == 3:
        wide = [axis for axis in wide if axis != LOAD]  # it follows from another, such as the preset
    if len(wide) != 2:
        msg = f"a heat map needs two axes of several values, got {', '.join(wide) or 'none'}"
        raise ValueError(msg)
    return wide[0], wide[1]


def _heat(axes: Axes, cells: Sequence[tuple[Row, int, int]], known: Sequence[float]) -> AxesImage:
    """Draw one panel: a row of the table with its column and its line, counted from the lower left."""
    import numpy as np  # noqa: PLC0415
    from matplotlib.colors import LogNorm  # noqa: PLC0415

    low, high = max(min(known), 1e-6), max(*known, 1.01 * min(known), 1.01e-6)
    norm = LogNorm(low, high)
    values = np.full((1 + max(line for _, _, line in cells), 1 + max(column for _, column, _ in cells)), np.nan)
    for row, column, line in cells:
        if row.p99_ms is not None:
            values[line, column] = max(row.p99_ms.estimate / 1e3, low)
            dark = norm(values[line, column]) < 0.55
            text = f"{row.p99_ms.estimate / 1e3:.3g}" + ("" if row.is_stable else "*")
            axes.text(column, line, text, ha="center", va="center", fontsize=9, color="white" if dark else INK)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    return axes.imshow(values, norm=norm, cmap="cividis", origin="lower", aspect="auto")


def check_picture(path: Path) -> None:
    """Raise ValueError unless the file's name ends in one of the formats that `save` writes."""
    if path.suffix not in FORMATS:
        msg = f"a picture's name ends in {', '.join(FORMATS)}, got {path.name!r}"
        raise ValueError(msg)


def save(figure: Figure, path: Path) -> None:
    """Write a picture whole or not at all; the same figure gives the same bytes.

    Raises:
        ValueError: if the name does not end in .svg, .png or .pdf.
    """
    check_picture(path)
    kind = path.suffix[1:]
    stamps = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None}}
    # Into an open file: Pillow would also read a path that it opens itself, which a pipe does not bear.
    with drafted(path) as draft, draft.open("wb") as file, _options():
        figure.savefig(file, format=kind, dpi=150, facecolor="white", metadata=stamps[kind])


@contextmanager
def _options() -> Iterator[None]:
    import matplotlib as mpl  # noqa: PLC0415 - takes seconds to import

    with mpl.rc_context({"svg.hashsalt": "chameleon-sim", "svg.fonttype": "path"}):
        yield


def _canvas(width: float, height: float, title: str, note: str) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.06)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_title(title, loc="left", fontsize=12.5, fontweight="bold", color=INK, pad=10)
    if note:
        figure.supxlabel(note, x=0.01, ha="left", fontsize=8, color="#555555")
    return figure, axes


def _curves(axes: Axes, rows: Sequence[Row], place: int) -> None:
    colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
    load = [row.rate_per_s for row in rows]
    for intervals, dashes, width in (
        ([row.p50_ms for row in rows], (0, (4, 2)), 1.3),
        ([row.p99_ms for row in rows], "solid", 2.0),
    ):
        known = [one for one in intervals if one is not None]
        axes.plot(load, [one.estimate / 1e3 for one in known], color=colour, linestyle=dashes, linewidth=width)
        axes.fill_between(load, *_bounds_s(known), color=colour, alpha=0.16, linewidth=0)
        for x, one, row in zip(load, known, rows, strict=True):
            face = colour if row.is_stable else "white"
            axes.plot([x], [one.estimate / 1e3], marker, color=colour, markerfacecolor=face, markersize=5.5, zorder=3)


def _bounds_s(intervals: Sequence[Interval]) -> tuple[list[float], list[float]]:
    """Return the bounds in s; one seed has none, and a band of no width shows that."""
    low = [one.estimate if one.low is None else one.low for one in intervals]
    high = [one.estimate if one.high is None else one.high for one in intervals]
    return [max(value, 1e-3) / 1e3 for value in low], [value / 1e3 for value in high]  # a logarithm needs more than 0


def _scale(axes: Axes, rows: Sequence[Row], slo_s: float | None) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter  # noqa: PLC0415

    shown = [one.estimate / 1e3 for row in rows for one in (row.p50_ms, row.p99_ms) if one is not None]
    shown += [] if slo_s is None else [slo_s]
    low, high = min(shown), max(shown)
    loads = sorted({row.rate_per_s for row in rows})
    margin = 0.03 * (loads[-1] - loads[0]) or 0.5
    axes.set_xlim(loads[0] - margin, loads[-1] + margin)
    if low > 0 and high / low >= LOG_FROM:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.3, high * 1.5)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(0, high * 1.08)


def _end_labels(axes: Axes, rows: Sequence[Row], systems: Sequence[str]) -> None:
    """Name each system at the end of its P99, the names pushed apart where the curves meet."""
    ends = {row.system: row.p99_ms.estimate / 1e3 for row in rows if row.p99_ms is not None}
    right = max(row.rate_per_s for row in rows)
    to_points = 72 / axes.figure.dpi
    lowest = float("-inf")
    for system in sorted(systems, key=lambda one: (ends[one], systems.index(one))):
        height = float(axes.transData.transform((right, ends[system]))[1]) * to_points
        lowest = max(height, lowest + 13)
        colour = COLOURS[systems.index(system) % len(COLOURS)]
        shift = (12, lowest - height)
        text = axes.annotate(system, (right, ends[system]), shift, textcoords="offset points", va="center")
        text.set(color=colour, fontweight="bold", fontsize=10)


def _line_key(axes: Axes, slo_s: float | None) -> None:
    from matplotlib.lines import Line2D  # noqa: PLC0415
    from matplotlib.patches import Patch  # noqa: PLC0415

    grey = "#555555"
    handles: list[Any] = [
        Line2D([], [], color=grey, linewidth=2.0, label="P99"),
        Line2D([], [], color=grey, linewidth=1.3, linestyle=(0, (4, 2)), label="P50"),
        Patch(color=grey, alpha=0.2, linewidth=0, label="95 % interval of the mean over seeds"),
        Line2D([], [], color=grey, marker="o", markerfacecolor="white", linestyle="none", label=UNSTABLE),
    ]
    if slo_s is not None:
        line = axes.axhline(slo_s, color=INK, linewidth=1.0, linestyle=(0, (1, 1.5)), label=f"objective {slo_s:g} s")
        handles.append(line)
    axes.legend(handles=handles, loc="best", frameon=True, framealpha=0.9, edgecolor="none", fontsize=8.5)
