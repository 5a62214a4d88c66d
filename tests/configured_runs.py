"""Runs of whole configurations: played once for all laws, again in other ways, and compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from typing import NamedTuple

import simpy

from policies.lanes import LaneScheduler
from sim.build import Deployment, deploy, jobs
from sim.conformance.records import difference
from sim.core import Core
from sim.engine import Replica, simulate
from sim.fleet import Fleet
from sim.serving.job import Job
from sim.serving.records import Records
from sim.serving.ticks import to_ticks
from tests.random_configurations import Configuration

Boundary = Callable[[Core], None]


class Played(NamedTuple):
    """A run that has ended, one core and one `Records` per replica."""

    deployment: Deployment
    records: tuple[Records, ...]
    cores: tuple[Core, ...]
    boundaries: int = 0  # at which the laws were checked


def check_laws(core: Core) -> None:
    """Raise RuntimeError if bytes, requests or tokens of lanes do not add up."""
    core.check()
    if isinstance(core._scheduler, LaneScheduler):
        core._scheduler.check()


@lru_cache(maxsize=512)
def played(one: Configuration) -> Played:
    """Play a configuration to its end, its laws checked at every boundary."""
    checked: Counter[int] = Counter()

    def boundary(core: Core) -> None:
        check_laws(core)
        checked[0] += 1

    return play(deploy(one.loaded), boundary)._replace(boundaries=checked[0])


@lru_cache(maxsize=128)
def ran(one: Configuration) -> Played:
    """Play a configuration to its end."""
    return play(deploy(one.loaded))


def play(
    deployment: Deployment, boundary: Boundary | None = None, keep: Callable[[int], bool] = lambda _: True
) -> Played:
    """Play a deployment to its end, only those of its requests whose ids are kept."""
    is_alone = len(deployment.policies) == 1
    return (play_alone if is_alone else play_fleet)(deployment, boundary, keep)


def play_alone(
    deployment: Deployment, boundary: Boundary | None = None, keep: Callable[[int], bool] = lambda _: True
) -> Played:
    """Play one replica."""
    records, env = Records(), simpy.Environment()
    poll_ticks = to_ticks(deployment.config.admission.idle_poll_s)
    build = partial(deployment.core, records=records)
    replica = Replica(env, build, records, idle_poll_ticks=poll_ticks, boundary=boundary)
    requests = kept(jobs(deployment, replica.core.adapters.palette), keep)
    most = deployment.config.client.max_concurrency
    simulate(env, [replica], requests, lambda _: replica, max_concurrency=most)
    return Played(deployment, (records,), (replica.core,))


def play_fleet(
    deployment: Deployment, boundary: Boundary | None = None, keep: Callable[[int], bool] = lambda _: True
) -> Played:
    """Play all replicas behind the router, be it a single one."""
    builds = [partial(deployment.core, replica=index) for index in range(len(deployment.policies))]
    poll_ticks = to_ticks(deployment.config.admission.idle_poll_s)
    fleet = Fleet(builds, deployment.router, idle_poll_ticks=poll_ticks, boundary=boundary)
    fleet.serve(kept(jobs(deployment, fleet.palette), keep))
    return Played(deployment, fleet.records, fleet.cores)


def kept(every: Iterable[Job], keep: Callable[[int], bool]) -> Iterable[Job]:
    return (job for job in every if keep(job.request.id))


def parted(one: Played, other: Played) -> str | None:
    """Return where two runs parted, in words; None if they did the same."""
    assert len(one.records) == len(other.records)
    said = (difference(*pair) for pair in zip(one.records, other.records, strict=True))
    return next((words for words in said if words is not None), None)
