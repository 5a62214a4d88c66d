"""vLLM's server runs with LoRA on an H100, as FerranAgulloLopez/GPULLMAdapterOptimization (Apache-2.0) published them.

Each row with rates per adapter is rebuilt (sim/fidelity/vllm_workload.py), served (sim/fidelity/vllm_server.py) and its
metrics set beside the published ones. Rows without rates do not say when their requests came, and are not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from policies.base import FloatArray
from sim.fidelity.aims import FIT_SUFFIX
from sim.fidelity.load import capacity_per_s
from sim.fidelity.measures import REGIONS, Measure, region_of
from sim.fidelity.vllm_rows import METRICS, RunRow, rated_rows
from sim.fidelity.vllm_server import Answered, answered, server
from sim.fidelity.vllm_workload import workload

# Rows that something was fitted on have a set that ends in "-fit"; their servers kept up. Of Llama-3.1-8B, those where
# every adapter has one of so many slots, named before any error was looked at. Of Llama-2-7B every other one, named
# before the numbers of its servers were fitted (`sim.fidelity.vllm_v0_fit`), but after errors of the
# law before that had been seen.
FIT_SLOTS = (16, 64, 192)
KEPT_UP = 0.9  # of the offered load was completed in the window
FIT_TTFT_MS = 1000.0  # and the median first token came within this

# The slots cliff: the same requests, fewer and fewer slots. Always in the subset.
CLIFF = (64, (0.1, 0.05, 0.025))
# Larger rows are left to a thorough comparison: the subset is to take about a minute.
SUBSET_REQUESTS = 15_500
LONG_S = 1000.0
LONG_WAIT_MS = 10_000.0  # half of the requests waited so long: a backlog, even if most were answered in the end
KEPT_OF_LONG = slice(3, None, 7)  # of the long runs by size


@dataclass(frozen=True)
class VllmRun:
    """One published server run.

    Attributes:
        row: the run.
        set: the name of its set, see `sets_of`.
        seeds: how many times it is drawn and simulated; metrics are means over them.
    """

    row: RunRow
    set: str
    seeds: int = 1

    @property
    def name(self) -> str:
        """The run, in words that no other of its set has."""
        return self.row.words

    @property
    def requests(self) -> int:
        """About how many requests arrive in the window, all seeds together."""
        return self.seeds * self.row.arrivals

    def measures(self) -> list[Measure]:
        """Simulate the run and return its metrics beside the published ones."""
        row, loaded = self.row, server(self.row)
        told: list[dict[str, float]] = []
        for seed in range(self.seeds):
            trace = workload(row, seed)
            told.append(metrics(answered(loaded, trace, row.dur), row.dur))
        simulated = {metric: float(np.mean([one[metric] for one in told])) for metric in METRICS}
        region = self._region()
        published = {metric: getattr(row, metric) for metric in METRICS}
        return [
            Measure(self.set, row.words, region, metric, measured, simulated[metric])
            for metric, measured in published.items()
            if measured is not None
        ]

    def _region(self) -> str:
        """Return the load's region; where the published server fell behind it was above its capacity, whatever ours."""
        row = self.row
        if row.ttft_p50 > LONG_WAIT_MS or not kept_up(row):
            return REGIONS[-1]
        return region_of(row.offered_per_s / capacity_per_s(server(row, starts_warm=True), workload(row)))


def cases(path: Path, *, seeds: int = 1, thorough: bool = False) -> list[VllmRun]:
    """Return the published runs that can be rebuilt.

    Args:
        path: vllm_lora_h100_runs.csv.
        seeds: draws of each workload.
        thorough: most such runs, see `most`; else a fixed subset, see `subset`.

    Raises:
        ConfigError: if the table is wrong.
        FileNotFoundError: if there is none.
    """
    rows = rated_rows(path)
    names = sets_of(rows)
    return [VllmRun(row, names[row], seeds) for row in (most if thorough else subset)(rows)]


def every_case(path: Path, *, seeds: int = 1) -> list[VllmRun]:
    """Return all runs of somebody's own table that can be rebuilt."""
    return [VllmRun(row, row.server.set, seeds) for row in rated_rows(path)]


def most(rows: Sequence[RunRow]) -> list[RunRow]:
    """Return every run, but of those that fell behind for an hour only every seventh by size."""
    long = sorted((row for row in rows if is_long(row)), key=lambda row: row.arrivals)
    return [row for row in rows if not is_long(row) or row in long[KEPT_OF_LONG]]


def is_long(row: RunRow) -> bool:
    """Whether the server fell behind for an hour, which takes minutes to simulate."""
    return not kept_up(row) and row.dur > LONG_S


def subset(rows: Sequence[RunRow]) -> list[RunRow]:
    """Return the smallest run of every stratum, and the slots cliff; by size alone, whatever the errors are.

    A stratum has a model, a number of slots, adapters that fit into them or do not, and a server that kept up or did
    not; one whose smallest run exceeds `SUBSET_REQUESTS` is left out.
    """
    smallest: dict[tuple[object, ...], RunRow] = {}
    for row in sorted(rows, key=lambda row: (row.arrivals, row.words)):
        smallest.setdefault((row.model, row.slots, (row.n_adapters or 0) > row.slots, kept_up(row)), row)
    chosen = [row for row in smallest.values() if row.arrivals <= SUBSET_REQUESTS]
    return [row for row in rows if row in chosen or (row.n_adapters, row.rates) == CLIFF]


def kept_up(row: RunRow) -> bool:
    """Whether the published server completed what was offered."""
    return row.rps >= KEPT_UP * row.offered_per_s


def is_steady(row: RunRow) -> bool:
    """Whether the published server kept up and half of its requests hardly waited."""
    return kept_up(row) and row.ttft_p50 < FIT_TTFT_MS


def sets_of(rows: Sequence[RunRow]) -> dict[RunRow, str]:
    """Return the name of the set of each run of the published table, which tells whether anything was fitted on it."""
    steady = [row for row in rows if is_steady(row)]
    old = [row for row in steady if row.server.system == "vllm-v0"]
    new = [row for row in steady if row.server.system == "vllm" and row.n_adapters == row.slots in FIT_SLOTS]
    fitted = {*old[::2], *new}
    return {row: f"{row.server.set}{FIT_SUFFIX * (row in fitted)}" for row in rows}


def metrics(done: Answered, window_s: float) -> dict[str, float]:
    """Return what the published columns say, in their units, of the requests that were answered in the window."""
    return {
        "rps": len(done.ttft_s) / window_s,
        "ttft_p50": _percentile_ms(done.ttft_s, 50),
        "ttft_p99": _percentile_ms(done.ttft_s, 99),
        "ttft_mean": 1e3 * float(done.ttft_s.mean()),
        "tpot_mean": 1e3 * float(done.tpot_s.mean()),
        "itl_mean": 1e3 * done.itl_mean_s,
        "itl_p99": 1e3 * done.itl_p99_s,
    }


def _percentile_ms(values_s: FloatArray, percent: float) -> float:
    return 1e3 * float(np.percentile(values_s, percent))
