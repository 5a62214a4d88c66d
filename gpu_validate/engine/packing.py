"""The integers of one iteration, put together on the host: of chunks of prompts, and of the decode batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch

from gpu_validate.engine.attention import Packed
from gpu_validate.engine.decoder import Earlier, Prompts
from gpu_validate.engine.kv import BlockPool
from policies.base import IntArray
from sim.job import Job
from sim.steps import Chunk


class Chunks(NamedTuple):
    """Chunks of prompts end to end."""

    arrays: tuple[IntArray | Sequence[int], ...]  # tokens, positions, rows, last, bounds; with earlier parts rows, bounds
    lengths: tuple[int, ...]
    key_lengths: tuple[int, ...]
    complete: list[Job]  # requests that get a token

    @property
    def has_earlier(self) -> bool:
        """Whether parts of some prompts were processed before."""
        return self.lengths != self.key_lengths

    def on_device(self, sent: Sequence[torch.Tensor]) -> Prompts:
        """Return what the decoder takes, of the arrays on the device."""
        tokens, positions, rows, last, bounds, *more = sent
        earlier = None
        if more:
            key_rows, key_bounds = more
            earlier = Earlier(key_rows, Packed(key_bounds, self.key_lengths))
        return Prompts(tokens, positions, rows, last, Packed(bounds, self.lengths), earlier)


def pack_chunks(chunks: Sequence[Chunk], pool: BlockPool, ids_of: Callable[[Job], IntArray]) -> Chunks:
    """Return chunks end to end.

    Args:
        chunks: each of another request.
        pool: where they have blocks up to and with these tokens.
        ids_of: the ids of all tokens that a request prefills, shape (base_tokens,).
    """
    ends = [chunk.before + chunk.tokens for chunk in chunks]
    lengths = tuple(chunk.tokens for chunk in chunks)
    bounds = list(accumulate(lengths, initial=0))
    keys = [pool.rows(chunk.job.request.id) for chunk in chunks]
    parts = [slice(chunk.before, end) for chunk, end in zip(chunks, ends, strict=True)]
    is_complete = [end == chunk.job.base_tokens for chunk, end in zip(chunks, ends, strict=True)]
    arrays: tuple[IntArray | Sequence[int], ...] = (
        np.concatenate([ids_of(chunk.job)[part] for chunk, part in zip(chunks, parts, strict=True)]),
        np.concatenate([np.arange(part.start, part.stop) for part in parts]),
        np.concatenate([rows[part] for rows, part in zip(keys, parts, strict=True)]),
        [stop - 1 for stop, complete in zip(bounds[1:], is_complete, strict=True) if complete],
        bounds,
    )
    if lengths != tuple(ends):
        arrays += (np.concatenate(keys), list(accumulate(ends, initial=0)))
    complete = [chunk.job for chunk, complete in zip(chunks, is_complete, strict=True) if complete]
    return Chunks(arrays, lengths, tuple(ends), complete)
