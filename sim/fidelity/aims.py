"""What is aimed at in each published set: the largest relative error of a metric.

All were set before anything was fitted, but for those of S-LoRA on the H100 and of vLLM's V0, which are the weights of
their fits.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from sim.fidelity.measures import Measure

QUEUEING_S = 2.0  # above this a mean first token measures how long the run was, not the engine


class Verdict(NamedTuple):
    """How many measures of a metric keep within its aim.

    Attributes:
        aim: the largest relative error that was promised.
        within: measures that keep to it.
        judged: measures that it is meant for.
    """

    aim: float
    within: int
    judged: int


_SLORA = {"throughput": 0.01, "avg_latency": 0.03, "avg_first_token_latency": 0.07}
_VLLM_LORA = {"ttft_p50": 0.15, "ttft_p99": 0.30, "tpot_mean": 0.10}
_VLLM = {"ttft_mean": 0.05, "tpot_mean": 0.05, "ttft_p99": 0.10, "tpot_p99": 0.10}
AIMS = {
    "slora-a10g": _SLORA,
    "slora-a100-80": _SLORA,
    "slora-h100": {"ttft_p50_ms": 0.07, "tpot_mean_ms": 0.03},
    "vllm-lora-h100-8b": _VLLM_LORA,
    "vllm-lora-h100-7b": _VLLM_LORA,
    "vllm-v0-h100": {"ttft_p50": 0.15, "ttft_mean": 0.15, "tpot_mean": 0.10},
    "vllm-rtx4090": _VLLM,
}
FIT_SUFFIX = "-fit"  # of a set's name: rows on which something was fitted


def aim_of(measure: Measure) -> float | None:
    """Return the relative error that was promised of a measure; None where nothing was."""
    if measure.metric == "avg_first_token_latency" and measure.measured > QUEUEING_S:
        return None
    return AIMS.get(measure.set.removesuffix(FIT_SUFFIX), {}).get(measure.metric)


def verdict(measures: Iterable[Measure]) -> Verdict | None:
    """Return how many measures of one metric of one set keep within their aim; None where nothing was promised."""
    judged = [(abs(one.relative_error), aim) for one in measures if (aim := aim_of(one)) is not None]
    if not judged:
        return None
    return Verdict(judged[0][1], sum(error <= aim for error, aim in judged), len(judged))
