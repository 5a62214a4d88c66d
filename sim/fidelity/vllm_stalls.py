"""When vLLM's API server stands still because its metrics are read, and what its clients see of that.

The engine runs on meanwhile. vLLM 0.8 keeps one time series (the gauge `vllm:lora_requests_info`) for every pair of
sets of adapters, of running and of waiting requests, that it ever saw after a step, and answers a reader of its metrics
in the loop that also takes requests in and hands tokens out. A request that comes meanwhile reaches the engine at the
end, and the tokens of meanwhile reach their clients at the end: as one, unless a step had more than 128 of them, within
which the loop lets clients have theirs. What reaches the engine late has its first token as much later and the
last in its time: the engine is not simulated again. Servers of V0 are taken to stand still in the same way.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from policies.base import IntArray
from sim.results.metrics import Offered
from sim.serving.records import NEVER, Records
from sim.serving.ticks import to_ticks

# Two numbers, fitted to P99 first tokens, mean gaps and P99 gaps of the 14 calibration runs. That somebody read the
# published servers' metrics is inferred from these. prometheus_client takes 30 us for a series on a core of a cloud.
READ_EVERY_S = 2.2  # from the end of one answer to the next question
SERIES_S = 1.6e-5  # to write one time series
OUTPUTS_AT_ONCE = 128  # vLLM's VLLM_V1_OUTPUT_PROC_CHUNK_SIZE


class Stalls(NamedTuple):
    """Disjoint spans of ticks, in order.

    Attributes:
        start, end: shape (n,).
    """

    start: IntArray
    end: IntArray

    def passed(self, ticks: IntArray) -> IntArray:
        """Return instants, those within a stall moved to its end."""
        if len(self.start) == 0:
            return ticks
        last = np.searchsorted(self.start, ticks, side="right") - 1
        return np.where(last >= 0, np.maximum(ticks, self.end[last]), ticks)


class Seen(NamedTuple):
    """What clients see, in ticks, per request; NEVER where an instant was not reached.

    Attributes:
        first_token, finish: shape (n,).
        bunched: shape (n,); tokens after the first that came as one with the one before; of those over in the window.
        gaps, weights: shape (m,); gaps between deliveries, and how many of these requests waited each.
    """

    first_token: IntArray
    finish: IntArray
    bunched: IntArray
    gaps: IntArray
    weights: IntArray


def seen(offered: Offered, window_s: float) -> Seen:
    """Return what the clients of a server see whose metrics are read from time 0 to the end of a window."""
    sent, first, finish = (offered.instant(name) for name in ("arrival", "first_token", "finish"))
    reached = [instants[instants != NEVER] for instants in (first, finish)]
    ends = np.unique(np.concatenate([*map(_step_ends, offered.records), *reached]))
    # Which step first shows that a request waits, runs, is over.
    waits, runs, over = (np.searchsorted(ends, instants) for instants in (sent, first, finish))
    series = ends[new_series(waits, runs, over, offered.trace.adapter, len(ends))]
    stalls = stalls_of(series, to_ticks(window_s))
    shown = stalls.passed(ends)
    handed = _deliveries(shown, np.bincount(runs, minlength=len(ends) + 1), over)
    late = np.where(first == NEVER, 0, stalls.passed(sent) - sent)
    shown_first = np.where(first == NEVER, NEVER, stalls.passed(first + late))
    shown_finish = np.where(finish == NEVER, NEVER, np.maximum(stalls.passed(finish), shown_first))
    done = np.flatnonzero(shown_finish <= to_ticks(window_s))
    bunched = np.zeros(len(first), dtype=np.int64)
    bunched[done] = (over - runs)[done] - (handed[over[done]] - handed[runs[done]])
    begins = np.concatenate(([True], np.diff(handed) > 0))[: len(shown)]
    gaps = np.diff(shown[begins], prepend=0)
    weights = _waiting(handed[runs[done]], handed[over[done]], len(gaps))
    some = weights > 0
    return Seen(shown_first, shown_finish, bunched, gaps[some], weights[some])


def stalls_of(series: IntArray, end: int) -> Stalls:
    """Return the stalls of a server whose metrics are read again and again.

    Args:
        series: ticks at which a time series was added, sorted.
        end: the tick after which no reading starts.
    """
    starts: list[int] = []
    ends: list[int] = []
    now, every = to_ticks(READ_EVERY_S), to_ticks(READ_EVERY_S)
    while now < end:
        lasts = to_ticks(SERIES_S * int(np.searchsorted(series, now, side="right")))
        starts.append(now)
        ends.append(now + lasts)
        now += lasts + every
    return Stalls(np.array(starts, dtype=np.int64), np.array(ends, dtype=np.int64))


def new_series(waits: IntArray, runs: IntArray, over: IntArray, adapter: IntArray, steps: int) -> IntArray:
    """Return the steps after which the adapters of waiting and of running requests are a pair of sets as never before.

    Args:
        waits: the step that first sees a request wait; `steps` or more: none.
        runs: the step with its first token.
        over: the step with its last token.
        adapter: of each request.
        steps: how many there are.
    """
    adapters = int(adapter.max(initial=-1)) + 1
    names = np.random.default_rng(0).integers(1, 2**63, size=(2, adapters), dtype=np.uint64)
    changes = [_changes(low, high, adapter) for low, high in ((waits, runs), (runs, over))]
    step = np.concatenate([at for at, _ in changes])
    name = np.concatenate([of[which] for of, (_, which) in zip(names, changes, strict=True)])
    order = np.argsort(step, kind="stable")
    step, name = step[order], name[order]
    step, name = step[step < steps], name[step < steps]
    pairs = np.bitwise_xor.accumulate(name) if len(name) else name  # a pair of sets is the sum of its names
    last = np.flatnonzero(np.diff(step, append=steps))
    _, place = np.unique(pairs[last], return_index=True)
    return np.sort(step[last][place])


def _changes(low: IntArray, high: IntArray, adapter: IntArray) -> tuple[IntArray, IntArray]:
    """Return the steps at which an adapter joins a set or leaves it, and which; a request is in from low to high."""
    some = low < high
    step = np.concatenate((low[some], high[some]))
    more = np.repeat((1, -1), some.sum())
    which = np.tile(adapter[some], 2)
    order = np.lexsort((-more, step, which))  # within a step what comes goes first, so that nothing flickers
    step, more, which = step[order], more[order], which[order]
    uses = np.cumsum(more)  # all that come also leave, so every adapter starts with 0
    turns = (uses == 0) | ((uses == 1) & (more == 1))
    return step[turns], which[turns]


def _deliveries(shown: IntArray, begun: IntArray, over: IntArray) -> IntArray:
    """Return the number of the delivery that has a step's tokens, per step.

    Args:
        shown: when they are handed out.
        begun: how many requests have their first token in a step.
        over: the step with each request's last token.
    """
    ended = np.bincount(over, minlength=len(begun))
    tokens = np.cumsum(begun - np.concatenate(([0], ended[:-1])))
    apart = (np.diff(shown) > 0) | (tokens[1 : len(shown)] > OUTPUTS_AT_ONCE)
    return np.concatenate(([0], np.cumsum(apart)))


def _waiting(first: IntArray, last: IntArray, deliveries: int) -> IntArray:
    """Return how many requests wait for each delivery after their first one."""
    begun, ended = (np.bincount(which + 1, minlength=deliveries + 1) for which in (first, last))
    return np.cumsum(begun - ended)[:deliveries]


def _step_ends(records: Records) -> IntArray:
    start, first, growth, count = (records.segments[name] for name in ("start", "first", "growth", "count"))
    before = np.cumsum(count) - count
    step = np.arange(int(count.sum()), dtype=np.int64) - np.repeat(before, count)
    start, first, growth = (np.repeat(values, count) for values in (start, first, growth))
    return start + first * (step + 1) + growth * (step * (step + 1) // 2)
