"""The pictures of docs/paper.md."""  # noqa: INP001

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paper_claims import ALL, BOTH, CUTS, FULL, NO_CACHE, cut, load_cell
from paper_claims_late import ADAPTERS, SJF, adapters_cell
from paper_measures import WINDOW_S
from paper_rows import Value
from paper_runs import Runs
from paper_verdicts import bounds

from sim import plots
from sim.statistics import mean_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOADS = (6, 8, 9)


def _panels(titles: Sequence[str], height: float, note: str, **options: Any) -> tuple[Figure, list[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - takes seconds to import
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(9.6, height), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    row: list[Axes] = list(figure.subplots(1, len(titles), squeeze=False, **options)[0])
    for axes, title in zip(row, titles, strict=True):
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=plots.INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, color=plots.PALE, linewidth=0.6)
        axes.set_axisbelow(True)
    figure.supxlabel(note, x=0.01, ha="left", fontsize=8, color="#555555")
    return figure, row


def headline(runs: Runs) -> Figure:
    """Return the cuts of P99 and P50 TTFT at three loads: printed, and in each scenario with its interval."""
    note = "Chameleon against S-LoRA, means of five paired seeds with 95 % intervals"
    figure, row = _panels(("cut of P99 TTFT (%)", "cut of P50 TTFT (%)"), 3.6, note, sharey=True)
    for axes, (_, metric, printed) in zip(row, CUTS, strict=True):
        for place, scenario in enumerate(ALL):
            values = [cut(metric, scenario, load_cell(FULL, rate), load_cell("slora", rate))[0] for rate in LOADS]
            _points(axes, [one.series(runs) for one in values], place, scenario.name)
        left, right = ([load + side for load in range(len(LOADS))] for side in (-0.36, 0.36))
        axes.hlines(printed, left, right, color=plots.INK, linewidth=2.0, label="printed")
        axes.set_xticks(range(len(LOADS)), [f"{rate} requests/s" for rate in LOADS])
        axes.set_ylim(-10, 105)
    figure.legend(*row[0].get_legend_handles_labels(), loc="outside upper right", frameon=False, ncols=5, fontsize=8)
    return figure


def _points(axes: Axes, series: Sequence[Sequence[float]], place: int, name: str) -> None:
    x = [load - 0.24 + 0.16 * place for load in range(len(series))]
    means = [mean_interval(one).estimate for one in series]
    ends = [bounds(mean_interval(one)) for one in series]
    axes.vlines(x, [low for low, _ in ends], [high for _, high in ends], color=plots.COLOURS[place], linewidth=1.6)
    axes.plot(x, means, plots.MARKERS[place], color=plots.COLOURS[place], markersize=6, label=name)


def over_time(runs: Runs) -> Figure:
    """Return Fig. 15: P99 TTFT of windows of arrivals, of one seed, on a logarithmic axis."""
    note = f"9 requests/s, 19,366 requests, seed 0, windows of {WINDOW_S:.0f} s (about 450 requests each)"
    figure, row = _panels([f"P99 TTFT over time, {one.name}" for one in BOTH], 3.4, note, sharey=True)
    for axes, scenario in zip(row, BOTH, strict=True):
        for place, system in enumerate(("slora", SJF, NO_CACHE, FULL)):
            windows_s = runs[scenario.of(load_cell(system, 9)).key(0)]["windows_s"]
            x = [WINDOW_S * one for one in range(len(windows_s))]
            axes.step(x, windows_s, where="post", color=plots.COLOURS[place], linewidth=1.6, label=system)
        axes.set_yscale("log")
        axes.set_xlabel("time of arrival (s)")
    row[0].set_ylabel("P99 TTFT of the window (s)")
    figure.legend(*row[0].get_legend_handles_labels(), loc="outside upper right", frameon=False, ncols=4, fontsize=8)
    return figure


def adapters(runs: Runs) -> Figure:
    """Return Fig. 20: P99 TTFT against the number of adapters, ranks asked for alike."""
    note = "9.5 requests/s, 3000 requests, means of five seeds with 95 % intervals, objective 5 s dotted"
    figure, row = _panels([f"P99 TTFT by adapters, {one.name}" for one in BOTH], 3.4, note)
    for axes, scenario in zip(row, BOTH, strict=True):
        for place, system in enumerate(("slora", FULL)):
            values = [Value("p99_ms", scenario.of(adapters_cell(system, count, 0.0))) for count in ADAPTERS]
            found = [mean_interval([one / 1e3 for one in value.series(runs)]) for value in values]
            colour = plots.COLOURS[place]
            low, high = zip(*map(bounds, found), strict=True)
            axes.fill_between(ADAPTERS, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.plot(ADAPTERS, [one.estimate for one in found], "-" + plots.MARKERS[place], color=colour, label=system)
        axes.axhline(5.0, color=plots.INK, linewidth=1.0, linestyle=(0, (1, 1.5)))
        axes.set_ylim(0, None)
        axes.set_xlabel("adapters")
    row[0].set_ylabel("P99 TTFT (s)")
    figure.legend(*row[0].get_legend_handles_labels(), loc="outside upper right", frameon=False, ncols=2, fontsize=8)
    return figure


PICTURES: dict[str, Callable[[Runs], Figure]] = {
    "paper_headline": headline,
    "paper_over_time": over_time,
    "paper_adapters": adapters,
}


def draw(folder: Path, runs: Runs) -> None:
    """Write all pictures."""
    for name, picture in PICTURES.items():
        plots.save(picture(runs), folder / f"{name}.svg")
