"""One flat device arena for adapters of any size: first-fit free list, coalescing, compaction. It moves no bytes in."""

from __future__ import annotations

from typing import NamedTuple

import torch

ALIGNMENT_BYTES = 512


class Hole(NamedTuple):
    """Free elements [start, start + size)."""

    start: int
    size: int


def aligned(elements: int, itemsize: int) -> int:
    """Return the elements that a slice of this many takes in an arena."""
    unit = ALIGNMENT_BYTES // itemsize
    return -(-elements // unit) * unit


class Arena:
    """Slices of one tensor by owner; offsets and sizes are in elements and multiples of 512 bytes.

    Args:
        elements: size; rounded up to the alignment.
        dtype, device: of the tensor.
    """

    def __init__(self, elements: int, *, dtype: torch.dtype, device: torch.device) -> None:
        self._itemsize = dtype.itemsize
        size = aligned(max(elements, 1), self._itemsize)
        self.flat = torch.zeros(size, dtype=dtype, device=device)
        self.offsets: dict[int, int] = {}
        self.compactions = 0
        self._sizes: dict[int, int] = {}
        self._holes = [Hole(0, size)]

    @property
    def free_elements(self) -> int:
        """Elements in all holes together."""
        return sum(hole.size for hole in self._holes)

    def try_allocate(self, owner: int, elements: int) -> bool:
        """Give an owner the first hole that is large enough; change nothing if there is none.

        Raises:
            ValueError: if the owner has a slice already or asks for nothing.
        """
        if owner in self.offsets or elements <= 0:
            msg = f"owner {owner} asks for {elements} elements and holds {self._sizes.get(owner, 0)}"
            raise ValueError(msg)
        size = aligned(elements, self._itemsize)
        for place, hole in enumerate(self._holes):
            if hole.size >= size:
                rest = Hole(hole.start + size, hole.size - size)
                self._holes[place : place + 1] = [rest] if rest.size else []
                self.offsets[owner], self._sizes[owner] = hole.start, size
                return True
        return False

    def free(self, owner: int) -> None:
        """Take an owner's slice back and join it with the holes beside it."""
        freed = Hole(self.offsets.pop(owner), self._sizes.pop(owner))
        joined: list[Hole] = []
        for hole in sorted([*self._holes, freed]):
            if joined and joined[-1].start + joined[-1].size == hole.start:
                joined[-1] = Hole(joined[-1].start, joined[-1].size + hole.size)
            else:
                joined.append(hole)
        self._holes = joined

    def slice(self, owner: int, elements: int) -> torch.Tensor:
        """Return the first elements of an owner's slice, shape (elements,)."""
        start = self.offsets[owner]
        return self.flat[start : start + elements]

    def compact(self) -> None:
        """Move all slices to the front, so that one hole is left; nothing may read or write the arena meanwhile."""
        end = 0
        for owner in sorted(self.offsets, key=self.offsets.__getitem__):
            start, size = self.offsets[owner], self._sizes[owner]
            if start != end:
                source = self.flat[start : start + size]
                # A copy onto itself is undefined where the two overlap.
                self.flat[end : end + size].copy_(source.clone() if end + size > start else source)
                self.offsets[owner] = end
            end += size
        self._holes = [Hole(end, len(self.flat) - end)] if end < len(self.flat) else []
        self.compactions += 1

    def check(self) -> None:
        """Raise RuntimeError with the numbers unless slices and holes tile the arena, no two holes touching."""
        slices = [(self.offsets[owner], self._sizes[owner], False) for owner in self.offsets]
        tiles = sorted([*slices, *((hole.start, hole.size, True) for hole in self._holes)])
        end, was_hole = 0, False
        for start, size, is_hole in tiles:
            if start != end or size <= 0 or (was_hole and is_hole) or start % aligned(1, self._itemsize):
                break
            end, was_hole = start + size, is_hole
        if end != len(self.flat):
            msg = f"the arena of {len(self.flat)} elements is not tiled beyond {end}: (start, size, is hole)={tiles}"
            raise RuntimeError(msg)
