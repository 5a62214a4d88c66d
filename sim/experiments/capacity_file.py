"""The file of a study of capacity: its answers, their intervals and every load that was tried, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sim.experiments.capacity_study import Answer, Dial, Line
from sim.experiments.objective import Objective, Probe
from sim.files.textfile import write_text
from sim.statistics import Interval

SCHEMA_VERSION = 1


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write what `as_json` returns, whole or not at all."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def as_json(
    table: Sequence[Line], objective: Objective, dial: Dial, *, is_whole: bool, kept: Sequence[Answer] = ()
) -> dict[str, Any]:
    """Return a study as plain values: the answers with their intervals, and every load that was tried.

    Args:
        table: see `lines`.
        objective: what was kept to.
        dial: what was turned.
        is_whole: whether all searches are finished.
        kept: answers of earlier starts that this one has not asked for (yet): neither it nor an interrupt loses them.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "simulated": True,
        "kind": "capacity",
        "complete": is_whole,
        "objective": {"text": str(objective), **objective._asdict()},
        "unit": dial.unit,
        "dial": dial._asdict(),
        "systems": [
            {
                "system": line.system,
                "value": _spelt_out(line.value),
                "ratio": _spelt_out(line.ratio),
                "queues": dict(line.queues),
                "seeds": [_told(one) for one in line.answers],
            }
            for line in table
        ],
        "kept": [_told(one) for one in kept],
    }


def _told(answer: Answer) -> dict[str, Any]:
    return {**answer._asdict(), "probes": [one._asdict() for one in answer.probes]}


def _spelt_out(one: Interval | None) -> dict[str, float | int | None] | None:
    return None if one is None else {"mean": one.estimate, "ci95_low": one.low, "ci95_high": one.high, "n": one.n}


def read(path: Path) -> dict[str, Answer]:
    """Return the answers in a file that `write` wrote, by key; none if there is no such file, or a pipe.

    Raises:
        ValueError: if the file holds anything else, which is then left alone.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        seeds = [one for system in content["systems"] for one in system["seeds"]]
        found = [_answer(one) for one in [*seeds, *content["kept"]]]
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{path} is no result of `chameleon capacity` and is left alone ({type(error).__name__}: {error})"
        raise ValueError(msg) from None
    return {one.key: one for one in found}


def _answer(told: Mapping[str, Any]) -> Answer:
    probes = tuple(Probe(**{**one, "remarks": tuple(one.get("remarks", ()))}) for one in told["probes"])
    return Answer(**{**told, "probes": probes})
