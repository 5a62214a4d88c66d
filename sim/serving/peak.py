"""S-LoRA's future-peak test: would the KV cache overflow at any later step if nobody finished early?

S-LoRA `router/req_queue.py` `_can_add_new_req` (commit c1ddf48): every admitted request gives (used, left) tokens;
sorted by `left` descending, the peak is max over i of left_i * i + used_1 + ... + used_i, i counted from 1. With s the
number of decode steps done so far, left = end - s and used = base + s, so each admitted request's term does not depend
on s. That makes one test O(log n) after an O(n) preparation, and gives the first later step at which a refused request
would pass in closed form.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

from sim.serving.job import Job


class PeakTest:
    """The admitted requests' peak KV tokens, and what one more request would make of it."""

    def __init__(self) -> None:
        self._jobs: dict[Job, None] = {}
        self.bound = 0  # tokens if all requests reached their end together: never below the peak
        self._aside = 0
        self._stale = False
        self._ends: list[int] = []  # negated `end`, ascending
        self._bases: list[int] = [0]  # sums of `base` over the first i
        self._terms: list[int] = [0]  # maxima of the terms over the first i
        self._shifted: list[int] = []  # maxima, from i on, of term + end: what a longer-living newcomer makes of them

    def set_aside(self, job: Job) -> None:
        """Admit a request whose prefill must wait for its adapter: plan for its whole size until it starts."""
        self._aside += job.base_tokens + job.left_tokens
        self.bound += job.base_tokens + job.left_tokens

    def take_up(self, job: Job, step: int) -> None:
        """Start a request that was set aside."""
        self._aside -= job.base_tokens + job.left_tokens
        self.bound -= job.base_tokens + job.left_tokens
        self.add(job, step)

    def add(self, job: Job, step: int) -> None:
        """Admit a request that is prefilled next: it will hold prompt + reserved tokens at its end."""
        job.peak_end = step + job.left_tokens - 1
        job.peak_base = job.base_tokens + 1 - step
        self._jobs[job] = None
        self.bound += job.base_tokens + job.left_tokens
        self._stale = True

    def emitted(self, job: Job) -> None:
        """Take note of the first token: one less is left."""
        job.peak_end -= 1
        self._stale = True

    def remove(self, job: Job) -> None:
        """Forget a request that has left the batch."""
        del self._jobs[job]
        self.bound -= job.base_tokens + job.left_tokens
        self._stale = True

    def without(self, job: Job) -> PeakTest:
        """Return the same test as if `job` were not there."""
        other = PeakTest()
        other._jobs = {one: None for one in self._jobs if one is not job}
        other._aside = self._aside
        other.bound = self.bound - job.base_tokens - job.left_tokens
        other._stale = True
        return other

    def fits(self, job: Job, step: int, limit_tokens: int) -> bool:
        """Whether the peak with one more request stays at or below the limit."""
        if self.bound + job.base_tokens + job.left_tokens <= limit_tokens:
            return True
        return self.need(job, step) <= limit_tokens

    def fits_beside(self, job: Job, limit_tokens: int) -> bool:
        """Whether a request of which it is not known when it will start fits: at its whole size beside the peak."""
        size = job.base_tokens + job.left_tokens
        if self.bound + size <= limit_tokens:
            return True
        self._refresh()
        return self._terms[-1] + self._aside + size <= limit_tokens

    def need(self, job: Job, step: int) -> int:
        """Return the peak in tokens with one more request, admitted after `step` decode steps."""
        self._refresh()
        used, left = job.base_tokens + 1, job.left_tokens - 1
        ahead = bisect_left(self._ends, -(step + left) + 1)
        peak = max(self._terms[ahead], left * (ahead + 1) + self._bases[ahead] + step * ahead + used)
        if ahead < len(self._ends):
            peak = max(peak, self._shifted[ahead] + used - step)
        return peak + self._aside

    def first_fit(self, job: Job, after: int, limit_tokens: int) -> int | None:
        """Return the first step past `after` at which `fits` holds if the batch stays as it is; None if none."""
        self._refresh()
        limit_tokens -= self._aside
        used, left = job.base_tokens + 1, job.left_tokens - 1
        step = after + 1
        ahead = bisect_left(self._ends, -(step + left) + 1)
        while True:
            # While `ahead` requests outlive the newcomer, three bounds on the step: fixed, rising and falling terms.
            last = -self._ends[ahead - 1] - left if ahead else None
            first = self._earliest(step, ahead, used, limit_tokens)
            if self._terms[ahead] <= limit_tokens and (last is None or first <= last):
                own = left * (ahead + 1) + self._bases[ahead] + first * ahead + used
                if own <= limit_tokens:
                    return first
            if last is None:
                return None
            step = last + 1
            ahead = bisect_left(self._ends, -(step + left) + 1)

    def _earliest(self, step: int, ahead: int, used: int, limit_tokens: int) -> int:
        if ahead == len(self._ends):
            return step
        return max(step, self._shifted[ahead] + used - limit_tokens)

    def _refresh(self) -> None:
        if not self._stale:
            return
        self._stale = False
        jobs = sorted(self._jobs, key=lambda job: -job.peak_end)
        self._ends = [-job.peak_end for job in jobs]
        self._bases = [0, *accumulate(job.peak_base for job in jobs)]
        terms = [job.peak_end * (i + 1) + self._bases[i + 1] for i, job in enumerate(jobs)]
        self._terms = list(accumulate(terms, max, initial=0))
        shifted = [term + job.peak_end for term, job in zip(terms, jobs, strict=True)]
        self._shifted = list(accumulate(reversed(shifted), max))[::-1]
