"""What `sim.run` takes: Python's numbers and numpy's, changes as texts or as a mapping; and what is too large."""

from __future__ import annotations

import numpy as np
import pytest

import sim
from sim.files.yamltext import ConfigError


def test_numbers_of_numpy_are_numbers() -> None:
    plain = sim.run("slora", rate=2.0, requests=5, seed=3, scale=2.0)
    of_numpy = sim.run("slora", rate=np.float64(2), requests=np.int64(5), seed=np.int32(3), scale=np.float32(2))  # type: ignore[arg-type]
    assert of_numpy.requests.equals(plain.requests)


def test_changes_may_be_a_mapping() -> None:
    given = {"adapters.slots": 4, "cache.kind": "lfu", "workload.ranks": [8, 16], "admission.every_steps": np.int64(2)}
    texts = ["adapters.slots=4", "cache.kind=lfu", "workload.ranks=[8,16]", "admission.every_steps=2"]
    run = sim.run("vllm", rate=2, requests=20, changes=given)
    assert run.config == sim.run("vllm", rate=2, requests=20, changes=texts).config
    assert run.config["adapters"]["slots"] == 4


def test_a_wrong_change_in_a_mapping_is_located_by_its_key() -> None:
    with pytest.raises(ConfigError, match=r"--set adapters.slotz=4: adapters.slotz: .*slots"):
        sim.run("vllm", rate=2, requests=5, changes={"adapters.slotz": 4})


@pytest.mark.parametrize("change", ["costs.host_s=1e12", "costs.launch_s=1e300", "scheduler.b=1e18"])
def test_what_cannot_be_counted_is_an_error_in_words(change: str) -> None:
    with pytest.raises(ConfigError, match="too large to be counted"):
        sim.run("chameleon", rate=2, requests=5, changes=change)


@pytest.mark.parametrize("key", ["admission.idle_poll_s", "loading.fixed_s", "loading.copies"])
@pytest.mark.parametrize("value", [".inf", ".nan", "1e30"])
def test_no_duration_or_factor_is_without_bounds(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}: Input should be"):
        sim.run("slora", rate=2, requests=5, changes=f"{key}={value}")


def test_a_reserve_that_leaves_no_memory_is_told_as_the_reserve() -> None:
    with pytest.raises(ConfigError, match=r"memory.reserve_bytes: llama-7b does not fit a40"):
        sim.run("slora", rate=2, requests=5, changes="memory.reserve_bytes=1000000000000")
