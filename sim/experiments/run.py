"""Runs and replications: one configuration and seed in, one `Result` out; pairs of systems see the same requests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from inspect import signature
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from sim.build import Deployment, deploy, play
from sim.config import Loaded, RunConfig, load_config
from sim.experiments.bench_words import bench_meta, own_rate
from sim.experiments.faults import told_of_answers, told_of_code
from sim.files.yamlfile import ConfigError
from sim.hardware import Hardware
from sim.idle_settings import idle_settings
from sim.names import SEAMS, did_you_mean
from sim.parallel import Parallel
from sim.results.isolated import isolated_ticks
from sim.results.result import Result, Run
from sim.serving.records import Records
from sim.trace import Trace


def run(  # noqa: PLR0913 - the words that everybody needs, as keywords
    system: str | Path = "chameleon",
    workload: str | None = None,
    *,
    rate: float | None = None,
    requests: int | None = None,
    scale: float | None = None,
    trace: str | PathLike[str] | Trace | None = None,
    seed: int | None = None,
    hardware: str | None = None,
    model: str | None = None,
    changes: str | Sequence[str] | Mapping[str, object] = (),
    **policies: object,
) -> Result:
    """Simulate one system and return its results.

    Args:
        system: a packaged system such as "chameleon" or "slora", or the path of a YAML file.
        workload: "paper", "azure-conv", "azure-code" or "uniform".
        rate: requests per second.
        requests: how many requests to draw, or rows of a trace file to read.
        scale: both lengths are divided by this.
        trace: a trace file, or a `Trace` that is used as it is; then none of the four above may be given.
        seed: of the workload and of prediction errors.
        hardware: a packaged profile such as "a40", or the path of one.
        model: base model, such as "llama-7b".
        changes: one text or several, such as "cache.kind=lru" or "admission.every_steps=1", or a mapping such as
            {"adapters.slots": 8}.
        policies: `scheduler`, `cache`, `prefetch`, `predictor` or `router` in place of the system's: a name, a class, a
            mapping of kind and parameters, or an instance, which remembers what it has seen from one run to the next.

    Raises:
        TypeError: if a keyword is none of these.
        ConfigError: with one located line for everything that is wrong.
        PolicyError: if a policy from outside fails, or gives an answer that the engine cannot use.
        ValueError: if the hardware, the model or the trace is wrong.
    """
    _check_seams(policies)
    given = trace if isinstance(trace, Trace) else None
    words = {"workload": workload, "rate": rate, "requests": requests, "scale": scale}
    if given is not None and (idle := [word for word, value in words.items() if value is not None]):
        msg = f"a Trace is used as it is: {', '.join(idle)} would change nothing beside it"
        raise ValueError(msg)
    file = None if given is not None or trace is None else str(trace)
    drawn: dict[str, Any] = {
        "preset": workload,
        "rate_per_s": rate,
        "requests": requests,
        "scale": scale,
        "trace": file,
    }
    drawn = {word: _plain(value) for word, value in drawn.items()}
    extra = {"workload": drawn, "seed": _plain(seed), "hardware": hardware, "model": model, **policies}
    return execute(load_config(system, _assignments(changes), extra, marks_arguments=True), given)


def _plain(value: object) -> object:
    """Return Python's own number for one of numpy's, as loops over arrays give them."""
    return value.item() if isinstance(value, np.generic) else value


def _assignments(changes: str | Sequence[str] | Mapping[str, object]) -> Sequence[str]:
    if isinstance(changes, Mapping):
        return [f"{key}={json.dumps(_plain(value), default=str)}" for key, value in changes.items()]  # JSON is YAML
    return (changes,) if isinstance(changes, str) else changes


def _check_seams(policies: dict[str, object]) -> None:
    for word in policies:
        if word not in SEAMS:
            known = [*SEAMS, *(name for name in signature(run).parameters if name != "policies")]
            msg = f"run() has no keyword {word!r}{did_you_mean(word, known)}"
            raise TypeError(msg)


def execute(loaded: Loaded, trace: Trace | None = None, *, asks_every_step: bool = False) -> Result:
    """Simulate a loaded configuration.

    Args:
        loaded: the configuration and its marks.
        trace: the workload; None draws the configured one.
        asks_every_step: simulate one decode step at a time, as the oracle of the fast path.

    Raises:
        ConfigError: with one located line for everything that is wrong.
        PolicyError: if a policy from outside fails, or gives an answer that the engine cannot use.
        ValueError: if the hardware, the model or the trace is wrong.
    """
    try:
        with told_of_code(loaded):
            deployment = deploy(loaded, trace, asks_every_step=asks_every_step)
        with told_of_answers(loaded):
            records = play(deployment)
        result = result_of(deployment, *records)
        if trace is not None:  # its own stamps: the configuration's rate and arrivals drew none of them
            result.meta = replace(result.meta, request_rate=own_rate(trace), burstiness=1.0)
        return result
    except OverflowError as error:
        # instants are counted in 64 bits of picoseconds: a cost of days, or a size beyond all memory, ends here
        msg = (
            f"a time, a weight or a size of this run is too large to be counted ({error}); one of its numbers is wrong"
        )
        raise ConfigError([msg]) from error


def _origins(config: RunConfig, hardware: Hardware) -> dict[str, str]:
    """Return where each group of costs comes from; what ties GPUs together is one where there are several."""
    given, card = config.parallel, hardware.interconnect
    if given.tensor == 1:
        return hardware.told_origins
    own = "prior" if card is None else card.origin
    numbers = {"rate": given.all_reduce_bytes_per_s, "latency": given.all_reduce_s}
    left = [name for name, value in numbers.items() if value is None]
    told = own if len(left) == len(numbers) else ", ".join(["given", *(f"{name} {own}" for name in left)])
    return {**hardware.told_origins, "interconnect": told}


def _warnings(config: RunConfig, hardware: Hardware, records: Sequence[Records]) -> list[str]:
    warnings = list(hardware.warnings(max(int(one.prefills["tokens"].max(initial=1)) for one in records)))
    factor = 1.0 if hardware.host is None or config.costs.host_factor is not None else hardware.host.factor
    if factor != 1:
        machine = f"the machine of the runs that {config.hardware} was fitted to"
        warnings.append(f"host times are x {factor:g}: those of {machine}, not of the card (costs.host_factor sets it)")
    if config.parallel.tensor > 1 and config.parallel.all_reduce_bytes_per_s is None and hardware.interconnect is None:
        rate = f"all-reduces at {Parallel().bytes_per_s / 1e9:g} GB/s, as over PCIe 4"
        warnings.append(f"{rate}: {config.hardware} states no interconnect (parallel.all_reduce_bytes_per_s sets it)")
    return warnings


def result_of(deployment: Deployment, *records: Records, is_simulated: bool = True) -> Result:
    """Return what a deployment's run left behind, one `Records` per replica, whoever drove it, as results.

    Args:
        deployment: what was run.
        records: of each replica.
        is_simulated: False if it was served in real time, which the results then say.
    """
    config, hardware = deployment.config, deployment.hardware
    outcome = Run(
        trace=deployment.trace,
        records=records,
        adapter_bytes=[0 if adapter is None else adapter.size_bytes for adapter in deployment.adapters],
        predicted_tokens=deployment.predicted_tokens,
        system=config.name,
        hardware=config.hardware,
        model=config.model,
        seed=config.seed,
        kv_token_bytes=deployment.limits.kv_token_bytes,
        ttft_slo_s=config.ttft_slo_s,
        link_copies=config.loading.copies,
        cost_origins=_origins(config, hardware),
        idle_settings=idle_settings(config),
        isolated=partial(isolated_ticks, deployment.trace, deployment.costs, deployment.options),
        cost_warnings=_warnings(config, hardware, records),
        is_simulated=is_simulated,
    )
    return Result(outcome, config.model_dump(mode="json"), meta=bench_meta(config, deployment.trace))
