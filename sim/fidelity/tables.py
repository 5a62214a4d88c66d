"""CSV tables of published results: every row checked against a model, every fault told with its line and column."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sim.files.yamltext import ConfigError
from sim.names import did_you_mean

Row = TypeVar("Row", bound=BaseModel)
MAX_PROBLEMS = 20


def read_rows(path: Path, model: type[Row]) -> list[Row]:
    """Return the rows of a CSV file with a header; empty cells are absent values, further columns are left alone.

    Raises:
        ConfigError: with one line for every column that is missing and every cell that is wrong.
        FileNotFoundError: if there is no such file.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        _check_columns(path, reader.fieldnames or (), model)
        rows: list[Row] = []
        problems: list[str] = []
        for cells in reader:
            if None in cells or None in cells.values():
                problems.append(f"{path}:{reader.line_num}: the row has not as many cells as the header has columns")
                continue
            try:
                rows.append(model.model_validate({name: cell for name, cell in cells.items() if name and cell}))
            except ValidationError as error:
                problems += [f"{path}:{reader.line_num}: {_told(one)}" for one in error.errors()]
            if len(problems) >= MAX_PROBLEMS:
                break
    if problems:
        raise ConfigError(problems)
    if not rows:
        raise ConfigError([f"{path}: the table has no rows"])
    return rows


def _check_columns(path: Path, names: Sequence[str], model: type[BaseModel]) -> None:
    missing = [name for name, field in model.model_fields.items() if field.is_required() and name not in names]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError([f"{path}:1: column {name!r} stands there twice" for name in twice])
    if missing:
        raise ConfigError([f"{path}:1: column {name!r} is missing{did_you_mean(name, names)}" for name in missing])


def _told(error: ErrorDetails) -> str:
    where = ".".join(map(str, error["loc"]))
    given = "" if error["type"] == "missing" else f", got {error['input']!r}"
    return f"{where}: {error['msg']}{given}"
