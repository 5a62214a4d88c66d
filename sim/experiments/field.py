"""Every packaged system beside every other: the runs behind `chameleon systems table`, and its rows.

All serve the same requests on the same card with the same memory, seed by seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sim.config import RunConfig, load_config
from sim.experiments.sweep import Cell, Row, cells, rows
from sim.results.summary import Summary
from sim.statistics import Interval, mean_interval
from sim.workload.locality import Locality

RATES_PER_S = (6.0, 8.0, 9.0)  # low, medium and high load, as Chameleon (MICRO'25) calls them
REQUESTS = 1000  # of a run
REPS = 5
# What is left of an A40 beside Llama-7B's weights is 34.5 GB; so much less leaves 7.5 GB.
MEMORY = ("hardware=a40", "model=llama-7b", "memory.reserve_bytes=27000000000")
SESSIONS = Locality()


class Setting(NamedTuple):
    """What a block of the table has in common.

    Attributes:
        slug: a word for paths.
        title: a few words.
        rates_per_s: loads.
        workload: options of the workload.
        changes: texts such as "memory.kv_pool_tokens=6000".
    """

    slug: str
    title: str
    rates_per_s: tuple[float, ...]
    workload: Mapping[str, Any] = {}
    changes: tuple[str, ...] = ()


class Line(NamedTuple):
    """One system in one block of the table, at one load."""

    row: Row
    loaded_gb: Interval | None


class Block(NamedTuple):
    """One setting at one load, a line for each system."""

    setting: Setting
    rate_per_s: float
    lines: tuple[Line, ...]


def settings(rates_per_s: tuple[float, ...] = RATES_PER_S) -> tuple[Setting, ...]:
    """Return the settings of the table."""
    sessions = {"locality": SESSIONS.model_dump()}
    return (
        Setting("independent", "adapters drawn independently", rates_per_s),
        Setting("sessions", "sessions with drift", rates_per_s, sessions),
        Setting("small-pool", "a KV pool of 6000 tokens", rates_per_s[-1:], {}, ("memory.kv_pool_tokens=6000",)),
    )


def plan(setting: Setting, systems: Sequence[str], reps: int, requests: int, keep: Path | None) -> list[Cell]:
    """Return the runs of one setting.

    Args:
        setting: what they have in common.
        systems: packaged names or files.
        reps: seeds, counted up from 0.
        requests: of each run.
        keep: below which every run gets a directory of its own; None keeps none.

    Raises:
        ConfigError: if a system does not fit the card.
    """
    workload = {"preset": "paper", "requests": requests, **setting.workload}
    out = None if keep is None else keep / setting.slug
    changes, extra = (*MEMORY, *setting.changes), {"workload": workload, "seed": 0}
    return cells(systems, setting.rates_per_s, reps, changes=changes, extra=extra, out=out)


def blocks(setting: Setting, finished: Sequence[tuple[Cell, Summary]]) -> Iterator[Block]:
    """Yield a block for each load, ascending."""
    loaded: dict[tuple[float, str], list[float]] = {}
    for cell, summary in finished:
        place = cell.rate_per_s, cell.system
        loaded.setdefault(place, []).append(summary["adapters"]["bytes_loaded"] / 1e9)
    lines = [Line(row, mean_interval(loaded[row.rate_per_s, row.system])) for row in rows(finished)]
    for rate in setting.rates_per_s:
        yield Block(setting, rate, tuple(line for line in lines if line.row.rate_per_s == rate))


def alike(block: Block) -> list[list[str]]:
    """Return the groups of systems that did exactly the same in a block, as far as its numbers tell."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for row, loaded_gb in block.lines:
        told = (row.p50_ms, row.p99_ms, row.hit_rate, loaded_gb, row.completed)
        groups.setdefault(told, []).append(row.system)
    return [group for group in groups.values() if len(group) > 1]


def configs(systems: Sequence[str]) -> dict[str, RunConfig]:
    """Return the configuration of each system on the table's card, by its name."""
    found = [load_config(system, MEMORY).config for system in systems]
    return {config.name: config for config in found}
