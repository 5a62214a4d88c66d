"""What the mini engine's own software costs, as `gpu fit` found it: a check predicts this engine, not S-LoRA's."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpu_validate.fit import REPORT
from sim.engine_costs import EngineCosts
from sim.hardware import SUFFIXES

if TYPE_CHECKING:
    from gpu_validate.live import Setup


def engine_costs(hardware: str, setup: Setup) -> tuple[dict[str, Any] | None, str]:
    """Return the `costs:` section of the engine that will be run, if it is known, and a sentence about it.

    Args:
        hardware: a packaged profile, or the path of one; `fit.json` beside it has the costs.
        setup: how the engine executes.
    """
    way = f"{setup.backend} {'graph' if setup.uses_graphs and setup.device == 'cuda' else 'eager'}"
    found, why = _found(hardware, way)
    if found is None:
        return None, f"engine costs: the system's own, which need not be this engine's ({why})"
    costs = EngineCosts.model_validate(found).model_dump(mode="json", exclude_none=True)
    return costs, f"engine costs: {way}, fitted with the profile"


def _found(hardware: str, way: str) -> tuple[dict[str, Any] | None, str]:
    path = Path(hardware)
    report = path.with_name(REPORT)
    if not hardware.endswith(SUFFIXES) or not report.exists():
        return None, f"no {REPORT} lies beside {hardware}"
    told = json.loads(report.read_text(encoding="utf-8"))
    if told["profile"]["sha256"] != sha256(path.read_bytes()).hexdigest():
        return None, f"{report} is of another profile"
    found = told["engine_costs"].get(way)
    known = ", ".join(name for name in told["engine_costs"] if " " in name) or "none"
    return found, f"{report} has no iterations of {way}; it has {known}"
