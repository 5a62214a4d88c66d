"""A squash is counted apart from the other ways in which a request is stopped."""

from __future__ import annotations

import sim

POOL = "memory.kv_pool_tokens=700"


def test_squashes_are_counted_apart_from_other_stops() -> None:
    grown = sim.run("vllm", "paper", rate=12, requests=200, changes="memory.kv_pool_tokens=2000").summary["preemption"]
    assert grown["stops"] > 0
    assert (grown["squashes"], grown["squashed_requests"]) == (0, 0)


def test_a_scheduler_that_squashes_is_seen_to() -> None:
    changes = (POOL, "adapters.memory=unified", "scheduler.total=memory")
    told = sim.run("chameleon", "paper", rate=14, requests=400, changes=changes).summary["preemption"]
    assert 0 < told["squashed_requests"] <= told["squashes"] == told["stops"]
