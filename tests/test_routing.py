"""Routers: which of a few replicas, described by hand, gets a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from policies.base import Adapter, Facts, Replica, Request, Router
from policies.builtin import BUILTIN
from policies.placement import LoRAServe
from policies.routing import Affinity, LeastLoaded, Punica, Random, RoundRobin
from policies.routing_costs import DLoRA, Toppings
from sim.plugins.named import resolve

A, B = Adapter("a", 8, 100), Adapter("b", 8, 100)
BIG = Adapter("big", 64, 800)
PALETTE = (A, B, BIG)


def request(adapter: Adapter | None = None, prompt: int = 10, predicted: int = 100, id_: int = 99) -> Request:
    return Request(id_, 0.0, prompt, predicted, adapter)


@dataclass
class Fake:
    """A replica by hand."""

    running: Sequence[Request] = ()
    waiting: Sequence[Request] = ()
    free_tokens: int = 1000
    adapters: Sequence[Adapter] = ()

    def has_adapter(self, adapter: Adapter | None) -> bool:
        return adapter is None or adapter in self.adapters


def busy(running: int, waiting: int = 0, free_tokens: int = 1000, adapters: Sequence[Adapter] = ()) -> Fake:
    """Return a replica with requests of the base model."""
    return Fake([request()] * running, [request()] * waiting, free_tokens, adapters)


def prefill_s(tokens: int, rank: int) -> float:
    return tokens * (1 + rank / 64)


def decode_s(batch: Sequence[Adapter | None]) -> float:
    """A padded kernel: every request costs as much as the largest rank."""
    return 1.0 + len(batch) * max((one.rank for one in batch if one is not None), default=0) / 64


FACTS = Facts(
    kv_token_bytes=1,
    kv_tokens=1000,
    memory_tokens=1000,
    admit_every_steps=1,
    batch_prompt_tokens=1000,
    max_prompt_tokens=100,
    max_output_tokens=100,
    max_adapter_bytes=800,
    ttft_slo_s=5.0,
    load_s=lambda adapter: adapter.size_bytes,
    adapters=PALETTE,
    prefill_s=prefill_s,
    decode_s=decode_s,
)


def started(router: Router, facts: Facts = FACTS) -> Router:
    router.start(facts)
    return router


def chosen(router: Router, *replicas: Replica, of: Request | None = None, now: float = 0.0) -> int:
    return router.choose(request() if of is None else of, replicas, now)


def test_round_robin_takes_replicas_in_turn() -> None:
    assert [chosen(RoundRobin(), busy(9), busy(0), busy(4), of=request(id_=id_)) for id_ in range(4)] == [0, 1, 2, 0]


def test_the_least_loaded_has_fewest_requests_running_and_waiting() -> None:
    assert chosen(LeastLoaded(), busy(0, 3), busy(2), busy(1, 2)) == 1


def test_the_first_of_equally_loaded_replicas_is_taken() -> None:
    assert chosen(LeastLoaded(), busy(2), busy(1), busy(0, 1)) == 1


def test_affinity_prefers_a_replica_that_has_the_adapter() -> None:
    assert chosen(Affinity(), busy(1), busy(1, adapters=[A]), busy(0), of=request(A)) == 1


def test_affinity_takes_the_least_loaded_that_has_the_adapter() -> None:
    replicas = [busy(0), busy(2, adapters=[A]), busy(1, adapters=[A])]
    assert chosen(Affinity(escape=None), *replicas, of=request(A)) == 2


def test_affinity_counts_an_adapter_that_a_waiting_request_will_bring() -> None:
    assert chosen(Affinity(), busy(0), Fake(waiting=[request(A)]), busy(3), of=request(A)) == 1


@pytest.mark.parametrize(("escape", "taken"), [(1.25, 1), (2.0, 0), (None, 0)])
def test_affinity_escapes_from_a_replica_that_would_exceed_its_share(escape: float | None, taken: int) -> None:
    # 5 requests with this one, 2.5 a replica: the holder may have up to 4 (1.25) or 5 (2.0) of them
    assert chosen(Affinity(escape=escape), busy(4, adapters=[A]), busy(0), of=request(A)) == taken


def test_affinity_goes_to_the_least_loaded_if_nobody_has_the_adapter() -> None:
    assert chosen(Affinity(), busy(2, adapters=[B]), busy(1), of=request(A)) == 1


def test_every_replica_has_the_base_model() -> None:
    assert chosen(Affinity(), busy(1, adapters=[A]), busy(0)) == 1


def test_an_escape_below_an_even_share_is_refused() -> None:
    with pytest.raises(ValueError, match=r"escape must be at least 1, got 0\.5"):
        Affinity(escape=0.5)


def test_punica_fills_the_fullest_replica_first() -> None:
    assert chosen(started(Punica()), busy(1), busy(5), busy(5), busy(0)) == 1


def test_punica_passes_over_a_full_batch() -> None:
    assert chosen(started(Punica(batch_requests=5)), busy(1), busy(4, 1)) == 0


def test_punica_never_fills_beyond_the_limit_of_the_engine() -> None:
    assert chosen(started(Punica(), replace(FACTS, running_requests=5)), busy(1), busy(5)) == 0


def test_punica_passes_over_a_replica_without_kv_for_the_prompt() -> None:
    assert chosen(started(Punica()), busy(1), busy(5, free_tokens=9)) == 0


def test_punica_leaves_kv_to_those_that_already_wait() -> None:
    assert chosen(started(Punica()), busy(1), busy(5, 1, free_tokens=19)) == 0
    assert chosen(started(Punica()), busy(1), busy(5, 1, free_tokens=20)) == 1


def test_punica_joins_the_shortest_queue_if_all_are_full() -> None:
    assert chosen(started(Punica(batch_requests=3)), busy(1, 4), busy(9, 2), busy(5, 3)) == 1


def test_toppings_keeps_a_large_rank_from_a_batch_of_small_ones() -> None:
    small, large = Fake([request(A)] * 4), Fake([request(BIG)] * 4)
    assert chosen(started(Toppings(decode_slo_s=None)), small, large, of=request(BIG)) == 1


def test_toppings_weighs_the_added_cost_by_who_pays_it() -> None:
    # two requests would be slowed by 2.95 s a token, or the others by 1.2 s
    small = Fake([request(A)] * 2)
    assert chosen(started(Toppings(decode_slo_s=None)), small, Fake([request(BIG)] * 4), of=request(BIG)) == 1
    assert chosen(started(Toppings(decode_slo_s=None)), small, Fake([request(BIG)] * 5), of=request(BIG)) == 0


def test_toppings_counts_those_that_wait() -> None:
    queued, running = Fake(waiting=[request(A)] * 3), Fake([request(A)] * 2)
    assert chosen(started(Toppings(decode_slo_s=None)), queued, running, of=request(A)) == 1


def test_toppings_avoids_a_step_beyond_its_objective() -> None:
    # decode steps would last 1 + 5 * 1 s and 1 + 10 / 8 s
    replicas = Fake([request(BIG)] * 4), Fake([request(A)] * 9)
    assert chosen(started(Toppings(decode_slo_s=7)), *replicas, of=request(A)) == 1
    assert chosen(started(Toppings(decode_slo_s=2)), *replicas, of=request(A)) == 0


def test_toppings_takes_the_emptiest_where_every_step_would_be_too_long() -> None:
    replicas = Fake([request(BIG)] * 4), Fake(), Fake([request(A)] * 9)
    assert chosen(started(Toppings(decode_slo_s=0.5)), *replicas, of=request(A)) == 1
    assert chosen(started(Toppings(decode_slo_s=0.5)), replicas[0], replicas[2], of=request(A)) == 0


def test_a_longer_average_response_makes_prefills_matter_less() -> None:
    # two requests and 10 s of prefill, or one request that waits for a step which is 8 s longer
    replicas = Fake([request(BIG)] * 3), Fake([request(A)] * 2)
    asked = request(BIG, prompt=100)
    assert chosen(started(Toppings(decode_slo_s=None, response_tokens=1)), *replicas, of=asked) == 1
    assert chosen(started(Toppings(decode_slo_s=None, response_tokens=10**6)), *replicas, of=asked) == 0


def test_the_average_response_is_by_default_that_of_all_requests() -> None:
    one = request(BIG, prompt=100, predicted=1)
    replicas = Fake([one] * 3), Fake([request(A, predicted=1)] * 2)
    assert chosen(started(Toppings(decode_slo_s=None)), *replicas, of=one) == 1
    replicas = Fake([request(BIG, predicted=10**6)] * 3), Fake([request(A)] * 2)
    assert chosen(started(Toppings(decode_slo_s=None)), *replicas, of=one) == 0


def test_dlora_prefers_full_batches_of_one_adapter() -> None:
    # of 4 requests in batches of 2: two merged batches, or one merged and one mixed
    alike = Fake([request(A), request(A), request(A)])
    mixed = Fake([request(A), request(A), request(B)])
    assert chosen(started(DLoRA(batch_requests=2)), mixed, alike, of=request(A)) == 1


def test_dlora_adds_the_load_of_a_missing_adapter() -> None:
    assert chosen(started(DLoRA(batch_requests=8)), busy(0), busy(3, adapters=[A]), of=request(A)) == 1


def test_dlora_pays_a_load_to_save_a_batch() -> None:
    # 4 mixed requests are a batch of 100 steps, the load lasts as long as one
    cheap = replace(FACTS, load_s=lambda adapter: 1.0)
    replicas = busy(0), Fake([request(B)] * 3, adapters=[A])
    assert chosen(started(DLoRA(batch_requests=4), cheap), *replicas, of=request(A)) == 0


def test_dlora_takes_the_fewest_requests_at_equal_cost() -> None:
    assert chosen(started(DLoRA(batch_requests=8)), busy(3), busy(2)) == 1


def test_dlora_has_batches_as_large_as_the_engine_allows() -> None:
    replicas = busy(0), Fake([request(B)] * 3, adapters=[A])
    few, many = replace(FACTS, running_requests=2), replace(FACTS, running_requests=1000)
    cheap = [replace(facts, load_s=lambda adapter: 1.0) for facts in (few, many)]
    assert [chosen(started(DLoRA(), facts), *replicas, of=request(A)) for facts in cheap] == [0, 1]


def test_loraserve_keeps_ranks_apart() -> None:
    # seven small adapters cost together what the big one does
    small = [Adapter(f"small-{index}", 8, 100) for index in range(7)]
    router = started(LoRAServe(), replace(FACTS, adapters=[BIG, *small]))
    asked = [request(adapter) for adapter in (*small, BIG)]
    assert [chosen(router, busy(5), busy(0), of=one) for one in asked] == [0] * 7 + [1]
    assert [chosen(router, busy(0), busy(5), of=one) for one in asked] == [0] * 7 + [1]


def test_loraserve_gives_a_hot_adapter_several_replicas() -> None:
    router = started(LoRAServe(window_s=10))
    for id_ in range(8):
        chosen(router, busy(0), busy(0), of=request(A, id_=id_), now=1.0)
    assert chosen(router, busy(3), busy(1), of=request(A, id_=8), now=20.0) == 1
    assert chosen(router, busy(0), busy(1), of=request(A, id_=9), now=20.0) == 0


def test_loraserve_places_anew_only_after_drift() -> None:
    def place_of_b(drift: float) -> int:
        router = started(LoRAServe(window_s=10, drift=drift))
        for id_ in range(8):
            chosen(router, busy(0), busy(0), of=request((A, B)[id_ % 2], id_=id_), now=1.0)
        return chosen(router, busy(0), busy(0), of=request(B, id_=8), now=20.0)

    assert [place_of_b(0.2), place_of_b(5.0)] == [1, 0]


def test_loraserve_sends_the_base_model_to_the_least_loaded() -> None:
    assert chosen(started(LoRAServe()), busy(1), busy(0)) == 1


def test_loraserve_counts_a_request_once_though_it_is_asked_twice() -> None:
    router = LoRAServe()
    router.start(FACTS)
    for _ in range(2):
        chosen(router, busy(0), busy(0), of=request(A))
    assert router._work_s == {A: pytest.approx(10 * (1 + 8 / 64) + 100 * (1 / 32 + 8 / 64))}


@pytest.mark.parametrize("name", BUILTIN["router"])
def test_a_router_asked_twice_answers_the_same(name: str) -> None:
    router = started(resolve(name, "router"))
    replicas = busy(3, adapters=[A]), busy(1, 1), Fake([request(BIG)], [request(B)])
    for id_, adapter in enumerate([*PALETTE, None] * 3):
        asked = request(adapter, id_=id_)
        answers = {router.choose(asked, replicas, 30.0 * id_) for _ in range(3)}
        assert len(answers) == 1
        assert answers <= {0, 1, 2}


def test_random_routing_is_even_and_the_same_in_every_run() -> None:
    def choices(seed: int) -> list[int]:
        return [chosen(Random(seed=seed), Fake(), Fake(), Fake(), of=request(A, id_=i)) for i in range(3000)]

    first = choices(0)
    assert first == choices(0) != choices(1)
    assert all(abs(first.count(index) - 1000) < 100 for index in range(3))
