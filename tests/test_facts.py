"""What policies are told of costs, limits and the future before the first request."""

from __future__ import annotations

import numpy as np
import pytest

import sim
from policies.base import Adapter, Cache, Facts
from sim.build import deploy, jobs
from sim.config import load_config
from sim.facts import decode_s, prefill_s
from sim.files.yamltext import ConfigError
from sim.trace import AdapterSpec, Trace

SPECS = (AdapterSpec("a", 8), None, AdapterSpec("b", 64))
TRACE = Trace("three", np.array([0.0, 0.5, 2.0]), np.full(3, 10), np.full(3, 10), SPECS, np.array([2, 1, 0]))


class Spy(Cache):
    """Keeps what it is told."""

    name = "spy"
    told: Facts

    def start(self, facts: Facts) -> None:
        type(self).told = facts


@pytest.fixture(scope="module")
def facts() -> Facts:
    loaded = load_config("slora", ["limits.running_requests=7", "limits.distinct_adapters=3"])
    deploy(loaded._replace(config=loaded.config.model_copy(update={"cache": {"kind": Spy}})), TRACE)
    return Spy.told


def test_policies_learn_the_limits_of_a_batch(facts: Facts) -> None:
    assert (facts.running_requests, facts.distinct_adapters) == (7, 3)


def test_policies_learn_the_prompt_tokens_of_a_step_where_prompts_are_cut() -> None:
    loaded = load_config("vllm", ["limits.step_tokens=300", "limits.batch_prompt_tokens=900"])
    deploy(loaded._replace(config=loaded.config.model_copy(update={"cache": {"kind": Spy}})), TRACE)
    assert Spy.told.batch_prompt_tokens == 300


def test_policies_learn_every_adapter(facts: Facts) -> None:
    assert [(adapter.id, adapter.rank) for adapter in facts.adapters] == [("a", 8), ("b", 64)]


def test_the_future_is_the_trace_with_the_same_adapters(facts: Facts) -> None:
    a, b = facts.adapters
    assert list(facts.future()) == [(0.0, b), (0.5, None), (2.0, a)]
    assert list(facts.future()) == list(facts.future())


def test_the_future_tells_arrivals_to_the_bit_as_requests_do() -> None:
    trace = sim.run("slora", requests=300, rate=7).run.trace
    loaded = load_config("slora")
    deployment = deploy(loaded._replace(config=loaded.config.model_copy(update={"cache": {"kind": Spy}})), trace)
    told = [at_s for at_s, _ in Spy.told.future()]
    assert told == [job.request.arrival_s for job in jobs(deployment, [None] * len(trace.palette))]
    assert told != trace.arrival_s.tolist()  # which have parts of a picosecond


@pytest.mark.parametrize("policy", ["cache=belady", "prefetch=oracle"])
@pytest.mark.parametrize("change", ["replicas=2", "client.max_concurrency=3"])
def test_a_bound_is_refused_where_nobody_knows_the_order_at_an_engine(policy: str, change: str) -> None:
    with pytest.raises(ConfigError, match=r"--set (cache|prefetch)=\w+: .* has to know the future, and with several"):
        sim.run("slora", requests=5, rate=1, changes=[policy, change])


def test_a_longer_prompt_and_a_larger_rank_take_longer_to_prefill(facts: Facts) -> None:
    assert facts.prefill_s(100, 0) < facts.prefill_s(100, 8) < facts.prefill_s(100, 64) < facts.prefill_s(400, 64)


def test_a_decode_step_knows_the_ranks_of_its_batch(facts: Facts) -> None:
    small, large = facts.adapters
    steps_s = [facts.decode_s(batch) for batch in ([None], [None, None], [None, small], [small, large])]
    assert steps_s == sorted(set(steps_s))
    assert facts.decode_s([]) == 0


def test_costs_are_asked_for_one_prompt_and_for_each_distinct_adapter() -> None:
    asked = []

    class Costs:
        def prefill(self, *arguments: int) -> int:
            asked.append(arguments)
            return 10**12

        def decode(self, *arguments: int) -> object:
            asked.append(arguments)
            return type("Cost", (), {"first": 5 * 10**11})

    a, b = Adapter("a", 8, 1), Adapter("b", 16, 1)
    costs: object = Costs()
    assert prefill_s(costs, 3, 8) == 1.0  # type: ignore[arg-type]
    assert prefill_s(costs, 3, 0) == 1.0  # type: ignore[arg-type]
    assert decode_s(costs, [a, None, b, a]) == 0.5  # type: ignore[arg-type]
    assert asked == [(1, 3, 9, 24, 1, 8, 8), (1, 3, 9, 0, 0, 0, 0), (4, 0, 32, 2, 24, 16)]
