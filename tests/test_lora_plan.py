"""The arrangement of tokens by adapter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from gpu_validate.lora.plan import LoraPlan, make_plan  # noqa: E402 - torch may be missing

RANKS = [8, 0, 64, 5, 8, 128]
BASES = [0, 800, 1600, 2400, 3200, 4000]
SCALES = [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
TOKENS = st.lists(st.none() | st.integers(0, len(RANKS) - 1), max_size=120)
TILES = st.sampled_from([16, 32])


def plan_of(tokens: list[int | None], *, tile: int = 16) -> LoraPlan:
    return make_plan(tokens, RANKS, BASES, SCALES, device="cpu", tile=tile)


def work_of(plan: LoraPlan) -> list[tuple[int, int, int, float]]:
    """What a kernel sees: (token, base, rank, scale) of each row of each tile."""
    rows = []
    tables = (plan.tile_row, plan.tile_length, plan.tile_slot)
    for row, length, slot in zip(*(table.tolist() for table in tables), strict=True):
        assert length <= plan.tile
        facts = (int(plan.bases[slot]), int(plan.ranks[slot]), float(plan.scales[slot]))
        rows += [(token, *facts) for token in plan.permutation[row : row + length].tolist()]
    return rows


def wanted_of(tokens: list[int | None]) -> list[tuple[int, int, int, float]]:
    return [(i, BASES[a], RANKS[a], SCALES[a]) for i, a in enumerate(tokens) if a is not None and RANKS[a]]


@given(TOKENS, TILES)
def test_every_token_with_work_is_in_one_row_of_a_tile_of_its_adapter(tokens: list[int | None], tile: int) -> None:
    assert sorted(work_of(plan_of(tokens, tile=tile))) == wanted_of(tokens)


@given(TOKENS)
def test_the_permutation_holds_every_token_once_those_without_work_last(tokens: list[int | None]) -> None:
    plan = plan_of(tokens)
    permutation = plan.permutation.tolist()
    assert sorted(permutation) == list(range(len(tokens)))
    assert sorted(permutation[: len(wanted_of(tokens))]) == [token for token, *_ in wanted_of(tokens)]


@given(TOKENS)
def test_every_tokens_slot_names_its_adapter(tokens: list[int | None]) -> None:
    plan = plan_of(tokens)
    for token, slot in enumerate(plan.row_slot.tolist()):
        adapter = tokens[token]
        rank = 0 if adapter is None else RANKS[adapter]
        assert int(plan.ranks[slot]) == rank
        if rank and adapter is not None:
            assert (int(plan.bases[slot]), float(plan.scales[slot])) == (BASES[adapter], SCALES[adapter])


@given(TOKENS)
def test_groups_say_on_the_host_what_the_tables_say(tokens: list[int | None]) -> None:
    plan = plan_of(tokens)
    rows = [
        (token, group.base, group.rank, group.scale)
        for group in plan.groups
        for token in plan.permutation[group.start : group.stop].tolist()
    ]
    assert sorted(rows) == wanted_of(tokens)
    assert [group.slot for group in plan.groups] == list(range(1, len(plan.groups) + 1))
    assert all(BASES[group.adapter] == group.base for group in plan.groups)


@given(TOKENS)
def test_ends_count_rows_from_the_first_of_the_rank(tokens: list[int | None]) -> None:
    plan = plan_of(tokens)
    first = {group.rank: group.start for group in reversed(plan.groups)}
    assert plan.ends[1 : len(plan.groups) + 1].tolist() == [group.stop - first[group.rank] for group in plan.groups]


@given(TOKENS, st.integers(0, 9), TILES)
def test_padding_adds_tiles_and_no_work(tokens: list[int | None], more: int, tile: int) -> None:
    plan = plan_of(tokens, tile=tile)
    padded = plan.padded(plan.tiles + more, max_rank=200)
    assert padded.tiles == plan.tiles + more
    assert padded.max_rank == 200
    assert work_of(padded) == work_of(plan)
    assert padded.tile_length.tolist()[plan.tiles :] == [0] * more
    assert [padded.tokens, padded.groups] == [plan.tokens, plan.groups]


@given(TOKENS, TOKENS)
def test_a_plan_that_took_over_anothers_tables_does_its_work_in_the_same_memory(
    before: list[int | None], after: list[int | None]
) -> None:
    size = max(len(before), len(after))
    held = plan_of(before + [None] * (size - len(before))).padded(20, max_rank=128, aligned=False)
    addresses = [table.data_ptr() for table in (held.bases, held.tile_slot, held.permutation)]
    assert held.groups is held.groups
    other = plan_of(after + [None] * (size - len(after))).padded(20)
    held.copy_from(other)
    assert work_of(held) == work_of(other)
    assert held.groups == other.groups
    assert addresses == [table.data_ptr() for table in (held.bases, held.tile_slot, held.permutation)]


def test_a_plan_by_hand() -> None:
    plan = plan_of([4, None, 2, 1, 0, 4, *[2] * 17])
    assert [(g.adapter, g.start, g.stop) for g in plan.groups] == [(2, 0, 18), (0, 18, 19), (4, 19, 21)]
    assert plan.permutation.tolist() == [2, *range(6, 23), 4, 0, 5, 1, 3]
    assert plan.tile_row.tolist() == [0, 16, 18, 19]
    assert plan.tile_length.tolist() == [16, 2, 1, 2]
    assert plan.tile_slot.tolist() == [1, 1, 2, 3]
    assert plan.row_slot.tolist() == [3, 0, 1, 0, 2, 3, *[1] * 17]
    assert plan.ranks.tolist() == [0, 64, 8, 8, 0]
    assert plan.ends.tolist() == [0, 18, 1, 3, 0]
    assert plan.max_rank == 64


def test_tables_have_the_types_that_the_kernels_read() -> None:
    plan = plan_of([0, 2])
    assert plan.bases.dtype == torch.int64
    assert plan.scales.dtype == torch.float32
    rest = (plan.ranks, plan.ends, plan.tile_row, plan.tile_length, plan.tile_slot, plan.permutation, plan.row_slot)
    assert {table.dtype for table in rest} == {torch.int32}


def test_a_base_beyond_32_bits_is_kept() -> None:
    assert make_plan([0], [8], [5_000_000_000], [1.0], device="cpu").bases.tolist() == [0, 5_000_000_000]


@pytest.mark.parametrize("tokens", [[], [None], [1, None, 1]])
def test_a_batch_without_work_has_no_tile(tokens: list[int | None]) -> None:
    plan = plan_of(tokens)
    assert (plan.tokens, plan.tiles, plan.max_rank, plan.groups) == (len(tokens), 0, 0, [])


@pytest.mark.parametrize(("tokens", "aligned"), [([0, 2, None], True), ([0, 3], False), ([], True), ([1], True)])
def test_only_ranks_and_bases_in_use_decide_whether_wide_loads_are_allowed(
    tokens: list[int | None], *, aligned: bool
) -> None:
    assert plan_of(tokens).aligned is aligned


def test_an_odd_base_forbids_wide_loads() -> None:
    assert not make_plan([0], [8], [4], [1.0], device="cpu").aligned


@pytest.mark.parametrize("tile", [0, 8, 24, -16])
def test_a_tile_that_no_tensor_core_takes_is_refused(tile: int) -> None:
    with pytest.raises(ValueError, match=f"at least 16 rows, got {tile}"):
        plan_of([0], tile=tile)


@pytest.mark.parametrize("adapter", [-1, 6])
def test_an_adapter_that_is_not_there_is_refused(adapter: int) -> None:
    with pytest.raises(ValueError, match=rf"0\.\.5, got {adapter}"):
        plan_of([0, adapter, None])


def test_tables_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="got 2, 1 and 2"):
        make_plan([0], [8, 8], [0], [1.0, 1.0], device="cpu")


@pytest.mark.parametrize(("rank", "base"), [(-8, 0), (8, -1)])
def test_a_negative_rank_or_base_in_use_is_refused(rank: int, base: int) -> None:
    with pytest.raises(ValueError, match=f"got {rank} and {base}"):
        make_plan([0], [rank, 8], [base, 0], [1.0, 1.0], device="cpu")
    assert make_plan([1], [rank, 8], [base, 0], [1.0, 1.0], device="cpu").max_rank == 8


def test_a_plan_is_not_padded_to_less_than_it_is() -> None:
    plan = plan_of([2] * 17)
    with pytest.raises(ValueError, match=r"has 2 tiles, .* fit 1 tiles"):
        plan.padded(1)
    with pytest.raises(ValueError, match=r"ranks up to 64, .* ranks up to 32"):
        plan.padded(2, max_rank=32)
    with pytest.raises(ValueError, match=r"aligned=False; .* aligned=True"):
        plan_of([3]).padded(2, aligned=True)


@pytest.mark.parametrize(
    "other",
    [plan_of([0, 0]).padded(2), plan_of([0]).padded(3), plan_of([2]).padded(2), plan_of([3]).padded(2)],
    ids=["tokens", "tiles", "rank", "alignment"],
)
def test_a_plan_takes_over_only_what_fits_its_tables(other: LoraPlan) -> None:
    with pytest.raises(ValueError, match="the plan holds"):
        plan_of([0]).padded(2).copy_from(other)


@given(TOKENS, st.integers(0, 5))
def test_tables_begin_where_the_widest_load_may(tokens: list[int | None], more: int) -> None:
    plan = plan_of(tokens)
    plan = plan.padded(plan.tiles + more)
    tables = ("bases", "scales", "ranks", "ends", "tile_row", "tile_length", "tile_slot", "permutation", "row_slot")
    starts = [getattr(plan, name).storage_offset() * getattr(plan, name).element_size() for name in tables]
    assert [start % 16 for start in starts] == [0] * len(tables)
    assert plan.bases.dtype == torch.int64
    assert int(plan.bases.sum()) == sum({BASES[a] for a in tokens if a is not None and RANKS[a]})
