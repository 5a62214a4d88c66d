"""Workloads: from a few declared numbers, or a trace file, to the `Trace` that is simulated; pure and seeded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from sim.models import Model
from sim.readers.reading import read_trace
from sim.readers.servegen import is_servegen
from sim.trace import Part, Trace
from sim.workload.adapters import with_adapters, with_base_share, without_any
from sim.workload.arrivals import GammaArrivals, TraceArrivals
from sim.workload.config import NOT_BETWEEN, PRESETS, WorkloadConfig, notes_to_tell
from sim.workload.lengths import UniformLengths
from sim.workload.popularity import SloraPowerPopularity
from sim.workload.shorten import between, fitted, windowed
from sim.workload.slora import Laws, dealt, slora_draw, slora_synthetic

__all__ = ["PRESETS", "STREAMS", "WorkloadConfig", "make_trace", "notes_to_tell", "slora_synthetic", "streams"]

# a name's place in this tuple is its stream for ever: add names at the end only
STREAMS = ("arrivals", "lengths", "ranks", "adapters", "prediction", "sessions", "drift", "base")


def streams(seed: int) -> dict[str, np.random.Generator]:
    """Return a fresh generator for each name in `STREAMS`; each is independent of the others and of how many there are.

    Raises:
        ValueError: if the seed is negative.
    """
    return {
        name: np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=(place,)))
        for place, name in enumerate(STREAMS)
    }


def _as_slora(config: WorkloadConfig, seed: int) -> Trace | None:
    """Return S-LoRA's own draw where the options leave its preset's families alone, else None."""
    popularity, arrivals, lengths = config.popularity, config.arrivals, config.lengths
    if (
        config.preset != "uniform"
        or config.locality is not None
        or not (isinstance(popularity, SloraPowerPopularity) and popularity.by_index)
        or not (isinstance(arrivals, GammaArrivals) and not arrivals.vllm_normalized)
        or not isinstance(lengths, UniformLengths)
        or config.rate_per_s is None
        or config.requests is None
    ):
        return None
    palette = dealt(config.adapters, config.ranks)
    laws = Laws(popularity.alpha, arrivals.cv, config.rate_per_s, config.requests)
    return slora_draw(palette, laws, lengths.input_range, lengths.output_range, seed)


def _lengths_only(config: WorkloadConfig, rng: np.random.Generator) -> Trace:
    if config.lengths is None or config.requests is None:
        msg = "a workload without a trace file needs `lengths` and `requests`"
        raise ValueError(msg)
    prompt, output = config.lengths.draw(config.requests, rng)
    nothing = np.zeros(len(prompt))
    lacks: frozenset[Part] = frozenset({"arrivals", "adapters"})
    return Trace(config.preset, nothing, prompt, output, (None,), nothing.astype(np.int64), lacks=lacks)


def _from_file(config: WorkloadConfig, path: Path, rng: np.random.Generator, seed: int) -> Trace:
    if config.between_s is not None and config.format is None and is_servegen(path):
        raise ValueError(NOT_BETWEEN)
    trace = read_trace(
        path,
        format=config.format,
        zero_output=config.zero_output,
        limit=config.requests if config.between_s is None else None,
        spread_ticks_s=config.spread_ticks_s,
        adapter_column=config.adapter_column,
        text_tokens=config.text_tokens,
        ranks=config.ranks,
        seed=seed,
    )
    if config.between_s is not None:
        trace = between(trace, *config.between_s, config.requests)
    return _with_lengths(trace, config, rng)


def _with_lengths(trace: Trace, config: WorkloadConfig, rng: np.random.Generator) -> Trace:
    """Return the trace with lengths drawn if its file has none; these are never set aside for others."""
    if ("lengths" in trace.lacks) != (config.lengths is not None):
        has = "has lengths of its own; leave out `lengths`"
        lacks = "has no token counts; say `lengths: conv`, or another family, and its `format`"
        msg = f"{config.trace} {has if config.lengths else lacks}"
        raise ValueError(msg)
    if config.lengths is None:
        return trace
    prompt, output = config.lengths.draw(len(trace), rng)
    drawn = replace(trace, prompt_tokens=prompt, output_tokens=output, lacks=trace.lacks - {"lengths"})
    return drawn.noted(f"rows with lengths drawn from {config.lengths.family}, because the file has none", len(trace))


def _with_arrivals(trace: Trace, config: WorkloadConfig, rng: np.random.Generator) -> Trace:
    """Return the trace with drawn stamps, or with its own, stretched where that is asked for."""
    if "arrivals" in trace.lacks and (config.rate_per_s is None or isinstance(config.arrivals, TraceArrivals)):
        msg = f"{config.trace} has no stamps; say `rate_per_s`, and how arrivals are drawn if not as Poisson"
        raise ValueError(msg)
    if config.rate_per_s is None or config.arrivals is None:
        return trace if config.time_scale is None else stretched(trace, config.time_scale)
    if isinstance(config.arrivals, TraceArrivals):
        return stretched(trace, config.arrivals.factor(trace.arrival_s, config.rate_per_s))
    arrival_s = config.arrivals.draw(len(trace), config.rate_per_s, rng)
    drawn = replace(trace, arrival_s=arrival_s, lacks=trace.lacks - {"arrivals"})
    if config.trace is None or "arrivals" in trace.lacks:
        return drawn
    told = f"rows with stamps drawn anew ({config.arrivals.family}); workload.arrivals=trace stretches the file's own"
    return drawn.noted(told, len(trace))


def stretched(trace: Trace, factor: float) -> Trace:
    """Return the trace with its stamps times a factor, noted with the rate that comes of it."""
    longer = replace(trace, arrival_s=trace.arrival_s * factor)
    span_s = float(longer.arrival_s[-1] - longer.arrival_s[0])
    rate = f", {(len(trace) - 1) / span_s:.4g} requests/s" if span_s else ""
    return longer.noted(f"the trace's own stamps times {factor:.6g}{rate}", len(trace))


def _fitted(trace: Trace, config: WorkloadConfig) -> Trace:
    return fitted(trace, config.scale, config.drop_over_tokens, config.truncate_tokens)


def _in_window(trace: Trace, config: WorkloadConfig, model: Model | None) -> Trace:
    """Hold a finished workload against a model's window, last of all: what two models can take, both of them get."""
    if model is not None:
        return windowed(trace, model, config.over_window)
    if config.over_window != "serve":
        msg = f"over_window is {config.over_window!r}, and no model with a context window is given"
        raise ValueError(msg)
    return trace


def make_trace(config: WorkloadConfig, seed: int, model: Model | None = None) -> Trace:
    """Return the workload; pure and deterministic, and request i has the same lengths and adapter at every rate.

    Args:
        config: what is asked for.
        seed: of every draw.
        model: whose context window requests are held against; None leaves that out.

    Raises:
        TraceError: if the trace file cannot be read.
        ValueError: if options do not fit one another or the seed is out of range.
    """
    return _in_window(_unlimited(config, seed), config, model)


def _unlimited(config: WorkloadConfig, seed: int) -> Trace:
    rngs = streams(seed)
    own = _as_slora(config, seed)
    if own is not None:
        own = _fitted(own, config)
        return with_base_share(own, config.base_share, rngs["base"]) if config.adapters else without_any(own)
    source = (
        _lengths_only(config, rngs["lengths"])
        if config.trace is None
        else _from_file(config, config.trace, rngs["lengths"], seed)
    )
    return with_adapters(_with_arrivals(_fitted(source, config), config, rngs["arrivals"]), config, rngs)
