"""From fits to a hardware profile: groups that were measured replace the base's, the others keep their origin."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpu_validate.rows import PROFILES
from gpu_validate.solvers import Fit
from sim.files.textfile import write_text
from sim.hardware import Attention, Hardware, MeasuredOn, load_hardware
from sim.hardware_file import profile_text

# The adapter read rate is best seen where nothing else grows with the bytes of distinct adapters.
READ_RATE_FROM = ("segmented", "grouped_mm", "torch_loop", "vllm_v1", "mbgmv", "bgmv")
RE_READ_RATE_FROM = ("bgmv", "mbgmv")


def base_profile(base: str | None, device: str) -> Hardware:
    """Return the profile that gives peaks, memory and whatever is not measured.

    Args:
        base: a packaged profile or a path; None finds the packaged one of the device.
        device: its name by the driver.

    Raises:
        ValueError: if no packaged profile is of this device.
    """
    if base is not None:
        return load_hardware(base)
    words = set(re.split(r"[^a-z0-9]+", device.lower()))
    for needed, name in PROFILES:
        if needed <= words:
            return load_hardware(name)
    msg = f"no packaged profile is of {device!r}; give a base, which states its peaks and memory"
    raise ValueError(msg)


def merge(base: Hardware, fits: Mapping[str, Fit], measured_on: MeasuredOn, source: str) -> Hardware:
    """Return a profile with the fitted groups in place of the base's.

    Args:
        base: gives peaks, memory and the groups without a fit.
        fits: by name: `dense`, `attention`, `link` and `lora <kernel>`; others are not about hardware.
        measured_on: device, versions and date.
        source: words for the groups that were measured, such as the sweep and its hash.

    Raises:
        ValueError: if a coefficient is above the hardware's peak.
    """
    groups = {
        "dense": _dense(base, fits.get("dense")),
        "attention": dict(fits["attention"].values) if "attention" in fits else None,
        "link": dict(fits["link"].values) if "link" in fits else None,
    }
    tree: dict[str, Any] = base.model_dump(exclude_none=True)
    for name, values in groups.items():
        if values is not None:
            tree[name] = _measured(values, source, fits[name].tokens)
    lora = _lora(base, fits, source)
    tree |= {"lora": lora} if lora else {}
    if any(tree[name]["origin"] == "measured" for name in base.origins):
        tree |= {"name": f"{base.name.removesuffix('-measured')}-measured", "measured_on": measured_on.model_dump()}
    return Hardware.model_validate(tree)


def engine_attention(profile: Hardware, fit: Fit | None, source: str) -> Attention | None:
    """Return the attention group of the mini engine, which decodes with a kernel of its own; None without a fit.

    Args:
        profile: gives the rate of prefill, for which the engine calls torch.
        fit: of `attention_paged` rows.
        source: words for where they come from.
    """
    if fit is None:
        return None
    rate = profile.attention.prefill_flops_per_s
    told = f"{source}; the mini engine's own kernel, prefill_flops_per_s: the profile's"
    values = {**fit.values, "prefill_flops_per_s": rate}
    return Attention.model_validate(_measured(values, told, fit.tokens))


def with_attention(profile: Hardware, attention: Attention | None) -> Hardware:
    """Return a profile with another attention group, if there is one."""
    return profile if attention is None else profile.model_copy(update={"attention": attention})


def _measured(values: Mapping[str, Any], source: str, tokens: tuple[int, int] | None) -> dict[str, Any]:
    group = {"origin": "measured", "source": source, **values}
    return group | ({"valid_tokens": tokens} if tokens else {})


def _dense(base: Hardware, fit: Fit | None) -> dict[str, Any] | None:
    if fit is None:
        return None
    # The profile speaks of linear layers; how well the LM head does stands in the fit's own report.
    shares = {f"{name}_mape": _linear_mape(fit.errors[split]) for name, split in (("fit", "fit"), ("held_out", "test"))}
    kernels = max(1, base.dense.kernels_per_layer)
    return {**fit.values, "tile_tokens": int(fit.values["tile_tokens"]), "kernels_per_layer": kernels, **shares}


def _linear_mape(errors: Mapping[str, Any]) -> float:
    return float(errors.get("by_kind", {}).get("dense", errors)["mape"])


def _lora(base: Hardware, fits: Mapping[str, Fit], source: str) -> dict[str, Any] | None:
    """Return the group with the rates that some kernel's fit has; its source says which those are."""
    found: dict[str, float] = {}
    told, tokens = [], []
    for rate, kernels in (("weight_bytes_per_s", READ_RATE_FROM), ("l2_bytes_per_s", RE_READ_RATE_FROM)):
        kernel = next((one for one in kernels if f"lora {one}" in fits), None)
        if kernel is None:
            told.append(f"{rate}: {base.lora.origin}, {base.lora.source}")
            continue
        fit = fits[f"lora {kernel}"]
        found[rate] = fit.values[rate]
        told.append(f"{rate}: kernel {kernel}")
        tokens += list(fit.tokens or ())
    if not found:
        return None
    rates = {"l2_bytes_per_s": base.lora.l2_bytes_per_s, "weight_bytes_per_s": base.lora.weight_bytes_per_s}
    valid = (min(tokens), max(tokens)) if tokens else None
    return _measured(rates | found, f"{source}; {'; '.join(told)}", valid)


def implied(profile: Hardware) -> dict[str, dict[str, float]]:
    """Return the profile's rates in GB/s and TFLOP/s, each with its share of the hardware's peak."""
    dense, attention = profile.dense, profile.attention
    flops, hbm, pcie = profile.peak_flops, profile.peak_hbm_bytes_per_s, profile.peak_pcie_bytes_per_s
    rates = {
        "dense_tflop_per_s": (dense.flops_per_s / 1e12, dense.flops_per_s / flops),
        "weights_gb_per_s": (dense.weight_bytes_per_s / 1e9, dense.weight_bytes_per_s / hbm),
        "attention_tflop_per_s": (attention.prefill_flops_per_s / 1e12, attention.prefill_flops_per_s / flops),
        "kv_gb_per_s": (attention.kv_bytes_per_s / 1e9, attention.kv_bytes_per_s / hbm),
        "adapters_gb_per_s": (profile.lora.weight_bytes_per_s / 1e9, profile.lora.weight_bytes_per_s / hbm),
        "link_gb_per_s": (profile.link.h2d_bytes_per_s / 1e9, profile.link.h2d_bytes_per_s / pcie),
    }
    return {name: {"rate": rate, "share_of_peak": share} for name, (rate, share) in rates.items()}


def write_profile(profile: Hardware, path: Path) -> None:
    """Write a profile that `load_hardware` reads back unchanged, whole or not at all."""
    write_text(path, profile_text(profile, "chameleon gpu fit", "fit.json beside it has intervals and errors"))
