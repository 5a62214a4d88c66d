"""Probes around a policy's hooks: every answer is looked at, and asked for twice, before the engine gets it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from math import isfinite, isnan
from numbers import Integral, Real
from typing import Any

from policies.base import Adapter, Cache, Facts, Policy, Prefetch, Request, Router, Scheduler

MAX_ANSWERS = 10_000  # of one hook to one question, and questions to one batch; worlds have some 25 requests
MAX_WAKES_AT_ONCE = 100
MAX_WAKES = 50_000

Hook = Callable[..., Any]


class BrokenLawError(RuntimeError):
    """A policy has broken a law; `args` are the law's key and a sentence on what it did."""

    @property
    def law(self) -> str:
        """Return the key of the law."""
        return str(self.args[0])


def probed(policy: Policy, seam: str) -> Policy:
    """Return the very instance, its hooks watched.

    The class is left as it is, because the core asks it which hooks it has.
    """
    {"scheduler": _Scheduler, "cache": _Cache, "prefetch": _Prefetch, "router": _Router}[seam](policy)
    return policy


class _Probe:
    """Watches the hooks of one instance that its class has for itself."""

    base: type[Policy]
    hooks: tuple[str, ...]
    always = frozenset({"start"})

    def __init__(self, policy: Any) -> None:
        self.policy = policy
        self.known: set[Adapter] | None = None
        self._wakes = Counter[float]()
        own = {hook for hook in self.hooks if getattr(type(policy), hook) is not getattr(self.base, hook)}
        for hook in sorted(own | self.always | ({"woken"} if "wakes_at_s" in own else set())):
            self._watch(hook)

    def _watch(self, hook: str) -> None:
        check, original = getattr(self, f"_{hook}"), getattr(self.policy, hook)
        object.__setattr__(self.policy, hook, lambda *given, **named: check(original, *given, **named))

    def _start(self, original: Hook, facts: Facts) -> None:
        self.known = set(facts.adapters)
        original(facts)

    def _wakes_at_s(self, original: Hook) -> float | None:
        at_s: float | None = _twice(original, "wakes_at_s")
        if at_s is not None and not (isinstance(at_s, Real) and isfinite(at_s)):
            _broken("answers", f"wakes_at_s returned {at_s!r}; seconds or None are expected")
        return at_s

    def _woken(self, original: Hook, now: float) -> None:
        original(now)
        self._wakes[now] += 1
        at_s = self.policy.wakes_at_s()
        if at_s is not None and at_s <= now and self._wakes[now] > MAX_WAKES_AT_ONCE:
            _broken("timers", f"woken {self._wakes[now]} times at {now:g} s, it still declares {at_s:g} s")
        if self._wakes.total() > MAX_WAKES:
            _broken("timers", f"it asked to be woken {MAX_WAKES} times in {now:g} s of a small world")


class _Cache(_Probe):
    base = Cache
    hooks = ("score", "scores", "drops")

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
            _broken("answers", "scores changed the list of adapters that it was given")
        if len(scores) != len(given):
            _broken("answers", f"{what} returned {len(scores)} numbers for {len(given)} adapters")
        for score in scores:
            _check_number(score, what, allows_infinity=False)
        return scores

    @staticmethod
    def _drops(original: Hook, idle: Sequence[Adapter], now: float, *, batch_is_empty: bool) -> list[Adapter]:
        given = list(idle)
        dropped = _all(original(idle, now, batch_is_empty=batch_is_empty), "drops", "adapters")
        for adapter, times in Counter(dropped).items():
            told = getattr(adapter, "id", repr(adapter))
            if adapter not in given:
                _broken("in use", f"drops at {now:g} s named {told}, which is not among the idle adapters it was given")
            if times > 1:
                _broken("answers", f"drops at {now:g} s named {told} {times} times")
        return dropped


class _Prefetch(_Probe):
    base = Prefetch
    hooks = ("wanted", "wakes_at_s", "woken")

    def _start(self, original: Hook, facts: Facts) -> None:
        super()._start(original, facts)
        steps = self.policy.asks_at_steps
        if steps is not None and not all(isinstance(step, Integral) and int(step) >= 0 for step in steps):
            _broken("answers", f"asks_at_steps is {steps!r}; whole numbers of steps or None are expected")

    def _wanted(self, original: Hook, waiting: Iterable[Request], now: float) -> Iterable[Adapter]:
        requests = list(waiting)
        wanted = _twice(lambda: _all(original(iter(requests), now), "wanted", "adapters"), f"wanted at {now:g} s")
        for adapter in wanted:
            self._check(adapter, {request.adapter for request in requests}, now)
        answer: Iterable[Adapter] = original(iter(requests), now)  # not the list: it may be read only in part
        return answer

    def _check(self, adapter: Adapter | None, waiting: set[Adapter | None], now: float) -> None:
        if adapter is None:
            _broken("answers", f"wanted at {now:g} s yielded None, the base model, which needs no load")
        if self.known is not None and adapter not in self.known:
            _broken("answers", f"wanted at {now:g} s yielded {adapter!r}, which is no adapter of this deployment")
        if self.policy.only_waiting and adapter not in waiting:
            told = f"wanted at {now:g} s yielded {adapter!r}, which no waiting request needs"
            _broken("answers", f"{told}, although only_waiting is set")


class _Scheduler(_Probe):
    base = Scheduler
    hooks = ("key", "order", "fill", "wakes_at_s", "woken", "wakes_at_step")
    always = frozenset({"start", "order", "fill"})  # the last two also where only `key` is its own

    @staticmethod
    def _key(original: Hook, request: Request, now: float) -> float:
        key: float = _twice(lambda: original(request, now), f"key(request {request.id}) at {now:g} s")
        _check_number(key, f"key(request {request.id}) at {now:g} s", allows_infinity=True)
        return key

    @staticmethod
    def _order(original: Hook, waiting: Iterable[Request], now: float) -> Iterator[Request]:
        given = list(waiting)
        order = _twice(lambda: _all(original(iter(given), now), "order", "requests"), f"order at {now:g} s")
        left, right = sorted(_id(one) for one in order), sorted(request.id for request in given)
        if left != right:
            _broken("answers", f"order at {now:g} s yielded the requests {left}; those that wait are {right}")
        return iter(order)

    def _fill(self, original: Hook, batch: Any, waiting: Iterable[Request], now: float) -> None:
        self.policy.order(waiting, now)
        returned = original(_Counted(batch), waiting, now)
        if returned is not None:
            _broken("answers", f"fill returned {returned!r}, which nobody reads; one with a `yield` never runs")

    @staticmethod
    def _wakes_at_step(original: Hook) -> int | None:
        step: int | None = _twice(original, "wakes_at_step")
        if step is not None and not isinstance(step, Integral):
            _broken("answers", f"wakes_at_step returned {step!r}; a whole number of steps or None is expected")
        return step


class _Router(_Probe):
    base = Router
    hooks = ("choose",)

    @staticmethod
    def _choose(original: Hook, request: Request, replicas: Sequence[Any], now: float) -> int:
        index: int = original(request, replicas, now)
        if not isinstance(index, Integral) or not 0 <= int(index) < len(replicas):
            told = f"choose(request {request.id}) at {now:g} s returned {index!r}"
            _broken("answers", f"{told}; a whole number from 0 to {len(replicas) - 1} is expected")
        return index


class _Counted:
    """A batch that does not let itself be asked for ever."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch
        self._asked = 0

    def __getattr__(self, name: str) -> Any:
        self._asked += 1
        if self._asked > MAX_ANSWERS:
            _broken("ends", f"fill asked its batch {MAX_ANSWERS} times in one round and did not come to an end")
        return getattr(self._batch, name)


def _broken(law: str, why: str) -> None:
    raise BrokenLawError(law, why)


def _twice(ask: Callable[[], Any], what: str) -> Any:
    """Return the answer to a question that is asked twice."""
    first = ask()
    second = ask()
    if first != second and not _is_nan(first):
        _broken("pure", f"{what} gave {_told(first)}, and {_told(second)} when asked again")
    return first


def _all(answer: Any, hook: str, kind: str) -> list[Any]:
    """Return what a hook yields, all of it."""
    if not isinstance(answer, Iterable):
        _broken("answers", f"{hook} returned {answer!r}; {kind} are expected")
    found = list(islice(answer, MAX_ANSWERS))
    if len(found) == MAX_ANSWERS:
        _broken("ends", f"{hook} yielded {MAX_ANSWERS} {kind} and did not come to an end")
    return found


def _check_number(value: object, what: str, *, allows_infinity: bool) -> None:
    is_number = isinstance(value, Real) and (not isnan(value) if allows_infinity else isfinite(value))
    if not is_number:
        expected = "a number is" if allows_infinity else "finite numbers are"
        _broken("answers", f"{what} gave {value!r}; {expected} expected")


def _is_nan(value: object) -> bool:
    values = value if isinstance(value, list) else [value]
    return any(isinstance(one, Real) and isnan(one) for one in values)


def _id(request: Any) -> int:
    if not isinstance(request, Request):
        _broken("answers", f"order yielded {request!r}; requests are expected")
    return int(request.id)


def _told(answer: Any) -> str:
    if isinstance(answer, list):
        return f"[{', '.join(_told(one) for one in answer)}]"
    if isinstance(answer, Request):
        return f"request {answer.id}"
    return str(answer.id) if isinstance(answer, Adapter) else repr(answer)
