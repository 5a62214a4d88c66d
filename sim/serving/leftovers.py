"""Blocks that stopped requests gave back: until somebody takes them they hold what was computed.

vLLM V1's prefix cache keeps free blocks in a queue (v1/core/block_pool.py). A request's blocks join its end, the last
one first, and who needs a block takes the one that has been free for longest. So all that must be known of a stopped
request is how many free blocks are ahead of its own.
"""

from __future__ import annotations

from sim.serving.job import Job


class _Leftover:
    """What one request gave back."""

    __slots__ = ("blocks", "until", "whole")

    def __init__(self, blocks: int, whole: int, until: int) -> None:
        self.blocks = blocks  # that hold anything
        self.whole = whole  # those of them that are full; only they are found again
        self.until = until  # blocks that may be taken, ever, before the first of these is


class Leftovers:
    """The queue of free blocks, as far as it matters to requests that will be computed again."""

    __slots__ = ("_of", "_taken")

    def __init__(self) -> None:
        self._taken = 0  # blocks, ever
        self._of: dict[Job, _Leftover] = {}  # those that stopped first come first

    def take(self, blocks: int) -> None:
        """Take so many free blocks, those that have been free for longest."""
        self._taken += blocks

    def leave(self, job: Job, blocks: int, whole: int, ahead: int) -> None:
        """Take note of blocks that a request has given back.

        Args:
            job: the request.
            blocks: its first ones, up to the last that holds anything.
            whole: those of them that are full.
            ahead: free blocks that will be taken before the first of these is.
        """
        self._of.pop(job, None)
        self._of[job] = _Leftover(blocks, whole, self._taken + ahead)

    def surviving(self, job: Job) -> int:
        """Return how many of a request's first blocks are full and nobody has taken."""
        left = self._of.get(job)
        if left is None:
            return 0
        lost = max(0, self._taken - left.until)
        return max(0, min(left.whole, left.blocks - lost))

    def reclaim(self, job: Job, blocks: int) -> None:
        """Give a request its first blocks back; those behind them in the queue move up, its others become anybody's."""
        is_behind = False
        for other, left in self._of.items():
            if is_behind:
                left.until -= blocks
            is_behind = is_behind or other is job
        self.forget(job)

    def forget(self, job: Job) -> None:
        """Let a request's blocks be anybody's."""
        self._of.pop(job, None)
