"""Schedulers of other systems for random worlds, each with parameters that matter within milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from hypothesis import strategies as st

from policies.base import Scheduler
from policies.dlora import DLoRA
from policies.early_abort import EarlyAbort
from policies.fairness import VTC
from policies.feedback import FastServe
from policies.grouping import PEFT, Cluster
from policies.lorax import LoRAX
from policies.ranking import LearningToRank
from policies.scheduling import HeadOfLine
from policies.skipping import SGLang, SkipAdapters

T = TypeVar("T")
Draw = st.DrawFn


def one_of(draw: Draw, *values: T) -> T:
    return draw(st.sampled_from(values))


DRAWN: dict[str, Callable[[Draw], Callable[[], Scheduler]]] = {
    "head-of-line": lambda draw: HeadOfLine,
    "skip": lambda draw: SkipAdapters,
    "sglang": lambda draw: partial(
        SGLang, resident_only=one_of(draw, True, False), drain_wait_s=one_of(draw, None, 0.0001, 0.005, 0.05)
    ),
    "cluster": lambda draw: partial(Cluster, adapters=one_of(draw, 1, 2, 3)),
    "peft": lambda draw: PEFT,
    "early-abort": lambda draw: partial(
        EarlyAbort, slo_s=one_of(draw, 0.004, 0.05, 6.0), margin_s=one_of(draw, 0.0, 0.001)
    ),
    "vtc": lambda draw: partial(VTC, input_weight=one_of(draw, 0.0, 0.3, 1.0), output_weight=one_of(draw, 0.7, 2.0)),
    "lorax": lambda draw: partial(
        LoRAX,
        max_active=one_of(draw, 1, 2, 128),
        memory_share=one_of(draw, 0.1, 0.5),
        cycle_s=one_of(draw, 0.001, 0.01, 2.0),
        waiting_ratio=one_of(draw, 0.3, 1.5),
        waiting_steps=one_of(draw, 1, 20),
    ),
    "dlora": lambda draw: DLoRA,
    "learning-to-rank": lambda draw: partial(
        LearningToRank, starvation_steps=one_of(draw, 5, 30, 200), promoted_steps=one_of(draw, 1, 10)
    ),
    "fastserve": lambda draw: partial(
        FastServe,
        quantum_s=one_of(draw, 0.0005, 0.01),
        starvation_s=one_of(draw, 0.001, 3.0),
        starvation_steps=one_of(draw, 7, 50, 1000),
    ),
}
