"""KV of preempted requests in host memory, and its way out and back."""

from __future__ import annotations

import torch

from gpu_validate.engine.kv import PagedKV


class HostKV:
    """Copies of KV, each of shape (layers, 2, tokens, kv_heads, head_dim); page-locked under a GPU.

    Args:
        kv: the cache that they leave and come back to.
    """

    def __init__(self, kv: PagedKV) -> None:
        self._kv = kv
        self._held: dict[int, torch.Tensor] = {}

    def __contains__(self, owner: int) -> bool:
        return owner in self._held

    @property
    def tokens(self) -> dict[int, int]:
        """Tokens by request."""
        return {owner: held.shape[2] for owner, held in self._held.items()}

    def take_out(self, owner: int) -> None:
        """Copy a request's KV to the host and free its blocks; waits for the copies, as the next step must."""
        cache, pool = self._kv.cache, self._kv.pool
        on_gpu = cache.device.type == "cuda"
        rows = torch.from_numpy(pool.rows(owner)).to(cache.device)
        shape = (cache.shape[0], 2, len(rows), *cache.shape[3:])
        held = self._held[owner] = torch.empty(shape, dtype=cache.dtype, pin_memory=on_gpu)
        for layer, copy in zip(cache, held, strict=True):  # a layer at a time, since a gathered copy takes memory
            copy.copy_(layer[:, rows], non_blocking=True)
        if on_gpu:
            torch.cuda.current_stream(cache.device).synchronize()
        pool.free(owner)

    def try_bring_back(self, owner: int) -> bool:
        """Issue the copies back on the current stream, if enough blocks are free."""
        cache, pool, held = self._kv.cache, self._kv.pool, self._held[owner]
        try:
            pool.allocate(owner, held.shape[2])
        except MemoryError:
            return False
        rows = torch.from_numpy(pool.rows(owner)).to(cache.device)
        for layer, copy in zip(cache, held, strict=True):
            layer.index_copy_(1, rows, copy.to(cache.device, non_blocking=True))
        return True

    def drop(self, owner: int) -> None:
        """Forget a request's copy."""
        del self._held[owner]
