"""What every log reader needs: one request of a log, errors with file and line, JSON in its two shapes."""

from __future__ import annotations

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


def document(path: Path) -> Any:
    """Return the content of a JSON file; raises LogError if it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise LogError(path, error.lineno, f"not JSON: {error.msg}") from None


def lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a file of JSON lines with their lines; raises LogError at the first that is none."""
    with path.open(encoding="utf-8") as handle:
        for line, text in enumerate(handle, 1):
            if not text.strip():
                continue
            try:
                one = json.loads(text)
            except json.JSONDecodeError as error:
                raise LogError(path, line, f"not a line of JSON: {error.msg}") from None
            if not isinstance(one, dict):
                raise LogError(path, line, f"an object is needed, got {text.strip()[:60]}")
            yield line, one


def single(path: Path) -> Cells:
    """Return the one result that a file holds: an object over many lines, or one line of several that are appended."""
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        found = list(lines(path))
    else:
        found = [(1, whole)] if isinstance(whole, dict) else []
    if len(found) != 1:
        raise LogError(path, 1, f"{len(found)} results in one file; one is allowed, split them")
    return Cells(path, *found[0])
