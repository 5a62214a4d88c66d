"""A few adapters and a log of what happens to them, for the rules of eviction policies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from policies.base import Adapter, Cache, Facts
from policies.eviction_bounds import Belady
from policies.eviction_history import LFUDA, LRUK, Elora, Hyperbolic
from policies.eviction_lhd import LHD
from policies.eviction_queues import S3FIFO, Sieve
from policies.eviction_simple import LargestFirst, RandomEviction, SmallestFirst
from policies.eviction_tinylfu import WTinyLFU

AnyCache = TypeVar("AnyCache", bound=Cache)

MAKERS: dict[str, Callable[[], Cache]] = {
    "random": RandomEviction,
    "largest-first": LargestFirst,
    "smallest-first": SmallestFirst,
    "lfu-da": LFUDA,
    "lru-k": LRUK,
    "hyperbolic": Hyperbolic,
    "elora": Elora,
    "lhd": lambda: LHD(renew_uses=3),
    "s3-fifo": S3FIFO,
    "sieve": Sieve,
    "w-tinylfu": lambda: WTinyLFU(halving_uses=2.0),
    "belady": Belady,
}
ADAPTERS = {name: Adapter(name, 8, 10) for name in "abcdefg"} | {"B": Adapter("B", 128, 100)}
A, B, BIG = ADAPTERS["a"], ADAPTERS["b"], ADAPTERS["B"]


def facts(*, largest_bytes: int = 100, future: Sequence[tuple[float, Adapter | None]] = ()) -> Facts:
    return Facts(
        kv_token_bytes=1,
        kv_tokens=1000,
        memory_tokens=1000,
        admit_every_steps=10,
        batch_prompt_tokens=1000,
        max_prompt_tokens=100,
        max_output_tokens=100,
        max_adapter_bytes=largest_bytes,
        ttft_slo_s=5.0,
        load_s=lambda adapter: adapter.size_bytes / 50,
        future=lambda: future,
    )


def play(cache: AnyCache, log: str, known: Facts | None = None) -> AnyCache:
    """Feed "a" (use), "+a" (load), "-a" (evict), one a second from 0; "a +a" is a miss as the engine tells it."""
    cache.start(facts() if known is None else known)
    for now, word in enumerate(log.split()):
        hook = {"+": cache.loaded, "-": cache.evicted}.get(word[0], cache.used)
        hook(ADAPTERS[word[-1]], float(now))
    return cache


def order(cache: Cache, candidates: str, now: float = 100.0) -> str:
    """Return the candidates' letters, the first to go first."""
    scores = dict(zip(candidates, cache.scores([ADAPTERS[name] for name in candidates], now), strict=True))
    return "".join(sorted(candidates, key=scores.__getitem__))
