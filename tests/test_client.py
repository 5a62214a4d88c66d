"""A closed loop: a limit on requests under way, and a client that waits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sim
from policies.base import Batch, Request
from policies.early_abort import EarlyAbort
from policies.scheduling import FCFS
from sim.client import Client
from sim.files.yamlfile import ConfigError
from sim.results.rundir import read_run
from sim.serving.records import Records
from sim.serving.ticks import to_seconds
from tests.commands import chameleon
from tests.worlds import RoundCosts, World, play, replay

COSTS = RoundCosts(prefill_base=1000, prefill_token=0, decode_base=1000, decode_request=0, decode_context=0)


def by_request(records: Records, name: str) -> list[int]:
    return [int(value) for value in records.requests[name][np.argsort(records.requests["request"])]]


def test_one_at_a_time_each_is_sent_when_the_one_before_has_left() -> None:
    records = play(World([(0, 10, 3, None)] * 3, costs=COSTS, max_concurrency=1))[1]
    assert by_request(records, "finish") == [3000, 6000, 9000]
    assert by_request(records, "arrival") == [0, 3000, 6000]


def test_the_step_that_begins_as_a_request_leaves_is_planned_without_the_next() -> None:
    records = play(World([(0, 10, 2, None), (0, 10, 5, None), (0, 10, 2, None)], costs=COSTS, max_concurrency=2))[1]
    assert by_request(records, "arrival") == [0, 0, 2000]
    assert by_request(records, "admitted") == [0, 0, 3000]


def test_two_that_leave_together_make_room_for_two() -> None:
    rows = [(0, 10, 2, None), (0, 10, 2, None), (100, 10, 2, None), (5000, 10, 2, None)]
    records = play(World(rows, costs=COSTS, max_concurrency=2))[1]
    assert by_request(records, "arrival") == [0, 0, 2000, 5000]


def test_no_more_are_under_way_than_the_limit_and_the_limit_is_used() -> None:
    rows = [(i * 100, 10, 1 + i % 7, None) for i in range(40)]
    records = play(World(rows, costs=COSTS, max_concurrency=3))[1]
    sent, finish = by_request(records, "arrival"), by_request(records, "finish")
    under_way = [sum(s <= at < f for s, f in zip(sent, finish, strict=True)) for at in sent]
    assert max(under_way) == 3


def test_a_limit_that_is_never_reached_changes_nothing() -> None:
    rows = [(i * 700, 10, 1 + i % 7, None) for i in range(40)]
    free, limited = (play(World(rows, costs=COSTS, max_concurrency=most))[1] for most in (None, 40))
    assert {name: free.requests[name].tolist() for name in free.requests.columns} == {
        name: limited.requests[name].tolist() for name in limited.requests.columns
    }


def test_a_rejected_request_makes_room_at_once() -> None:
    records = play(World([(0, 20_000, 3, None), (0, 10, 3, None)], costs=COSTS, max_concurrency=1))[1]
    assert list(records.rejections) == [0]
    assert by_request(records, "arrival") == [0, 0]


def early(slo_ticks: int) -> Callable[[], EarlyAbort]:
    return partial(EarlyAbort, slo_s=to_seconds(slo_ticks), margin_s=0.0)


def test_a_request_given_up_while_a_run_of_steps_is_planned_makes_room_that_the_run_knows_of() -> None:
    # the second does not fit beside the first, and is too late from tick 4600 on; the boundary after that is at 5000
    rows = [(0, 300, 20, None), (100, 800, 2, None), (200, 10, 2, None)]
    world = World(rows, costs=COSTS, total_bytes=1000, max_concurrency=2, scheduler=early(4500))
    records = play(world)[1]
    assert list(records.rejections) == [1]
    assert by_request(records, "arrival") == [0, 100, 5000]
    assert by_request(records, "admitted")[2] == 6000  # the first boundary after it was sent, not the end of the run


class GivesUp(FCFS):
    """Turns the second request away in the round in which it sees it, and admits the others."""

    def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:
        for request in list(waiting):
            if request.id == 1:
                batch.abort(request, "the second")
            else:
                batch.try_add(request)


def test_a_request_given_up_beside_a_prefill_makes_room_before_that_ends() -> None:
    world = World([(0, 10, 3, None)] * 3, costs=COSTS, max_concurrency=2, scheduler=GivesUp)
    records = play(world)[1]
    assert by_request(records, "arrival") == [0, 0, 0]
    assert by_request(replay(world)[1], "arrival") == [0, 0, 0]


def test_a_request_given_up_by_an_engine_that_then_has_nothing_to_do_makes_room() -> None:
    world = World([(0, 10, 3, None)] * 3, costs=COSTS, max_concurrency=1, scheduler=GivesUp)
    records = play(world)[1]
    assert by_request(records, "arrival") == [0, 3000, 3000]
    assert by_request(records, "finish")[2] == 6000


def test_what_a_request_waited_at_its_client_is_in_no_latency() -> None:
    changes = ("client.max_concurrency=2",)
    table = sim.run("slora", requests=60, rate=50, changes=changes).requests
    assert (table.client_queue_time_s > 0).any()
    waited = table.send_s - table.arrival_s
    assert np.allclose(table.client_queue_time_s, waited)
    assert np.allclose(table.ttft_s, table.first_token_s - table.send_s)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4000), st.integers(1, 30), st.integers(1, 9)), min_size=1, max_size=25),
    st.integers(1, 4),
)
def test_both_drivers_send_at_the_same_instants(rows: list[tuple[int, int, int]], most: int) -> None:
    requests = [(at, prompt, output, i % 3) for i, (at, prompt, output) in enumerate(sorted(rows))]
    world = World(requests, [(8, 300)] * 3, total_bytes=900, costs=COSTS, max_concurrency=most, asks_every_step=True)
    simulated, replayed = play(world)[1], replay(world)[1]
    for name in simulated.requests.columns:
        assert simulated.requests[name].tolist() == replayed.requests[name].tolist(), name
    fast = play(replace(world, asks_every_step=False))[1]
    assert by_request(fast, "finish") == by_request(simulated, "finish")


def test_replicas_cannot_share_a_limit() -> None:
    with pytest.raises(ConfigError, match=r"client.max_concurrency=3: client.max_concurrency: .* replicas: 1, got 2"):
        sim.run(requests=5, changes=("replicas=2", "client.max_concurrency=3"))


def test_a_client_without_requests_sends_nothing() -> None:
    assert Client([], 3).sends_at(0, 0) is None
    with pytest.raises(RuntimeError, match="every request has been sent"):
        Client([]).take()


def test_the_command_line_closes_the_loop_and_the_bench_file_says_so(tmp_path: Path) -> None:
    said = chameleon(
        "run", "--requests", "60", "--rate", "50", "--max-concurrency", "2", "--out", str(tmp_path / "run")
    )
    assert said.code == 0
    assert json.loads((tmp_path / "run" / "vllm_bench.json").read_text())["max_concurrency"] == 2
    assert (read_run(tmp_path / "run").requests.client_queue_time_s > 0).any()
