"""What a scheduler may do beyond admitting: preempt, abort, fetch, drop and merge; and where KV stays meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import pytest

from policies.base import Batch, Refusal, Request, Scheduler
from policies.ranking import LearningToRank
from policies.scheduling import FCFS
from sim.core import Core
from sim.serving.records import Records
from tests.worlds import RoundCosts, World, play, replay

COSTS = RoundCosts(prefill_base=100, prefill_token=0, decode_base=1000, decode_request=0, decode_context=0)
LONG_AND_SHORT = [(0, 10, 20, None), (5000, 10, 3, None)]


class Newest(Scheduler):
    """The newest request runs alone; whoever runs is preempted for it."""

    name = "newest"

    def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:
        newest = max(waiting, key=lambda request: request.id)
        running = list(batch.running)
        if running and running[0].id < newest.id:
            self.seen = running[0].generated_tokens
            batch.preempt(running[0])
            running = []
        if not running:
            batch.try_add(newest)


def world(rows: Sequence[tuple[int, int, int, int | None]] = LONG_AND_SHORT, **changes: Any) -> World:
    scheduler = changes.pop("scheduler", Newest)
    mechanism = changes.pop("mechanism", {})
    return World(rows, costs=COSTS, admit_every_steps=0, scheduler=scheduler, mechanism=mechanism, **changes)


def column(records: Records, name: str) -> list[int]:
    rows = records.requests
    return [value for _, value in sorted(zip(rows["request"].tolist(), rows[name].tolist(), strict=True))]


def test_a_preempted_request_goes_on_where_it_was() -> None:
    _, records = play(world(mechanism={"preempted": "keep"}))
    # 5 steps of the first, then prefill and 2 steps of the second, then the other 14.
    second_end = 100 + 5000 + 100 + 2000
    assert column(records, "finish") == [second_end + 14 * 1000, second_end]
    assert column(records, "preemptions") == [1, 0]
    assert column(records, "steps") == [19, 2]


def test_kept_kv_stays_on_the_gpu_and_is_counted() -> None:
    kept: list[int] = []

    def look(core: Core) -> None:
        core.check()
        kept.extend(core.memory.kv_bytes for job in core.kept.values() if job.request.id == 0)

    play(world(mechanism={"preempted": "keep"}), look)
    assert kept
    assert min(kept) >= 15


def test_recomputing_costs_another_prefill_and_swapping_two_copies() -> None:
    again, swapped = (play(world(mechanism={"preempted": how}))[1] for how in ("recompute", "swap"))
    assert again.prefills["tokens"].tolist() == [10, 10, 16]
    assert swapped.prefills["tokens"].tolist() == [10, 10]
    assert swapped.swaps["way"].tolist() == [1, 0]


def test_the_scheduler_is_told_how_much_a_running_request_has_generated() -> None:
    made: list[Newest] = []

    def build() -> Newest:
        made.append(Newest())
        return made[-1]

    play(world(scheduler=build))
    assert made[0].seen == 6


def test_kept_kv_gives_way_when_the_batch_runs_out_of_memory() -> None:
    rows = [(0, 10, 20, None), (5000, 10, 20, None)]
    _, records = play(world(rows, total_bytes=40, mechanism={"preempted": "keep", "reserve": "on_demand"}))
    assert column(records, "status") == [0, 0]
    assert records.prefills["tokens"].tolist() == [10, 10, 16]  # it was kept, then dropped, then computed again


def test_kept_kv_gives_way_to_growth_that_was_planned_for_too() -> None:
    # S-LoRA's test plans for those that are admitted; what was kept since stands in the way of the last one.
    rows: list[tuple[int, int, int, int | None]]
    rows = [(0, 38, 129, 4), (0, 38, 129, 4), (0, 48, 17, 2), (0, 43, 32, 1), (7000, 59, 1, 0), (21000, 36, 2, 1)]
    rows += [(22000, 28, 115, 5), (25000, 12, 111, 5), (25000, 12, 1, 5), (25000, 57, 2, None), (35000, 46, 115, 2)]
    crowded = World(
        rows,
        [(16, 300), (16, 50), (16, 50), (16, 50), (16, 20), (32, 300)],
        total_bytes=700,
        distinct_adapters=1,
        blocks_on_load=False,
        costs=RoundCosts(100, 10, 1000, 10, 7, 0, 50, 1, floor=1100),
        scheduler=partial(LearningToRank, starvation_steps=5, promoted_steps=10),
        mechanism={"prefill": "chunked", "step_tokens": 16, "prefills_per_step": 1, "preempted": "keep"},
    )
    _, records = play(crowded)
    assert column(records, "status") == [0] * len(rows)


def test_preempting_a_request_that_does_not_run_is_the_schedulers_fault() -> None:
    class Wrong(Scheduler):
        name = "wrong"

        def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:
            batch.preempt(next(iter(waiting)))

    with pytest.raises(RuntimeError, match="which does not run"):
        play(world(scheduler=Wrong))


class Strict(Scheduler):
    """Aborts every request with more than ten prompt tokens."""

    name = "strict"

    def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:
        for request in list(waiting):
            if request.prompt_tokens > 10:
                batch.abort(request, "too long for me")
            else:
                batch.try_add(request)


def test_an_aborted_request_is_rejected_with_the_schedulers_reason() -> None:
    core, records = play(world([(0, 11, 5, 0), (0, 10, 5, None)], adapters=[(8, 10)], scheduler=Strict))
    assert column(records, "status") == [1, 0]
    assert records.rejections == {0: "too long for me"}
    assert core.is_empty


def test_an_aborted_request_cannot_be_offered_again() -> None:
    def fill(batch: Batch, waiting: list[Request], now: float) -> None:
        batch.abort(waiting[0], "no")
        batch.try_add(waiting[0])

    with pytest.raises(RuntimeError, match="which does not wait"):
        play(world([(0, 10, 5, None)], scheduler=scheduler_of(fill)))


def scheduler_of(fill: Callable[[Batch, list[Request], float], None]) -> type[Scheduler]:
    class Given(Scheduler):
        name = "given"

        def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:
            fill(batch, list(waiting), now)

    return Given


def test_a_scheduler_may_fetch_first_and_admit_once_the_adapter_is_there() -> None:
    def fill(batch: Batch, waiting: list[Request], now: float) -> None:
        for request in waiting:
            assert request.adapter is not None
            if batch.is_resident(request.adapter):
                batch.try_add(request)
            else:
                assert batch.try_fetch(request.adapter)

    rows = [(0, 10, 5, 0), (0, 10, 5, 1)]
    _, records = play(world(rows, adapters=[(8, 500), (8, 50)], scheduler=scheduler_of(fill)))
    assert records.transfers["kind"].tolist() == [0, 0]
    assert column(records, "admitted") == [550, 650]  # a load takes 50 and a tick a byte; the second's waits its turn
    # Their loads were asked for and waited for, so they are no hits.
    assert column(records, "source") == [4, 4]


def test_a_fetch_never_drives_out_what_a_waiting_request_needs() -> None:
    asked: list[bool] = []

    def fill(batch: Batch, waiting: list[Request], now: float) -> None:
        if len(asked) < 3 and len(waiting) == 2:
            first, second = (request.adapter for request in waiting)
            assert first is not None
            assert second is not None
            asked.append(batch.try_fetch(second) if batch.is_resident(first) else batch.try_fetch(first) and False)
        if not waiting or batch.running or len(asked) < 2:
            return
        batch.try_add(waiting[0])

    rows = [(0, 10, 5, 0), (0, 10, 5, 1)]
    play(world(rows, adapters=[(8, 60), (8, 60)], total_bytes=100, scheduler=scheduler_of(fill)))
    assert asked[:2] == [False, False]


def test_a_dropped_adapter_leaves_unless_it_is_used() -> None:
    def fill(batch: Batch, waiting: list[Request], now: float) -> None:
        for request in waiting:
            batch.try_add(request)
            if request.adapter is not None:
                batch.drop(request.adapter)  # on its way: nothing happens
            elif dropped:
                batch.drop(dropped[0])
        dropped.extend(r.adapter for r in waiting if r.adapter is not None)

    dropped: list[Any] = []
    rows = [(0, 10, 5, 0), (50_000, 10, 5, None)]
    _, records = play(world(rows, adapters=[(8, 60)], scheduler=scheduler_of(fill)))
    assert records.evictions["time"].tolist() == [50_000]


def merging(batch: Batch, waiting: list[Request], now: float) -> None:
    adapter = waiting[0].adapter
    assert adapter is not None
    if not batch.is_resident(adapter):
        batch.try_fetch(adapter)
        return
    if batch.merged is not adapter and not batch.running:
        batch.merge(adapter)
    for request in waiting:
        if not batch.try_add(request):
            assert batch.refusal is Refusal.MERGED


def test_merging_costs_time_once_and_then_lora_costs_nothing() -> None:
    rows = [(0, 10, 5, 0), (0, 10, 5, 0)]
    costs = RoundCosts(100, 0, 1000, 0, 0, decode_rank=10, load_base=50, load_byte=1)
    changes: dict[str, Any] = {"adapters": [(8, 50)], "mechanism": {"merge_ticks": 700}}
    unmerged = play(World(rows, costs=costs, **changes))[1]
    merged = play(World(rows, costs=costs, scheduler=scheduler_of(merging), **changes))[1]
    assert column(unmerged, "finish") == [100 + 100 + 4 * 1080] * 2
    assert column(merged, "finish") == [100 + 700 + 100 + 4 * 1000] * 2


def test_while_one_adapter_is_merged_requests_of_others_are_refused() -> None:
    rows = [(0, 10, 5, 0), (0, 10, 5, 1)]
    _, records = play(world(rows, adapters=[(8, 50), (8, 50)], scheduler=scheduler_of(merging)))
    first, second = column(records, "finish")
    assert column(records, "admitted")[1] >= first
    assert second > first


def test_the_merged_adapter_is_not_evicted() -> None:
    def look(core: Core) -> None:
        core.check()
        if core.merged is not None:
            assert core.merged.users >= 1

    play(world([(0, 10, 5, 0), (20_000, 10, 5, 0)], adapters=[(8, 50)], scheduler=scheduler_of(merging)), look)


def test_running_somebody_else_beside_a_merged_adapter_is_an_error() -> None:
    def fill(batch: Batch, waiting: list[Request], now: float) -> None:
        for request in waiting:
            assert request.adapter is not None
            if batch.try_fetch(request.adapter) and batch.is_resident(request.adapter):
                batch.try_add(request)
                if request.id == 1:
                    batch.merge(request.adapter)

    rows = [(0, 10, 50, 0), (0, 10, 50, 1)]
    with pytest.raises(RuntimeError, match="is merged into the weights"):
        play(world(rows, adapters=[(8, 50), (8, 50)], scheduler=scheduler_of(fill)))


def test_an_adapter_that_is_not_there_cannot_be_merged() -> None:
    def fill(batch: Batch, waiting: list[Request], now: float) -> None:
        batch.merge(waiting[0].adapter)

    with pytest.raises(RuntimeError, match="it is not on the GPU"):
        play(world([(0, 10, 5, 0)], adapters=[(8, 50)], scheduler=scheduler_of(fill)))


def test_a_scheduler_that_counts_steps_is_asked_at_the_step_it_named() -> None:
    class Every7(Scheduler):
        name = "every-7"

        def __init__(self) -> None:
            self.next = 0

        def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:
            if not batch.running or batch.step >= self.next + 7:
                self.next = batch.step
                batch.try_add(next(iter(waiting)))

        def wakes_at_step(self) -> int | None:
            return self.next + 7

    rows = [(0, 10, 100, None), (0, 10, 50, None), (0, 10, 50, None)]
    for slow in (False, True):
        _, records = play(world(rows, scheduler=Every7, asks_every_step=slow))
        assert column(records, "admitted")[:2] == [0, 100 + 7000]


def test_an_instant_that_is_declared_while_the_batch_is_filled_cuts_the_decode_run_after_it() -> None:
    class Later(Scheduler):
        name = "later"
        due_s: float | None = None
        rang = False

        def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:
            if batch.running and self.due_s is None:  # a decode run comes next
                self.due_s = now + 5e-9
            if not batch.running or self.rang:
                batch.try_add(next(iter(waiting)))

        def wakes_at_s(self) -> float | None:
            return None if self.rang else self.due_s

        def woken(self, now: float) -> None:
            self.rang = True

    rows = [(0, 10, 100, None), (0, 10, 5, None)]
    for slow in (False, True):
        _, records = play(world(rows, scheduler=Later, asks_every_step=slow))
        assert column(records, "admitted") == [0, 100 + 5000]


def test_a_policy_that_declares_the_same_instant_for_ever_is_told_apart_from_a_long_run() -> None:
    class Stuck(FCFS):
        name = "stuck"

        def wakes_at_s(self) -> float | None:
            return 1e-9

    for run in (play, replay):
        with pytest.raises(RuntimeError, match="Stuck: woken 1001 times at 1e-09 s"):
            run(world(scheduler=Stuck))
