"""A check's report for people: text, JSON and a picture. The numbers are made in `gpu_validate.check`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpu_validate.errors import METRICS, PERCENTILES, pair_iterations
from gpu_validate.observed import Observed
from sim.files.output import drafted
from sim.files.textfile import write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Report = Mapping[str, Any]
NAMES = {"ttft_s": "TTFT", "tpot_s": "TPOT", "e2el_s": "E2EL"}
COLOURS = {"measured": "#000000", "simulated": "#0072B2", "measured again": "#999999"}
KIND_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
MOST_POINTS = 5000


def text_of(report: Report) -> str:
    """Return the table of one pair; every percentile stands beside its n."""
    load = "unknown" if report["load"] is None else f"{report['load']:.2f} of capacity"
    against, floor = report["sim_vs_real"], report["real_vs_real"]
    against_what = f"{_role('simulated', report['simulated'])} against {_role('measured', report['measured'])}"
    lines = [f"{against_what}; load {load}"]
    lines += [_counts(against["requests"])]
    lines += [
        "",
        f"{'':<12} {'simulated':>11} {'measured':>11} {'error':>9} {'95 % interval':>21} {'real-real':>9} {'n':>6}",
    ]
    for metric in METRICS:
        lines += _metric_lines(metric, against["metrics"][metric], None if floor is None else floor["metrics"][metric])
    lines += ["", *_iteration_lines(against["iterations"])]
    lines += [*_in_situ_lines(report["in_situ"]), *_behind_lines(report["behind_copies"])]
    lines += [*_waiting_lines(report["waiting_inputs"]), *_host_lines(report["host_speed"])]
    lines += [*_counter_lines(against["counters"], None if floor is None else floor["counters"])]
    lines += ["", *(_aim_line(aim) for aim in report["aims"])]
    lines += [] if report["paired"] else ["aims need runs of the same requests: not judged"]
    return "\n".join(lines) + "\n"


def _counts(counts: Report) -> str:
    return "; ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items())


def _metric_lines(metric: str, errors: Report, floor: Report | None) -> Iterator[str]:
    name = NAMES[metric]
    if not errors["n"]:
        yield f"{name:<12} nothing to compare (n = 0)"
        return
    for q in (f"p{q}" for q in PERCENTILES):
        found = errors[q]
        values = f"{_ms(found['simulated_s'])} {_ms(found['measured_s'])}"
        bounds = "-" if found["low"] is None else f"[{_percent(found['low'])}, {_percent(found['high'])}]"
        noise = "-" if floor is None or not floor["n"] else _percent(floor[q]["error"])
        label = f"{name} {q.upper()}"
        yield f"{label:<12} {values} {_percent(found['error']):>9} {bounds:>21} {noise:>9} {errors['n']:>6}"
    yield f"{'':<12} {_per_request(errors)}KS {errors['ks']:.3f}, W1 {_ms(errors['w1_s']).strip()}{_floor(floor)}"


def _per_request(errors: Report) -> str:
    if "ape_median" not in errors:
        return ""
    return (
        f"per request: median error {_percent(errors['signed_median'])}, absolute {_percent(errors['ape_median'])}, "
        f"P90 {_percent(errors['ape_p90'])}; "
    )


def _floor(floor: Report | None) -> str:
    if floor is None or not floor["n"]:
        return ""
    ape = f"absolute {_percent(floor['ape_median'])}, " if "ape_median" in floor else ""
    return f" (real-real: {ape}KS {floor['ks']:.3f}, W1 {_ms(floor['w1_s']).strip()})"


def _iteration_lines(errors: Report | None) -> Iterator[str]:
    if errors is None:
        yield "iterations: not compared, since none are known or those that are were predicted of another configuration"
        return
    yield f"iterations, against the {errors['pairing']}:"
    for kind, found in {"all": errors["all"], **errors["by_kind"]}.items():
        if not found["n"]:
            yield f"  {kind}: none has a partner (n = 0 of {errors['iterations']})"
            continue
        yield (
            f"  {kind}: MAPE {_percent(found['mape'])}, bias {_percent(found['bias'])}, "
            f"P95 {_percent(found['p95'])}, of all time {_percent(found['total_bias'])}, "
            f"n = {found['n']} of {errors['iterations']}"
        )


def _in_situ_lines(found: Report | None) -> Iterator[str]:
    for kind, one in (found or {}).items():
        head = f"in situ, {kind}, a diagnosis that nothing here uses:"
        if "scale" not in one:
            yield f"{head} too few iterations (n = {one['n_fit']} and {one['n_test']})"
            continue
        errors = f"mean absolute error {_percent(one['mape'])} would be {_percent(one['mape_scaled'])}"
        yield (
            f"{head} measured / predicted {one['scale']:.3f} in the first part (n = {one['n_fit']}); with it, in the "
            f"rest (n = {one['n_test']}), {errors}"
        )


def _behind_lines(found: Report | None) -> Iterator[str]:
    if found is not None:
        late, others = 1e3 * found["mean_late_s"], 1e3 * found["mean_late_others_s"]
        yield (
            f"begun while a copy was under way that still took {1e3 * found['mean_left_s']:.2f} ms (mean): "
            f"{late:+.2f} ms against the prediction (n = {found['n']}); all others {others:+.2f} ms "
            f"(n = {found['n_others']})"
        )


def _waiting_lines(found: Report | None) -> Iterator[str]:
    if found is not None:
        yield (
            "decode steps that began with at least 3 ms of a copy left: with inputs of up to "
            f"{found['free_bytes']} bytes {100 * found['share_free']:.0f} % waited for it (n = {found['n_free']}), of "
            f"{found['waiting_bytes']} bytes and more {100 * found['share_waiting']:.0f} % (n = {found['n_waiting']})"
        )


def _host_lines(found: Report | None) -> Iterator[str]:
    if found is not None:
        quick, slow = (
            f"{1e3 * found[f'{name}_late_s']:+.2f} ms against the prediction where the host took "
            f"{1e3 * found[f'{name}_issue_s']:.2f} ms to issue them"
            for name in ("quick", "slow")
        )
        yield f"decode steps (n = {found['n']}): {quick} (mean of the quickest quarter), {slow} (the slowest)"


def _counter_lines(counters: Report, floor: Report | None) -> Iterator[str]:
    for name, found in counters.items():
        noise = "" if floor is None or name not in floor else f" (real-real {floor[name]['difference']:+.6g})"
        yield (
            f"{name}: simulated {found['simulated']:.6g}, measured {found['measured']:.6g}, "
            f"difference {found['difference']:+.6g}{noise}"
        )


def _aim_line(aim: Report) -> str:
    value = "-" if aim["value"] is None else _percent(aim["value"])
    bounds = "" if aim["low"] is None else f" [{_percent(aim['low'])}, {_percent(aim['high'])}]"
    reason = f" ({aim['reason']})" if aim["reason"] else ""
    return f"{aim['aim']} within {100 * aim['bound']:.0f} %: {value}{bounds}, n = {aim['n']}: {aim['verdict']}{reason}"


def policies_text(report: Report) -> str:
    """Return the table of `report_policies` beyond its pairs: errors by load, gains and order."""
    lines = []
    for name, found in report["regions"].items():
        errors = ", ".join(_percent(error) for error in found["ttft_p99_errors"]) or "-"
        load = name if name.startswith("load") else f"load {name}"
        lines.append(f"{load}: {found['runs']} runs, n = {found['n']}, TTFT P99 errors {errors}")
    for gain in report["gains"]:
        lines += [_gain_line(gain, q) for q in ("p50", "p99")]
    order = report["order"]
    agreement = "-" if order["agreement"] is None else f"{100 * order['agreement']:.0f} %"
    lines.append(f"by TTFT P99, predicted: {' < '.join(order['predicted'])}; real: {' < '.join(order['real'])}")
    lines.append(f"pairs of policies in the same order: {agreement}")
    return "\n".join(lines) + "\n"


def _gain_line(gain: Report, q: str) -> str:
    found = gain[q]
    again = "" if found["real_again"] is None else f", real again {_percent(found['real_again'])}"
    return (
        f"{gain['policy']} over {gain['baseline']}, TTFT {q.upper()}: predicted gain {_percent(found['predicted'])}, "
        f"real {_percent(found['real'])}{again}, difference {100 * found['difference']:+.1f} points "
        f"[{100 * found['low']:+.1f}, {100 * found['high']:+.1f}], n = {gain['n']}: {found['verdict']}"
    )


def _ms(seconds: float) -> str:
    milliseconds = 1e3 * seconds
    shown = f"{milliseconds:.1f}" if milliseconds >= 1000 else f"{milliseconds:.4g}"
    return f"{shown:>8} ms"


def _percent(share: float) -> str:
    return f"{100 * share:+.1f} %"


def draw(simulated: Observed, measured: Observed, repeat: Observed | None = None) -> Figure:
    """Return two panels: distributions of TTFT on a log scale, and iterations predicted against measured."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - takes seconds to import
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _draw_ttft(left, {"measured": measured, "simulated": simulated, "measured again": repeat})
    _draw_iterations(right, simulated, measured)
    return figure


def _role(role: str, label: str) -> str:
    return role if label == role else f"{role}: {label}"


def _draw_ttft(axes: Axes, runs: Mapping[str, Observed | None]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter  # noqa: PLC0415 - takes seconds to import

    for role, run in runs.items():
        ttft_s = None if run is None else run.requests["ttft_s"].dropna()
        if run is None or ttft_s is None or not len(ttft_s):
            continue
        label = f"{_role(role, run.label)} (n = {len(ttft_s)})"
        axes.ecdf(ttft_s * 1e3, label=label, color=COLOURS[role], linestyle="--" if role == "simulated" else "-")
    axes.set(xscale="log", xlabel="time to first token (ms)", ylabel="share of requests", ylim=(0, 1))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    if axes.lines:
        axes.legend(loc="upper left", fontsize="small")


def _draw_iterations(axes: Axes, simulated: Observed, measured: Observed) -> None:
    pairs = pair_iterations(simulated.iterations, measured.iterations)
    known = None if pairs is None else pairs[pairs["simulated_s"].notna()]
    if known is None or not len(known):
        axes.text(0.5, 0.5, "no iterations to compare", ha="center", va="center", transform=axes.transAxes)
        axes.set_axis_off()
        return
    for place, (kind, group) in enumerate(known.groupby("kind")):
        shown = group.iloc[:: -(-len(group) // MOST_POINTS)]
        colour = KIND_COLOURS[place % len(KIND_COLOURS)]
        label = f"{kind} ({len(shown)} of {len(group)} shown)"
        axes.scatter(shown["measured_s"] * 1e3, shown["simulated_s"] * 1e3, s=6, color=colour, label=label)
    ends = [float(known["measured_s"].min()) * 1e3, float(known["measured_s"].max()) * 1e3]
    axes.plot(ends, ends, color="#999999", linewidth=1)
    axes.set(xlabel="measured iteration (ms)", ylabel="simulated iteration (ms)")
    axes.legend(loc="upper left", fontsize="small")


def write_report(
    report: Report, text: str, out: Path, figure: Figure | None = None, name: str = "report"
) -> list[Path]:
    """Write `name`.json, .txt and, with a figure, .png into a folder, each whole or not at all, and return their paths.

    Args:
        report: of `report_pair` or `report_policies`.
        text: its table.
        out: the folder; it is made.
        figure: of `draw`.
        name: of the files.
    """
    paths = [out / f"{name}.json", out / f"{name}.txt"]
    write_text(paths[0], json.dumps(report, indent=1, allow_nan=False) + "\n")
    write_text(paths[1], text)
    if figure is None:
        return paths
    picture = out / f"{name}.png"
    with drafted(picture) as draft, draft.open("wb") as file:
        figure.savefig(file, format="png", dpi=120)
    return [*paths, picture]
