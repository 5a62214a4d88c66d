"""`chameleon gpu check`: real runs against simulated ones, policies against each other, aims met or not supported."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from gpu_validate.check import Pair, report_pair, report_policies
from gpu_validate.live import Setup, serve, simulate
from gpu_validate.report import draw, policies_text, text_of, write_report
from sim.config import Loaded, load_config
from sim.hardware import load_hardware


@dataclass(frozen=True)
class Plan:
    """What is checked.

    Attributes:
        systems: the first is the baseline of gains.
        rates: requests per second.
        requests: per run.
        hardware: profile under test, a packaged name or a path; it is hashed before anything runs.
        model: base model, or None for the systems' own.
        changes: texts such as "memory.kv_pool_tokens=6000", for all systems.
        seed: of the workload; use another than for any calibration.
        capacity: measured highest rate in requests/s; None if nobody knows, then no aim on TTFT can be met.
        repeats: whether each run is served a second time, which is the noise floor.
        setup: how the engine executes.
        out: folder of the reports.
    """

    systems: tuple[str, ...]
    rates: tuple[float, ...]
    requests: int
    hardware: str
    model: str | None
    changes: tuple[str, ...]
    seed: int
    capacity: float | None
    repeats: bool
    setup: Setup
    out: Path


def run_check(plan: Plan) -> Iterator[str]:
    """Serve and simulate every system at every rate; yield the text of each report as it is done.

    Every run directory and report appears under `plan.out` at once, so a killed check keeps what it has.

    Raises:
        ConfigError: if a configuration is wrong.
        ValueError: if the profile is, or the engine cannot be built.
    """
    configured = {(rate, system): _loaded(plan, system, rate) for rate in plan.rates for system in plan.systems}
    plan.out.mkdir(parents=True, exist_ok=True)
    _freeze(plan)
    for rate in plan.rates:
        pairs = {}
        for system in plan.systems:
            pairs[system] = _pair(plan, configured[rate, system], rate)
            yield _report(plan, f"{system}-at-{rate:g}", pairs[system])
        if len(pairs) > 1:
            gains = report_policies(pairs)
            text = policies_text(gains)
            write_report(gains, text, plan.out, name=f"policies-at-{rate:g}")
            yield text


def _loaded(plan: Plan, system: str, rate: float) -> Loaded:
    workload = {"rate_per_s": rate, "requests": plan.requests}
    extra = {"workload": workload, "hardware": plan.hardware, "model": plan.model, "seed": plan.seed}
    return load_config(system, plan.changes, extra)


def _freeze(plan: Plan) -> None:
    """Write down the profile under test and its hash before anything is measured."""
    profile = load_hardware(plan.hardware).model_dump(mode="json")
    text = json.dumps(profile, sort_keys=True)
    frozen = {"hardware": plan.hardware, "sha256": sha256(text.encode()).hexdigest(), "profile": profile}
    (plan.out / "profile.frozen.json").write_text(json.dumps(frozen, indent=1) + "\n", encoding="utf-8")


def _pair(plan: Plan, loaded: Loaded, rate: float) -> Pair:
    name = f"{loaded.config.name}-at-{rate:g}"
    simulated = simulate(loaded)
    served = serve(loaded, plan.setup)
    served.result.save(plan.out / f"{name}-measured")
    repeat = serve(loaded, plan.setup, "measured again").observed if plan.repeats else None
    load = None if plan.capacity is None else rate / plan.capacity
    return Pair(simulated, served.observed, repeat, load)


def _report(plan: Plan, name: str, pair: Pair) -> str:
    report: dict[str, Any] = report_pair(pair.simulated, pair.measured, pair.repeat, load=pair.load)
    report["evidence"] = plan.setup.device == "cuda"
    note = "" if report["evidence"] else "executed on a CPU with tiny dimensions: this shows that it works, no more\n"
    text = f"{name}\n{note}{text_of(report)}"
    write_report(report, text, plan.out, draw(pair.simulated, pair.measured, pair.repeat), name)
    return text
