"""Fair shares among adapters: S-LoRA's virtual token counter."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from math import lcm

from policies.arguments import above, at_least
from policies.base import Adapter, Batch, Request
from policies.lines import LineScheduler


class Account:
    """What one client has been served, in tokens, and how far its counter was lifted, in units of both weights."""

    __slots__ = ("lift", "output_tokens", "prompt_tokens")

    def __init__(self) -> None:
        self.lift = 0
        self.prompt_tokens = 0
        self.output_tokens = 0


class VTC(LineScheduler):
    """The adapter (the client) that was served least goes first; the round ends at the first misfit.

    A client that comes back is lifted to the least counter of those that wait; running requests are counted at the
    rounds of admission, so the lift is made at the first round after the arrival.

    Attributes:
        input_weight: what a prompt token costs its client, at admission.
        output_weight: what a decoded token costs its client.
    """

    name = "vtc"
    source = "Sheng et al., OSDI'24 (arXiv 2401.00588); S-LoRA/S-LoRA, router/vtc_req_queue.py"

    def __init__(self, *, input_weight: float = 1.0, output_weight: float = 2.0) -> None:
        super().__init__()
        self.input_weight = at_least("input_weight", input_weight, 0)
        self.output_weight = above("output_weight", output_weight, 0)
        # Whole units: rounding would turn ties between clients now one way, now the other.
        exact = Fraction(str(input_weight)), Fraction(str(output_weight))
        self._unit = lcm(*(one.denominator for one in exact))
        self._input_cost, self._output_cost = (int(one * self._unit) for one in exact)
        self._accounts: dict[Adapter | None, Account] = {}
        self._counted: dict[Request, int] = {}  # tokens of admitted requests that are on the account
        self._came_back: dict[Adapter | None, None] = {}  # clients whose line was empty, in order of arrival
        self._wakes_at_step: int | None = None

    def arrived(self, request: Request, now: float) -> None:
        """Queue a request; its client may have to be lifted."""
        if request in self._counted:
            self._count(request)
        elif request.adapter not in self._lines:
            self._came_back[request.adapter] = None
        self._accounts.setdefault(request.adapter, Account())
        super().arrived(request, now)

    def finished(self, request: Request, now: float) -> None:
        """Count a request's last tokens."""
        super().finished(request, now)
        self._count(request)
        del self._counted[request]

    def counter(self, client: Adapter | None) -> float:
        """Return what a client has been served, as of the last round."""
        return self._units(client) / self._unit

    def wakes_at_step(self) -> int | None:
        """Return the step at which another client may have been served least, because running requests decode."""
        return self._wakes_at_step

    def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:  # noqa: ARG002 - the lines hold them
        """Offer the head of the client that was served least until one is refused."""
        for request in batch.running:
            self._count(request)
        self._lift()
        self._wakes_at_step = None
        while self._lines:
            client = min(self._lines, key=self._rank)
            request = self._lines.head(client)
            if not batch.try_add(request):
                self._wakes_at_step = self._next_change(batch, client)
                return
            self._lines.admitted(client)
            if request not in self._counted:
                self._accounts[client].prompt_tokens += request.prompt_tokens
                self._counted[request] = 1  # the first token comes with the prompt

    def _units(self, client: Adapter | None) -> int:
        account = self._accounts[client]
        served = self._input_cost * account.prompt_tokens + self._output_cost * account.output_tokens
        return account.lift + served

    def _rank(self, client: Adapter | None) -> tuple[int, str]:
        return self._units(client), "" if client is None else client.id

    def _count(self, request: Request) -> None:
        new = request.generated_tokens - self._counted[request]
        if new > 0:
            self._accounts[request.adapter].output_tokens += new
            self._counted[request] += new

    def _lift(self) -> None:
        absent = self._came_back
        while absent:
            client = next(iter(absent))
            least = min((self._units(one) for one in self._lines if one not in absent), default=0)
            self._accounts[client].lift += max(0, least - self._units(client))
            del absent[client]

    def _next_change(self, batch: Batch, client: Adapter | None) -> int | None:
        """Return a step, rather too early, at which `client` is no longer the least served."""
        running: dict[Adapter | None, int] = {}
        for request in batch.running:
            running[request.adapter] = running.get(request.adapter, 0) + 1
        mine, units = running.get(client, 0), self._units(client)
        steps = [
            (self._units(other) - units) // (self._output_cost * gained)
            for other in self._lines
            if other is not client and (gained := mine - running.get(other, 0)) > 0
        ]
        return batch.step + max(1, min(steps)) if steps else None
