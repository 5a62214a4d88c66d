"""What Llama-2-7B's published servers say about vLLM's V0 engine, by which they are taken to have been run.

Three numbers of the runs that kept up: V0 decodes with BGMV, which reads an adapter again for each sequence and knows
no slots; it launches prompts kernel by kernel; and a first load was not logged for these servers. Medians and means are
fitted: a 99th percentile of five minutes is up to a few first loads that meet (of two servers with the same load, which
differ in slots that V0's kernels do not know, one had 0.7 s and the other 9.5 s).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sim.config import load_config
from sim.fidelity.fitting import Coefficient, Trial, Values, fit_rough, with_costs
from sim.fidelity.plans import Plan, Run
from sim.fidelity.vllm import is_steady, metrics
from sim.fidelity.vllm_rows import METRICS, OneRun, RunRow
from sim.fidelity.vllm_server import answered, server
from sim.fidelity.vllm_workload import workload

SET, SYSTEM = "vllm-v0-h100", "vllm-v0"
FIRST_LOAD = "loading.disk_latency_s"
# Beliefs without the runs: what S-LoRA's BGMV takes a token; a thousand kernels at 15 us; between the 83 ms from the
# page cache and the 263 ms from disk that the authors logged of other servers.
PRIORS = {"costs.lora_sequence_s": (31.35e-6, 1.0), "costs.prefill_launch_s": (15e-3, 0.7), FIRST_LOAD: (0.148, 0.6)}


@dataclass(frozen=True)
class V0Run(OneRun):
    """A published run of V0's servers."""

    @property
    def set(self) -> str:
        """What its numbers are held against."""
        return SET

    @property
    def workload(self) -> object:
        """What tells its requests from those of other runs: all are drawn anew."""
        return self.row.words

    @property
    def published(self) -> Mapping[str, float]:
        """Its numbers by name."""
        found = {name: getattr(self.row, name) for name in METRICS}
        return {name: value for name, value in found.items() if value is not None}

    def simulated(self, trial: Trial) -> dict[str, float]:
        """Return the same numbers as simulated."""
        row = self.row
        return metrics(answered(server(row), workload(row), row.dur, trial), row.dur)


def v0_plan() -> Plan:
    """Return the fit of the three numbers."""
    costs = load_config(SYSTEM).config.costs
    coefficients = tuple(Coefficient(key, *belief) for key, belief in PRIORS.items())

    def trial(values: Values) -> Trial:
        own = {key: value for key, value in values.items() if key != FIRST_LOAD}
        return Trial(engine=with_costs(costs, own), disk_latency_s=values[FIRST_LOAD])

    return Plan(SET, SYSTEM, coefficients, trial, fit_rough)


def v0_runs(rows: Sequence[RunRow]) -> list[Run]:
    """Return the runs that coefficients are fitted to: those of V0's servers that kept up."""
    return [V0Run(row) for row in rows if row.server.system == SYSTEM and is_steady(row)]
