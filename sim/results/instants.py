"""What holds at any instant of a run: tokens emitted, KV in memory, time that the link was busy. numpy only."""

from __future__ import annotations

import numpy as np

from policies.base import IntArray
from sim.serving.records import Records
from sim.trace import Trace


class Decoding:
    """The decode steps of one replica as a function of time, by closed form; the same however segments were cut."""

    def __init__(self, records: Records) -> None:
        # Row 0 stands for the time before the first step, so that every instant has a segment.
        names = ("start", "first", "growth", "count", "batch", "context")
        padded = (np.concatenate(([-int(name == "start")], records.segments[name])) for name in names)
        self.start, self.first, self.growth, self.count, self.batch, self.context = padded
        tokens = self.count * self.batch
        self.tokens_before = np.cumsum(tokens) - tokens

    def position(self, at: IntArray) -> tuple[IntArray, IntArray]:
        """Return the segment under way or last done at each tick, and how many of its steps are complete."""
        row = np.searchsorted(self.start, at, side="right") - 1
        elapsed = at - self.start[row]
        low, high = np.zeros_like(at), self.count[row]
        while (low < high).any():
            middle = (low + high + 1) // 2
            fits = self._offset(row, middle) <= elapsed
            low, high = np.where(fits, middle, low), np.where(fits, high, middle - 1)
        return row, low

    def last_started(self, row: IntArray, done: IntArray) -> tuple[IntArray, IntArray]:
        """Return the tick at which the last step began that `position` saw begin, and the tokens that it reads."""
        step = np.minimum(done, np.maximum(self.count[row] - 1, 0))
        since: IntArray = self.start[row] + self._offset(row, step)
        return since, self.context[row] + step * self.batch[row]

    def _offset(self, row: IntArray, steps: IntArray) -> IntArray:
        ticks: IntArray = steps * self.first[row] + self.growth[row] * (steps * (steps - 1) // 2)
        return ticks


def tokens_at(records: Records, at: IntArray) -> IntArray:
    """Return the output tokens emitted up to each tick, repeated work included."""
    decoding = Decoding(records)
    row, done = decoding.position(at)
    prefilled = np.sort(np.concatenate((records.requests["first_token"], records.pauses["end"])))
    tokens: IntArray = (
        np.searchsorted(prefilled, at, side="right") + decoding.tokens_before[row] + decoding.batch[row] * done
    )
    return tokens


def kv_tokens_at(trace: Trace, records: Records, at: IntArray) -> IntArray:
    """Return the tokens with keys and values in memory at each tick.

    That is what the latest decode step reads (its own new tokens included), plus prompts whose prefill started since,
    less requests that ended since. What a stopped request gave back shows from the next decode step on; prompts that
    are worked off in chunks beside decode steps show once they decode.
    """
    decoding = Decoding(records)
    since, read = decoding.last_started(*decoding.position(at))
    ids = records.requests["request"]
    prompt, last = trace.prompt_tokens[ids], trace.output_tokens[ids] - 1
    came = _sum_between(records.requests["prefill_start"], prompt, since, at)
    went = _sum_between(records.requests["finish"], prompt + last, since, at)
    held: IntArray = np.maximum(read + came - went, 0)
    return held


def _sum_between(instants: IntArray, amounts: IntArray, after: IntArray, until: IntArray) -> IntArray:
    order = np.argsort(instants)
    instants, total = instants[order], np.concatenate(([0], np.cumsum(amounts[order])))
    low, high = (np.searchsorted(instants, at, side="right") for at in (after, until))
    between: IntArray = total[high] - total[low]
    return between


def busy_ticks_at(records: Records, at: IntArray) -> IntArray:
    """Return for how many ticks up to each tick the link carried something; transfers at the same time count once."""
    transfers, swaps = records.transfers, records.swaps
    back = swaps["way"] == 0
    # A transfer of no length before all others, so that every instant has one before it.
    start = np.concatenate(([-1], transfers["start"], swaps["start"][back]))
    end = np.concatenate(([-1], transfers["end"], swaps["end"][back]))
    order = np.argsort(start)
    start, end = start[order], np.maximum.accumulate(end[order])
    opens = np.flatnonzero(np.append(True, start[1:] > end[:-1]))
    start, end = start[opens], end[np.append(opens[1:], len(end)) - 1]
    before = np.cumsum(end - start) - (end - start)
    stretch = np.searchsorted(start, at, side="right") - 1
    busy: IntArray = before[stretch] + np.minimum(at, end[stretch]) - start[stretch]
    return busy
