"""From integer tables to seconds: one entry per offered request, and the gaps between tokens. numpy only, no tables.

Durations lie on a grid of 2**-36 s (15 ps). Up to 2**17 s (36 hours) they and their sums are exact in float64, so the
parts of a latency add up to it in any order of addition. Instants are plain ticks / 10**12.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from policies.base import FloatArray, IntArray
from sim.serving.records import NEVER, SOURCES, STATUSES, Records
from sim.serving.ticks import TICKS_PER_S
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
        span: the ids of the n requests that are laid out, all of the workload's or a stretch of them.
        trace: the workload, of these requests.
        records: one per replica.
        replica: shape (n,), int16; -1 where no replica has a row of the request.
        reasons: why requests were rejected, by their place in the span.
        status: shape (n,), index into STATUSES; a request of which nothing is known is unfinished.
    """

    def __init__(self, trace: Trace, records: Sequence[Records], span: range | None = None) -> None:
        self.span = range(len(trace)) if span is None else span
        self.trace = trace if span is None else trace.kept(slice(span.start, span.stop))
        self.records = tuple(records)
        self._rows = [_rows(one.requests["request"], self.span, len(trace)) for one in self.records]
        self.replica = np.full(len(self.trace), -1, dtype=np.int16)
        self.reasons: dict[int, str] = {}
        for index, (one, (_, places)) in enumerate(zip(self.records, self._rows, strict=True)):
            told = {place - self.span.start: why for place, why in one.rejections.items() if place in self.span}
            self.replica[places] = index
            self.replica[list(told)] = index
            self.reasons |= told
        self.status = self.column("status", UNFINISHED)
        self.status[list(self.reasons)] = REJECTED

    def column(self, name: str, missing: int = 0) -> IntArray:
        """Return one column of the request tables, shape (n,), with `missing` where there is no row."""
        return self.spread((one.requests[name] for one in self.records), missing)

    def spread(self, per_replica: Iterable[IntArray], missing: int) -> IntArray:
        """Return values given per row of each replica's request table as one array of shape (n,)."""
        result = np.full(len(self.trace), missing, dtype=np.int64)
        for (rows, places), values in zip(self._rows, per_replica, strict=True):
            result[places] = values[rows]
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


def _rows(ids: IntArray, span: range, n: int) -> tuple[slice | IntArray, IntArray]:
    """Return which rows, of requests with these ids, lie in a span of the n ids there are, and where in it."""
    if len(span) == n:
        return slice(None), ids
    rows = np.flatnonzero((ids >= span.start) & (ids < span.stop))
    return rows, ids[rows] - span.start


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


def isolated_s(offered: Offered, isolated_ticks: IntArray | None) -> FloatArray:
    """Return how long each request takes alone in seconds, on the grid, shape (n,); NaN where it is not known.

    Args:
        offered: the requests.
        isolated_ticks: of all requests of the workload, see `sim.results.isolated`; None: not known.
    """
    if isolated_ticks is None:
        return np.full(len(offered.trace), np.nan)
    return grid(isolated_ticks[offered.span.start : offered.span.stop]) / GRID_PER_S


def slowdown(e2el_s: FloatArray, isolated_s: FloatArray) -> FloatArray:
    """Return response time over isolated response time; NaN where either is not known, or the latter is 0."""
    return np.where(isolated_s > 0, e2el_s / np.where(isolated_s > 0, isolated_s, 1.0), np.nan)


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
    weights = weights[np.argsort(ticks)]
    ticks.sort()  # in place: of a million requests every array here is tens of megabytes
    if len(ticks) == 0:
        return ticks, weights
    first = np.flatnonzero(np.concatenate(([True], ticks[1:] != ticks[:-1])))
    if len(first) == len(ticks):
        return ticks, weights
    return ticks[first], np.add.reduceat(weights, first)


def _steps(records: Sequence[Records]) -> tuple[IntArray, IntArray]:
    """Return the gap and the number of tokens that waited it, of every decode step and every computation anew."""
    sizes = [(len(one.gaps), int((one.segments["count"] - 1).sum()), len(one.pauses)) for one in records]
    ticks, weights = (np.empty(sum(map(sum, sizes)), dtype=np.int64) for _ in range(2))
    end = 0
    for one, counts in zip(records, sizes, strict=True):
        for count, gaps in zip(counts, (_first_steps, _inner_steps, _pauses), strict=True):
            start, end = end, end + count
            ticks[start:end], weights[start:end] = gaps(one)
    return ticks, weights


def _first_steps(records: Records) -> tuple[IntArray, IntArray]:
    return records.gaps["gap"], records.gaps["weight"]


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
    longest, inside, first_end = _longest_steps(records)
    low, high = records.requests["first_segment"], records.requests["last_segment"]
    decoded = np.flatnonzero((low != NEVER) & (high != NEVER))
    result = np.full(len(low), NEVER, dtype=np.int64)
    low, high = low[decoded], high[decoded]
    later = range_maxima(longest, low + 1, high)
    own = first_end[low] - records.requests["first_token"][decoded]
    result[decoded] = np.maximum(np.maximum(own, inside[low]), later)
    return _with_pauses(records, result)


def _longest_steps(records: Records) -> tuple[IntArray, IntArray, IntArray]:
    """Return, of each segment, its longest gap, the longest but for its first step (0: none), and when that ended."""
    longest = _first_gaps(records)
    first, growth, count = (records.segments[name] for name in ("first", "growth", "count"))
    inside = np.where(count > 1, first + np.maximum(1, count - 1) * growth, 0)
    return np.maximum(inside, longest), inside, records.segments["start"] + first


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
