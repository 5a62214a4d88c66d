"""The link carries one adapter at a time, demand before prefetch, each class in order."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import simpy
from hypothesis import given
from hypothesis import strategies as st

from policies.base import Adapter, Prefetch, Request
from policies.prefetch import Queued
from sim.serving.channels import FairChannel
from sim.serving.job import AdapterSlot
from sim.serving.link import AdapterTransfer, AnyTransfer, LinkQueue
from sim.simtime import SimLink
from tests.worlds import World, play, replay

A, B, C, D = (AdapterSlot(Adapter(name, 8, 10), i) for i, name in enumerate("abcd"))


def transfer(slot: AdapterSlot, *, is_demand: bool, ticks: int = 100) -> AdapterTransfer:
    return AdapterTransfer(slot, ticks, 0, is_demand=is_demand)


def queue(*slots: tuple[AdapterSlot, bool]) -> LinkQueue:
    made = LinkQueue()
    for slot, is_demand in slots:
        made.push(transfer(slot, is_demand=is_demand))
    return made


def slot_of(one: AnyTransfer) -> AdapterSlot:
    assert isinstance(one, AdapterTransfer)
    return one.slot


def drained(waiting: LinkQueue) -> list[AdapterSlot]:
    return [slot_of(waiting.pop()) for _ in range(len(waiting))]


def test_demand_goes_before_a_prefetch_that_was_queued_earlier() -> None:
    assert drained(queue((A, False), (B, True), (C, False), (D, True))) == [B, D, A, C]


def test_a_promoted_prefetch_goes_before_others_but_behind_demand() -> None:
    waiting = queue((A, False), (B, False), (C, True))
    waiting.promote(B)
    assert drained(waiting) == [C, B, A]


def test_promoting_what_does_not_wait_changes_nothing() -> None:
    waiting = queue((A, False), (C, True))
    waiting.promote(D)
    waiting.promote(C)
    assert drained(waiting) == [C, A]


def test_an_empty_queue_has_nothing_to_give() -> None:
    with pytest.raises(IndexError):
        LinkQueue().pop()


def test_transfers_follow_one_another_without_a_gap() -> None:
    env, log = simpy.Environment(), []
    link = SimLink(env, lambda done: log.append((done.started, int(env.now), slot_of(done))))
    for slot, ticks in ((A, 30), (B, 20)):
        link.send(transfer(slot, is_demand=True, ticks=ticks))
    env.run()
    assert log == [(0, 30, A), (30, 50, B)]


def test_a_transfer_under_way_is_not_interrupted_by_demand() -> None:
    env, log = simpy.Environment(), []
    link = SimLink(env, lambda done: log.append((int(env.now), slot_of(done))))
    link.send(transfer(A, is_demand=False))
    link.send(transfer(B, is_demand=False))
    link.send(transfer(C, is_demand=True))
    env.run()
    assert log == [(100, A), (200, C), (300, B)]


def test_a_link_that_fell_idle_starts_again_at_once() -> None:
    env, log = simpy.Environment(), []
    link = SimLink(env, lambda done: log.append((done.started, int(env.now))))
    link.send(transfer(A, is_demand=True))
    env.run(until=1000)
    link.send(transfer(B, is_demand=True))
    env.run()
    assert log == [(0, 100), (1000, 1100)]


class Everything(Prefetch):
    """Wants every adapter that it is told of, in order, as soon as anything waits."""

    def __init__(self, *adapters: str) -> None:
        self.names = adapters

    def wanted(self, waiting: Iterable[Request], now: float) -> Iterable[Adapter]:
        known = {request.adapter.id: request.adapter for request in waiting if request.adapter is not None}
        return [known[name] for name in self.names if name in known]


def loads(world: World) -> list[tuple[int, int, int, int]]:
    table = play(world)[1].transfers
    columns = [table[name].tolist() for name in ("adapter", "queued", "start", "kind")]
    return list(zip(*columns, strict=True))


# 0 decodes alone; 1, 2 and 3 come together, and while they wait their adapters are prefetched over a slow link.
WAITING = [(0, 10, 40, None), (300, 10, 5, 0), (300, 10, 5, 1), (300, 10, 5, 2)]
SIZES = [(8, 5_000), (8, 5_000), (8, 5_000)]


def test_the_prefetch_of_a_request_that_is_admitted_goes_before_the_others() -> None:
    world = World(
        WAITING,
        SIZES,
        total_bytes=100_000,
        admit_every_steps=3,
        running_requests=2,
        prefetch=lambda: Everything("a2", "a1", "a0"),
    )
    # a2 is under way when 0, then 1, is admitted: a0 is promoted past a1, which was asked for earlier
    assert [load[0] for load in loads(world)] == [2, 0, 1]


def test_a_promoted_prefetch_is_still_counted_as_a_prefetch() -> None:
    world = World(WAITING[:2], SIZES[:1], total_bytes=100_000, admit_every_steps=3, prefetch=lambda: Everything("a0"))
    ((adapter, queued, start, kind),) = loads(world)
    assert (adapter, kind) == (0, 1)
    assert start == queued
    _, records = play(world)
    assert records.useful_prefetches == {0: 1}


# --- a link that is shared at equal rates ---


def named(name: str) -> AdapterSlot:
    return AdapterSlot(Adapter(name, 8, 10), 0)


def ends(channel: FairChannel, count: int) -> list[tuple[int, str]]:
    found = []
    for _ in range(count):
        at = channel.next_end()
        assert at is not None
        taken = channel.take(at)
        found.append((at, slot_of(taken).adapter.id))
    return found


def test_two_loads_at_once_take_twice_as_long_each() -> None:
    channel = FairChannel()
    channel.push(transfer(named("a"), is_demand=True), 0)
    channel.push(transfer(named("b"), is_demand=True), 0)
    assert ends(channel, 2) == [(200, "a"), (200, "b")]


def test_a_load_that_comes_later_slows_what_is_left_of_the_first() -> None:
    channel = FairChannel()
    channel.push(transfer(named("a"), is_demand=True), 0)
    channel.push(transfer(named("b"), is_demand=True), 60)
    assert ends(channel, 2) == [(140, "a"), (200, "b")]


def test_prefetches_stand_still_while_a_demand_load_is_under_way() -> None:
    channel = FairChannel()
    channel.push(transfer(named("a"), is_demand=False), 0)
    channel.push(transfer(named("b"), is_demand=True), 30)
    assert ends(channel, 2) == [(130, "b"), (200, "a")]


def test_a_promoted_prefetch_goes_on_with_what_is_left_of_it() -> None:
    channel, wanted = FairChannel(), named("a")
    channel.push(transfer(wanted, is_demand=False), 0)
    channel.push(transfer(named("b"), is_demand=True), 40)
    channel.promote(wanted, 60)
    # 60 left of the prefetch and 80 of the load share the link from 60 on.
    assert ends(channel, 2) == [(180, "a"), (200, "b")]


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(1, 300), st.booleans()), min_size=1, max_size=12),
)
def test_a_shared_link_does_as_much_work_as_one_that_is_not(rows: list[tuple[int, int, bool]]) -> None:
    channel, now = FairChannel(), 0
    last = 0
    for gap, ticks, is_demand in rows:
        now += gap
        while (end := channel.next_end()) is not None and end <= now:
            channel.take(end)
        channel.push(transfer(named("a"), is_demand=is_demand, ticks=ticks), now)
        last = max(last, now) + ticks
    while (end := channel.next_end()) is not None:
        now = end
        channel.take(end)
    assert last <= now <= last + len(rows)


def test_a_run_with_a_shared_link_is_the_same_for_both_drivers() -> None:
    rows = [(i * 90, 5 + i % 7, 1 + i % 9, i % 5) for i in range(60)]
    world = World(
        rows,
        [(8, 30), (8, 500), (16, 80), (32, 700), (8, 50)],
        total_bytes=1500,
        blocks_on_load=False,
        asks_every_step=True,
        prefetch=Queued,
        mechanism={"fair_link": True},
    )
    simulated, replayed = play(world)[1], replay(world)[1]
    for table in ("requests", "transfers"):
        one, other = getattr(simulated, table), getattr(replayed, table)
        assert {name: one[name].tolist() for name in one.columns} == {n: other[n].tolist() for n in other.columns}
    overlaps = simulated.transfers["start"][1:] < simulated.transfers["end"][:-1]
    assert overlaps.any()
