"""What a world's requests say, to find out whether a policy has written to them."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from numbers import Integral, Real
from typing import NamedTuple

from policies.base import Request
from sim.conformance.laws import broken
from sim.conformance.worlds import World
from sim.serving.ticks import to_seconds


class _Said(NamedTuple):
    """What a policy may read of a request and not write; an adapter by its id."""

    id: int
    arrival_s: float
    prompt_tokens: int
    predicted_tokens: int
    adapter: str | None


class Given:
    """Knows what the requests of a world said when they came."""

    def __init__(self, world: World) -> None:
        self._said = [
            _Said(i, to_seconds(arrival), prompt, world.predicted(i, output), None if index is None else f"a{index}")
            for i, (arrival, prompt, output, index) in enumerate(world.requests)
        ]

    def check(self, requests: Iterable[Request], who: str) -> None:
        """Say that a law is broken if one of the requests says something else now.

        Args:
            requests: of the world.
            who: has had them, the beginning of a sentence.
        """
        for request in requests:
            told = _told(request)
            was = self._said[request.id] if request.id in range(len(self._said)) else None
            if was is None:
                broken("given", f"{who} has written to a request: its id is {request.id!r}, which no request has")
            for name, then, now in zip(_Said._fields, was, told, strict=True):
                if now != then:
                    broken("given", f"{who} has written to request {was.id}: {name} was {then!r} and is {now!r}")
            _check_free(request, who)


def _check_free(request: Request, who: str) -> None:
    """Look at what is free for a scheduler to write."""
    for name, kind in (("lane", Integral), ("bypassed", Integral), ("weight", Real)):
        value = getattr(request, name)
        if not (isinstance(value, kind) and isfinite(value)):
            told = f"{who} has set {name} of request {request.id} to {value!r}"
            broken("answers", f"{told}; a {'whole' if kind is Integral else 'finite'} number is expected")


def _told(request: Request) -> _Said:
    adapter = getattr(request.adapter, "id", None)
    return _Said(request.id, request.arrival_s, request.prompt_tokens, request.predicted_tokens, adapter)
