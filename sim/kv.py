"""KV blocks: how many bytes a request holds, and how far a batch that grows by a token a step will get."""

from __future__ import annotations

from sim.memory import GpuMemory


class KvPages:
    """Block arithmetic over the decode batch, whose requests all grow by one token per step.

    A request with t tokens after s steps has phase (t - s) mod the block size, which decoding does not change; so
    counts per phase tell how many requests open a new block at any later step.
    """

    __slots__ = ("_block_bytes", "_memory", "_phases", "block_tokens", "requests")

    def __init__(self, block_tokens: int, memory: GpuMemory) -> None:
        self.block_tokens = block_tokens
        self.requests = 0  # that grow
        self._memory = memory
        self._block_bytes = block_tokens * memory.token_bytes
        self._phases = [0] * block_tokens

    def bytes_of(self, tokens: int) -> int:
        """Return the bytes of the whole blocks that so many tokens take."""
        return -(-tokens // self.block_tokens) * self._block_bytes

    def first_growth_bytes(self, tokens: int) -> int:
        """Return the bytes that one more token takes after so many."""
        return 0 if tokens % self.block_tokens else self._block_bytes

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
