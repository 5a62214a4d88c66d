"""Which token uses which adapter, arranged for kernels: built on the host, sent to the device in one copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

Ints = npt.NDArray[np.int64]
_NONE = np.iinfo(np.int64).max
_ALIGNMENT = 8  # elements of 16 bits in the widest load
_TABLE_WORDS = 4  # tables begin at 16 bytes: Triton compiles a kernel apart for every set of pointers that do not


class Group(NamedTuple):
    """The tokens of one adapter: rows `start..stop` of the permutation.

    `slot` is its row in the plan's tables, `adapter` the index that the tokens gave, `base` in elements of the arena.
    """

    slot: int
    adapter: int
    start: int
    stop: int
    base: int
    rank: int
    scale: float


class _Host(NamedTuple):
    """The plan's tables in the host's memory; the fields are those of `LoraPlan`."""

    bases: Ints
    scales: npt.NDArray[np.float32]
    ranks: Ints
    ends: Ints
    tile_row: Ints
    tile_length: Ints
    tile_slot: Ints
    permutation: Ints
    row_slot: Ints


class _Work(NamedTuple):
    """The distinct adapters with work, in the order of their slots."""

    adapters: Ints
    ranks: Ints
    bases: Ints
    scales: npt.NDArray[np.float64]
    counts: Ints
    stops: Ints


@dataclass(eq=False)
class LoraPlan:
    """The LoRA work of one batch of tokens.

    Slot 0 stands for "no adapter" (rank 0); the distinct adapters with work have slots from 1, the largest rank first
    (long work starts early, and equal ranks are neighbours). There are `tiles + 1` slots, the last ones unused.

    Attributes:
        tokens: rows of x and y.
        tile: the most rows of a tile.
        max_rank: the largest rank that the plan can hold; 0 if there is no work.
        aligned: whether all ranks and bases are multiples of 8 elements, which allows wide loads.
        bases: int64 [slots], an adapter's first element in the arena.
        scales: float32 [slots].
        ranks: int32 [slots].
        ends: int32 [slots], end of the adapter's rows, counted from the first row of its rank.
        tile_row: int32 [tiles], first row of the permutation.
        tile_length: int32 [tiles], rows; 0: nothing to do.
        tile_slot: int32 [tiles], whose rows.
        permutation: int32 [tokens], token of each row; rows without work are last.
        row_slot: int32 [tokens], slot of each *token*.
    """

    tokens: int
    tile: int
    max_rank: int
    aligned: bool
    bases: torch.Tensor
    scales: torch.Tensor
    ranks: torch.Tensor
    ends: torch.Tensor
    tile_row: torch.Tensor
    tile_length: torch.Tensor
    tile_slot: torch.Tensor
    permutation: torch.Tensor
    row_slot: torch.Tensor
    _packed: torch.Tensor
    _host: _Host
    _work: _Work

    @cached_property
    def groups(self) -> list[Group]:
        """Return, from the host's memory, the distinct adapters with work, by slot."""
        work = self._work
        starts = work.stops - work.counts
        columns = (work.adapters, starts, work.stops, work.bases, work.ranks, work.scales)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return [Group(slot, *row) for slot, row in enumerate(rows, start=1)]

    @property
    def tiles(self) -> int:
        """Return the number of tiles, empty ones included."""
        return len(self.tile_row)

    @property
    def device(self) -> torch.device:
        """Return where the tables are."""
        return self._packed.device

    def padded(
        self,
        tiles: int,
        *,
        max_rank: int | None = None,
        aligned: bool | None = None,
        device: torch.device | None = None,
    ) -> LoraPlan:
        """Return the same work in tables of a fixed size, for a CUDA graph; added tiles are empty.

        Args:
            tiles: tiles in all.
            max_rank: room for ranks up to this (default: as it is), which fixes the grid and the intermediate.
            aligned: False to leave room for ranks and bases that are not multiples of 8 (default: as it is).
            device: of the tables (default: as it is).

        Raises:
            ValueError: if the work does not fit.
        """
        rank = self.max_rank if max_rank is None else max_rank
        if tiles < self.tiles or rank < self.max_rank or (aligned and not self.aligned):
            msg = (
                f"the plan has {self.tiles} tiles, ranks up to {self.max_rank}, aligned={self.aligned}; "
                f"it does not fit {tiles} tiles, ranks up to {rank}, aligned={aligned}"
            )
            raise ValueError(msg)
        more = tiles - self.tiles
        nothing = np.zeros(more, np.int64)
        grown = {
            name: np.concatenate([getattr(self._host, name), nothing], dtype=kind) for name, kind in _BY_TILE.items()
        }
        keeps = self.aligned if aligned is None else aligned
        where = device or self.device
        return _send(self._host._replace(**grown), self._work, self.tile, rank, aligned=keeps, device=where)

    def copy_from(self, other: LoraPlan) -> None:
        """Overwrite this plan's tables in place, so that a captured CUDA graph does the other plan's work.

        The other plan may be on the host: that is then the one copy to the device.

        Raises:
            ValueError: if tokens, tiles or tile size differ, or the other has larger ranks or lesser alignment.
        """
        fixed, offered = (self.tokens, self.tiles, self.tile), (other.tokens, other.tiles, other.tile)
        if fixed != offered or other.max_rank > self.max_rank or (self.aligned and not other.aligned):
            msg = (
                f"the plan holds (tokens, tiles, tile) = {fixed}, ranks up to {self.max_rank}, aligned={self.aligned}; "
                f"got {offered}, {other.max_rank}, {other.aligned}"
            )
            raise ValueError(msg)
        self._packed.copy_(other._packed, non_blocking=True)
        self._host, self._work = other._host, other._work
        self.__dict__.pop("groups", None)


def make_plan(
    token_adapters: Sequence[int | None],
    ranks: Sequence[int],
    bases: Sequence[int],
    scales: Sequence[float],
    *,
    device: torch.device | str,
    tile: int = 16,
) -> LoraPlan:
    """Arrange the tokens of a batch by adapter.

    Args:
        token_adapters: adapter index of each token; None: the base model alone.
        ranks: of each adapter; 0: it changes nothing.
        bases: first element of each adapter in the arena; read only for adapters that a token uses.
        scales: factor of each adapter (PEFT: alpha / rank).
        device: where kernels will read the plan.
        tile: the most rows of a tile, a power of two and at least 16 (what a tensor core takes).

    Raises:
        ValueError: if an index, a used rank or base, or the tile size is not allowed.
    """
    if tile < 16 or tile & (tile - 1):
        msg = f"a tile must be a power of two of at least 16 rows, got {tile}"
        raise ValueError(msg)
    wanted = np.fromiter((_NONE if a is None else a for a in token_adapters), np.int64, len(token_adapters))
    distinct, inverse = np.unique(wanted, return_inverse=True)
    used = distinct[distinct != _NONE]
    work, slots = _work(used, np.bincount(inverse, minlength=len(distinct)), ranks, bases, scales)
    row_slot = slots[inverse]
    host = _tables(work, row_slot, tile)
    aligned = not ((work.ranks | work.bases) % _ALIGNMENT).any()
    max_rank = int(work.ranks[0]) if len(work.ranks) else 0
    return _send(host, work, tile, max_rank, aligned=aligned, device=torch.device(device))


_BY_TILE: dict[str, type[np.generic]] = {
    "bases": np.int64,
    "scales": np.float32,
    "ranks": np.int64,
    "ends": np.int64,
    "tile_row": np.int64,
    "tile_length": np.int64,
    "tile_slot": np.int64,
}


def _work(
    used: Ints, tokens_of: Ints, ranks: Sequence[int], bases: Sequence[int], scales: Sequence[float]
) -> tuple[_Work, Ints]:
    """Return the adapters with work in the order of their slots, and the slot of each distinct index."""
    _check(used, ranks, bases, scales)
    indices = used.tolist()
    rank = np.array([ranks[a] for a in indices], np.int64)
    base = np.array([bases[a] for a in indices], np.int64)
    scale = np.array([scales[a] for a in indices], np.float64)
    _check_used(rank, base)
    order = np.argsort(-rank, kind="stable")[: np.count_nonzero(rank)]
    slots = np.zeros(len(tokens_of), np.int64)
    slots[order] = np.arange(1, len(order) + 1)
    counts = tokens_of[order]
    return _Work(used[order], rank[order], base[order], scale[order], counts, np.cumsum(counts)), slots


def _check(used: Ints, ranks: Sequence[int], bases: Sequence[int], scales: Sequence[float]) -> None:
    if not len(ranks) == len(bases) == len(scales):
        msg = f"ranks, bases and scales must be as many, got {len(ranks)}, {len(bases)} and {len(scales)}"
        raise ValueError(msg)
    if len(used) and not 0 <= used[0] <= used[-1] < len(ranks):
        wrong = used[0] if used[0] < 0 else used[-1]
        msg = f"an adapter index must be in 0..{len(ranks) - 1}, got {wrong}"
        raise ValueError(msg)


def _check_used(ranks: Ints, bases: Ints) -> None:
    if ((ranks | bases) < 0).any():
        msg = f"neither a rank nor a base may be negative, got {ranks.min()} and {bases.min()} as the least of each"
        raise ValueError(msg)


def _tables(work: _Work, row_slot: Ints, tile: int) -> _Host:
    tiles_of = -(-work.counts // tile)
    index = np.repeat(np.arange(len(tiles_of)), tiles_of)
    within = np.arange(len(index)) - (np.cumsum(tiles_of) - tiles_of)[index]
    starts = work.stops - work.counts
    tile_row = starts[index] + within * tile
    slots, size = slice(1, len(tiles_of) + 1), len(index) + 1
    bases, ranks, ends = np.zeros((3, size), np.int64)
    scales = np.zeros(size, np.float32)
    bases[slots], ranks[slots], scales[slots] = work.bases, work.ranks, work.scales
    # Ranks descend, so the first row of a rank is that of the first adapter that is not larger.
    ends[slots] = work.stops - starts[np.searchsorted(-work.ranks, -work.ranks)] if len(starts) else 0
    return _Host(
        bases=bases,
        scales=scales,
        ranks=ranks,
        ends=ends,
        tile_row=tile_row,
        tile_length=np.minimum(tile, work.stops[index] - tile_row),
        tile_slot=index + 1,
        permutation=np.argsort(np.where(row_slot == 0, size, row_slot), kind="stable"),
        row_slot=row_slot,
    )


def _send(host: _Host, work: _Work, tile: int, max_rank: int, *, aligned: bool, device: torch.device) -> LoraPlan:
    tables: list[npt.NDArray[Any]] = [host.bases.view(np.int32), host.scales.view(np.int32), *host[2:]]
    sizes = [len(table) for table in tables]
    bounds = list(accumulate((-(-size // _TABLE_WORDS) * _TABLE_WORDS for size in sizes), initial=0))
    words = np.zeros(bounds[-1], np.int32)
    for start, table in zip(bounds, tables, strict=False):
        words[start : start + len(table)] = table
    packed = torch.from_numpy(words).to(device)
    places = zip(_Host._fields, bounds, sizes, strict=False)
    views = {name: packed[start : start + size] for name, start, size in places}
    views |= {"bases": views["bases"].view(torch.int64), "scales": views["scales"].view(torch.float32)}
    return LoraPlan(
        tokens=len(host.row_slot),
        tile=tile,
        max_rank=max_rank,
        aligned=aligned,
        **views,
        _packed=packed,
        _host=host,
        _work=work,
    )
