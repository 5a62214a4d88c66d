"""A world made smaller as long as it still shows something."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace

from sim.conformance.telling import PLAIN
from sim.conformance.worlds import RoundCosts, World

MICROSECOND = 10**6  # ticks
QUICKEST = 1000 * MICROSECOND  # decode step of the worlds that no other is quicker than
MAX_TRIALS = 300  # of smaller worlds, for one broken law

Row = tuple[int, int, int, int | None]


def shrunk(
    world: World, shows: Callable[[World], bool], keep: str, may_go_on: Callable[[], bool] = lambda: True
) -> World:
    """Return the smallest world found that still shows something.

    Args:
        world: one that shows it.
        shows: whether a world does.
        keep: the field that is not to be changed, the seam of the policy under test.
        may_go_on: asked before every trial; after a no, what was found so far has to do.
    """
    trials, is_smaller = 0, True
    while is_smaller:
        is_smaller = False
        for candidate in _smaller(world, keep):
            trials += 1
            if trials > MAX_TRIALS or not may_go_on():
                return world
            if shows(candidate):
                world, is_smaller = candidate, True
                break
    return world


def can_be_quicker(world: World) -> bool:
    """Whether a world's times are not yet the shortest that worlds have."""
    return world.costs.decode_base > QUICKEST


def quicker(world: World) -> World:
    """Return the world with all times a hundred times shorter."""
    costs = RoundCosts(*(getattr(world.costs, one.name) // 100 for one in fields(RoundCosts)))
    return replace(
        world,
        costs=costs,
        requests=[(row[0] // 100, *row[1:]) for row in world.requests],
        idle_poll_ticks=world.idle_poll_ticks // 100,
        ttft_slo_s=world.ttft_slo_s / 100,
    )


def _smaller(world: World, keep: str) -> Iterator[World]:
    """Yield worlds with less in them, the greatest steps first."""
    rows = list(world.requests)
    size = len(rows) // 2
    while size:
        for start in range(0, len(rows), size):
            yield replace(world, requests=[*rows[:start], *rows[start + size :]])
        size //= 2
    first = rows[0][0] if rows else 0
    if first:
        yield replace(world, requests=[(row[0] - first, *row[1:]) for row in rows])
    if can_be_quicker(world):
        yield quicker(world)
    yield from _without_adapters(world)
    yield from _plainer(world, keep)
    for i, row in enumerate(rows):
        for smaller in _smaller_requests(row, 0 if i == 0 else rows[i - 1][0]):
            yield replace(world, requests=[*rows[:i], smaller, *rows[i + 1 :]])


def _plainer(world: World, keep: str) -> Iterator[World]:
    for name, plain in PLAIN.items():
        if name not in {keep, "adapters", "total_bytes"} and getattr(world, name) != plain:
            yield replace(world, **{name: plain})
    for name in world.mechanism if len(world.mechanism) > 1 else ():
        yield replace(world, mechanism={key: value for key, value in world.mechanism.items() if key != name})


def _without_adapters(world: World) -> Iterator[World]:
    if len(world.adapters) == 1:
        return  # a deployment without any is a case of its own
    for unused in set(range(len(world.adapters))) - {row[3] for row in world.requests}:
        rows = [(*row[:3], None if row[3] is None else row[3] - (row[3] > unused)) for row in world.requests]
        yield replace(world, requests=rows, adapters=[one for i, one in enumerate(world.adapters) if i != unused])


def _smaller_requests(row: Row, earliest: int) -> Iterator[Row]:
    arrival, prompt, output, adapter = row
    if adapter is not None:
        yield arrival, prompt, output, None
    for less in {1, output // 2} - {0, output}:
        yield arrival, prompt, less, adapter
    for less in sorted({1, prompt // 2, prompt - prompt // 4} - {0, prompt}):
        yield arrival, less, output, adapter
    if arrival > earliest:
        yield earliest, prompt, output, adapter
