"""Checks of constructor keywords, so that a bad value is named together with what is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import TypeVar

Number = TypeVar("Number", int, float)
Choice = TypeVar("Choice", bound=object)


def at_least(name: str, value: Number, least: float) -> Number:
    """Return the value.

    Raises:
        ValueError: if it is below `least`, infinite or not a number.
    """
    if least <= value < inf:
        return value
    msg = f"{name} must be {'finite' if value == inf else f'at least {least}'}, got {value!r}"
    raise ValueError(msg)


def above(name: str, value: Number, bound: float) -> Number:
    """Return the value.

    Raises:
        ValueError: if it is not above `bound`, or infinite.
    """
    if bound < value < inf:
        return value
    msg = f"{name} must be {'finite' if value == inf else f'above {bound}'}, got {value!r}"
    raise ValueError(msg)


def one_of(name: str, value: Choice, allowed: Sequence[object]) -> Choice:
    """Return the value.

    Raises:
        ValueError: if it is not among those allowed.
    """
    if value in allowed:
        return value
    msg = f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}"
    raise ValueError(msg)
