"""A small engine for tests of schedulers: limits, residency and steps by hand, every call written down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from policies.base import Adapter, Batch, Facts, Refusal, Request, Scheduler

MUCH = 10**9


def request(
    number: int, adapter: Adapter | None = None, *, at_s: float = 0.0, prompt: int = 10, predicted: int = 10
) -> Request:
    return Request(number, at_s, prompt, predicted, adapter)


def adapter(name: str, rank: int = 8, size_bytes: int = 100) -> Adapter:
    return Adapter(name, rank, size_bytes)


def facts(**changes: Any) -> Facts:
    """Return facts of a deployment of no importance but for the changes."""
    plain: dict[str, Any] = {
        "kv_token_bytes": 1,
        "kv_tokens": 1000,
        "memory_tokens": 1000,
        "admit_every_steps": 1,
        "batch_prompt_tokens": 1000,
        "max_prompt_tokens": 100,
        "max_output_tokens": 100,
        "max_adapter_bytes": 100,
        "ttft_slo_s": 5.0,
        "load_s": lambda one: 0.1,
    }
    return Facts(**plain | changes)


class Unasked:
    """The part of a round that lane schedulers do not ask."""

    step = 0
    merged: Adapter | None = None
    joining: Sequence[Request] = ()

    def preempt(self, request: Request) -> None:
        raise AssertionError(request)

    def abort(self, request: Request, reason: str) -> None:
        raise AssertionError(request, reason)

    def try_fetch(self, adapter: Adapter) -> bool:
        raise AssertionError(adapter)

    def drop(self, adapter: Adapter) -> None:
        raise AssertionError(adapter)

    def merge(self, adapter: Adapter | None) -> None:
        raise AssertionError(adapter)


class FakeBatch(Batch):
    """A round that goes on for ever, and the engine behind it.

    A request takes its prompt tokens of `tokens` as long as it is admitted. Loads end by `land`, prefills by `prefill`.

    Attributes:
        calls: what a scheduler did, as ("add", id), ("refuse", id), ("preempt", id), ("fetch", adapter id), ...
    """

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        tokens: int = MUCH,
        requests: int = MUCH,
        adapters: int = MUCH,
        resident: Sequence[Adapter] = (),
        fetches: bool = True,
        base_slot: bool = False,
        **changes: Any,
    ) -> None:
        self.scheduler = scheduler
        self.tokens = tokens
        self.requests = requests
        self.adapters = adapters
        self.resident = set(resident)
        self.fetches = fetches
        self.base_slot = base_slot
        self.waiting: list[Request] = []
        self.calls: list[tuple[str, Any]] = []
        self.coming: list[Adapter] = []
        self._step = 0
        self._running: list[Request] = []
        self._joining: list[Request] = []
        self._stopped: list[Request] = []
        self._refusal: Refusal | None = None
        self._merged: Adapter | None = None
        scheduler.start(facts(running_requests=requests, distinct_adapters=adapters, **changes))

    # --- what a test does ---

    def arrive(self, *requests: Request) -> None:
        for one in requests:
            self.waiting.append(one)
            self.scheduler.arrived(one, one.arrival_s)

    def fill(self, now: float = 0.0) -> list[tuple[str, Any]]:
        """Hold a round and return what the scheduler did in it."""
        self.calls.clear()
        if self.waiting:
            self.scheduler.fill(self, iter(self.waiting), now)
        for one in self._stopped:
            self.waiting.insert(0, one)
            self.scheduler.arrived(one, now)
        self._stopped.clear()
        return list(self.calls)

    def admitted(self, now: float = 0.0) -> list[int]:
        """Hold a round and return the ids of those that it admitted."""
        return [number for what, number in self.fill(now) if what == "add"]

    def land(self, *adapters: Adapter) -> None:
        self.resident.update(adapters)
        self.coming = [one for one in self.coming if one not in adapters]

    def prefill(self) -> None:
        """Let those that join and have their adapter run."""
        for one in [one for one in self._joining if self.is_resident(one.adapter)]:
            self._joining.remove(one)
            self._running.append(one)
            one.generated_tokens += one.generated_tokens == 0

    def decode(self, steps: int = 1) -> None:
        self._step += steps
        for one in self._running:
            one.generated_tokens += steps

    def finish(self, one: Request, now: float = 0.0) -> None:
        self._running.remove(one)
        self.scheduler.finished(one, now)

    def stop(self, one: Request, now: float = 0.0) -> None:
        """Take a running request out, as an engine does when memory runs short."""
        self._running.remove(one)
        self.waiting.insert(0, one)
        self.scheduler.arrived(one, now)

    def wake(self, now: float | None = None) -> float:
        """Wake the scheduler when it wants to be, or a little earlier as a rounding driver may."""
        at_s = self.scheduler.wakes_at_s()
        assert at_s is not None
        self.scheduler.woken(at_s if now is None else now)
        return at_s

    # --- what a scheduler sees ---

    @property
    def refusal(self) -> Refusal | None:
        return self._refusal

    @property
    def step(self) -> int:
        return self._step

    @property
    def running(self) -> Sequence[Request]:
        return list(self._running)

    @property
    def joining(self) -> Sequence[Request]:
        return list(self._joining)

    @property
    def merged(self) -> Adapter | None:
        return self._merged

    def try_add(self, request: Request) -> bool:
        assert request in self.waiting
        self._refusal = self._why_not(request)
        self.calls.append(("add" if self._refusal is None else "refuse", request.id))
        if self._refusal is not None:
            return False
        self.waiting = [one for one in self.waiting if one is not request]
        self._joining.append(request)
        if request.adapter is not None and request.adapter not in self.resident:
            self.coming.append(request.adapter)
        return True

    def is_resident(self, adapter: Adapter | None) -> bool:
        return adapter is None or adapter in self.resident

    def wait_s(self, request: Request) -> float:
        raise NotImplementedError

    def execution_s(self, request: Request) -> float:
        raise NotImplementedError

    def can_squash_for(self, victim: Request, request: Request) -> bool:
        raise NotImplementedError

    def squash(self, victim: Request) -> None:
        raise NotImplementedError

    def preempt(self, request: Request) -> None:
        self.calls.append(("preempt", request.id))
        self._running.remove(request)
        self._stopped.append(request)

    def abort(self, request: Request, reason: str) -> None:
        assert reason
        self.calls.append(("abort", request.id))
        self.waiting = [one for one in self.waiting if one is not request]

    def try_fetch(self, adapter: Adapter) -> bool:
        if adapter in self.resident or adapter in self.coming:
            return True
        self.calls.append(("fetch", adapter.id))
        if self.fetches:
            self.coming.append(adapter)
        return self.fetches

    def drop(self, adapter: Adapter) -> None:
        if adapter in self.resident and all(one.adapter is not adapter for one in self._admitted):
            self.calls.append(("drop", adapter.id))
            self.resident.remove(adapter)

    def merge(self, adapter: Adapter | None) -> None:
        if adapter is not self._merged:
            assert self.is_resident(adapter)
            self.calls.append(("merge", None if adapter is None else adapter.id))
            self._merged = adapter

    # --- how it decides ---

    @property
    def _admitted(self) -> list[Request]:
        return self._running + self._joining

    def _why_not(self, request: Request) -> Refusal | None:
        here = self._admitted
        adapters = {one.adapter for one in (*here, request)} - (set() if self.base_slot else {None})
        rules: list[tuple[Refusal, Callable[[], bool]]] = [
            (Refusal.RUNNING, lambda: len(here) >= self.requests),
            (Refusal.MERGED, lambda: self._merged not in {None, request.adapter}),
            (Refusal.ADAPTERS, lambda: len(adapters) > self.adapters),
            (Refusal.KV, lambda: sum(one.prompt_tokens for one in here) + request.prompt_tokens > self.tokens),
        ]
        return next((refusal for refusal, holds in rules if holds()), None)


def again(batch: FakeBatch, now: float = 0.0) -> list[tuple[str, Any]]:
    """Hold a round twice in the same state and return what the second one changed."""
    batch.fill(now)
    return [call for call in batch.fill(now) if call[0] != "refuse"]
