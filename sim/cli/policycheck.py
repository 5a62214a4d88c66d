"""`chameleon policies check`: whether a policy keeps the rules of docs/policies.md in a small, crowded simulation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from sim.cli.loading import load_checked

if TYPE_CHECKING:
    from sim.config import Loaded

# memory so small that adapters and KV press on each other, and load enough that requests wait
CROWDED = ("memory.kv_pool_tokens=6000", "adapters.memory=unified", "admission.every_steps=1")
WORKLOAD = {"preset": "paper", "rate_per_s": 9.0, "requests": 400}
CHECKED = ("scheduler", "cache", "prefetch", "predictor")


class Finding(NamedTuple):
    """One rule and whether it is kept."""

    rule: str
    is_kept: bool


def check(seam: str, name: str, sets: list[str]) -> Iterator[Finding]:
    """Yield what a policy keeps of the rules.

    Raises:
        ValueError: if the policy cannot be built, or no run asks this seam.
    """
    from sim.names import did_you_mean  # noqa: PLC0415 - pandas and pydantic are slow to import

    if seam not in CHECKED:
        msg = f"no policy of the seam {seam!r} can be checked{did_you_mean(seam, CHECKED)}"
        raise ValueError(msg)
    loaded = load_checked("chameleon", [*CROWDED, f"{seam}.kind={name}", *sets], {"workload": WORKLOAD})
    yield Finding("it can be built from its keywords", is_kept=True)
    yield from _played(loaded)


def _played(loaded: Loaded) -> Iterator[Finding]:
    from sim.experiment import execute  # noqa: PLC0415

    first = execute(loaded)
    counts = first.summary["requests"]
    yield Finding("every request is completed", is_kept=counts["completed"] == counts["offered"])
    yield Finding("a second run gives the same", is_kept=execute(loaded).requests.equals(first.requests))
    often = execute(loaded, asks_every_step=True)
    yield Finding("being asked at every step changes nothing", is_kept=often.requests.equals(first.requests))
