"""In which order shapes are measured, so that a sweep cut short anywhere can still be fitted. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, groupby, zip_longest

from gpu_validate.shapes import KERNELS, Shape

# What tells families apart: each is a term of some law, or tests one.
FAMILY = ("kernel", "phase", "mode", "model", "beside", "graph", "split")


def in_turn(shapes: Iterable[Shape]) -> list[Shape]:
    """Return shapes so that any first part of them has some of every family, from all over its range.

    The families take turns. Those of a LoRA kernel other than the first of `KERNELS` come after everything before it:
    the engine that is checked uses the first.
    """
    tiers = groupby(sorted(shapes, key=_tier), key=_tier)
    return list(chain.from_iterable(_turns(list(tier)) for _, tier in tiers))


def _tier(shape: Shape) -> int:
    kernel = shape.config.get("kernel")
    return KERNELS.index(kernel) if kernel in KERNELS else 0


def _turns(shapes: Sequence[Shape]) -> list[Shape]:
    families: dict[str, list[Shape]] = {}
    for shape in shapes:
        name = " ".join([shape.kind, *(str(shape.config.get(key)) for key in FAMILY)])
        families.setdefault(name, []).append(shape)
    rounds = zip_longest(*(_spread(family) for family in families.values()))
    return [shape for one in rounds for shape in one if shape is not None]


def _spread(family: Sequence[Shape]) -> list[Shape]:
    """Return the last, the first, the middle, the middles of the halves, and so on."""
    if not family:
        return []
    bits = len(family).bit_length()
    places = sorted(range(len(family) - 1), key=lambda place: f"{place:0{bits}b}"[::-1])
    return [family[-1], *(family[place] for place in places)]
