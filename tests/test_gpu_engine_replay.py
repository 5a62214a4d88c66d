"""The torch engine under the driver: on the modelled clock its log is SimPy's, in real time its books balance."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import simpy

torch = pytest.importorskip("torch")

from gpu_validate.engine.adapters import DeviceAdapters, HostStore  # noqa: E402
from gpu_validate.engine.arena import Arena  # noqa: E402
from gpu_validate.engine.build import (  # noqa: E402
    Engine,
    Slots,
    arena_elements,
    check_room,
    configured_slots,
    device_bytes,
    open_engine,
    refusals,
)
from gpu_validate.engine.copies import HostCopies  # noqa: E402
from gpu_validate.engine.device import TorchDevice  # noqa: E402
from gpu_validate.engine.dims import tiny  # noqa: E402
from gpu_validate.lora.layout import Layout  # noqa: E402
from gpu_validate.replay import Landed, Replay  # noqa: E402
from policies.base import Adapter, Request  # noqa: E402
from sim.build import Deployment, deploy, jobs  # noqa: E402
from sim.config import load_config  # noqa: E402
from sim.engine import Replica, simulate  # noqa: E402
from sim.files.yamlfile import packaged_names  # noqa: E402
from sim.serving.job import AdapterSlot, Job  # noqa: E402
from sim.serving.link import AdapterTransfer, KvTransfer, Link  # noqa: E402
from sim.serving.records import NEVER, Records  # noqa: E402
from sim.serving.steps import Prefill  # noqa: E402
from sim.serving.ticks import TICKS_PER_S, to_ticks  # noqa: E402
from tests.engine_world import job_of, slots_of, worker_of  # noqa: E402
from tests.test_parity import log  # noqa: E402

REQUESTS = 25


def deployment(system: str, *settings: str, pool_tokens: int | None = None, rate: float = 9.0) -> Deployment:
    workload = {"requests": REQUESTS, "rate_per_s": rate, "scale": 60.0}
    changes = {"workload": workload, "memory": {"kv_pool_tokens": pool_tokens}}
    return deploy(load_config(system, settings, changes), asks_every_step=True)


def opened(made: Deployment, **choices: Any) -> Engine:
    """Return an engine of two layers: what the driver does is the same with more."""
    return open_engine(made, dims=tiny(made.model).model_copy(update={"layers": 2}), **choices)


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


@pytest.mark.parametrize(("pool_tokens", "rate"), [(None, 9.0), (700, 60.0)])
@pytest.mark.parametrize("system", packaged_names())
def test_every_system_leaves_the_log_of_simpy_while_torch_does_the_work(
    system: str, pool_tokens: int | None, rate: float
) -> None:
    made = partial(deployment, system, pool_tokens=pool_tokens, rate=rate)
    if made().config.replicas > 1:
        with pytest.raises(ValueError, match=f"the mini engine cannot run {system}: replicas: one GPU serves one"):
            open_engine(made())
        return
    engine = opened(made(), checks=True, keeps_tokens=True)
    records = replayed(made(), engine)
    assert log(records) == log(simulated(made()))
    assert len(records.requests) == REQUESTS
    check_work(engine, made())


def check_work(engine: Engine, made: Deployment) -> None:
    """Raise AssertionError unless torch did all that was planned, and holds nothing of it any more."""
    worker, records = engine.device.worker, engine.records
    assert worker.prefilled_tokens == records.prefills["tokens"].sum()
    assert worker.decoded_tokens == (records.segments["batch"] * records.segments["count"]).sum() > REQUESTS
    served = {id_: int(made.trace.output_tokens[id_]) for id_ in range(REQUESTS) if id_ not in records.rejections}
    assert {id_: len(tokens) for id_, tokens in sorted((worker.emitted or {}).items())} == served
    worker.check(engine.core)
    assert worker.kv.pool.free_blocks == worker.kv.pool.blocks
    assert not worker.swapped.tokens
    assert set(worker.adapters.arena.offsets) == {slot.index for slot in engine.core.memory.held}


CROWDED = 300  # tokens of KV, for a burst of requests
SMALL_CHUNKS = "limits.step_tokens=32"
LONG = ("workload.adapters=3", "workload.scale=10", "admission.watermark=0")  # requests that outgrow memory
FEW_ADAPTERS = ("limits.running_requests=4", "workload.adapters=3")
FROM_DISK = ("adapters.host_bytes=300000000", "adapters.host_starts_warm=false")


@pytest.mark.parametrize(
    ("system", "settings", "pool_tokens", "seen"),
    [
        ("vllm", (SMALL_CHUNKS,), CROWDED, "mixed"),
        ("vllm", (SMALL_CHUNKS, "loading.mode=overlapped", "memory.block_tokens=1"), CROWDED, "mixed"),
        ("vllm", (SMALL_CHUNKS, "loading.mode=layerwise"), CROWDED, "mixed"),
        ("vllm", (*LONG, SMALL_CHUNKS), 400, "preemptions"),
        ("vllm-v0", LONG, 400, "preemptions"),
        ("vllm-swap", LONG, 400, "swaps"),
        ("fastserve", (), 700, "swaps"),
        ("fastserve", ("loading.sharing=fair",), 700, "swaps"),
        ("fastserve", ("admission.preempted=keep",), 700, "preemptions"),
        ("fastserve", ("admission.preempted=keep", "admission.shortage=recompute"), 700, "preemptions"),
        ("fastserve", ("admission.preempted=recompute", "memory.block_tokens=1"), 700, "preemptions"),
        ("fastserve", ("prefill=chunked", SMALL_CHUNKS), 700, "swaps"),
        ("dlora", FEW_ADAPTERS, None, "preemptions"),
        ("slora", ("loading.mode=layerwise",), None, "transfers"),
        ("slora", FROM_DISK, None, "reads"),
        ("slora", ("loading.sharing=fair", "loading.mode=overlapped"), None, "transfers"),
    ],
)
def test_every_mechanism_leaves_the_log_of_simpy_while_torch_does_the_work(
    system: str, settings: tuple[str, ...], pool_tokens: int | None, seen: str
) -> None:
    made = partial(deployment, system, *settings, pool_tokens=pool_tokens, rate=200.0)
    engine = opened(made(), checks=True, keeps_tokens=True)
    records = replayed(made(), engine)
    assert log(records) == log(simulated(made()))
    assert records.requests["preemptions"].any() if seen == "preemptions" else len(getattr(records, seen))
    check_work(engine, made())


def told(system: str, *settings: str, clock: str = "virtual", **choices: Any) -> tuple[Records, dict[int, list[int]]]:
    made = partial(deployment, system, *settings, **choices)
    engine = opened(made(), keeps_tokens=True, clock=clock)
    records = replayed(made(), engine)
    return records, engine.device.worker.emitted or {}


PREEMPTED = [
    ("fastserve", ("admission.preempted=keep",)),
    ("fastserve", ("admission.preempted=swap",)),
    ("fastserve", ("admission.preempted=recompute", "prefill=chunked", SMALL_CHUNKS)),
]


@pytest.mark.parametrize("clock", ["virtual", "real"])
@pytest.mark.parametrize(("system", "settings"), PREEMPTED)
def test_a_preempted_request_is_told_what_it_would_have_been_told_undisturbed(
    system: str, settings: tuple[str, ...], clock: str
) -> None:
    undisturbed, tokens = told("slora")
    records, same = told(system, *settings, clock=clock, pool_tokens=700, rate=500.0)
    assert not undisturbed.requests["preemptions"].any()
    assert clock == "real" or records.requests["preemptions"].sum() > 5
    assert same == tokens


def test_merged_weights_say_what_kernels_say() -> None:
    few = "workload.adapters=3"
    assert told("peft", few)[1] == told("slora", few)[1]
    assert told("dlora", *FEW_ADAPTERS, rate=200.0)[1] == told("slora", *FEW_ADAPTERS)[1]


def test_in_a_crowded_pool_adapters_make_way_for_each_other_and_the_log_is_the_same() -> None:
    crowded = partial(deployment, "slora", "cache.kind=lru", pool_tokens=900, rate=200.0)
    engine = opened(crowded(), checks=True)
    records = replayed(crowded(), engine)
    assert log(records) == log(simulated(crowded()))
    assert len(records.evictions) > 5
    engine.device.worker.check(engine.core)


@pytest.mark.parametrize(
    ("system", "mode"), [("slora", "slora_double"), ("chameleon", "flat"), ("vllm", "vllm_slots"), ("dlora", "flat")]
)
def test_a_run_in_real_time_accounts_for_every_request(system: str, mode: str) -> None:
    made = deployment(system, rate=100.0)
    engine = opened(made, clock="real", copy_mode=mode, keeps_tokens=True)
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
    assert sum(one.prompt_tokens for one in steps) == engine.device.worker.prefilled_tokens


@pytest.mark.parametrize("mode", ["vllm_slots", "pageable", "slora_double"])
def test_the_way_of_copying_changes_nothing_that_is_said(mode: str) -> None:
    told = []
    for way in ("flat", mode):
        made = deployment("chameleon", rate=100.0)
        engine = opened(made, copy_mode=way, keeps_tokens=True)
        replayed(made, engine)
        told.append(engine.device.worker.emitted)
    assert told[0] == told[1]


SLOTS = ("adapters.memory=slots", "adapters.slots=5")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [((), None), (SLOTS, Slots(5, 16)), ((*SLOTS, "adapters.max_rank=256"), Slots(5, 32))],
)
def test_slots_are_those_of_the_configuration(settings: tuple[str, ...], expected: Slots | None) -> None:
    assert configured_slots(deployment("slora", *settings), 8) == expected


def test_an_engine_with_slots_serves_as_the_core_plans() -> None:
    made = partial(deployment, "slora", *SLOTS, "cache.kind=lru", rate=100.0)
    engine = opened(made(), copy_mode="vllm_slots", checks=True)
    records = replayed(made(), engine)
    assert log(records) == log(simulated(made()))
    assert len(records.evictions) > 5
    assert set(engine.device.worker.adapters.ranks) == {16}
    assert len(engine.device.worker.adapters.arena.flat) == 5 * engine.device.worker.adapters.store.layout.elements(16)


def refused(made: Deployment, reasons: Sequence[str], **choices: Any) -> None:
    with pytest.raises(ValueError, match=f"the mini engine cannot run slora: {'; '.join(reasons)}$"):
        open_engine(made, **choices)


def test_what_the_engine_cannot_execute_is_refused_with_the_reason() -> None:
    refused(deployment("slora", "replicas=2"), ["replicas: one GPU serves one replica, got 2"])
    refused(deployment("slora", "parallel.tensor=2"), ["parallel.tensor: 2; one GPU is used"])


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("loading.mode=layerwise", "loading.mode: layerwise; only blocking and overlapped, in real time"),
        ("loading.mode=cpu_assisted", "loading.mode: cpu_assisted; only blocking and overlapped, in real time"),
        ("loading.sharing=fair", "loading.sharing: fair; copies go one after the other, in real time"),
        ("adapters.host_bytes=10000000000", "adapters.host_bytes: there is no disk behind the host, in real time"),
        ("adapters.host_adapters=3", "adapters.host_adapters: there is no disk behind the host, in real time"),
    ],
)
def test_what_only_the_modelled_clock_can_do_is_refused_in_real_time(setting: str, reason: str) -> None:
    assert not refusals(deployment("slora", setting))
    refused(deployment("slora", setting), [reason], clock="real")


def test_a_transfer_on_another_channel_is_told(link: tuple[TorchDevice, Slow, list[AdapterSlot]]) -> None:
    device, _, slots = link
    with pytest.raises(RuntimeError, match="one link and no other channel in real time, got disk"):
        device.send(AdapterTransfer(slots[0], 1, 0, is_demand=True, channel="disk"))
    as_link: Link = device
    assert as_link.left_ticks(slots[0], 0) is None


def test_an_arena_of_slots_has_room_for_all_of_them_and_no_more() -> None:
    made = deployment("slora")
    ranks = [None if one is None else one.rank // 8 for one in made.adapters]
    store = HostStore(Layout(1, [("q", 128, 128)]), ranks, dtype=torch.float32)
    assert arena_elements(made, store, torch.float32, "vllm_slots", Slots(3, 16)) == 3 * 16 * 256
    assert arena_elements(made, store, torch.float32, "vllm_slots", Slots(10**6, 16)) == len(ranks) * 16 * 256


def test_an_engine_that_does_not_fit_the_gpu_is_told_with_the_sizes() -> None:
    model = deployment("slora").model
    needed = device_bytes(model, 9, 1000, 2)
    assert needed == model.weight_bytes + 160 * model.kv_token_bytes + 2000
    check_room(needed, needed)
    with pytest.raises(ValueError, match=r"the engine needs 90.0 GB, 80.0 GB of the device are free: .*kv_pool_tokens"):
        check_room(90 * 10**9, 80 * 10**9)


def test_a_real_clock_needs_every_step() -> None:
    made = deploy(load_config("slora", (), {"workload": {"requests": 1}}))
    with pytest.raises(ValueError, match="a real clock needs a deployment with asks_every_step=True"):
        open_engine(made, clock="real")


def test_the_virtual_device_takes_several_steps_at_once() -> None:
    made = deploy(load_config("slora", (), {"workload": {"requests": 5, "scale": 60.0, "rate_per_s": 0.5}}))
    engine = open_engine(made)
    records = replayed(made, engine)
    assert (records.segments["count"] > 1).any()
    assert engine.device.worker.decoded_tokens == (records.segments["batch"] * records.segments["count"]).sum()


def test_memory_that_differs_from_what_the_core_believes_is_told() -> None:
    made = deployment("slora")
    engine = open_engine(made)
    core, worker = engine.core, engine.device.worker
    job = next(jobs(made, core.adapters.palette))
    core.live[job.request.id] = core.running[job] = job  # type: ignore[assignment]
    job.kv = "gpu"
    worker.prefill([Job(job.request, 0, 1, 1, None)])
    worker.kv.pool.grow(job.request.id)
    with pytest.raises(RuntimeError, match=r"request 0 holds \d+ tokens of KV, the core believes \d+"):
        worker.check(core)


@pytest.mark.parametrize("system", ["chameleon", "vllm"])
def test_the_iterations_of_a_real_run_say_when_each_token_was_there(system: str) -> None:
    made = deployment(system, rate=100.0)
    engine = opened(made, clock="real")
    requests = replayed(made, engine).requests
    assert isinstance(engine.device, TorchDevice)
    emitted: dict[int, list[int]] = {}
    for one in engine.device.iterations:
        for id_ in one.requests:
            emitted.setdefault(id_, []).append(one.end)
    rows = zip(*(requests[name].tolist() for name in ("request", "first_token", "finish")), strict=True)
    assert {id_: (times[0], times[-1]) for id_, times in emitted.items()} == {id_: (a, b) for id_, a, b in rows}


def test_a_cache_smaller_than_the_core_s_budget_is_told() -> None:
    core = open_engine(deployment("slora")).core
    with pytest.raises(RuntimeError, match=r"40 KV blocks are fewer than the \d+ that the core's budget may take"):
        worker_of().check(core)


class Slow(HostCopies):
    """A link on which nothing arrives before it is told to."""

    arrives = False

    def is_done(self) -> bool:
        return self.arrives


@pytest.fixture
def link() -> tuple[TorchDevice, Slow, list[AdapterSlot]]:
    worker = worker_of()
    device, slow = TorchDevice(worker), Slow()
    device._copies = slow
    return device, slow, [slot for slot in slots_of(worker.adapters.store) if slot is not None]


def sent(device: TorchDevice, slot: AdapterSlot, *, is_demand: bool) -> AdapterTransfer:
    transfer = AdapterTransfer(slot, 1, device.now(), is_demand=is_demand)
    device.send(transfer)
    return transfer


def test_one_transfer_is_under_way_and_demand_goes_first(link: tuple[TorchDevice, Slow, list[AdapterSlot]]) -> None:
    device, slow, slots = link
    sent(device, slots[0], is_demand=False)
    for slot, is_demand in zip(slots[1:], (False, False, True), strict=True):
        sent(device, slot, is_demand=is_demand)
    device.promote(slots[2], device.now())
    assert list(device.landed(device.now())) == []
    slow.arrives = True
    landed: list[Landed] = []
    while len(landed) < 4:
        landed += device.landed(device.wait(None))
    assert [slot_of(one).index for one in landed] == [1, 4, 3, 2]
    assert [one.at for one in landed] == sorted(one.at for one in landed)
    assert all(one.transfer.ticks == one.at - one.transfer.started for one in landed)


def slot_of(landed: Landed) -> AdapterSlot:
    assert isinstance(landed.transfer, AdapterTransfer)
    return landed.transfer.slot


def test_kv_comes_back_beside_adapters_once_there_is_room(link: tuple[TorchDevice, Slow, list[AdapterSlot]]) -> None:
    device, slow, slots = link
    slow.arrives = True
    worker, core = device.worker, open_engine(deployment("slora")).core
    away, here = job_of(worker, 1, 20, 0), job_of(worker, 2, 620, 0)
    worker.prefill([away])
    core.live.update({1: away, 2: here})
    away.kv, away.generated, away.base_tokens = "host", 1, 20
    worker.release(core)
    assert worker.swapped.tokens == {1: 20}
    device._core = core
    worker.kv.pool.allocate(2, here.prompt_tokens)  # all but one block
    here.kv = "gpu"
    back = KvTransfer(away, 1, 1, device.now())
    device.send(back)
    sent(device, slots[0], is_demand=True)
    assert list(device.landed(device.now())) == []
    del core.live[2]
    landed = [*device.landed(device.wait(None)), *device.landed(device.wait(None))]
    assert landed[0].transfer is back
    assert slot_of(landed[1]) is slots[0]
    away.kv = "gpu"
    worker.release(core)
    assert worker.kv.pool.tokens == {1: 20}
    assert not worker.swapped.tokens


class Long:
    """A step that is not over until it has been looked at a few times."""

    looks = 0

    def query(self) -> bool:
        self.looks += 1
        return self.looks > 6


def test_the_link_is_kept_busy_while_a_step_runs(link: tuple[TorchDevice, Slow, list[AdapterSlot]]) -> None:
    device, slow, slots = link
    for slot in slots[:3]:
        sent(device, slot, is_demand=True)
    slow.arrives, slow.mark = True, Long  # type: ignore[method-assign]
    made = deployment("slora")
    core = open_engine(made).core
    end = device.run(Prefill(device.now(), 5, [job_of(device.worker, 1, 4, 0)]), core)
    landed = list(device.landed(end))
    assert [slot_of(one) for one in landed] == slots[:3]
    assert landed[0].at <= landed[1].at <= landed[2].at <= end
    (one,) = device.iterations
    assert (one.kind, one.requests, one.prompt_tokens, one.planned) == ("prefill", (1,), 4, 5)


def test_with_nothing_to_wait_for_the_clock_stands(link: tuple[TorchDevice, Slow, list[AdapterSlot]]) -> None:
    device, *_ = link
    now = device.now()
    assert device.wait(None) == now
    assert device.next_landing() is None
    until = device.now() + TICKS_PER_S // 500
    assert until <= device.wait(until)


def test_a_transfer_without_a_hole_waits_until_no_step_runs() -> None:
    worker = worker_of()
    slots = [AdapterSlot(Adapter(str(index), rank, 1), index) for index, rank in enumerate((1, 1, 1, 2))]
    store = HostStore(Layout(1, [("q", 128, 128)]), [slot.rank for slot in slots], dtype=torch.float32)
    worker.adapters = adapters = DeviceAdapters(store, Arena(4 * 256, dtype=torch.float32, device=torch.device("cpu")))
    device = TorchDevice(worker)
    for slot in slots:
        slot.held = True
    for slot in slots[:3]:
        adapters.place(slot)
    slots[1].held = False  # two holes of one unit
    device._queue.push(AdapterTransfer(slots[3], 1, 0, is_demand=True))
    device._poll(may_compact=False)
    assert device._blocked is not None
    assert slots[3].index not in adapters.arena.offsets
    assert [slot_of(one) for one in device.landed(device.wait(None))] == [slots[3]]
    assert adapters.arena.compactions == 1


def test_a_request_keeps_its_tokens_whatever_serves_beside_it() -> None:
    assert told("chameleon", rate=100.0)[1] == told("slora", rate=3.0)[1] == told("vllm", SMALL_CHUNKS, rate=200.0)[1]


def test_requests_that_nothing_will_admit_end_a_run_in_real_time() -> None:
    made = deployment("slora")
    engine = open_engine(made, clock="real")
    request = Job(Request(0, 0.0, 5, 5, None), 0, 5, 5, None)
    engine.core._scheduler.fill = lambda *_: None  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="1 requests are left waiting"):
        Replay(engine.core, engine.device, [request], engine.records).run()
