"""The real-time driver and SimPy run the same worlds to the tick, if the device takes exactly the modelled time."""

from __future__ import annotations

from dataclasses import replace as changed

import pytest
import simpy

from gpu_validate.modelled import ModelledDevice
from gpu_validate.replay import Replay
from policies.eviction import ChameleonScore, DropAfterUse
from policies.multi_queue import MultiQueue
from policies.prefetch import Queued, SLoRAPrefetch
from policies.scheduling import SJF
from sim.build import deploy, jobs
from sim.config import load_config
from sim.core import Core
from sim.engine import Replica, simulate
from sim.files.yamlfile import packaged_names
from sim.serving.records import Records
from sim.serving.steps import Step
from sim.serving.ticks import to_ticks
from tests.worlds import RoundCosts, World, core_of, jobs_of, play, replay

TABLES = (
    *("requests", "segments", "gaps", "prefills", "mixed", "pauses", "swaps", "reads"),
    *("memory", "transfers", "evictions", "stalls", "input_waits"),
)
US = 10**6  # ticks
COSTS = RoundCosts(100 * US, 10 * US, 1000 * US, 10 * US, US, 0, 50 * US, 20 * US)


def log(records: Records) -> dict[str, list[list[int]]]:
    """Return everything that happened."""
    tables = {name: getattr(records, name) for name in TABLES}
    return {name: [table[column].tolist() for column in table.columns] for name, table in tables.items()} | {
        "end": [[records.end, records.forced_evictions]]
    }


@pytest.mark.parametrize("pool_tokens", [None, 6000])
@pytest.mark.parametrize("system", packaged_names())
def test_every_system_leaves_the_identical_log_through_both_drivers(system: str, pool_tokens: int | None) -> None:
    workload = {"workload": {"requests": 250, "rate_per_s": 9.0}, "memory": {"kv_pool_tokens": pool_tokens}}
    loaded = load_config(system, (), workload)
    simulated, replayed = Records(), Records()

    one = deploy(loaded, asks_every_step=True)
    env = simpy.Environment()
    poll = to_ticks(one.config.admission.idle_poll_s)
    replica = Replica(env, lambda link: one.core(link, simulated), simulated, idle_poll_ticks=poll)
    simulate(env, [replica], jobs(one, replica.core.adapters.palette), lambda _: replica)

    other, device = deploy(loaded, asks_every_step=True), ModelledDevice()
    core = other.core(device, replayed)
    Replay(core, device, jobs(other, core.adapters.palette), replayed, idle_poll_ticks=poll).run()

    assert len(simulated.requests) == 250
    assert log(simulated) == log(replayed)


CROWDED = World(
    requests=[(i * 700 * US % 9000 * US, 5 + i * 7 % 50, 1 + i * 13 % 60, i % 5 if i % 6 else None) for i in range(40)],
    adapters=[(8, 20), (16, 50), (32, 120), (8, 300), (16, 50)],
    total_bytes=700,
    costs=COSTS,
    ttft_slo_s=0.02,
)


@pytest.mark.parametrize("blocks", [True, False])
@pytest.mark.parametrize("every", [0, 1, 10])
@pytest.mark.parametrize(
    "policies",
    [
        {"scheduler": lambda: SJF(ageing_s=0.004), "cache": DropAfterUse, "prefetch": SLoRAPrefetch},
        {
            "scheduler": lambda: MultiQueue(refresh_s=0.01, first_refresh=5),
            "cache": ChameleonScore,
            "prefetch": Queued,
        },
    ],
)
def test_timers_prefetches_and_idle_polls_happen_at_the_same_ticks(
    policies: dict[str, object], every: int, blocks: bool
) -> None:
    requests = sorted(CROWDED.requests)
    for poll in (0, 1000 * US):
        world = changed(
            CROWDED,
            requests=requests,
            admit_every_steps=every,
            blocks_on_load=blocks,
            idle_poll_ticks=poll,
            asks_every_step=True,
            **policies,  # type: ignore[arg-type]
        )
        assert log(play(world)[1]) == log(replay(world)[1])


def test_requests_that_nothing_will_admit_are_told_by_both() -> None:
    class Never(SJF):
        def fill(self, batch: object, waiting: object, now: float) -> None:
            """Admit nobody."""

    world = World(requests=[(0, 1, 1, None)], scheduler=Never)
    for run in (play, replay):
        with pytest.raises(RuntimeError, match="1 requests are left waiting"):
            run(world)


class Slower(ModelledDevice):
    """Takes twice the modelled time for every step."""

    def run(self, step: Step, core: Core) -> int:
        self._now = step.start + 2 * step.ticks
        return self._now


def test_a_device_that_takes_its_own_time_is_recorded_with_that_time() -> None:
    world = World(requests=[(0, 4, 3, None)], costs=RoundCosts(prefill_base=100, prefill_token=0, decode_context=0))
    records, device = Records(), Slower()
    core = core_of(changed(world, asks_every_step=True), device, records)
    Replay(core, device, jobs_of(world, core), records).run()
    assert records.prefills["ticks"].tolist() == [200]
    assert records.gaps["gap"].tolist() == [2020, 2020]
    assert records.segments["first"].tolist() == [2020, 2020]
    assert records.requests["finish"].tolist() == [4240]


def test_several_steps_at_once_must_take_their_planned_time() -> None:
    world = World(requests=[(0, 4, 3, None)])
    records, device = Records(), Slower()
    core = core_of(world, device, records)
    with pytest.raises(RuntimeError, match="real devices run one step at a time"):
        Replay(core, device, jobs_of(world, core), records).run()
