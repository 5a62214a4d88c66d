"""Trace files in and out: public formats and our own CSV become a `Trace`, and back. Nothing is drawn but tick jitter.

Every row that is changed, dropped or moved is counted in `Trace.notes`; a time unit is never guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from sim.readers.adapters import Adapters, by_name
from sim.readers.cells import BoolArray, FloatArray, IntArray, Problems, TimeArray, TraceError, instants, tokens
from sim.readers.describe import describe
from sim.readers.formats import FORMATS, Format
from sim.readers.gentd26 import gentd26_files, is_gentd26, read_gentd26
from sim.readers.prepare import TextTokens
from sim.readers.rows import BUNDLES, Rows, Wanted, opened, read_rows
from sim.readers.servegen import is_servegen, read_servegen
from sim.readers.servegen_files import servegen_files
from sim.readers.write import write_canonical
from sim.trace import AdapterSpec, Part, Trace

__all__ = ["BUNDLES", "FORMATS", "TraceError", "describe", "files_of", "read_trace", "write_canonical"]

DEFAULT_RANKS = (8, 16, 32, 64, 128)
RENUMBERED = "rows numbered by arrival, whatever their request_id (trace_line of requests.parquet tells which is which)"


@dataclass
class _Table:
    """Columns of a whole file, before anything is dropped: `usable` rows have no empty cell. It may have no `ids`."""

    format: Format
    time: TimeArray
    prompt: FloatArray
    output: FloatArray
    usable: BoolArray
    adapter: IntArray
    line: IntArray
    palette: tuple[AdapterSpec | None, ...]
    notes: list[tuple[str, int]]
    lacks: frozenset[Part]
    ids: list[str]


def _parse(rows: Rows, ranks: Sequence[int], problems: Problems) -> _Table:
    """Turn all chunks into columns; raises TraceError with everything that was wrong."""
    kind = rows.format
    parts: list[tuple[TimeArray, BoolArray, FloatArray, FloatArray, IntArray, IntArray]] = []
    adapters = Adapters(ranks)
    ids: list[str] = []
    for lines, columns in rows.chunks:
        ids += columns.get("request_id", ())
        time, present = _stamps(kind, columns, lines, problems)
        prompt = tokens(columns[kind.prompt], lines, kind.prompt, problems)
        output = tokens(columns[kind.output], lines, kind.output, problems)
        adapter = adapters.column(kind.adapter, columns, lines, problems)
        parts.append((time, present, prompt, output, adapter, np.asarray(lines, dtype=np.int64)))
    problems.settle()
    if not parts:
        problems.fail(1, "a header and no rows; at least one request is needed")
    time, present, prompt, output, adapter, line = (np.concatenate(column) for column in zip(*parts, strict=True))
    usable = present & ~np.isnan(prompt) & ~np.isnan(output)
    notes = sorted(rows.passed_over.items()) + adapters.notes()
    palette, lacks = tuple(adapters.specs), _lacks(kind, adapters)
    return _Table(kind, time, prompt, output, usable, adapter, line, palette, notes, lacks, ids)


def _stamps(
    kind: Format, columns: dict[str, list[str]], lines: Sequence[int], problems: Problems
) -> tuple[TimeArray, BoolArray]:
    if kind.time is None:
        return np.zeros(len(lines)), np.ones(len(lines), dtype=np.bool_)
    return kind.times(columns[kind.time], lines, kind.time, problems)


def _lacks(kind: Format, adapters: Adapters) -> frozenset[Part]:
    """Return what is to be drawn; a column of adapters that is empty throughout lacks none: all are for the base."""
    lacks: set[Part] = set() if adapters.is_named else {"adapters"}
    return frozenset(lacks | ({"arrivals"} if kind.time is None else set()))


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
    if "arrivals" not in table.lacks:
        _note(table, "rows moved to their place in time", order != kept)
        _note(table, "rows with the stamp of the row before", np.diff(table.time[order]) == 0)
    return order


def _seconds(table: _Table, order: IntArray) -> FloatArray:
    """Return arrivals in seconds; formats other than our own start at 0."""
    time = table.time[order]
    if not table.format.rebase:
        return time.astype(np.float64)
    if table.format.times is not instants:
        _note(table, "rows shifted so that the first arrives at 0 s", np.full(len(time), time[0] != 0))
    arrival_s: FloatArray = (time - time[0]) / table.format.per_s
    return arrival_s


def _spread(trace: Trace, tick_s: float, seed: int) -> Trace:
    """Return the trace with arrivals spread uniformly inside their tick, the order of rows unchanged."""
    if not (np.isfinite(tick_s) and tick_s > 0):
        msg = f"spread_ticks_s is {tick_s!r}; a length in seconds above 0 is allowed"
        raise ValueError(msg)
    # to the nearest, because Mooncake's grid is a few milliseconds off
    ticks = np.rint(trace.arrival_s / tick_s)
    arrival_s = np.sort((ticks + np.random.default_rng(seed).random(len(ticks))) * tick_s)
    return replace(trace, arrival_s=arrival_s).noted(f"rows spread inside ticks of {tick_s:g} s", len(trace))


def read_trace(
    path: str | Path,
    *,
    format: str | None = None,  # noqa: A002 - the field's own word
    zero_output: Literal["drop", "clamp"] = "drop",
    limit: int | None = None,
    spread_ticks_s: float | None = None,
    adapter_column: str | None = None,
    text_tokens: TextTokens | None = None,
    ranks: Sequence[int] = DEFAULT_RANKS,
    seed: int = 0,
) -> Trace:
    """Read a trace file (CSV or JSON lines, gzipped or not) and count in its notes whatever was changed.

    What the file does not tell stands in `lacks` of the result: stamps, lengths or adapters.

    Args:
        path: the file; for `servegen` also a folder.
        format: one of `FORMATS` or `BUNDLES`; None recognises it from the header or the keys.
        zero_output: whether requests without output are dropped as failures or get 1 token.
        limit: rows of the file to read at most.
        spread_ticks_s: length of the grid that stamps lie on (Mooncake: 3 s); rows are spread inside their tick.
        adapter_column: the column of adapter ids where the format has none of its own, such as BurstGPT's `Model`.
        text_tokens: how the tokens of a text are estimated; None refuses a file of texts.
        ranks: dealt in turn to the adapters of a file that names no ranks.
        seed: of that spreading, and of the requests that ServeGen's rates stand for.

    Raises:
        TraceError: with up to 20 problems, each as `path:line: what was wrong, the value, what is allowed`.
        ValueError: if an option is out of range.
    """
    _check_options(zero_output, limit, text_tokens)
    source = Path(path)
    bundle = format if format in BUNDLES else _recognised(source) if format is None else None
    if bundle == "servegen":
        trace = read_servegen(source, limit, adapter_column, ranks, seed)
    elif bundle == "gentd26":
        trace = read_gentd26(source, limit, ranks)
    else:
        trace = _read_rows(source, Wanted(format, limit, adapter_column, text_tokens), zero_output, ranks)
    palette, adapter = by_name(trace.palette, trace.adapter)
    trace = replace(trace, palette=palette, adapter=adapter)
    return trace if spread_ticks_s is None else _spread(trace, spread_ticks_s, seed)


def _recognised(source: Path) -> str | None:
    """Return the format of several files that a path stands for, told by their names."""
    return "gentd26" if is_gentd26(source) else "servegen" if is_servegen(source) else None


def files_of(path: str | Path, format: str | None = None) -> list[Path]:  # noqa: A002 - the field's own word
    """Return the files that a trace is read from, by which two traces of one path can be told apart."""
    source = Path(path)
    bundle = _recognised(source) if format is None else format
    if bundle == "gentd26":
        return gentd26_files(source)
    return servegen_files(source) if bundle == "servegen" else [source]


def _read_rows(source: Path, wanted: Wanted, zero_output: str, ranks: Sequence[int]) -> Trace:
    problems = Problems(source)
    with opened(source) as handle:
        table = _parse(read_rows(handle, wanted, problems), ranks, problems)
    order = _in_order(table, _keep(table, zero_output))
    if not len(order):
        problems.fail(1, f"no row is left: {table.notes}; at least one request is needed")
    if table.ids:
        _note(table, RENUMBERED, np.array([table.ids[row].strip() != str(at) for at, row in enumerate(order)]))
    arrival_s = _seconds(table, order)
    return Trace(
        name=source.name.removesuffix(".gz").rpartition(".")[0] or source.name,
        arrival_s=arrival_s,
        prompt_tokens=table.prompt[order].astype(np.int64),
        output_tokens=np.maximum(table.output[order].astype(np.int64), 1),
        palette=table.palette,
        adapter=table.adapter[order],
        notes=tuple(table.notes),
        lacks=table.lacks,
        line=table.line[order],
    )


def _check_options(zero_output: str, limit: int | None, text_tokens: str | None) -> None:
    if text_tokens not in (None, "words", "characters"):
        msg = f"text_tokens is {text_tokens!r}; 'words' and 'characters' are allowed"
        raise ValueError(msg)
    if zero_output not in ("drop", "clamp"):
        msg = f"zero_output is {zero_output!r}; 'drop' and 'clamp' are allowed"
        raise ValueError(msg)
    if limit is not None and limit < 1:
        msg = f"limit is {limit!r}; at least 1 row is allowed"
        raise ValueError(msg)
