"""The tables of a report: what was run, the headline, classes of requests, the busiest adapters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import isnan
from typing import Any

from sim.experiments.comparison import Row, compare, p99_band_ms, shared_seeds
from sim.names import SEAMS
from sim.report.data import Arm
from sim.report.html import Html, join, table, with_small
from sim.results.classes import CLASSES
from sim.statistics import Interval
from sim.texttable import change_text, interval_text, number, points

MOST_KEYS = 40  # of the differences between configurations
MOST_ADAPTERS = 12
NAMES = {"name", "description", "source"}


def shares_seeds(arms: Sequence[Arm]) -> bool:
    """Whether there is a seed that all arms have, so that they can be compared pair by pair."""
    return bool(set.intersection(*(set(arm.seeds) for arm in arms)))


def what_was_run(arms: Sequence[Arm]) -> Html:
    """Return a column per run: system, workload, hardware, policies, versions."""
    facts = [_facts(arm) for arm in arms]
    rows = [[name, *(one[name] for one in facts)] for name in facts[0]]
    return table(["", *(arm.label for arm in arms)], rows, "words")


def _facts(arm: Arm) -> dict[str, str]:
    config, summary, run = arm.config, arm.first.summary, arm.first
    workload = config.get("workload", {})
    offered = summary["requests"]["offered"]
    rate = workload.get("rate_per_s")
    origins = ", ".join(f"{group} {origin}" for group, origin in summary["costs"]["origins"].items())
    return {
        "system": with_small(str(summary["system"]), str(config.get("description", ""))),
        "workload": with_small(str(summary["workload"]), str(workload.get("trace") or "")),
        "requests": f"{offered:,} a run, {'own stamps' if rate is None else f'{rate:g}/s'}",
        "seeds": ", ".join(map(str, arm.seeds)),
        "model, hardware": with_small(f"{summary['model']} on {summary['hardware']}", f"costs: {origins}"),
        **{seam: _policy(config.get(seam)) for seam in SEAMS if seam != "router" or config.get("replicas", 1) > 1},
        "code": with_small(str(run.env.get("code_version")), f"source {str(run.env.get('source_sha256') or '-')[:12]}"),
        "directory": str(run.directory if len(arm.runs) == 1 else run.directory.parent),
    }


def _policy(spec: object) -> str:
    if not isinstance(spec, Mapping):
        return "-"
    given = ", ".join(f"{key}={value}" for key, value in spec.items() if key != "kind")
    return with_small(str(spec.get("kind")), given)


def differences(arms: Sequence[Arm]) -> Html:
    """Return the keys of the configuration in which the runs differ, or nothing."""
    flat = [dict(_flat(arm.config)) for arm in arms]
    keys = dict.fromkeys(key for one in flat for key in one)
    rows = [
        [key, *(str(one.get(key, "-")) for one in flat)]
        for key in keys
        if key not in {*NAMES, "seed"} and len({str(one.get(key, "-")) for one in flat}) > 1
    ]
    if not rows:
        return Html("")
    more = "" if len(rows) <= MOST_KEYS else f"{len(rows) - MOST_KEYS} more keys differ."
    return join([table(["key", *(arm.label for arm in arms)], rows[:MOST_KEYS], "words"), more])


def _flat(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def compared(arms: Sequence[Arm]) -> list[Row]:
    """Return a row per statistic: of all arms in pairs, or of each alone where they share no seed."""
    sides = [arm.side for arm in arms]
    if shares_seeds(arms):
        return compare(sides)
    alone = [compare([side]) for side in sides]
    return [
        Row(rows[0].label, tuple(row.intervals[0] for row in rows), (None,) * len(rows))
        for rows in zip(*alone, strict=True)
    ]


def headline(arms: Sequence[Arm]) -> Html:
    """Return a row per statistic over the seeds that all share, with n beside every P99, and changes against the first.

    Two runs have a column for the change; of more it stands under the value.
    """
    arms = on_shared_seeds(arms)
    base, *others = (arm.label for arm in arms)
    header = ["", base, *others] if len(others) > 1 else ["", base, *others, *(f"against {base}" for _ in others)]
    queue = ["Queue", *(verdicts(arm) for arm in arms)]
    queue += [""] * (len(header) - len(queue))
    return table(header, [*(_cells(row, arms) for row in compared(arms)), queue])


def on_shared_seeds(arms: Sequence[Arm]) -> list[Arm]:
    """Return the arms with the seeds that all have; as they are if there is none."""
    if not shares_seeds(arms):
        return list(arms)
    seeds = shared_seeds([arm.side for arm in arms])
    return [Arm(replace(arm.side, runs={seed: arm.side.runs[seed] for seed in seeds})) for arm in arms]


def verdicts(arm: Arm) -> str:
    """Return stable, backlogged or overloaded, or how many seeds were which."""
    found = [str(one["stability"]["verdict"]) for one in arm.summaries]
    counts = {one: found.count(one) for one in sorted(set(found))}
    return found[0] if len(counts) == 1 else ", ".join(f"{count} {one}" for one, count in counts.items())


def _cells(row: Row, arms: Sequence[Arm]) -> list[str]:
    values = [_value(row, place, arms) for place in range(len(arms))]
    changes = [_change(row, place) for place in range(1, len(arms))]
    if len(changes) < 2:
        return [row.label, *values, *changes]
    first, *others = values
    return [row.label, first, *(with_small(value, change) for value, change in zip(others, changes, strict=True))]


def _change(row: Row, place: int) -> str:
    against = row.against_first[place]
    if against is None:
        return "-"
    if "%" in row.label:
        return points(against.difference)
    return change_text(against.reduction)


def _value(row: Row, place: int, arms: Sequence[Arm]) -> str:
    shown = interval_text(row.intervals[place], most=100.0 if "%" in row.label else None)
    if not row.label.startswith("P99"):
        return shown
    metric = row.label.split()[1].lower()
    return with_small(shown, _sizes(arms[place], f"{metric}_ms") + _band(row, arms[place]))


def _sizes(arm: Arm, metric: str) -> str:
    sizes = sorted({int(one["metrics"][metric]["n"]) for one in arm.summaries})
    words = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    return f"n = {words}" if len(arm.runs) == 1 else f"n = {len(arm.runs)} × {words}"


def _band(row: Row, arm: Arm) -> str:
    """Return what one run alone says about its P99 TTFT."""
    if len(arm.runs) > 1 or "TTFT" not in row.label:
        return ""
    band: Interval | None = p99_band_ms(arm.side, arm.seeds[0])
    if band is None or band.low is None or band.high is None:
        return "; too few for an interval"
    return f"; within the run [{number(band.low)}, {number(band.high)}]"


def sentence(arms: Sequence[Arm]) -> str:
    """Return the headline in words, one sentence for each run after the first."""
    if len(arms) == 1 or not shares_seeds(arms):
        return ""
    rows = [row for row in compared(arms) if row.label == "P99 TTFT (ms)"]
    return " ".join(_told(rows[0], place, arms) for place in range(1, len(arms))) if rows else ""


def _told(row: Row, place: int, arms: Sequence[Arm]) -> str:
    against, seeds = row.against_first[place], len(shared_seeds([arm.side for arm in arms]))
    change = None if against is None else against.reduction
    if against is None or change is None:
        return f"{arms[place].label} cannot be compared with {arms[0].label} in P99 TTFT."
    words = f"{number(abs(100 * change.estimate))} % {'lower' if change.estimate >= 0 else 'higher'}"
    told = f"P99 TTFT of {arms[place].label} is {words} than that of {arms[0].label}"
    if change.low is None or change.high is None:
        return f"{told} in one paired seed, which says nothing about chance: more seeds (run --reps) would."
    low, high = (f"{-100 * bound:+,.0f}" for bound in (change.high, change.low))
    bounds = f"change {low} to {high} %, 95 % interval over {seeds} paired seeds"
    return f"{told} ({bounds}{'' if against.significant else '; it may be chance'})."


def classes(arms: Sequence[Arm]) -> Html:
    """Return thirds of the requests by tokens, a row per class and run: means over seeds of each seed's numbers."""
    header = ["prompt + output tokens", "", "n a run", "P50 TTFT (ms)", "P99 TTFT (ms)", "mean queue (ms)"]
    header += ["time in the queue", "P50 slowdown", "P99 slowdown"]
    rows = []
    for place, name in enumerate(CLASSES):
        for arm in arms:
            told = [one["by_size"][place] for one in arm.summaries]
            first = told[0]
            rows.append(
                [
                    f"{name} ({first['from']} to {first['to']})" if arm is arms[0] and first["n"] else "",
                    arm.label,
                    f"{first['n']:,}",
                    *(_mean(told, key, 0) for key in ("ttft_p50_ms", "ttft_p99_ms", "queue_mean_ms")),
                    _mean(told, "queue_share", 1, percent=True),
                    *(_mean(told, key, 2) for key in ("slowdown_p50", "slowdown_p99")),
                ]
            )
    return table(header, rows)


def _mean(rows: Sequence[Mapping[str, Any]], key: str, decimals: int, *, percent: bool = False) -> str:
    known = [row[key] for row in rows if row[key] is not None]
    if not known:
        return "-"
    mean = sum(known) / len(known)
    return f"{mean:.{decimals}%}" if percent else f"{mean:,.{decimals}f}"


def waits(arms: Sequence[Arm]) -> str:
    """Return the longest wait of each run in words."""
    longest = [max(one["starvation"]["max_wait_s"] or 0 for one in arm.summaries) for arm in arms]
    told = (f"{arm.label} {number(wait_s)} s" for arm, wait_s in zip(arms, longest, strict=True))
    return f"The longest wait for a place in the batch: {', '.join(told)}."


def adapters(arm: Arm) -> Html:
    """Return the adapters of which most bytes were loaded, then those asked for most, of the first seed."""
    frame = arm.first.adapters.sort_values(["bytes_loaded", "requests"], ascending=False).head(MOST_ADAPTERS)
    header = [
        "adapter",
        "rank",
        "MB",
        "GB loaded",
        "loads",
        "prefetched (used)",
        "evicted",
        "hits",
        "P50, P99 TTFT (ms)",
    ]
    rows = [_adapter(row) for row in frame.to_dict("records")]
    return table([*header, "requests", "share"], rows)


def _adapter(row: Mapping[Any, Any]) -> list[str]:
    asked = row["hits"] + row["misses"]
    return [
        str(row["adapter_id"]),
        f"{row['rank']}",
        f"{row['bytes'] / 1e6:,.0f}",
        f"{row['bytes_loaded'] / 1e9:,.2f}",
        f"{row['loads']:,}",
        f"{row['prefetches']:,} ({row['useful_prefetches']:,})",
        f"{row['evictions']:,}",
        f"{row['hits'] / asked:.0%}" if asked else "-",
        f"{_ms(row['p50_ttft_s'])}, {_ms(row['p99_ttft_s'])}",
        f"{row['requests']:,}",
        f"{row['traffic_share']:.1%}",
    ]


def _ms(seconds: float) -> str:
    return "-" if isnan(seconds) else f"{1e3 * seconds:,.0f}"
