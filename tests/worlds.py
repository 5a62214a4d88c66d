"""Tiny worlds built by hand: those of `sim.conformance.worlds`, and the same through the real-time driver."""

from __future__ import annotations

from gpu_validate.modelled import ModelledDevice
from gpu_validate.replay import Replay
from sim.conformance.worlds import RoundCosts, World, core_of, jobs_of, play
from sim.core import Core
from sim.serving.records import Records
from sim.serving.ticks import to_ticks


def replay(world: World) -> tuple[Core, Records]:
    """Run a world to its end with the real-time driver on a device that takes exactly the modelled time."""
    records = Records()
    device = ModelledDevice()
    core = core_of(world, device, records)
    poll, most = world.idle_poll_ticks, world.max_concurrency
    Replay(core, device, jobs_of(world, core), records, idle_poll_ticks=poll, max_concurrency=most).run()
    return core, records


__all__ = ["RoundCosts", "World", "core_of", "jobs_of", "play", "replay", "to_ticks"]
