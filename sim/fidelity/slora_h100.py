"""S-LoRA on an H100 with 64 GB, as others ran it: 32 adapters of rank 32, fixed lengths, five rates.

Source: FerranAgulloLopez/GPULLMAdapterOptimizationSLoRA @ c5feb1f (Apache-2.0). The card is inferred. Times are by
requests that came through: means and 99th percentiles of the first token contain stuck clients and are not compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from sim.config import Loaded, load_config
from sim.fidelity.fitting import PACKAGED, Trial
from sim.fidelity.load import capacity_per_s
from sim.fidelity.measures import Measure, region_of
from sim.fidelity.served import again, compared, published, repeated, served
from sim.fidelity.slora import FITTED_THE_CARD, MIN_REQUESTS, SYSTEM
from sim.fidelity.tables import read_rows
from sim.trace import AdapterSpec, Trace

FILE = "slora_h100_32_adapters.csv"
SET = "slora-h100"
RANK = 32
PROMPT_TOKENS, OUTPUT_TOKENS = 250, 230
POOL_TOKENS = 82_528
PREPARED, WINDOW_S = 1.2, 1200  # so many times the requests of so many seconds were sent
SEED = 0  # the published one's is not known
SAME_LENGTH = 0.02  # some requests failed, and their tokens are missing in the means
SERVER = ("hardware=h100-64", "model=llama-2-7b", f"memory.kv_pool_tokens={POOL_TOKENS}", FITTED_THE_CARD)

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class RunRow(BaseModel):
    """One published run; columns as published."""

    model_config = ConfigDict(frozen=True)

    n_lora: Annotated[int, Field(ge=1)]
    rate_per_lora: Positive
    req_thr: Positive
    ttft_p50_ms: Positive
    tpot_mean_ms: Positive
    itl_mean_ms: Positive | None = None
    in_tok_mean: Positive | None = None
    out_tok_mean: Positive | None = None

    @model_validator(mode="after")
    def _is_of_the_published_kind(self) -> Self:
        for name, given, built in (
            ("in_tok_mean", self.in_tok_mean, PROMPT_TOKENS), ("out_tok_mean", self.out_tok_mean, OUTPUT_TOKENS),
        ):  # fmt: skip
            if given is not None and abs(given / built - 1) > SAME_LENGTH:
                msg = f"{name}: every request of these runs has {built} tokens, got a mean of {given:g}"
                raise ValueError(msg)
        if PREPARED * WINDOW_S * self.n_lora * self.rate_per_lora < MIN_REQUESTS:
            msg = (
                f"n_lora times rate_per_lora: {MIN_REQUESTS} requests at least are needed in {PREPARED * WINDOW_S:g} s"
            )
            raise ValueError(msg)
        return self


PUBLISHED = ("req_thr", "ttft_p50_ms", "tpot_mean_ms", "itl_mean_ms")


@dataclass(frozen=True)
class H100Case:
    """One run."""

    row: RunRow
    repeat: int = 1  # of the same words

    @property
    def set(self) -> str:
        """The published set."""
        return SET

    @property
    def rate_per_s(self) -> float:
        """Offered requests per second."""
        return self.row.n_lora * self.row.rate_per_lora

    @property
    def name(self) -> str:
        """The run, in words that no other of its set has."""
        return f"{self.row.n_lora} adapters, {self.rate_per_s:.3g} req/s{again(self.repeat)}"

    @property
    def workload(self) -> object:
        """What tells the run's requests from those of other runs."""
        return self.row.n_lora, self.row.rate_per_lora

    @property
    def requests(self) -> int:
        """Requests of the run, without those for the capacity."""
        return int(PREPARED * self.rate_per_s * WINDOW_S)

    @cached_property
    def trace(self) -> Trace:
        """The run's requests: one Poisson stream, adapters dealt evenly and shuffled."""
        rng = np.random.default_rng(SEED)
        count, adapters = self.requests, self.row.n_lora
        return Trace(
            self.name,
            np.cumsum(rng.exponential(1 / self.rate_per_s, count)),
            np.full(count, PROMPT_TOKENS),
            np.full(count, OUTPUT_TOKENS),
            tuple(AdapterSpec(f"lora-{index}", RANK) for index in range(adapters)),
            rng.permutation(np.arange(count) % adapters),
        )

    @cached_property
    def loaded(self) -> Loaded:
        """The configuration of the run's server."""
        return load_config(SYSTEM, SERVER)

    @property
    def published(self) -> Mapping[str, float]:
        """The run's numbers by name; those that were not published are left out."""
        return published(self.row, PUBLISHED)

    def simulated(self, trial: Trial = PACKAGED) -> dict[str, float]:
        """Return the run's numbers by published name, as its client would have taken them.

        Args:
            trial: the profile and the engine's costs; by default as packaged.
        """
        run = served(self.loaded, self.trace, trial)
        gap_ms = 1e3 * float(np.mean(run.finish_s - run.first_token_s)) / (OUTPUT_TOKENS - 1)
        return {
            "req_thr": len(self.trace) / float(run.finish_s.max() + run.api_s),
            "ttft_p50_ms": 1e3 * float(np.median(run.first_token_s - self.trace.arrival_s) + run.api_s),
            "tpot_mean_ms": gap_ms,
            "itl_mean_ms": gap_ms,  # all outputs are of one length, so both means are the same
        }

    def region(self) -> str:
        """Return the region of its load."""
        return region_of(self.rate_per_s / capacity_per_s(self.loaded, self.trace))

    def measures(self) -> list[Measure]:
        """Simulate the run and return its numbers beside the published ones."""
        return compared((self.set, self.name, self.region()), self.published, self.simulated())


def cases(path: Path) -> list[H100Case]:
    """Return the runs of a table.

    Args:
        path: a CSV file with the columns of `RunRow`.

    Raises:
        ConfigError: with one located line for everything that is wrong.
        FileNotFoundError: if there is no such file.
    """
    found = [H100Case(row) for row in read_rows(path, RunRow)]
    repeats = repeated([case.name for case in found])
    return [replace(case, repeat=repeat) for case, repeat in zip(found, repeats, strict=True)]
