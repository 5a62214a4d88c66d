"""dLoRA on one replica: when it merges, whom it takes out, what it learns, who earns credit."""

from __future__ import annotations

import pytest

from policies.dlora import DLoRA
from policies.merging import Credits, Switching
from tests.fake_batch import FakeBatch, adapter, again, request

A, B = adapter("a"), adapter("b")


def mixed(requests: int = 4) -> FakeBatch:
    """Return an unmerged engine in which one request of B and one of A run."""
    batch = FakeBatch(DLoRA(), requests=requests, resident=[A, B])
    batch.arrive(request(0, B), request(1, A))
    batch.fill()
    batch.prefill()
    return batch


def merged() -> FakeBatch:
    """Return an engine for four, merged to A, in which four requests of A run; one of B was taken out."""
    batch = mixed()
    batch.arrive(*(request(i, A) for i in range(2, 5)))
    batch.fill()
    batch.prefill()
    return batch


def test_requests_of_several_adapters_run_unmerged_by_arrival() -> None:
    batch = FakeBatch(DLoRA(), requests=2, resident=[A, B])
    batch.arrive(request(0, B), request(1, A), request(2))
    assert batch.fill() == [("add", 0), ("add", 1)]


def test_an_adapter_that_fills_the_batch_alone_is_merged_and_others_are_taken_out() -> None:
    batch = mixed()
    batch.arrive(*(request(i, A) for i in range(2, 5)))
    assert batch.fill() == [("preempt", 0), ("merge", "a"), ("add", 2), ("add", 3), ("add", 4)]


def test_one_request_too_few_is_not_merged() -> None:
    batch = mixed()
    batch.arrive(request(2, A), request(3, A))
    assert batch.fill() == [("add", 2), ("add", 3)]


def test_an_adapter_that_is_not_there_is_not_merged() -> None:
    batch = FakeBatch(DLoRA(), requests=4)
    batch.arrive(request(0, A))
    assert batch.fill() == [("add", 0)]


def test_the_batch_stays_merged_while_more_than_half_want_the_adapter() -> None:
    batch = merged()
    batch.finish(batch.running[0])
    assert batch.fill() == []
    assert batch.merged is A


def test_below_that_the_batch_is_unmerged_and_who_was_taken_out_comes_back_first() -> None:
    batch = merged()
    for one in batch.running[:3]:
        batch.finish(one)
    batch.arrive(request(5, B))
    assert batch.fill() == [("merge", None), ("add", 0), ("add", 5)]


def test_base_model_requests_are_never_merged() -> None:
    batch = FakeBatch(DLoRA(), requests=2)
    batch.arrive(request(0), request(1))
    assert batch.fill() == [("add", 0), ("add", 1)]


def test_who_waits_longest_takes_the_place_of_the_youngest_after_an_unmerge() -> None:
    batch = mixed(requests=2)
    batch.arrive(request(2), request(3, A))
    batch.fill()  # merged to A, which has two, and 0 is out
    batch.prefill()
    batch.finish(batch.running[0])
    assert batch.fill() == [("merge", None), ("add", 0), ("refuse", 2), ("preempt", 3), ("add", 2)]


def test_the_only_one_that_runs_is_not_taken_out_for_an_older_one() -> None:
    batch = mixed(requests=2)
    batch.arrive(request(2), request(3, A))
    batch.fill()
    batch.prefill()
    batch.finish(batch.running[0])
    batch.requests = 1
    assert batch.fill() == [("merge", None), ("refuse", 0)]


def test_an_adapter_that_was_passed_over_for_long_goes_first_even_with_young_requests() -> None:
    batch = merged()
    batch.arrive(request(5, B))
    batch.fill()
    assert batch.scheduler.wakes_at_step() is not None
    batch.decode(30_000)
    assert batch.admitted() == [0, 5]


def test_a_merged_batch_that_cannot_take_its_own_goes_on_with_the_others() -> None:
    batch = merged()
    for one in batch.running:
        batch.finish(one)
    batch.arrive(*(request(i, A, prompt=99) for i in range(5, 9)))
    batch.tokens = 20
    assert ("add", 0) in batch.fill()
    assert batch.merged is None


def test_an_engine_with_nothing_to_do_takes_whoever_fits() -> None:
    batch = FakeBatch(DLoRA(), requests=2, resident=[B], tokens=20)
    batch.arrive(request(0, A, prompt=99), request(1, B))
    assert batch.admitted() == [1]


def test_a_round_held_twice_changes_nothing() -> None:
    batch = mixed()
    batch.arrive(*(request(i, A) for i in range(2, 5)))
    assert again(batch) == []


# thresholds


def switching() -> Switching:
    """Return thresholds after an unmerged mode of ten tokens in ten steps."""
    thresholds = Switching(0.015, 0.027, 0.02)
    thresholds.finished(10)
    thresholds.switched(10, (), was_merged=False)
    return thresholds


def test_the_first_thresholds_are_the_ratio_of_the_steps_and_a_full_batch() -> None:
    thresholds = Switching(0.015, 0.027, 0.02)
    assert thresholds.left == pytest.approx(0.556, abs=1e-3)
    assert thresholds.right == 1.0


def test_a_merged_mode_that_was_better_is_easier_to_enter() -> None:
    thresholds = switching()
    thresholds.finished(1000)
    thresholds.switched(20, (), was_merged=True)
    assert thresholds.right == pytest.approx(0.95)


def test_a_merged_mode_that_was_worse_is_harder_to_enter() -> None:
    thresholds = switching()
    thresholds.finished(1)
    thresholds.switched(20, (), was_merged=True)
    assert thresholds.right == pytest.approx(1.1)


def test_an_unmerged_mode_that_was_better_is_entered_sooner_and_one_that_was_worse_later() -> None:
    for tokens, left in ((1000, 0.556 + 0.05), (1, 0.556 / 1.1)):
        thresholds = switching()
        thresholds.finished(20)
        thresholds.switched(20, (), was_merged=True)
        thresholds.finished(tokens)
        thresholds.switched(30, (), was_merged=False)
        assert thresholds.left == pytest.approx(left, abs=1e-3)


# credit


def test_who_is_passed_over_earns_credit_from_who_passes_at_every_step() -> None:
    credit = Credits(2, 4, 0.5)
    credit.pay([(A, B)], is_merged=True)
    credit.settle(10)
    assert credit.credit(B) == 10_000 + 10 / (4 * 0.5)
    assert credit.credit(A) == 10_000 - 10 / (4 * 0.5)


def test_enough_credit_promotes_and_half_the_gap_less_ends_it() -> None:
    credit = Credits(2, 1, 1.0)
    credit.pay([(A, B)], is_merged=False)
    assert credit.steps_to_change() == 5000 - 1 or credit.steps_to_change() == 5000
    credit.settle(10_000)
    promoted = credit.promoted({A: (), B: ()})
    assert promoted is not None
    assert promoted.adapter is B
    credit.pay([(B, A)], is_merged=False)
    credit.settle(15_000)
    assert credit.promoted({A: (), B: ()}) == promoted
    credit.settle(15_001)
    assert credit.promoted({A: (), B: ()}) is None


def test_who_has_spent_all_credit_may_not_be_merged() -> None:
    credit = Credits(2, 1, 1.0)
    credit.pay([(A, B)], is_merged=False)
    credit.settle(10_001)
    assert not credit.is_solvent(A)
    assert credit.is_solvent(B)


def test_payments_of_many_steps_are_those_of_one_step_many_times() -> None:
    once, often = Credits(3, 7, 0.555), Credits(3, 7, 0.555)
    for credit, steps in ((once, [30]), (often, range(1, 31))):
        credit.pay([(A, B), (None, B)], is_merged=True)
        for step in steps:
            credit.settle(step)
    assert once.credit(B) == often.credit(B)
