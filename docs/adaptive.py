"""Measure the adaptive policies against all published ones in twelve regimes, and write docs/adaptive.md.

    python docs/adaptive.py

Finished runs are kept in runs/adaptive/, so that it goes on where it was stopped; runs of another version of the source
are made again, unless --any-version is given, and the page then says so.
"""  # noqa: INP001 - a script beside the page that it writes, no package

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from adaptive_runs import (
    ADAPTERS,
    CAPACITY_SEED,
    KV_TOKENS,
    LOADS,
    MEMORIES,
    OURS,
    PARTS,
    REGIMES,
    REQUESTS,
    SEEDS,
    SYSTEM,
    Key,
    Part,
    Regime,
    Runs,
    complete,
    rate_per_s,
)  # fmt: skip

from sim.statistics import Interval, mean_interval, paired_difference

HERE = Path(__file__).resolve().parent


class Metric(NamedTuple):
    """What is compared; less is better."""

    name: str
    title: str
    digits: int


METRICS = (Metric("p99_ms", "P99 TTFT (ms)", 0), Metric("wait_s", "load seconds on the critical path", 2))


def values(seam: str, regime: Regime, policy: str, metric: str, runs: Runs) -> list[float] | None:
    """Return one number per seed, None where a run failed."""
    found = [runs[Key(seam, regime, policy, seed).text].get(metric) for seed in SEEDS]
    return None if None in found else [float(one) for one in found if one is not None]


class Regret(NamedTuple):
    """Our policy against the best published one of a regime, as found on the same seeds, or on the others."""

    best: str
    theirs: Interval
    ours: Interval
    difference: Interval
    held_out: Interval

    @property
    def verdict(self) -> str:
        """Whether the interval of the difference excludes zero."""
        if not self.difference.excludes_zero:
            return "same"
        return "better" if self.difference.estimate < 0 else "worse"


def regret(part: Part, regime: Regime, metric: str, runs: Runs) -> Regret:
    """Return how we do in a regime.

    The best of many on the very seeds that it is compared on is partly the luckiest, which is against us; `held_out`
    takes for each seed the policy that was best on the others, and so is fair.
    """
    ours = values(part.seam, regime, OURS, metric, runs)
    rivals = {policy: values(part.seam, regime, policy, metric, runs) for policy in part.published}
    known = {policy: found for policy, found in rivals.items() if found is not None}
    if ours is None or not known:
        msg = f"{part.seam} {'/'.join(regime)}: nothing to compare, {len(known)} published policies ran"
        raise ValueError(msg)
    best = min(known, key=lambda policy: math.fsum(known[policy]))
    chosen = [known[_best_without(seed, known)][seed] for seed in range(len(SEEDS))]
    theirs = known[best]
    return Regret(
        best,
        mean_interval(theirs),
        mean_interval(ours),
        paired_difference(theirs, ours),
        paired_difference(chosen, ours),
    )


def _best_without(seed: int, known: dict[str, list[float]]) -> str:
    return min(known, key=lambda policy: math.fsum(known[policy]) - known[policy][seed])


def number(interval: Interval, digits: int, *, is_signed: bool = False) -> str:
    """Return estimate and bounds."""
    sign = "+" if is_signed else ""
    low, high = interval.low or 0.0, interval.high or 0.0
    return f"{interval.estimate:{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def table(header: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *body]
    return [f"| {' | '.join(line)} |" for line in lines]


def compared(part: Part, metric: Metric, runs: Runs) -> list[str]:
    """Return the section of one seam and metric."""
    found = {regime: regret(part, regime, metric.name, runs) for regime in REGIMES}
    body = [
        [
            f"{regime.memory}, {regime.traffic}, {rate_per_s(regime, runs):.3g}/s",
            one.best,
            number(one.theirs, metric.digits),
            number(one.ours, metric.digits),
            number(one.difference, metric.digits, is_signed=True),
            one.verdict,
            number(one.held_out, metric.digits, is_signed=True),
        ]
        for regime, one in found.items()
    ]
    counts = {word: sum(one.verdict == word for one in found.values()) for word in ("better", "same", "worse")}
    fair = sum(one.held_out.excludes_zero and one.held_out.estimate > 0 for one in found.values())
    told = (
        f"Of {len(REGIMES)} regimes ours is better in {counts['better']}, the same within noise in {counts['same']} "
        f"and worse in {counts['worse']}; against the policy chosen on the other seeds it is worse in {fair}. "
        f"{_headroom(part, metric, runs)}"
    )
    header = ["regime", "best published", "its mean", "ours", "ours - best", "verdict", "ours - chosen on other seeds"]
    return [f"### {part.seam}: {metric.title}", "", told, "", *table(header, body), ""]


def _headroom(part: Part, metric: Metric, runs: Runs) -> str:
    """Return how far ours and the bound are from the best published policy, which tells what there is to be won."""
    shares = {}
    for policy in (OURS, part.bound):
        ratios = [
            math.fsum(values(part.seam, regime, policy, metric.name, runs) or [math.nan])
            / (regret(part, regime, metric.name, runs).theirs.estimate * len(SEEDS))
            for regime in REGIMES
        ]
        shares[policy] = 100 * (math.fsum(ratios) / len(ratios) - 1)
    ours, bound = (f"{shares[policy]:+.1f} %" for policy in (OURS, part.bound))
    return f"Mean over the regimes, against the best published: ours {ours}, {part.bound} {bound}."


def everything(part: Part, metric: Metric, runs: Runs) -> list[str]:
    """Return the means of all policies in all regimes."""
    policies = (OURS, *part.published, part.bound)
    body = [[policy, *(_mean(part, regime, policy, metric, runs) for regime in REGIMES)] for policy in policies]
    header = [part.seam, *(" ".join(regime) for regime in REGIMES)]
    return [f"### {part.seam}: {metric.title}, means of every policy", "", *table(header, body), ""]


def _mean(part: Part, regime: Regime, policy: str, metric: Metric, runs: Runs) -> str:
    found = values(part.seam, regime, policy, metric.name, runs)
    return "failed" if found is None else f"{mean_interval(found).estimate:.{metric.digits}f}"


def beside(part: Part, runs: Runs) -> list[str]:
    """Return P50 and hit rate next to those of the best published policy by P99."""
    body = []
    for regime in REGIMES:
        best = regret(part, regime, "p99_ms", runs).best
        cells = [f"{regime.memory}, {regime.traffic}, {regime.load}", best]
        for metric, factor, digits in (("p50_ms", 1, 1), ("hit_rate", 100, 1)):
            pair = [values(part.seam, regime, policy, metric, runs) or [math.nan] for policy in (best, OURS)]
            theirs, ours = ([factor * one for one in side] for side in pair)
            cells += [f"{mean_interval(theirs).estimate:.{digits}f}", f"{mean_interval(ours).estimate:.{digits}f}"]
            cells.append(number(paired_difference(theirs, ours), digits, is_signed=True))
        body.append(cells)
    header = ["regime", "best by P99", "its P50 (ms)", "ours", "ours - its", "its hit rate (%)", "ours", "ours - its"]
    return [f"### {part.seam}: P50 TTFT and hit rate", "", *table(header, body), ""]


# --- the page ---

HEAD = f"""\
# Policies of our own that adapt to the traffic

Written by `python docs/adaptive.py`; not edited by hand. Simulated, with the packaged costs of a Llama-7B on an A40.

The cache `adaptive` keeps the adapters with the highest chance of being used next * load seconds / size, the chance
forecast by counts that fade at several speeds and that the traffic itself weighs. The prefetcher `adaptive` brings in
the adapters of waiting requests, then, into free memory only, what the same forecast makes worth the time of the link.
Neither has anything to tune. Both were written on seeds from {CAPACITY_SEED} on; the tables use the seeds
{SEEDS[0]} to {SEEDS[-1]}.

* Base: the packaged system `{SYSTEM}` (first come first served, loads overlap with decoding) with adapters in idle
  memory, {ADAPTERS} adapters, a KV pool of {KV_TOKENS} tokens; {REQUESTS} requests of the workload `paper` a run. The
  cache is compared with the prefetcher `queued`, the prefetcher with the cache `elora`.
* Memory: beside a full KV pool fit {", ".join(f"{share:.0%} ({word})" for word, share in MEMORIES.items())} of all
  adapters' bytes; while KV is not full, more.
* Traffic: adapters drawn independently (i.i.d.), or in sessions with drift (`workload.locality={{}}`).
* Load: {" and ".join(f"{share:.0%} ({word})" for word, share in LOADS.items())} of the requests per second that come
  out at saturation with the cache `lru`, seed {CAPACITY_SEED}.
* Best published: of all built-in policies that do not know the future, the one with the lowest mean over the very seeds
  that it is compared on. The best of many is partly the luckiest, which is against us; the last column therefore also
  takes, for each seed, the policy that was best on the other seeds.
* Intervals are 95 % t intervals over {len(SEEDS)} seeds, differences paired by seed; less is better. "worse" and
  "better": the interval excludes zero, as one in twenty does by chance where there is no difference.
* `belady` and `oracle` know the future and are no rivals. Where they are no better in P99 than the best published
  policy, adapters do not decide P99, and only the load seconds tell policies apart.
* failed: the policy raised an error in a run, and is no rival there. `slora` prefetches between rounds of admission,
  which this base does not space out, so that it never does.
"""


def page(runs: Runs) -> str:
    """Return the page."""
    lines = [HEAD]
    versions = {runs[key]["version"] for key in runs}
    if len(versions) > 1:
        lines += [f"The runs were made by {len(versions)} versions of the source.", ""]
    for part in PARTS:
        lines += [f"## {part.seam}", ""]
        for metric in METRICS:
            lines += compared(part, metric, runs)
        lines += beside(part, runs)
        for metric in METRICS:
            lines += everything(part, metric, runs)
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=-1, help="processes; -1: one for each core")
    parser.add_argument("--store", type=Path, default=HERE.parent / "runs" / "adaptive" / "runs.jsonl")
    parser.add_argument("--out", type=Path, default=HERE / "adaptive.md")
    parser.add_argument(
        "--any-version", action="store_true", help="also take kept runs of other versions of the source"
    )
    given = parser.parse_args()
    try:
        runs = complete(given.store, given.jobs, any_version=given.any_version)
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from the runs that are finished")
    given.out.write_text(page(runs), encoding="utf-8")
    sys.stderr.write(f"written to {given.out}\n")


if __name__ == "__main__":
    main()
