"""What prefetching was worth in a run: how much of it was used, what it spared, wasted and held up. numpy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sim.serving.records import Records
from sim.serving.ticks import TICKS_PER_S

DEMAND, PREFETCH = 0, 1  # kinds of adapter transfers; the link may carry others


def prefetch_summary(records: Sequence[Records]) -> dict[str, float | int | None]:
    """Return the figures of merit of a prefetcher over all replicas; None where there is nothing to measure.

    `issued`: transfers that a prefetcher asked for, those that a request came to wait for included. `useful`: copies
    that an admitted request then used. `accuracy` is useful / issued, `coverage` useful / (useful + loads on demand):
    of the adapters that requests needed and did not find, the share that had been sent for. `wasted_bytes`: copies that
    were evicted or left over unused. `added_link_delay_s`: seconds that loads on demand waited for a prefetch which
    the link had begun before they were asked for, summed over loads.
    """
    issued = sum(int(np.count_nonzero(_is(one, PREFETCH))) for one in records)
    useful = sum(sum(one.useful_prefetches.values()) for one in records)
    demanded = sum(int(np.count_nonzero(_is(one, DEMAND))) for one in records)
    return {
        "issued": issued,
        "useful": useful,
        "accuracy": useful / issued if issued else None,
        "coverage": useful / (useful + demanded) if useful + demanded else None,
        "wasted_bytes": sum(wasted_bytes(one) for one in records),
        "added_link_delay_s": sum(added_delay_ticks(one) for one in records) / TICKS_PER_S,
    }


def wasted_bytes(records: Records) -> int:
    """Return the bytes of prefetched copies that no request used."""
    prefetched = _is(records, PREFETCH)
    adapter, sizes = (records.transfers[name][prefetched] for name in ("adapter", "bytes"))
    index, first, issued = np.unique(adapter, return_index=True, return_counts=True)
    useful = np.array([records.useful_prefetches.get(one, 0) for one in index.tolist()], dtype=np.int64)
    # A run that was cut short may have used a copy that was still on its way.
    return int((sizes[first] * np.maximum(issued - useful, 0)).sum())


def added_delay_ticks(records: Records) -> int:
    """Return for how many ticks loads on demand waited, in sum, for the prefetch under way when they were asked for."""
    transfers = records.transfers
    demanded, prefetched = _is(records, DEMAND), _is(records, PREFETCH)
    order = np.argsort(transfers["start"][prefetched], kind="stable")
    # One of no length before all others, so that every load has one before it.
    start = np.append(-1, transfers["start"][prefetched][order])
    end = np.maximum.accumulate(np.append(-1, transfers["end"][prefetched][order]))
    queued, begun = (transfers[name][demanded] for name in ("queued", "start"))
    link_frees = end[np.searchsorted(start, queued, side="right") - 1]
    return int(np.maximum(np.minimum(link_frees, begun) - queued, 0).sum())


def _is(records: Records, kind: int) -> npt.NDArray[np.bool_]:
    chosen: npt.NDArray[np.bool_] = records.transfers["kind"] == kind
    return chosen
