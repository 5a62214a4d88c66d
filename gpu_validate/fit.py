"""From a sweep of measurements to a hardware profile for `--hardware`, with its errors on shapes that it has not seen.

The laws are those of docs/costs.md. Only valid rows of split "fit" below the hardware's peaks are fitted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gpu_validate.engine.dims import BUCKETS
from gpu_validate.engine_laws import ADAPTED, iteration_law, kernel_fields, launch_law, lora_law
from gpu_validate.laws import (
    ENGINE_ATTENTION,
    LINK_NAMES,
    attention_law,
    dense_law,
    is_plain_copy,
    is_quiet,
    link_law,
    paged_law,
)
from gpu_validate.profile import base_profile, engine_attention, implied, merge, with_attention, write_profile
from gpu_validate.solvers import DRAWS, Fit, Law, error_of, fit_law, seconds_of
from gpu_validate.sweep_rows import Row, read_rows, refusal
from sim.files.textfile import write_text
from sim.hardware import Attention, Hardware, MeasuredOn, load_hardware

SCHEMA_VERSION = 1
REPORT = "fit.json"
SUFFIXES = (".yaml", ".yml")
# Backends that the cost model knows under another kernel's law.
LAW_OF = {"grouped_mm": "segmented"}


@dataclass
class Fitted:
    """Everything a sweep gave.

    Attributes:
        profile: the base with measured groups.
        fits: by name of the group.
        engines: fields of `EngineCosts` by LoRA kernel and way of launching.
        engine_attention: the profile's group with what the mini engine's own kernel takes in decode, by which that
            engine is predicted; None: not measured, or too little.
        loads: every way of copying against the link's law; see `load_modes`.
        left_out: why rows and groups were not fitted.
    """

    profile: Hardware
    fits: dict[str, Fit] = field(default_factory=dict)
    engines: dict[str, dict[str, Any]] = field(default_factory=dict)
    engine_attention: Attention | None = None
    loads: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=lambda: {"invalid": [], "refused": [], "groups": []})


def run_fit(sweep: Path, out: Path, base: str | None = None, *, draws: int = DRAWS, seed: int = 0) -> Path:
    """Fit a sweep, write the profile and `fit.json` beside it, and return the profile's path.

    Args:
        sweep: JSON lines of `gpu_validate.rows`.
        out: the YAML file to write, or a folder for `profile.yaml`.
        base: profile that gives peaks, memory and what was not measured; None: the packaged one of the rows' device.
        draws: resamples for the intervals of the coefficients.
        seed: of the resampling.

    Raises:
        ValueError: if the sweep is not one, is of several devices, or nothing in it could be fitted.
    """
    rows = read_rows(sweep)
    measured_on = _measured_on(rows)
    digest = hashlib.sha256(sweep.read_bytes()).hexdigest()
    source = f"chameleon gpu fit of {sweep.name} (sha256 {digest}), {len(rows)} rows"
    fitted = fit_rows(rows, base_profile(base, measured_on.device), measured_on, source, draws=draws, seed=seed)
    if not fitted.fits:
        reasons = "; ".join(fitted.left_out["groups"] + fitted.left_out["refused"][:5])
        msg = f"{sweep}: nothing could be fitted: {reasons}"
        raise ValueError(msg)
    path = out if out.suffix in SUFFIXES else out / "profile.yaml"
    write_profile(fitted.profile, path)
    load_hardware(path)
    report = _report(fitted, {"file": sweep.name, "sha256": digest, "rows": len(rows)}, path)
    write_text(path.with_name(REPORT), json.dumps(report, indent=1, allow_nan=False) + "\n")
    return path


def fit_rows(
    rows: Sequence[Row],
    base: Hardware,
    measured_on: MeasuredOn,
    source: str,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Fitted:
    """Return the fits of all groups that have enough rows, and why the others have not.

    Args:
        rows: of one device.
        base: gives peaks, memory and what is not measured.
        measured_on: device, versions and date.
        source: words for the measured groups.
        draws: resamples for the intervals.
        seed: of the resampling.
    """
    fitted = Fitted(base)
    usable = list(_usable(rows, base, fitted.left_out))
    for law, chosen in _hardware_laws(usable, base):
        _keep(fitted, law, chosen, draws, seed)
    flops_per_s = fitted.fits["dense"].values["flops_per_s"] if "dense" in fitted.fits else base.dense.flops_per_s
    for kernel in sorted({str(row["kernel"]) for row in usable if row.kind == "lora"}):
        if LAW_OF.get(kernel, kernel) in ADAPTED:
            law = lora_law(LAW_OF.get(kernel, kernel), base, flops_per_s, name=f"lora {kernel}")
            _keep(fitted, law, [row for row in usable if row.kind == "lora" and row["kernel"] == kernel], draws, seed)
        else:
            fitted.left_out["groups"].append(f"lora {kernel}: the cost model has no law for this kernel")
    fitted.profile = merge(base, fitted.fits, measured_on, source)
    fitted.loads = load_modes(usable, fitted.profile)
    _keep(fitted, paged_law(base), [row for row in usable if row.kind == "attention_paged"], draws, seed)
    fitted.engine_attention = engine_attention(fitted.profile, fitted.fits.get(ENGINE_ATTENTION), source)
    for way in (False, True):
        launches = [row for row in usable if row.kind == "launch" and bool(row["graph"]) == way]
        _keep(fitted, launch_law("graph" if way else "eager"), launches, draws, seed)
    _fit_engines(fitted, [row for row in usable if row.kind in {"iteration", "service"}], draws, seed)
    return fitted


def _hardware_laws(usable: Sequence[Row], base: Hardware) -> Iterator[tuple[Law, list[Row]]]:
    dense = [row for row in usable if row.kind in {"dense", "lm_head"}]
    has_test = any(row.kind == "dense" and row.split == "test" for row in dense)
    # A profile may not call its linear layers measured without an error on unseen shapes.
    yield dense_law(base), dense if has_test else []
    yield attention_law(base), [row for row in usable if row.kind in {"attention_prefill", "attention_decode"}]
    yield link_law(base), [row for row in usable if is_plain_copy(row)]


def _usable(rows: Sequence[Row], base: Hardware, left_out: Mapping[str, list[str]]) -> Iterator[Row]:
    for row in rows:
        if not row.is_valid:
            left_out["invalid"].append(f"line {row.line}: {row.kind}: {row.why}")
        elif reason := refusal(row, base):
            left_out["refused"].append(reason)
        else:
            yield row


def _keep(fitted: Fitted, law: Law, rows: Sequence[Row], draws: int, seed: int) -> None:
    found = fit_law(law, rows, draws=draws, seed=seed)
    if isinstance(found, Fit):
        fitted.fits[law.name] = found
    else:
        fitted.left_out["groups"].append(found)


def _fit_engines(fitted: Fitted, rows: Sequence[Row], draws: int, seed: int) -> None:
    """Fit host time for each kernel and way of launching decode; prefills serve both ways."""
    for kernel, fit in ((name.removeprefix("lora "), fit) for name, fit in fitted.fits.items() if "lora " in name):
        fitted.engines[kernel] = kernel_fields(LAW_OF.get(kernel, kernel), fit.values)
    hardware = with_attention(fitted.profile, fitted.engine_attention)
    decodes = [row for row in rows if row["phase"] == "decode"]
    for kernel, has_graph in sorted({(str(row["kernel"]), bool(row["graph"])) for row in decodes}):
        fields = fitted.engines.get(kernel) or kernel_fields(LAW_OF.get(kernel, kernel), None)
        fields |= {"graph_buckets": list(BUCKETS)} if has_graph else {}
        name = f"iteration {kernel} {'graph' if has_graph else 'eager'}"
        law = iteration_law(name, hardware, fields, has_graph=has_graph)
        chosen = [row for row in rows if row["kernel"] == kernel and _runs_so(row, has_graph=has_graph)]
        _keep(fitted, law, chosen, draws, seed)
        if name in fitted.fits:
            # Its host times were found on this machine, so that no factor of the base profile's belongs to them.
            found = fields | fitted.fits[name].values | {"host_factor": 1.0}
            fitted.engines[name.removeprefix("iteration ")] = found


def _runs_so(row: Row, *, has_graph: bool) -> bool:
    return row["phase"] != "decode" or bool(row["graph"]) == has_graph


def _measured_on(rows: Sequence[Row]) -> MeasuredOn:
    """Say where and when; raises ValueError for rows of several devices."""
    found = {name: sorted({str((row.labels or {}).get(name, "")) for row in rows}) for name in LABELS}
    if len(found["device"]) > 1:
        msg = f"the rows are of several devices: {', '.join(found['device'])}; fit one sweep per device"
        raise ValueError(msg)
    versions = {name: ", ".join(found[name]) for name in ("driver", "torch")}
    return MeasuredOn(device=found["device"][0], versions=versions, date=found["date"][-1])


LABELS = ("device", "driver", "torch", "date")


def _report(fitted: Fitted, sweep: Mapping[str, Any], path: Path) -> dict[str, Any]:
    profile, attention = fitted.profile, fitted.engine_attention
    return {
        "schema_version": SCHEMA_VERSION,
        "profile": {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "name": profile.name},
        "sweep": dict(sweep),
        "measured_on": None if profile.measured_on is None else profile.measured_on.model_dump(),
        "origins": dict(profile.origins),
        "groups": {name: asdict(fit) for name, fit in fitted.fits.items()},
        "implied": implied(profile),
        "engine_costs": fitted.engines,
        "engine_attention": None if attention is None else attention.model_dump(mode="json"),
        "load_modes": fitted.loads,
        "left_out": fitted.left_out,
    }


def load_modes(rows: Sequence[Row], profile: Hardware) -> dict[str, Any]:
    """Return how every way of copying compares with the link's law: errors when quiet, slowdowns when not.

    `beside` and `concurrent` rows tell seconds over what the law says for the bytes of one copy.
    """
    law, link = link_law(profile), profile.link
    values = {name: float(getattr(link, name)) for name in LINK_NAMES}
    groups: dict[str, list[Row]] = {}
    for row in (row for row in rows if row.kind == "load"):
        groups.setdefault(_way(row), []).append(row)
    told: dict[str, Any] = {}
    for way, chosen in sorted(groups.items()):
        seconds, expected = seconds_of(chosen), law.predict(values, chosen)
        error = error_of(expected / seconds - 1)
        told[way] = {"slowdown": float(np.median(seconds / expected)), "law_error": error}
    return told


def _way(row: Row) -> str:
    config = row.config
    mode = str(config.get("mode"))
    if is_quiet(row):
        return mode
    extra = {name: config.get(name) for name in ("concurrent", "queued") if float(config.get(name) or 1) > 1}
    beside = config.get("beside")
    extra |= {"beside": beside} if beside not in {None, "", "none", "idle"} else {}
    return " ".join([mode, *(f"{name}={value}" for name, value in extra.items())])


def fit_text(report: Mapping[str, Any]) -> str:
    """Return what a fit found, for people: coefficients with intervals, errors with n, and what was left out.

    Args:
        report: the content of fit.json.
    """
    profile, sweep, left_out = report["profile"], report["sweep"], report["left_out"]
    lines = [f"{profile['name']}: {sweep['rows']} rows of {sweep['file']} (sha256 {sweep['sha256'][:12]})"]
    measured = [name for name, origin in report["origins"].items() if origin == "measured"]
    lines.append(f"measured groups: {', '.join(measured) or 'none, all coefficients are those of the base profile'}")
    for name, group in report["groups"].items():
        errors = [f"{split} {100 * one['mape']:.1f} % (n = {one['n']})" for split, one in group["errors"].items()]
        lines.append(f"{name}: mean absolute error {', '.join(errors)}")
        lines += [
            f"  {key} {_coefficient(value, group['intervals'].get(key))}" for key, value in group["values"].items()
        ]
    rates = (
        f"{name} {one['rate']:.4g} ({100 * one['share_of_peak']:.0f} %)" for name, one in report["implied"].items()
    )
    lines.append(f"implied, and share of the peak: {', '.join(rates)}")
    lines += [f"not fitted: {reason}" for reason in left_out["groups"]]
    lines += [f"refused: {reason}" for reason in left_out["refused"]]
    lines.append(f"invalid rows: {len(left_out['invalid'])}")
    return "\n".join(lines) + "\n"


def _coefficient(value: float, bounds: Sequence[float] | None) -> str:
    return f"{value:.4g}" + (f" [{bounds[0]:.4g}, {bounds[1]:.4g}]" if bounds else "")
