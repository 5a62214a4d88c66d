"""What a reader of a report must know before believing its numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sim.experiments.comparison import is_paired, shared_seeds
from sim.hardware import CPU_MADE
from sim.report.data import Arm
from sim.report.tables import shares_seeds, verdicts

FEW = 100  # requests below which a P99 is no more than their maximum


def warnings_of(arms: Sequence[Arm]) -> list[str]:
    """Return a sentence for everything that limits what the numbers say."""
    return list(dict.fromkeys([*_of_pairs(arms), *(told for arm in arms for told in _of_arm(arm))]))


def _of_pairs(arms: Sequence[Arm]) -> Iterator[str]:
    if len(arms) == 1:
        return
    if not shares_seeds(arms):
        yield "The runs share no seed, so differences between them are not paired and no change is shown."
        return
    sides = [arm.side for arm in arms]
    seeds = shared_seeds(sides)
    if not is_paired(sides, seeds):
        yield "The runs differ in more than the system: workload, model or hardware are not the same."
    left_out = sorted(set().union(*(arm.seeds for arm in arms)) - set(seeds))
    if left_out:
        yield f"The headline leaves out seeds that not all have: {', '.join(map(str, left_out))}."
    runs = [run for arm in arms for run in arm.runs]
    if len({run.env.get("source_sha256") for run in runs if run.summary["simulated"]}) > 1:
        yield "The runs were made with different versions of the simulator's code."


def _of_arm(arm: Arm) -> Iterator[str]:
    if not arm.first.summary["simulated"]:
        yield f"{arm.label}: measured, not simulated."
    if verdicts(arm) != "stable":
        why = next(one["stability"]["reason"] for one in arm.summaries if one["stability"]["verdict"] != "stable")
        yield f"{arm.label}: the queue is {verdicts(arm)}; a P99 from it depends on how long the run was. {why}."
    for summary in arm.summaries:
        yield from _of_summary(arm.label, summary)


def _of_summary(label: str, summary: dict[str, Any]) -> Iterator[str]:
    requests = summary["requests"]
    for word in ("rejected", "unfinished"):
        if requests[word]:
            first = summary.get("first_rejection") if word == "rejected" else None
            reason = f"; the first: {first}" if first else ""
            told = f"{label}: {requests[word]} of {requests['offered']} requests were {word}{reason}."
            yield f"{told} No percentile holds them."
    if requests["completed"] < FEW:
        yield f"{label}: of {requests['completed']} requests the P99 is no more than the maximum."
    for warning in summary["costs"]["warnings"]:
        yield f"{label}: of the cost coefficients, {warning}"
    if CPU_MADE in summary["costs"]["origins"].values():
        yield f"{summary['hardware']} was measured on a CPU: that tries the harness and is no evidence."
    for setting in summary.get("idle_settings", ()):
        yield f"{label}: {setting}."
