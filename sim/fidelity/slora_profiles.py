"""What a fit to S-LoRA's runs leaves behind: hardware profiles that say where each of their numbers is from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sim.fidelity.fitting import Outcome, Values, counts, with_values
from sim.fidelity.measures import errors
from sim.fidelity.plans import Plan
from sim.fidelity.slora import SYSTEM
from sim.files.yamlfile import find
from sim.hardware import Hardware, load_hardware

RUNS = {
    "slora-a10g": "S-LoRA's published runs on an A10G (S-LoRA/S-LoRA @ c1ddf48, Apache-2.0)",
    "slora-a100-80": "S-LoRA's published runs on an A100-80 (S-LoRA/S-LoRA @ c1ddf48, Apache-2.0)",
}
# What a group holds beside the fitted numbers.
REST = {
    ("a10g", "dense"): "floors and elementwise work are priors",
    ("a10g", "attention"): "prefill rate (half the peak) and floor (two kernels a layer) are priors",
    ("a10g", "link"): "bandwidth and latency are priors",
    ("a100-80", "attention"): "KV rate from tables of microsoft/vidur and ai-dynamo/aiconfigurator; prefill rate (half "
    "the peak) and floor (two kernels a layer) are priors",
    ("a100-80", "lora"): "first-read rate: that of KV, unmeasured",
}  # fmt: skip


def profile(plan: Plan, outcomes: Sequence[Outcome]) -> Hardware:
    """Return a card's packaged profile with what was fitted, its origins and sources written anew.

    Args:
        plan: what was fitted.
        outcomes: of all runs, then of the two halves.

    Raises:
        ValueError: if a rate is above the hardware's peak.
    """
    values = outcomes[0].values
    groups: dict[str, dict[str, Any]] = {}
    for key in values:
        groups.setdefault(key.split(".")[0], {})
    for name, group in groups.items():
        group |= {"origin": "fitted", "source": _source(plan, name, outcomes)}
    if "dense" in groups:
        groups["dense"] |= {"fit_mape": _mape(outcomes[:1]), "held_out_mape": _mape(outcomes[1:], unseen=True)}
    return with_values(load_hardware(plan.target), values, **groups)


def _source(plan: Plan, group: str, outcomes: Sequence[Outcome]) -> str:
    names = [key.split(".")[1] for key in outcomes[0].values if key.startswith(f"{group}.")]
    runs = len({one.row for one in outcomes[0].fitted})
    found = f"{', '.join(names)}: fitted to {runs} of {RUNS[plan.set]} by `chameleon fit slora`"
    rest = REST.get((plan.target, group))
    errors_told = (
        "; the errors are of whole runs' metrics that have an aim, held out: halves" if group == "dense" else ""
    )
    return found + ("" if rest is None else f"; {rest}") + errors_told


def _mape(outcomes: Sequence[Outcome], *, unseen: bool = False) -> float:
    """Return the mean absolute relative error of the metrics of runs that have an aim."""
    kept = [one for outcome in outcomes for one in (outcome.unseen if unseen else outcome.fitted) if counts(one)]
    return round(errors(kept).mean_abs, 4)


def system_text(values: Values, system: str = SYSTEM) -> str:
    """Return a packaged system with other costs; what its file leaves to its kernel is written after that.

    Args:
        values: by key such as "costs.host_s"; other groups are left alone.
        system: its name.
    """
    text = find(system).read_text(encoding="utf-8")
    for key, value in values.items():
        group, name = key.split(".")
        if group != "costs":
            continue
        line = rf"(?m)^(  {name}: )\S+"
        if re.search(line, text):
            text = re.sub(line, rf"\g<1>{_seconds(value)}", text)
        else:
            text = re.sub(r"(?m)^(  kernel: .*)$", rf"\g<1>\n  {name}: {_seconds(value)}", text)
    return text


def _seconds(value: float) -> str:
    return f"{value * 1e3:.4g}e-3" if value >= 1e-3 else f"{value:.3e}"
