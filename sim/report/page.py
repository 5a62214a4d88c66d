"""One HTML file about one run or several: what was run, what came of it, and what limits the numbers.

It holds its pictures (SVG) and needs nothing else: no script, no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, log10
from pathlib import Path
from typing import TYPE_CHECKING

from sim.experiments.comparison import read_sides
from sim.files.output import check_file
from sim.files.textfile import write_text
from sim.report.data import Arm, arms_of
from sim.report.html import Html, element, figure, join, page, section
from sim.report.svg import svg
from sim.report.warnings import warnings_of

if TYPE_CHECKING:
    import pandas as pd

FILE = "report.html"
WINDOWS = 60  # of P99 over time, at most
ROUND = (1, 1.5, 2, 3, 4, 5, 7.5, 10)
PER_WINDOW = 200  # requests in each of them, at least, so that two lie beyond the P99
GLOSSARY = {
    "TTFT": "time to first token: from the instant the engine got the request until its first token is out",
    "E2EL": "from sending to the last token",
    "TPOT": "(E2EL - TTFT) / (output tokens - 1)",
    "ITL": "each gap between two tokens of a request, pooled over requests",
    "P99": "linear percentile over completed requests; n beside it says over how many",
    "queue": "from sending until the request was admitted into the batch",
    "adapter wait": "from admission until its adapter was usable; an engine that blocks waits for all adapters of the "
    "mini-batch, and all its requests with it",
    "overhead": "from there until its prefill began",
    "prefill": "from the start of the prefill to the first token",
    "preempt": "lost to being turned back before the first token",
    "hit": "the adapter was on the GPU when the request was first admitted",
    "link busy": "share of the time that the link between host and GPU carried something",
    "95 % interval": "t interval of the mean over seeds; a change is over pairs of runs that served the same requests. "
    "'within the run': order statistics of one run, as if requests were independent, which is too narrow",
    "stable": "the queue kept up with arrivals; backlogged: it was deep or emptied late; overloaded: it grew "
    "throughout, so that percentiles measure the length of the run",
}
NOT_MODELLED = (
    "Not modelled: prefix caches across requests, pipeline parallelism, migration between replicas, tokenisation and "
    "network, early end of sequence, slower kernels while a copy runs. A client's TTFT holds HTTP and tokenisation; "
    "this one does not."
)


def write_report(directories: Sequence[Path], out: Path | None = None) -> Path:
    """Write a report whole or not at all, and return its path.

    Args:
        directories: of finished runs, or of replications (a run below each); the first is the baseline.
        out: the file; None: `report.html` in the first directory.

    Raises:
        ValueError: if a directory holds no finished run, no request of one got a first token, or the name does not end
            in .html, or the file cannot be written.
    """
    target = directories[0] / FILE if out is None else out
    if target.suffix != ".html":
        msg = f"{target}: a report's name ends in .html"
        raise ValueError(msg)
    check_file(target)
    write_text(target, report(arms_of(read_sides(directories))))
    return target


def report(arms: Sequence[Arm]) -> str:
    """Return the document; the same runs give the same text."""
    from sim.report.tables import sentence  # noqa: PLC0415

    first, *others = (arm.label for arm in arms)
    title = f"{', '.join(others)} against {first}" if others else first
    parts = [element("h1", title), element("p", _subtitle(arms), "sub"), element("p", sentence(arms), "said")]
    parts += [_warnings(arms), *_sections(arms)]
    return page(f"{title} - chameleon-sim", [one for one in parts if one])


def _subtitle(arms: Sequence[Arm]) -> str:
    summary, env = arms[0].first.summary, arms[0].first.env
    code = env.get("code_version") or f"of source {str(env.get('source_sha256'))[:12]}"
    runs = {run.summary["simulated"] for arm in arms for run in arm.runs}
    how = "Simulated and measured" if len(runs) > 1 else "Simulated" if runs == {True} else "Measured"
    return (
        f"{how} by chameleon-sim {code}: workload {summary['workload']}, {summary['model']} on {summary['hardware']}."
    )


def _warnings(arms: Sequence[Arm]) -> Html:
    found = warnings_of(arms)
    return element("ul", join(element("li", one) for one in found), "warnings") if found else Html("")


def _sections(arms: Sequence[Arm]) -> list[Html]:
    sections = [
        _headline(arms),
        _tails(arms),
        _parts(arms),
        _windows(arms),
        _classes(arms),
        _ranks(arms),
        _over_time(arms),
        _adapters(arms),
        _run(arms),
        _words(),
    ]
    return [one for one in sections if one]


def _headline(arms: Sequence[Arm]) -> Html:
    from sim.report.tables import headline  # noqa: PLC0415

    under = f"Under the value of every further run, small: its change against {arms[0].label}."
    note = element("p", under, "note") if len(arms) > 2 else Html("")
    return section("Results", headline(arms), note)


def _tails(arms: Sequence[Arm]) -> Html:
    from sim.report.plots import tails  # noqa: PLC0415

    drawn = tails({arm.label: arm.requests["ttft_s"].to_numpy() for arm in arms}, _slo_s(arms))
    note = (
        "Left: share of requests whose first token came within so many seconds. Right: share that waited longer, on a "
        "logarithmic axis; dotted where fewer than ten requests lie beyond. "
    )
    slo = _slo_s(arms)
    note += "" if slo is None else f"The dotted vertical line is the objective, {slo:g} s. "
    note += "" if all(len(arm.runs) == 1 for arm in arms) else "All seeds together."
    return section("Time to first token", element("p", note, "note"), figure(svg(drawn, "tail", "TTFT, F and 1 - F")))


def _slo_s(arms: Sequence[Arm]) -> float | None:
    bounds = {arm.first.summary["slo"]["ttft_s"] for arm in arms}
    return bounds.pop() if len(bounds) == 1 else None


def _parts(arms: Sequence[Arm]) -> Html:
    import pandas as pd  # noqa: PLC0415

    from sim.plots import ttft_parts  # noqa: PLC0415
    from sim.results.tails import GROUPS  # noqa: PLC0415
    from sim.results.tails import ttft_parts as parts_of  # noqa: PLC0415

    tables = {arm.label: parts_of(arm.requests).reindex(["all", GROUPS[-1]]).dropna() for arm in arms}
    tables = {name: table.astype({"n": "int64"}) for name, table in tables.items()}  # few requests have no slowest 1 %
    one = pd.concat(tables) if len(arms) > 1 else next(iter(tables.values()))
    bars = ttft_parts(one)
    bars.axes[0].locator_params(axis="x", nbins=6)
    drawn = svg(bars, "parts", "mean TTFT split into its parts")
    note = "Means over all requests and over the slowest 1 %. The parts of each request sum to its TTFT exactly."
    return section("Where the time goes", element("p", note, "note"), figure(drawn))


def _windows(arms: Sequence[Arm]) -> Html:
    import pandas as pd  # noqa: PLC0415

    from sim.plots import p99_over_time as drawn_over_time  # noqa: PLC0415
    from sim.report.plots import spread  # noqa: PLC0415
    from sim.results.frames import p99_over_time  # noqa: PLC0415

    tables = {arm.label: arm.first.columns("requests", ("arrival_s", "ttft_s")) for arm in arms}
    window_s = max(_window_s(one["arrival_s"].max(), len(one)) for one in tables.values())
    curves = {name: p99_over_time(one, window_s) for name, one in tables.items()}
    counts = sorted(int(one["n"].median()) for one in curves.values())
    note = f"By arrival, in windows of {window_s:g} s of seed {arms[0].seeds[0]}, about {counts[0]} requests in each."
    ended = {name: _ended(one, window_s) for name, one in curves.items()}
    steps = drawn_over_time(ended, slo_s=_near(_slo_s(arms), curves))
    spread(steps.axes[0], pd.concat(curves)["p99_ttft_s"].to_numpy(), "y")
    drawn = svg(steps, "windows", "P99 TTFT over time")
    return section("P99 over time", element("p", note, "note"), figure(drawn))


def _ended(curve: pd.DataFrame, window_s: float) -> pd.DataFrame:
    """Return a curve with the end of its last window, so that its step is seen."""
    import pandas as pd  # noqa: PLC0415

    return pd.concat([curve, curve.tail(1).assign(t_s=curve["t_s"].iloc[-1] + window_s)], ignore_index=True)


def _near(slo_s: float | None, curves: dict[str, pd.DataFrame]) -> float | None:
    """Return the objective if it can be drawn without flattening the curves."""
    highest = max(float(one["p99_ttft_s"].max()) for one in curves.values())
    return slo_s if slo_s is not None and slo_s <= 2 * highest else None


def _window_s(span_s: float, n: int) -> float:
    """Return a round length of windows: few enough, with enough requests in each."""
    least = max(span_s / WINDOWS, span_s * PER_WINDOW / max(n, 1), 1e-3)
    power = 10.0 ** (ceil(log10(least)) - 1)
    return next(round(step * power, 6) for step in ROUND if step * power >= least)


def _classes(arms: Sequence[Arm]) -> Html:
    from sim.report.tables import classes, waits  # noqa: PLC0415

    if any("by_size" not in one for arm in arms for one in arm.summaries):
        return Html("")  # a run of an earlier version
    note = (
        "Thirds of all requests by prompt plus output tokens, alike in every run: a percentile over everybody hides "
        "who pays for it. Slowdown is the response time over that of the request alone on an idle engine with its "
        f"adapter at hand. {waits(arms)}"
    )
    return section("Small and large requests", element("p", note, "note"), classes(arms))


def _ranks(arms: Sequence[Arm]) -> Html:
    from sim.report.plots import by_rank  # noqa: PLC0415

    drawn = svg(by_rank({arm.label: arm.requests for arm in arms}), "rank", "P50 and P99 TTFT by rank")
    note = "P50 (open) and P99 (filled) by the rank of the request's adapter."
    return section("By rank", element("p", note, "note"), figure(drawn))


def _over_time(arms: Sequence[Arm]) -> Html:
    from sim.report.plots import Scales, over_time, thinned  # noqa: PLC0415

    series = [thinned(arm.first.timeseries) for arm in arms]
    scales = Scales([table for table, _ in series])
    parts: list[str] = []
    for place, (arm, (table, step_s)) in enumerate(zip(arms, series, strict=True)):
        note = f"seed {arm.seeds[0]}, means of {step_s:g} s"
        drawn = svg(over_time(table, scales), f"time{place}", f"memory, link and requests over time, {arm.label}")
        parts += [element("h3", f"{arm.label} ({note})"), figure(drawn)]
    return section("Memory and link over time", *parts)


def _adapters(arms: Sequence[Arm]) -> Html:
    from sim.report.tables import MOST_ADAPTERS, adapters  # noqa: PLC0415

    note = (
        f"The {MOST_ADAPTERS} adapters of which most bytes were moved, of the first seed. Percentiles are over so many "
        "requests as stand behind them, less those that were not completed; few say little about a tail."
    )
    parts = [part for arm in arms for part in (element("h3", arm.label), adapters(arm))]
    return section("Adapters", element("p", note, "note"), *parts)


def _run(arms: Sequence[Arm]) -> Html:
    from sim.report.tables import differences, what_was_run  # noqa: PLC0415

    other = differences(arms) if len(arms) > 1 else Html("")
    head = element("h3", "Where the configurations differ") if other else Html("")
    return section("What was run", what_was_run(arms), head, other)


def _words() -> Html:
    terms = join(Html(f"{element('dt', word)}{element('dd', meaning)}") for word, meaning in GLOSSARY.items())
    return section("What the words mean", element("dl", terms), element("p", NOT_MODELLED, "note"))
