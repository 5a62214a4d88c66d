"""Runs a list of shapes within a budget and writes each row at once: a killed run keeps what it has. No torch here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any

from gpu_validate.amounts import amount_of
from gpu_validate.rows import Peaks, Row, Sheet, Stamp, implied, too_fast
from gpu_validate.shapes import Shape
from gpu_validate.timing import Measured
from sim.progress import progress

Measure = Callable[[Shape, float], Measured]
# After one of these CUDA refuses whatever a process still asks of the device.
FATAL = ("illegal memory access", "illegal instruction", "misaligned address", "device-side assert", "launch failure")
MOST_S = 2.0  # of a shape: enough for hundreds of runs of anything here
LEAST_S = 0.02


@dataclass
class Tally:
    """What became of a list of shapes.

    Attributes:
        what: the command.
        rows: measured now.
        resumed: shapes that were there already.
        left_out: shapes for which there was no time.
    """

    what: str
    rows: list[Row] = field(default_factory=list)
    resumed: int = 0
    left_out: list[Shape] = field(default_factory=list)

    @property
    def dropped(self) -> int:
        """Return for how many shapes there was no time."""
        return len(self.left_out)

    def lines(self) -> list[str]:
        """Return a summary for people: counts first, then why rows are invalid."""
        invalid = [row for row in self.rows if not row.valid]
        counts = f"{self.what}: {len(self.rows)} rows measured, {len(invalid)} of them invalid"
        if self.resumed:
            counts += f", {self.resumed} already there"
        if self.dropped:
            counts += (
                f", {_counted(self.left_out)} dropped for lack of time (raise --budget-s, and run it again: it goes on)"
            )
        reasons = Counter(_reason(row.why) for row in invalid)
        return [counts, *(f"  invalid: {why} ({count})" for why, count in reasons.most_common())]


class DeviceLostError(RuntimeError):
    """The process can use its device no longer; another one can."""


def _counted(shapes: Sequence[Shape]) -> str:
    """Return how many of each kind, LoRA kernels apart."""
    kinds = Counter(" ".join(filter(None, (shape.kind, shape.config.get("kernel")))) for shape in shapes)
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items())


def _reason(why: str) -> str:
    """Return why a row is invalid, without the numbers of that row."""
    if why.startswith("failed"):
        return why
    return "a rate above the peak" if "times the peak" in why else why.partition(":")[0]


def run_shapes(
    what: str,
    shapes: Sequence[Shape],
    measure: Measure,
    *,
    sheet: Sheet | None,
    stamp: Stamp,
    peaks: Peaks,
    budget_s: float,
    now: Callable[[], float] = perf_counter,
) -> Tally:
    """Measure shapes in order until the budget is spent; each row is written before the next shape begins.

    Args:
        what: the words before the progress bar.
        shapes: what to measure; those that the sheet has are skipped.
        measure: takes a shape and its share of the budget.
        sheet: where rows go; None: they are only returned.
        stamp: what every row says about the machine and the run.
        peaks: rates above which a row is invalid.
        budget_s: seconds for all.
        now: the clock of the budget.

    Raises:
        DeviceLostError: if a shape leaves the device unusable for this process.
    """
    missing = _missing(shapes, sheet)
    tally = Tally(what, resumed=len(shapes) - len(missing))
    end = now() + budget_s
    with progress(len(missing), what) as bar:
        for index, shape in enumerate(missing):
            left = end - now()
            if left <= 0:
                tally.left_out = missing[index:]
                break
            share = min(MOST_S, max(LEAST_S, left / (len(missing) - index) / 2))  # half: setting up takes time, too
            row = _row(shape, measure, share, stamp, peaks)
            if sheet is not None:
                sheet.append(row)
            tally.rows.append(row)
            bar.advance()
            if any(words in row.why for words in FATAL):
                msg = f"{shape.kind} {shape.id} {row.why}; the same command goes on, and tries this shape last"
                raise DeviceLostError(msg)
    return tally


def _missing(shapes: Sequence[Shape], sheet: Sheet | None) -> list[Shape]:
    """Return what was not measured yet; what failed before comes last, since it may end the process."""
    if sheet is None:
        return list(shapes)
    missing = [shape for shape in shapes if not sheet.has(shape.kind, shape.config)]
    return sorted(missing, key=lambda shape: sheet.has_failed(shape.kind, shape.config))


def _row(shape: Shape, measure: Measure, budget_s: float, stamp: Stamp, peaks: Peaks) -> Row:
    who: dict[str, Any] = {**asdict(stamp), "kind": shape.kind, "config": shape.config}
    try:
        measured = measure(shape, budget_s)
    except Exception as error:  # noqa: BLE001 - a kernel that does not compile or fit must not end a sweep
        why = f"failed: {(str(error) or type(error).__name__).splitlines()[0]}"
        return Row(**who, p20=0.0, p50=0.0, p80=0.0, n=0, clock="host", valid=False, why=why, extra={"id": shape.id})
    timing = measured.timing
    amount = amount_of(shape.kind, shape.config)
    why = timing.why or too_fast(amount, timing.p50_s, peaks)
    found: dict[str, Any] = {"p20": timing.p20_s, "p50": timing.p50_s, "p80": timing.p80_s}
    extra = {"id": shape.id, **implied(amount, timing.p50_s), **measured.extra}
    how: dict[str, Any] = {"n": timing.n, "clock": timing.clock, "note": timing.note, "extra": extra}
    return Row(**who, **found, **how, valid=not why, why=why)
