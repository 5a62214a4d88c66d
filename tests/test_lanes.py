"""The books of the lanes: request sizes, charges, recent load, quotas."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.base import Adapter, Facts, Request
from policies.lanes import Maxima, Size, Sizer
from policies.multi_queue import MultiQueue, Window, divide
from policies.tokens import Ledger, SharedLedger

FACTS = Facts(
    kv_token_bytes=10,
    kv_tokens=1000,
    memory_tokens=1000,
    admit_every_steps=10,
    batch_prompt_tokens=500,
    max_prompt_tokens=100,
    max_output_tokens=50,
    max_adapter_bytes=1280,
    ttft_slo_s=5.0,
    load_s=lambda adapter: adapter.size_bytes / 1e3,
)
SMALL = Adapter("small", 8, 80)
LARGE = Adapter("large", 128, 1280)


def request(number: int, adapter: Adapter | None, prompt: int = 100, predicted: int = 50) -> Request:
    return Request(number, 0.0, prompt, predicted, adapter)


def sizer(size: Size = "wrs", maxima: Maxima = "trace") -> Sizer:
    made = Sizer(a=0.4, b=0.6, size=size, maxima=maxima, base_share=1 / 128)
    made.start(FACTS)
    return made


def ledger(made: Ledger) -> Ledger:
    made.start(FACTS)
    return made


def test_the_largest_request_weighs_one() -> None:
    assert sizer().weight(request(0, LARGE)) == 1.0


def test_input_output_and_adapter_are_weighted_as_in_the_paper() -> None:
    assert sizer().weight(request(0, SMALL, prompt=50, predicted=10)) == pytest.approx((0.4 * 0.5 + 0.6 * 0.2) / 16)


def test_a_base_model_request_counts_as_rank_one() -> None:
    assert sizer().weight(request(0, None)) == pytest.approx(1 / 128)


def test_the_output_variant_looks_at_the_prediction_alone() -> None:
    weights = [sizer("output").weight(request(0, adapter, 7, 25)) for adapter in (None, SMALL, LARGE)]
    assert weights == [0.5, 0.5, 0.5]


def test_running_maxima_grow_with_what_arrives() -> None:
    learning = sizer(maxima="running")
    assert learning.weight(request(0, SMALL, 10, 10)) == pytest.approx(1.0)
    assert learning.weight(request(1, LARGE, 100, 10)) == pytest.approx(1.0)
    assert learning.weight(request(2, SMALL, 10, 10)) == pytest.approx((0.04 + 0.6) / 16)


def test_a_charge_is_input_output_and_adapter_bytes_rounded_up() -> None:
    assert ledger(Ledger(1)).cost(request(0, Adapter("odd", 1, 81), 3, 4)) == 3 + 4 + 9


def test_a_shared_adapter_is_charged_to_every_request() -> None:
    books = ledger(Ledger(1))
    for number in range(2):
        books.charge(request(number, SMALL, 1, 1), 0, 0.0)
    assert books.inflight == [20]


def test_a_shared_adapter_charged_once_is_free_for_the_second() -> None:
    books = ledger(SharedLedger(1))
    books.charge(request(0, SMALL, 1, 1), 0, 0.0)
    assert books.cost(request(1, SMALL, 1, 1)) == 2
    assert books.cost(request(1, LARGE, 1, 1)) == 130


def test_an_adapter_charged_once_stays_with_the_lane_that_paid_until_its_last_user_leaves() -> None:
    books = ledger(SharedLedger(2))
    first, second = request(0, SMALL, 1, 1), request(1, SMALL, 1, 1)
    books.charge(first, 0, 0.0)
    books.charge(second, 1, 0.0)
    books.release(first)
    assert books.inflight == [8, 2]
    books.release(second)
    assert books.inflight == [0, 0]


def test_giving_back_what_was_never_charged_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="holds none; 0 requests"):
        ledger(Ledger(1)).release(request(0, None))


def test_a_ledger_that_does_not_add_up_names_its_numbers() -> None:
    books = ledger(Ledger(2))
    books.charge(request(0, None, 3, 4), 1, 0.0)
    books.inflight[1] += 5
    with pytest.raises(RuntimeError, match=r"\[0, 12\].*in all 7.*\[0, 7\]"):
        books.check()


@given(
    shares=st.booleans(),
    steps=st.lists(st.tuples(st.integers(0, 9), st.sampled_from([None, SMALL, LARGE]), st.integers(0, 2)), max_size=40),
)
def test_tokens_in_use_are_the_sum_of_the_charges(shares: bool, steps: list[tuple[int, Adapter | None, int]]) -> None:
    books = ledger(SharedLedger(3) if shares else Ledger(3))
    held: dict[int, Request] = {}
    for number, adapter, lane in steps:
        if number in held:
            books.release(held.pop(number))
        else:
            held[number] = request(number, adapter, number, 1)
            before, cost = books.total, books.cost(held[number])
            books.charge(held[number], lane, 0.0)
            assert books.total == before + cost
        books.check()
    for left in held.values():
        books.release(left)
    assert books.inflight == [0, 0, 0]


def test_the_minimum_follows_the_queueing_formula() -> None:
    window = Window(100.0)
    for weight, tokens in ((0.1, 30), (0.2, 40), (0.9, 200)):
        window.arrived(weight, tokens)
    window.finished(0.1, 2.0)
    window.finished(0.2, 4.0)
    window.finished(0.9, 10.0)
    minimum = window.minimum_tokens([0.5], 110.0, FACTS, 300.0)
    assert minimum.tolist() == pytest.approx([40 * 3.0 * (1 / 5 + 2 / 10), 200 * 10.0 * (1 / 5 + 1 / 10)])


def lane_durations_s(window: Window) -> list[float]:
    """Undo the formula for one arrival of one token in each of two lanes within one second."""
    window.arrived(0.1, 1)
    window.arrived(0.9, 1)
    minimum = window.minimum_tokens([0.5], 1.0, replace(FACTS, ttft_slo_s=4.0), 300.0)
    return [tokens / (1 / 4 + 1) for tokens in minimum.tolist()]


def test_a_lane_where_nothing_has_finished_uses_the_guesses() -> None:
    window = Window(0.0)
    window.finished(0.1, 2.0)
    window.guessed(0.1, 50.0)
    window.guessed(0.9, 7.0)
    assert lane_durations_s(window) == pytest.approx([2.0, 7.0])


def test_a_lane_that_nobody_knows_takes_the_mean_of_all() -> None:
    window = Window(0.0)
    window.finished(0.1, 2.0)
    window.finished(0.2, 4.0)
    assert lane_durations_s(window) == pytest.approx([3.0, 3.0])


def test_without_any_duration_a_fifth_of_the_objective_serves() -> None:
    assert lane_durations_s(Window(0.0)) == pytest.approx([0.8, 0.8])


def test_a_burst_in_one_instant_counts_over_the_whole_period() -> None:
    window = Window(7.0)
    window.arrived(0.1, 10)
    assert window.minimum_tokens([], 7.0, FACTS, 300.0).tolist() == pytest.approx([10 * (1 / 5 + 1 / 300)])


def test_the_remainder_goes_by_the_minimum_or_in_equal_parts() -> None:
    minimum = np.array([100.0, 300.0])
    assert divide(1000, minimum, "minimum") == [250, 750]
    assert divide(1000, minimum, "equal") == [400, 600]


def test_minima_beyond_the_total_are_scaled_down() -> None:
    minimum = np.array([1000.0, 3000.0])
    assert divide(1000, minimum, "minimum") == divide(1000, minimum, "equal") == [250, 750]


def test_lanes_without_need_share_equally() -> None:
    assert divide(1000, np.zeros(3), "minimum") == [333, 333, 333]


@given(minimum=st.lists(st.floats(0, 1e6), min_size=1, max_size=4), equal=st.booleans())
def test_quotas_never_exceed_the_total(minimum: list[float], equal: bool) -> None:
    quotas = divide(997, np.array(minimum), "equal" if equal else "minimum")
    assert sum(quotas) <= 997
    assert min(quotas) >= 0


def test_quotas_share_out_all_memory_or_the_kv_pool_alone() -> None:
    small_pool = replace(FACTS, kv_tokens=300, memory_tokens=1000)
    quotas = {}
    for total in ("memory", "kv"):
        scheduler = MultiQueue(total=total)
        scheduler.start(small_pool)
        quotas[total] = scheduler.quotas
    assert quotas == {"memory": (1000,), "kv": (300,)}
