"""Rows of a trace file: opening, recognising the format, splitting into cells with their lines. No numbers here."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Never, TextIO

from sim.readers.cells import Problems, TraceError, closest
from sim.readers.formats import FORMATS, Format, Kind
from sim.readers.prepare import Room, TextTokens

BUNDLES = ("servegen", "gentd26")  # formats of several files, which have readers of their own
CHUNK_ROWS = 2048  # small chunks stay in the processor's cache: twice as fast as 65536


@dataclass(frozen=True)
class Wanted:
    """What the caller asks for.

    Attributes:
        format: its name; None recognises it.
        limit: rows of the file to read at most.
        adapter_column: the column of adapter ids; None leaves the format's own.
        text_tokens: how tokens of a text are estimated; None refuses texts.
    """

    format: str | None = None
    limit: int | None = None
    adapter_column: str | None = None
    text_tokens: TextTokens | None = None


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


def _check_names(chosen: Format, required: Iterable[str], found: Sequence[str], line: int, problems: Problems) -> None:
    """Say which columns are missing or stand twice; those that are made of others are looked for row by row."""
    for name in required:
        if name not in found:
            text = f"no column {name!r} for the format {chosen.name!r}; the file has {', '.join(found)}"
            problems.add(line, text + closest(name, found))
    for name, times in Counter(found).items():
        if times > 1 and name in chosen.used:
            problems.add(line, f"column {name!r} stands {times} times in the header; once is allowed")
    problems.settle()


def choose(wanted: Wanted, found: Sequence[str], line: int, problems: Problems, kind: Kind) -> Format:
    """Return the format asked for, or the one that the column names (lower case) tell; never guesses between units."""
    name = wanted.format
    if name is not None and name not in FORMATS:
        known = [*FORMATS, *BUNDLES]
        problems.fail(line, f"the format is {name!r}; allowed are {', '.join(known)}{closest(name, known)}")
    chosen = FORMATS[name] if name is not None else _recognised(found, line, problems, kind)
    if kind not in chosen.kinds:
        problems.fail(line, f"the file holds {kind}; the format {chosen.name!r} is {' or '.join(chosen.kinds)}")
    required = () if chosen.prepare else chosen.needed
    if wanted.adapter_column is not None:
        adapter = chosen.named(wanted.adapter_column.strip().lower())
        chosen, required = replace(chosen, adapter=adapter), (*required, adapter)
    _check_names(chosen, required, [chosen.named(column) for column in found], line, problems)
    return chosen


def _recognised(found: Sequence[str], line: int, problems: Problems, kind: Kind) -> Format:
    fitting = next((each for each in FORMATS.values() if each.fits(found, kind)), None)
    return fitting or _unknown(found, line, problems)


def _unknown(found: Sequence[str], line: int, problems: Problems) -> Never:
    told = [f"{each.name}: {', '.join(group)}" for each in FORMATS.values() for group in each.told_by]
    named = ", ".join(each.name for each in FORMATS.values() if not each.told_by)
    unknown = f"no known format has the columns {', '.join(found)}"
    problems.fail(
        line,
        f"{unknown}; allowed without naming a format are {'; '.join(told)}; "
        f"formats that must be named are {named}{_nearest(found)}",
    )


def _nearest(found: Sequence[str]) -> str:
    """Return the closest match of the first column that is not known but nearly so."""
    known = sorted({name for each in FORMATS.values() for name in each.needed})
    return next((near for name in found if name not in known and (near := closest(name, known))), "")


def read_rows(handle: TextIO, wanted: Wanted, problems: Problems) -> Rows:
    """Recognise the format from the first line and return its rows, at most `limit` of them."""
    number, line = _first_line(handle, problems)
    if line.lstrip().startswith("["):
        problems.fail(number, "the file is one JSON array; JSON lines, one object on each, are allowed")
    read = _read_json if line.lstrip().startswith("{") else _read_csv
    return read(itertools.chain([line], handle), number, wanted, problems)


def _read_csv(text: Iterable[str], first: int, wanted: Wanted, problems: Problems) -> Rows:
    reader = csv.reader(text, skipinitialspace=True)
    header = [name.strip().lower() for name in next(reader)]
    chosen = choose(wanted, header, first, problems, "CSV")
    header = [chosen.named(name) for name in header]
    used = [name for name in chosen.used if name in header]
    rows = Rows(chosen, iter(()))
    extra = [name for name in header if name not in used]

    def chunks() -> Iterator[tuple[list[int], dict[str, list[str]]]]:
        records = itertools.islice(_records(reader, first - 1, len(header), rows.passed_over, problems), wanted.limit)
        while chunk := list(itertools.islice(records, CHUNK_ROWS)):
            rows.passed_over.update({f"column {name!r} not used": len(chunk) for name in extra})
            columns = list(zip(*(row for _, row in chunk), strict=True))
            yield [at for at, _ in chunk], {name: list(columns[header.index(name)]) for name in used}

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


def _read_json(text: Iterable[str], first: int, wanted: Wanted, problems: Problems) -> Rows:
    passed_over: Counter[str] = Counter()
    objects = _objects(text, first, passed_over, problems)
    start = next(objects, None)
    if start is None:
        problems.settle()
        problems.fail(first, "no JSON object in the file")
    chosen = choose(wanted, list(start[1]), start[0], problems, "JSON lines")
    rows = Rows(chosen, iter(()), passed_over)

    def chunks() -> Iterator[tuple[list[int], dict[str, list[str]]]]:
        records = itertools.islice(itertools.chain([start], objects), wanted.limit)
        ours = ((line, {chosen.named(key): value for key, value in each.items()}) for line, each in records)
        prepared = chosen.prepare(ours, Room(passed_over, problems, wanted.text_tokens)) if chosen.prepare else ours
        whole = (record for record in prepared if _has_all(record, chosen, problems))
        extra: list[str] | None = None
        while chunk := list(itertools.islice(whole, CHUNK_ROWS)):
            extra = [name for name in chunk[0][1] if name not in chosen.used] if extra is None else extra
            passed_over.update({f"column {name!r} not used": len(chunk) for name in extra})
            used = [name for name in chosen.used if any(name in each for _, each in chunk)]
            yield [at for at, _ in chunk], {name: [_as_cell(each.get(name)) for _, each in chunk] for name in used}

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
