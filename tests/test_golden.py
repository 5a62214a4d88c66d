"""Exact numbers of every packaged system on one small trace; `python tests/test_golden.py` writes them anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import sim
from sim.config import load_config
from sim.files.yamlfile import packaged_names

FILE = Path(__file__).with_name("golden.json")
# More requests than the engines can serve, and little memory beside a small KV pool, so that idle adapters compete for
# what is left. Where slots keep batches small, only a smaller pool runs short.
RATE_PER_S = 12.0
RESERVE = "memory.reserve_bytes=29000000000"
POOL_TOKENS = {"slots": 1500}

Numbers = dict[str, float | int]


def measured(system: str) -> Numbers:
    """Return what the file holds of a system: counts, and milliseconds rounded to the microsecond."""
    pool_tokens = POOL_TOKENS.get(load_config(system).config.adapters.memory, 6000)
    changes = (RESERVE, f"memory.kv_pool_tokens={pool_tokens}")
    result = sim.run(system, "paper", rate=RATE_PER_S, requests=400, seed=1, changes=changes)
    adapters, iterations = result.summary["adapters"], result.summary["iterations"]
    ttft_ms, source = result.summary["metrics"]["ttft_ms"], result.requests["adapter_source"]
    return {
        "hits": int(source.isin(["gpu", "prefetched"]).sum()),
        **{name: adapters[name] for name in ("loads", "prefetches", "evictions")},
        "iterations": iterations["decode"] + iterations["prefill"],
        "p50_ttft_ms": round(ttft_ms["p50"], 3),
        "p99_ttft_ms": round(ttft_ms["p99"], 3),
    }


def golden() -> dict[str, Numbers]:
    told: dict[str, Any] = json.loads(FILE.read_text())
    return told


@pytest.mark.parametrize("system", packaged_names())
def test_a_packaged_system_still_gives_its_golden_numbers(system: str) -> None:
    numbers = golden()
    assert system in numbers, "a new system: run `python tests/test_golden.py` and look at its numbers"
    assert measured(system) == numbers[system], "if this is meant, run `python tests/test_golden.py` and say why"


def test_no_golden_numbers_are_left_of_a_system_that_is_gone() -> None:
    assert sorted(golden()) == sorted(packaged_names())


def test_systems_differ_on_the_golden_trace() -> None:
    told = [tuple(numbers.values()) for numbers in golden().values()]
    assert len(set(told)) == len(told)


if __name__ == "__main__":
    FILE.write_text(json.dumps({name: measured(name) for name in packaged_names()}, indent=2) + "\n")
    print(FILE.read_text(), end="")
