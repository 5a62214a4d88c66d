"""What the mini engine's own software costs, as `gpu fit` found it: a check predicts this engine, not S-LoRA's."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gpu_validate.fit import REPORT
from sim.engine_costs import EngineCosts
from sim.hardware import SUFFIXES, Attention

if TYPE_CHECKING:
    from gpu_validate.live import Setup


class Calibrated(NamedTuple):
    """What is known of the engine that will be run.

    Attributes:
        costs: its `costs:` section; None: the system's own are taken.
        attention: its attention group; None: the profile's is taken.
        remark: a sentence about both.
    """

    costs: dict[str, Any] | None
    attention: Attention | None
    remark: str


def engine_costs(hardware: str, setup: Setup) -> Calibrated:
    """Return what was fitted of the engine that will be run.

    Args:
        hardware: a packaged profile, or the path of one; `fit.json` beside it has the costs.
        setup: how the engine executes.

    Raises:
        ValueError: if the fitted numbers are none that the cost model takes.
    """
    way = f"{setup.backend} {'graph' if setup.has_graphs else 'eager'}"
    told, why = _told(hardware)
    attention = None if told is None else _attention(told)
    found = None if told is None else told["engine_costs"].get(way)
    if told is not None and found is None:
        known = ", ".join(name for name in told["engine_costs"] if " " in name) or "none"
        why = f"{why} has no iterations of {way}; it has {known}"
    costs, remark = None, f"engine costs: the system's own, which need not be this engine's ({why})"
    if found is not None:
        costs = EngineCosts.model_validate(found).model_dump(mode="json", exclude_none=True)
        remark = f"engine costs: {way}, fitted with the profile"
    return Calibrated(costs, attention, f"{remark}; {_attention_remark(attention)}")


def has_engine_costs(hardware: str | None) -> bool:
    """Whether a profile is one that `gpu fit` wrote together with what the mini engine's software costs."""
    return hardware is not None and _told(hardware)[0] is not None


def _told(hardware: str) -> tuple[dict[str, Any] | None, str]:
    """Return the report that belongs to a profile and its name, or None and why there is none."""
    path = Path(hardware)
    report = path.with_name(REPORT)
    if not hardware.endswith(SUFFIXES) or not report.exists():
        return None, f"no {REPORT} lies beside {hardware}"
    told = _content(report)
    if told["profile"]["sha256"] != sha256(path.read_bytes()).hexdigest():
        return None, f"{report} is of another profile"
    return told, str(report)


def _content(report: Path) -> dict[str, Any]:
    """Return what a fit reported; raises ValueError if it is not as `gpu fit` wrote it."""
    try:
        told: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        return {**told, "engine_costs": dict(told["engine_costs"]), "profile": {"sha256": told["profile"]["sha256"]}}
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{report}: not as `chameleon gpu fit` wrote it ({type(error).__name__}: {error})"
        raise ValueError(msg) from None


def _attention(told: dict[str, Any]) -> Attention | None:
    found = told.get("engine_attention")
    return None if found is None else Attention.model_validate(found)


def _attention_remark(attention: Attention | None) -> str:
    if attention is None:
        return "attention: the profile's, which is torch's and need not be as quick as this engine's own kernel"
    rate = f"{attention.kv_bytes_per_s / 1e9:.4g} GB/s of KV"
    return f"attention: the engine's own kernel in place of the profile's, {rate}, fitted with it"
