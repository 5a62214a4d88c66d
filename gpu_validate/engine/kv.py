"""Paged KV cache: blocks of 16 tokens in one tensor that is allocated once; which block is whose is counted here."""

from __future__ import annotations

import numpy as np
import torch

from gpu_validate.engine.dims import BLOCK_TOKENS
from policies.base import IntArray
from sim.models import Model
from sim.serving.memory import MemoryLimits

NOBODYS_BLOCK = 0  # padding rows of a graph write here; no request ever reads it


def blocks_needed(limits: MemoryLimits, holders: int, block_tokens: int = 1) -> int:
    """Return how many blocks hold the budget in tokens however it is split among so many requests.

    Args:
        limits: with the budget.
        holders: requests that hold KV at once.
        block_tokens: of the blocks that the budget is counted in.
    """
    tokens = limits.kv_limit_bytes // limits.kv_token_bytes
    spare = 0 if block_tokens % BLOCK_TOKENS == 0 else min(holders, tokens)  # their last blocks, partly empty
    return -(-tokens // BLOCK_TOKENS) + spare


class BlockPool:
    """Block tables by request id; block numbers start at 1.

    Args:
        blocks: how many there are to give.
    """

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self.tables: dict[int, list[int]] = {}
        self.tokens: dict[int, int] = {}
        self._free = list(range(blocks, 0, -1))

    @property
    def free_blocks(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free)

    def allocate(self, owner: int, tokens: int) -> None:
        """Give a request blocks for so many tokens.

        Raises:
            ValueError: if it has some already.
            MemoryError: if too few blocks are free.
        """
        if owner in self.tables:
            msg = f"request {owner} holds {len(self.tables[owner])} blocks already"
            raise ValueError(msg)
        self.tables[owner], self.tokens[owner] = [], 0
        try:
            self.extend(owner, tokens)
        except MemoryError:
            del self.tables[owner], self.tokens[owner]
            raise

    def extend(self, owner: int, tokens: int) -> None:
        """Add so many tokens to a request.

        Raises:
            MemoryError: if too few blocks are free.
        """
        table = self.tables[owner]
        needed = -(-(self.tokens[owner] + tokens) // BLOCK_TOKENS) - len(table)
        if needed > len(self._free):
            raise MemoryError(self._too_few(owner, needed))
        table += [self._free.pop() for _ in range(needed)]
        self.tokens[owner] += tokens

    def grow(self, owner: int) -> int:
        """Add one token to a request and return its row in the cache.

        Raises:
            MemoryError: if it needs a block and none is free.
        """
        table, tokens = self.tables[owner], self.tokens[owner]
        if tokens == len(table) * BLOCK_TOKENS:
            if not self._free:
                raise MemoryError(self._too_few(owner, 1))
            table.append(self._free.pop())
        self.tokens[owner] = tokens + 1
        return table[tokens // BLOCK_TOKENS] * BLOCK_TOKENS + tokens % BLOCK_TOKENS

    def rows(self, owner: int) -> IntArray:
        """Return the cache rows of a request's tokens, in order of position, shape (tokens,)."""
        starts = np.array(self.tables[owner], dtype=np.int64) * BLOCK_TOKENS
        return np.add.outer(starts, np.arange(BLOCK_TOKENS)).reshape(-1)[: self.tokens[owner]]

    def free(self, owner: int) -> None:
        """Take a request's blocks back."""
        self._free += self.tables.pop(owner)
        del self.tokens[owner]

    def shrink(self, owner: int, tokens: int) -> None:
        """Leave a request so many of its first tokens, and take the blocks behind them back."""
        if not tokens:
            self.free(owner)
            return
        table, kept = self.tables[owner], -(-tokens // BLOCK_TOKENS)
        self._free += table[kept:]
        del table[kept:]
        self.tokens[owner] = tokens

    def check(self) -> None:
        """Raise RuntimeError with the numbers unless each block is free or held by exactly one request."""
        held = [block for table in self.tables.values() for block in table]
        every = sorted(held + self._free)
        fits = all(
            len(table) == -(-self.tokens[owner] // BLOCK_TOKENS) for owner, table in self.tables.items()
        ) and set(self.tables) == set(self.tokens)
        if every != list(range(1, self.blocks + 1)) or not fits:
            msg = (
                f"KV blocks do not balance: {len(self._free)} free + {len(held)} held of {self.blocks}, "
                f"tokens={self.tokens} blocks={ {owner: len(table) for owner, table in self.tables.items()} }"
            )
            raise RuntimeError(msg)

    def _too_few(self, owner: int, needed: int) -> str:
        return f"request {owner} needs {needed} KV blocks, {len(self._free)} of {self.blocks} are free"


class PagedKV:
    """The cache and its books.

    `cache` has shape (layers, 2, (blocks + 1) * 16, kv_heads, head_dim): K then V, row = block * 16 + place.

    Args:
        model: whose K and V.
        blocks: how many blocks requests may have.
        dtype, device: of the cache.
    """

    def __init__(self, model: Model, blocks: int, *, dtype: torch.dtype, device: torch.device) -> None:
        self.pool = BlockPool(blocks)
        shape = (model.layers, 2, (blocks + 1) * BLOCK_TOKENS, model.kv_heads, model.head_dim)
        # Zeros, because padded attention multiplies rows that were never written by zero: a NaN there would spread.
        self.cache = _zeros(shape, dtype, device)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    if device.type == "cpu" and dtype == torch.float32:
        return torch.from_numpy(np.zeros(shape, np.float32))  # takes no memory until it is written; torch.zeros does
    return torch.zeros(shape, dtype=dtype, device=device)
