"""S-LoRA's own rules: when it prefetches, what it drops, how strict its admission is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

import pytest

from policies.base import Adapter, Request
from policies.eviction import DropAfterUse
from policies.prefetch import SLoRAPrefetch
from sim.config import load_config
from sim.serving.ticks import to_ticks
from tests.worlds import RoundCosts, World, play

# A prefill takes 100 ticks a token, every decode step 1000, a load one tick a byte.
PLAIN = RoundCosts(prefill_base=0, decode_request=0, decode_context=0, load_base=0, prefill_token=100)
# 0 decodes at 1000, 2000, ..., 40000; 1 and 2 wait from tick 1 on.
BUSY = [(0, 10, 40, None), (1, 10, 5, 0), (1, 10, 5, 1)]
ADAPTERS = [(8, 100), (8, 100), (8, 100)]


class Noted(SLoRAPrefetch):
    """S-LoRA's prefetcher that notes when it is asked."""

    asked_at: ClassVar[list[int]] = []

    def wanted(self, waiting: Iterable[Request], now: float) -> Iterator[Adapter]:
        self.asked_at.append(to_ticks(now))
        return super().wanted(waiting, now)


@pytest.fixture
def asked_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    monkeypatch.setattr(Noted, "asked_at", [])
    return Noted.asked_at


def slora(
    requests: Sequence[tuple[int, int, int, int | None]], adapters: Sequence[tuple[int, int]] = ADAPTERS, **more: int
) -> World:
    world = World(
        requests, adapters, costs=PLAIN, admit_every_steps=10, cache=DropAfterUse, prefetch=Noted, total_bytes=1000
    )
    for name, value in more.items():
        setattr(world, name, value)
    return world


def events(world: World) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return (time, adapter) of every prefetch and of every eviction."""
    _, records = play(world)
    transfers, evictions = records.transfers, records.evictions
    rows = zip(*(transfers[name].tolist() for name in ("queued", "adapter", "kind")), strict=True)
    fetched = [(when, adapter) for when, adapter, kind in rows if kind == 1]
    return fetched, list(zip(evictions["time"].tolist(), evictions["adapter"].tolist(), strict=True))


# --- prefetch ---


@pytest.mark.parametrize("asks_every_step", [True, False])
def test_prefetch_is_asked_five_and_seven_steps_after_an_admission(asked_at: list[int], asks_every_step: bool) -> None:
    play(slora([(0, 10, 20, None), (1, 10, 5, 0)], asks_every_step=asks_every_step))
    assert asked_at == [1000 + 5000, 1000 + 7000]


def test_prefetch_is_not_asked_when_nothing_waits(asked_at: list[int]) -> None:
    play(slora([(0, 10, 40, None)]))
    assert asked_at == []


def test_prefetch_is_asked_at_the_seventh_step_alone_if_nothing_waited_at_the_fifth(asked_at: list[int]) -> None:
    play(slora([(0, 10, 20, None), (6500, 10, 5, 0)]))
    assert asked_at == [8000]


def test_prefetch_is_asked_anew_after_the_next_admission(asked_at: list[int]) -> None:
    play(slora([(0, 10, 40, None), (1, 10, 30, None), (2, 10, 5, 0)], running_requests=2))
    # 1 is admitted at 11000; 2 waits for room from then on, but no admission follows the one at 11000 before 40 ends
    assert asked_at == [6000, 8000, 12_000 + 5000, 12_000 + 7000]


def test_prefetch_brings_in_what_the_next_prefill_takes() -> None:
    fetched, _ = events(slora(BUSY, batch_prompt_tokens=20))
    assert fetched == [(6000, 0), (6000, 1)]
    fetched, _ = events(slora(BUSY, batch_prompt_tokens=19))
    assert fetched[0] == (6000, 0)
    assert (6000, 1) not in fetched


def test_prefetch_takes_free_memory_and_evicts_nothing() -> None:
    # the adapter of 1 falls idle with its prefill; it leaves at the admission of 3, not for the prefetch
    requests = [(0, 10, 40, None), (0, 10, 1, 0), (1, 10, 5, 1), (1, 10, 5, 2)]
    fetched, evicted = events(slora(requests, [(8, 700), (8, 200), (8, 200)]))
    assert fetched == [(700 + 2000 + 5000, 1)]
    assert evicted[0] == (700 + 2000 + 10_000, 0)


def test_a_prefetched_adapter_is_there_when_its_request_is_admitted() -> None:
    _, records = play(slora([(0, 10, 20, None), (1, 10, 5, 0)]))
    assert len(records.stalls) == 0
    assert records.useful_prefetches == {0: 1}


@pytest.mark.parametrize("asks_every_step", [True, False])
def test_a_prefetch_that_takes_the_last_byte_is_asked_once_and_forced_out(
    asked_at: list[int], asks_every_step: bool
) -> None:
    # after five steps 0 holds 15 tokens; the adapter takes all the rest, and decoding waits until it can leave again
    world = slora([(0, 10, 20, None), (1, 4, 5, 0)], [(8, 985)], asks_every_step=asks_every_step)
    _, records = play(world)
    assert asked_at == [6000, 8000 + 985]
    assert records.forced_evictions == 1
    assert records.evictions["time"].tolist()[0] == 6985


# --- dropping ---


def test_an_adapter_is_dropped_when_a_request_ends_in_decode() -> None:
    requests = [(0, 10, 30, None), (0, 10, 5, 0)]
    _, evicted = events(slora(requests))
    assert evicted == [(100 + 2000 + 4000, 0)]


def test_an_adapter_is_not_dropped_when_its_request_ends_in_prefill() -> None:
    # 1 ends at tick 3100 with its prefill; the adapter goes when 2 ends in decode
    requests = [(0, 10, 30, None), (0, 10, 1, 0), (0, 10, 8, None)]
    _, evicted = events(slora(requests))
    assert evicted == [(100 + 3000 + 7000, 0)]


def test_an_adapter_that_somebody_still_uses_is_not_dropped() -> None:
    requests = [(0, 10, 30, 0), (0, 10, 5, 0)]
    _, evicted = events(slora(requests))
    assert evicted == [(100 + 2000 + 29_000, 0)]


def test_what_the_latest_prefetch_asked_for_is_kept() -> None:
    # 2 ends at 8100, after the adapter of 3 was fetched at 7100 and before it is used
    requests = [(0, 10, 30, None), (0, 10, 7, 0), (1, 10, 5, 1)]
    fetched, evicted = events(slora(requests))
    assert fetched == [(7100, 1)]
    assert evicted[0] == (8100, 0)
    assert (8100, 1) not in evicted


def test_everything_is_dropped_when_the_batch_empties() -> None:
    # the adapter of 1 is prefetched and tagged, but 1 does not fit until 0 has gone, which empties the batch
    requests = [(0, 10, 8, 0), (1, 10, 5, 1)]
    fetched, evicted = events(slora(requests))
    assert fetched == [(6100, 1)]
    assert sorted(evicted[:2]) == [(8100, 0), (8100, 1)]


# --- admission ---


@pytest.mark.parametrize(("total", "admitted"), [(162, 0), (161, 4200)])
def test_the_adapters_of_the_batch_are_counted_once_each_and_the_test_is_strict(total: int, admitted: int) -> None:
    # two of 10 + 5 tokens: 4 * 2 + 11 + 11 = 30 at the peak; adapter 0 twice, adapter 1 once: 131 in all
    requests = [(0, 10, 5, 0), (0, 10, 5, 1), (0, 10, 5, 0)]
    _, records = play(World(requests, [(8, 60), (8, 56)], total_bytes=total, costs=PLAIN))
    rows = dict(zip(records.requests["request"].tolist(), records.requests["admitted"].tolist(), strict=True))
    assert (rows[2] == 0) == (admitted == 0)


def test_memory_is_kept_for_the_true_length_whatever_is_predicted() -> None:
    requests = [(0, 10, 80, None), (0, 10, 80, None)]
    for factor in (0.0, 5.0):
        world = World(requests, total_bytes=92, costs=PLAIN, predicted=lambda i, n, f=factor: max(1, int(n * f)))  # type: ignore[misc]
        _, records = play(world)
        assert records.requests["admitted"].tolist() == [0, 1000 + 79_000]


def test_the_packaged_system_is_the_released_code_with_prefetch() -> None:
    config = load_config("slora").config
    assert (config.admission.every_steps, config.limits.running_requests) == (10, 1000)
    assert (config.adapters.memory, config.loading.mode, config.loading.copies) == ("unified", "blocking", 2)
    assert [one["kind"] for one in (config.scheduler, config.cache, config.prefetch)] == [
        "fcfs",
        "drop-after-use",
        "slora",
    ]
