"""From a configuration to a running engine: sizes, costs, policies and requests, put together once per run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import gcd
from typing import NamedTuple

import numpy as np
import simpy

from policies.base import (
    Adapter,
    Cache,
    Facts,
    FloatArray,
    IntArray,
    Policy,
    Predictor,
    Prefetch,
    Request,
    Router,
    Scheduler,
)
from sim.config import Loaded, RunConfig
from sim.core import Core
from sim.costs import CostModel
from sim.engine import Replica, simulate
from sim.facts import UntoldFutureError, facts_of
from sim.files.yamlfile import ConfigError, Marks, Problem, find_mark
from sim.fleet import Fleet
from sim.hardware import Hardware, load_hardware
from sim.models import Model, load_model
from sim.names import SEAMS
from sim.plugins.named import problems_of, resolve
from sim.serving.inputs import StepInputs
from sim.serving.job import AdapterSlot, Job
from sim.serving.link import Link
from sim.serving.memory import MemoryLimits
from sim.serving.options import EngineOptions
from sim.serving.records import Records
from sim.serving.ticks import TICKS_PER_S, to_seconds, to_ticks
from sim.sizing import engine_options, loading_costs, memory_limits, parallel_of, slots_of
from sim.trace import Trace
from sim.workload.making import make_trace, streams
from sim.workload.shorten import taken_as_given

LONGEST_SPAN_S = 4e6  # int64 picoseconds end at 9.2e6 s, and queues need time to empty
ROWS_AT_ONCE = 4096  # a million requests as Python ints would take as much memory as all records


class Policies(NamedTuple):
    """One fresh instance per seam; a replica never shares them with another, nor a run."""

    scheduler: Scheduler
    cache: Cache
    prefetch: Prefetch


@dataclass(frozen=True)
class Deployment:
    """Everything that is fixed before the first request arrives."""

    config: RunConfig
    hardware: Hardware
    model: Model
    costs: CostModel
    limits: MemoryLimits
    options: EngineOptions
    trace: Trace
    adapters: tuple[Adapter | None, ...]
    predicted_tokens: IntArray
    policies: tuple[Policies, ...]  # one set per replica
    router: Router

    def core(self, link: Link, records: Records, replica: int = 0) -> Core:
        """Return the state machine of one engine around its link."""
        policies = self.policies[replica]
        return Core(
            self.options,
            self.limits,
            self.costs,
            self.adapters,
            scheduler=policies.scheduler,
            cache=policies.cache,
            prefetch=policies.prefetch,
            link=link,
            records=records,
        )


def deploy(
    loaded: Loaded,
    trace: Trace | None = None,
    *,
    gpu: Hardware | None = None,
    inputs: StepInputs | None = None,
    asks_every_step: bool = False,
) -> Deployment:
    """Put a run together.

    Args:
        loaded: the configuration and its marks.
        trace: the workload; None draws the configured one.
        gpu: a profile in place of the configured one, which is not looked at then.
        inputs: what the engine sends to the GPU with a step, in place of what is configured.
        asks_every_step: simulate one decode step at a time, as the oracle of the fast path.

    Raises:
        ConfigError: if a policy or a size in the configuration is wrong.
        ValueError: if the hardware, the model or the trace is.
    """
    config = loaded.config
    _check_client(loaded)
    hardware, model = gpu or load_hardware(config.hardware), load_model(config.model)
    parallel = parallel_of(config, hardware)
    _check_parallel(loaded, model)
    trace = make_trace(config.workload, config.seed, model) if trace is None else taken_as_given(trace, model)
    _check_span(trace)
    costs = CostModel(
        hardware,
        model,
        config.costs,
        modules=config.adapters.modules,
        loading=loading_costs(config, model),
        slots=slots_of(config, trace),
        parallel=parallel,
    )
    limits = memory_limits(config, parallel.as_one(hardware), model, trace)
    options = engine_options(config, hardware, model, trace, limits, inputs=inputs, asks_every_step=asks_every_step)
    modules = config.adapters.modules
    adapters = tuple(
        None if spec is None else Adapter(spec.id, spec.rank, model.adapter_bytes(spec.rank, modules))
        for spec in trace.palette
    )
    facts = facts_of(config, limits, options, trace, adapters, costs)
    predictor = resolve(config.predictor, "predictor", marks=loaded.marks)
    predictor.start(facts)
    uniform = streams(config.seed)["prediction"].random(len(trace))
    predicted = _predicted(predictor, trace, uniform, loaded.marks)
    policies = tuple(_policies(loaded, facts) for _ in range(config.replicas))
    _check_unshared(policies)
    router = resolve(config.router, "router", marks=loaded.marks)
    router.start(facts)
    return Deployment(config, hardware, model, costs, limits, options, trace, adapters, predicted, policies, router)


def _predicted(predictor: Predictor, trace: Trace, uniform: FloatArray, marks: Marks) -> IntArray:
    lengths = _read_only(trace.prompt_tokens), _read_only(trace.output_tokens)
    predicted = np.asarray(predictor.predict(*lengths, uniform))
    if predicted.shape != (len(trace),) or predicted.dtype.kind not in "iu" or predicted.min(initial=1) < 1:
        key = ("predictor",)
        got = f"{predicted.dtype} of shape {predicted.shape}, from {predicted.min(initial=1)} up"
        message = f"{type(predictor).__name__}.predict gave {got}; {len(trace)} whole numbers from 1 up are expected"
        raise ConfigError([Problem(key, message, find_mark(marks, key))])
    return predicted


def _read_only(column: IntArray) -> IntArray:
    view = column.view()
    view.flags.writeable = False  # these are the true lengths, and what a predictor writes into them would be served
    return view


def _policies(loaded: Loaded, facts: Facts) -> Policies:
    config, marks = loaded.config, loaded.marks
    policies = Policies(
        resolve(config.scheduler, "scheduler", marks=marks),
        resolve(config.cache, "cache", marks=marks),
        resolve(config.prefetch, "prefetch", marks=marks),
    )
    for seam, policy in zip(Policies._fields, policies, strict=True):
        _start(policy, seam, facts, marks)
    return policies


def _start(policy: Policy, seam: str, facts: Facts, marks: Marks) -> None:
    try:
        policy.start(facts)
    except UntoldFutureError as error:
        message = f"{type(policy).__name__} has to know the future, and {error}"
        raise ConfigError([Problem((seam,), message, find_mark(marks, (seam,)))]) from None


def _check_unshared(policies: Sequence[Policies]) -> None:
    for seam, instances in zip(Policies._fields, zip(*policies, strict=True), strict=True):
        if len(set(map(id, instances))) < len(instances):
            msg = f"{seam}: an instance cannot serve {len(instances)} replicas; give its class or name"
            raise ConfigError([msg])


def play(deployment: Deployment) -> tuple[Records, ...]:
    """Simulate a deployment to its end, one `Records` per replica; its policies are used up by that."""
    if len(deployment.policies) == 1:
        return (_play_alone(deployment),)
    builds = [partial(deployment.core, replica=index) for index in range(len(deployment.policies))]
    poll_ticks = to_ticks(deployment.config.admission.idle_poll_s)
    fleet = Fleet(builds, deployment.router, idle_poll_ticks=poll_ticks)
    fleet.serve(jobs(deployment, fleet.palette))
    return fleet.records


def play_until(deployment: Deployment, end: int) -> Records:
    """Simulate a deployment of one replica up to a tick; requests that are under way then have no row.

    Its policies are used up by that.
    """
    return _play_alone(deployment, end)


def _play_alone(deployment: Deployment, until: int | None = None) -> Records:
    records = Records()
    env = simpy.Environment()
    replica = Replica(
        env,
        lambda link: deployment.core(link, records),
        records,
        idle_poll_ticks=to_ticks(deployment.config.admission.idle_poll_s),
    )
    requests = jobs(deployment, replica.core.adapters.palette)
    most = deployment.config.client.max_concurrency
    try:
        simulate(env, [replica], requests, lambda _: replica, until, max_concurrency=most)
    except Exception as error:
        error.add_note(f"at {to_seconds(int(env.now)):g} s of the run with seed {deployment.config.seed}")
        raise
    return records


def jobs(deployment: Deployment, palette: list[AdapterSlot | None]) -> Iterator[Job]:
    """Yield the requests of the trace in order of arrival, each made when it is drawn."""
    reserves_predicted = deployment.options.reserve == "predicted"
    for request_id, (arrival, prompt, output, predicted, index) in enumerate(_rows(deployment)):
        slot = palette[index]
        adapter = None if slot is None else slot.adapter
        request = Request(request_id, to_seconds(arrival), prompt, predicted, adapter)
        yield Job(request, arrival, output, predicted if reserves_predicted else output, slot)


def _rows(deployment: Deployment) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield arrival tick, prompt, output and predicted tokens, palette index; plain ints, made a few rows at a time."""
    trace = deployment.trace
    arrivals = (trace.arrival_s * TICKS_PER_S).round().astype(int)
    columns = (arrivals, trace.prompt_tokens, trace.output_tokens, deployment.predicted_tokens, trace.adapter)
    for start in range(0, len(trace), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        yield from zip(*(column[rows].tolist() for column in columns), strict=True)


def _check_parallel(loaded: Loaded, model: Model) -> None:
    heads, gpus = gcd(model.heads, model.kv_heads), loaded.config.parallel.tensor
    if heads % gpus:
        key = ("parallel", "tensor")
        allowed = ", ".join(str(n) for n in range(1, heads + 1) if heads % n == 0)
        message = (
            f"{loaded.config.model} has {model.heads} heads and {model.kv_heads} of KV; {allowed} share them alike"
        )
        raise ConfigError([Problem(key, f"{message} (got {gpus})", find_mark(loaded.marks, key))])


def _check_client(loaded: Loaded) -> None:
    if loaded.config.client.max_concurrency is not None and loaded.config.replicas > 1:
        key = ("client", "max_concurrency")
        message = (
            f"replicas are simulated each in a time of its own: it needs replicas: 1, got {loaded.config.replicas}"
        )
        raise ConfigError([Problem(key, message, find_mark(loaded.marks, key))])


def _check_span(trace: Trace) -> None:
    last_s = float(trace.arrival_s.max(initial=0.0))
    if last_s > LONGEST_SPAN_S:
        first_s = float(trace.arrival_s.min())
        advice = "subtract the first stamp" if first_s > last_s / 2 else "ask for fewer requests or a higher rate"
        msg = (
            f"workload: {len(trace)} requests arrive from {first_s:.10g} to {last_s:.10g} s; at most "
            f"{LONGEST_SPAN_S:.3g} s can be simulated in picoseconds - {advice}"
        )
        raise ConfigError([msg])


def check_config(loaded: Loaded) -> None:
    """Build every part that a configuration names, without drawing its workload.

    Raises:
        ConfigError: if a policy or a size in the configuration is wrong.
        ValueError: if the hardware or the model is.
    """
    config = loaded.config
    problems = problems_of({seam: getattr(config, seam) for seam in SEAMS}, loaded.marks)
    card = load_hardware(config.hardware)
    try:
        memory_limits(config, parallel_of(config, card).as_one(card), load_model(config.model), None)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
