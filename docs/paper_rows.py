"""A row of docs/paper.md: what is printed, the runs that it is compared with, and the assumptions of those runs."""  # noqa: INP001

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from paper_runs import Cell, Runs
from paper_verdicts import Expect

How = Literal["mean", "cut", "ratio"]
BASELINES = ("slora", "slora-sjf", "slora-no-prefetch", "slora-ideal", "chameleon-no-cache")


class Scenario(NamedTuple):
    """One reading of what the paper leaves open.

    Attributes:
        name: as the page calls it.
        changes: the --set changes of its runs.
        meaning: half a sentence.
        baseline: the changes of systems that keep adapters inside the KV pool, if they differ.
    """

    name: str
    changes: tuple[str, ...]
    meaning: str
    baseline: tuple[str, ...] | None = None

    def of(self, cell: Cell) -> Cell:
        """Return the cell under this reading."""
        is_baseline = cell.system in BASELINES and self.baseline is not None
        return cell.under(self.baseline if is_baseline and self.baseline is not None else self.changes)


class Value(NamedTuple):
    """One number per seed.

    Attributes:
        metric: what is measured, by the names of `paper_measures`.
        of: the runs.
        against: the runs that they are compared with, seed by seed.
        how: the mean; a cut in per cent (100: all of it); a ratio.
        metric_against: of the other runs; None: the same.
    """

    metric: str
    of: Cell
    against: Cell | None = None
    how: How = "mean"
    metric_against: str | None = None

    def cells(self) -> Iterator[Cell]:
        """Yield the runs that are needed."""
        yield self.of
        if self.against is not None:
            yield self.against

    def series(self, runs: Runs) -> list[float]:
        """Return the number seed by seed.

        Raises:
            ValueError: if a run failed.
        """
        own = _column(self.of, self.metric, runs)
        if self.against is None:
            return own
        other = _column(self.against, self.metric_against or self.metric, runs)
        ratios = [one / base for one, base in zip(own, other, strict=True)]
        return ratios if self.how == "ratio" else [100 * (1 - one) for one in ratios]


class Fact(NamedTuple):
    """A number that follows from dimensions and needs no run."""

    value: float

    def cells(self) -> Iterator[Cell]:
        """Yield nothing."""
        return iter(())

    def series(self, runs: Runs) -> list[float]:  # noqa: ARG002 - as of a `Value`
        """Return the number."""
        return [self.value]


class Row(NamedTuple):
    """One printed number in one scenario.

    Attributes:
        figure: where it is printed, and the section of the page.
        what: the quantity.
        printed: as printed.
        expect: the same for the rule.
        values: simulated; several are an order.
        shown: digits after the point and unit of the values.
        scenario: name.
        seen: whether a coefficient was chosen by this very number.
    """

    figure: str
    what: str
    printed: str
    expect: Expect
    values: tuple[Value | Fact, ...]
    shown: str
    scenario: str
    seen: bool = False

    def cells(self) -> list[Cell]:
        """Return the runs of the row, each once."""
        return list(dict.fromkeys(cell for value in self.values for cell in value.cells()))


class Hole(NamedTuple):
    """A printed number that cannot be simulated, and why."""

    figure: str
    what: str
    printed: str
    why: str


def _column(cell: Cell, metric: str, runs: Runs) -> list[float]:
    found = [runs[cell.key(seed)] for seed in range(cell.seeds)]
    if errors := [one["error"] for one in found if "error" in one]:
        msg = f"{cell.command}: {errors[0]}"
        raise ValueError(msg)
    return [float(one[metric]) for one in found]


def verdicts_of(cells: Sequence[Cell], runs: Runs) -> set[str]:
    """Return what was said of the queues of these runs."""
    return {runs[cell.key(seed)].get("verdict", "stable") for cell in cells for seed in range(cell.seeds)}
