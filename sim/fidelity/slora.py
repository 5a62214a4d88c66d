"""S-LoRA's own published runs on an A10G and an A100: rebuilt request by request, and served by our S-LoRA.

Source: S-LoRA/S-LoRA @ c1ddf48 (Apache-2.0), benchmarks/. Its workload is drawn from numpy's legacy generator with seed
42, so that every request of a run is known.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, NamedTuple, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from sim.config import Loaded, load_config
from sim.fidelity.fitting import PACKAGED, Trial
from sim.fidelity.load import capacity_per_s
from sim.fidelity.measures import Measure, region_of
from sim.fidelity.served import Served, again, compared, published, repeated, served
from sim.fidelity.tables import read_rows
from sim.files.yamltext import ConfigError
from sim.names import did_you_mean
from sim.trace import Trace
from sim.workload.making import slora_synthetic

FILE = "slora_a10g_a100_fit.csv"
SYSTEM = "slora-released"
# What a published pool left for the rest of the card is not known, but it fitted.
FITTED_THE_CARD = "memory.reserve_bytes=0"
SLO_S = 6.0  # of the first token
MIN_REQUESTS = 2
USUAL = (300.0, 8, 512, 8, 512)  # duration and length ranges of the published runs
_NAMED = re.compile(r"([a-z0-9_]+?)_(a10g|a100-40|a100-80)_(S\d+)_slora\b")

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Server(NamedTuple):
    """One of the settings that the runs' files are named after.

    Attributes:
        hardware: packaged profile.
        model: base model.
        ranks: dealt to the adapters in turn.
        pool_tokens: `max_total_token_num`.
    """

    hardware: str
    model: str
    ranks: tuple[int, ...]
    pool_tokens: int


SERVERS = {
    ("a10g", "S1"): Server("a10g", "llama-7b", (8,), 14_500),
    ("a10g", "S2"): Server("a10g", "llama-7b", (64, 32, 16, 8), 14_500),
    ("a100-80", "S2"): Server("a100-80", "llama-7b", (64, 32, 16, 8), 125_000),
    ("a100-80", "S4"): Server("a100-80", "llama-13b", (64, 32, 16), 65_000),
}


class RunRow(BaseModel):
    """One published run; columns as published, times in seconds."""

    model_config = ConfigDict(frozen=True)

    file: str
    num_adapters: Count
    alpha: Positive
    req_rate: Positive
    cv: Positive
    duration: Positive
    in_lo: Count
    in_hi: Count
    out_lo: Count
    out_hi: Count
    num_abort: Annotated[int, Field(ge=0)] = 0
    throughput: Positive
    avg_latency: Positive
    avg_first_token_latency: Positive
    avg_per_token_latency: Positive | None = None
    avg_per_output_token_latency: Positive | None = None
    avg_attainment: Annotated[float, Field(ge=0, le=1)] | None = None

    @model_validator(mode="after")
    def _has_requests(self) -> Self:
        if not (self.in_lo < self.in_hi and self.out_lo < self.out_hi):
            msg = (
                f"in_lo < in_hi and out_lo < out_hi are needed, got {self.in_lo, self.in_hi, self.out_lo, self.out_hi}"
            )
            raise ValueError(msg)
        if int(self.req_rate * self.duration) < MIN_REQUESTS:
            given = self.req_rate * self.duration
            msg = f"req_rate times duration must be {MIN_REQUESTS} requests at least, got {given:g}"
            raise ValueError(msg)
        return self


_DRAWN = ("num_adapters", "alpha", "req_rate", "cv", "duration", "in_lo", "in_hi", "out_lo", "out_hi")
PUBLISHED = tuple(list(RunRow.model_fields)[list(RunRow.model_fields).index("throughput") :])


@dataclass(frozen=True)
class SloraCase:
    """One run of one of the settings."""

    row: RunRow
    suite: str
    device: str
    setting: str
    repeat: int = 1  # of the same words

    @property
    def server(self) -> Server:
        """What served the run."""
        return SERVERS[self.device, self.setting]

    @property
    def set(self) -> str:
        """The published set."""
        return f"slora-{self.device}"

    @property
    def name(self) -> str:
        """The run, in words that no other of its set has."""
        row = self.row
        return (
            f"{self.suite} {self.setting}: {row.num_adapters} adapters, {row.req_rate:g} req/s, "
            f"alpha {row.alpha:g}, cv {row.cv:g}{_unusual(row)}{again(self.repeat)}"
        )

    @property
    def workload(self) -> object:
        """What tells the run's requests from those of other runs; some were measured twice."""
        return self.device, self.setting, self.row.model_dump(include=set(_DRAWN)).__repr__()

    @property
    def requests(self) -> int:
        """Requests of the run, and again for the capacity."""
        return 2 * int(self.row.req_rate * self.row.duration)

    @cached_property
    def trace(self) -> Trace:
        """The run's requests."""
        row = self.row
        lengths = (row.in_lo, row.in_hi), (row.out_lo, row.out_hi)
        return slora_synthetic(
            row.num_adapters, row.alpha, row.req_rate, row.cv, row.duration, *lengths, self.server.ranks
        )

    @cached_property
    def loaded(self) -> Loaded:
        """The configuration of the run's server."""
        server = self.server
        own = (f"hardware={server.hardware}", f"model={server.model}", f"memory.kv_pool_tokens={server.pool_tokens}")
        return load_config(SYSTEM, (*own, FITTED_THE_CARD))

    @property
    def published(self) -> dict[str, float]:
        """The run's numbers by name; those that were not published are left out."""
        return published(self.row, PUBLISHED)

    def simulated(self, trial: Trial = PACKAGED) -> dict[str, float]:
        """Return the run's numbers by published name, as its client would have taken them.

        Args:
            trial: the profile and the engine's costs; by default as packaged.
        """
        return _numbers(self.trace, served(self.loaded, self.trace, trial))

    def measures(self) -> list[Measure]:
        """Simulate the run and return its numbers beside the published ones."""
        region = region_of(self.row.req_rate / capacity_per_s(self.loaded, self.trace))
        return compared((self.set, self.name, region), self.published, self.simulated())


def cases(path: Path) -> list[SloraCase]:
    """Return the runs of a table.

    Args:
        path: a CSV file with the columns of `RunRow`.

    Raises:
        ConfigError: with one located line for everything that is wrong, settings that are not known among it.
        FileNotFoundError: if there is no such file.
    """
    found: list[SloraCase] = []
    problems: list[str] = []
    for number, row in enumerate(read_rows(path, RunRow), start=1):
        try:
            found.append(_case(row))
        except ValueError as error:
            problems.append(f"{path}: row {number}: {error}")
    if problems:
        raise ConfigError(problems)
    repeats = repeated([case.name for case in found])
    return [replace(case, repeat=repeat) for case, repeat in zip(found, repeats, strict=True)]


def _unusual(row: RunRow) -> str:
    own = (row.duration, row.in_lo, row.in_hi, row.out_lo, row.out_hi)
    if own == USUAL:
        return ""
    return f", {row.duration:g} s, {row.in_lo}-{row.in_hi} tokens in, {row.out_lo}-{row.out_hi} out"


def _case(row: RunRow) -> SloraCase:
    if row.num_abort:
        msg = f"num_abort: {row.num_abort} requests were aborted; only runs without aborts can be rebuilt"
        raise ValueError(msg)
    named = _NAMED.search(row.file)
    known = [f"{device}_{setting}" for device, setting in SERVERS]
    given = f"{named[2]}_{named[3]}" if named else row.file
    if named is None or given not in known:
        msg = f"file: no server is known for {given!r}{did_you_mean(given, known)} (known: {', '.join(known)})"
        raise ValueError(msg)
    return SloraCase(row, named[1].removeprefix("synthetic_"), named[2], named[3])


def _numbers(trace: Trace, run: Served) -> dict[str, float]:
    first_s = run.first_token_s - trace.arrival_s + run.api_s
    latency_s = run.finish_s - trace.arrival_s + run.api_s
    return {
        "throughput": len(trace) / float(run.finish_s.max() + run.api_s),
        "avg_latency": float(latency_s.mean()),
        "avg_first_token_latency": float(first_s.mean()),
        "avg_per_token_latency": float((latency_s / (trace.prompt_tokens + trace.output_tokens)).mean()),
        "avg_per_output_token_latency": float((latency_s / trace.output_tokens).mean()),
        "avg_attainment": float(np.mean(first_s < SLO_S)),
    }
