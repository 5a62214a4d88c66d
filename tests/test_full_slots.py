"""A load while requests use every slot makes others leave and come back, as vLLM's worker does."""

from __future__ import annotations

import numpy as np
import pytest

from sim.build import deploy
from sim.config import load_config
from sim.idle_settings import idle_settings
from sim.trace import Trace
from tests.worlds import RoundCosts, World, play, replay

COSTS = RoundCosts(load_base=100, load_byte=0)


def loads(*requests: tuple[int, int, int, int], returning: int = 3, slots: int = 2) -> list[int]:
    """Return how long each load kept the link busy; requests are (arrival, prompt, output, adapter)."""
    world = World(
        list(requests),
        [(8, 10)] * 3,
        costs=COSTS,
        total_bytes=10_000,
        distinct_adapters=slots,
        mechanism={"returning_loads": returning},
    )
    _, records = play(world)
    _, replayed = replay(world)
    tables = (records.transfers, replayed.transfers)
    spans: list[list[int]] = [(table["end"] - table["start"]).tolist() for table in tables]
    assert spans[0] == spans[1]
    return spans[0]


def test_the_load_that_fills_the_last_slot_takes_those_with_it_that_it_sends_away() -> None:
    assert loads((0, 10, 50, 0), (5_000, 10, 50, 1)) == [100, 400]


def test_a_free_slot_spares_the_others() -> None:
    assert loads((0, 10, 50, 0), (5_000, 10, 50, 1), slots=3) == [100, 100]


def test_an_adapter_that_nobody_uses_any_more_is_no_longer_in_the_way() -> None:
    assert loads((0, 10, 2, 0), (500_000, 10, 2, 1), (1_000_000, 10, 2, 2), slots=2) == [100, 100, 100]


def test_by_default_a_load_is_a_load() -> None:
    assert loads((0, 10, 50, 0), (5_000, 10, 50, 1), returning=0) == [100, 100]


@pytest.mark.parametrize(("slots", "returning"), [(12, 2), (48, 8), (3, 1), (2, 0)])
def test_vllm_s_worker_sends_away_a_sixth_of_its_slots(slots: int, returning: int) -> None:
    one = Trace("one", np.zeros(1), np.ones(1, np.int64), np.ones(1, np.int64), (None,), np.zeros(1, np.int64))
    loaded = load_config("vllm", (f"adapters.slots={slots}", "adapters.max_rank=8", "hardware=h200"))
    assert deploy(loaded, one).options.returning_loads == returning


def test_an_engine_without_slots_is_told_that_the_setting_means_nothing() -> None:
    config = load_config("slora", ("loading.returns_per_slot=0.5",)).config
    assert idle_settings(config) == ["loading.returns_per_slot has no effect with adapters.memory: unified"]
