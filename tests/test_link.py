"""The link carries one adapter at a time, demand before prefetch, each class in order."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import simpy

from policies.base import Adapter, Prefetch, Request
from sim.engine import SimLink
from sim.job import AdapterSlot
from sim.link import LinkQueue, Transfer
from tests.worlds import World, play

A, B, C, D = (AdapterSlot(Adapter(name, 8, 10), i) for i, name in enumerate("abcd"))


def transfer(slot: AdapterSlot, *, is_demand: bool, ticks: int = 100) -> Transfer:
    return Transfer(slot, ticks, 0, is_demand=is_demand)


def queue(*slots: tuple[AdapterSlot, bool]) -> LinkQueue:
    made = LinkQueue()
    for slot, is_demand in slots:
        made.push(transfer(slot, is_demand=is_demand))
    return made


def drained(waiting: LinkQueue) -> list[AdapterSlot]:
    return [waiting.pop().slot for _ in range(len(waiting))]


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
    link = SimLink(env, lambda done: log.append((done.started, int(env.now), done.slot)))
    for slot, ticks in ((A, 30), (B, 20)):
        link.send(transfer(slot, is_demand=True, ticks=ticks))
    env.run()
    assert log == [(0, 30, A), (30, 50, B)]


def test_a_transfer_under_way_is_not_interrupted_by_demand() -> None:
    env, log = simpy.Environment(), []
    link = SimLink(env, lambda done: log.append((int(env.now), done.slot)))
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
