"""What admission plans for: the batch's future peak, every request's whole length, or nothing but the prompt."""

from __future__ import annotations

from typing import Protocol

from sim.serving.job import Job
from sim.serving.options import Reserve
from sim.serving.peak import PeakTest


class Reservation(Protocol):
    """The admitted requests' claim on KV memory, and whether one more fits."""

    def set_aside(self, job: Job) -> None:
        """Admit a request of which it is not known when it will start."""

    def take_up(self, job: Job, step: int) -> None:
        """Start a request that was set aside."""

    def add(self, job: Job, step: int) -> None:
        """Admit a request that starts next."""

    def emitted(self, job: Job) -> None:
        """Take note of the token that a prefill gave."""

    def remove(self, job: Job) -> None:
        """Forget a request that has left the batch."""

    def without(self, job: Job) -> Reservation:
        """Return the same test as if `job` were not there."""

    def fits(self, job: Job, step: int, limit_tokens: int) -> bool:
        """Whether one more request stays within the limit."""

    def fits_beside(self, job: Job, limit_tokens: int) -> bool:
        """Whether a request of which it is not known when it will start stays within the limit."""

    def first_fit(self, job: Job, after: int, limit_tokens: int) -> int | None:
        """Return the first later step at which `fits` would hold if the batch stays as it is; None if none."""


class WholeTest:
    """Every admitted request has its whole (true or predicted) length reserved, from admission to its end.

    Args:
        block_tokens: lengths are rounded up to whole blocks.
    """

    def __init__(self, block_tokens: int = 1) -> None:
        self._block_tokens = block_tokens
        self._sizes: dict[Job, int] = {}
        self._bound_tokens = 0

    def set_aside(self, job: Job) -> None:
        """Reserve a request's whole length."""
        self.add(job, 0)

    def take_up(self, job: Job, step: int) -> None:
        """Change nothing: the length is reserved already."""

    def add(self, job: Job, step: int) -> None:  # noqa: ARG002 - the same at any step
        """Reserve a request's whole length."""
        self._sizes[job] = self._size(job)
        self._bound_tokens += self._sizes[job]

    def emitted(self, job: Job) -> None:
        """Change nothing: the length is reserved already."""

    def remove(self, job: Job) -> None:
        """Give back what was reserved."""
        self._bound_tokens -= self._sizes.pop(job)

    def without(self, job: Job) -> WholeTest:
        """Return the same test as if `job` were not there."""
        other = WholeTest(self._block_tokens)
        other._sizes = {one: size for one, size in self._sizes.items() if one is not job}
        other._bound_tokens = sum(other._sizes.values())
        return other

    def fits(self, job: Job, step: int, limit_tokens: int) -> bool:  # noqa: ARG002 - the same at any step
        """Whether the sum stays within the limit; a request alone always does, whatever was predicted of it."""
        return not self._sizes or self._bound_tokens + self._size(job) <= limit_tokens

    def fits_beside(self, job: Job, limit_tokens: int) -> bool:
        """Return what `fits` says."""
        return self.fits(job, 0, limit_tokens)

    def first_fit(self, job: Job, after: int, limit_tokens: int) -> int | None:  # noqa: ARG002
        """Return None: decoding alone frees nothing."""
        return None

    def _size(self, job: Job) -> int:
        return -(-(job.base_tokens + job.left_tokens) // self._block_tokens) * self._block_tokens


class NoTest:
    """KV grows on demand: memory that is free now is the only condition."""

    def set_aside(self, job: Job) -> None:
        """Reserve nothing."""

    def take_up(self, job: Job, step: int) -> None:
        """Reserve nothing."""

    def add(self, job: Job, step: int) -> None:
        """Reserve nothing."""

    def emitted(self, job: Job) -> None:
        """Reserve nothing."""

    def remove(self, job: Job) -> None:
        """Reserve nothing."""

    def without(self, job: Job) -> NoTest:  # noqa: ARG002
        """Return itself."""
        return self

    def fits(self, job: Job, step: int, limit_tokens: int) -> bool:  # noqa: ARG002
        """Return True."""
        return True

    def fits_beside(self, job: Job, limit_tokens: int) -> bool:  # noqa: ARG002
        """Return True."""
        return True

    def first_fit(self, job: Job, after: int, limit_tokens: int) -> int | None:  # noqa: ARG002
        """Return None: decoding alone frees nothing."""
        return None


def reservation(kind: Reserve, block_tokens: int) -> Reservation:
    """Return the test of one kind of reservation.

    Raises:
        ValueError: if the peak test, which counts tokens, is to count larger blocks.
    """
    if kind == "peak":
        if block_tokens != 1:
            msg = f"the peak test counts single tokens, not blocks of {block_tokens}"
            raise ValueError(msg)
        return PeakTest()
    return NoTest() if kind == "on_demand" else WholeTest(block_tokens)
