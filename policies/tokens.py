"""Tokens in use by lane: who was charged what. Nothing here decides."""

from __future__ import annotations

from typing import NamedTuple

from policies.base import Adapter, Facts, Request


class Entry(NamedTuple):
    """What one admitted request holds."""

    lane: int
    tokens: int
    admitted_s: float


class _AdapterTokens(dict[Adapter, int]):
    """Bytes of an adapter as whole KV tokens, rounded up; found once."""

    def __init__(self, kv_token_bytes: int) -> None:
        super().__init__()
        self.kv_token_bytes = kv_token_bytes

    def __missing__(self, adapter: Adapter) -> int:
        tokens = self[adapter] = -(-adapter.size_bytes // self.kv_token_bytes)
        return tokens


class Ledger:
    """Tokens in use by lane: input, predicted output and the adapter's bytes, paid by every request."""

    __slots__ = ("_adapter_tokens", "entries", "inflight", "total")

    def __init__(self, lanes: int) -> None:
        self.entries: dict[Request, Entry] = {}
        self.inflight = [0] * lanes
        self.total = 0
        self._adapter_tokens = _AdapterTokens(1)

    def start(self, facts: Facts) -> None:
        """Learn what a token is in bytes."""
        self._adapter_tokens = _AdapterTokens(facts.kv_token_bytes)

    def full_cost(self, request: Request) -> int:
        """Return the tokens of a request together with its adapter."""
        adapter = request.adapter
        tokens = request.prompt_tokens + request.predicted_tokens
        return tokens if adapter is None else tokens + self._adapter_tokens[adapter]

    def cost(self, request: Request) -> int:
        """Return the tokens that an admission would add now."""
        adapter = request.adapter  # as `full_cost`, written out because every round asks
        tokens = request.prompt_tokens + request.predicted_tokens
        return tokens if adapter is None else tokens + self._adapter_tokens[adapter]

    def charge(self, request: Request, lane: int, now: float) -> None:
        """Book an admission."""
        self._book(request, lane, self.cost(request), now)

    def release(self, request: Request) -> Entry:
        """Give back what a request holds.

        Raises:
            RuntimeError: if it holds nothing.
        """
        entry = self.entries.pop(request, None)
        if entry is None:
            msg = f"{request!r} gives back tokens but holds none; {len(self.entries)} requests hold some"
            raise RuntimeError(msg)
        self._add(entry.lane, -entry.tokens)
        return entry

    def check(self) -> None:
        """Raise RuntimeError, with the numbers, unless the tokens in use are the sum of the charges."""
        owed = self._owed()
        if owed != self.inflight or sum(owed) != self.total:
            msg = f"in use by lane {self.inflight}, in all {self.total}, but the charges add up to {owed}"
            raise RuntimeError(msg)

    def _owed(self) -> list[int]:
        owed = [0] * len(self.inflight)
        for entry in self.entries.values():
            owed[entry.lane] += entry.tokens
        return owed

    def _book(self, request: Request, lane: int, tokens: int, now: float) -> None:
        self.entries[request] = Entry(lane, tokens, now)
        self._add(lane, tokens)

    def _add(self, lane: int, tokens: int) -> None:
        self.inflight[lane] += tokens
        self.total += tokens


class _Share(NamedTuple):
    """An adapter in use: how many use it, and the lane that paid for it."""

    users: int
    lane: int


class SharedLedger(Ledger):
    """A ledger in which an adapter is paid once: by the lane that brought it in, until its last user has left."""

    __slots__ = ("_shares",)

    def __init__(self, lanes: int) -> None:
        super().__init__(lanes)
        self._shares: dict[Adapter, _Share] = {}

    def cost(self, request: Request) -> int:
        """Return the tokens that an admission would add now: without the adapter if someone uses it already."""
        if request.adapter in self._shares:
            return request.prompt_tokens + request.predicted_tokens
        return self.full_cost(request)

    def charge(self, request: Request, lane: int, now: float) -> None:
        """Book an admission."""
        self._book(request, lane, request.prompt_tokens + request.predicted_tokens, now)
        adapter = request.adapter
        if adapter is None:
            return
        share = self._shares.get(adapter)
        if share is None:
            self._add(lane, self._adapter_tokens[adapter])
            share = _Share(0, lane)
        self._shares[adapter] = _Share(share.users + 1, share.lane)

    def release(self, request: Request) -> Entry:
        """Give back what a request holds, and its adapter if it was the last user."""
        entry = super().release(request)
        adapter = request.adapter
        if adapter is not None:
            users, lane = self._shares.pop(adapter)
            if users > 1:
                self._shares[adapter] = _Share(users - 1, lane)
            else:
                self._add(lane, -self._adapter_tokens[adapter])
        return entry

    def _owed(self) -> list[int]:
        owed = super()._owed()
        for adapter, share in self._shares.items():
            owed[share.lane] += self._adapter_tokens[adapter]
        return owed
