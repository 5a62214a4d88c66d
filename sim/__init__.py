"""Simulate LLM serving with many LoRA adapters: `sim.run(system="chameleon", workload="paper", rate=8).requests`.

The names below are loaded when they are first used, so that `import sim` stays light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim.experiments.run import run as run
    from sim.results.result import Result as Result
    from sim.trace import AdapterSpec as AdapterSpec
    from sim.trace import Trace as Trace

_HOMES = {
    "run": "sim.experiments.run",
    "Result": "sim.results.result",
    "Trace": "sim.trace",
    "AdapterSpec": "sim.trace",
}
__all__ = ["AdapterSpec", "Result", "Trace", "run"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        msg = f"module 'sim' has no attribute {name!r}"
        raise AttributeError(msg)
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
