"""How long a request takes when it is alone: what slowdown is measured against. numpy only."""

from __future__ import annotations

import numpy as np

from policies.base import IntArray
from sim.serving.options import EngineOptions
from sim.serving.shape import NO_LOAD, Costs, Load
from sim.trace import Trace


def isolated_ticks(trace: Trace, costs: Costs, options: EngineOptions) -> IntArray:
    """Return the ticks from sending to last token of each request of a workload, had it the engine to itself.

    Alone on an idle engine, admitted at once, its adapter on the GPU (not merged): its prefill, in chunks if the engine
    works in chunks, then a decode step of a batch of one for every further token. Chameleon (MICRO 2025) calls the
    response time divided by this the slowdown.

    Args:
        trace: the workload, of n requests.
        costs: of the engine.
        options: how the engine runs prompts, and the rank that it computes at.

    Returns:
        shape (n,).
    """
    ranks = np.array([0 if spec is None else spec.rank for spec in trace.palette], dtype=np.int64)
    rank = ranks[trace.adapter]
    pairs, which = np.unique(np.stack([trace.prompt_tokens, rank]), axis=1, return_inverse=True)
    prefills = [_prefill_ticks(tokens, one, costs, options) for tokens, one in pairs.T.tolist()]
    ticks = np.array(prefills, dtype=np.int64)[which.reshape(-1)]
    last = trace.prompt_tokens + trace.output_tokens - 1
    for one in np.unique(rank).tolist():
        rows = rank == one
        upto = _decode_ticks(int(last[rows].max()), one, costs, options)
        ticks[rows] += upto[last[rows]] - upto[trace.prompt_tokens[rows]]
    return ticks


def _prefill_ticks(tokens: int, rank: int, costs: Costs, options: EngineOptions) -> int:
    if options.prefill == "separate":
        return costs.prefill(1, tokens, tokens * tokens, *_load(tokens, rank, options))
    most = options.step_tokens if options.prefill == "chunked" else tokens
    ticks = 0
    for before in range(0, tokens, most):
        count = min(most, tokens - before)
        ticks += costs.mixed(0, 0, 1, count, count * (2 * before + count), _load(count, rank, options))
    return ticks


def _load(tokens: int, rank: int, options: EngineOptions) -> Load:
    return Load(tokens * rank, 1, rank, options.slot_rank or rank) if rank else NO_LOAD


def _decode_ticks(longest: int, rank: int, costs: Costs, options: EngineOptions) -> IntArray:
    """Return the ticks of all decode steps that read at most c tokens, for c from 0 to `longest`."""
    ticks = np.zeros(longest + 1, dtype=np.int64)
    context = 1
    while context <= longest:
        cost = costs.decode(1, context, *_load(1, rank, options))
        end = longest + 1 if cost.steps is None else min(context + cost.steps, longest + 1)
        ticks[context:end] = cost.first + cost.growth * np.arange(end - context)
        context = end
    return np.cumsum(ticks)
