"""Trace files in and out: public formats and our own CSV become a `Trace`, and back. Nothing is drawn but tick jitter.

Every row that is changed, dropped or moved is counted in `Trace.notes`; a time unit is never guessed.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from sim.readers_cells import BoolArray, FloatArray, Problems, TimeArray, TraceError, numbers, tokens
from sim.readers_describe import describe
from sim.readers_rows import FORMATS, Format, Rows, opened, read_rows
from sim.trace import AdapterSpec, Trace

__all__ = ["FORMATS", "TraceError", "describe", "read_trace", "write_canonical"]

HEADER = ("request_id", "arrival_s", "input_tokens", "output_tokens", "adapter_id", "rank")
MAX_RANK = 4096
IntArray = npt.NDArray[np.int64]


@dataclass
class _Adapters:
    """The adapters met so far, in order of their first row."""

    index: dict[str, int] = field(default_factory=dict)
    specs: list[AdapterSpec | None] = field(default_factory=list)

    def place(self, name: str, rank: float, line: int, problems: Problems) -> int:
        """Return the palette index of a row's adapter; an empty name is the base model."""
        known = self.index.get(name)
        if known is None:
            known = self.index[name] = len(self.specs)
            self.specs.append(_spec(name, rank, line, problems))
            return known
        spec = self.specs[known]
        if spec is not None and spec.rank != rank:
            problems.add(line, f"rank of {name!r} is {rank:g}; the rank of its first row, {spec.rank}, is allowed")
        return known


def _spec(name: str, rank: float, line: int, problems: Problems) -> AdapterSpec | None:
    if not name:
        return None
    if not (1 <= rank <= MAX_RANK and rank == int(rank)):
        shown = "empty" if np.isnan(rank) else f"{rank:g}"
        problems.add(line, f"rank of adapter {name!r} is {shown}; a whole number from 1 to {MAX_RANK} is allowed")
        return AdapterSpec(name, 1)
    return AdapterSpec(name, int(rank))


@dataclass
class _Table:
    """Columns of a whole file, before anything is dropped: `usable` rows have no empty cell."""

    format: Format
    time: TimeArray
    prompt: FloatArray
    output: FloatArray
    usable: BoolArray
    adapter: IntArray
    palette: tuple[AdapterSpec | None, ...]
    notes: list[tuple[str, int]]


def _adapter_column(
    columns: dict[str, list[str]], lines: Sequence[int], adapters: _Adapters, problems: Problems
) -> IntArray:
    empty = [""] * len(lines)
    names = [name.strip() for name in columns.get("adapter_id", empty)]
    ranks = numbers(columns.get("rank", empty), lines, "rank", problems).tolist()
    rows = zip(names, ranks, lines, strict=True)
    return np.array([adapters.place(name, rank, line, problems) for name, rank, line in rows], dtype=np.int64)


def _parse(rows: Rows, problems: Problems) -> _Table:
    """Turn all chunks into columns; raises TraceError with everything that was wrong."""
    kind = rows.format
    parts: list[tuple[TimeArray, BoolArray, FloatArray, FloatArray, IntArray]] = []
    adapters = _Adapters()
    for lines, columns in rows.chunks:
        time, present = kind.times(columns[kind.time], lines, kind.time, problems)
        prompt = tokens(columns[kind.prompt], lines, kind.prompt, problems)
        output = tokens(columns[kind.output], lines, kind.output, problems)
        parts.append((time, present, prompt, output, _adapter_column(columns, lines, adapters, problems)))
    problems.settle()
    if not parts:
        problems.fail(1, "a header and no rows; at least one request is needed")
    time, present, prompt, output, adapter = (np.concatenate(column) for column in zip(*parts, strict=True))
    usable = present & ~np.isnan(prompt) & ~np.isnan(output)
    notes = sorted(rows.passed_over.items())
    return _Table(kind, time, prompt, output, usable, adapter, tuple(adapters.specs), notes)


def _keep(table: _Table, zero_output: str) -> BoolArray:
    """Return which rows stay and note why the others go."""
    keep: BoolArray = table.usable.copy()
    _note(table, "rows with an empty cell dropped", ~keep)
    zero_prompt = keep & (table.prompt == 0)
    _note(table, "rows with zero input tokens dropped", zero_prompt)
    keep &= ~zero_prompt
    zero = keep & (table.output == 0)
    if zero_output == "drop":
        _note(table, "rows with zero output tokens dropped", zero)
        keep &= ~zero
    else:
        _note(table, "rows with zero output tokens clamped to 1", zero)
    return keep


def _note(table: _Table, what: str, rows: BoolArray) -> None:
    if rows.any():
        table.notes.append((what, int(rows.sum())))


def _in_order(table: _Table, keep: BoolArray) -> IntArray:
    """Return the kept rows by arrival, file order where stamps are equal."""
    kept = np.flatnonzero(keep)
    order: IntArray = kept[np.argsort(table.time[kept], kind="stable")]
    _note(table, "rows moved to their place in time", order != kept)
    _note(table, "rows with the stamp of the row before", np.diff(table.time[order]) == 0)
    return order


def _seconds(table: _Table, order: IntArray) -> FloatArray:
    """Return arrivals in seconds; formats other than our own start at 0."""
    time = table.time[order]
    if not table.format.rebase:
        return time.astype(np.float64)
    if table.format.times is FORMATS["vidur"].times:
        _note(table, "rows shifted so that the first arrives at 0 s", np.full(len(time), time[0] != 0))
    arrival_s: FloatArray = (time - time[0]) / table.format.per_s
    return arrival_s


def _spread(table: _Table, arrival_s: FloatArray, tick_s: float, seed: int) -> FloatArray:
    """Return arrivals spread uniformly inside their tick, the order of rows unchanged."""
    if not (np.isfinite(tick_s) and tick_s > 0):
        msg = f"spread_ticks_s is {tick_s!r}; a length in seconds above 0 is allowed"
        raise ValueError(msg)
    table.notes.append((f"rows spread inside ticks of {tick_s:g} s", len(arrival_s)))
    # to the nearest, because Mooncake's grid is a few milliseconds off
    ticks = np.rint(arrival_s / tick_s)
    return np.sort((ticks + np.random.default_rng(seed).random(len(ticks))) * tick_s)


def read_trace(
    path: str | Path,
    *,
    format: str | None = None,  # noqa: A002 - the field's own word
    zero_output: Literal["drop", "clamp"] = "drop",
    limit: int | None = None,
    spread_ticks_s: float | None = None,
    seed: int = 0,
) -> Trace:
    """Read a trace file (CSV or JSON lines, gzipped or not) and count in its notes whatever was changed.

    Args:
        path: the file.
        format: one of `FORMATS`; None recognises it from the header or the keys.
        zero_output: whether requests without output are dropped as failures or get 1 token.
        limit: rows of the file to read at most.
        spread_ticks_s: length of the grid that stamps lie on (Mooncake: 3 s); rows are spread inside their tick.
        seed: seed of that spreading.

    Raises:
        TraceError: with up to 20 problems, each as `path:line: what was wrong, the value, what is allowed`.
        ValueError: if an option is out of range.
    """
    _check_options(zero_output, limit)
    source = Path(path)
    problems = Problems(source)
    with opened(source) as handle:
        table = _parse(read_rows(handle, format, limit, problems), problems)
    order = _in_order(table, _keep(table, zero_output))
    if not len(order):
        problems.fail(1, f"no row is left: {table.notes}; at least one request is needed")
    arrival_s = _seconds(table, order)
    if spread_ticks_s is not None:
        arrival_s = _spread(table, arrival_s, spread_ticks_s, seed)
    return Trace(
        name=source.name.removesuffix(".gz").rpartition(".")[0] or source.name,
        arrival_s=arrival_s,
        prompt_tokens=table.prompt[order].astype(np.int64),
        output_tokens=np.maximum(table.output[order].astype(np.int64), 1),
        palette=table.palette,
        adapter=table.adapter[order],
        notes=tuple(table.notes),
    )


def _check_options(zero_output: str, limit: int | None) -> None:
    if zero_output not in ("drop", "clamp"):
        msg = f"zero_output is {zero_output!r}; 'drop' and 'clamp' are allowed"
        raise ValueError(msg)
    if limit is not None and limit < 1:
        msg = f"limit is {limit!r}; at least 1 row is allowed"
        raise ValueError(msg)


def write_canonical(trace: Trace, path: str | Path) -> None:
    """Write our own CSV, exact to the last bit, whole or not at all; a name ending in .gz is gzipped."""
    target = Path(path)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    unfinished = Path(name)
    try:
        with os.fdopen(handle, "wb") as raw:
            # no name and no time in the gzip header: the same trace gives the same bytes
            binary = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if target.suffix == ".gz" else raw
            with io.TextIOWrapper(binary, encoding="utf-8", newline="") as text:
                _write_rows(trace, text)
        unfinished.chmod(0o644)
        unfinished.replace(target)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _write_rows(trace: Trace, text: io.TextIOWrapper) -> None:
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    named = [("", "") if spec is None else (spec.id, str(spec.rank)) for spec in trace.palette]
    columns = (trace.arrival_s, trace.prompt_tokens, trace.output_tokens, trace.adapter)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    writer.writerows(
        (at, repr(time), prompt, output, *named[adapter]) for at, (time, prompt, output, adapter) in enumerate(rows)
    )
