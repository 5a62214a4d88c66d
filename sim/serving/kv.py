"""KV blocks: how many bytes a request holds, and how far a batch that grows by a token a step will get."""

from __future__ import annotations

from sim.serving.job import Job
from sim.serving.leftovers import Leftovers
from sim.serving.memory import GpuMemory


class KvPages:
    """Block arithmetic over the decode batch, whose requests all grow by one token per step.

    A request with t tokens after s steps has phase (t - s) mod the block size, which decoding does not change; so
    counts per phase tell how many requests open a new block at any later step.
    """

    __slots__ = (
        "_adapter_blocks",
        "_block_bytes",
        "_leftovers",
        "_memory",
        "_phases",
        "_pool_blocks",
        "block_tokens",
        "requests",
    )

    def __init__(self, block_tokens: int, memory: GpuMemory) -> None:
        self.block_tokens = block_tokens
        self.requests = 0  # that grow
        self._memory = memory
        self._block_bytes = block_tokens * memory.token_bytes
        self._phases = [0] * block_tokens
        self._pool_blocks = memory.kv_limit // self._block_bytes
        self._adapter_blocks = 0  # of these that adapters lie in
        self._leftovers = Leftovers()

    def bytes_of(self, tokens: int) -> int:
        """Return the bytes of the whole blocks that so many tokens take."""
        return -(-tokens // self.block_tokens) * self._block_bytes

    def first_growth_bytes(self, tokens: int) -> int:
        """Return the bytes that one more token takes after so many."""
        return 0 if tokens % self.block_tokens else self._block_bytes

    def take(self, size_bytes: int) -> None:
        """Take free blocks of so many bytes."""
        self._memory.kv_bytes += size_bytes
        self._leftovers.take(size_bytes // self._block_bytes)

    def make_room_for_adapters(self) -> None:
        """Let adapters have the blocks that they have grown into since the last look, those that were free for longest.

        They have no blocks of their own: one that is loaded in place of an evicted one is taken to lie where that was.
        """
        memory, pool_bytes = self._memory, self._pool_blocks * self._block_bytes
        inside_bytes = max(0, memory.adapter_bytes - (memory.total - pool_bytes))
        blocks = -(-inside_bytes // self._block_bytes)
        self._leftovers.take(max(0, blocks - self._adapter_blocks))
        self._adapter_blocks = blocks

    def leave_behind(self, job: Job, tokens: int) -> None:
        """Take note of the KV of its first `tokens` tokens that a request has just given back."""
        self.make_room_for_adapters()
        blocks = -(-tokens // self.block_tokens)
        free = self._pool_blocks - self._memory.kv_bytes // self._block_bytes - self._adapter_blocks
        self._leftovers.leave(job, blocks, tokens // self.block_tokens, ahead=free - blocks)

    def surviving_tokens(self, job: Job) -> int:
        """Return the first tokens of a waiting request whose KV is still there, in whole blocks.

        That is never all of it, as its newest token has not been computed yet.
        """
        self.make_room_for_adapters()
        return self._leftovers.surviving(job) * self.block_tokens

    def reclaim(self, job: Job) -> int:
        """Give a waiting request back what survives of its KV, and return the tokens."""
        tokens = self.surviving_tokens(job)
        self._leftovers.reclaim(job, tokens // self.block_tokens)
        self._memory.kv_bytes += self.bytes_of(tokens)
        return tokens

    def forget(self, job: Job) -> None:
        """Let what a waiting request left behind be anybody's."""
        self._leftovers.forget(job)

    def join(self, tokens: int, step: int) -> None:
        """Let a request of `tokens` grow with the batch from this step on."""
        self.requests += 1
        if self.block_tokens > 1:
            self._phases[(tokens - step) % self.block_tokens] += 1

    def leave(self, tokens: int, step: int) -> None:
        """Stop the growth of a request that has `tokens` by now."""
        self.requests -= 1
        if self.block_tokens > 1:
            self._phases[(tokens - step) % self.block_tokens] -= 1

    def growth_bytes(self, step: int, steps: int) -> int:
        """Return the bytes that the batch needs for so many steps after `step`."""
        if self.block_tokens == 1:
            return steps * self.requests * self._block_bytes
        return self._new_blocks(step, steps) * self._block_bytes

    def has_room(self, step: int) -> bool:
        """Whether the batch may take its next tokens without any eviction."""
        return self._memory.kv_room_bytes >= self.growth_bytes(step, 1)

    def most_steps(self, step: int, limit: int) -> int:
        """Return how many steps, up to `limit`, the batch may take in the memory that is free."""
        room = self._memory.kv_room_bytes // self._block_bytes
        if self.block_tokens == 1:
            most = room // self.requests
            return most if most < limit else limit
        low, high = 0, limit
        while low < high:
            middle = (low + high + 1) // 2
            if self._new_blocks(step, middle) <= room:
                low = middle
            else:
                high = middle - 1
        return low

    def _new_blocks(self, step: int, steps: int) -> int:
        block = self.block_tokens
        return sum(
            count * (-(-((phase + step) % block + steps) // block) - (((phase + step) % block) > 0))
            for phase, count in enumerate(self._phases)
            if count
        )
