"""Laws of a run, in whole configurations at random: what is conserved, and which ways to the same result there are."""

from __future__ import annotations

import importlib
import re
import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from inspect import signature
from itertools import pairwise

from gpu_validate.modelled import ModelledDevice
from gpu_validate.replay import Replay
from policies.base import Cache, Facts
from policies.builtin import BUILTIN
from sim.build import deploy, jobs, play_until
from sim.conformance.records import difference
from sim.experiments.run import result_of
from sim.names import SEAMS
from sim.serving.records import NEVER, STATUSES, Records, Table
from sim.serving.ticks import TICKS_PER_S, to_ticks
from tests.commands import chameleon
from tests.configured_laws import in_drawn, is_alone, is_fleet, is_open
from tests.configured_runs import Played, parted, play, play_alone, play_fleet, played
from tests.policy_parameters import POLICIES
from tests.random_configurations import Configuration, drawn

COUNT = 75
INSTANTS = ("arrival", "admitted", "ready", "prefill_start", "first_token", "finish")
PARTS = ["queue_s", "adapter_wait_s", "prefill_s", "preempt_s", "overhead_s"]

Span = tuple[int, int]


def rows(table: Table) -> list[tuple[int, ...]]:
    return list(zip(*(table[column].tolist() for column in table.columns), strict=True))


def served(records: Records) -> list[int]:
    table = records.requests
    return table["request"][table["status"] == STATUSES.index("ok")].tolist()  # type: ignore[no-any-return]


def assert_apart(spans: Iterable[Span]) -> None:
    for (start, end), (next_start, next_end) in pairwise(sorted(spans)):
        assert end <= next_start, f"{start} to {end} and {next_start} to {next_end} at once"


# --- the draws themselves ---


def test_every_policy_and_each_of_its_parameters_can_be_drawn() -> None:
    for seam in SEAMS:
        assert POLICIES[seam].keys() == BUILTIN[seam].keys()
        for name, path in BUILTIN[seam].items():
            module, cls = path.split(":")
            known = signature(getattr(importlib.import_module(module), cls)).parameters
            assert POLICIES[seam][name].keys() == known.keys(), name


def test_the_draws_reach_what_the_laws_are_about() -> None:
    every = [records for one in map(drawn, range(COUNT)) for records in played(one).records]
    tables = ("evictions", "stalls", "input_waits", "mixed", "pauses", "swaps", "reads", "rejections", "squashes")
    reached = Counter(name for records in every for name in tables if len(getattr(records, name)))
    assert all(reached[name] for name in tables), reached
    assert any(records.requests["bypassed"].any() for records in every)
    assert any((records.transfers["kind"] == 1).any() for records in every)


def test_a_configuration_prints_as_the_command_that_runs_it() -> None:
    one = drawn(0)
    said = chameleon(*shlex.split(repr(one))[1:])
    assert said.code == 0, said.err
    assert re.search(rf"Successful requests: +{sum(map(len, map(served, played(one).records)))} ", said.out)


# --- what is conserved ---


@in_drawn(COUNT)
def test_bytes_requests_and_lanes_add_up_at_every_step_boundary(one: Configuration) -> None:
    assert played(one).boundaries > 0


@in_drawn(COUNT)
def test_each_request_leaves_one_engine_once(one: Configuration) -> None:
    run = played(one)
    left = [request for records in run.records for request in records.requests["request"].tolist()]
    assert sorted(left) == list(range(len(run.deployment.trace)))
    for records in run.records:
        assert len(served(records)) + len(records.rejections) == len(records.requests)


@in_drawn(COUNT)
def test_nothing_is_held_when_all_have_left(one: Configuration) -> None:
    for core in played(one).cores:
        slots = core.adapters.slots.values()
        assert not any((core.waiting, core.live, core.running, core.joining, core.kept))
        assert (core.memory.kv_bytes, core.stops.swapped_bytes, core.stops.kept_bytes) == (0, 0, 0)
        assert core.memory.base_bytes == core.adapters.base_users == 0
        assert all(slot.users == (slot is core.merged) and slot.queued == 0 for slot in slots)
        assert all(slot.ready for slot in slots if slot.held)


@in_drawn(COUNT)
def test_each_output_token_is_emitted_once(one: Configuration) -> None:
    run = played(one)
    for records in run.records:
        if not records.squashes:
            decoded = int((records.segments["count"] * records.segments["batch"]).sum())
            asked = int(run.deployment.trace.output_tokens[served(records)].sum())
            assert decoded + len(records.pauses) + len(served(records)) == asked


@in_drawn(COUNT)
def test_each_prompt_is_prefilled_once_where_nobody_stops(one: Configuration) -> None:
    run = played(one)
    for records in run.records:
        if not records.squashes and not records.requests["preemptions"].any():
            asked = int(run.deployment.trace.prompt_tokens[served(records)].sum())
            assert int(records.prefills["tokens"].sum()) == asked


@in_drawn(COUNT)
def test_loads_less_evictions_are_the_adapters_that_are_there(one: Configuration) -> None:
    run = played(one)
    for records, core in zip(run.records, run.cores, strict=True):
        held = sum(slot.held for slot in core.adapters.slots.values())
        assert len(records.transfers) - len(records.evictions) == held


@in_drawn(COUNT, where=lambda one: one.config.loading.sharing == "fifo")
def test_the_link_never_carries_two_at_once(one: Configuration) -> None:
    for records in played(one).records:
        back = [(start, end) for _, start, end, _, _, way in rows(records.swaps) if way == 0]
        assert_apart([*back, *((start, end) for _, start, end, *_ in rows(records.transfers))])


@in_drawn(COUNT)
def test_a_transfer_lasts_no_less_than_its_bytes_do_alone(one: Configuration) -> None:
    run = played(one)
    costs = run.deployment.costs
    for records in run.records:
        for queued, start, end, _, size_bytes, _ in rows(records.transfers):
            assert queued <= start <= end - costs.load(size_bytes)
        for queued, start, end, _, size_bytes in rows(records.reads):
            assert queued <= start == end - costs.read(size_bytes)


@in_drawn(COUNT)
def test_an_engine_does_one_thing_at_a_time(one: Configuration) -> None:
    for records in played(one).records:
        spans = [(start, start + ticks) for start, ticks, *_ in rows(records.prefills)]
        together = set(records.mixed["start"].tolist())
        for start, first, growth, count, *_ in rows(records.segments):
            if start not in together:
                spans.append((start, start + count * first + growth * (count * (count - 1) // 2)))
        spans += [(start, start + ticks) for start, ticks in rows(records.stalls)]
        assert_apart(spans)
        assert all(end <= records.end for _, end in spans)


@in_drawn(COUNT)
def test_the_instants_of_a_request_are_in_order(one: Configuration) -> None:
    for records in played(one).records:
        table = records.requests
        is_served = table["status"] == STATUSES.index("ok")
        instants = [table[name][is_served] for name in INSTANTS]
        assert all((earlier <= later).all() for earlier, later in pairwise(instants))
        assert (instants[-1] < NEVER).all()
        assert (table["preempted"][is_served] <= instants[-2] - instants[0]).all()


@in_drawn(COUNT)
def test_the_parts_of_a_first_token_add_up_to_it_exactly(one: Configuration) -> None:
    run = played(one)
    table = result_of(run.deployment, *run.records).requests
    done = table[table["status"] == "ok"]
    assert (done[PARTS] >= 0).all(axis=None)
    assert (done[PARTS].sum(axis=1) == done["ttft_s"]).all()


# --- other ways to the same ---


def assert_same(one: Played, other: Played) -> None:
    said = parted(one, other)
    assert said is None, said


@in_drawn(COUNT)
def test_one_step_at_a_time_gives_the_same(one: Configuration) -> None:
    assert_same(played(one), play(deploy(one.loaded, asks_every_step=True)))


@in_drawn(COUNT // 2)
def test_a_second_run_gives_the_same(one: Configuration) -> None:
    assert_same(played(one), play(deploy(one.loaded)))


@in_drawn(COUNT // 2, where=is_alone)
def test_a_device_that_takes_the_modelled_time_gives_the_same(one: Configuration) -> None:
    deployment, records, device = deploy(one.loaded, asks_every_step=True), Records(), ModelledDevice()
    core = deployment.core(device, records)
    poll_ticks = to_ticks(deployment.config.admission.idle_poll_s)
    most = deployment.config.client.max_concurrency
    requests = list(jobs(deployment, core.adapters.palette))
    Replay(core, device, requests, records, idle_poll_ticks=poll_ticks, max_concurrency=most).run()
    assert_same(played(one), Played(deployment, (records,), (core,)))


@in_drawn(COUNT, where=is_open)
def test_a_fleet_of_one_is_the_engine_alone(one: Configuration) -> None:
    assert_same(played(one), play_fleet(deploy(one.loaded)))


@in_drawn(COUNT, where=is_fleet)
def test_a_replica_with_its_requests_alone_does_what_it_did_in_the_fleet(one: Configuration) -> None:
    for index, records in enumerate(played(one).records):
        mine = set(records.requests["request"].tolist())
        deployment = deploy(one.loaded)
        alone = play_alone(replace(deployment, policies=(deployment.policies[index],)), keep=mine.__contains__)
        assert (said := difference(records, alone.records[0])) is None, said


# --- the future ---


def finished_before(records: Records, end: int) -> list[tuple[int, ...]]:
    """Return the rows of those who left before a tick, but for where their decode steps stand in `segments`."""
    return sorted(row[:-2] for row in rows(records.requests) if row[7] < end)


def cut(one: Configuration) -> tuple[int, int]:
    """Return the request from which on all are left out, and its arrival."""
    arrival_s = played(one).deployment.trace.arrival_s
    first = len(arrival_s) * 2 // 3
    return first, max(round(arrival_s[first] * TICKS_PER_S), 1)


@in_drawn(COUNT, where=is_open)
def test_those_who_come_later_change_nothing_before_they_come(one: Configuration) -> None:
    first, end = cut(one)
    whole, less = played(one).records[0], play(deploy(one.loaded), keep=lambda request: request < first).records[0]
    assert finished_before(whole, end) == finished_before(less, end)
    transfers = [[row for row in rows(records.transfers) if row[2] < end] for records in (whole, less)]
    assert transfers[0] == transfers[1]


@in_drawn(COUNT // 2, where=is_open)
def test_a_run_up_to_a_tick_is_the_whole_run_up_to_it(one: Configuration) -> None:
    _, end = cut(one)
    assert finished_before(play_until(deploy(one.loaded), end), end) == finished_before(played(one).records[0], end)


class Told(Cache):
    """Keeps what it is told."""

    name = "told"
    facts: Facts

    def start(self, facts: Facts) -> None:
        type(self).facts = facts


@in_drawn(COUNT, where=is_open)
def test_the_future_that_a_policy_is_told_is_what_arrives(one: Configuration) -> None:
    loaded = one.loaded
    deployment = deploy(loaded._replace(config=loaded.config.model_copy(update={"cache": {"kind": Told}})))
    palette = play(deployment).cores[0].adapters.palette
    arriving = [(job.request.arrival_s, job.request.adapter) for job in jobs(deployment, palette)]
    assert list(Told.facts.future()) == arriving


def test_the_draws_have_engines_of_every_kind() -> None:
    every = [drawn(index) for index in range(COUNT)]
    counts = [sum(map(kind, every)) for kind in (is_alone, is_open, is_fleet)]
    assert min(counts) > COUNT // 5, counts
