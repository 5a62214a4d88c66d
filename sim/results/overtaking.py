"""Who was served out of turn, whatever the scheduler: counted from instants, after the run. numpy only."""

from __future__ import annotations

import numpy as np

from policies.base import IntArray


def overtaken(sent: IntArray, admitted: IntArray) -> IntArray:
    """Return for each request how many of those that came later were admitted before it; shape (n,).

    Requests of one instant came in the order in which they stand; those of one round are admitted together. It takes
    n log n: where the largest admission so far splits at a bit, every 1 is behind all later 0s of its group.

    Args:
        sent: shape (n,), when each came.
        admitted: shape (n,), when each was first admitted; the largest number for never.
    """
    by_turn = np.argsort(sent, kind="stable")
    later = admitted[by_turn]
    if not (later[1:] < later[:-1]).any():
        return np.zeros(len(sent), dtype=np.int64)
    rank = np.unique(later, return_inverse=True)[1]
    counts, place = np.zeros(len(rank), dtype=np.int64), np.arange(len(rank))
    for bit in range(int(rank.max()).bit_length() - 1, -1, -1):
        # `place` is ordered by the bits above this one and, where these are equal, by turn.
        value = rank[place] >> bit
        is_low = value % 2 == 0
        lows = np.cumsum(is_low)
        group = value >> 1
        ends = np.searchsorted(group, group, side="right") - 1
        counts[place] += np.where(is_low, 0, lows[ends] - lows)
        place = place[np.argsort(value, kind="stable")]
    result = np.empty_like(counts)
    result[by_turn] = counts
    return result
