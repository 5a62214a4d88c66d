"""What the seconds of a run rest on, in the words of every command that simulates."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

from sim.hardware import CPU_MADE

if TYPE_CHECKING:
    from sim.results.summary import Summary


def tell_origins(summaries: Iterable[Summary]) -> None:
    """Say on standard error where the costs of each hardware profile come from, and which settings had no effect."""
    kept = list(summaries)
    for hardware, origins in {one["hardware"]: one["costs"]["origins"] for one in kept}.items():
        words = ", ".join(f"{group} {origin}" for group, origin in origins.items())
        typer.echo(f"cost coefficients of {hardware}: {words}", err=True)
    idle = dict.fromkeys(setting for one in kept for setting in one.get("idle_settings", ()))
    for warning in (*cpu_warnings(kept), *idle):
        typer.echo(f"warning: {warning}", err=True)


def cpu_warnings(summaries: Iterable[Summary]) -> list[str]:
    """Return a sentence for each profile that was measured on a CPU."""
    made = (one["hardware"] for one in summaries if CPU_MADE in one["costs"]["origins"].values())
    return [f"{name} was measured on a CPU: that tries the harness and is no evidence" for name in dict.fromkeys(made)]
