"""Probes around a policy's hooks: every answer is looked at, and asked for twice, before the engine gets it."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from math import isfinite, isnan
from numbers import Integral, Real
from typing import Any

from policies.base import Adapter, Cache, Facts, Policy, Prefetch, Request, Router, Scheduler, Timed
from sim.conformance.given import Given
from sim.conformance.laws import broken
from sim.conformance.limits import Limits

MAX_ANSWERS = 10_000  # of one hook to one question, and questions to one batch; worlds have some 25 requests

Hook = Callable[..., Any]


def probed(policy: Policy, seam: str, limits: Limits, given: Given) -> Policy:
    """Return the very instance, its hooks watched.

    The class is left as it is, because the core asks it which hooks it has.

    Args:
        policy: a fresh instance.
        seam: of the policy.
        limits: of the run.
        given: the world's requests.
    """
    {"scheduler": _Scheduler, "cache": _Cache, "prefetch": _Prefetch, "router": _Router}[seam](policy, limits, given)
    return policy


def counted(policy: Any, limits: Limits) -> Policy:
    """Return the very instance, nothing but its wakings watched."""
    if isinstance(policy, Timed):
        _replace(policy, "woken", partial(_woken, policy, policy.woken, limits))
    return policy  # type: ignore[no-any-return]


def _woken(policy: Timed, original: Hook, limits: Limits, now: float) -> None:
    original(now)
    limits.woken(now, policy.wakes_at_s())


def _replace(policy: Policy, hook: str, by: Hook) -> None:
    object.__setattr__(policy, hook, by)


class _Probe:
    """Watches the hooks of one instance that its class has for itself."""

    base: type[Policy]
    always = frozenset({"start"})

    def __init__(self, policy: Any, limits: Limits, given: Given) -> None:
        self.policy = policy
        self.known: set[Adapter] | None = None
        self.given = given
        self._limits = limits
        hooks = [name for name, value in inspect.getmembers(self.base, inspect.isroutine) if not name.startswith("_")]
        own = {hook for hook in hooks if getattr(type(policy), hook) is not getattr(self.base, hook)}
        for hook in sorted(own | self.always):
            self._watch(hook)
        counted(policy, limits)

    def _watch(self, hook: str) -> None:
        original = getattr(self.policy, hook)
        check = getattr(self, f"_{hook}", None)
        ask = original if check is None else partial(check, original)

        def watched(*given: Any, **named: Any) -> Any:
            answer = self._limits.within(hook, lambda: ask(*given, **named))
            self.given.check((one for one in given[:1] if isinstance(one, Request)), hook)
            return answer

        _replace(self.policy, hook, watched)

    def _start(self, original: Hook, facts: Facts) -> None:
        self.known = set(facts.adapters)
        original(facts)

    def _wakes_at_s(self, original: Hook) -> float | None:
        at_s: float | None = _twice(original, "wakes_at_s")
        if at_s is not None and not (isinstance(at_s, Real) and isfinite(at_s)):
            broken("answers", f"wakes_at_s returned {at_s!r}; seconds or None are expected")
        return at_s


class _Cache(_Probe):
    base = Cache

    @staticmethod
    def _score(original: Hook, adapter: Adapter, now: float) -> float:
        score: float = _twice(lambda: original(adapter, now), f"score({adapter.id}) at {now:g} s")
        _check_number(score, f"score({adapter.id}) at {now:g} s", allows_infinity=False)
        return score

    @staticmethod
    def _scores(original: Hook, adapters: Sequence[Adapter], now: float) -> Sequence[float]:
        given, what = list(adapters), f"scores({', '.join(adapter.id for adapter in adapters)}) at {now:g} s"
        scores: list[float] = _twice(lambda: _all(original(adapters, now), "scores", "numbers"), what)
        if list(adapters) != given:
            broken("given", "scores changed the list of adapters that it was given")
        if len(scores) != len(given):
            broken("answers", f"{what} returned {len(scores)} numbers for {len(given)} adapters")
        for score in scores:
            _check_number(score, what, allows_infinity=False)
        return scores

    @staticmethod
    def _drops(original: Hook, idle: Sequence[Adapter], now: float, *, batch_is_empty: bool) -> list[Adapter]:
        given = list(idle)
        dropped = _all(original(idle, now, batch_is_empty=batch_is_empty), "drops", "adapters")
        if list(idle) != given:
            broken("given", "drops changed the list of adapters that it was given")
        for adapter, times in Counter(dropped).items():
            told = getattr(adapter, "id", repr(adapter))
            if adapter not in given:
                broken("in use", f"drops at {now:g} s named {told}, which is not among the idle adapters it was given")
            if times > 1:
                broken("answers", f"drops at {now:g} s named {told} {times} times")
        return dropped


class _Prefetch(_Probe):
    base = Prefetch

    def _start(self, original: Hook, facts: Facts) -> None:
        super()._start(original, facts)
        steps = self.policy.asks_at_steps
        are_steps = isinstance(steps, Iterable) and all(isinstance(one, Integral) and int(one) >= 0 for one in steps)
        if steps is not None and not are_steps:
            broken("answers", f"asks_at_steps is {steps!r}; whole numbers of steps or None are expected")

    def _wanted(self, original: Hook, waiting: Iterable[Request], now: float) -> Iterable[Adapter]:
        requests = list(waiting)

        def ask() -> list[Any]:
            wanted = _all(original(iter(requests), now), "wanted", "adapters")
            for adapter in wanted:  # before two answers are compared: adapters made anew each time are never equal
                self._check(adapter, {request.adapter for request in requests}, now)
            return wanted

        _twice(ask, f"wanted at {now:g} s")
        self.given.check(requests, "wanted")
        answer: Iterable[Adapter] = original(iter(requests), now)  # not the list: it may be read only in part
        return answer

    def _check(self, adapter: Adapter | None, waiting: set[Adapter | None], now: float) -> None:
        if adapter is None:
            broken("answers", f"wanted at {now:g} s yielded None, the base model, which needs no load")
        if self.known is not None and adapter not in self.known:
            broken("answers", f"wanted at {now:g} s yielded {adapter!r}, which is no adapter of this workload")
        if self.policy.only_waiting and adapter not in waiting:
            told = f"wanted at {now:g} s yielded {adapter!r}, which no waiting request needs"
            broken("answers", f"{told}, although only_waiting is set")


class _Scheduler(_Probe):
    base = Scheduler
    always = frozenset({"start", "order", "fill"})  # the last two also where only `key` is its own

    def _key(self, original: Hook, request: Request, now: float) -> float:
        key: float = _twice(lambda: original(request, now), f"key(request {request.id}) at {now:g} s")
        is_ranked_by_ours = type(self.policy).order is Scheduler.order  # which takes no infinite key
        _check_number(key, f"key(request {request.id}) at {now:g} s", allows_infinity=not is_ranked_by_ours)
        return key

    def _order(self, original: Hook, waiting: Iterable[Request], now: float) -> Iterator[Request]:
        given = list(waiting)
        order = _twice(lambda: _all(original(iter(given), now), "order", "requests"), f"order at {now:g} s")
        self.given.check(given, "order")
        left, right = sorted(_id(one) for one in order), sorted(request.id for request in given)
        if left != right:
            broken("answers", f"order at {now:g} s yielded the requests {left}; those that wait are {right}")
        return iter(order)

    def _fill(self, original: Hook, batch: Any, waiting: Iterable[Request], now: float) -> None:
        self.policy.order(waiting, now)
        requests = list(waiting)
        returned = original(_Counted(batch), waiting, now)
        self.given.check(requests, "fill")
        if returned is not None:
            broken("answers", f"fill returned {returned!r}, which nobody reads; one with a `yield` never runs")

    @staticmethod
    def _wakes_at_step(original: Hook) -> int | None:
        step: int | None = _twice(original, "wakes_at_step")
        if step is not None and not isinstance(step, Integral):
            broken("answers", f"wakes_at_step returned {step!r}; a whole number of steps or None is expected")
        return step


class _Router(_Probe):
    base = Router

    @staticmethod
    def _choose(original: Hook, request: Request, replicas: Sequence[Any], now: float) -> int:
        index: int = original(request, replicas, now)
        if not isinstance(index, Integral) or not 0 <= int(index) < len(replicas):
            told = f"choose(request {request.id}) at {now:g} s returned {index!r}"
            broken("answers", f"{told}; a whole number from 0 to {len(replicas) - 1} is expected")
        return index


class _Counted:
    """A batch that does not let itself be asked for ever."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch
        self._asked = 0

    def __getattr__(self, name: str) -> Any:
        self._asked += 1
        if self._asked > MAX_ANSWERS:
            broken("ends", f"fill asked its batch {MAX_ANSWERS} times in one round and did not come to an end")
        return getattr(self._batch, name)


def _twice(ask: Callable[[], Any], what: str) -> Any:
    """Return the answer to a question that is asked twice."""
    first = ask()
    second = ask()
    if first != second and not _is_nan(first):
        broken("pure", f"{what} gave {_told(first)}, and {_told(second)} when asked again")
    return first


def _all(answer: Any, hook: str, kind: str) -> list[Any]:
    """Return what a hook yields, all of it."""
    if not isinstance(answer, Iterable):
        broken("answers", f"{hook} returned {answer!r}; {kind} are expected")
    found = list(islice(answer, MAX_ANSWERS))
    if len(found) == MAX_ANSWERS:
        broken("ends", f"{hook} yielded {MAX_ANSWERS} {kind} and did not come to an end")
    return found


def _check_number(value: object, what: str, *, allows_infinity: bool) -> None:
    is_number = isinstance(value, Real) and (not isnan(value) if allows_infinity else isfinite(value))
    if not is_number:
        expected = "a number is" if allows_infinity else "finite numbers are"
        broken("answers", f"{what} gave {value!r}; {expected} expected")


def _is_nan(value: object) -> bool:
    values = value if isinstance(value, list) else [value]
    return any(isinstance(one, Real) and isnan(one) for one in values)


def _id(request: Any) -> int:
    if not isinstance(request, Request):
        broken("answers", f"order yielded {request!r}; requests are expected")
    return int(request.id)


def _told(answer: Any) -> str:
    if isinstance(answer, list):
        return f"[{', '.join(_told(one) for one in answer)}]"
    if isinstance(answer, Request):
        return f"request {answer.id}"
    return str(answer.id) if isinstance(answer, Adapter) else repr(answer)
