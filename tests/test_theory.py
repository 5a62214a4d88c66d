"""The whole core against queueing theory: waiting times with a known mean, and Little's law."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from policies.base import Request
from policies.scheduling import FCFS
from sim.serving.records import Records
from sim.serving.ticks import to_seconds
from tests.worlds import RoundCosts, World, play

Ints = npt.NDArray[np.int64]

MEAN = 10**6  # ticks of service
ONLY_PREFILL = RoundCosts(prefill_base=0, prefill_token=1)  # a prompt of n tokens, one output token: n ticks of service


def drawn(rng: np.random.Generator, requests: int, mean: float) -> npt.NDArray[np.float64]:
    """Return exponential ticks, scaled to their exact mean, which takes out much of the noise."""
    ticks = rng.exponential(size=requests)
    ticks *= mean / ticks.mean()
    return ticks


def poisson(rng: np.random.Generator, requests: int, utilisation: float) -> Ints:
    return np.cumsum(drawn(rng, requests, MEAN / utilisation)).astype(np.int64)


def mean_wait(arrivals: Ints, services: Ints) -> float:
    """Return the mean waiting time of a single server in units of the mean service, the first tenth cut off."""
    rows = [(arrival, service, 1, None) for arrival, service in zip(arrivals.tolist(), services.tolist(), strict=True)]
    world = World(rows, total_bytes=1 << 60, running_requests=1, costs=ONLY_PREFILL, batch_prompt_tokens=1 << 60)
    requests = play(world, None)[1].requests
    waits = requests["prefill_start"] - requests["arrival"]
    return float(waits[len(waits) // 10 :].mean()) / MEAN


@pytest.mark.slow
def test_deterministic_service_waits_as_m_d_1() -> None:
    rng, load = np.random.default_rng(3), 0.65
    services = np.full(120_000, MEAN, dtype=np.int64)
    assert mean_wait(poisson(rng, len(services), load), services) == pytest.approx(load / (2 * (1 - load)), rel=0.02)


@pytest.mark.slow
def test_exponential_service_waits_as_m_m_1() -> None:
    rng, load = np.random.default_rng(2), 0.6
    services = drawn(rng, 200_000, MEAN).astype(np.int64) + 1
    assert mean_wait(poisson(rng, len(services), load), services) == pytest.approx(load / (1 - load), rel=0.02)


class Counted(FCFS):
    """First come first served that integrates how many requests are there, by its own calls alone."""

    def __init__(self, start_s: float, end_s: float) -> None:
        self.window_s = (start_s, end_s)
        self.there = 0
        self.area_s = 0.0
        self.last_s = start_s

    def arrived(self, request: Request, now: float) -> None:
        self._count(1, now)

    def finished(self, request: Request, now: float) -> None:
        self._count(-1, now)

    def _count(self, change: int, now: float) -> None:
        start_s, end_s = self.window_s
        now = min(max(now, start_s), end_s)
        self.area_s += self.there * (now - self.last_s)
        self.there += change
        self.last_s = now

    @property
    def mean(self) -> float:
        return self.area_s / (self.window_s[1] - self.window_s[0])


def busy_world(counted: Counted, arrivals: Ints) -> Records:
    rng = np.random.default_rng(3)
    prompts, outputs = rng.integers(1, 40, len(arrivals)), rng.geometric(0.05, len(arrivals)).clip(max=100)
    which = rng.integers(0, 5, len(arrivals))
    rows = list(zip(arrivals.tolist(), prompts.tolist(), outputs.tolist(), which.tolist(), strict=True))
    adapters = [(8, 60), (8, 80), (16, 100), (16, 120), (32, 200)]
    world = World(rows, adapters, total_bytes=900, admit_every_steps=3, scheduler=lambda: counted)
    return play(world, None)[1]


def test_requests_there_are_arrival_rate_times_time_in_the_system() -> None:
    arrivals = np.cumsum(np.random.default_rng(2).exponential(8_000, 8_000)).astype(np.int64)
    start, end = int(arrivals[len(arrivals) // 10]), int(arrivals[-1])
    counted = Counted(to_seconds(start), to_seconds(end))
    requests = busy_world(counted, arrivals).requests
    inside = (start < requests["arrival"]) & (requests["arrival"] <= end)
    rate = inside.sum() / (end - start)
    stay = float((requests["finish"] - requests["arrival"])[inside].mean())
    assert counted.there == 0
    assert counted.mean > 2
    assert counted.mean == pytest.approx(rate * stay, rel=0.01)
