"""What the seconds of runs rest on, in words: origins of costs, their limits, settings without effect."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sim.hardware import CPU_MADE
from sim.results.summary import Summary


def remarks(summaries: Iterable[Summary]) -> list[str]:
    """Return a line for each hardware profile's origins, then warnings, each once."""
    kept = list(summaries)
    origins = {one["hardware"]: one["costs"]["origins"] for one in kept}
    found = [f"cost coefficients of {name}: {_words(told)}" for name, told in origins.items()]
    return found + [f"warning: {warning}" for warning in dict.fromkeys([*cpu_warnings(kept), *_warnings(kept)])]


def cpu_warnings(summaries: Iterable[Summary]) -> list[str]:
    """Return a sentence for each profile that was measured on a CPU."""
    made = (one["hardware"] for one in summaries if CPU_MADE in one["costs"]["origins"].values())
    return [f"{name} was measured on a CPU: that tries the harness and is no evidence" for name in dict.fromkeys(made)]


def _words(origins: dict[str, str]) -> str:
    return ", ".join(f"{group} {origin}" for group, origin in origins.items())


def _warnings(summaries: Iterable[Summary]) -> Iterator[str]:
    for one in summaries:
        yield from one["costs"]["warnings"]
        yield from one.get("idle_settings", ())
