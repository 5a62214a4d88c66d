"""The torch engine under the real-time driver: on the modelled clock its log is SimPy's, in real time its books balance."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import simpy

torch = pytest.importorskip("torch")

from gpu_validate.engine.build import Engine, open_engine  # noqa: E402
from gpu_validate.engine.copies import HostCopies  # noqa: E402
from gpu_validate.engine.device import TorchDevice, VirtualTorchDevice  # noqa: E402
from gpu_validate.replay import Replay  # noqa: E402
from policies.base import Adapter, Request  # noqa: E402
from sim.build import Deployment, deploy, jobs  # noqa: E402
from sim.config import load_config  # noqa: E402
from sim.engine import Replica, simulate  # noqa: E402
from sim.job import AdapterSlot, Job  # noqa: E402
from sim.link import Transfer  # noqa: E402
from sim.records import NEVER, Records  # noqa: E402
from sim.ticks import TICKS_PER_S, to_ticks  # noqa: E402
from sim.yamlfile import packaged_names  # noqa: E402
from tests.engine_world import slots_of, worker_of  # noqa: E402
from tests.test_parity import log  # noqa: E402

REQUESTS = 25


def deployment(system: str, *, pool_tokens: int | None = None, rate: float = 9.0) -> Deployment:
    workload = {"requests": REQUESTS, "rate_per_s": rate, "scale": 60.0}
    changes = {"workload": workload, "memory": {"kv_pool_tokens": pool_tokens}}
    return deploy(load_config(system, (), changes), asks_every_step=True)


def simulated(made: Deployment) -> Records:
    records = Records()
    env = simpy.Environment()
    replica = Replica(env, lambda link: made.core(link, records), records, idle_poll_ticks=poll(made))
    simulate(env, [replica], jobs(made, replica.core.adapters.palette), lambda _: replica)
    return records


def poll(made: Deployment) -> int:
    return to_ticks(made.config.admission.idle_poll_s)


def replayed(made: Deployment, engine: Engine) -> Records:
    palette = engine.core.adapters.palette
    Replay(engine.core, engine.device, jobs(made, palette), engine.records, idle_poll_ticks=poll(made)).run()
    return engine.records


@pytest.mark.parametrize("system", packaged_names())
def test_every_system_leaves_the_log_of_simpy_while_torch_does_the_work(system: str) -> None:
    made = deployment(system)
    engine = open_engine(deployment(system), checks=True)
    records = replayed(made, engine)
    assert log(records) == log(simulated(deployment(system)))
    assert len(records.requests) == REQUESTS
    worker = engine.device.worker
    assert worker.prompt_tokens == records.prefills["tokens"].sum() >= made.trace.prompt_tokens.sum()
    segments = records.segments
    assert worker.decoded_tokens == (segments["batch"] * segments["count"]).sum() > REQUESTS
    worker.check(engine.core)
    assert worker.kv.pool.free_blocks == worker.kv.pool.blocks
    assert set(worker.adapters.arena.offsets) == {slot.index for slot in engine.core.memory.held}


def test_a_pool_that_is_too_small_stops_requests_and_the_log_is_still_the_same() -> None:
    made = deployment("chameleon", pool_tokens=700, rate=200.0)
    engine = open_engine(made, dims=None, checks=True)
    records = replayed(made, engine)
    assert log(records) == log(simulated(deployment("chameleon", pool_tokens=700, rate=200.0)))
    engine.device.worker.check(engine.core)


@pytest.mark.parametrize(("system", "mode"), [("slora", "slora_double"), ("chameleon", "flat")])
def test_a_run_in_real_time_accounts_for_every_request(system: str, mode: str) -> None:
    made = deployment(system, rate=100.0)
    engine = open_engine(made, clock="real", copy_mode=mode, keeps_tokens=True)
    records = replayed(made, engine)
    assert sorted(records.requests["request"].tolist()) == list(range(REQUESTS))
    assert not records.requests["status"].any()
    columns = ("arrival", "admitted", "ready", "prefill_start", "first_token", "finish")
    arrival, admitted, ready, start, first, finish = (records.requests[name] for name in columns)
    assert (arrival <= admitted).all()
    assert (admitted <= start).all()
    assert (ready <= start).all()
    assert (start < first).all()
    assert (first <= finish).all()
    assert (finish < NEVER).all()
    assert (records.transfers["queued"] <= records.transfers["start"]).all()
    assert (records.transfers["start"] <= records.transfers["end"]).all()
    engine.core.check()
    engine.device.worker.check(engine.core)
    assert {id_: len(tokens) for id_, tokens in (engine.device.worker.emitted or {}).items()} == dict(
        enumerate(made.trace.output_tokens.tolist())
    )
    assert isinstance(engine.device, TorchDevice)
    steps = engine.device.iterations
    assert all(one.start <= one.issued <= one.end for one in steps)
    assert sum(one.tokens for one in steps if one.is_prefill) == engine.device.worker.prompt_tokens


def test_a_real_clock_needs_every_step() -> None:
    made = deploy(load_config("slora", (), {"workload": {"requests": 1}}))
    with pytest.raises(ValueError, match="a real clock needs a deployment with asks_every_step=True"):
        open_engine(made, clock="real")


def test_the_virtual_device_takes_several_steps_at_once() -> None:
    device = VirtualTorchDevice(worker_of(), checks=True)
    made = deploy(load_config("slora", (), {"workload": {"requests": 5, "scale": 60.0, "rate_per_s": 0.5}}))
    engine = open_engine(made)
    records = replayed(made, engine)
    assert (records.segments["count"] > 1).any()
    assert engine.device.worker.decoded_tokens == (records.segments["batch"] * records.segments["count"]).sum()
    assert device.now() == 0


def test_memory_that_differs_from_what_the_core_believes_is_told() -> None:
    made = deployment("slora")
    engine = open_engine(made)
    core, worker = engine.core, engine.device.worker
    job = next(jobs(made, core.adapters.palette))
    core.live[job.request.id] = core.running[job] = job  # type: ignore[assignment]
    worker.prefill([Job(job.request, 0, 1, 1, None)])
    worker.kv.pool.grow(job.request.id)
    with pytest.raises(RuntimeError, match=r"request 0 holds \d+ tokens of KV, the core believes \d+"):
        worker.check(core)


class Slow(HostCopies):
    """A link on which nothing arrives before it is told to."""

    arrives = False

    def is_done(self) -> bool:
        return self.arrives


@pytest.fixture
def link() -> Iterator[tuple[TorchDevice, Slow, list[AdapterSlot]]]:
    worker = worker_of()
    device, slow = TorchDevice(worker), Slow()
    device._copies = slow
    yield device, slow, [slot for slot in slots_of(worker.adapters.store) if slot is not None]


def sent(device: TorchDevice, slot: AdapterSlot, *, is_demand: bool) -> Transfer:
    transfer = Transfer(slot, 1, device.now(), is_demand=is_demand)
    device.send(transfer)
    return transfer


def test_one_transfer_is_under_way_and_demand_goes_first(link: tuple[TorchDevice, Slow, list[AdapterSlot]]) -> None:
    device, slow, slots = link
    sent(device, slots[0], is_demand=False)
    for slot, is_demand in zip(slots[1:], (False, False, True), strict=True):
        sent(device, slot, is_demand=is_demand)
    device.promote(slots[2])
    assert list(device.landed(device.now())) == []
    slow.arrives = True
    landed = []
    while len(landed) < 4:
        landed += device.landed(device.wait(None))
    assert [one.transfer.slot.index for one in landed] == [1, 4, 3, 2]
    assert [one.at for one in landed] == sorted(one.at for one in landed)
    assert all(one.transfer.ticks == one.at - one.transfer.started for one in landed)


def test_with_nothing_to_wait_for_the_clock_stands(link: tuple[TorchDevice, Slow, list[AdapterSlot]]) -> None:
    device, *_ = link
    now = device.now()
    assert device.wait(None) == now
    assert device.next_landing() is None
    until = device.now() + TICKS_PER_S // 500
    assert until <= device.wait(until)


def test_a_transfer_without_a_hole_waits_until_no_step_runs() -> None:
    worker = worker_of()
    adapters = worker.adapters
    slots = [slot for slot in slots_of(adapters.store) if slot is not None]
    device = TorchDevice(worker)
    small, large = slots[1], AdapterSlot(Adapter("large", 8, 1), 4)
    large.held = True
    for slot in list(adapters._slots.values()):  # leave holes around one adapter
        slot.held = slot.index == small.index
    assert adapters.try_place(small)
    start = (len(adapters.arena.flat) - 2048) // 2
    adapters.arena.compact()
    assert start > 0
    device._queue.push(Transfer(large, 1, 0, is_demand=True))
    device._poll(may_compact=False)
    assert large.index in adapters.arena.offsets
    adapters.arena.check()


def test_a_request_keeps_its_tokens_whatever_serves_beside_it() -> None:
    made = deployment("chameleon", rate=100.0)
    one, other = (open_engine(made_, keeps_tokens=True) for made_ in (made, deployment("slora", rate=3.0)))
    replayed(made, one)
    replayed(deployment("slora", rate=3.0), other)
    assert one.device.worker.emitted == other.device.worker.emitted


def test_requests_that_nothing_will_admit_end_a_run_in_real_time() -> None:
    made = deployment("slora")
    engine = open_engine(made, clock="real")
    request = Job(Request(0, 0.0, 5, 5, None), 0, 5, 5, None)
    engine.core._scheduler.fill = lambda *_: None  # type: ignore[method-assign]
    before = time.perf_counter()
    with pytest.raises(RuntimeError, match="1 requests are left waiting"):
        Replay(engine.core, engine.device, [request], engine.records).run()
    assert time.perf_counter() >= before
