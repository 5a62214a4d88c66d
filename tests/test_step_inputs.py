"""Steps whose inputs wait behind the transfer that is under way: copies of one direction share one engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from inspect import getsource
from typing import Any

import pytest

from policies.builtin import BUILTIN
from sim.build import deploy
from sim.config import load_config
from sim.hardware import load_hardware
from sim.idle_settings import FETCHING, idle_settings
from sim.serving.inputs import PlainInputs
from sim.serving.options import EarlyStart
from tests.tables import Tables
from tests.worlds import RoundCosts, World, play, replay

BEHIND: Mapping[str, Any] = {"inputs": PlainInputs(100, 1)}
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


@pytest.mark.parametrize(("inline_bytes", "waits"), [(100, True), (101, False)])
def test_inputs_that_are_small_enough_wait_for_nothing(inline_bytes: int, waits: bool) -> None:
    small = replace(TWO, mechanism={**BEHIND, "inline_bytes": inline_bytes})  # a request and its token
    assert firsts(small) == firsts(TWO if waits else replace(TWO, mechanism={}))


@pytest.mark.parametrize(("inline_bytes", "begins"), [(220, 0), (219, 2000)])
def test_prompts_and_their_tokens_count_in_a_prefill(inline_bytes: int, begins: int) -> None:
    rows = [(0, 10, 10, None), (0, 10, 1, 0), (0, 10, 1, None)]  # two are prefilled while the adapter is on its way
    small = replace(TWO, requests=rows, mechanism={**BEHIND, "inline_bytes": inline_bytes})
    assert firsts(small)[2] == begins + 100 + 20 * 10


@pytest.mark.parametrize(("inline_bytes", "waits"), [(100 + 11 + 100 + 1, False), (100 + 11 + 100, True)])
def test_the_batch_and_the_chunk_beside_it_count_in_a_mixed_step(inline_bytes: int, waits: bool) -> None:
    # While the adapter is on its way from 2110 on, a third request is prefilled beside the first one's next token.
    rows = [(0, 10, 10, None), (500, 10, 2, 0), (1300, 11, 1, None)]
    mixed = {**BEHIND, "prefill": "mixed", "inline_bytes": inline_bytes}
    found = firsts(replace(TWO, requests=rows, mechanism=mixed))
    assert found[2] == (4110 if waits else 2110) + 1010 + 11 * 10


@pytest.mark.parametrize("asks_every_step", [True, False])
def test_a_table_that_grows_past_the_limit_waits_from_then_on(asks_every_step: bool) -> None:
    # From 1210 on the adapter is on its way, for 9000 ticks. At 2220 the first request gets its 13th token.
    slow = replace(TWO, adapters=[(8, 8950)], asks_every_step=asks_every_step)
    grows, stays = (replace(slow, mechanism={"inputs": Tables(4), "inline_bytes": limit}) for limit in (3, 5))
    assert firsts(grows) == [200, 10_210 + 1010 + 200]
    steps = play(grows)[1].segments
    lasted = dict(zip(steps["start"].tolist(), steps["first"].tolist(), strict=True))
    assert (lasted[1210], lasted[2220]) == (1010, 10_210 - 2220 + 1010)
    waits = play(grows)[1].input_waits
    assert (waits["start"].tolist(), waits["ticks"].tolist()) == ([2220], [10_210 - 2220])
    assert firsts(stays) == firsts(replace(slow, mechanism={})) == [200, 10_210 + 200]


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


@pytest.mark.parametrize("key", ["request_input_bytes", "token_input_bytes"])
def test_the_settings_idle_where_loads_share_the_link(key: str) -> None:
    changes = (f"loading.{key}=10", "loading.sharing=fair")
    said = f"loading.{key} has no effect with loading.sharing: fair"
    assert idle_settings(load_config("slora", changes).config) == [said]
    assert idle_settings(load_config("slora", changes[:1]).config) == []


def test_the_settings_idle_where_nothing_overlaps_with_steps() -> None:
    changes = ("loading.token_input_bytes=10", "prefetch=none")
    why = "loading.mode: blocking, prefetch: none and no KV that is swapped"
    said = f"loading.token_input_bytes has no effect with {why}"
    assert idle_settings(load_config("slora", changes).config) == [said]
    for other in ("loading.mode=overlapped", "admission.preempted=swap"):
        assert idle_settings(load_config("slora", (*changes, other)).config) == []


@pytest.mark.parametrize("system", ["lorax", "peft", "sglang-overlap"])
def test_the_settings_do_not_idle_where_the_scheduler_brings_adapters_in(system: str) -> None:
    changes = ("loading.request_input_bytes=10", "loading.mode=blocking", "prefetch=none")
    assert not [one for one in idle_settings(load_config(system, changes).config) if "input_bytes" in one]


def test_those_schedulers_are_all_that_fetch() -> None:
    modules = {kind: import_module(path.partition(":")[0]) for kind, path in BUILTIN["scheduler"].items()}
    classes = {kind: getattr(modules[kind], BUILTIN["scheduler"][kind].partition(":")[2]) for kind in modules}
    assert {kind for kind, one in classes.items() if "try_fetch" in getsource(one)} == FETCHING


def test_a_configuration_and_a_profile_say_how_much_waits() -> None:
    h100 = load_hardware("h100")
    quick = h100.model_copy(update={"link": h100.link.model_copy(update={"inline_bytes": 10})})
    changes = ("loading.request_input_bytes=2000", "loading.token_input_bytes=24")
    workload = {"workload": {"requests": 2, "rate_per_s": 1.0}}
    options = deploy(load_config("slora", changes, workload), gpu=quick).options
    assert (options.inputs, options.inline_bytes) == (PlainInputs(2000, 24), 10)
    plain = deploy(load_config("slora", (), workload)).options
    assert (plain.inputs, plain.inline_bytes) == (None, 24 << 10)
    assert deploy(load_config("slora", changes, workload), inputs=Tables(4)).options.inputs == Tables(4)
