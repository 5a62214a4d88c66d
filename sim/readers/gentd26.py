"""Alibaba GenTD26: stamps and LoRA adapters of a real service of image generation; token lengths it has none.

Two files belong together: `lora_request_trace.csv` has stamps, and the last rows of `data_trace_processed.csv`, in the
same order, have the ids of the adapters. Source: github.com/alibaba/clusterdata, cluster-trace-v2026-GenAI (Lin et al.,
SoCC 2025; research and study only).
"""

from __future__ import annotations

import ast
import csv
import io
import tarfile
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import numpy as np

from sim.readers.adapters import Adapters
from sim.readers.cells import FloatArray, IntArray, Problems, closest, instants
from sim.readers.rows import opened
from sim.trace import Part, Trace

STAMPS_FILE = "lora_request_trace.csv"
IDS_FILE = "data_trace_processed.csv"
PACKED = "data_trace_processed.tar.gz"
STAMP_COLUMNS = ("gmt_create", "predict_status", "num_lora")
ID_COLUMN = "lora_args"
DONE = "SUCCEED"
ONE_BASE = "rows served by one base model, whatever their checkpoint_model_version_id"
SEVERAL = "rows with several adapters, of which the first is kept"
Row = tuple[int, dict[str, str]]


def read_gentd26(path: Path, limit: int | None, ranks: Sequence[int]) -> Trace:
    """Return the requests that succeeded, each with its first adapter or none; the trace lacks lengths.

    Args:
        path: the file with the stamps, or the folder of both.
        limit: rows to read at most.
        ranks: dealt in turn to the adapters, which have none in the data.

    Raises:
        TraceError: if a file is missing or wrong, or the two do not fit one another.
    """
    source = path / STAMPS_FILE if path.is_dir() else path
    problems = Problems(source)
    with opened(source) as handle:
        rows = list(_records(handle, STAMP_COLUMNS, problems))
    ids = _ids_beside(source, len(rows), problems)[:limit]
    rows = rows[:limit]
    loras = [_loras(row, cell, problems) for row, cell in zip(rows, ids, strict=True)]
    time, present = instants(
        [each["gmt_create"] for _, each in rows], [line for line, _ in rows], "gmt_create", problems
    )
    problems.settle()
    is_done = np.array([each["predict_status"] == DONE for _, each in rows], dtype=np.bool_)
    keep = present & is_done
    order = np.flatnonzero(keep)[np.argsort(time[keep], kind="stable")]
    if not len(order):
        problems.fail(1, f"no row is left; at least one with predict_status {DONE} is needed")
    adapters = Adapters(ranks)
    adapter = adapters.place([loras[row][0] if loras[row] else "" for row in order], None, [], problems)
    several = sum(len(loras[row]) > 1 for row in order)
    notes = [*_failures(rows), ("rows with an empty stamp dropped", int((is_done & ~present).sum()))]
    notes += [(SEVERAL, several), (ONE_BASE, len(order)), *adapters.notes()]
    return _trace((time[order] - time[order][0]) / 1e9, adapters, adapter, notes)


def _failures(rows: list[Row]) -> list[tuple[str, int]]:
    failed = Counter(each["predict_status"] for _, each in rows if each["predict_status"] != DONE)
    return [(f"rows with predict_status {status or 'empty'} dropped", count) for status, count in failed.items()]


def _trace(arrival_s: FloatArray, adapters: Adapters, adapter: IntArray, notes: list[tuple[str, int]]) -> Trace:
    nothing = np.zeros(len(arrival_s), dtype=np.int64)
    lacks: frozenset[Part] = frozenset({"lengths"})
    told = tuple((what, count) for what, count in notes if count)
    return Trace("gentd26", arrival_s, nothing, nothing, tuple(adapters.specs), adapter, notes=told, lacks=lacks)


def _records(text: Iterable[str], columns: Sequence[str], problems: Problems) -> Iterator[Row]:
    """Yield (line, cells by column) of every row; raises TraceError if a column is missing."""
    reader = csv.DictReader(text)
    found = [name.strip().lower() for name in reader.fieldnames or ()]
    for name in columns:
        if name not in found:
            problems.fail(1, f"no column {name!r}; the file has {', '.join(found)}{closest(name, found)}")
    reader.fieldnames = found
    for row in reader:
        if None in row or None in row.values():
            problems.add(reader.line_num, f"as many cells as in the header, {len(found)}, are needed")
        else:
            yield reader.line_num, row
    problems.settle()


def _ids_beside(source: Path, count: int, problems: Problems) -> list[str]:
    """Return the adapters' cells of the last `count` rows of the file beside the one with the stamps."""
    beside = _beside(source)
    if beside is None:
        problems.fail(1, f"the adapters' ids are in {IDS_FILE} (or {PACKED}); it is needed in the same folder")
    with _ids_opened(beside) as handle:
        tail = deque(_records(handle, (ID_COLUMN,), Problems(beside)), maxlen=count)
    if len(tail) < count:
        problems.fail(1, f"{count} rows, but {beside.name} has only {len(tail)}; its last ones belong to them")
    return [each[ID_COLUMN] for _, each in tail]


@contextmanager
def _ids_opened(path: Path) -> Iterator[TextIO]:
    """Open the file with the ids, or its member of a tar archive, where names that begin with `._` are no data."""
    if path.name != PACKED:
        with opened(path) as handle:
            yield handle
        return
    try:
        with tarfile.open(path) as archive:
            member = archive.extractfile(IDS_FILE)
            if member is None:
                Problems(path).fail(1, f"no file {IDS_FILE} in the archive")
            with io.TextIOWrapper(member, encoding="utf-8-sig", newline="") as text:
                yield text
    except (tarfile.TarError, KeyError, OSError, EOFError) as error:
        Problems(path).fail(1, f"the archive cannot be read: {error}")


def _loras(row: Row, cell: str, problems: Problems) -> list[str]:
    """Return the ids of a row's adapters, checked against the number that the row itself says."""
    line, each = row
    try:
        found = [str(one["modelVersionId"]) for one in ast.literal_eval(cell or "[]")]
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError):
        text = f"lora_args of this request, in {IDS_FILE}, is {cell[:60]!r}"
        problems.add(line, f"{text}; a list of {{'modelVersionId': ...}} is allowed")
        return []
    if str(len(found)) != each["num_lora"].strip():
        text = f"num_lora is {each['num_lora']!r}, and {IDS_FILE} has {len(found)} adapters for this request"
        problems.add(line, f"{text}; both files must be of the same release, with their rows in order")
    return found


def _beside(source: Path) -> Path | None:
    return next((path for name in (IDS_FILE, PACKED) if (path := source.with_name(name)).is_file()), None)


def gentd26_files(path: Path) -> list[Path]:
    """Return the file of stamps and the one beside it with the ids, if it is there."""
    source = path / STAMPS_FILE if path.is_dir() else path
    beside = _beside(source)
    return [source] if beside is None else [source, beside]


def is_gentd26(path: Path) -> bool:
    """Whether a path is the data set's folder or its file of stamps."""
    return path.name == STAMPS_FILE or (path / STAMPS_FILE).is_file()
