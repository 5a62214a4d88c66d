"""The ids of generated tokens: on the device for requests in the batch, on the host for those that wait again."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from sim.serving.job import Job

SCRATCH = 0  # cell of padding rows: the first of a seat that nobody has


class Told:
    """Seats in the batch, each with a cell for every position: a step reads a request's latest token, writes the next.

    Args:
        seats: most requests in the batch.
        positions: of the longest sequence.
        device: of the cells.
    """

    def __init__(self, seats: int, positions: int, device: torch.device) -> None:
        self._width = positions + 1
        self.cells = torch.zeros((seats + 1) * self._width, dtype=torch.int64, device=device)
        self.after = self.cells[1:]  # by a cell's number, the one behind it
        self._seats: dict[int, int] = {}  # request id -> its first cell
        self._free = [seat * self._width for seat in range(seats, 0, -1)]
        self._aside: dict[int, list[int]] = {}  # what requests had been told when they last left the batch

    def __iter__(self) -> Iterator[int]:
        """Yield the ids of all requests that were ever in the batch and are not forgotten."""
        return iter(self._aside)

    def cell(self, job: Job, position: int) -> int:
        """Return the cell of the token at a position; a request that comes back gets a seat, and there its last token.

        Raises:
            RuntimeError: if no seat is free.
        """
        id_ = job.request.id
        start = self._seats.get(id_)
        if start is None:
            start = self._sit_down(job)
        return start + position

    def generated(self, job: Job) -> list[int]:
        """Return what a request had been told up to its latest start; a squashed one nothing, whatever is known."""
        return self._aside.get(job.request.id, [])[: job.generated]

    def set_aside(self, job: Job, generated: int) -> None:
        """Take a request's seat and keep on the host so many tokens that it has been told."""
        start = self._seats.pop(job.request.id, None)
        if start is None:
            return
        self._free.append(start)
        known = self._aside[job.request.id]
        del known[generated:]
        first = start + job.prompt_tokens
        known += self.cells[first + len(known) : first + generated].tolist()

    def forget(self, id_: int) -> None:
        """Forget a request."""
        start = self._seats.pop(id_, None)
        if start is not None:
            self._free.append(start)
        self._aside.pop(id_, None)

    def _sit_down(self, job: Job) -> int:
        if not self._free:
            msg = f"{job.request!r} finds all {len(self._seats)} seats taken"
            raise RuntimeError(msg)
        start = self._seats[job.request.id] = self._free.pop()
        known = self._aside[job.request.id] = self.generated(job)
        if known:
            self.cells[start + job.prompt_tokens + len(known) - 1] = known[-1]
        return start
