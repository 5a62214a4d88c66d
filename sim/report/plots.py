"""The figures of a report: what several runs did, a colour for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from policies.base import FloatArray
from sim.plots import COLOURS, LOG_FROM, MARKERS
from sim.report.svg import GREY, INK, canvas
from sim.statistics import grouped_percentiles

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEW = 10  # requests beyond a point of a tail below which the next run may look different
POINTS = 400  # of a curve, at most
LEVELS = {"P50": 0.5, "P90": 0.1, "P99": 0.01, "P99.9": 0.001}
MEMORY = {"kv_bytes": ("KV", "#0072B2"), "adapter_bytes_inuse": ("adapters in use", "#D55E00")}
MEMORY |= {"adapter_bytes_idle": ("idle adapters", "#E69F00")}


def exceedance(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return points of 1 - F: values, falling, and the share of the sample that is at least as large.

    Args:
        values: shape (n,), n at least 1. Large samples are thinned towards the middle, never in the tail.
    """
    ordered = np.sort(values)[::-1]
    ranks = np.unique(np.rint(np.geomspace(1, len(ordered), POINTS)).astype(np.int64))
    return ordered[ranks - 1], ranks / len(ordered)


def tails(ttft_s: Mapping[str, FloatArray], slo_s: float | None) -> Figure:
    """Return the distribution of TTFT, a colour per run: F beside 1 - F on a logarithmic axis.

    A tail is dotted where fewer than ten requests lie beyond.
    """
    figure, (left, right) = canvas(9.6, 3.9, columns=2)
    sizes = [len(values) for values in ttft_s.values()]
    for place, (name, values) in enumerate(ttft_s.items()):
        colour = COLOURS[place % len(COLOURS)]
        x, share = exceedance(values)
        left.plot(x, 1 - share, color=colour, linewidth=1.8, label=name)
        many = share * len(values) >= FEW
        right.plot(x[many], share[many], color=colour, linewidth=1.8)
        right.plot(x[~many], share[~many], color=colour, linewidth=1.4, linestyle=(0, (1, 1)))
    _levels(right, max(sizes))
    for axes in (left, right):
        if slo_s is not None:
            axes.axvline(slo_s, color=INK, linewidth=1.0, linestyle=(0, (1, 1.5)))
        axes.set_xlabel("time to first token (s)")
    spread(right, np.concatenate(list(ttft_s.values())), "x")
    late = [float(np.percentile(values, 99.5)) for values in ttft_s.values()]
    if max(late) >= LOG_FROM * min(float(np.median(values)) for values in ttft_s.values()):
        spread(left, np.concatenate(list(ttft_s.values())), "x")
    else:
        left.set_xlim(0, 1.05 * max(late))
    left.set_ylim(0, 1)
    left.set_ylabel("share of requests served so fast")
    right.set_ylabel("share of requests that waited longer")
    figure.legend(loc="outside upper left", frameon=False, ncols=min(len(ttft_s), 4), fontsize=9)
    return figure


def _levels(axes: Axes, n: int) -> None:
    axes.set_yscale("log")
    axes.set_ylim(0.7 / n, 1.2)
    for word, share in LEVELS.items():
        if share * n >= 1:
            axes.axhline(share, color=GREY, linewidth=0.7, zorder=1)
            where = (0.0, share)
            axes.annotate(
                word,
                where,
                (3, 2),
                xycoords=axes.get_yaxis_transform(),
                textcoords="offset points",
                ha="left",
                fontsize=8,
                color=GREY,
            )


def spread(axes: Axes, values: FloatArray, along: Literal["x", "y"]) -> None:
    """Scale an axis to its values, by logarithm where a linear one would hide the small ones."""
    from matplotlib.ticker import FuncFormatter, NullFormatter  # noqa: PLC0415

    axis, set_limits = (axes.xaxis, axes.set_xlim) if along == "x" else (axes.yaxis, axes.set_ylim)
    low, high = max(float(np.nanmin(values)), 1e-3), max(float(np.nanmax(values)), 1e-3)
    if high / low < LOG_FROM:
        set_limits(0, high * 1.06)
        return
    (axes.set_xscale if along == "x" else axes.set_yscale)("log")
    set_limits(low / 1.15, high * 1.15)
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def by_rank(requests: Mapping[str, pd.DataFrame]) -> Figure:
    """Return P50 (open) and P99 (filled) of `ttft_s` by `adapter_rank`, a colour per run; n stands under each rank."""
    figure, (axes,) = canvas(8.4, 3.4)
    ranks = sorted(set().union(*(set(one["adapter_rank"].unique()) for one in requests.values())))
    width, shown = 0.6 / len(requests), []
    for place, (name, one) in enumerate(requests.items()):
        group = np.searchsorted(ranks, one["adapter_rank"].to_numpy())
        x = np.arange(len(ranks)) + (place - (len(requests) - 1) / 2) * width
        p50, p99 = (grouped_percentiles(one["ttft_s"].to_numpy(), group, len(ranks), q) for q in (50, 99))
        shown += [p50, p99]
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        axes.vlines(x, p50, p99, color=colour, linewidth=1.2, alpha=0.6)
        axes.plot(x, p50, marker, color=colour, markerfacecolor="white", markersize=6)
        axes.plot(x, p99, marker, color=colour, markersize=6, label=name)
    first = next(iter(requests.values()))
    counts = [int((first["adapter_rank"] == rank).sum()) for rank in ranks]
    words = [f"rank {rank}" if rank else "base model" for rank in ranks]
    axes.set_xticks(range(len(ranks)), [f"{word}\nn = {n}" for word, n in zip(words, counts, strict=True)])
    axes.set_xlim(-0.6, len(ranks) - 0.4)
    spread(axes, np.concatenate(shown), "y")
    axes.set_ylabel("time to first token (s)")
    axes.grid(visible=False, axis="x")
    figure.legend(loc="outside upper right", frameon=False, ncols=min(len(requests), 4), fontsize=9)
    return figure


def thinned(timeseries: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """Return the means of equal stretches of a time series, at most 400 of them, and how many seconds each is long."""
    rows = -(-len(timeseries) // POINTS)
    step_s = float(timeseries["t_s"].iloc[0]) if len(timeseries) else 1.0  # a row is about the interval that ends there
    return timeseries.groupby(np.arange(len(timeseries)) // max(rows, 1)).mean(), step_s * max(rows, 1)


class Scales:
    """The highest values of several time series, so that their figures have the same axes."""

    def __init__(self, series: Sequence[pd.DataFrame]) -> None:
        self.memory_gb = max(float(one[list(MEMORY)].sum(axis=1).max()) for one in series) / 1e9
        self.requests = max(float(one[["running", "waiting"]].max().max()) for one in series)
        self.end_s = max(float(one["t_s"].max()) for one in series)


def over_time(series: pd.DataFrame, scales: Scales) -> Figure:
    """Return one run's memory, link and numbers of requests over time; see `thinned`."""
    figure, (memory, link, requests) = canvas(9.6, 4.8, rows=3, shares_x=True)
    t_s = series["t_s"].to_numpy()
    stack = [series[name].to_numpy() / 1e9 for name in MEMORY]
    labels, colours = zip(*MEMORY.values(), strict=True)
    memory.stackplot(t_s, *stack, labels=labels, colors=colours, linewidth=0, alpha=0.85)
    memory.set_ylabel("memory (GB)")
    memory.set_ylim(0, 1.08 * scales.memory_gb or 1)
    link.fill_between(t_s, 100 * series["pcie_busy"].to_numpy(), color="#009E73", alpha=0.75, linewidth=0)
    link.set_ylim(0, 100)
    link.set_ylabel("link busy (%)")
    requests.plot(t_s, series["running"], color="#0072B2", linewidth=1.4, label="running")
    requests.plot(t_s, series["waiting"], color="#CC79A7", linewidth=1.4, label="waiting")
    requests.set_ylabel("requests")
    requests.set_ylim(0, 1.08 * scales.requests or 1)
    requests.set_xlim(0, scales.end_s)
    requests.set_xlabel("time (s)")
    for axes in (memory, requests):
        axes.legend(loc="lower left", bbox_to_anchor=(0, 0.97), frameon=False, ncols=3, fontsize=8)
    figure.align_ylabels()
    return figure
