"""The adapters that a trace file names, each with one rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from sim.readers.cells import IntArray, Problems, numbers
from sim.trace import AdapterSpec

MAX_RANK = 4096


def by_name(specs: Sequence[AdapterSpec | None], adapter: IntArray) -> tuple[tuple[AdapterSpec | None, ...], IntArray]:
    """Return a palette in order of names, the base model last, as drawn ones have it: ties go by a palette's order.

    Args:
        specs: of each palette entry.
        adapter: palette index of each row, shape (n,).
    """
    names = ["" if spec is None else spec.id for spec in specs]
    order = sorted(range(len(specs)), key=lambda at: (not names[at], names[at]))
    place = np.empty(len(specs), dtype=np.int64)
    place[order] = np.arange(len(specs))
    return tuple(specs[at] for at in order), place[adapter]


@dataclass
class Adapters:
    """The adapters met so far.

    Attributes:
        ranks: dealt in turn, in order of first use, to adapters of a file that names no ranks.
        is_named: whether the file has a column of adapters.
        dealt_rows: rows whose adapter got its rank from `ranks`.
    """

    ranks: Sequence[int]
    index: dict[str, int] = field(default_factory=dict)
    specs: list[AdapterSpec | None] = field(default_factory=list)
    is_named: bool = False
    dealt_rows: int = 0

    def column(
        self, column: str | None, columns: Mapping[str, list[str]], lines: Sequence[int], problems: Problems
    ) -> IntArray:
        """Return the palette index of the adapter of each row, shape (n,); without a column all are for the base."""
        if column is None or column not in columns:
            return self.place([""] * len(lines), None, lines, problems)
        self.is_named = True
        ranks = numbers(columns["rank"], lines, "rank", problems).tolist() if "rank" in columns else None
        return self.place(columns[column], ranks, lines, problems)

    def place(
        self, cells: Sequence[str], ranks: Sequence[float] | None, lines: Sequence[int], problems: Problems
    ) -> IntArray:
        """Return the palette index of each cell, shape (n,); an empty cell is the base model."""
        names = [cell.strip() for cell in cells]
        if ranks is None:
            self.dealt_rows += sum(map(bool, names))
            return np.array([self._dealt(name) for name in names], dtype=np.int64)
        rows = zip(names, ranks, lines, strict=True)
        return np.array([self._checked(name, rank, line, problems) for name, rank, line in rows], dtype=np.int64)

    def _dealt(self, name: str) -> int:
        known = self.index.get(name)
        if known is None:
            rank = self.ranks[sum(spec is not None for spec in self.specs) % len(self.ranks)]
            known = self._add(name, AdapterSpec(name, rank) if name else None)
        return known

    def _checked(self, name: str, rank: float, line: int, problems: Problems) -> int:
        known = self.index.get(name)
        if known is None:
            return self._add(name, _spec(name, rank, line, problems))
        spec = self.specs[known]
        if spec is not None and spec.rank != rank:
            problems.add(line, f"rank of {name!r} is {rank:g}; the rank of its first row, {spec.rank}, is allowed")
        return known

    def _add(self, name: str, spec: AdapterSpec | None) -> int:
        self.index[name] = len(self.specs)
        self.specs.append(spec)
        return self.index[name]

    def notes(self) -> list[tuple[str, int]]:
        """Return what was decided here and not in the file."""
        what = "rows whose adapter has a rank dealt in turn from `ranks`, because the file names none"
        return [(what, self.dealt_rows)] if self.dealt_rows else []


def _spec(name: str, rank: float, line: int, problems: Problems) -> AdapterSpec | None:
    if not name:
        return None
    if not (1 <= rank <= MAX_RANK and rank == int(rank)):
        shown = "empty" if np.isnan(rank) else f"{rank:g}"
        problems.add(line, f"rank of adapter {name!r} is {shown}; a whole number from 1 to {MAX_RANK} is allowed")
        return AdapterSpec(name, 1)
    return AdapterSpec(name, int(rank))
