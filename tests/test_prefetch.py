"""Which adapters are wanted early."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from policies.base import Adapter, Facts, Request
from policies.prefetch import NoPrefetch, Queued, SLoRAPrefetch

A = Adapter("a", 8, 10)
B = Adapter("b", 16, 20)
FACTS = Facts(
    kv_token_bytes=1,
    kv_tokens=1000,
    memory_tokens=1000,
    admit_every_steps=10,
    batch_prompt_tokens=100,
    max_prompt_tokens=100,
    max_output_tokens=100,
    max_adapter_bytes=20,
    ttft_slo_s=5.0,
    load_s=lambda adapter: 1.0,
)


def waiting(*adapters: Adapter | None, prompt: int = 40) -> list[Request]:
    return [Request(i, float(i), prompt, 10, adapter) for i, adapter in enumerate(adapters)]


def slora() -> SLoRAPrefetch:
    prefetch = SLoRAPrefetch()
    prefetch.start(FACTS)
    return prefetch


def test_nothing_is_wanted_without_prefetch() -> None:
    assert list(NoPrefetch().wanted(waiting(A, B), 0.0)) == []


def test_queued_wants_each_adapter_once_in_the_order_given() -> None:
    assert list(Queued().wanted(waiting(B, None, A, B), 0.0)) == [B, A]


def test_queued_looks_only_as_far_as_it_is_told() -> None:
    assert list(Queued(lookahead=2).wanted(waiting(None, B, A), 0.0)) == [B]


def test_queued_reads_no_more_of_the_queue_than_is_taken() -> None:
    def endless() -> Iterator[Request]:
        while True:
            yield from waiting(A, B)

    assert next(iter(Queued().wanted(endless(), 0.0))) is A


def test_queued_may_evict_and_is_asked_whenever_something_changed() -> None:
    assert (Queued.may_evict, Queued.asks_at_steps) == (True, None)


def test_slora_wants_what_one_prefill_takes() -> None:
    assert list(slora().wanted(waiting(B, B, A), 0.0)) == [B]
    assert list(slora().wanted(waiting(B, A, A), 0.0)) == [B, A]


def test_slora_fills_the_prefill_to_the_last_token() -> None:
    assert list(slora().wanted(waiting(B, A, prompt=50), 0.0)) == [B, A]


def test_slora_stops_at_the_first_request_that_does_not_fit() -> None:
    long, short = waiting(A, B, prompt=10)
    long.prompt_tokens = 101
    assert list(slora().wanted([long, short], 0.0)) == []


def test_slora_asks_at_half_the_admission_period_and_three_steps_before_its_end() -> None:
    asked = {}
    for period in (0, 1, 2, 5, 6, 10):
        policy = SLoRAPrefetch()
        policy.start(replace(FACTS, admit_every_steps=period))
        asked[period] = policy.asks_at_steps
    assert asked == {0: (), 1: (0,), 2: (1,), 5: (2,), 6: (3,), 10: (5, 7)}
    assert slora().may_evict is False


def test_slora_asks_at_other_steps_if_it_is_told_to() -> None:
    policy = SLoRAPrefetch(at_steps=(3,))
    policy.start(FACTS)
    assert policy.asks_at_steps == (3,)


def test_a_bad_keyword_is_named_with_what_is_allowed() -> None:
    with pytest.raises(ValueError, match="lookahead must be at least 1, got 0"):
        Queued(lookahead=0)
    with pytest.raises(ValueError, match="at_steps must be at least 0, got -5"):
        SLoRAPrefetch(at_steps=(-5,))
