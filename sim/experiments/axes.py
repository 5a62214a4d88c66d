"""The axes of a sweep: rates, and any keys of the configuration with the values that each is to have."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

MOST_RATES = 1000
# keys that a sweep sets in another way
_ELSEWHERE = {
    "workload.rate_per_s": "--rates varies it",
    "seed": "--reps counts it up from --seed",
    "name": "it tells systems apart; give several --system",
}
Setting = tuple[str, str]  # a key and its value, both as given


class Axis(NamedTuple):
    """A key of the configuration and the values that it is to have, as texts that `--set` takes."""

    key: str
    values: tuple[str, ...]


def parse_axis(text: str) -> Axis:
    """Return the axis in a text such as "adapters.slots=8,16,32" or "workload.ranks=[8],[8,64]".

    Values are parted by commas that stand in no bracket and no quotes.

    Raises:
        ValueError: if there is no key, no value or a value twice, or the key is one that a sweep sets in another way.
    """
    key, equals, listed = text.partition("=")
    key, values = key.strip(), tuple(value.strip() for value in _parted(listed))
    if not (key and equals and all(values)):
        msg = f"--vary {text}: expected KEY=VALUE,VALUE,..., such as adapters.slots=8,16,32"
        raise ValueError(msg)
    if len(set(values)) < len(values):
        twice = next(value for value in values if values.count(value) > 1)
        msg = f"--vary {text}: {twice} is there twice"
        raise ValueError(msg)
    if key in _ELSEWHERE:
        msg = f"--vary {text}: {key} is not varied so: {_ELSEWHERE[key]}"
        raise ValueError(msg)
    return Axis(key, values)


def _parted(listed: str) -> list[str]:
    depth, quote, parts = 0, "", [""]
    for letter in listed:
        if letter in "'\"" and quote in {"", letter}:
            quote = "" if quote else letter
        depth += (letter in "[{") - (letter in "]}") if not quote else 0
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def parse_axes(texts: Sequence[str], changes: Sequence[str] = ()) -> tuple[Axis, ...]:
    """Return one axis for each text.

    Args:
        texts: see `parse_axis`.
        changes: what `--set` fixes for all; none of it may be varied.

    Raises:
        ValueError: if a text is none, or a key is given twice.
    """
    axes = tuple(map(parse_axis, texts))
    fixed = [change.partition("=")[0].strip() for change in changes]
    for place, axis in enumerate(axes):
        if axis.key in fixed:
            msg = f"{axis.key} is both fixed by --set and varied by --vary"
            raise ValueError(msg)
        if axis.key in {other.key for other in axes[:place]}:
            msg = f"{axis.key} is varied twice; give all its values to one --vary"
            raise ValueError(msg)
    return axes


def settings(axes: Sequence[Axis]) -> Iterator[tuple[Setting, ...]]:
    """Yield every combination of values, the last axis fastest; one without settings where there are no axes."""
    for values in itertools.product(*(axis.values for axis in axes)):
        yield tuple((axis.key, value) for axis, value in zip(axes, values, strict=True))


def parse_rates(text: str) -> tuple[float, ...]:
    """Return the rates of a list such as "5,6,8.5" or "5:9:0.5" (both ends included), ascending, each once.

    Raises:
        ValueError: if a rate or a step is not a positive number, a range is empty, or there are too many.
    """
    rates = sorted({rate for part in text.split(",") for rate in _range(part)})
    if len(rates) > MOST_RATES:
        msg = f"a sweep takes at most {MOST_RATES} rates, {text!r} has {len(rates)}"
        raise ValueError(msg)
    return tuple(rates)


def _range(part: str) -> list[float]:
    # decimal, so that 5:6:0.1 has 5.3 and not 5.300000000000001
    start, stop, step = _bounds(part)
    if not (start > 0 and step > 0 and start <= stop):
        msg = f"rates are positive, and a range is start:stop:step with start <= stop, got {part!r}"
        raise ValueError(msg)
    return [float(start + step * place) for place in range(min(int((stop - start) / step), MOST_RATES) + 1)]


def _bounds(part: str) -> tuple[Decimal, Decimal, Decimal]:
    try:
        given = [Decimal(word.strip()) for word in part.split(":")]
    except InvalidOperation:
        given = []
    if len(given) not in {1, 3} or not all(one.is_finite() for one in given):
        msg = f"rates are numbers such as 5,6,8.5 or a range such as 5:9:0.5, got {part!r}"
        raise ValueError(msg)
    return (given[0], given[0], Decimal(1)) if len(given) == 1 else (given[0], given[1], given[2])


class Shard(NamedTuple):
    """One of so many parts of a sweep's runs, which are dealt out in turn; counted from 1."""

    part: int
    parts: int


def parse_shard(text: str) -> Shard:
    """Return the shard in a text such as "2/16".

    Raises:
        ValueError: if it is none.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    shard = Shard(int(found[1]), int(found[2])) if found else Shard(0, 0)
    if not 1 <= shard.part <= shard.parts:
        msg = f"--shard {text}: expected I/N with 1 <= I <= N, such as 2/16"
        raise ValueError(msg)
    return shard
