"""Rows of vLLM's published server runs with LoRA: what was served, how it was set up, what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from sim.fidelity.tables import read_rows
from sim.files.yamltext import ConfigError

Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

METRICS = ("rps", "ttft_p50", "ttft_p99", "ttft_mean", "tpot_mean", "itl_mean", "itl_p99")


class Server(NamedTuple):
    """What the rows of one published model have in common.

    Attributes:
        set: the name of their set.
        model: our name of the model.
        fixed_lengths: prompt and output tokens of every request; None: drawn.
        first_load_s: of an adapter of rank 16 into host memory, at its first request.
        system: of ours that stands for the server.
        changes: to that system.
    """

    set: str
    model: str
    fixed_lengths: tuple[int, int] | None
    first_load_s: float
    system: str
    changes: tuple[str, ...] = ()


# The authors logged 263 ms for a first load from disk at rank 16, and 83 ms from the host's page cache. The servers of
# Llama-3.1-8B start with their adapters on disk. Those of Llama-2-7B show no cost of slots and prompts that go first,
# as vLLM before 0.8 has it (V0); their first loads were fitted (`sim.fidelity.vllm_v0_fit`). 4096 tokens: its context.
SERVERS = {
    "llama-3.1-8b-instruct": Server("vllm-lora-h100-8b", "llama-3.1-8b", None, 0.263, "vllm"),
    "llama-2-7b": Server(
        "vllm-lora-h100-7b", "llama-2-7b", (250, 231), 0.187, "vllm-v0", ("limits.batch_prompt_tokens=4096",)
    ),
}
SAME_LENGTH = 0.05  # answers under way at the end of the window are missing in the means
RANK = 16  # of all rows with rates; how long a first load takes is known for it


class RunRow(BaseModel):
    """One server run of vllm_lora_h100_runs.csv.

    Attributes:
        model: as published.
        max_loras: adapter slots on the GPU; None, as further settings below, where it was not recorded.
        max_cpu_loras: adapters that the host keeps; None: as many as there are slots, which is vLLM's default.
        max_lora_rank: rank of a slot.
        n_adapters: adapters that receive traffic; None where no rates were published.
        rates: requests/s per adapter, dealt round-robin to the adapters; empty where they were not published.
        ok: requests that were complete at the end of the window.
        dur: the window, s.
        in_tok, out_tok: tokens of those requests.
        rps: ok / dur.
        ttft_p50, ttft_p99, ttft_mean, tpot_mean, itl_mean: ms, over those requests.
        itl_p99: ms, over their gaps; None where it was not measured.
    """

    model_config = ConfigDict(frozen=True)

    model: Literal["llama-3.1-8b-instruct", "llama-2-7b"]
    max_loras: Count | None = None
    max_cpu_loras: Count | None = None
    max_lora_rank: Count | None = None
    n_adapters: Count | None = None
    rates: tuple[Positive, ...] = ()
    ok: Count
    dur: Positive
    in_tok: Count
    out_tok: Count
    rps: Positive
    ttft_p50: Positive
    ttft_p99: Positive
    ttft_mean: Positive
    tpot_mean: Positive
    itl_mean: Positive
    itl_p99: Positive | None = None

    @field_validator("rates", mode="before")
    @classmethod
    def _split(cls, given: Any) -> Any:
        return tuple(given.split(",")) if isinstance(given, str) else given

    @model_validator(mode="after")
    def _has_the_lengths_of_its_model(self) -> Self:
        fixed = self.server.fixed_lengths
        means = (self.in_tok / self.ok, self.out_tok / self.ok)
        if self.rates and fixed and any(abs(a / b - 1) > SAME_LENGTH for a, b in zip(means, fixed, strict=True)):
            told = f"{means[0]:.4g} in and {means[1]:.4g} out"
            msg = f"{self.model}'s requests have {fixed[0]} tokens in and {fixed[1]} out, got means of {told}"
            raise ValueError(msg)
        return self

    @property
    def server(self) -> Server:
        """Return which of our models and sets the run belongs to."""
        return SERVERS[self.model]

    @property
    def slots(self) -> int:
        """Return the adapter slots of a rated run."""
        return self.max_loras or 1

    @property
    def rank(self) -> int:
        """Return the rank of its slots and adapters."""
        return self.max_lora_rank or 1

    @property
    def dealt_per_s(self) -> tuple[float, ...]:
        """Return the rate of each adapter, before they are shuffled."""
        return tuple(islice(cycle(self.rates), self.n_adapters or 0))

    @property
    def offered_per_s(self) -> float:
        """Return the offered load; where the rates do not divide the adapters, the first ones weigh more."""
        return sum(self.dealt_per_s)

    @property
    def arrivals(self) -> int:
        """Return about how many requests come in the window."""
        return round(self.offered_per_s * self.dur)

    @property
    def words(self) -> str:
        """Return what tells this run from others of its set."""
        rates = "/".join(f"{rate:g}" for rate in self.rates)
        kept = f", {self.max_cpu_loras} kept by the host" if self.max_cpu_loras else ""
        return f"{self.n_adapters} adapters, {self.max_loras} slots, {rates} req/s each{kept}"


@dataclass(frozen=True)
class OneRun:
    """A server run by itself: what is kept of it, and how much work it is.

    Attributes:
        row: the run.
    """

    row: RunRow

    @property
    def name(self) -> str:
        """The run, in words that no other of its set has."""
        return self.row.words

    @property
    def requests(self) -> int:
        """About how many requests it simulates."""
        return self.row.arrivals


def rated_rows(path: Path) -> list[RunRow]:
    """Return the rows that say how fast each adapter's requests came; the others cannot be rebuilt and are left out.

    All of them have slots and adapters of rank 16.

    Raises:
        ConfigError: if the table is wrong.
        FileNotFoundError: if there is none.
    """
    rows = read_rows(path, RunRow)
    found = [row for row in rows if row.rates and row.n_adapters and row.max_loras and row.max_lora_rank == RANK]
    if not found:
        msg = f"{path}: none of {len(rows)} rows has rates, n_adapters, max_loras and max_lora_rank {RANK}"
        raise ConfigError([f"{msg}: nothing can be rebuilt"])
    return found
