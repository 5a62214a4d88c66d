"""Measures that an earlier start has made, a file for each case; those that other source made do not count."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from sim.fidelity.measures import Measure
from sim.files.textfile import write_text
from sim.results.identity import source_sha256


def made(folder: Path | None, case: object, make: Callable[[], list[Measure]]) -> list[Measure]:
    """Return the measures of a case: those that an earlier start has left, else those made and left now.

    Args:
        folder: of the files; None: nothing is kept.
        case: as `load` takes it.
        make: what makes them.
    """
    known = None if folder is None else load(folder, case)
    if known is not None:
        return known
    found = make()
    if folder is not None:
        save(folder, case, found)
    return found


def load(folder: Path, case: object) -> list[Measure] | None:
    """Return the measures of a case; None if they have not been made.

    Args:
        folder: of the files.
        case: a frozen dataclass, which its text tells from all others.
    """
    path = _path(folder, case)
    if not path.is_file():
        return None
    return [Measure(*fields) for fields in json.loads(path.read_text(encoding="utf-8"))]


def save(folder: Path, case: object, measures: list[Measure]) -> None:
    """Write the measures of a case, whole or not at all."""
    write_text(_path(folder, case), json.dumps(measures) + "\n")


def _path(folder: Path, case: object) -> Path:
    return folder / f"{sha256(f'{source_sha256()} {case!r}'.encode()).hexdigest()}.json"
