"""Who will be used next: counts that fade at several speeds, and the traffic decides how much each of them says."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np

from policies.base import Adapter, FloatArray

HORIZONS = (2, 8, 32, 128, 512, 2048)  # requests; a factor of four apart, from a session to a day of a quiet server
STEP = 0.005  # of the weights, which so remember some 200 requests
FIRST_REQUESTS = 20  # the first steps are those of a mean over so many requests that spoke for all experts alike
LEAST_SHARE = 0.001  # goes round among the experts at every step, so that none is lost for good


class UseForecast:
    """The chance that the next request is for an adapter, as a mixture of experts.

    Each expert counts uses and forgets a share 1 / horizon of them with every request, whoever it is for; one more
    takes all adapters to be alike. An adapter's chance is the weighted mean of its shares. A use moves the weights
    towards the experts that expected it, in proportion to their part of the chance: the online form of the EM algorithm
    for the weights of a mixture. Time is counted in requests, so that load alone changes nothing.

    Source: our own; the counts as in a cache language model (Kuhn and De Mori 1990), the weights as in Jelinek and
    Mercer's interpolation (1980), by the online EM step of Cappe and Moulines (2009).
    """

    __slots__ = ("_chances", "_counts", "_keep", "_rows", "_totals", "_uses", "_weights")

    def __init__(self, known: Iterable[Adapter] = ()) -> None:
        experts = len(HORIZONS) + 1
        self._rows: dict[Adapter, int] = {}
        self._keep = 1 - 1 / np.array(HORIZONS)
        self._counts = np.zeros((64, len(HORIZONS)))  # a row per adapter, and some to spare
        self._totals = np.zeros(len(HORIZONS))
        self._weights = np.full(experts, 1 / experts)
        self._uses = 0
        self._chances: list[float] | None = None  # by row; None: since the last use nobody has asked
        for adapter in known:
            self._row(adapter)

    @property
    def adapters(self) -> Collection[Adapter]:
        """Every adapter that is known, in the order in which they became so."""
        return self._rows

    @property
    def weights(self) -> FloatArray:
        """The weight of each horizon, and last that of all adapters alike; shape (horizons + 1,), of sum 1."""
        return self._weights.copy()

    def add(self, adapter: Adapter) -> int:
        """Take in the next request; return the adapter's place among `adapters`."""
        row = self._row(adapter)
        if self._uses:
            self._weigh(row)
        self._counts *= self._keep
        self._totals *= self._keep
        self._counts[row] += 1
        self._totals += 1
        self._uses += 1
        self._chances = None
        return row

    def chance(self, adapter: Adapter) -> float:
        """Return the chance that the next request is for this adapter; all are alike before the first use."""
        row = self._rows.get(adapter)
        return self._alike() if row is None else self.chances()[row]

    def chances(self) -> list[float]:
        """Return the chance of each known adapter, in the order of `adapters`."""
        if self._chances is None:
            known = len(self._rows)
            mean = self._counts[:known] @ self._per_count() + self._weights[-1] / max(1, known)
            self._chances = mean.tolist() if self._uses else [1 / known] * known
        return self._chances

    def gain(self) -> float:
        """Return what one use more, right now, would add to a chance."""
        return float(self._per_count().sum()) if self._uses else 1.0

    def _per_count(self) -> FloatArray:
        # counts fade towards 0 and never reach it, so a total is positive once there has been a use
        per_count: FloatArray = self._weights[:-1] / np.maximum(self._totals, 1e-300)
        return per_count

    def _alike(self) -> float:
        return float(self._weights[-1] if self._uses else 1.0) / (len(self._rows) + 1)

    def _weigh(self, row: int) -> None:
        parts = self._weights * np.append(self._counts[row] / self._totals, 1 / len(self._rows))
        step = max(STEP, 1 / (self._uses + FIRST_REQUESTS))
        moved = self._weights + step * (parts / parts.sum() - self._weights)
        self._weights = moved * (1 - LEAST_SHARE) + LEAST_SHARE / len(moved)

    def _row(self, adapter: Adapter) -> int:
        row = self._rows.get(adapter)
        if row is None:
            row = self._rows[adapter] = len(self._rows)
            self._chances = None
            if row == len(self._counts):
                self._counts = np.vstack([self._counts, np.zeros_like(self._counts)])
        return row
