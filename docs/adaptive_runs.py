"""The runs behind docs/adaptive.md: twelve regimes, every published policy, ours and a bound, five seeds each."""  # noqa: INP001

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from sim.build import deploy
from sim.config import load_config
from sim.experiments.run import run
from sim.progress import progress
from sim.results.identity import source_sha256

SYSTEM = "elora"
ADAPTERS, KV_TOKENS, REQUESTS = 150, 4000, 3000
SEEDS = (0, 1, 2, 3, 4)  # the policies were written on seeds from 100 on
CAPACITY_SEED, SATURATING_PER_S = 100, 100.0
MEMORIES = {"tight": 0.12, "medium": 0.40, "ample": 0.90}  # of all adapters' bytes, beside a full KV pool
TRAFFICS = ("i.i.d.", "sessions")
LOADS = {"low": 0.6, "high": 0.9}
OURS = "adaptive"


class Part(NamedTuple):
    """One seam's comparison: its published policies, a bound that knows the future, and what the other seam does."""

    seam: str
    published: tuple[str, ...]
    bound: str
    fixed: str


PARTS = (
    Part(
        "cache",
        (
            "drop-after-use", "lru", "lfu", "fifo", "random", "largest-first", "smallest-first", "chameleon",
            "fairshare", "gdsf", "lfu-da", "lru-k", "hyperbolic", "elora", "lhd", "s3-fifo", "sieve", "w-tinylfu",
        ),
        "belady",
        "prefetch=queued",
    ),
    Part(
        "prefetch",
        ("none", "queued", "slora", "rate", "use-within", "p-lora", "histogram", "markov"),
        "oracle",
        "cache=elora",
    ),
)  # fmt: skip


class Regime(NamedTuple):
    """Memory, traffic and load, by their words."""

    memory: str
    traffic: str
    load: str


class Key(NamedTuple):
    """One run."""

    seam: str
    regime: Regime
    policy: str
    seed: int

    @property
    def text(self) -> str:
        """The name under which the run is kept."""
        return "/".join((self.seam, *self.regime, self.policy, str(self.seed)))


Measured = dict[str, Any]  # p99_ms, p50_ms, hit_rate, wait_s, per_s, verdict; or why it failed: error
Runs = dict[str, Measured]
REGIMES = tuple(Regime(memory, traffic, load) for memory in MEMORIES for traffic in TRAFFICS for load in LOADS)


# --- runs ---


@cache
def changes(memory: str, traffic: str) -> tuple[str, ...]:
    """Return what makes the base system that of a regime, load left out."""
    base = (f"workload.adapters={ADAPTERS}", f"memory.kv_pool_tokens={KV_TOKENS}", "adapters.memory=idle")
    known = deploy(load_config(SYSTEM, base, {"workload": {"requests": 1}}))
    adapter_bytes = sum(adapter.size_bytes for adapter in known.adapters if adapter is not None)
    wanted = KV_TOKENS * known.limits.kv_token_bytes + round(MEMORIES[memory] * adapter_bytes)
    reserve = known.hardware.reserve_bytes + known.limits.total_bytes - wanted
    local = ("workload.locality={}",) if traffic == "sessions" else ()
    return (*base, f"memory.reserve_bytes={reserve}", *local)


def measure(key: Key, rate_per_s: float) -> Measured:
    """Simulate one run; a policy that fails is told, not hidden."""
    fixed = next(part.fixed for part in PARTS if part.seam == key.seam)
    altered = (*changes(key.regime.memory, key.regime.traffic), fixed, f"{key.seam}={key.policy}")
    try:
        summary = run(SYSTEM, rate=rate_per_s, requests=REQUESTS, seed=key.seed, changes=altered).summary
    except (KeyError, RuntimeError) as error:
        return {"error": repr(error)}
    ttft_ms = summary["metrics"]["ttft_ms"]
    return {
        "p99_ms": ttft_ms["p99"],
        "p50_ms": ttft_ms["p50"],
        "hit_rate": summary["adapters"]["hit_rate"],
        "wait_s": summary["ttft_breakdown_ms"]["adapter_wait"] * summary["requests"]["completed"] / 1e3,
        "per_s": summary["throughput"]["requests_per_s"],
        "verdict": summary["stability"]["verdict"],
        "accuracy": summary["prefetch"]["accuracy"],
    }


def capacity_keys() -> list[Key]:
    """Return the runs that measure what each memory and traffic can take, with a published policy."""
    places = dict.fromkeys((regime.memory, regime.traffic) for regime in REGIMES)
    return [Key("cache", Regime(*place, "saturating"), "lru", CAPACITY_SEED) for place in places]


def keys() -> list[Key]:
    """Return every run of the tables, seed by seed."""
    return [
        Key(part.seam, regime, policy, seed)
        for seed in SEEDS
        for part in PARTS
        for regime in REGIMES
        for policy in (OURS, *part.published, part.bound)
    ]


def rate_per_s(regime: Regime, runs: Runs) -> float:
    """Return the load of a regime in requests per second."""
    saturating = Key("cache", regime._replace(load="saturating"), "lru", CAPACITY_SEED)
    return round(LOADS[regime.load] * float(runs[saturating.text]["per_s"]), 2)


def read(store: Path, *, any_version: bool) -> Runs:
    """Return the runs that are kept, the latest of each."""
    if not store.exists():
        return {}
    rows = [json.loads(line) for line in store.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    return {row["key"]: row for row in rows if any_version or row["version"] == source_sha256()}


def perform(wanted: Sequence[Key], rates_per_s: Sequence[float], store: Path, jobs: int, what: str) -> Iterator[Any]:
    """Make the runs and keep each as soon as it is there."""
    from joblib import Parallel, delayed  # noqa: PLC0415 - takes a second to import

    store.parent.mkdir(parents=True, exist_ok=True)
    work = (delayed(_numbered)(place, key, rates_per_s[place]) for place, key in enumerate(wanted))
    with store.open("a", encoding="utf-8") as file, progress(len(wanted), what) as bar:
        for place, found in Parallel(n_jobs=jobs, return_as="generator_unordered")(work):
            row = {"key": wanted[place].text, "version": source_sha256(), **found}
            file.write(json.dumps(row) + "\n")
            file.flush()
            bar.advance()
            yield row


def _numbered(place: int, key: Key, rate: float) -> tuple[int, Measured]:
    return place, measure(key, rate)


def complete(store: Path, jobs: int, *, any_version: bool) -> Runs:
    """Return every run, making those that are not kept."""
    runs = read(store, any_version=any_version)
    missing = [key for key in capacity_keys() if key.text not in runs]
    saturating = [SATURATING_PER_S] * len(missing)
    runs |= {row["key"]: row for row in perform(missing, saturating, store, jobs, "capacity")}
    missing = [key for key in keys() if key.text not in runs]
    rates = [rate_per_s(key.regime, runs) for key in missing]
    return runs | {row["key"]: row for row in perform(missing, rates, store, jobs, "runs")}
