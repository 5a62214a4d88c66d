"""The accounts of dLoRA: credit among adapters, and thresholds that learn which mode is the better one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from math import floor
from typing import NamedTuple

from policies.base import Adapter, Request

GAP = 10_000.0  # credit that each adapter starts with, for every other adapter
RELAPSE = 5_000.0  # so far below the threshold of promotion a promoted adapter stays promoted
STEP = 0.05  # by which a threshold moves when its mode was the better one
FACTOR = 1.1  # by which it moves when its mode was the worse one


class Promoted(NamedTuple):
    """An adapter (None: the base model) that is served before all others."""

    adapter: Adapter | None


class Credits:
    """Every request served out of turn costs its adapter some credit per step, paid to the one passed over.

    Args:
        adapters: how many there are.
        size: of a batch, in requests.
        ratio: seconds of a merged step over those of an unmerged one.
    """

    def __init__(self, adapters: int, size: int, ratio: float) -> None:
        self._start = GAP * (adapters - 1)
        self._promotes_at = GAP * adapters
        self._units = {False: 1 / size, True: 1 / (size * ratio)}  # what one request pays per step, unmerged and merged
        # Whole numbers of payments, so that a run of steps adds up to the same as its steps one by one.
        self._paid: dict[bool, Counter[Adapter | None]] = {False: Counter(), True: Counter()}
        self._gains: Counter[Adapter | None] = Counter()  # payments per step
        self._is_merged = False
        self._step = 0
        self._promoted: Promoted | None = None

    def credit(self, adapter: Adapter | None) -> float:
        """Return what an adapter has."""
        return self._start + sum(unit * self._paid[merged][adapter] for merged, unit in self._units.items())

    def is_solvent(self, adapter: Adapter) -> bool:
        """Whether an adapter may be merged at the cost of others."""
        return self.credit(adapter) >= 0

    def settle(self, step: int) -> None:
        """Make the payments of the steps since the last round."""
        for adapter, gain in self._gains.items():
            self._paid[self._is_merged][adapter] += gain * (step - self._step)
        self._step = step

    def pay(self, pairs: Iterable[tuple[Adapter | None, Adapter | None]], *, is_merged: bool) -> None:
        """Set who pays whom at every step from now on."""
        self._is_merged = is_merged
        self._gains.clear()
        for payer, payee in pairs:
            self._gains[payer] -= 1
            self._gains[payee] += 1

    def promoted(self, groups: Mapping[Adapter | None, object]) -> Promoted | None:
        """Return the adapter, of those with requests, that has come to so much credit that it goes first."""
        known = self._promoted
        if known is not None and known.adapter in groups and self.credit(known.adapter) >= self._promotes_at - RELAPSE:
            return known
        rich = [one for one in groups if self.credit(one) >= self._promotes_at]
        rich.sort(key=lambda one: (-self.credit(one), "" if one is None else one.id))
        self._promoted = Promoted(rich[0]) if rich else None
        return self._promoted

    def steps_to_change(self) -> int | None:
        """Return the steps, rather too few, after which somebody's credit passes a threshold; None for never."""
        found = []
        for adapter, gain in self._gains.items():
            if gain:
                rate, credit = gain * self._units[self._is_merged], self.credit(adapter)
                steps = ((level - credit) / rate for level in (0.0, self._promotes_at - RELAPSE, self._promotes_at))
                found += [max(1, floor(one - 1e-6)) for one in steps if one >= 0]
        return min(found, default=None)


class Switching:
    """The shares of a batch that one adapter's requests must make up: to stay merged (`left`), to merge (`right`).

    At each change of mode the tokens per second of the mode that ends are compared with those of the other one before
    it: the better mode becomes easier to choose, the worse one harder.
    """

    def __init__(self, merged_step_s: float, unmerged_step_s: float, switch_s: float) -> None:
        self.left = min(1.0, merged_step_s / unmerged_step_s)
        self.right = 1.0
        self._step_s = {True: merged_step_s, False: unmerged_step_s}
        self._switch_s = switch_s
        self._finished_tokens = 0
        self._since = (0, 0)  # steps and tokens at the last change of mode
        self._other: float | None = None  # tokens per second of the mode before

    def finished(self, tokens: int) -> None:
        """Take note of a request's tokens."""
        self._finished_tokens += tokens

    def switched(self, step: int, live: Iterable[Request], *, was_merged: bool) -> None:
        """Compare the mode that ends with the one before it; `generated_tokens` of `live` are up to date."""
        tokens = self._finished_tokens + sum(request.generated_tokens for request in live)
        since_step, since_tokens = self._since
        self._since = step, tokens
        if step > since_step:
            seconds = (step - since_step) * self._step_s[was_merged] + self._switch_s
            rate = (tokens - since_tokens) / seconds
            if self._other is not None:
                self._adapt(was_merged=was_merged, was_better=rate > self._other)
            self._other = rate

    def _adapt(self, *, was_merged: bool, was_better: bool) -> None:
        if was_merged:
            self.right = max(self.left, self.right - STEP) if was_better else self.right * FACTOR
        else:
            self.left = min(self.right, self.left + STEP) if was_better else self.left / FACTOR
