"""What every log reader needs: one request of a log, errors with file and line, JSON in its two shapes."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any


class LogError(ValueError):
    """What is wrong in a log, as `path:line: sentence`."""

    def __init__(self, path: Path, line: int, sentence: str) -> None:
        super().__init__(f"{path}:{line}: {sentence}")


@dataclass(frozen=True)
class Entry:
    """One request of a log.

    Attributes:
        line: where it stood, from 1; for files of one object, 1.
        name: its id there.
        arrival_s: on any clock; None if not recorded.
        prompt_tokens: input.
        output_tokens: output, at least 1 if it succeeded.
        ttft_s: first token, from the arrival.
        e2el_s: last token, from the arrival.
        failure: why it failed; empty if it did not.
        adapter: None for the base model or not recorded.
        rank: of the adapter; 0 if not recorded.
    """

    line: int
    name: str
    arrival_s: float | None
    prompt_tokens: int
    output_tokens: int
    ttft_s: float
    e2el_s: float
    failure: str = ""
    adapter: str | None = None
    rank: int = 0

    def using(self, adapter: str) -> Entry:
        """Return the same request on an adapter, unless it names one itself."""
        return self if self.adapter else replace(self, adapter=adapter)


@dataclass(frozen=True)
class Cells:
    """Values of one object of a log, and its place in the file for errors."""

    path: Path
    line: int
    values: Mapping[str, Any]

    def number(self, key: str) -> float:
        """Return a finite number; raises LogError for anything else."""
        value = self.values.get(key)
        try:
            found = math.nan if value is None or isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            found = math.nan
        if not math.isfinite(found):
            raise LogError(self.path, self.line, f"{key} is {value!r}; a number is needed")
        return found

    def arrays(self, *keys: str) -> list[list[Any]]:
        """Return parallel arrays; raises LogError if one is missing or they differ in length."""
        missing = [key for key in keys if not isinstance(self.values.get(key), list)]
        if missing:
            advice = "vllm writes them with --save-detailed, sglang with --output-details"
            raise LogError(
                self.path, self.line, f"per-request arrays are needed; missing: {', '.join(missing)} ({advice})"
            )
        arrays = [list(self.values[key]) for key in keys]
        if len({len(array) for array in arrays}) > 1:
            sizes = ", ".join(f"{key} {len(array)}" for key, array in zip(keys, arrays, strict=True))
            raise LogError(self.path, self.line, f"arrays differ in length: {sizes}")
        return arrays


def text_of(path: Path) -> str:
    """Return the content of a text file; raises LogError for a binary one."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        before = error.object[: error.start]
        byte = f"0x{error.object[error.start]:02x}"
        raise LogError(path, before.count(b"\n") + 1, f"no text in UTF-8: byte {byte} at {error.start}") from None


def document(path: Path) -> Any:
    """Return the content of a JSON file; raises LogError if it is none."""
    try:
        return json.loads(text_of(path))
    except json.JSONDecodeError as error:
        raise LogError(path, error.lineno, f"not JSON: {error.msg}") from None


def lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a file of JSON lines with their lines; raises LogError at the first that is none."""
    for line, text in enumerate(text_of(path).split("\n"), 1):
        if not text.strip():
            continue
        try:
            one = json.loads(text)
        except json.JSONDecodeError as error:
            raise LogError(path, line, f"not a line of JSON: {error.msg}") from None
        if not isinstance(one, dict):
            raise LogError(path, line, f"an object is needed, got {text.strip()[:60]}")
        yield line, one


def table(path: Path) -> Iterator[Cells]:
    """Yield the rows of a CSV or parquet file with their lines; raises LogError for anything else."""
    if path.suffix == ".parquet":
        rows, first = _parquet_rows(path), 1
    else:
        rows, first = _csv_rows(path), 2
    for line, row in enumerate(rows, first):
        yield Cells(path, line, {str(name): value for name, value in row.items()})


def _parquet_rows(path: Path) -> list[dict[Any, Any]]:
    import pandas as pd  # noqa: PLC0415 - takes seconds to import

    content = io.BytesIO(path.read_bytes())  # a file that is missing or locked is told as such
    try:
        found = pd.read_parquet(content)
    except (ValueError, OSError) as error:
        raise LogError(path, 1, f"no parquet file that can be read: {str(error).partition(chr(10))[0]}") from None
    return list(found.astype(object).where(found.notna(), None).to_dict("records"))


def _csv_rows(path: Path) -> list[dict[Any, Any]]:
    reader = csv.DictReader(io.StringIO(text_of(path), newline=""))
    try:
        return list(reader)
    except csv.Error as error:
        raise LogError(path, reader.line_num, f"no CSV: {error}") from None


def single(path: Path) -> Cells:
    """Return the one result that a file holds: an object over many lines, or one line of several that are appended."""
    try:
        whole = json.loads(text_of(path))
    except json.JSONDecodeError:
        found = list(lines(path))
    else:
        found = [(1, whole)] if isinstance(whole, dict) else []
    if len(found) != 1:
        raise LogError(path, 1, f"{len(found)} results in one file; one is allowed, split them")
    return Cells(path, *found[0])
