"""Shapes that steps are padded to, so that few graphs and kernels serve all, and how much a step sends; no torch."""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

from gpu_validate.engine.dims import BLOCK_TOKENS, BUCKETS

LEAST_BLOCKS, WIDTH_STEP = 8, 4
PROMPT_STEP = 64  # tokens that prompts are padded to a multiple of, as large as a tile of a matrix product
COLUMNS = 4  # integers of a request in a decode step, besides its block table
PROMPT_COLUMNS = 3  # integers of a token of a prompt
INTEGER_BYTES = 8


def padded_requests(requests: int) -> int | None:
    """Return the bucket of a batch size; None if it is larger than all."""
    place = bisect_left(BUCKETS, requests)
    return BUCKETS[place] if place < len(BUCKETS) else None


def padded_blocks(blocks: int) -> int:
    """Return the width that a block table is padded to: few, since each is a graph to capture; padding is not read."""
    return widths_to(blocks)[-1]


def widths_to(blocks: int) -> list[int]:
    """Return all widths that tables of up to so many blocks are padded to, ascending."""
    widths = [LEAST_BLOCKS]
    while widths[-1] < blocks:
        widths.append(widths[-1] * WIDTH_STEP)
    return widths


def padding_of(tokens: int) -> int:
    """Return how many tokens to add, so that few sizes of matrix products occur and each can be warmed up."""
    return -tokens % PROMPT_STEP


def even(integers: int) -> int:
    """Return what an array that is sent with others is padded to.

    Triton compiles a kernel apart for pointers that are no multiples of 16 bytes.
    """
    return integers + integers % 2


class EngineInputs(NamedTuple):
    """What the mini engine sends with a step in one copy: `packing` has the arrays.

    Of a prompt these are its tokens, the places of its first new token, of its last token and of its end and, if some
    prompt was begun before, the rows of all tokens that prompts attend to. LoRA plans go by themselves.
    """

    uses_graphs: bool

    def size_bytes(self, requests: int, longest_tokens: int, prompts: int, tokens: int, earlier_tokens: int) -> int:
        """Return the bytes of one step, as `sim.serving.inputs.StepInputs` has it; all prompts end with it."""
        width = -(-longest_tokens // BLOCK_TOKENS)
        if prompts:
            padding = padding_of(requests + tokens) if self.uses_graphs else 0
            bounds = even(prompts + 1 + bool(padding))
            integers = PROMPT_COLUMNS * even(tokens + padding) + 2 * even(prompts) + bounds
            if earlier_tokens:
                integers += even(earlier_tokens + tokens + padding) + bounds
            return INTEGER_BYTES * (integers + COLUMNS * even(requests) + even(requests * width))
        if self.uses_graphs and (padded := padded_requests(requests)) is not None:
            requests, width = padded, padded_blocks(width)
        return INTEGER_BYTES * requests * (COLUMNS + width)
