"""How long something takes: estimate, warm up by time, clear the cache before each run, record all, synchronise once.

After `triton.testing.do_bench`. A CPU is timed with the wall clock, which is no evidence of anything: see the note.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from gpu_validate.capture import capture
from gpu_validate.rows import Clock

if TYPE_CHECKING:
    import torch

NOISE_LIMIT = 0.10  # quartiles further apart than this share of the median say that something else ran
FLUSH_BYTES = 256 * 2**20  # larger than any L2 cache today
WARM_UP_S = 0.025
MAX_RUNS = 1000
OVERLAP = 2.0  # compute lasts this many times as long as the copy beside it
ESTIMATE_RUNS = 3
CPU_NOTE = "timed on a CPU: a test of the harness, not evidence"

Work = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Quantiles of one measurement in seconds.

    Attributes:
        p20_s: 20th percentile.
        p50_s: median.
        p80_s: 80th percentile.
        n: runs.
        clock: `device` or `host`.
        iqr_s: distance of the quartiles.
        issue_s: median host time to issue the work; None where runs were not kept apart.
        note: what a reader should know.
    """

    p20_s: float
    p50_s: float
    p80_s: float
    n: int
    clock: Clock
    iqr_s: float = 0.0
    issue_s: float | None = None
    note: str = ""

    @property
    def why(self) -> str:
        """Return why the timing should not be used; empty if it may."""
        if self.p50_s <= 0:
            return "too short for the clock"
        noise = self.iqr_s / self.p50_s
        return f"noisy: the quartiles are {noise:.0%} of the median apart" if noise > NOISE_LIMIT else ""

    def per(self, repeats: int) -> Timing:
        """Return the timing of one of so many repeats that each run made."""
        share = {name: getattr(self, name) / repeats for name in ("p20_s", "p50_s", "p80_s", "iqr_s")}
        return replace(self, **share)


@dataclass(frozen=True)
class Measured:
    """A timing, and further fields of its row."""

    timing: Timing
    extra: dict[str, Any] = field(default_factory=dict)


def summarise(seconds: list[float], clock: Clock, *, issue: list[float] | None = None, note: str = "") -> Timing:
    """Return the quantiles of single runs."""
    p20, p25, p50, p75, p80 = (float(one) for one in np.quantile(seconds, (0.2, 0.25, 0.5, 0.75, 0.8)))
    issue_s = float(np.median(issue)) if issue else None
    return Timing(p20, p50, p80, len(seconds), clock, p75 - p25, issue_s, note)


def measure(
    work: Work,
    *,
    device: torch.device | str,
    budget_s: float,
    min_runs: int = 20,
    flush_l2: bool = True,
    clock: Clock = "device",
    apart: bool = False,
    now: Callable[[], float] = perf_counter,
) -> Timing:
    """Return how long `work` takes, over as many runs as the budget allows.

    Args:
        work: issues everything to the current stream, and waits for nothing.
        device: where it runs.
        budget_s: time for all runs together; `min_runs` are made even if they take longer.
        min_runs: fewest runs.
        flush_l2: write 256 MB before each run, so that no run finds its data in the cache.
        clock: `device` reads CUDA events; `host` the wall clock, synchronised, with all launches, which is all that a
            CPU has.
        apart: start each run on an idle device and note how long issuing took; otherwise launches hide behind the
            runs before, as they do in a busy engine.
        now: the host's clock.
    """
    kind = str(device).partition(":")[0]
    if kind != "cuda":
        return _host(work, _nothing, _nothing, budget_s, min_runs, now, CPU_NOTE)
    import torch  # noqa: PLC0415 - slow to import, and optional

    flush = _flush(torch, device) if flush_l2 else _nothing

    if clock == "host":
        return _host(work, partial(torch.cuda.synchronize, device), flush, budget_s, min_runs, now, "")
    return _events(torch, work, flush, budget_s, min_runs, apart=apart)


def captured(work: Work, *, device: torch.device | str) -> Work:
    """Return the replay of `work` as a CUDA graph, free of launch costs; on a CPU the work itself.

    Raises:
        RuntimeError: if something in it cannot be captured.
    """
    if not str(device).startswith("cuda"):
        return work
    return _Replay(capture(work, device=device, warm_ups=ESTIMATE_RUNS), work)


@dataclass(frozen=True, eq=False)
class _Replay:
    """A graph, and the work whose tensors it reads and writes by their addresses: they must live as long."""

    graph: Any
    work: Work

    def __call__(self) -> None:
        self.graph.replay()


def measure_beside(
    copy: Work, compute: Work, alone: Timing, *, device: torch.device | str, budget_s: float
) -> Measured:
    """Return a copy's time on a side stream of a CUDA device while compute runs on the current one.

    The row's `compute_slowdown` is 1 + (compute with the copy - compute without) / copy: by how much compute is slower
    while a copy is under way, however long either is; `copy_slowdown` is the copy's time over its time alone.

    Args:
        copy: issues the copy.
        compute: issues a unit of compute; it is repeated until it outlasts the copy.
        alone: the copy's timing on an idle device.
        device: a CUDA device.
        budget_s: time for all runs together.
    """
    unit = measure(compute, device=device, budget_s=budget_s / 5, flush_l2=False)
    repeats = max(1, math.ceil(OVERLAP * alone.p50_s / unit.p50_s))
    runs = max(20, min(200, int(budget_s / 2 / (repeats * unit.p50_s))))
    side = new_stream(device)
    with_copy = [_run_beside(compute, repeats, copy, side) for _ in range(runs)]
    without = [_run_beside(compute, repeats, _nothing, side) for _ in range(runs)]
    both = summarise([seconds for _, seconds in with_copy], "device")
    only = summarise([seconds for _, seconds in without], "device")
    timing = summarise([seconds for seconds, _ in with_copy], "device")
    slowdown = 1 + (both.p50_s - only.p50_s) / timing.p50_s
    extra = {"issue_s": alone.issue_s, "copy_slowdown": timing.p50_s / alone.p50_s, "compute_slowdown": slowdown}
    return Measured(timing, extra)


def _run_beside(compute: Work, repeats: int, copy: Work, side: Any) -> tuple[float, float]:
    """Return seconds of the copy and of the compute."""
    import torch  # noqa: PLC0415 - slow to import, and optional

    marks = [_event() for _ in range(4)]
    torch.cuda.synchronize()
    marks[0].record()
    for _ in range(repeats):
        compute()
    marks[1].record()
    with torch.cuda.stream(side):
        marks[2].record()
        copy()
        marks[3].record()
    torch.cuda.synchronize()
    return marks[2].elapsed_time(marks[3]) / 1e3, marks[0].elapsed_time(marks[1]) / 1e3


def new_stream(device: torch.device | str) -> Any:
    """Return a CUDA stream."""
    import torch  # noqa: PLC0415 - slow to import, and optional

    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _event() -> Any:
    import torch  # noqa: PLC0415 - slow to import, and optional

    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _nothing() -> None:
    return None


def _flush(torch: Any, device: torch.device | str) -> Callable[[], None]:
    buffer = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device)

    def flush() -> None:
        buffer.zero_()

    return flush


def _runs(estimate_s: float, budget_s: float, min_runs: int) -> int:
    if estimate_s <= 0:
        return max(min_runs, 1)
    return max(min_runs, min(MAX_RUNS, int(budget_s / estimate_s)), 1)


def _host(
    work: Work,
    synchronise: Callable[[], None],
    flush: Callable[[], None],
    budget_s: float,
    min_runs: int,
    now: Callable[[], float],
    note: str,
) -> Timing:
    def once() -> tuple[float, float]:
        flush()
        synchronise()
        start = now()
        work()
        issued = now()
        synchronise()
        return now() - start, issued - start

    once()  # the first call also loads libraries
    estimate_s, spent_s = once()[0], 0.0
    while 0 < spent_s + estimate_s < min(WARM_UP_S, budget_s / 4):
        spent_s += max(once()[0], estimate_s)
    runs = [once() for _ in range(_runs(estimate_s, budget_s, min_runs))]
    return summarise([total for total, _ in runs], "host", issue=[issued for _, issued in runs], note=note)


def _events(
    torch: Any, work: Work, flush: Callable[[], None], budget_s: float, min_runs: int, *, apart: bool
) -> Timing:
    estimate_s = _estimate(torch, work, flush)
    warm_up = min(MAX_RUNS, int(min(WARM_UP_S, budget_s / 4) / max(estimate_s, 1e-6)))
    for _ in range(warm_up):
        work()
    pairs, issue = [], []
    for _ in range(_runs(estimate_s, budget_s, min_runs)):
        start, end = (_event() for _ in range(2))
        flush()
        if apart:
            torch.cuda.synchronize()
        before = perf_counter()
        start.record()
        work()
        end.record()
        issue.append(perf_counter() - before)
        pairs.append((start, end))
    torch.cuda.synchronize()
    seconds = [start.elapsed_time(end) / 1e3 for start, end in pairs]
    return summarise(seconds, "device", issue=issue if apart else None)


def _estimate(torch: Any, work: Work, flush: Callable[[], None]) -> float:
    """Return seconds of one run, flush included: the budget pays for both."""
    work()
    torch.cuda.synchronize()
    begin = perf_counter()
    for _ in range(ESTIMATE_RUNS):
        flush()
        work()
    torch.cuda.synchronize()
    return (perf_counter() - begin) / ESTIMATE_RUNS
