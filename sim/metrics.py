"""From integer tables to seconds: one entry per offered request, and the gaps between tokens. numpy only, no tables.

Durations lie on a grid of 2**-36 s (15 ps). Up to 2**17 s (36 hours) they and their sums are exact in float64, so the
parts of a latency add up to it in any order of addition. Instants are plain ticks / 10**12.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from policies.base import FloatArray, IntArray
from sim.records import NEVER, SOURCES, STATUSES, Records
from sim.ticks import TICKS_PER_S
from sim.trace import Trace

GRID_PER_S = 2**36
OK, REJECTED, UNFINISHED = (STATUSES.index(name) for name in ("ok", "rejected", "unfinished"))
NO_ADAPTER = SOURCES.index("none")
HITS = tuple(SOURCES.index(name) for name in ("gpu", "prefetched"))


def grid(ticks: IntArray) -> IntArray:
    """Return ticks as whole multiples of 2**-36 s, rounded to nearest; the order of instants is kept."""
    whole, rest = np.divmod(ticks, TICKS_PER_S)
    return whole * GRID_PER_S + np.rint(rest * float(GRID_PER_S) / TICKS_PER_S).astype(np.int64)


def instant_s(ticks: IntArray) -> FloatArray:
    """Return instants in seconds; NaN where they were never reached."""
    return np.where(ticks == NEVER, np.nan, ticks / TICKS_PER_S)


def duration_s(start: IntArray, stop: IntArray) -> FloatArray:
    """Return seconds from one instant (in ticks) to another, on the grid; NaN where either was never reached."""
    return np.where((start == NEVER) | (stop == NEVER), np.nan, (grid(stop) - grid(start)) / GRID_PER_S)


class Offered:
    """The request tables of all replicas laid out with one entry per offered request, in id order.

    Attributes:
        trace: the workload, of n requests.
        records: one per replica.
        replica: shape (n,), int16; -1 where no replica has a row of the request.
        status: shape (n,), index into STATUSES; a request of which nothing is known is unfinished.
    """

    def __init__(self, trace: Trace, records: Sequence[Records]) -> None:
        self.trace = trace
        self.records = tuple(records)
        self._ids = [one.requests["request"] for one in self.records]
        self.replica = np.full(len(trace), -1, dtype=np.int16)
        for index, (one, ids) in enumerate(zip(self.records, self._ids, strict=True)):
            self.replica[ids] = index
            self.replica[list(one.rejections)] = index
        self.status = self.column("status", UNFINISHED)
        self.status[[request for one in self.records for request in one.rejections]] = REJECTED

    def column(self, name: str, missing: int = 0) -> IntArray:
        """Return one column of the request tables, shape (n,), with `missing` where there is no row."""
        return self.spread([one.requests[name] for one in self.records], missing)

    def spread(self, per_replica: Sequence[IntArray], missing: int) -> IntArray:
        """Return values given per row of each replica's request table as one array of shape (n,)."""
        result = np.full(len(self.trace), missing, dtype=np.int64)
        for ids, values in zip(self._ids, per_replica, strict=True):
            result[ids] = values
        return result

    def instant(self, name: str) -> IntArray:
        """Return one column of instants in ticks, NEVER where not reached."""
        return self.column(name, NEVER)

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """Shape (n,): whether some replica has a row of the request."""
        known: npt.NDArray[np.bool_] = self.column("request", -1) >= 0
        return known

    @property
    def completed(self) -> npt.NDArray[np.bool_]:
        """Shape (n,): whether the request got all its tokens."""
        completed: npt.NDArray[np.bool_] = self.status == OK
        return completed

    def arrival(self) -> IntArray:
        """Return the ticks at which requests arrived in the trace, shape (n,)."""
        return np.rint(self.trace.arrival_s * TICKS_PER_S).astype(np.int64)

    def sent(self) -> IntArray:
        """Return the ticks at which the engine got each request; the arrival where it never did."""
        sent = self.instant("arrival")
        return np.where(sent == NEVER, self.arrival(), sent)

    def hit_codes(self) -> IntArray:
        """Return 1 where the adapter was resident at first admission, 0 where not, -1 where none was needed (yet)."""
        source = self.column("source", NO_ADAPTER)
        counted = (source != NO_ADAPTER) & (self.instant("admitted") != NEVER)
        return np.where(counted, np.isin(source, HITS), -1)


def latencies_s(offered: Offered) -> dict[str, FloatArray]:
    """Return `ttft_s`, `e2el_s` and `tpot_s`, shape (n,) each, counted from the instant of sending.

    tpot is (e2el - ttft) / (output tokens - 1); NaN where there is at most one output token.
    """
    sent = offered.sent()
    ttft = duration_s(sent, offered.instant("first_token"))
    e2el = duration_s(sent, offered.instant("finish"))
    gaps = offered.trace.output_tokens - 1
    tpot = np.where(gaps > 0, (e2el - ttft) / np.maximum(gaps, 1), np.nan)
    return {"ttft_s": ttft, "tpot_s": tpot, "e2el_s": e2el}


def ttft_parts_s(offered: Offered) -> dict[str, FloatArray]:
    """Return the parts of the time to first token; they sum to it exactly, and are NaN where not reached.

    `queue_s` runs to admission less what was lost to being stopped, which is `preempt_s`; `adapter_wait_s` from there
    until the adapter is usable, `overhead_s` until the prefill starts, `prefill_s` until the first token.
    """
    sent, admitted, ready = offered.sent(), offered.instant("admitted"), offered.instant("ready")
    started, first = offered.instant("prefill_start"), offered.instant("first_token")
    # Laid end to end from the instant of sending, so that rounding to the grid cannot make the queueing negative.
    lost_until = np.where(admitted == NEVER, NEVER, sent + offered.column("preempted"))
    return {
        "queue_s": duration_s(lost_until, admitted),
        "adapter_wait_s": duration_s(admitted, ready),
        "prefill_s": duration_s(started, first),
        "preempt_s": duration_s(sent, lost_until),
        "overhead_s": duration_s(ready, started),
    }


def token_gaps(records: Sequence[Records]) -> tuple[IntArray, IntArray]:
    """Return all gaps between consecutive tokens as sorted distinct ticks and how many tokens waited each.

    Every decode step gives each request of its batch one token: the first steps of segments are in `gaps`, the others
    take their own duration. The token that a recomputed prompt ends with is in `pauses`. The result does not depend on
    how segments were cut.
    """
    ticks, weights = _steps(records)
    order = np.argsort(ticks)
    ticks = ticks[order]
    weights = weights[order]
    if len(ticks) == 0:
        return ticks, weights
    first = np.flatnonzero(np.concatenate(([True], ticks[1:] != ticks[:-1])))
    return ticks[first], np.add.reduceat(weights, first)


def _steps(records: Sequence[Records]) -> tuple[IntArray, IntArray]:
    parts = [
        part for one in records for part in ((one.gaps["gap"], one.gaps["weight"]), _inner_steps(one), _pauses(one))
    ]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _pauses(records: Records) -> tuple[IntArray, IntArray]:
    gaps = records.pauses["gap"]
    return gaps, np.ones_like(gaps)


def _inner_steps(records: Records) -> tuple[IntArray, IntArray]:
    """Return duration and batch of every decode step that is not the first of its segment."""
    segments = records.segments
    inner = segments["count"] - 1
    before = np.cumsum(inner) - inner
    step = np.arange(int(inner.sum()), dtype=np.int64) - np.repeat(before - 1, inner)
    step *= np.repeat(segments["growth"], inner)
    step += np.repeat(segments["first"], inner)
    return step, np.repeat(segments["batch"], inner)


def largest_gaps(records: Records) -> IntArray:
    """Return each request's largest gap between tokens in ticks, per row of `requests`; NEVER where it has none.

    The tables say how many requests the first step of a segment kept waiting for how long, but not which ones. So the
    gap to a request's second token is its own; in its later segments the first step counts with the longest gap of that
    segment; steps inside segments are exact. While no request was stopped this is exact, because those who were there
    before waited longest. Around a stop it is an estimate, too long for others in the batch; what a request waited
    outside it before its prompt was computed again is exact.
    """
    first_row, last_row = records.requests["first_segment"], records.requests["last_segment"]
    decoded = np.flatnonzero((first_row != NEVER) & (last_row != NEVER))
    result = np.full(len(first_row), NEVER, dtype=np.int64)
    low, high = first_row[decoded], last_row[decoded]
    segments = records.segments
    first, growth, count = segments["first"], segments["growth"], segments["count"]
    inside = np.where(count > 1, first + np.maximum(1, count - 1) * growth, 0)
    own = (segments["start"] + first)[low] - records.requests["first_token"][decoded]
    later = range_maxima(np.maximum(inside, _first_gaps(records)), low + 1, high)
    result[decoded] = np.maximum(np.maximum(own, inside[low]), later)
    return _with_pauses(records, result)


def _with_pauses(records: Records, gaps: IntArray) -> IntArray:
    ids, paused = records.requests["request"], records.pauses["request"]
    order = np.argsort(ids)
    known = np.isin(paused, ids)
    rows = order[np.searchsorted(ids, paused[known], sorter=order)]
    longest = np.where(gaps == NEVER, 0, gaps)
    np.maximum.at(longest, rows, records.pauses["gap"][known])
    return np.where((gaps == NEVER) & (longest == 0), NEVER, longest)


def _first_gaps(records: Records) -> IntArray:
    """Return the longest gap that the first step of each segment ended; rows of `gaps` follow the segments in order."""
    gap, weight = records.gaps["gap"], records.gaps["weight"]
    gap, reached = gap[weight > 0], np.cumsum(weight[weight > 0])
    ends = np.cumsum(records.segments["batch"])
    last = np.searchsorted(reached, ends)
    waited = int(reached[-1]) if len(reached) else 0
    members = int(ends[-1]) if len(ends) else 0
    if waited != members or not np.array_equal(reached[last], ends):
        msg = (
            f"gaps do not follow the segments: {waited} tokens in {len(gap)} gaps, {members} in {len(ends)} first steps"
        )
        raise RuntimeError(msg)
    return np.maximum.reduceat(gap, np.concatenate(([0], last[:-1] + 1))) if len(ends) else gap


def range_maxima(values: IntArray, low: IntArray, high: IntArray) -> IntArray:
    """Return max(values[low : high + 1]) for each pair, 0 where that is empty; one power of two at a time."""
    result = np.zeros(len(low), dtype=np.int64)
    length = high - low + 1
    width, covered = 1, values
    while len(covered) and width <= length.max(initial=0):
        asked = np.flatnonzero((length >= width) & (length < 2 * width))
        result[asked] = np.maximum(covered[low[asked]], covered[high[asked] - width + 1])
        covered = np.maximum(covered[:-width], covered[width:])
        width *= 2
    return result
