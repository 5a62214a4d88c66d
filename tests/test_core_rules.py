"""The rules of serving, one at a time, in worlds small enough to add up by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from math import inf

import pytest

import sim
from policies.base import Batch, Refusal, Request
from policies.scheduling import FCFS
from sim.core import Core
from sim.serving.records import NEVER, SOURCES, Records
from sim.serving.ticks import to_ticks
from tests.worlds import RoundCosts, World, play

# A prefill takes 100 ticks a token, every decode step 1000, a load one tick a byte.
PLAIN = RoundCosts(prefill_base=0, decode_request=0, decode_context=0, load_base=0, prefill_token=100)


def by_request(records: Records, column: str) -> list[int]:
    rows = zip(records.requests["request"].tolist(), records.requests[column].tolist(), strict=True)
    return [value for _, value in sorted(rows)]


def told(world: World, column: str) -> list[int]:
    return by_request(play(world)[1], column)


# --- when a request is admitted ---


def test_a_waiting_request_is_admitted_only_after_ten_decode_steps() -> None:
    world = World([(0, 10, 50, None), (1, 10, 5, None)], costs=PLAIN, admit_every_steps=10)
    assert told(world, "admitted") == [0, 1000 + 10 * 1000]


def test_ten_steps_are_counted_anew_from_each_admission() -> None:
    world = World([(0, 10, 90, None), (1, 10, 50, None), (11_500, 1, 1, None)], costs=PLAIN, admit_every_steps=10)
    assert told(world, "admitted") == [0, 11_000, 12_000 + 10_000]


def test_a_request_that_comes_late_is_admitted_at_the_next_step() -> None:
    world = World([(0, 10, 50, None), (20_500, 10, 5, None)], costs=PLAIN, admit_every_steps=10)
    assert told(world, "admitted") == [0, 21_000]


def test_after_a_refusal_admission_is_tried_again_at_every_step() -> None:
    requests = [(0, 5, 50, None), (0, 5, 14, None), (1, 10, 5, None)]
    world = World(requests, costs=PLAIN, admit_every_steps=10, running_requests=2)
    assert told(world, "finish")[1] == 1000 + 13 * 1000
    assert told(world, "admitted") == [0, 0, 14_000]


def test_an_empty_batch_admits_without_waiting_for_ten_steps() -> None:
    world = World([(0, 10, 4, None), (1, 10, 5, None)], costs=PLAIN, admit_every_steps=10)
    assert told(world, "admitted") == [0, 4000]


def test_nobody_passes_a_request_that_does_not_fit() -> None:
    requests = [(0, 50, 50, None), (1, 20, 20, None), (2, 1, 1, None)]
    world = World(requests, costs=PLAIN, total_bytes=110)
    assert told(world, "admitted") == [0, 54_000, 54_000]


def test_a_request_is_admitted_while_kv_would_not_overflow_at_its_peak() -> None:
    requests = [(0, 50, 50, None), (0, 20, 20, None)]
    peak = 20 * 2 - 2 + 21 + 51  # when the second ends, with both of them there
    fits, refused = (told(World(requests, costs=PLAIN, total_bytes=total), "admitted") for total in (peak + 1, peak))
    assert fits == [0, 0]
    assert refused[1] > 0


def test_one_prefill_takes_so_many_prompt_tokens() -> None:
    requests = [(0, 60, 1, None), (0, 40, 1, None), (0, 1, 1, None)]
    _, records = play(World(requests, costs=PLAIN, batch_prompt_tokens=100))
    assert records.prefills["tokens"].tolist() == [100, 1]


def test_so_many_requests_run_at_once() -> None:
    requests = [(0, 1, 5, None)] * 3
    assert told(World(requests, costs=PLAIN, running_requests=2), "admitted") == [0, 0, 4200]


def test_so_many_distinct_adapters_run_at_once() -> None:
    requests = [(0, 1, 5, 0), (0, 1, 5, 0), (0, 1, 5, None), (0, 1, 5, 1)]
    world = World(requests, [(8, 10), (8, 10)], costs=PLAIN, distinct_adapters=1)
    assert told(world, "admitted") == [0, 0, 0, 10 + 300 + 4000]


class Told(FCFS):
    """First come first served, and keeps why it was refused."""

    def __init__(self) -> None:
        self.refusals: list[Refusal | None] = []

    def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:
        for request in self.order(waiting, now):
            is_added = batch.try_add(request)
            self.refusals.append(batch.refusal)
            if not is_added:
                return


@pytest.mark.parametrize(
    ("reason", "second", "change"),
    [
        (Refusal.PROMPT_TOKENS, (0, 20, 5, 1), {"batch_prompt_tokens": 29}),
        (Refusal.RUNNING, (0, 20, 5, 1), {"running_requests": 1}),
        (Refusal.ADAPTERS, (0, 20, 5, 1), {"distinct_adapters": 1}),
        (Refusal.KV, (0, 930, 20, 1), {}),
        (Refusal.ADAPTER, (0, 20, 5, 2), {}),
    ],
)
def test_a_refusal_says_why(reason: Refusal, second: tuple[int, int, int, int], change: dict[str, int]) -> None:
    scheduler = Told()
    adapters = [(8, 30), (8, 30), (8, 940)]
    world = World([(0, 10, 20, 0), second], adapters, total_bytes=1000, costs=PLAIN, scheduler=lambda: scheduler)
    play(replace(world, **change))  # type: ignore[arg-type]
    assert scheduler.refusals[:2] == [None, reason]


def test_a_scheduler_that_offers_what_does_not_wait_is_an_error() -> None:
    class Twice(FCFS):
        def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:
            for request in list(waiting):
                batch.try_add(request)
                batch.try_add(request)

    with pytest.raises(RuntimeError, match="which does not wait"):
        play(World([(0, 1, 5, None)], scheduler=Twice))


def test_a_scheduler_that_squashes_what_does_not_run_is_an_error() -> None:
    class Wrong(FCFS):
        def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:
            batch.squash(next(iter(waiting)))

    with pytest.raises(RuntimeError, match=r"squashes Request\(0, .* which does not run"):
        play(World([(0, 1, 5, None)], scheduler=Wrong))


def test_a_scheduler_that_never_lets_anybody_end_is_an_error() -> None:
    class Undone(FCFS):
        def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:
            for request in list(batch.running):
                batch.squash(request)
            super().fill(batch, list(waiting), now)

        def wakes_at_step(self) -> int | None:
            return 0

    world = World([(0, 1, 50, None), (500, 1, 50, None)], costs=PLAIN, scheduler=Undone)
    with pytest.raises(RuntimeError, match="was stopped 10000 times, and its work begun anew"):
        play(world)


class Asked(FCFS):
    """First come first served, and asks of every request that waits on how long it would wait and run."""

    def __init__(self) -> None:
        self.waits: dict[int, list[int]] = {}
        self.executions: dict[int, list[int]] = {}

    def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:
        super().fill(batch, list(waiting), now)
        for request in [one for one in waiting if batch.refusal is not None]:
            if batch.wait_s(request) < inf:
                self.waits.setdefault(request.id, []).append(to_ticks(batch.wait_s(request)))
            self.executions.setdefault(request.id, []).append(to_ticks(batch.execution_s(request)))


def asked() -> Asked:
    # 0 runs alone up to 46000; 1 needs the memory that it holds; at 5500 and 30500 others come, so all is asked anew
    scheduler = Asked()
    world = World(
        [(0, 10, 46, None), (1, 20, 9, 0), (5500, 1, 1, None), (30_500, 1, 1, None)],
        [(8, 900)],
        total_bytes=940,
        costs=PLAIN,
        running_requests=1,
        scheduler=lambda: scheduler,
        predicted=lambda i, output: (20, 5, 1, 1)[i],
    )
    play(world)
    return scheduler


def test_a_predicted_wait_lasts_to_the_predicted_end_of_who_holds_the_memory() -> None:
    # after 1, 5 and 30 of 19 predicted steps; who outlives its prediction is expected to end with the next token
    assert asked().waits[1][:3] == [18_000, 14_000, 1000]


def test_a_predicted_execution_is_a_prefill_and_the_predicted_steps() -> None:
    assert asked().executions[1][:3] == [2000 + 4 * 1000] * 3


# --- what can never be served ---


def test_a_request_larger_than_memory_is_rejected_with_the_reason() -> None:
    world = World([(0, 60, 40, None), (0, 60, 39, None), (0, 50, 30, 0)], [(8, 20)], total_bytes=100, costs=PLAIN)
    _, records = play(world)
    assert records.rejections == {
        0: "100 tokens with an adapter of 0 bytes exceed the memory: 99 tokens beside it, adapters of 100 bytes",
        2: "80 tokens with an adapter of 20 bytes exceed the memory: 79 tokens beside it, adapters of 100 bytes",
    }
    assert by_request(records, "status") == [1, 0, 1]
    assert [when == NEVER for when in by_request(records, "finish")] == [True, False, True]


def test_a_prompt_longer_than_one_prefill_is_rejected_with_the_reason() -> None:
    _, records = play(World([(0, 11, 1, None), (0, 10, 1, None)], batch_prompt_tokens=10))
    assert records.rejections == {0: "a prompt of 11 tokens exceeds the 10 of one prefill iteration"}


# --- iterations ---


def test_the_prefill_of_several_prompts_is_one_iteration() -> None:
    _, records = play(World([(0, 3, 2, None), (0, 4, 2, None)], costs=replace(PLAIN, prefill_base=50)))
    assert records.prefills["ticks"].tolist() == [50 + 700]
    assert by_request(records, "first_token") == [750, 750]


def test_decoding_pauses_for_a_prefill() -> None:
    _, records = play(World([(0, 10, 4, None), (1500, 20, 1, None)], costs=PLAIN))
    assert records.prefills["start"].tolist() == [0, 2000]
    assert by_request(records, "finish") == [1000 + 3 * 1000 + 2000, 4000]


def test_a_request_of_one_token_ends_with_its_prefill() -> None:
    _, records = play(World([(0, 10, 1, None)], costs=PLAIN))
    assert by_request(records, "first_token") == by_request(records, "finish") == [1000]
    assert len(records.segments) == 0


def test_a_decode_step_reads_all_tokens_of_the_batch_and_the_new_ones() -> None:
    costs = RoundCosts(prefill_base=0, prefill_token=0, decode_base=0, decode_request=0, decode_context=1)
    _, records = play(World([(0, 10, 3, None), (0, 20, 2, None)], costs=costs))
    assert by_request(records, "finish") == [11 + 21 + 12, 11 + 21]


def test_each_token_takes_memory_until_its_request_ends() -> None:
    seen: list[int] = []
    world = World([(0, 10, 4, None), (0, 20, 2, None)], kv_token_bytes=2, asks_every_step=True, costs=PLAIN)
    core, _ = play(world, lambda core: seen.append(core.memory.kv_bytes))
    # both prefilled; a step later the second has left; the first grows by one token a step
    assert seen == [0, 0, 60, 22, 24, 0]
    assert core.memory.free_bytes == world.total_bytes


# --- adapters ---


def test_a_blocking_load_stops_decoding() -> None:
    world = World([(0, 10, 5, None), (1500, 1, 1, 0)], [(8, 5000)], costs=PLAIN)
    _, records = play(world)
    assert [records.stalls[name].tolist() for name in ("start", "ticks")] == [[2000], [5000]]
    assert by_request(records, "prefill_start")[1] == 7000
    assert by_request(records, "finish")[0] == 1000 + 4 * 1000 + 5000 + 100


def test_an_overlapped_load_does_not_stop_decoding() -> None:
    world = World([(0, 10, 20, None), (1500, 1, 1, 0)], [(8, 5500)], costs=PLAIN, blocks_on_load=False)
    _, records = play(world)
    assert len(records.stalls) == 0
    assert by_request(records, "ready")[1] == 7500
    assert by_request(records, "prefill_start")[1] == 8000  # the first boundary after that
    assert by_request(records, "finish")[0] == 1000 + 19 * 1000 + 100


def test_nobody_is_admitted_while_the_engine_stands_still() -> None:
    requests = [(0, 10, 9, None), (1500, 1, 1, 0), (3000, 1, 1, None)]
    world = World(requests, [(8, 5000)], costs=PLAIN, admit_every_steps=0)
    assert told(world, "admitted") == [0, 2000, 7100]


def test_others_are_admitted_while_an_adapter_loads_in_the_background() -> None:
    requests = [(0, 10, 9, None), (1500, 1, 1, 0), (3000, 1, 1, None)]
    world = World(requests, [(8, 5000)], costs=PLAIN, admit_every_steps=0, blocks_on_load=False)
    assert told(world, "admitted") == [0, 2000, 3000]


def test_a_blocked_batch_waits_for_all_of_its_adapters() -> None:
    world = World([(0, 1, 1, 0), (0, 1, 1, 1)], [(8, 500), (8, 700)], costs=PLAIN)
    assert told(world, "ready") == [1200, 1200]
    assert told(world, "prefill_start") == [1200, 1200]


def test_where_loads_overlap_each_request_is_ready_with_its_own_adapter() -> None:
    world = World([(0, 1, 1, 0), (0, 1, 1, 1)], [(8, 500), (8, 700)], costs=PLAIN, blocks_on_load=False)
    assert told(world, "ready") == [500, 1200]


def test_where_an_adapter_was_when_its_request_was_admitted() -> None:
    requests = [(0, 1, 2, 0), (0, 1, 2, 0), (9000, 1, 2, 0), (9000, 1, 2, None)]
    _, records = play(World(requests, [(8, 500)], costs=PLAIN))
    assert [SOURCES[i] for i in by_request(records, "source")] == ["host", "inflight", "gpu", "none"]
    assert len(records.transfers) == 1


def test_only_the_request_that_a_load_was_for_is_charged_with_it() -> None:
    _, records = play(World([(0, 1, 2, 0), (0, 1, 2, 0)], [(8, 500)], costs=PLAIN))
    assert by_request(records, "load") == [500, 0]
    assert by_request(records, "load_bytes") == [500, 0]


def test_a_demand_load_notes_how_long_it_waited_for_the_link() -> None:
    _, records = play(World([(0, 1, 1, 0), (0, 1, 1, 1)], [(8, 500), (8, 700)], costs=PLAIN))
    assert by_request(records, "link_wait") == [0, 500]


def test_an_adapter_stays_while_memory_is_idle() -> None:
    core, records = play(World([(0, 1, 2, 0), (9000, 1, 2, 1)], [(8, 500), (8, 600)], costs=PLAIN))
    assert len(records.evictions) == 0
    assert core.memory.adapter_bytes == 1100


def test_an_adapter_makes_way_for_one_that_is_needed() -> None:
    requests = [(0, 1, 2, 0), (9000, 1, 2, 1), (18_000, 1, 2, 2)]
    _, records = play(World(requests, [(8, 500), (8, 300), (8, 400)], total_bytes=1000, costs=PLAIN))
    assert [records.evictions[name].tolist() for name in ("time", "adapter")] == [[18_000], [0]]


def test_adapters_of_waiting_requests_make_way_last() -> None:
    # 2 needs the room of one adapter; that of 0 was used longest ago, but 3 waits for it behind 2
    requests = [(0, 1, 2, 0), (9000, 1, 2, 1), (18_000, 1, 2, 2), (18_000, 500, 2, 0)]
    _, records = play(World(requests, [(8, 450), (8, 450), (8, 400)], total_bytes=1000, costs=PLAIN))
    assert records.evictions["adapter"].tolist()[0] == 1


# --- laws ---


def test_the_parts_of_the_time_to_first_token_sum_to_it_exactly() -> None:
    requests = sim.run("chameleon", "paper", rate=12.0, requests=200, changes=["memory.kv_pool_tokens=6000"]).requests
    parts = requests[["queue_s", "adapter_wait_s", "prefill_s", "preempt_s", "overhead_s"]]
    total = parts["queue_s"].copy()
    for name in parts.columns[1:]:
        total += parts[name]
    assert (total == requests["ttft_s"]).all()
    assert (parts >= 0).all(axis=None)
    assert (parts[["queue_s", "adapter_wait_s", "prefill_s"]].sum() > 0).all()


def cook_tokens(core: Core) -> None:
    core.memory.kv_bytes -= 1


def cook_live(core: Core) -> None:
    core.live.clear()


def cook_users(core: Core) -> None:
    slot = core.adapters.palette[0]
    assert slot is not None
    slot.users += 1


def cook_active(core: Core) -> None:
    core.adapters.active += 1


def cook_missing(core: Core) -> None:
    core.adapters.missing += 1


def cook_queued(core: Core) -> None:
    slot = core.adapters.palette[1]
    assert slot is not None
    slot.queued += 1


def cook_batch(core: Core) -> None:
    core.shape.requests += 1


def cook_states(core: Core) -> None:
    core.waiting.update(core.live)


@pytest.mark.parametrize(
    "cook",
    [cook_tokens, cook_live, cook_users, cook_active, cook_missing, cook_queued, cook_batch, cook_states],
)
def test_cooked_books_are_found(cook: Callable[[Core], None]) -> None:
    def cooked_when_busy(core: Core) -> None:
        core.check()
        if core.running:
            cook(core)
            core.check()

    world = World([(0, 10, 5, 0), (0, 10, 5, None)], [(8, 30), (8, 40)], costs=PLAIN)
    with pytest.raises(RuntimeError, match="requests do not balance"):
        play(world, cooked_when_busy)


def test_a_step_that_was_never_planned_cannot_finish() -> None:
    core, _ = play(World([(0, 1, 1, None)]))
    with pytest.raises(RuntimeError, match="step_finished without a planned step"):
        core.step_finished(10**6)


def test_a_request_that_starts_late_is_admitted_only_if_its_whole_size_fits_beside_the_peak_of_the_others() -> None:
    # At its admission both would fit if it started at once: 97 of 99 tokens. But the first decodes while the load runs.
    costs = RoundCosts(prefill_base=0, prefill_token=100, decode_request=0, decode_context=0, load_base=5500)
    world = World(
        [(0, 44, 8, None), (4400, 49, 2, 0)],
        [(8, 300)],
        total_bytes=400,
        admit_every_steps=0,
        blocks_on_load=False,
        costs=costs,
    )
    records = play(world)[1]
    assert records.requests["admitted"].tolist() == [0, 11400]
    assert records.requests["finish"].tolist() == [11400, 23100]


def test_an_engine_that_only_waits_for_an_overlapped_load_takes_who_needs_none() -> None:
    world = World([(0, 1, 1, 0), (10, 1, 1, None)], [(8, 500)], costs=PLAIN, blocks_on_load=False, admit_every_steps=10)
    assert told(world, "admitted") == [0, 10]
    assert told(world, "prefill_start") == [500, 10]


def test_evictions_for_an_admission_and_for_growth_both_count_as_forced() -> None:
    requests = [(0, 1, 2, 0), (9000, 1, 2, 1)]
    for_admission = play(World(requests, [(8, 500), (8, 500)], total_bytes=700, costs=PLAIN))[1]
    assert (len(for_admission.evictions), for_admission.forced_evictions) == (1, 1)
    grows = [(0, 1, 2, 0), (9000, 150, 100, None)]
    for_growth = play(World(grows, [(8, 500)], total_bytes=700, costs=PLAIN))[1]
    assert (len(for_growth.evictions), for_growth.forced_evictions) == (1, 1)
