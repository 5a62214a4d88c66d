"""What prefetching was worth, from tables filled in by hand and from tiny worlds."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sim
from policies.prefetch import Queued
from policies.prefetch_rates import Rate
from sim.results.prefetching import DEMAND, PREFETCH, added_delay_ticks, prefetch_summary, wasted_bytes
from sim.serving.records import Records
from sim.serving.ticks import TICKS_PER_S
from tests.worlds import RoundCosts, World, play

S = TICKS_PER_S
OTHER = 2  # a kind of transfer that moves no adapter


def table(*rows: tuple[int, int, int, int, int, int], useful: dict[int, int] | None = None) -> Records:
    """Return records with transfers (queued, start, end, adapter, bytes, kind), in ticks."""
    records = Records()
    for row in rows:
        records.transfers.add(row)
    records.useful_prefetches = useful or {}
    return records


def test_every_figure_of_a_small_table() -> None:
    records = table(
        (0, 0, 2 * S, 0, 100, PREFETCH),
        (1 * S, 2 * S, 3 * S, 1, 30, DEMAND),
        (1 * S, 3 * S, 4 * S, 0, 100, PREFETCH),
        (1 * S, 4 * S, 6 * S, 2, 70, PREFETCH),
        useful={0: 1, 2: 1},
    )
    assert prefetch_summary([records]) == {
        "issued": 3,
        "useful": 2,
        "accuracy": 2 / 3,
        "coverage": 2 / 3,
        "wasted_bytes": 100,
        "added_link_delay_s": 1.0,
    }


def test_replicas_are_added_up() -> None:
    one = table((0, 0, 2 * S, 0, 100, PREFETCH), (1 * S, 2 * S, 3 * S, 1, 30, DEMAND), useful={0: 1})
    other = table((0, 0, 2 * S, 0, 100, PREFETCH), (0, 2 * S, 3 * S, 1, 30, DEMAND))
    told = prefetch_summary([one, other])
    assert (told["issued"], told["useful"], told["wasted_bytes"], told["added_link_delay_s"]) == (2, 1, 100, 3.0)
    assert (told["accuracy"], told["coverage"]) == (1 / 2, 1 / 3)


def test_nothing_to_measure_is_null_in_json() -> None:
    told = json.loads(json.dumps(prefetch_summary([Records()]), allow_nan=False))
    assert told == {
        "issued": 0,
        "useful": 0,
        "accuracy": None,
        "coverage": None,
        "wasted_bytes": 0,
        "added_link_delay_s": 0.0,
    }


def test_a_prefetcher_that_covers_nothing_has_a_coverage_of_zero() -> None:
    assert prefetch_summary([table((0, 0, 1, 0, 100, DEMAND))])["coverage"] == 0.0


def test_other_traffic_is_neither_prefetched_nor_loaded() -> None:
    told = prefetch_summary([table((0, 0, 5 * S, 0, 100, OTHER), (0, 5 * S, 6 * S, 0, 100, DEMAND))])
    assert (told["issued"], told["coverage"], told["added_link_delay_s"]) == (0, 0.0, 0.0)


def test_a_copy_that_was_used_while_a_run_was_cut_short_is_not_waste() -> None:
    assert wasted_bytes(table((0, 0, 2, 0, 100, PREFETCH), useful={0: 2})) == 0


# --- delay on the link ---


@pytest.mark.parametrize(
    ("rows", "ticks"),
    [
        ([(0, 0, 10, 0, 1, PREFETCH), (4, 10, 12, 1, 1, DEMAND)], 6),
        ([(0, 0, 10, 0, 1, PREFETCH), (10, 10, 12, 1, 1, DEMAND)], 0),
        ([(0, 0, 10, 0, 1, PREFETCH), (0, 10, 12, 1, 1, DEMAND)], 10),
        # The second load waits for the first as well, which is not the prefetch's doing.
        ([(0, 0, 10, 0, 1, PREFETCH), (4, 10, 20, 1, 1, DEMAND), (5, 20, 21, 2, 1, DEMAND)], 6 + 5),
        # A prefetch that began later had become a load on demand before.
        ([(0, 0, 10, 0, 1, DEMAND), (0, 10, 20, 1, 1, PREFETCH), (4, 20, 21, 2, 1, DEMAND)], 0),
        # Where transfers share the link nobody waits.
        ([(0, 0, 10, 0, 1, PREFETCH), (4, 4, 14, 1, 1, DEMAND)], 0),
        ([(0, 0, 20, 0, 1, PREFETCH), (1, 1, 5, 1, 1, PREFETCH), (6, 30, 31, 2, 1, DEMAND)], 14),
        # Rows come in the order of their ends.
        ([(20, 20, 30, 0, 1, PREFETCH), (0, 0, 10, 0, 1, PREFETCH), (4, 10, 12, 1, 1, DEMAND)], 6),
        ([(3, 3, 10, 0, 1, DEMAND)], 0),
    ],
)
def test_the_delay_is_what_was_left_of_the_prefetch_under_way(
    rows: list[tuple[int, int, int, int, int, int]], ticks: int
) -> None:
    assert added_delay_ticks(table(*rows)) == ticks


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 20), st.booleans()), max_size=20))
def test_the_delay_is_the_time_before_the_start_that_a_prefetch_begun_earlier_took(
    sent: list[tuple[int, int, bool]],
) -> None:
    records, free, now = Records(), 0, 0
    expected = 0
    under_way: list[tuple[int, int]] = []
    for gap, ticks, is_demand in sent:  # an undisturbed line, first come first served
        now += gap
        start = max(now, free)
        free = start + ticks
        records.transfers.add((now, start, free, 0, 1, DEMAND if is_demand else PREFETCH))
        if is_demand:
            expected += sum(end - now for begun, end in under_way if begun <= now < end)
        else:
            under_way.append((start, free))
    assert added_delay_ticks(records) == expected


# --- whole runs ---


def test_a_load_on_demand_waits_for_the_prefetch_that_the_link_has_begun() -> None:
    # The first step ends at 1210, when a0 is sent for; both are admitted after ten steps of 1010, and a1 has to wait.
    world = World(
        [(0, 10, 100, None), (300, 10, 5, 0), (300, 10, 5, 1)],
        [(8, 50), (8, 50)],
        admit_every_steps=10,
        costs=RoundCosts(decode_context=0, load_base=20_000, load_byte=0),
        prefetch=partial(Queued, lookahead=1),
    )
    _, records = play(world)
    told = prefetch_summary([records])
    assert (told["issued"], told["useful"], told["coverage"], told["wasted_bytes"]) == (1, 1, 1 / 2, 0)
    assert told["added_link_delay_s"] == (1210 + 20_000 - (200 + 10 * 1010)) / S


def test_copies_that_a_growing_batch_drives_out_are_wasted() -> None:
    # Each time that a long request of the base model has gone, the adapter of the very first comes back for nobody.
    rows = [(0, 5, 5, 0), (100_000, 60, 30, None), (200_000, 60, 30, None)]
    world = World(rows, [(8, 50)], total_bytes=120, prefetch=Rate)
    _, records = play(world)
    told = prefetch_summary([records])
    assert told["useful"] == 0
    assert told["issued"] == len(records.evictions) > 0
    assert told["wasted_bytes"] == 50 * len(records.evictions)
    assert prefetch_summary([play(replace(world, prefetch=Queued))[1]])["wasted_bytes"] == 0


@pytest.mark.parametrize("kind", ["queued", "rate", "use-within", "p-lora", "histogram", "markov", "oracle"])
def test_the_summary_of_a_run_has_the_section(kind: str) -> None:
    changes = (f"prefetch.kind={kind}", "memory.kv_pool_tokens=6000", "memory.reserve_bytes=29000000000")
    summary = sim.run("chameleon", "paper", rate=9.0, requests=150, seed=1, changes=changes).summary
    told, adapters = summary["prefetch"], summary["adapters"]
    assert (told["issued"], told["useful"]) == (adapters["prefetches"], adapters["useful_prefetches"])
    assert told["useful"] > 0
    assert told["coverage"] == told["useful"] / (told["useful"] + adapters["loads"])
