"""A workload as columns: arrivals, lengths and adapters of requests. No reading, no drawing here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

Part = Literal["arrivals", "lengths", "adapters"]


@dataclass(frozen=True)
class AdapterSpec:
    """An adapter as a workload names it; its bytes follow from the model that serves it."""

    id: str
    rank: int


@dataclass(frozen=True, eq=False)
class Trace:
    """One row per request, in arrival order; the row number is the request id.

    Attributes:
        name: what the trace is called in results.
        arrival_s: shape (n,), float64, seconds from the start, not decreasing.
        prompt_tokens: shape (n,), int64, at least 1.
        output_tokens: shape (n,), int64, at least 1.
        palette: the adapters that rows point to; an entry None stands for the base model.
        adapter: shape (n,), int64, index into `palette`.
        notes: what was changed or dropped while the trace was made, as (what, rows).
        lacks: what its source does not tell and is drawn before it is simulated; until then stamps and lengths are 0
            and every row is for the base model.
        line: shape (n,), int64, the line of its file that each request was read from, from 1; None: from no such file.
    """

    name: str
    arrival_s: npt.NDArray[np.float64]
    prompt_tokens: npt.NDArray[np.int64]
    output_tokens: npt.NDArray[np.int64]
    palette: tuple[AdapterSpec | None, ...]
    adapter: npt.NDArray[np.int64]
    notes: tuple[tuple[str, int], ...] = field(default=())
    lacks: frozenset[Part] = field(default=frozenset())
    line: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.arrival_s)

    def noted(self, what: str, rows: int | np.int64) -> Self:
        """Return the trace with one more note."""
        return replace(self, notes=(*self.notes, (what, int(rows))))

    def kept(self, rows: npt.NDArray[np.bool_] | slice) -> Self:
        """Return the trace with these rows only; `rows` is a slice, or has shape (n,)."""
        return replace(
            self,
            arrival_s=self.arrival_s[rows],
            prompt_tokens=self.prompt_tokens[rows],
            output_tokens=self.output_tokens[rows],
            adapter=self.adapter[rows],
            line=None if self.line is None else self.line[rows],
        )
