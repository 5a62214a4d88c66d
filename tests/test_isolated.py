"""What a request takes alone is what the engine itself takes when nothing else is there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from sim.build import deploy, play
from sim.config import load_config
from sim.conformance.worlds import RoundCosts
from sim.results.isolated import isolated_ticks
from sim.results.metrics import Offered
from sim.serving.options import EngineOptions
from sim.trace import AdapterSpec, Trace

CHUNKS = ("prefill=chunked", "limits.step_tokens=64")


def trace_of(prompts: Sequence[int], outputs: Sequence[int], adapters: Sequence[int]) -> Trace:
    """Requests that come an hour apart, for the base model (0) and two adapters."""
    palette = (None, AdapterSpec("small", 8), AdapterSpec("large", 128))
    arrival_s = 3600 * np.arange(len(prompts), dtype=np.float64)
    return Trace("apart", arrival_s, np.array(prompts), np.array(outputs), palette, np.array(adapters))


@pytest.mark.parametrize(
    ("system", "changes"),
    [
        ("slora", ()),
        ("slora", ("prefill=mixed",)),
        ("slora", ("prefill=mixed", "limits.step_tokens=64")),  # no chunk, so no bound to it
        ("slora", CHUNKS),
        ("slora", ("adapters.memory=slots", "adapters.slots=2")),
        ("vllm", ()),  # its kernels pad every adapter to the rank of the slots
    ],
)
def test_a_request_that_is_alone_takes_what_is_told_of_it(system: str, changes: tuple[str, ...]) -> None:
    trace = trace_of([50, 300, 51, 700], [1, 40, 200, 300], [0, 1, 2, 1])
    assignments = ("cache=lru", "prefetch=none", "loading.mode=overlapped", *changes)
    deployment = deploy(load_config(system, assignments), trace)
    (records,) = play(deployment)
    offered = Offered(trace, (records,))
    took = offered.instant("finish") - offered.instant("prefill_start")
    assert took.tolist() == isolated_ticks(trace, deployment.costs, deployment.options).tolist()


def test_a_prompt_longer_than_a_chunk_takes_longer_in_chunks() -> None:
    trace = trace_of([500], [1], [1])
    whole, chunked = (deploy(load_config("slora", changes), trace) for changes in (("prefill=mixed",), CHUNKS))
    alone = [isolated_ticks(trace, one.costs, one.options)[0] for one in (whole, chunked)]
    assert alone[0] < alone[1]


def test_steps_that_launches_hide_last_longer_once_the_context_has_grown_beyond_that() -> None:
    costs = RoundCosts(floor=1200)  # a step over c tokens takes 1010 + c ticks, and never less than 1200
    options = EngineOptions(
        admit_every_steps=1, batch_prompt_tokens=1000, running_requests=1, distinct_adapters=1, blocks_on_load=True
    )
    ticks = isolated_ticks(trace_of([100, 300, 100], [200, 3, 1], [0, 0, 0]), costs, options)
    steps = [sum(max(1200, 1010 + context) for context in range(low, high)) for low, high in ((101, 300), (301, 303))]
    assert ticks.tolist() == [1100 + steps[0], 3100 + steps[1], 1100]
