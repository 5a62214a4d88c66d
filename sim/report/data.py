"""What a report reads of finished runs: a few columns of all seeds, and the state over time of the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sim.experiments.comparison import Side
from sim.results.rundir import RunData

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("request_id", "arrival_s", "ttft_s", "adapter_rank")
PARTS = ("queue_s", "adapter_wait_s", "overhead_s", "prefill_s", "preempt_s")


@dataclass(frozen=True, eq=False)
class Arm:
    """One run, or the replications of one, as a report needs it.

    Attributes:
        side: the runs by seed.
    """

    side: Side

    @property
    def label(self) -> str:
        """What it is called in the report."""
        return self.side.label

    @property
    def seeds(self) -> list[int]:
        """The seeds, ascending."""
        return sorted(self.side.runs)

    @property
    def runs(self) -> list[RunData]:
        """The runs in order of their seeds."""
        return [self.side.runs[seed] for seed in self.seeds]

    @property
    def first(self) -> RunData:
        """The run of the first seed, which is shown over time."""
        return self.runs[0]

    @property
    def summaries(self) -> list[dict[str, Any]]:
        """The numbers of each seed."""
        return [run.summary for run in self.runs]

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration of the first seed."""
        return self.first.config

    @cached_property
    def requests(self) -> pd.DataFrame:
        """Requests with a first token, of all seeds together."""
        import pandas as pd  # noqa: PLC0415 - takes seconds to import

        tables = [run.columns("requests", (*COLUMNS, *PARTS)) for run in self.runs]
        pooled = pd.concat(tables, ignore_index=True)
        return pooled[pooled["ttft_s"].notna()].reset_index(drop=True)


def arms_of(sides: Sequence[Side]) -> list[Arm]:
    """Return an arm per side.

    Raises:
        ValueError: if no request of a side got a first token, because there is nothing to draw then.
    """
    arms = [Arm(side) for side in sides]
    for arm in arms:
        if not len(arm.requests):
            msg = f"{arm.first.directory}: no request got a first token; there is nothing to report"
            raise ValueError(msg)
    return arms
