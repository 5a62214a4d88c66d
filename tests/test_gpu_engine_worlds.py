"""What a request is told does not depend on how it was served: in chunks, stopped, swapped, merged, or let alone.

Worlds run through the torch engine on the modelled clock. Their logs are SimPy's, and every token is held against a
dense decoder in float64 that knows neither caches nor batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from gpu_validate.engine.adapters import DeviceAdapters, HostStore  # noqa: E402
from gpu_validate.engine.arena import Arena, aligned  # noqa: E402
from gpu_validate.engine.decoder import Decoder  # noqa: E402
from gpu_validate.engine.device import VirtualTorchDevice  # noqa: E402
from gpu_validate.engine.kv import PagedKV, blocks_needed  # noqa: E402
from gpu_validate.engine.worker import Worker, prompt_tokens  # noqa: E402
from gpu_validate.lora.backends import backend  # noqa: E402
from gpu_validate.lora.layout import Layout  # noqa: E402
from gpu_validate.replay import Replay  # noqa: E402
from policies.base import Batch, Request, Scheduler  # noqa: E402
from sim.core import Core  # noqa: E402
from sim.models import ALL_MODULES, Model  # noqa: E402
from sim.serving.memory import HostMemory  # noqa: E402
from sim.serving.options import EarlyStart  # noqa: E402
from sim.serving.records import Records  # noqa: E402
from tests.engine_world import CPU, STRONG, dense_logits  # noqa: E402
from tests.test_fast_path import SCHEDULERS, crowded_worlds, told, worlds  # noqa: E402
from tests.worlds import World, core_of, jobs_of, play  # noqa: E402

MODEL = Model(
    name="two-layers", layers=2, hidden=32, heads=4, kv_heads=2, head_dim=8, ffn=48, vocab=97, context_window=256
)
DIVISOR = 4  # of ranks
ADAPTERS = [(8, 30), (16, 50), (32, 80)]
TIE = 1e-3  # of logits around 1: float32 may choose the other one


def worker_for(world: World) -> Worker:
    """Return a worker with room for what the world's core may plan; the base model is the last adapter."""
    ranks = [max(1, rank // DIVISOR) for rank, _ in world.adapters]
    store = HostStore(Layout.of(MODEL, ALL_MODULES), [*ranks, None], dtype=torch.float32, deviation=STRONG, seed=5)
    arena = Arena(sum(aligned(store.layout.elements(rank), 4) for rank in ranks) + 1, dtype=torch.float32, device=CPU)
    limits = core_of(world, VirtualLink(), Records()).memory.limits
    blocks = blocks_needed(
        limits, max(world.running_requests, len(world.requests)), world.mechanism.get("block_tokens", 1)
    )
    return Worker(
        Decoder(MODEL, max_positions=256, dtype=torch.float32, device=CPU, seed=3),
        PagedKV(MODEL, blocks, dtype=torch.float32, device=CPU),
        DeviceAdapters(store, arena),
        backend("torch_loop"),
        seats=min(world.running_requests, len(world.requests)),
        keeps_tokens=True,
    )


class VirtualLink:
    """Takes nothing."""

    def send(self, transfer: object) -> None: ...
    def promote(self, slot: object, now: int) -> None: ...
    def left_ticks(self, slot: object, now: int) -> None: ...
    def busy_ticks(self, now: int) -> int:
        return 0


def served(world: World) -> tuple[Core, Records, Worker]:
    """Run a world through the torch engine, the books compared before every step."""
    records, worker = Records(), worker_for(world)
    device = VirtualTorchDevice(worker, checks=True)
    core = core_of(world, device, records)
    poll, most = world.idle_poll_ticks, world.max_concurrency
    Replay(core, device, jobs_of(world, core), records, idle_poll_ticks=poll, max_concurrency=most).run()
    worker.check(core)
    assert not worker.kv.pool.tables
    assert not worker.swapped.tokens
    return core, records, worker


def check_tokens(world: World, worker: Worker, without: Iterable[int] = ()) -> None:
    """Raise AssertionError unless every token is the likeliest after those before it."""
    worker.merged.become(None)
    for id_, (_, prompt, output, index) in enumerate(world.requests):
        if id_ in without:
            continue
        emitted = (worker.emitted or {})[id_][-output:]  # a squashed request is told its first tokens again
        assert len(emitted) == output
        tokens = [*prompt_tokens(id_, prompt, MODEL.vocab).tolist(), *emitted]
        logits = dense_logits(worker, tokens[:-1], len(world.adapters) if index is None else index)[prompt - 1 :]
        chosen = logits[np.arange(output), emitted]
        assert (logits.max(axis=1) - chosen < TIE).all(), id_


def checked(world: World) -> Records:
    """Return the records of a world that was served as SimPy plans it and told the right tokens."""
    core, records, worker = served(world)
    oracle = told(*play(replace(world, asks_every_step=True)))
    mine = told(core, records)
    for what in oracle:
        assert mine[what] == oracle[what], what
    check_tokens(world, worker, without=records.rejections)
    return records


def world_of(rows: Sequence[tuple[int, int, int, int | None]], mechanism: dict[str, Any], **changes: Any) -> World:
    return World(rows, ADAPTERS, asks_every_step=True, admit_every_steps=0, mechanism=mechanism, **changes)


ROWS = [(0, 40, 12, 0), (500, 7, 20, 1), (1500, 50, 5, None), (2500, 33, 9, 2), (9000, 61, 3, 1)]


@pytest.mark.parametrize("mechanism", [{"prefill": "chunked", "step_tokens": 16}, {"prefill": "mixed"}])
def test_prompts_beside_the_batch_attend_to_what_came_before(mechanism: dict[str, Any]) -> None:
    records = checked(world_of(ROWS, mechanism))
    assert len(records.mixed) >= 3
    assert len(records.prefills) > len(ROWS) or mechanism["prefill"] == "mixed"


class Newest(Scheduler):
    """The newest request runs alone; whoever runs is preempted for it."""

    name = "newest"

    def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:
        newest = max(waiting, key=lambda request: request.id)
        running = list(batch.running)
        if running and running[0].id < newest.id:
            batch.preempt(running[0])
            running = []
        if not running and not batch.joining:
            batch.try_add(newest)


STOPPED = [(0, 20, 30, 0), (6000, 10, 20, 1), (14_000, 30, 8, 2), (40_000, 5, 25, None)]


@pytest.mark.parametrize("prefill", ["separate", "chunked"])
@pytest.mark.parametrize("preempted", ["keep", "swap", "recompute"])
def test_a_preempted_request_goes_on_where_it_was(preempted: str, prefill: str) -> None:
    mechanism = {"preempted": preempted, "prefill": prefill, "step_tokens": 16}
    records = checked(world_of(STOPPED, mechanism, scheduler=Newest))
    assert records.requests["preemptions"].sum() >= 2
    assert bool(len(records.swaps)) == (preempted == "swap")


@pytest.mark.parametrize("shortage", ["recompute", "swap"])
@pytest.mark.parametrize("prefill", ["separate", "chunked"])
def test_requests_that_memory_stops_go_on_where_they_were(prefill: str, shortage: str) -> None:
    rows = [(i * 3000, 20 + i % 7, 60, i % 3) for i in range(6)]
    mechanism = {"reserve": "on_demand", "shortage": shortage, "prefill": prefill, "step_tokens": 12}
    records = checked(world_of(rows, mechanism, total_bytes=360, kv_limit_bytes=200))
    assert records.requests["preemptions"].sum() >= 3


def test_a_prompt_that_is_turned_back_halfway_starts_afresh() -> None:
    rows = [(0, 40, 60, 0), (2000, 90, 5, 1), (2000, 5, 30, 2)]
    mechanism = {"reserve": "on_demand", "prefill": "chunked", "step_tokens": 8}
    records = checked(world_of(rows, mechanism, total_bytes=310, kv_limit_bytes=150))
    prompts = sum(row[1] for row in rows)
    assert records.prefills["tokens"].sum() > prompts
    assert records.requests["preemptions"].sum() >= 1


class Merging(Scheduler):
    """Merges whatever adapter the first request in the queue wants."""

    name = "merging"

    def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:
        requests = list(waiting)
        adapter = requests[0].adapter
        if adapter is not None and not batch.is_resident(adapter):
            batch.try_fetch(adapter)
            return
        if batch.merged is not adapter and not batch.running:
            batch.merge(adapter)
        for request in requests:
            batch.try_add(request)


def test_merged_weights_say_what_they_should_and_come_back() -> None:
    rows = [(i * 2000, 10 + i, 6 + i, (0, 0, 1, None, 2, 0)[i % 6]) for i in range(12)]
    world = world_of(rows, {"merge_ticks": 10}, scheduler=Merging, total_bytes=220)
    core, records, worker = served(world)
    assert worker.merged.slot is core.merged
    assert len(records.transfers) > len(ADAPTERS)  # some merged adapter had left the device before it was taken out
    check_tokens(world, worker)
    fresh = worker_for(world).decoder
    for one, other in zip(worker.decoder.layers, fresh.layers, strict=True):
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(one, other, strict=True))


def test_a_prefill_that_starts_before_its_adapter_has_it_in_time() -> None:
    early = EarlyStart(4, groups=2, cpu_token_ticks=5, slowdown=1.07)
    for start in (early, EarlyStart(4)):
        for prefill in ("separate", "chunked"):
            mechanism = {"early_start": start, "prefill": prefill, "step_tokens": 16}
            checked(world_of(ROWS, mechanism, blocks_on_load=False, total_bytes=400))


def test_adapters_from_disk_and_kv_share_the_link() -> None:
    mechanism = {"preempted": "swap", "fair_link": True}
    host = HostMemory(60, starts_warm=False)
    records = checked(world_of(STOPPED, mechanism, scheduler=Newest, host=host, blocks_on_load=False))
    assert len(records.reads) >= 2
    assert len(records.swaps) >= 4


@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to shrink a world would take minutes
)
@given(data=st.data())
def test_random_worlds_are_served_as_planned_and_told_the_right_tokens(data: st.DataObject) -> None:
    scheduler = data.draw(st.sampled_from(sorted(SCHEDULERS)))
    world = data.draw(st.one_of(worlds(scheduler), crowded_worlds(scheduler)))
    checked(replace(world, asks_every_step=True))


@pytest.mark.parametrize("prefill", ["separate", "mixed", "chunked"])
@pytest.mark.parametrize("block", [1, 4, 16])
def test_requests_that_find_their_blocks_again_say_what_they_should(prefill: str, block: int) -> None:
    rows = [(i * 3000, 20 + i % 7, 60, i % 3) for i in range(6)]
    mechanism = {"reserve": "on_demand", "prefill": prefill, "step_tokens": 12, "block_tokens": block}
    world = world_of(rows, {**mechanism, "reuses_blocks": True}, total_bytes=420, kv_limit_bytes=260)
    without = play(replace(world, mechanism=mechanism))[1]
    assert checked(world).prefills["tokens"].sum() < without.prefills["tokens"].sum()
