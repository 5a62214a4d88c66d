"""The hardware profile that a fit of vLLM leaves behind."""

from __future__ import annotations

from typing import Any

from sim.fidelity.fitting import with_values
from sim.fidelity.measures import Measure, errors
from sim.fidelity.vllm_fit import VllmFit
from sim.fidelity.vllm_server import HARDWARE
from sim.hardware import Hardware, load_hardware

_STEPS = (
    "FerranAgulloLopez/GPULLMAdapterOptimization (Apache-2.0), vLLM's decode times of Llama-3.1-8B, fitted together "
    "with the engine's costs by `chameleon fit vllm`"
)
SOURCES = {
    "dense": f"{_STEPS}; bytes/s, kernel floors, tiles and the share of elementwise work in what a sequence adds as "
    "packaged. fit_mape is that of steps without LoRA, held_out_mape the same of the other model",
    "attention": f"{_STEPS}, from answers of 100, 200 and 400 tokens; prefill rate and floor as packaged, priors",
}
NO_LORA = ", no LoRA,"  # in a step's name


def profile(fit: VllmFit) -> Hardware:
    """Return the packaged card with what was fitted, its sources written anew.

    Raises:
        ValueError: if a rate is above the hardware's peak.
    """
    card = {key: value for key, value in fit.servers[0].values.items() if not key.startswith("costs.")}
    groups: dict[str, dict[str, Any]] = {name: {"origin": "fitted", "source": told} for name, told in SOURCES.items()}
    groups["dense"] |= {"fit_mape": _mape(fit.steps[0].fitted), "held_out_mape": _mape(fit.steps[0].unseen)}
    return with_values(load_hardware(HARDWARE), card, **groups)


def _mape(steps: tuple[Measure, ...]) -> float:
    return round(errors(one for one in steps if NO_LORA in one.row).mean_abs, 4)
