"""What a load must keep to for a system to carry it, and one load put to that test."""

from __future__ import annotations

from typing import NamedTuple

from sim.config import Loaded
from sim.experiments.replications import replace_config
from sim.experiments.run import execute
from sim.results.metrics import Offered
from sim.results.remarks import remarks
from sim.results.result import Result
from sim.results.vllm_bench import within

COMPLETED = 0.99  # of the offered requests: those without a first token miss every objective


class Objective(NamedTuple):
    """Bounds on latencies; at least one is given.

    Attributes:
        ttft_s: bound of the time to first token; None: none.
        tpot_s: bound of the time per output token after the first, which a request of one token meets; None: none.
        attainment: share of all offered requests that must meet every bound (goodput's definition, DistServe, OSDI
            2024). None: the P99 of each latency, over completed requests, must be within its bound, and 99 % of the
            offered requests must be completed (MLPerf's definition).
    """

    ttft_s: float | None = None
    tpot_s: float | None = None
    attainment: float | None = None

    @property
    def bounds_s(self) -> dict[str, float]:
        """The bounds that are given, by latency."""
        given = {"ttft": self.ttft_s, "tpot": self.tpot_s}
        return {name: bound for name, bound in given.items() if bound is not None}

    def __str__(self) -> str:
        if self.attainment is None:
            return " and ".join(f"P99 {name.upper()} <= {bound:g} s" for name, bound in self.bounds_s.items())
        bounds = " and ".join(f"{name.upper()} <= {bound:g} s" for name, bound in self.bounds_s.items())
        return f"{bounds} for {100 * self.attainment:g} % of requests"


class Probe(NamedTuple):
    """One load and how the system did under it.

    Attributes:
        rate_per_s: offered requests/s; None: the stamps of a trace file.
        replicas: engines behind the router.
        is_met: whether it kept to the objective.
        p99_ttft_ms, p99_tpot_ms: over completed requests; None: there were none.
        attainment: share of offered requests within every bound.
        queue: stable, backlogged or overloaded; but for stable the answer depends on how long the run was.
        remarks: what its seconds rest on, see `sim.results.remarks`.
    """

    rate_per_s: float | None
    replicas: int
    is_met: bool
    p99_ttft_ms: float | None
    p99_tpot_ms: float | None
    attainment: float
    queue: str
    remarks: tuple[str, ...] = ()


def at_rate(loaded: Loaded, rate_per_s: float) -> Loaded:
    """Return the same configuration at another rate."""
    workload = loaded.config.workload.model_copy(update={"rate_per_s": rate_per_s})
    return replace_config(loaded, workload=workload)


def probe(loaded: Loaded, objective: Objective) -> Probe:
    """Simulate a configuration and say whether it keeps to an objective."""
    result = execute(loaded)
    metrics, bounds_ms = result.summary["metrics"], {name: 1e3 * bound for name, bound in objective.bounds_s.items()}
    good = within(Offered(result.run.trace, result.run.records), bounds_ms)["all"]
    attainment = float(good.mean()) if len(good) else 0.0
    return Probe(
        rate_per_s=loaded.config.workload.rate_per_s,
        replicas=loaded.config.replicas,
        is_met=_tails_are_within(result, bounds_ms)
        if objective.attainment is None
        else attainment >= objective.attainment,
        p99_ttft_ms=metrics["ttft_ms"]["p99"],
        p99_tpot_ms=metrics["tpot_ms"]["p99"],
        attainment=attainment,
        queue=result.summary["stability"]["verdict"],
        remarks=tuple(remarks([result.summary])),
    )


def _tails_are_within(result: Result, bounds_ms: dict[str, float]) -> bool:
    requests, metrics = result.summary["requests"], result.summary["metrics"]
    if not requests["completed"] or requests["completed"] < COMPLETED * requests["offered"]:
        return False
    # No TPOT at all means that every output was one token long.
    tails = {name: metrics[f"{name}_ms"]["p99"] for name in bounds_ms}
    return all(tail is None or tail <= bounds_ms[name] for name, tail in tails.items())
