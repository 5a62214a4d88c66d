"""What a policy may know and what it is asked. No clock, no device, no randomness, no simulator lives here.

Times are float seconds and reach a policy only as the argument `now`. Every seam has harmless defaults, so a policy
writes only what differs. A policy is asked when something changed or at a time it declared, never by polling; being
asked the same question twice in the same state must therefore give the same answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from math import isfinite
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Adapter:
    """One LoRA adapter; compared by identity, so it is a cheap dictionary key."""

    id: str
    rank: int
    size_bytes: int

    def __repr__(self) -> str:
        return f"Adapter({self.id!r}, rank={self.rank}, size_bytes={self.size_bytes})"


class Request:
    """One request as a policy sees it: the true output length is not in it, only the prediction.

    `lane`, `weight` and `bypassed` are free for the scheduler to write; they appear in the results as `queue_id`, `wrs`
    and `n_bypassed`. `generated_tokens` is what the user has received so far: right whenever the request is handed to a
    policy by `Batch.running` or by a hook, and not kept up in between.
    """

    __slots__ = (
        "adapter",
        "arrival_s",
        "bypassed",
        "generated_tokens",
        "id",
        "lane",
        "predicted_tokens",
        "prompt_tokens",
        "weight",
    )

    def __init__(
        self,
        id: int,  # noqa: A002 - the field's own word
        arrival_s: float,
        prompt_tokens: int,
        predicted_tokens: int,
        adapter: Adapter | None,
    ) -> None:
        self.id = id
        self.arrival_s = arrival_s
        self.prompt_tokens = prompt_tokens
        self.predicted_tokens = predicted_tokens
        self.adapter = adapter
        self.lane = 0
        self.weight = 0.0
        self.bypassed = 0
        self.generated_tokens = 0

    def __repr__(self) -> str:
        return f"Request({self.id}, prompt={self.prompt_tokens}, predicted={self.predicted_tokens}, {self.adapter})"


@dataclass(frozen=True)
class Facts:
    """What a deployment knows before the first request; given once to every policy by `start`.

    Attributes:
        kv_token_bytes: bytes of K and V of one token over all layers.
        kv_tokens: KV tokens that the engine may hold at once.
        memory_tokens: memory that KV and adapters have together, as KV tokens.
        admit_every_steps: decode steps between admission rounds while the engine is busy.
        batch_prompt_tokens: prompt tokens that one prefill iteration may take, or one step that cuts prompts in chunks.
        max_prompt_tokens: longest prompt of the workload (Chameleon's MaxInput).
        max_output_tokens: longest output of the workload (Chameleon's MaxOutput).
        max_adapter_bytes: largest adapter of the workload (Chameleon's MaxAdapterSize).
        ttft_slo_s: service-level objective for time to first token.
        load_s: seconds that the link is busy with one adapter; not in it are a read from disk before, and adapters that
            have to come back because every slot was in use.
        running_requests: limit on admitted requests.
        distinct_adapters: limit on distinct adapters of admitted requests, by option or by the number of slots; where
            the base model takes a slot it counts as one, and `Refusal.ADAPTERS` meets its requests too.
        adapters: every adapter that is registered with the deployment.
        prefill_s: seconds of a prefill iteration over one prompt, from its tokens and its adapter's rank (0: none).
        decode_s: seconds of one decode step over a batch, from the adapter of each request, KV reads left out.
        future: yields (arrival_s, adapter) of the whole workload in order of arrival; only for offline bounds. Raises
            LookupError with several replicas or in a closed loop, where nobody knows when what reaches which engine.
    """

    kv_token_bytes: int
    kv_tokens: int
    memory_tokens: int
    admit_every_steps: int
    batch_prompt_tokens: int
    max_prompt_tokens: int
    max_output_tokens: int
    max_adapter_bytes: int
    ttft_slo_s: float
    load_s: Callable[[Adapter], float]
    running_requests: int = 1 << 62
    distinct_adapters: int = 1 << 62
    adapters: Sequence[Adapter] = ()
    prefill_s: Callable[[int, int], float] = lambda tokens, rank: 0.0  # noqa: ARG005
    decode_s: Callable[[Sequence[Adapter | None]], float] = lambda batch: 0.0  # noqa: ARG005
    future: Callable[[], Iterable[tuple[float, Adapter | None]]] = tuple


class Refusal(Enum):
    """Why `Batch.try_add` said no."""

    PROMPT_TOKENS = "the prefill iteration's prompt tokens are used up"
    RUNNING = "the limit on running requests is reached"
    ADAPTERS = "the limit on distinct adapters in the batch is reached"
    MERGED = "another adapter is merged into the weights"
    KV = "the KV cache could overflow"
    ADAPTER = "the KV would fit but the adapter does not, even with every idle adapter evicted"


class Batch(Protocol):
    """One round of admission: it does all accounting, so a policy cannot overspend."""

    @property
    def refusal(self) -> Refusal | None:
        """Why the last `try_add` of this round said no; None if it said yes."""

    @property
    def step(self) -> int:
        """Iterations that have decoded so far, which is the clock of rules that count iterations."""

    @property
    def running(self) -> Sequence[Request]:
        """Requests in the decode batch, oldest admission first."""

    @property
    def joining(self) -> Sequence[Request]:
        """Requests admitted but not yet prefilled: their adapter is on its way, or their prompt is being worked on."""

    def try_add(self, request: Request) -> bool:
        """Admit a waiting request, or change nothing and return False; one that was preempted goes on where it was."""

    def is_resident(self, adapter: Adapter | None) -> bool:
        """Whether the adapter (None: the base model) could be used now without a load."""

    def wait_s(self, request: Request) -> float:
        """Predicted seconds until running requests have freed the memory that this request lacks (infinite if never).

        Ask after a refusal for memory: one that lacks none is told when the first of them ends, and limits other than
        memory are not looked at.
        """

    def execution_s(self, request: Request) -> float:
        """Predicted seconds of prefill and decode of this request, by its predicted length."""

    def can_squash_for(self, victim: Request, request: Request) -> bool:
        """Whether `request` would fit if `victim` gave back its memory now; never if the victim does not run yet."""

    def squash(self, victim: Request) -> None:
        """Stop a running request, drop its KV and make it wait again; its work is repeated later."""

    def preempt(self, request: Request) -> None:
        """Take a running request out of the batch: it waits again, from the next round on, with what it has generated.

        Where its KV stays meanwhile is the engine's option: on the GPU, on the host, or nowhere (recomputed later).
        """

    def abort(self, request: Request, reason: str) -> None:
        """Turn a waiting request away for good."""

    def try_fetch(self, adapter: Adapter) -> bool:
        """Bring an adapter in ahead of an admission; True if it is there, on its way or now sent for.

        Idle adapters that no waiting request needs are evicted for it, as the cache policy ranks them.
        """

    def drop(self, adapter: Adapter) -> None:
        """Evict an adapter that no admitted request uses; nothing happens if it is used, on its way or not there."""

    @property
    def merged(self) -> Adapter | None:
        """The adapter that is merged into the base model's weights."""

    def merge(self, adapter: Adapter | None) -> None:
        """Merge a resident adapter into the weights, or (None) none: from the next step on only its requests run."""


def are_finite(values: Iterable[object]) -> bool:
    """Whether all of these are numbers, and none is infinite or not a number."""
    try:
        return all(map(isfinite, values))  # type: ignore[arg-type]
    except TypeError:
        return False


class Policy:
    """What all seams share: a short name, and one look at the deployment before the first request."""

    name: ClassVar[str]
    source: ClassVar[str] = ""

    def start(self, facts: Facts) -> None:
        """Learn the deployment's constants; called once, before anything else."""


class Timed(Policy):
    """A policy that may ask to be woken at a time of its own."""

    def wakes_at_s(self) -> float | None:
        """Return the next instant at which `woken` wants to be called; None for never."""
        return None

    def woken(self, now: float) -> None:
        """Act on the clock; the engine calls this at the declared instant."""


class Scheduler(Timed):
    """Chooses which waiting requests join the batch."""

    def arrived(self, request: Request, now: float) -> None:
        """Take note of a request that now waits (also after it was squashed)."""

    def finished(self, request: Request, now: float) -> None:
        """Take note of a request that has left the batch for good."""

    def key(self, request: Request, now: float) -> float:  # noqa: ARG002 - a seam's default ignores what it is given
        """Return the rank of a waiting request; the smallest goes first, ties by id."""
        return request.arrival_s

    def order(self, waiting: Iterable[Request], now: float) -> Iterator[Request]:
        """Yield waiting requests in the order in which they would be tried."""
        return iter(sorted(waiting, key=lambda request: (self._finite_key(request, now), request.id)))

    def _finite_key(self, request: Request, now: float) -> float:
        rank = self.key(request, now)
        if not are_finite((rank,)):
            msg = f"scheduler {type(self).__name__}: key of {request!r} gave {rank!r}; a finite number is expected"
            raise RuntimeError(msg)
        return rank

    def wakes_at_step(self) -> int | None:
        """Return the count of decode steps (see `Batch.step`) at which `fill` must be asked again; None for never."""
        return None

    def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:
        """Offer waiting requests to the batch; the default goes by `order` and stops at the first refusal."""
        for request in self.order(waiting, now):
            if not batch.try_add(request):
                return


class Cache(Policy):
    """Decides which idle adapters leave GPU memory. The core says who is idle and how many bytes are needed."""

    def used(self, adapter: Adapter, now: float) -> None:
        """Take note that a request with this adapter was admitted."""

    def loaded(self, adapter: Adapter, now: float) -> None:
        """Take note that the adapter now occupies memory (its transfer may still run)."""

    def evicted(self, adapter: Adapter, now: float) -> None:
        """Take note that the adapter has left memory."""

    def score(self, adapter: Adapter, now: float) -> float:  # noqa: ARG002 - a seam's default ignores what it is given
        """Return the worth of keeping an adapter; the lowest goes first."""
        return 0.0

    def scores(self, adapters: Sequence[Adapter], now: float) -> Sequence[float]:
        """Return the worth of each adapter, for policies that compare candidates with one another."""
        return [self.score(adapter, now) for adapter in adapters]

    def announced(self, adapters: Sequence[Adapter], now: float) -> None:
        """Take note of a prefetch round: the adapters that it asked for, up to the first that found no room."""

    def drops(self, idle: Sequence[Adapter], now: float, *, batch_is_empty: bool) -> Iterable[Adapter]:  # noqa: ARG002
        """Return idle adapters to give back at once; asked after a decode step that ended a request."""
        return ()


class Prefetch(Timed):
    """Chooses adapters to bring in before a request that needs them is admitted.

    `asks_at_steps`: decode steps since the last admission at which `wanted` is asked; None: whenever something changed.
    `may_evict`: whether an idle adapter of a lower score, wanted by no waiting request, may make room for one that a
    waiting request wants; what is only foreseen never drives anything out.
    `only_waiting`: whether it only ever wants adapters of waiting requests, so that it need not be asked without any.
    """

    asks_at_steps: Sequence[int] | None = None
    may_evict: bool = False
    only_waiting: bool = False

    def used(self, adapter: Adapter, now: float) -> None:
        """Take note that a request with this adapter has arrived."""

    def wanted(self, waiting: Iterable[Request], now: float) -> Iterable[Adapter]:  # noqa: ARG002
        """Yield adapters, most urgent first (the core skips residents); `waiting` is in the scheduler's order."""
        return ()


class Predictor(Policy):
    """Predicts output lengths. It is the one seam that sees true lengths, because its errors are simulated."""

    def predict(self, prompt_tokens: IntArray, output_tokens: IntArray, uniform: FloatArray) -> IntArray:  # noqa: ARG002
        """Return predicted output tokens, at least 1.

        Args:
            prompt_tokens: shape (n,), tokens.
            output_tokens: shape (n,), true output tokens of the whole trace.
            uniform: shape (n,), one number in [0, 1) per request id, the same for every policy and load.
        """
        return output_tokens


class Replica(Protocol):
    """One engine as a router sees it."""

    @property
    def running(self) -> Sequence[Request]:
        """Admitted requests, oldest admission first."""

    @property
    def waiting(self) -> Sequence[Request]:
        """Requests that wait there, in order of arrival."""

    @property
    def free_tokens(self) -> int:
        """KV tokens that it could give now, idle adapters evicted."""

    def has_adapter(self, adapter: Adapter | None) -> bool:
        """Whether the adapter (None: the base model) is in its GPU memory or on its way there."""


class Router(Policy):
    """Chooses the replica that serves a request, when it arrives."""

    def choose(self, request: Request, replicas: Sequence[Replica], now: float) -> int:  # noqa: ARG002
        """Return the index of a replica."""
        return 0
