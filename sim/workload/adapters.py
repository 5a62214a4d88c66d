"""Which rows of a workload ask for which adapter: named in its source, drawn, or none at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from sim.trace import Trace
from sim.workload.config import WorkloadConfig
from sim.workload.locality import assign
from sim.workload.slora import dealt

Streams = Mapping[str, np.random.Generator]


def with_adapters(trace: Trace, config: WorkloadConfig, rngs: Streams) -> Trace:
    """Return the trace with adapters drawn for its rows, or with those that it names, be it none.

    Args:
        trace: if it lacks adapters they are drawn.
        config: how many, how popular, and which share of requests has none.
        rngs: uses the children adapters, ranks, sessions, drift and base.

    Raises:
        ValueError: if a share of base requests is asked for of a trace that says which requests those are.
    """
    if not config.adapters:
        return without_any(trace)
    if "adapters" not in trace.lacks:
        return _as_named(trace, config)
    return with_base_share(_drawn(trace, config, rngs), config.base_share, rngs["base"])


def without_any(trace: Trace) -> Trace:
    """Return the trace with every request for the base model, whatever it names."""
    nothing = np.zeros(len(trace), dtype=np.int64)
    bare = replace(trace, palette=(None,), adapter=nothing, lacks=trace.lacks - {"adapters"})
    return bare.noted("rows for the base model, as `adapters: 0` asks", len(trace))


def with_base_share(trace: Trace, share: float, rng: np.random.Generator) -> Trace:
    """Return the trace with this share of its requests, drawn one by one, for the base model; the others as before."""
    if not share:
        return trace
    base = rng.random(len(trace)) < share
    palette, adapter = (*trace.palette, None), np.where(base, len(trace.palette), trace.adapter)
    what = f"rows for the base model, as `base_share: {share:g}` asks"
    return replace(trace, palette=palette, adapter=adapter).noted(what, base.sum())


def _as_named(trace: Trace, config: WorkloadConfig) -> Trace:
    if config.base_share:
        msg = f"base_share is {config.base_share:g}, but the trace itself says which requests are for the base model"
        raise ValueError(msg)
    if any(trace.palette):
        return trace.noted("rows that keep the adapter named in the trace; `popularity` is not used", len(trace))
    return trace.noted("rows for the base model, as the trace names no adapter in its column of adapters", len(trace))


def _drawn(trace: Trace, config: WorkloadConfig, rngs: Streams) -> Trace:
    palette = dealt(config.adapters, config.ranks)
    ranks = np.array([spec.rank for spec in palette], dtype=np.int64)
    adapter = assign(config.popularity, ranks, len(trace), config.locality, rngs)
    if config.locality is not None:
        trace = trace.noted(config.locality.note(config.rate_per_s), len(trace))
    return replace(trace, palette=palette, adapter=adapter, lacks=trace.lacks - {"adapters"})
