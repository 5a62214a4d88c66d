"""What a run leaves behind: flat integer rows in ticks, bytes and tokens. Nothing is interpreted here.

The tables are the same whether decode runs were simulated one step at a time or in closed form, except that `segments`
may then be cut differently; `gaps` and `segments` together always describe the same steps.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

NEVER = np.iinfo(np.int64).max  # an instant that was not reached


class Table:
    """Rows of integers under named columns, kept in one flat array (8 bytes a cell)."""

    def __init__(self, columns: Iterable[str]) -> None:
        self.columns = tuple(columns)
        self._cells = array("q")
        self.add = self._cells.extend  # takes one row; bound once because it is called for every step

    def __len__(self) -> int:
        return len(self._cells) // len(self.columns)

    def __getitem__(self, column: str) -> npt.NDArray[np.int64]:
        """Return one column as a fresh array of shape (rows,)."""
        cells = np.frombuffer(self._cells, dtype=np.int64).reshape(-1, len(self.columns))
        return cells[:, self.columns.index(column)].copy()


REQUEST_COLUMNS = (
    "request",  # request id
    "status",  # index into STATUSES
    "arrival",
    "admitted",  # first admission
    "ready",  # its adapter usable; in an engine that blocks: those of its whole mini-batch
    "prefill_start",
    "first_token",
    "finish",
    "preempted",  # ticks lost before the first token because the request was stopped and had to wait again
    "source",  # index into SOURCES
    "load",  # ticks that the link carried this request's adapter for it
    "load_bytes",
    "link_wait",  # ticks that its demand load waited behind other transfers
    "preemptions",
    "bypassed",  # requests admitted ahead of it out of turn
    "steps",  # decode iterations in which it took part
    "batch_sum",  # sum of batch sizes over those iterations
    "lane",
    "weight_ppm",  # scheduler's weight of the request, in millionths
    "first_segment",  # row of `segments` with its first decode step
    "last_segment",  # row with its last decode step
)
STATUSES = ("ok", "rejected", "unfinished")
SOURCES = ("none", "gpu", "prefetched", "inflight", "host", "disk")


class Records:
    """All tables of one replica's run, and the counters that no table holds."""

    def __init__(self) -> None:
        self.requests = Table(REQUEST_COLUMNS)
        # Decode steps over one batch: step j lasts first + j * growth ticks and reads context + j * batch tokens.
        self.segments = Table(("start", "first", "growth", "count", "batch", "context"))
        # Token gaps of the first step of a segment, which may hold a stall: `weight` requests waited `gap` ticks.
        # The other steps of a segment are gaps of their own duration, for the whole batch.
        self.gaps = Table(("gap", "weight"))
        self.prefills = Table(("start", "ticks", "requests", "tokens"))
        # Iterations that decoded and prefilled at once: they are in `segments` and in `prefills` too.
        self.mixed = Table(("start", "ticks"))
        # A request that was stopped got its next token so many ticks after its last; not in `gaps` if it had to be
        # computed again, because that token comes out of a prefill.
        self.pauses = Table(("request", "gap", "end"))
        # KV of preempted requests. way: 0 to the GPU over the link, 1 to the host, in the engine's own time.
        self.swaps = Table(("queued", "start", "end", "request", "bytes", "way"))
        self.reads = Table(("queued", "start", "end", "adapter", "bytes"))  # adapters from disk to the host
        # Adapter memory after each change.
        self.memory = Table(("time", "resident_bytes", "in_use_bytes", "resident"))
        # kind: 0 demand, 1 prefetch. adapter: index into the trace's palette.
        self.transfers = Table(("queued", "start", "end", "adapter", "bytes", "kind"))
        self.evictions = Table(("time", "adapter"))
        self.stalls = Table(("start", "ticks"))  # the engine stood still for a blocking load
        self.input_waits = Table(("start", "ticks"))  # a step began with a wait for the link, which is part of its time
        self.rejections: dict[int, str] = {}  # request id -> reason
        self.squashes: dict[int, int] = {}  # request id -> times that its tokens were dropped and its work repeated
        self.useful_prefetches: dict[int, int] = {}  # palette index -> prefetched copies that a request then used
        self.forced_evictions = 0  # idle adapters that left for the memory of admitted requests
        self.end = 0  # tick of the last event
