"""The regression gate: rules such as "p99_ttft_ms > +5%" on what changes from the first run to another.

A rule fails only with confidence: the whole 95 % t interval of the change, paired by seed, lies beyond its bound. Noise
alone so trips it in at most one comparison of forty (2.5 %, one-sided) where the true change is just at the bound.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from sim.experiments.comparison import Side
from sim.names import closest
from sim.statistics import Interval, paired_difference, relative_reduction

Outcome = Literal["fails", "holds"]

_LATENCIES = ("ttft", "tpot", "itl", "e2el")
_WORDS = {"mean": "mean", "median": "p50", "p50": "p50", "p90": "p90", "p95": "p95", "p99": "p99", "p99.9": "p99_9"}
# name, as in `vllm_bench.json`, and path in `summary.json`
METRICS: dict[str, tuple[str, ...]] = {
    **{f"{word}_{name}_ms": ("metrics", f"{name}_ms", key) for name in _LATENCIES for word, key in _WORDS.items()},
    "request_throughput": ("throughput", "requests_per_s"),
    "output_throughput": ("throughput", "output_tokens_per_s"),
    "total_token_throughput": ("throughput", "total_tokens_per_s"),
    "duration": ("throughput", "duration_s"),
    "completed": ("requests", "completed"),
    "slo_attainment": ("slo", "attainment"),
    "hit_rate": ("adapters", "hit_rate"),
    "loads": ("adapters", "loads"),
    "prefetches": ("adapters", "prefetches"),
    "evictions": ("adapters", "evictions"),
    "bytes_h2d": ("adapters", "bytes_moved"),
    "pcie_utilisation": ("link", "utilisation"),
}
_RULE = re.compile(r"\s*([\w.]+)\s*([<>])\s*([+-]?)(\d+\.?\d*|\.\d+)\s*(%?)\s*")


class Gate(NamedTuple):
    """One rule.

    Attributes:
        text: as it was given.
        metric: one of METRICS.
        side: on which side of the bound a change fails.
        bound: of the change from the first run: a share of the first's value, or in the metric's own unit.
        scale: which of the two.
    """

    text: str
    metric: str
    side: Literal["<", ">"]
    bound: float
    scale: Literal["relative", "absolute"]

    def beyond(self, change: float) -> bool:
        """Whether one change lies beyond the bound."""
        return change > self.bound if self.side == ">" else change < self.bound


class Verdict(NamedTuple):
    """What a rule says of one run against the first.

    Attributes:
        label: the run.
        change: from the first run to this one; None: this one has no such number, which fails.
        outcome: "fails" if the whole interval lies beyond the bound.
    """

    gate: Gate
    label: str
    change: Interval | None
    outcome: Outcome

    def __str__(self) -> str:
        return f"{self.outcome.upper()}: {self.gate.text}: {self.label}: {self._told()}"

    def _told(self) -> str:
        if self.change is None:
            return "has no such number in some seed, the first run has"
        change, factor = self.change, 100.0 if self.gate.scale == "relative" else 1.0
        unit = " %" if self.gate.scale == "relative" else ""
        low, high = (0.0 if one is None else factor * one for one in (change.low, change.high))
        told = f"{factor * change.estimate:+.4g}{unit} [{low:+.4g}, {high:+.4g}] over {change.n} seeds"
        is_near = self.outcome == "holds" and self.gate.beyond(change.estimate)
        return f"{told}: beyond the bound on average, but not with confidence" if is_near else told


def parse_gate(text: str) -> Gate:
    """Return the rule in a text such as "p99_ttft_ms > +5%", "hit_rate < -0.02" or "mean_itl_ms > +1.5".

    A bound is a change from the first run, and so has a sign; with % it is a share of the first run's value, without it
    is in the metric's own unit (ms, requests/s, bytes, a share from 0 to 1).

    Raises:
        ValueError: if it is no such text, or names an unknown metric; all known ones are listed.
    """
    found = _RULE.fullmatch(text)
    if found is None:
        raise ValueError(_unreadable(text))
    metric, side, sign, digits, percent = found.groups()
    if metric not in METRICS:
        match = closest(metric, METRICS)
        hint = f" - did you mean {match!r}?" if match else ""
        msg = f"--fail-if {text!r}: no metric is named {metric!r}{hint} (the metrics: {', '.join(METRICS)})"
        raise ValueError(msg)
    if not sign and float(digits):
        msg = f"--fail-if {text!r}: the bound is a change from the first run and needs a sign: {metric} {side} "
        raise ValueError(f"{msg}+{digits}{percent} or -{digits}{percent}")
    bound = float(f"{sign}{digits}") / (100 if percent else 1)
    return Gate(text, metric, "<" if side == "<" else ">", bound, "relative" if percent else "absolute")


def _unreadable(text: str) -> str:
    return (
        f"--fail-if {text!r} cannot be read; METRIC > BOUND or METRIC < BOUND can, such as 'p99_ttft_ms > +5%' "
        f"(the metrics: {', '.join(METRICS)})"
    )


def judge(gates: Sequence[Gate], sides: Sequence[Side], seeds: Sequence[int]) -> Iterator[Verdict]:
    """Yield what every rule says of every run after the first.

    Raises:
        ValueError: if there are fewer than two shared seeds, or the first run has no number to compare with.
    """
    if len(seeds) < 2:
        msg = f"--fail-if needs two shared seeds or more, for without them there is no interval; there is {len(seeds)}"
        raise ValueError(f"{msg} (`chameleon run --reps 5 --out DIR` makes five)")
    for gate in gates:
        first = _values(gate, sides[0], seeds)
        if len(first) < len(seeds):
            msg = f"--fail-if {gate.text!r}: {sides[0].label} has no such number in some seed"
            raise ValueError(msg)
        for side in sides[1:]:
            yield _verdict(gate, side.label, first, _values(gate, side, seeds))


def _values(gate: Gate, side: Side, seeds: Sequence[int]) -> list[float]:
    found = (side.value(seed, METRICS[gate.metric]) for seed in seeds)
    return [value for value in found if value is not None]


def _verdict(gate: Gate, label: str, first: list[float], other: list[float]) -> Verdict:
    if len(other) < len(first):
        return Verdict(gate, label, None, "fails")
    change = paired_difference(first, other) if gate.scale == "absolute" else _relative(gate, first, other)
    nearest = change.low if gate.side == ">" else change.high
    is_beyond = nearest is not None and gate.beyond(nearest)
    return Verdict(gate, label, change, "fails" if is_beyond else "holds")


def _relative(gate: Gate, first: list[float], other: list[float]) -> Interval:
    if min(first) <= 0:
        msg = f"--fail-if {gate.text!r}: a change in % needs numbers above 0, the first run has {min(first):g}"
        raise ValueError(f"{msg}; give the bound without %, in the metric's unit")
    cut = relative_reduction(first, other)
    low, high = (None if bound is None else 0.0 - bound for bound in (cut.high, cut.low))
    return Interval(0.0 - cut.estimate, low, high, cut.n)
