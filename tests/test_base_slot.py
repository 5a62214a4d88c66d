"""Requests without an adapter take a slot together, as SGLang's do; everywhere else they need none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

import sim
from policies.base import Batch, Request
from policies.scheduling import FCFS
from policies.skipping import SkipAdapters
from sim.config import load_config
from sim.core import Core
from sim.idle_settings import idle_settings
from sim.serving.records import Records
from sim.trace import AdapterSpec, Trace
from tests.worlds import RoundCosts, World, play, replay

COSTS = RoundCosts(prefill_base=100, prefill_token=0, decode_base=1000, decode_request=0, decode_context=0)
END = 100 + 19 * 1000  # of a request of 20 tokens that is alone from 0 on

Rows = list[tuple[int, int, int, int | None]]


def world(rows: Rows, *, slots: int = 1, base_slot: bool = True, **changes: Any) -> World:
    """Return an engine with slots of 50 bytes."""
    plain: dict[str, Any] = {
        "adapters": [(8, 50)] * 3,
        "total_bytes": 1000 + 50 * slots,
        "kv_limit_bytes": 1000,
        "adapter_limit_bytes": 50 * slots,
        "slot_bytes": 50,
        "distinct_adapters": slots,
        "admit_every_steps": 0,
        "costs": COSTS,
        "mechanism": {"base_slot": base_slot},
    }
    return World(rows, **plain | changes)


def column(records: Records, name: str) -> list[int]:
    rows = records.requests
    return [value for _, value in sorted(zip(rows["request"].tolist(), rows[name].tolist(), strict=True))]


def admitted(rows: Rows, **changes: Any) -> list[int]:
    _, records = play(world(rows, **changes))
    assert column(records, "admitted") == column(replay(world(rows, **changes))[1], "admitted")
    return column(records, "admitted")


def test_a_request_without_an_adapter_waits_for_a_slot() -> None:
    rows: Rows = [(0, 10, 20, 0), (500, 10, 20, None)]
    assert admitted(rows)[1] >= END
    assert admitted(rows, slots=2)[1] < END
    assert admitted(rows, base_slot=False)[1] < END


def test_an_adapter_waits_while_requests_without_one_use_the_slot() -> None:
    rows: Rows = [(0, 10, 20, None), (500, 10, 20, 0)]
    assert admitted(rows) == [0, END]
    assert admitted(rows, base_slot=False) == [0, 1100]


def test_requests_without_an_adapter_share_their_slot() -> None:
    assert admitted([(0, 10, 20, None), (500, 10, 20, None)]) == [0, 1100]


def test_who_skips_passes_a_request_without_an_adapter_that_finds_no_slot() -> None:
    first, base, third = admitted([(0, 10, 20, 0), (500, 10, 20, None), (600, 10, 20, 0)], scheduler=SkipAdapters)
    assert first < third < END < base


def test_the_slot_is_taken_from_an_idle_adapter_and_is_anybody_s_again_afterwards() -> None:
    held: list[tuple[int, int]] = []

    def look(core: Core) -> None:
        core.check()
        held.append((core.memory.base_bytes, core.memory.adapter_bytes))

    rows: Rows = [(0, 10, 20, 0), (50_000, 10, 20, None), (100_000, 10, 20, 1)]
    _, records = play(world(rows), look)
    assert records.evictions["time"].tolist() == [50_000]
    assert set(held) == {(0, 0), (0, 50), (50, 50)}


def test_only_the_last_request_without_an_adapter_frees_its_slot_for_another() -> None:
    def asked(rows: Rows) -> bool:
        answers: list[bool] = []

        class Asks(FCFS):
            def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:
                offered = list(waiting)
                answers.extend(batch.can_squash_for(one, offered[0]) for one in batch.running[:1])
                super().fill(batch, offered, now)

        play(world(rows, scheduler=Asks))
        return answers[0]

    assert asked([(0, 10, 20, None), (500, 10, 20, 0)])
    assert not asked([(0, 10, 20, None), (0, 10, 20, None), (500, 10, 20, 0)])


def test_the_laws_count_those_who_use_the_base_model_s_slot() -> None:
    def broken(core: Core) -> None:
        core.adapters.base_users += 1
        with pytest.raises(RuntimeError, match="base users"):
            core.check()
        core.adapters.base_users -= 1

    play(world([(0, 10, 20, None)]), broken)


@pytest.mark.parametrize(("system", "waits"), [("sglang", True), ("sglang-overlap", True), ("vllm", False)])
def test_a_packaged_sglang_counts_requests_without_an_adapter_among_its_slots(system: str, waits: bool) -> None:
    lengths = np.array([50, 50], np.int64), np.array([200, 20], np.int64)
    palette = (None, AdapterSpec("a", 16))
    trace = Trace("by hand", np.array([0.0, 1.0]), *lengths, palette, np.array([1, 0]))
    told = sim.run(system, trace=trace, changes=("adapters.slots=1",)).requests
    assert (told["admitted_s"][1] >= told["finish_s"][0]) == waits


def test_without_slots_the_setting_idles() -> None:
    told = idle_settings(load_config("slora", ("adapters.base_slot=true",)).config)
    assert told == ["adapters.base_slot has no effect with adapters.memory: unified"]
