"""What a stopped request finds again of its KV: free blocks hold what was computed until somebody takes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import sim
from policies.base import Batch, Request, Scheduler
from policies.eviction import DropAfterUse
from sim.config import load_config
from sim.idle_settings import idle_settings
from sim.serving.options import EngineOptions
from sim.serving.shape import Load
from sim.trace import Trace
from tests.worlds import RoundCosts, World, play

Rows = Sequence[tuple[int, int, int, int | None]]

COSTS = RoundCosts(prefill_base=100, prefill_token=0, decode_base=1000, decode_request=0, decode_context=0)


def two(output: int = 6, prompt: int = 10) -> Rows:
    """Two requests in blocks of 4: the first finds no block for its 13th token unless there are 7, the second stops."""
    return [(0, 10, output, None), (0, prompt, output, None)]


def world(requests: Rows, blocks: int, **changes: Any) -> World:
    mechanism = {"reserve": "on_demand", "block_tokens": 4, "reuses_blocks": True, **changes.pop("mechanism", {})}
    return World(requests, **{"costs": COSTS, "total_bytes": 4 * blocks + 1, "mechanism": mechanism, **changes})


def prefilled(world: World) -> list[int]:
    """Return the tokens of each iteration that prefilled."""
    tokens: list[int] = play(world)[1].prefills["tokens"].tolist()
    return tokens


def test_a_request_whose_blocks_nobody_took_computes_one_token() -> None:
    # 12 tokens in 3 full blocks; the first takes the seventh block for its 13th token and needs no other.
    assert prefilled(world(two(), blocks=7)) == [20, 1]


def test_by_default_a_stopped_request_computes_everything_again() -> None:
    assert prefilled(world(two(), blocks=7, mechanism={"reuses_blocks": False})) == [20, 13]
    assert not EngineOptions(1, 1, 1, 1, blocks_on_load=True).reuses_blocks
    assert not load_config("vllm").config.memory.reuses_blocks


@pytest.mark.parametrize(("output", "again"), [(6, 5), (10, 9), (14, 13)])
def test_the_last_blocks_are_taken_first(output: int, again: int) -> None:
    # The first grows by one, two, three blocks while the second waits with 12 tokens behind it.
    assert prefilled(world(two(output), blocks=6)) == [20, again]


@pytest.mark.parametrize(("output", "again"), [(6, 4), (10, 8), (14, 12)])
def test_a_block_that_is_not_full_is_not_found_again_and_taken_before_full_ones(output: int, again: int) -> None:
    # The second stops with 11 tokens.
    assert prefilled(world(two(output, prompt=9), blocks=6)) == [19, again]


class StopsOnce(Scheduler):
    """Stops the second request once, by preempting or squashing it; nobody comes in before the first has ended."""

    name = "stops-once"
    squashes = False

    def __init__(self) -> None:
        self._has_stopped = False

    def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:
        if not self._has_stopped and len(batch.running) == 2:
            (batch.squash if self.squashes else batch.preempt)(batch.running[1])
            self._has_stopped = True
        elif not batch.running:
            for request in self.queue(waiting):
                batch.try_add(request)

    def queue(self, waiting: Iterable[Request]) -> list[Request]:
        return list(waiting)


class SquashesOnce(StopsOnce):
    """Squashes it."""

    name = "squashes-once"
    squashes = True


def stopped(blocks: int, scheduler: type[Scheduler] = StopsOnce, **mechanism: Any) -> World:
    """Return a world whose second request is stopped with 12 tokens; a third, of one token, comes in with it."""
    return world([*two(14), (1500, 1, 1, None)], blocks, scheduler=scheduler, mechanism=mechanism)


@pytest.mark.parametrize(("blocks", "again"), [(10, 1), (9, 1), (8, 5)])
def test_blocks_that_were_free_before_are_taken_first(blocks: int, again: int) -> None:
    # Four, three or two are free when the scheduler stops the second; the first takes three before the second goes on.
    assert prefilled(stopped(blocks)) == [20, again + 1]


def test_a_squashed_request_starts_from_nothing() -> None:
    assert prefilled(stopped(9, SquashesOnce)) == [20, 10 + 1]


def test_kv_that_was_kept_and_had_to_leave_is_found_again() -> None:
    # The kept 3 blocks leave when the first needs a sixth beside them.
    assert prefilled(stopped(8, preempted="keep")) == [20, 5 + 1]
    assert prefilled(stopped(8, preempted="keep", reuses_blocks=False)) == [20, 13 + 1]


def test_swapped_kv_is_copied_and_nothing_of_it_is_looked_for() -> None:
    swapped = world(two(), blocks=7, mechanism={"shortage": "swap"})
    core, records = play(swapped)
    assert records.prefills["tokens"].tolist() == [20]
    assert records.swaps["way"].tolist() == [1, 0]
    assert core.memory.kv_bytes == 0


def test_a_prompt_that_is_turned_back_halfway_keeps_its_full_blocks() -> None:
    # 11 blocks: the second takes 8 for its prompt, of which a token is computed beside each one of the first. When that
    # needs a fourth block, the second has 2 full ones and a token; the first takes 4 of those that held nothing yet.
    rows = [(0, 2, 26, None), (0, 30, 2, None)]

    def computed(*, reuses_blocks: bool) -> int:
        mechanism = {"prefill": "chunked", "step_tokens": 2, "reuses_blocks": reuses_blocks}
        _, records = play(world(rows, blocks=11, mechanism=mechanism))
        assert records.requests["preemptions"].max() == 1
        return sum(records.prefills["tokens"].tolist())

    assert computed(reuses_blocks=False) == 2 + 9 + 30
    assert computed(reuses_blocks=True) == 2 + 9 + 30 - 8


@dataclass(frozen=True)
class SquaredCosts(RoundCosts):
    """A prefill takes a tick for each pair of tokens of which one sees the other, twice."""

    def prefill(
        self,
        requests: int,
        tokens: int,
        squared_tokens: int,
        token_rank: int,
        distinct: int,
        distinct_rank: int,
        max_rank: int,
    ) -> int:
        return squared_tokens

    def mixed(
        self, requests: int, context_tokens: int, prompts: int, tokens: int, squared_tokens: int, load: Load
    ) -> int:
        return squared_tokens


@pytest.mark.parametrize("prefill", ["separate", "mixed", "chunked"])
def test_what_is_computed_attends_to_what_was_found(prefill: str) -> None:
    costs = SquaredCosts(decode_base=1000, decode_request=0, decode_context=0)
    _, records = play(world(two(), blocks=6, costs=costs, mechanism={"prefill": prefill}))
    assert records.prefills["tokens"].tolist() == [20, 5]
    assert records.prefills["ticks"].tolist() == [2 * 10 * 10, 5 * (2 * 8 + 5)]


def test_a_prefill_s_limit_counts_only_what_is_computed() -> None:
    rows = [*two(), (500, 10, 3, None)]
    assert prefilled(world(rows, blocks=7, batch_prompt_tokens=20)) == [20, 1 + 10]
    without = world(rows, blocks=7, batch_prompt_tokens=20, mechanism={"reuses_blocks": False})
    assert prefilled(without) == [20, 13, 10]


class NewestFirst(StopsOnce):
    """Lets in first who came last."""

    name = "newest-first"

    def queue(self, waiting: Iterable[Request]) -> list[Request]:
        return sorted(waiting, key=lambda request: -request.id)


def test_who_finds_its_blocks_fits_beside_a_prompt_that_was_admitted_before_it() -> None:
    def told(*, reuses_blocks: bool) -> list[int]:
        rows = [*two(), (1500, 10, 3, None)]
        mechanism = {"reuses_blocks": reuses_blocks}
        return prefilled(world(rows, 10, batch_prompt_tokens=20, scheduler=NewestFirst, mechanism=mechanism))

    assert told(reuses_blocks=True) == [20, 10 + 1]
    assert told(reuses_blocks=False) == [20, 10, 13]


@pytest.mark.parametrize(("prompt", "again"), [(8, 1), (12, 5), (16, 9)])
def test_a_prompt_that_is_admitted_before_takes_blocks_too(prompt: int, again: int) -> None:
    # Of 9 blocks 3 are free when one of the two is stopped; the other takes one of those before it ends.
    rows = [*two(), (1500, prompt, 3, None)]
    assert prefilled(world(rows, 9, scheduler=NewestFirst)) == [20, prompt + again]


class LetsThirdIn(StopsOnce):
    """Lets the third in at once for the second that it stops."""

    def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:
        requests = list(waiting)
        super().fill(batch, requests, now)
        for request in requests:
            if batch.running and request.id == 2:
                batch.try_add(request)


@pytest.mark.parametrize(("blocks", "again"), [(9, 1), (8, 5)])
def test_a_batch_that_grows_beside_a_prefill_takes_blocks_too(blocks: int, again: int) -> None:
    # The third takes two blocks for its prompt, and beside it the first a fourth one.
    rows = [*two(), (2500, 8, 1, None)]
    assert prefilled(world(rows, blocks, scheduler=LetsThirdIn, mechanism={"prefill": "mixed"})) == [20, 8, again]


@pytest.mark.parametrize(("adapter_bytes", "again"), [(0, 1), (4, 5), (8, 9), (12, 13)])
def test_an_adapter_that_came_and_went_in_the_memory_of_kv_has_taken_blocks(adapter_bytes: int, again: int) -> None:
    # Four blocks are free when the second stops: the third takes one, the first three, and the adapter its own.
    rows = [*two(14), (1500, 1, 2, 0)]
    shared = world(rows, 10, adapters=[(8, adapter_bytes)], scheduler=LetsThirdIn, cache=DropAfterUse)
    assert prefilled(shared) == [20, 1, again]


def test_a_chunked_step_s_budget_counts_only_what_is_computed() -> None:
    rows = [*two(), (500, 10, 3, None)]
    mechanism = {"prefill": "chunked", "step_tokens": 12}
    _, records = play(world(rows, blocks=7, mechanism=mechanism))
    _, without = play(world(rows, blocks=7, mechanism={**mechanism, "reuses_blocks": False}))
    admitted = [one.requests["admitted"].max() for one in (records, without)]
    assert admitted[0] < admitted[1]


def test_the_summary_counts_only_tokens_that_were_computed() -> None:
    rows = [(0.0, 400, 200), (0.0, 400, 200)]
    arrival_s, prompt, output = (np.array(column) for column in zip(*rows, strict=True))
    trace = Trace("by hand", arrival_s.astype(float), prompt, output, (None,), np.zeros(2, dtype=np.int64))
    pool = ("hardware=rtx-4090", "model=llama-3.1-8b", "memory.reserve_bytes=2000000000", "memory.kv_pool_tokens=1040")

    def told(*changes: str) -> tuple[int, int]:
        summary = sim.run("vllm-base", trace=trace, changes=(*pool, *changes)).summary
        return summary["iterations"]["prefill_tokens"], summary["preemption"]["recomputed"]

    # 65 blocks: both hold 32 when the first needs a 33rd, which is there, and the second another one, which is not.
    assert told("memory.reuses_blocks=false") == (800 + 513, 1)
    # The first ends with 38 blocks, so it takes 5 of the second's.
    assert told() == (800 + 513 - 27 * 16, 1)


class AbortsStopped(StopsOnce):
    """Turns the one away that it has stopped."""

    def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:
        for request in waiting:
            if request.generated_tokens:
                batch.abort(request, "enough")
                return
        super().fill(batch, waiting, now)


def test_nothing_is_remembered_of_a_request_that_is_turned_away() -> None:
    rows = [*two(14), (1500, 1, 1, None), (2500, 1, 1, None)]
    seen: list[int] = []
    _, records = play(world(rows, 9, scheduler=AbortsStopped), lambda core: seen.append(len(core.kv._leftovers._of)))
    assert list(records.rejections) == [1]
    assert (max(seen), seen[-1]) == (1, 0)


# --- the setting ---


@pytest.mark.parametrize(
    ("changes", "idles"),
    [
        (("admission.preempted=recompute",), False),
        (("admission.preempted=swap",), True),
        (("admission.preempted=keep",), False),
        (("admission.preempted=swap", "memory.swap_bytes=1000000"), False),
        (("admission.preempted=swap", "admission.reserve=on_demand"), False),
        (("admission.preempted=swap", "admission.reserve=on_demand", "admission.shortage=swap"), True),
        (
            ("admission.preempted=swap", "admission.reserve=on_demand", "admission.shortage=swap", "prefill=chunked"),
            False,
        ),
    ],
)
def test_the_setting_is_said_to_idle_where_nothing_is_ever_computed_again(
    changes: tuple[str, ...], idles: bool
) -> None:
    told = idle_settings(load_config("slora", ["memory.reuses_blocks=true", *changes]).config)
    said = "memory.reuses_blocks has no effect with admission.preempted: swap and nothing else that recomputes"
    assert told == ([said] if idles else [])


def test_vllm_without_lora_reuses_blocks_as_its_default_is() -> None:
    assert load_config("vllm-base").config.memory.reuses_blocks
