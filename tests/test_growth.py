"""KV on demand, in blocks: admission plans for the prompt alone, and who came last makes way when memory runs out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from sim.core import Core
from sim.serving.records import Records
from tests.worlds import RoundCosts, World, play

COSTS = RoundCosts(prefill_base=100, prefill_token=0, decode_base=1000, decode_request=0, decode_context=0)
TWO = [(0, 10, 20, None), (0, 10, 20, None)]


def world(requests: Sequence[tuple[int, int, int, int | None]], **changes: Any) -> World:
    mechanism = {"reserve": "on_demand", **changes.pop("mechanism", {})}
    return World(requests, costs=COSTS, mechanism=mechanism, **changes)


def column(records: Records, name: str) -> list[int]:
    rows = records.requests
    return [value for _, value in sorted(zip(rows["request"].tolist(), rows[name].tolist(), strict=True))]


def test_on_demand_admits_what_a_reservation_of_the_whole_length_would_not() -> None:
    def admitted(reserve: str) -> list[int]:
        _, records = play(world(TWO, total_bytes=45, mechanism={"reserve": reserve}))
        return column(records, "admitted")

    assert admitted("on_demand") == [0, 0]
    assert admitted("whole")[1] > 0


def test_a_predicted_reservation_admits_by_the_prediction_and_stops_the_last_when_it_was_wrong() -> None:
    short = world(TWO, total_bytes=45, predicted=lambda i, output: 5, mechanism={"reserve": "predicted"})
    _, records = play(short)
    assert column(records, "admitted") == [0, 0]
    assert column(records, "preemptions") == [0, 1]
    long = world(TWO, total_bytes=45, predicted=lambda i, output: 30, mechanism={"reserve": "predicted"})
    assert column(play(long)[1], "admitted")[1] > 0


def test_a_request_is_admitted_alone_whatever_was_predicted_of_it() -> None:
    alone = world(TWO[:1], total_bytes=45, predicted=lambda i, output: 1000, mechanism={"reserve": "predicted"})
    assert column(play(alone)[1], "status") == [0]


def test_the_last_admitted_is_stopped_and_computes_its_prompt_and_tokens_again() -> None:
    # 30 tokens: after 5 steps both hold 15, and there is no room for a sixth.
    _, records = play(world(TWO, total_bytes=31))
    assert column(records, "preemptions") == [0, 1]
    assert records.prefills["tokens"].tolist() == [20, 16]  # 10 + 10, then 10 + the 6 that were generated
    # Five steps together; the first needs 14 more, and the other starts again where it was.
    first_end = 100 + 19 * 1000
    assert column(records, "finish") == [first_end, first_end + 100 + 13 * 1000]


def stopped_by(victim: str, requests: Sequence[tuple[int, int, int, int | None]]) -> list[int]:
    late = {"adapters": [(8, 1)], "blocks_on_load": False, "mechanism": {"victim": victim}}
    slow_link = RoundCosts(100, 0, 1000, 0, 0, 0, load_base=5_000, load_byte=0)
    _, records = play(replace(world(requests, total_bytes=45, **late), costs=slow_link))
    assert column(records, "status") == [0] * len(requests)
    return [number for number, times in enumerate(column(records, "preemptions")) if times]


def test_with_least_generated_the_one_with_the_fewest_tokens_stops_whoever_came_last() -> None:
    # The first waits for its adapter while the second, admitted after it, decodes.
    rows = [(0, 10, 20, 0), (0, 10, 20, None)]
    assert stopped_by("last_admitted", rows) == [1]
    assert stopped_by("least_generated", rows) == [0]


def test_of_several_with_as_few_tokens_the_longest_prompt_stops_and_of_these_the_last() -> None:
    assert stopped_by("last_admitted", [(0, 11, 20, None), (0, 10, 20, None)]) == [1]
    assert stopped_by("least_generated", [(0, 11, 20, None), (0, 10, 20, None)]) == [0]
    assert stopped_by("least_generated", [(0, 10, 20, None), (0, 10, 20, None)]) == [1]


def test_the_pause_of_a_stopped_request_is_a_gap_between_its_tokens() -> None:
    _, records = play(world(TWO, total_bytes=31))
    last_before, next_after = 100 + 5 * 1000, 100 + 19 * 1000 + 100
    assert records.pauses["request"].tolist() == [1]
    assert records.pauses["gap"].tolist() == [next_after - last_before]


def test_swapped_kv_costs_a_copy_each_way_and_no_second_prefill() -> None:
    _, records = play(world(TWO, total_bytes=31, mechanism={"shortage": "swap"}))
    assert records.prefills["tokens"].tolist() == [20]
    assert records.swaps["way"].tolist() == [1, 0]
    assert records.swaps["bytes"].tolist() == [15, 15]
    out = 15  # a tick a byte: the sixth step waits for the way out, the second request for the way back
    first_end = 100 + 19 * 1000 + out
    assert column(records, "finish") == [first_end, first_end + 15 + 14 * 1000]


def test_what_does_not_fit_the_swap_space_is_computed_again() -> None:
    _, records = play(world(TWO, total_bytes=31, mechanism={"shortage": "swap", "swap_bytes": 14}))
    assert len(records.swaps) == 0
    assert records.prefills["tokens"].tolist() == [20, 16]


def test_requests_hold_whole_blocks() -> None:
    held: list[int] = []
    slow = world(TWO, total_bytes=1000, asks_every_step=True, mechanism={"block_tokens": 16})
    play(slow, lambda core: held.append(core.memory.kv_bytes))
    assert set(held) == {0, 32, 64}  # 10 tokens take one block each, 17 to 29 take two


@pytest.mark.parametrize("block", [1, 4, 16])
def test_blocks_run_out_at_the_step_at_which_one_step_at_a_time_runs_out(block: int) -> None:
    rows = [(0, 7, 60, None), (0, 12, 60, None), (0, 3, 60, None)]
    fast, slow = (
        play(world(rows, total_bytes=150, asks_every_step=slow, mechanism={"block_tokens": block}))[1]
        for slow in (False, True)
    )
    assert column(fast, "preemptions") == column(slow, "preemptions") != [0, 0, 0]
    assert column(fast, "finish") == column(slow, "finish")
    assert len(fast.segments) < len(slow.segments)


def test_a_watermark_keeps_a_newcomer_out_while_others_run() -> None:
    def admitted(watermark: int) -> int:
        rows = [(0, 10, 20, None), (500, 10, 20, None)]
        _, records = play(world(rows, total_bytes=60, mechanism={"watermark_bytes": watermark}))
        return column(records, "admitted")[1]

    assert admitted(0) == 1100
    assert admitted(40) == 100 + 19 * 1000


def test_idle_adapters_make_way_before_any_request_does() -> None:
    rows = [(0, 10, 5, 0), (0, 10, 60, None)]
    core, records = play(world(rows, adapters=[(8, 30)], total_bytes=75))
    assert column(records, "preemptions") == [0, 0]
    assert records.evictions["adapter"].tolist() == [0]
    assert core.memory.kv_bytes == 0


def test_a_request_that_joins_gives_its_place_back_before_one_that_runs() -> None:
    # The second is admitted while its adapter takes long to load; the first then grows into its memory.
    rows = [(0, 10, 40, None), (1000, 10, 20, 0)]
    slow_link = RoundCosts(100, 0, 1000, 0, 0, 0, load_base=30_000, load_byte=0)
    tight = World(
        rows, [(8, 10)], total_bytes=52, blocks_on_load=False, costs=slow_link, mechanism={"reserve": "on_demand"}
    )
    _, records = play(tight)
    assert column(records, "preemptions") == [0, 1]
    lost = column(records, "preempted")[1]
    assert lost > 0
    assert column(records, "admitted")[1] == 1100 + lost


def test_the_swapped_and_the_kept_are_counted_by_the_laws() -> None:
    def broken(core: Core) -> None:
        core.stops.swapped_bytes += 1
        with pytest.raises(RuntimeError, match="KV bytes on the host"):
            core.check()
        core.stops.swapped_bytes -= 1

    play(world(TWO, total_bytes=31, mechanism={"shortage": "swap"}), broken)
