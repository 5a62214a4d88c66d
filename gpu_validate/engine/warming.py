"""Runs the shapes that a run may meet on scratch memory, so that kernels are compiled and graphs captured before it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

import torch

from gpu_validate.engine.attention import Packed
from gpu_validate.engine.decoder import NextTokens, Prompts
from gpu_validate.engine.graphs import idle_metadata
from gpu_validate.engine.padding import COLUMNS, PROMPT_STEP, padding_of
from gpu_validate.engine.worker import Worker


def warm_decode(worker: Worker, requests: Iterable[int], widths: Sequence[int]) -> None:
    """Run decode steps.

    Args:
        worker: executes.
        requests: batch sizes.
        widths: of their block tables.
    """
    for count, width in product(requests, widths):
        for plan in (None, worker.adapters.empty_plan(count, worker.device)):
            worker.issue(idle_metadata(count, count * (COLUMNS + width)), count, plan)


def warm_prefill(worker: Worker, tokens: Iterable[int]) -> None:
    """Run prefills of so many tokens; they may be more than one request has."""
    for count in tokens:
        positions = torch.arange(count, dtype=torch.int64, device=worker.device) % worker.decoder.max_positions
        batch = _prompt(torch.zeros_like(positions), positions)
        worker.decoder.prefill(batch, worker.kv, worker.lora(worker.adapters.empty_plan(count, worker.device)))


def warm_mixed(worker: Worker, requests: Iterable[int], widths: Sequence[int]) -> None:
    """Run decode steps beside a part of a prompt; arguments as for `warm_decode`."""
    for count, width in product(requests, widths):
        tokens = padding_of(count) or PROMPT_STEP
        nobody, scratch = (torch.zeros(size, dtype=torch.int64, device=worker.device) for size in (count, tokens))
        batch = NextTokens(nobody, nobody, nobody, nobody + 1, nobody.new_zeros(count, width))
        lora = worker.lora(worker.adapters.empty_plan(count + tokens, worker.device))
        worker.decoder.mixed(batch, _prompt(scratch, scratch), worker.kv, lora)


def _prompt(scratch: torch.Tensor, positions: torch.Tensor) -> Prompts:
    count = len(scratch)
    packed = Packed(torch.tensor([0, count], dtype=torch.int32, device=scratch.device), (count,))
    return Prompts(scratch, positions, scratch, positions[-1:], packed)
