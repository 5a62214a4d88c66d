"""Whether two runs did the same, and if not, where they parted."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sim.serving.records import NEVER, Records, Table
from sim.serving.ticks import to_seconds

CUT_AS_ONE_LIKES = {"segments", "gaps", "memory"}  # tables that may tell the same in other rows
ROW_NUMBERS = {"first_segment", "last_segment"}
COUNTS = {"status", "source", "load_bytes", "preemptions", "bypassed", "steps", "batch_sum", "lane", "weight_ppm"}

UNITS = (("us", 1e6), ("ms", 1e3), ("s", 1.0))


def told(records: Records) -> dict[str, Any]:
    """Return everything that a run did, however its decode steps were taken together."""
    tables = {name: value for name, value in vars(records).items() if isinstance(value, Table)}
    same = {name: _columns(table) for name, table in tables.items() if name not in CUT_AS_ONE_LIKES}
    rest = {name: value for name, value in vars(records).items() if name not in tables}
    return same | rest | {"gaps": _gaps(records), "memory": _memory(records)}


def difference(one: Records, other: Records) -> str | None:
    """Return where two runs of the same requests first parted, in words; None if they did the same."""
    left, right = told(one), told(other)
    if left == right:
        return None
    by_id = [
        {row[0]: row for row in zip(*table.values(), strict=True)} for table in (left["requests"], right["requests"])
    ]
    if by_id[0].keys() != by_id[1].keys():
        return f"{len(by_id[0])} requests left the engine, and {len(by_id[1])} the other time"
    for request, row in sorted(by_id[0].items()):
        for column, value, then in zip(left["requests"], row, by_id[1][request], strict=True):
            if value != then:
                return f"request {request}: {column} {_shown(column, value)}, and {_shown(column, then)} the other time"
    if left["requests"] != right["requests"]:
        return "the same requests left at the same times, but in another order"
    parted = next(name for name in left if left[name] != right[name])
    return f"the requests fared the same, but the {parted.replace('_', ' ')} differ"


def _columns(table: Table) -> dict[str, list[int]]:
    return {column: table[column].tolist() for column in table.columns if column not in ROW_NUMBERS}


def _gaps(records: Records) -> Counter[int]:
    """Return how many requests waited how many ticks for a token, one segment's steps told one by one."""
    gaps: Counter[int] = Counter()
    for gap, weight in zip(records.gaps["gap"].tolist(), records.gaps["weight"].tolist(), strict=True):
        gaps[gap] += weight
    columns = (records.segments[name].tolist() for name in ("first", "growth", "count", "batch"))
    for first, growth, count, batch in zip(*columns, strict=True):
        for step in range(1, count):
            gaps[first + growth * step] += batch
    return gaps


def _memory(records: Records) -> dict[int, tuple[int, ...]]:
    """Return the last row of every instant."""
    return {time: tuple(rest) for time, *rest in zip(*_columns(records.memory).values(), strict=True)}


def _shown(column: str, value: int) -> str:
    return str(value) if column in COUNTS else duration(value)


def duration(ticks: int) -> str:
    """Return a time in the unit that suits it."""
    if ticks == NEVER:
        return "never"
    if ticks == 0:
        return "0"
    seconds = to_seconds(ticks)
    unit, scale = next(((unit, scale) for unit, scale in UNITS if seconds * scale < 1000), UNITS[-1])
    return f"{seconds * scale:.9g} {unit}"
