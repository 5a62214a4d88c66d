"""Steps whose inputs wait behind the transfer that is under way: copies of one direction share one engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from sim.config import load_config
from sim.idle_settings import idle_settings
from sim.serving.options import EarlyStart
from tests.worlds import RoundCosts, World, play, replay

BEHIND: Mapping[str, Any] = {"inputs_behind": True}
# The first decodes from 200 on, a step in 1010 ticks; the second comes meanwhile, its adapter takes 2000 ticks.
TWO = World(
    [(0, 10, 10, None), (500, 10, 2, 0)],
    [(8, 1950)],
    blocks_on_load=False,
    costs=RoundCosts(decode_context=0),
    mechanism=BEHIND,
)


def firsts(world: World) -> list[int]:
    """Return when each request got its first token, by id."""
    requests = play(world)[1].requests
    found = dict(zip(requests["request"].tolist(), requests["first_token"].tolist(), strict=True))
    return [found[id_] for id_ in sorted(found)]


def test_a_step_starts_when_the_transfer_under_way_is_complete() -> None:
    loads_at = 200 + 1010
    assert firsts(TWO) == [200, loads_at + 2000 + 1010 + 200]
    assert firsts(replace(TWO, mechanism={})) == [200, loads_at + 2 * 1010 + 200]


def test_a_step_that_no_transfer_precedes_starts_at_once() -> None:
    alone = replace(TWO, requests=TWO.requests[:1])
    assert (
        play(alone)[1].requests["finish"].tolist() == play(replace(alone, mechanism={}))[1].requests["finish"].tolist()
    )


def test_a_prefill_waits_as_a_decode_step_does() -> None:
    rows = [(0, 10, 1, 0), (0, 10, 1, None)]
    beside, behind = (firsts(replace(TWO, requests=rows, mechanism=mechanism)) for mechanism in ({}, BEHIND))
    assert (beside[1], behind[1]) == (200, 2000 + 200)


def test_loads_that_share_the_link_hold_up_no_step() -> None:
    shared = {"fair_link": True}
    assert firsts(replace(TWO, mechanism={**BEHIND, **shared})) == firsts(replace(TWO, mechanism=shared))


def test_a_prefill_that_follows_its_load_has_less_of_it_left_when_its_inputs_are_there() -> None:
    early = {"early_start": EarlyStart(4)}
    rows = [(0, 10, 1, 0)]
    beside, behind = (firsts(replace(TWO, requests=rows, mechanism={**early, **more})) for more in ({}, BEHIND))
    assert beside == [2000 + 200 // 4]
    assert behind == [2000 + 200]


@pytest.mark.parametrize("asks_every_step", [True, False])
def test_both_drivers_wait_alike(asks_every_step: bool) -> None:
    rows = [(i * 90, 5 + i % 7, 1 + i % 9, i % 5) for i in range(60)]
    adapters = [(8, 30), (8, 500), (16, 80), (32, 700), (8, 50)]
    world = replace(TWO, requests=rows, adapters=adapters, total_bytes=1500, asks_every_step=asks_every_step)
    one, other = play(world)[1].requests, replay(world)[1].requests
    assert {name: one[name].tolist() for name in one.columns} == {name: other[name].tolist() for name in other.columns}
    assert firsts(world) != firsts(replace(world, mechanism={}))


def test_the_setting_idles_where_loads_share_the_link() -> None:
    changes = ("loading.step_inputs=behind", "loading.sharing=fair")
    said = "loading.step_inputs has no effect with loading.sharing: fair"
    assert idle_settings(load_config("slora", changes).config) == [said]
    assert idle_settings(load_config("slora", changes[:1]).config) == []


def test_the_setting_idles_where_nothing_overlaps_with_steps() -> None:
    changes = ("loading.step_inputs=behind", "prefetch=none")
    said = "loading.step_inputs has no effect with loading.mode: blocking, prefetch: none and no KV that is swapped"
    assert idle_settings(load_config("slora", changes).config) == [said]
    for other in ("loading.mode=overlapped", "admission.preempted=swap"):
        assert idle_settings(load_config("slora", (*changes, other)).config) == []
