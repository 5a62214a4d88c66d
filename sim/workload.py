"""Workloads: from a few declared numbers, or a trace file, to the `Trace` that is simulated; pure and seeded.

Rates and counts of the presets are those of the Azure LLM Inference Dataset 2023 (github.com/Azure/AzurePublicDataset,
CC-BY-4.0; described in Splitwise, ISCA 2024; changed: summarised as statistics), of Chameleon (MICRO 2025) and of
S-LoRA (MLSys 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from sim.arrivals import Arrivals, GammaArrivals
from sim.lengths import Lengths, UniformLengths, fitted, noted
from sim.locality import Locality, assign
from sim.popularity import Popularity, RankZipfPopularity, SloraPowerPopularity
from sim.readers import read_trace
from sim.trace import AdapterSpec, Trace

IntArray = npt.NDArray[np.int64]

# a name's place in this tuple is its stream for ever: add names at the end only
STREAMS = ("arrivals", "lengths", "ranks", "adapters", "prediction", "sessions", "drift")

# not taken from the preset where a trace file brings lengths and stamps of its own
_OF_A_SYNTHETIC_RUN = ("rate_per_s", "requests", "scale", "lengths", "arrivals")


def _families(lengths: str, arrivals: str, popularity: str) -> dict[str, object]:
    return {"lengths": {"family": lengths}, "arrivals": {"family": arrivals}, "popularity": {"family": popularity}}


_DEFAULTS: dict[str, dict[str, object]] = {
    # the whole conversation trace at the rate of Chameleon's run over time; the paper prints no length scale, and
    # 7 makes its service-level objective five times the mean latency at low load
    "paper": {"rate_per_s": 9.0, "requests": 19_366, "scale": 7.0, **_families("conv", "poisson", "rank_zipf")},
    # one hour at the rate of the data
    "azure-conv": {"rate_per_s": 5.53, "requests": 19_366, **_families("conv", "conv", "zipf")},
    "azure-code": {"rate_per_s": 2.57, "requests": 8_819, **_families("code", "code", "zipf")},
    # S-LoRA's default run on an A10G, setting S2: 2 requests/s for 300 s
    "uniform": {
        "rate_per_s": 2.0,
        "requests": 600,
        "adapters": 200,
        "ranks": (64, 32, 16, 8),
        **_families("uniform", "gamma", "slora_power"),
        "popularity": {"family": "slora_power", "by_index": True},
    },
}


def streams(seed: int) -> dict[str, np.random.Generator]:
    """Return a fresh generator for each name in `STREAMS`; each is independent of the others and of how many there are.

    Raises:
        ValueError: if the seed is negative.
    """
    return {
        name: np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=(place,)))
        for place, name in enumerate(STREAMS)
    }


class WorkloadConfig(BaseModel):
    """What is simulated; options not given are the preset's, and so is the family of a nested option without one."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    preset: Literal["paper", "azure-conv", "azure-code", "uniform"] = Field(
        default="paper",
        description="where options that are not given come from; `uniform` draws exactly as S-LoRA's own generator",
    )
    trace: Annotated[Path, Field(strict=False)] | None = Field(
        default=None, description="file whose lengths are used, in file order after sorting by time; None draws them"
    )
    format: Literal["canonical", "azure", "vidur", "mooncake"] | None = Field(
        default=None, description="format of the trace file; None recognises it"
    )
    zero_output: Literal["drop", "clamp"] = Field(
        default="drop", description="whether the file's requests without output are dropped or get 1 token"
    )
    spread_ticks_s: float | None = Field(
        default=None,
        gt=0,
        description="grid of the file's stamps, s; its rows are spread inside their tick (Mooncake: 3)",
    )
    rate_per_s: float | None = Field(
        default=None, gt=0, description="requests per second; None with a trace file keeps the file's own stamps"
    )
    requests: int | None = Field(
        default=None, ge=1, description="requests to draw, or rows of the trace file to read at most"
    )
    scale: float = Field(
        default=1.0, gt=0, description="both lengths are divided by this, then rounded, and are at least 1"
    )
    drop_over_tokens: int | None = Field(
        default=None, ge=2, description="drop requests whose input + output tokens, after scaling, are more than this"
    )
    truncate_tokens: int | None = Field(
        default=None,
        ge=2,
        description="cut input, then output, until input + output tokens, after scaling, are at most this",
    )
    lengths: Lengths | None = Field(default=None, description="how lengths are drawn; None with a trace file")
    arrivals: Arrivals | None = Field(
        default=None, description="how stamps are drawn; None with a trace file's own stamps"
    )
    adapters: int = Field(default=100, ge=1, description="number of adapters")
    ranks: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False)] = Field(
        default=(8, 16, 32, 64, 128), min_length=1, description="ranks, dealt to the adapters in turn"
    )
    popularity: Popularity = Field(default=RankZipfPopularity(), description="how often each adapter is asked for")
    locality: Locality | None = Field(default=None, description="sessions and drift; None draws adapters independently")

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: object) -> object:
        return _filled(given) if isinstance(given, dict) else given

    @model_validator(mode="after")
    def _options_agree(self) -> Self:
        for broken, text in _contradictions(self):
            if broken:
                raise ValueError(text)
        return self


def _filled(given: dict[str, object]) -> dict[str, object]:
    """Return the options with the preset's for those absent or None; the model refuses an unknown preset later."""
    preset = given.get("preset", "paper")
    defaults = _DEFAULTS.get(preset, {}) if isinstance(preset, str) else {}
    from_file = given.get("trace") is not None
    filled = {key: value for key, value in defaults.items() if not (from_file and key in _OF_A_SYNTHETIC_RUN)}
    if from_file and given.get("rate_per_s") is not None:
        filled["arrivals"] = {"family": "poisson"}
    for key, value in given.items():
        if value is not None:
            filled[key] = _nested(filled.get(key), value)
    return filled


def _nested(default: object, value: object) -> object:
    """Return a nested option, with the preset's family and numbers where it names no family."""
    if isinstance(value, dict) and isinstance(default, dict) and "family" not in value:
        return {**default, **value}
    return value


def _contradictions(config: WorkloadConfig) -> list[tuple[bool, str]]:
    from_file = config.trace is not None
    file_only = config.format is not None or config.spread_ticks_s is not None or config.zero_output != "drop"
    without_rate = config.arrivals is not None and config.rate_per_s is None
    in_turn = config.popularity.family == "round_robin" and config.locality is not None
    return [
        (from_file and config.lengths is not None, "lengths come from the trace file; leave out `lengths` or `trace`"),
        (
            file_only and not from_file,
            "format, zero_output and spread_ticks_s need `trace`, the file that they are about",
        ),
        (without_rate, "arrivals need `rate_per_s`; without it the trace file's own stamps are used"),
        (in_turn, "round_robin fixes the order of adapters; leave out `locality` or choose another popularity"),
    ]


PRESETS: dict[str, WorkloadConfig] = {name: WorkloadConfig.model_validate({"preset": name}) for name in _DEFAULTS}


def slora_synthetic(  # noqa: PLR0917 - the argument list of the generator that it repeats
    num_adapters: int,
    alpha: float,
    req_rate: float,
    cv: float,
    duration: float,
    input_range: tuple[int, int],
    output_range: tuple[int, int],
    ranks: Sequence[int],
    seed: int = 42,
) -> Trace:
    """Return S-LoRA's synthetic workload, bit-equal to its generator: int(req_rate * duration) requests.

    Args:
        num_adapters: how many, asked for by floor(num_adapters * U^(1/alpha)).
        alpha: 1 is uniform, less is skewed to the first.
        req_rate: requests per second.
        cv: coefficient of variation of the gamma gaps.
        duration: seconds.
        input_range: shortest prompt and one more than the longest, tokens.
        output_range: likewise for outputs.
        ranks: dealt to the adapters in turn.
        seed: of numpy's legacy generator; S-LoRA's is 42.

    Source: S-LoRA, benchmarks/trace.py (generate_requests).
    """
    gaps = (alpha, cv, req_rate, int(req_rate * duration))
    return _slora(_adapters(num_adapters, ranks), gaps, input_range, output_range, seed)


def _slora(
    palette: tuple[AdapterSpec, ...],
    laws: tuple[float, float, float, int],
    input_range: tuple[int, int],
    output_range: tuple[int, int],
    seed: int,
) -> Trace:
    alpha, cv, rate_per_s, requests = laws
    rng = np.random.RandomState(seed)
    # the order of these four draws is the definition of the workload
    adapter = (rng.power(alpha, requests) * len(palette)).astype(np.int64)
    prompt = rng.randint(*input_range, size=requests).astype(np.int64)
    output = rng.randint(*output_range, size=requests).astype(np.int64)
    arrival_s = np.cumsum(rng.gamma(1 / (cv * cv), cv * cv / rate_per_s, requests))
    return Trace("uniform", arrival_s, prompt, output, palette, adapter)


def _adapters(count: int, ranks: Sequence[int]) -> tuple[AdapterSpec, ...]:
    digits = len(str(count - 1))
    return tuple(AdapterSpec(f"lora-{index:0{digits}d}", ranks[index % len(ranks)]) for index in range(count))


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
    palette = _adapters(config.adapters, config.ranks)
    laws = (popularity.alpha, arrivals.cv, config.rate_per_s, config.requests)
    return _slora(palette, laws, lengths.input_range, lengths.output_range, seed)


def _lengths_only(config: WorkloadConfig, rng: np.random.Generator) -> Trace:
    if config.lengths is None or config.requests is None:
        msg = "a workload without a trace file needs `lengths` and `requests`"
        raise ValueError(msg)
    prompt, output = config.lengths.draw(config.requests, rng)
    nothing = np.zeros(len(prompt))
    return Trace(config.preset, nothing, prompt, output, (None,), nothing.astype(np.int64))


def _from_file(config: WorkloadConfig, path: Path, seed: int) -> Trace:
    return read_trace(
        path,
        format=config.format,
        zero_output=config.zero_output,
        limit=config.requests,
        spread_ticks_s=config.spread_ticks_s,
        seed=seed,
    )


def _with_arrivals(trace: Trace, config: WorkloadConfig, rng: np.random.Generator) -> Trace:
    """Return the trace with drawn stamps, or with its own where no rate is asked for."""
    if config.rate_per_s is None or config.arrivals is None:
        return trace
    return replace(trace, arrival_s=config.arrivals.draw(len(trace), config.rate_per_s, rng))


def _with_adapters(trace: Trace, config: WorkloadConfig, rngs: dict[str, np.random.Generator]) -> Trace:
    """Return the trace with adapters drawn for its rows, or with those that it names."""
    if any(trace.palette):
        return noted(trace, "rows that keep the adapter named in the trace; `popularity` is not used", len(trace))
    palette = _adapters(config.adapters, config.ranks)
    ranks = np.array([spec.rank for spec in palette], dtype=np.int64)
    adapter = assign(config.popularity, ranks, len(trace), config.locality, rngs)
    if config.locality is not None:
        trace = noted(trace, config.locality.note(config.rate_per_s), len(trace))
    return replace(trace, palette=palette, adapter=adapter)


def _fitted(trace: Trace, config: WorkloadConfig) -> Trace:
    return fitted(trace, config.scale, config.drop_over_tokens, config.truncate_tokens)


def make_trace(config: WorkloadConfig, seed: int) -> Trace:
    """Return the workload; pure and deterministic, and request i has the same lengths and adapter at every rate.

    Raises:
        TraceError: if the trace file cannot be read.
        ValueError: if options do not fit one another or the seed is out of range.
    """
    own = _as_slora(config, seed)
    if own is not None:
        return _fitted(own, config)
    rngs = streams(seed)
    source = _lengths_only(config, rngs["lengths"]) if config.trace is None else _from_file(config, config.trace, seed)
    return _with_adapters(_with_arrivals(_fitted(source, config), config, rngs["arrivals"]), config, rngs)
