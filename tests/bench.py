"""Speed against a bare SimPy loop with the same number of external events, as ratios within one run: `make bench`.

The loop is what SimPy itself costs: one process that waits for as many timeouts as the simulation has arrivals and
adapter transfers. A ratio of 2 means that simulating takes twice that.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from statistics import median
from time import perf_counter

import simpy

from sim.build import Deployment, deploy, play
from sim.config import load_config

REQUESTS = 20_000
ROUNDS = 3
CASES = {
    "FIFO + LRU cache": ("chameleon-no-sched", ("cache=lru", "predictor=oracle")),
    "full Chameleon": ("chameleon", ()),
    "S-LoRA": ("slora", ()),
}


def bare_loop(events: int) -> None:
    """Wait for so many timeouts, one after the other."""
    env = simpy.Environment()

    def wait() -> simpy.events.ProcessGenerator:
        for _ in range(events):
            yield env.timeout(1)

    env.process(wait())
    env.run()


def seconds(work: Callable[[], object]) -> float:
    """Return how long some work takes."""
    start = perf_counter()
    work()
    return perf_counter() - start


def deployment(system: str, changes: tuple[str, ...], rate_per_s: float) -> Deployment:
    """Return a fresh run of the paper's workload."""
    extra = {"workload": {"preset": "paper", "rate_per_s": rate_per_s, "requests": REQUESTS}}
    return deploy(load_config(system, changes, extra))


def main(rate_per_s: float = 9.0) -> None:
    """Print one line per case: the median over rounds."""
    print(f"{REQUESTS} requests at {rate_per_s:g} requests/s; bare loop and simulation alternate, medians of {ROUNDS}")
    for name, (system, changes) in CASES.items():
        ratios, walls = [], []
        for _ in range(ROUNDS):
            one = deployment(system, changes, rate_per_s)
            begin = perf_counter()
            (records,) = play(one)
            wall = perf_counter() - begin
            events = REQUESTS + len(records.transfers)
            ratios.append(wall / seconds(lambda events=events: bare_loop(events)))  # type: ignore[misc]
            walls.append(wall)
        speed = REQUESTS / median(walls)
        print(
            f"{name:<20} {median(ratios):6.1f} x the bare loop   {speed:>9,.0f} requests/s   {events} external events"
        )


if __name__ == "__main__":
    main(*(float(word) for word in sys.argv[1:]))
