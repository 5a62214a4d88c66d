"""The integers of one iteration, put together on the host: of chunks of prompts, and of the decode batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch

from gpu_validate.engine.attention import Packed
from gpu_validate.engine.decoder import Earlier, Prompts
from gpu_validate.engine.kv import NOBODYS_BLOCK, BlockPool
from gpu_validate.engine.padding import padded_blocks, padded_requests
from gpu_validate.engine.staging import Integers
from gpu_validate.engine.told import SCRATCH
from policies.base import IntArray
from sim.serving.job import Job
from sim.serving.steps import Chunk


class Chunks(NamedTuple):
    """Chunks of prompts end to end."""

    arrays: tuple[Integers, ...]  # tokens, positions, rows, last, bounds; with earlier parts also their rows, bounds
    lengths: tuple[int, ...]  # padding is one more prompt, at the end
    key_lengths: tuple[int, ...]
    complete: list[Job]  # requests that get a token
    padding: int  # tokens

    def on_device(self, sent: Sequence[torch.Tensor]) -> Prompts:
        """Return what the decoder takes, of the arrays on the device."""
        tokens, positions, rows, last, bounds, *more = sent
        earlier = None
        if more:
            key_rows, key_bounds = more
            earlier = Earlier(key_rows, Packed(key_bounds.to(torch.int32), self.key_lengths))
        return Prompts(tokens, positions, rows, last, Packed(bounds.to(torch.int32), self.lengths), earlier)


class _Part(NamedTuple):
    """What a chunk brings, or the padding."""

    ids: IntArray
    before: int  # tokens that were processed earlier
    keys: IntArray  # rows of the cache of all its tokens so far

    @property
    def end(self) -> int:
        """Tokens so far, with these."""
        return self.before + len(self.ids)


def pack_chunks(
    chunks: Sequence[Chunk], pool: BlockPool, ids_of: Callable[[Job], IntArray], padding: int = 0
) -> Chunks:
    """Return chunks end to end.

    Args:
        chunks: each of another request.
        pool: where they have blocks up to and with these tokens.
        ids_of: the ids of all tokens that a request prefills, shape (base_tokens,).
        padding: tokens of nobody's to add.
    """
    parts = [
        _Part(ids_of(job)[before : before + count], before, pool.rows(job.request.id)) for job, before, count in chunks
    ]
    positions = [np.arange(part.before, part.end) for part in parts]
    if padding:
        nobodys = np.full(padding, NOBODYS_BLOCK, dtype=np.int64)
        parts.append(_Part(nobodys, 0, nobodys))
        positions.append(nobodys)  # one that every model has
    lengths, ends = [len(part.ids) for part in parts], [part.end for part in parts]
    bounds = list(accumulate(lengths, initial=0))
    is_complete = [part.end == job.base_tokens for part, (job, *_) in zip(parts, chunks, strict=False)]
    arrays: tuple[Integers, ...] = (
        np.concatenate([part.ids for part in parts]),
        np.concatenate(positions),
        np.concatenate([part.keys[part.before :] for part in parts]),
        [stop - 1 for stop, complete in zip(bounds[1:], is_complete, strict=False) if complete],
        bounds,
    )
    if lengths != ends:
        arrays += (np.concatenate([part.keys for part in parts]), list(accumulate(ends, initial=0)))
    complete = [chunk.job for chunk, complete in zip(chunks, is_complete, strict=True) if complete]
    return Chunks(arrays, tuple(lengths), tuple(ends), complete, padding)


def pack_steps(
    jobs: Sequence[Job], pool: BlockPool, cell_of: Callable[[Job, int], int], *, pads: bool
) -> tuple[Integers, ...]:
    """Give each request a place for one token; return cells, positions, rows, lengths and, flat, the block tables.

    Args:
        jobs: the decode batch, at least one.
        pool: its blocks.
        cell_of: where the token of a request at a position is.
        pads: whether rows and tables are padded to a shape that graphs are captured for.
    """
    ids = [job.request.id for job in jobs]
    positions = [pool.tokens[id_] for id_ in ids]
    cells = [cell_of(job, position) for job, position in zip(jobs, positions, strict=True)]
    rows = [pool.grow(id_) for id_ in ids]
    tables = [pool.tables[id_] for id_ in ids]
    requests, width = len(ids), max(map(len, tables))
    padded = padded_requests(requests) if pads else None
    if padded is not None:
        requests, width = padded, padded_blocks(width)
    more = requests - len(ids)
    blocks = np.full((requests, width), NOBODYS_BLOCK)
    for row, table in zip(blocks, tables, strict=False):
        row[: len(table)] = table
    lengths = [position + 1 for position in positions]
    scratch = [0] * more
    return [*cells, *[SCRATCH] * more], positions + scratch, rows + scratch, lengths + [1] * more, blocks.reshape(-1)
