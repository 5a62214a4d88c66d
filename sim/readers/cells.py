"""Cells of a trace file turned into numbers and instants; what is wrong is collected with its line. No files here."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Never

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
TimeArray = npt.NDArray[np.int64] | npt.NDArray[np.float64]

MAX_PROBLEMS = 20
MAX_TOKENS = 2**31 - 1
_MISSING = frozenset({"", "nan", "null", "none", "na", "n/a"})
_UNUSUAL = re.compile(r"[^0-9.+\-eE\n]")
_NUMBER = re.compile(r"[+-]?(\d{1,3}(,\d{3})+|\d+)(\.\d*)?([eE][+-]?\d+)?|[+-]?\.\d+([eE][+-]?\d+)?", re.ASCII)
_INSTANT = re.compile(
    r"((?:19[7-9]|2[01]\d)\d-\d\d-\d\d)[ T](\d\d:\d\d:\d\d(?:\.\d{1,9})?) ?(?:([Zz])|([+-]\d\d):?(\d\d))?", re.ASCII
)


class TraceError(ValueError):
    """A trace file that cannot be read; one line for each problem: `path:line: what, the value, what is allowed`."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class Problems:
    """What is wrong with one file so far; stops reading once there are `MAX_PROBLEMS`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: list[tuple[int, str]] = []

    def add(self, line: int, text: str) -> None:
        """Note a problem; raises TraceError when the list is full."""
        self.found.append((line, text))
        if len(self.found) >= MAX_PROBLEMS:
            self.settle()

    def settle(self) -> None:
        """Raise TraceError with all problems in the order of their lines, or do nothing if there are none."""
        if self.found:
            raise TraceError([f"{self.path}:{line}: {text}" for line, text in sorted(self.found)])

    def fail(self, line: int, text: str) -> Never:
        """Raise TraceError now, with this problem and those before it."""
        self.found.append((line, text))
        raise TraceError([f"{self.path}:{at}: {what}" for at, what in sorted(self.found)])


def closest(name: str, known: Iterable[str]) -> str:
    """Return `; closest match: ...` for a misspelt name, or nothing where none is close."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; closest match: {matches[0]!r}" if matches else ""


def _number(cell: str) -> float | None:
    """Return one number, NaN for a cell that says it is empty, None for text."""
    text = cell.strip()
    if text.lower() in _MISSING:
        return float("nan")
    return float(text.replace(",", "")) if _NUMBER.fullmatch(text) else None


def numbers(cells: Sequence[str], lines: Sequence[int], column: str, problems: Problems) -> FloatArray:
    """Return the numbers in a column, shape (n,), NaN where a cell is empty."""
    joined = "\n".join(cells)
    if not _UNUSUAL.search(joined):
        try:
            return np.array(cells, dtype=np.str_).astype(np.float64)
        except ValueError:
            pass  # an empty cell or a stray sign: look at each cell instead
    values = [_number(cell) for cell in cells]
    for line, cell, value in zip(lines, cells, values, strict=True):
        if value is None:
            problems.add(line, f"{column} is {cell!r}; a number is needed, such as 1374, 12.0 or '1,374'")
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _refuse(bad: BoolArray, cells: Sequence[str], lines: Sequence[int], problems: Problems, text: str) -> None:
    for row in np.flatnonzero(bad).tolist():
        problems.add(lines[row], text.format(cell=cells[row]))


def tokens(cells: Sequence[str], lines: Sequence[int], column: str, problems: Problems) -> FloatArray:
    """Return whole numbers of tokens from 0, shape (n,), NaN where a cell is empty."""
    values = numbers(cells, lines, column, problems)
    known = np.where(np.isnan(values), 0.0, values)
    bad = (known < 0) | (known > MAX_TOKENS) | (known != np.floor(known))
    _refuse(bad, cells, lines, problems, f"{column} is {{cell!r}}; whole tokens from 0 to {MAX_TOKENS} are allowed")
    return values


def durations(
    cells: Sequence[str], lines: Sequence[int], column: str, problems: Problems
) -> tuple[FloatArray, BoolArray]:
    """Return numeric stamps in the file's own unit and which of them are present, both of shape (n,)."""
    values = numbers(cells, lines, column, problems)
    present = ~np.isnan(values)
    known = np.where(present, values, 0.0)
    bad = ~np.isfinite(known) | (known < 0)
    _refuse(bad, cells, lines, problems, f"{column} is {{cell!r}}; a finite time of at least 0 is allowed")
    return np.where(bad, 0.0, known), present


def whole_stamps(
    cells: Sequence[str], lines: Sequence[int], column: str, problems: Problems
) -> tuple[npt.NDArray[np.int64], BoolArray]:
    """Return whole stamps to the last digit, which 64-bit nanoseconds need, and which are present, shape (n,) each."""
    stamps = []
    for line, cell in zip(lines, cells, strict=True):
        text = cell.strip()
        is_whole = text.isascii() and text.isdecimal() and int(text) < 2**63
        if not is_whole and text.lower() not in _MISSING:
            problems.add(line, f"{column} is {cell!r}; a whole number from 0 to 2^63 - 1 is needed")
        stamps.append(int(text) if is_whole else 0)
    present = np.array([cell.strip().lower() not in _MISSING for cell in cells], dtype=np.bool_)
    return np.array(stamps, dtype=np.int64), present


def _zone_ns(match: re.Match[str]) -> int:
    """Return how far a stamp's zone is ahead of UTC, in ns."""
    if match[4] is None:
        return 0
    minutes = abs(int(match[4])) * 60 + int(match[5])
    return (-minutes if match[4].startswith("-") else minutes) * 60 * 10**9


def _parsed(stamps: Sequence[str]) -> npt.NDArray[np.int64]:
    return np.array(stamps, dtype="datetime64[ns]").astype(np.int64)


def _is_date(stamp: str) -> bool:
    try:
        datetime.fromisoformat(stamp[:19])
    except ValueError:
        return False
    return True


def instants(
    cells: Sequence[str], lines: Sequence[int], column: str, problems: Problems
) -> tuple[npt.NDArray[np.int64], BoolArray]:
    """Return dates as ns since 1970 (UTC where no zone is given) and which are present, both of shape (n,)."""
    stamps: list[str] = []
    zones_ns: list[int] = []
    for line, cell in zip(lines, cells, strict=True):
        match = _INSTANT.fullmatch(cell.strip())
        stamp = f"{match[1]}T{match[2]}" if match else "1970-01-01T00:00:00"
        if (match is None and cell.strip().lower() not in _MISSING) or (match and not _is_date(stamp)):
            text = "a date and time is needed, such as 2023-11-16 18:15:46.6805900 (at most 9 digits, Z or +00:00)"
            problems.add(line, f"{column} is {cell!r}; {text}")
            stamp = "1970-01-01T00:00:00"
        stamps.append(stamp)
        zones_ns.append(_zone_ns(match) if match else 0)
    present = np.array([cell.strip().lower() not in _MISSING for cell in cells], dtype=np.bool_)
    return _parsed(stamps) - np.array(zones_ns, dtype=np.int64), present
