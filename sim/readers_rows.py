"""Rows of a trace file: opening, recognising the format, splitting into cells with their lines. No numbers here."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from sim.readers_cells import BoolArray, Problems, TimeArray, TraceError, closest, durations, instants

CHUNK_ROWS = 2048  # small chunks stay in the processor's cache: twice as fast as 65536
TimeParser = Callable[[Sequence[str], Sequence[int], str, Problems], tuple[TimeArray, BoolArray]]


@dataclass(frozen=True)
class Format:
    """One kind of file: the names of its columns and the unit of its stamps.

    Attributes:
        per_s: stamp units in one second, after `times` has parsed them.
        tells_apart: columns that must be there before the format is recognised without being named.
        not_with: columns of another format that has the same names in another unit.
        rebase: whether the first stamp becomes second 0.
    """

    name: str
    is_json: bool
    time: str
    prompt: str
    output: str
    per_s: float
    times: TimeParser
    optional: tuple[str, ...] = ()
    tells_apart: tuple[str, ...] = ()
    not_with: tuple[str, ...] = ()
    rebase: bool = True

    @property
    def needed(self) -> tuple[str, ...]:
        """Names of the columns without which nothing can be read."""
        return (self.time, self.prompt, self.output)


FORMATS = {
    each.name: each
    for each in (
        Format(
            "canonical",
            is_json=False,
            time="arrival_s",
            prompt="input_tokens",
            output="output_tokens",
            per_s=1,
            times=durations,
            optional=("request_id", "adapter_id", "rank"),
            rebase=False,
        ),
        Format("azure", False, "timestamp", "contexttokens", "generatedtokens", 1e9, instants),  # noqa: FBT003
        Format("vidur", False, "arrived_at", "num_prefill_tokens", "num_decode_tokens", 1, durations),  # noqa: FBT003
        Format(
            "mooncake",
            is_json=True,
            time="timestamp",
            prompt="input_length",
            output="output_length",
            per_s=1000,
            times=durations,
            tells_apart=("hash_ids",),
            not_with=("chat_id",),  # Bailian: seconds
        ),
    )
}


@dataclass
class Rows:
    """The cells of a file as they are read.

    Attributes:
        format: the format recognised or asked for.
        chunks: successive (lines, columns by name), at most `CHUNK_ROWS` rows each.
        passed_over: rows in which something was not used, by what it was; complete once `chunks` is spent.
    """

    format: Format
    chunks: Iterator[tuple[list[int], dict[str, list[str]]]]
    passed_over: Counter[str] = field(default_factory=Counter)


@contextmanager
def opened(path: Path) -> Iterator[TextIO]:
    """Open a text file, gzipped or not, without its byte-order mark; the system's objections become a TraceError."""
    try:
        with path.open("rb") as raw:
            is_gzip = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            binary = gzip.GzipFile(fileobj=raw) if is_gzip else raw
            with io.TextIOWrapper(binary, encoding="utf-8-sig", newline="") as text:
                yield text
    except UnicodeDecodeError as error:
        raise TraceError(
            [f"{path}:1: the file is not UTF-8 text ({error.reason}); CSV or JSON lines are allowed"]
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or f"damaged gzip data: {error}"
        raise TraceError([f"{path}:1: the file cannot be read: {reason}"]) from None


def _first_line(handle: TextIO, problems: Problems) -> tuple[int, str]:
    """Return the number and text of the first line that is not blank."""
    found = next(((number, line) for number, line in enumerate(handle, start=1) if line.strip()), None)
    return found or problems.fail(1, "the file is empty; a header or a JSON object is needed")


def _recognise(found: Sequence[str], *, is_json: bool) -> Format | None:
    def fits(each: Format) -> bool:
        named = set(each.needed + each.tells_apart) <= set(found)
        return each.is_json == is_json and named and set(each.not_with).isdisjoint(found)

    return next((each for each in FORMATS.values() if fits(each)), None)


def _check_names(chosen: Format, found: Sequence[str], line: int, problems: Problems) -> None:
    for name in chosen.needed:
        if name not in found:
            text = f"no column {name!r} for the format {chosen.name!r}; the file has {', '.join(found)}"
            problems.add(line, text + closest(name, found))
    for name, times in Counter(found).items():
        if times > 1 and name in chosen.needed + chosen.optional:
            problems.add(line, f"column {name!r} stands {times} times in the header; once is allowed")
    problems.settle()


def choose(name: str | None, found: Sequence[str], line: int, problems: Problems, *, is_json: bool) -> Format:
    """Return the format asked for, or the one that the column names (lower case) tell; never guesses between units."""
    if name is not None and name not in FORMATS:
        problems.fail(line, f"the format is {name!r}; allowed are {', '.join(FORMATS)}{closest(name, FORMATS)}")
    chosen = FORMATS[name] if name is not None else _recognise(found, is_json=is_json)
    if chosen is None:
        names = "; ".join(f"{each.name}: {', '.join(each.needed + each.tells_apart)}" for each in FORMATS.values())
        unknown = f"no known format has the columns {', '.join(found)}"
        near = _nearest(found)
        problems.fail(line, f"{unknown}; allowed without naming a format are {names}{near}")
    if chosen.is_json != is_json:
        kinds = ("CSV", "JSON lines")
        problems.fail(line, f"the file holds {kinds[is_json]}; the format {chosen.name!r} is {kinds[chosen.is_json]}")
    _check_names(chosen, found, line, problems)
    return chosen


def _nearest(found: Sequence[str]) -> str:
    """Return the closest match of the first column that is not known but nearly so."""
    known = sorted({name for each in FORMATS.values() for name in each.needed})
    return next((near for name in found if name not in known and (near := closest(name, known))), "")


def read_rows(handle: TextIO, format_name: str | None, limit: int | None, problems: Problems) -> Rows:
    """Recognise the format from the first line and return its rows, at most `limit` of them."""
    number, line = _first_line(handle, problems)
    is_json = line.lstrip().startswith("{")
    read = _read_json if is_json else _read_csv
    return read(itertools.chain([line], handle), number, format_name, limit, problems)


def _read_csv(text: Iterable[str], first: int, format_name: str | None, limit: int | None, problems: Problems) -> Rows:
    reader = csv.reader(text, skipinitialspace=True)
    header = [name.strip().lower() for name in next(reader)]
    chosen = choose(format_name, header, first, problems, is_json=False)
    wanted = [name for name in chosen.needed + chosen.optional if name in header]
    rows = Rows(chosen, iter(()))
    extra = [name for name in header if name not in wanted]

    def chunks() -> Iterator[tuple[list[int], dict[str, list[str]]]]:
        records = itertools.islice(_records(reader, first - 1, len(header), rows.passed_over, problems), limit)
        while chunk := list(itertools.islice(records, CHUNK_ROWS)):
            rows.passed_over.update({f"column {name!r} not used": len(chunk) for name in extra})
            columns = list(zip(*(row for _, row in chunk), strict=True))
            yield [at for at, _ in chunk], {name: list(columns[header.index(name)]) for name in wanted}

    rows.chunks = chunks()
    return rows


def _records(
    reader: Iterator[list[str]], before: int, width: int, passed_over: Counter[str], problems: Problems
) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, cells) of every row that has as many cells as the header."""
    line_of = before
    try:
        for row in reader:
            line_of = before + reader.line_num  # type: ignore[attr-defined]
            if not row:
                passed_over["blank lines passed over"] += 1
            elif len(row) != width:
                problems.add(line_of, f"{len(row)} cells; {width} are needed, as many as in the header")
            else:
                yield line_of, row
    except csv.Error as error:
        problems.fail(line_of + 1, f"not CSV: {error}")


def _read_json(text: Iterable[str], first: int, format_name: str | None, limit: int | None, problems: Problems) -> Rows:
    passed_over: Counter[str] = Counter()
    objects = _objects(text, first, passed_over, problems)
    start = next(objects, None)
    if start is None:
        problems.settle()
        problems.fail(first, "no JSON object in the file")
    names = list(start[1])
    chosen = choose(format_name, names, start[0], problems, is_json=True)
    rows = Rows(chosen, iter(()), passed_over)
    extra = [name for name in names if name not in chosen.needed]

    def chunks() -> Iterator[tuple[list[int], dict[str, list[str]]]]:
        records = itertools.islice(itertools.chain([start], objects), limit)
        whole = (record for record in records if _has_all(record, chosen, problems))
        while chunk := list(itertools.islice(whole, CHUNK_ROWS)):
            passed_over.update({f"column {name!r} not used": len(chunk) for name in extra})
            columns = {name: [_as_cell(each[name]) for _, each in chunk] for name in chosen.needed}
            yield [at for at, _ in chunk], columns

    rows.chunks = chunks()
    return rows


def _as_cell(value: object) -> str:
    return "" if value is None else str(value)


def _has_all(record: tuple[int, dict[str, object]], chosen: Format, problems: Problems) -> bool:
    line, values = record
    absent = [name for name in chosen.needed if name not in values]
    for name in absent:
        text = f"no key {name!r}; the object has {', '.join(values)}"
        problems.add(line, text + closest(name, values))
    return not absent


def _objects(
    text: Iterable[str], first: int, passed_over: Counter[str], problems: Problems
) -> Iterator[tuple[int, dict[str, object]]]:
    """Yield (line, object with its keys in lower case) of every line that is not blank."""
    for number, line in enumerate(text, start=first):
        if not line.strip():
            passed_over["blank lines passed over"] += 1
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            problems.add(number, f"not JSON: {error}, in {line.strip()[:60]!r}; one object on each line is allowed")
            continue
        if isinstance(value, dict):
            yield number, {str(key).strip().lower(): each for key, each in value.items()}
        else:
            problems.add(number, f"the line is {line.strip()[:60]!r}; one JSON object on each line is allowed")
