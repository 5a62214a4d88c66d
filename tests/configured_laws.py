"""Laws that are held against the configurations at random; what breaks one is made small and told as a command."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from inspect import Signature, signature

from tests.random_configurations import Configuration, drawn

TIMES = int(os.environ.get("CHAMELEON_DRAWS_TIMES", "1"))  # so many times as many are looked at

Law = Callable[..., None]


def is_alone(one: Configuration) -> bool:
    """Whether there is one engine."""
    return one.config.replicas == 1


def is_open(one: Configuration) -> bool:
    """Whether there is one engine, and requests come when they are due."""
    return is_alone(one) and one.config.client.max_concurrency is None


def is_fleet(one: Configuration) -> bool:
    """Whether there are several engines."""
    return not is_alone(one)


def in_drawn(count: int, where: Callable[[Configuration], bool] = lambda _: True) -> Callable[[Law], Law]:
    """Have a test called with the first so many drawn configurations as `one`, those of them that are suitable.

    What it fails for is made smaller while it fails, and told as the command that shows it.
    """

    def decorate(law: Law) -> Law:
        def test(**others: object) -> None:
            for one in filter(where, map(drawn, range(count * TIMES))):
                _hold(partial(law, **others), one)

        test.__name__, test.__doc__, test.__module__ = law.__name__, law.__doc__, law.__module__
        others = [given for name, given in signature(law).parameters.items() if name != "one"]
        test.__signature__ = Signature(others)  # type: ignore[attr-defined]
        return test

    return decorate


def _hold(law: Law, one: Configuration) -> None:
    error = _failure(law, one)
    if error is not None:
        small = smallest(one, lambda fewer: type(_failure(law, fewer)) is type(error))
        msg = f"{_failure(law, small)}\n{small!r}\nwhich was found as\n{one!r}"
        raise AssertionError(msg) from error


def _failure(law: Law, one: Configuration) -> Exception | None:
    try:
        law(one=one)
    except Exception as error:  # noqa: BLE001 - whatever a broken simulator may raise
        return error
    return None


def smallest(one: Configuration, fails: Callable[[Configuration], bool]) -> Configuration:
    """Return a configuration that fails, and would not with any one change less."""
    largest, plain = one, Configuration("slora", one.changes)
    if fails(plain):
        one = plain
    for key, _ in one.changes:
        fewer = one.without(key)
        if key != "workload.requests" and fails(fewer):  # without it there would be as many as a preset has
            one = fewer
    return one if one == largest else smallest(one, fails)
