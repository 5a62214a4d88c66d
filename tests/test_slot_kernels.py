"""Thread blocks that vLLM's kernels launch for adapter slots."""

from __future__ import annotations

import pytest

from sim.models import ALL_MODULES, Model, load_model
from sim.slot_kernels import NO_SLOTS, Slots, kernel_blocks

LLAMA = load_model("llama-3.1-8b")  # 32 layers, hidden 4096, keys and values of 1024, MLP of 14336


def blocks(tokens: int, slots: int = 1, rank: int = 16, gpus: int = 1, model: Model = LLAMA) -> int:
    """Return the blocks of one layer."""
    return kernel_blocks(model, Slots(slots, rank, ALL_MODULES), tokens, gpus) // model.layers


def test_one_token_has_the_blocks_of_the_grids_in_the_source() -> None:
    shrink = 64 * 7  # splits of the hidden size, for each projection
    expand = 3 * 4096 // 128 + 4096 // 128 + 2 * 14336 // 128 + 4096 // 128  # k and v get as many as q: one grid
    assert blocks(1) == 2 * (shrink + expand)


def test_requests_without_an_adapter_count_as_one_slot_more() -> None:
    assert blocks(1, slots=3) == 4 * blocks(1) // 2


def test_without_slots_there_are_no_blocks() -> None:
    assert kernel_blocks(LLAMA, NO_SLOTS, 1) == 0


@pytest.mark.parametrize(("rank", "times"), [(8, 1), (16, 1), (32, 2), (64, 4), (128, 8)])
def test_the_rank_multiplies_the_blocks_of_the_shrink_kernel(rank: int, times: int) -> None:
    assert blocks(1, rank=rank) - blocks(1) == (times - 1) * 2 * 64 * 7


def test_tokens_come_in_tiles_of_32_and_64() -> None:
    expand = 384
    assert blocks(32) == blocks(1)
    assert blocks(33) - blocks(32) == 2 * 64 * 7
    assert blocks(65) - blocks(64) == 2 * (64 * 7 + expand)


def test_from_128_tokens_on_the_shrink_kernel_splits_less() -> None:
    assert blocks(128) == 2 * (8 * 4 * 7 + 2 * 384)
    assert blocks(127) > 2 * blocks(128)


def test_gpus_that_work_as_one_share_the_outputs_that_are_split() -> None:
    expand = 3 * 4096 // 4 // 128 + 4096 // 128 + 2 * 14336 // 4 // 128 + 4096 // 128
    assert blocks(1, gpus=4) == 2 * (64 * 7 + expand)


def test_a_slot_has_blocks_for_its_projections_alone() -> None:
    assert kernel_blocks(LLAMA, Slots(1, 16, ("q", "v", "down")), 1) == 32 * 2 * (64 * 3 + 2 * 32 + 32)
