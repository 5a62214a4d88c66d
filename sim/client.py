"""When requests are sent: as they are due, or, in a closed loop, when fewer than a limit are under way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sim.serving.job import Job
from sim.serving.options import UNLIMITED


class Client:
    """Sends requests in order; one that is due while too many are under way goes when one of those has left.

    So does `vllm bench serve` with `--max-concurrency`: latencies count from the sending, and what a request waited
    here is in no latency. A driver asks `sends_at` whenever a request may have left, and again before it acts on it.

    Args:
        jobs: in order of arrival, drawn one at a time.
        max_concurrency: most requests that are under way at once.
    """

    def __init__(self, jobs: Iterable[Job], max_concurrency: int = UNLIMITED) -> None:
        self._jobs: Iterator[Job] = iter(jobs)
        self._next: Job | None = next(self._jobs, None)
        self._max_concurrency = max_concurrency
        self._holds = False
        self._earliest = 0  # tick of the latest sending that had to wait; whoever stood behind it goes no earlier

    @property
    def is_limited(self) -> bool:
        """Whether it matters how many requests are under way."""
        return self._max_concurrency < UNLIMITED

    @property
    def has_more(self) -> bool:
        """Whether a request has not been sent."""
        return self._next is not None

    def sends_at(self, under_way: int, now: int) -> int | None:
        """Return the tick at which the next request goes; None if there is none, or another must leave first.

        Args:
            under_way: requests that were sent and have not left.
            now: ticks; the sending of one that had to wait is not before it.
        """
        job = self._next
        if job is None:
            return None
        if under_way >= self._max_concurrency:
            self._holds = True
            return None
        if self._holds:
            self._holds, self._earliest = False, now
        if job.arrival < self._earliest:
            job.is_sent(self._earliest)
        return job.arrival

    def take(self) -> Job:
        """Return the next request, which is sent now.

        Raises:
            RuntimeError: if there is none.
        """
        job = self._next
        if job is None:
            msg = "every request has been sent"
            raise RuntimeError(msg)
        self._next = next(self._jobs, None)
        return job
