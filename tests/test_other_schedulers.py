"""Schedulers of other systems in tiny worlds with the real core: merging, preemption, aborts, loads ahead."""

from __future__ import annotations

from functools import partial

import pytest

from policies.dlora import DLoRA
from policies.early_abort import EarlyAbort
from policies.feedback import FastServe
from policies.grouping import PEFT
from policies.lorax import LoRAX
from policies.ranking import LearningToRank
from policies.scheduling import HeadOfLine
from policies.skipping import SGLang
from sim.serving.records import Records
from tests.worlds import RoundCosts, World, play

MS = 10**9  # ticks
COSTS = RoundCosts(
    prefill_base=MS, prefill_token=0, decode_base=MS, decode_request=0, decode_context=0, load_base=2 * MS, load_byte=0
)
TWO = [(8, 100), (8, 100)]


def column(records: Records, name: str) -> dict[int, int]:
    """Return what a column of the request table holds, by request id."""
    return dict(zip(records.requests["request"].tolist(), records.requests[name].tolist(), strict=True))


def finished(records: Records) -> list[int]:
    """Return request ids in the order in which they ended."""
    ends = column(records, "finish")
    return sorted(ends, key=lambda number: ends[number])


def test_peft_serves_all_of_one_adapter_before_the_next() -> None:
    world = World([(0, 1, 9, 0), (0, 1, 2, 1), (0, 1, 9, 0)], TWO, costs=COSTS, scheduler=PEFT)
    core, records = play(world)
    assert finished(records)[-1] == 1
    assert core.merged is not None
    assert core.merged.adapter.id == "a1"


@pytest.mark.parametrize("preempted", ["recompute", "swap"])
def test_a_shorter_request_interrupts_a_longer_one_which_then_goes_on(preempted: str) -> None:
    rows = [(0, 1, 50, None), (10 * MS, 1, 3, None)]
    world = World(rows, running_requests=1, costs=COSTS, scheduler=LearningToRank, mechanism={"preempted": preempted})
    _, records = play(world)
    assert finished(records) == [1, 0]
    assert column(records, "preemptions") == {0: 1, 1: 0}


def test_a_request_that_has_run_long_makes_way_for_a_new_one() -> None:
    rows = [(0, 1, 50, None), (20 * MS, 1, 3, None)]
    _, records = play(World(rows, running_requests=1, costs=COSTS, scheduler=FastServe))
    assert finished(records) == [1, 0]


def test_a_request_that_is_too_late_is_rejected_with_its_reason() -> None:
    rows = [(0, 1, 50, None), (MS, 1, 3, None)]
    _, records = play(
        World(rows, running_requests=1, costs=COSTS, scheduler=partial(EarlyAbort, slo_s=0.02, margin_s=0.0))
    )
    assert "later than 0.02 s" in records.rejections[1]


def test_loads_ahead_let_a_running_batch_go_on() -> None:
    rows = [(0, 1, 10, 0), (3 * MS, 1, 2, 1)]
    stalls = [
        len(play(World(rows, TWO, costs=COSTS, scheduler=scheduler))[1].stalls)
        for scheduler in (SGLang, partial(SGLang, resident_only=True), partial(LoRAX, memory_share=0.5))
    ]
    assert stalls == [2, 0, 0]


def test_one_load_at_a_time_holds_up_the_whole_line() -> None:
    rows = [(0, 1, 30, None), (MS, 1, 2, 0), (MS, 1, 2, None)]
    world = World(rows, TWO, costs=COSTS, blocks_on_load=False, scheduler=HeadOfLine)
    _, records = play(world)
    admitted = column(records, "admitted")
    assert admitted[2] >= admitted[1] + 2 * MS


def test_dlora_merges_takes_others_out_and_brings_them_back() -> None:
    rows = [(0, 1, 20, 1), (0, 1, 20, 0), *((5 * MS, 1, 4, 0) for _ in range(3))]
    world = World(
        rows, TWO, running_requests=4, costs=COSTS, scheduler=DLoRA, mechanism={"preempted": "keep", "merge_ticks": 0}
    )
    _, records = play(world)
    assert column(records, "preemptions") == {0: 1, 1: 0, 2: 0, 3: 0, 4: 0}
