"""vLLM's published times per decode step on an H100, with and without LoRA, beside those of the cost model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sim.config import load_config
from sim.costs import CostModel, EngineCosts
from sim.fidelity.fitting import PACKAGED, Trial
from sim.fidelity.measures import NO_LOAD, Measure
from sim.fidelity.tables import read_rows
from sim.fidelity.vllm_server import HARDWARE, SYSTEM
from sim.hardware import load_hardware
from sim.models import ALL_MODULES, load_model
from sim.serving.ticks import to_seconds
from sim.slot_kernels import Slots

SET = "vllm-h100-microbench"
MODELS = {"llama": "llama-3.1-8b", "qwen": "qwen-2.5-7b"}
FITTED = "llama"  # its rows are the fit's; the other model is known by its dimensions alone
LORA_COSTS = ("kernel", "lora_token_s", "padded_share", "active_s", "distinct_s", "enabled_s", "slot_block_s")

Whole = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(gt=0)]


class MicroRow(BaseModel):
    """One row of vllm_lora_h100_microbench.csv.

    Attributes:
        set: what was varied.
        model: as published.
        max_loras, max_rank: slots and their rank; 0: LoRA is off.
        batch: sequences that decode together.
        active_adapters: adapters in use; 0: none.
        out_len: tokens that every sequence gets.
        itl_ms: mean time between tokens; None where the run failed.
        ttft_ms: mean time to the first token; mostly queueing, but for one sequence at a time.
    """

    model_config = ConfigDict(frozen=True)

    set: str
    model: Literal["llama", "qwen"]
    max_loras: Whole
    max_rank: Whole
    batch: Count
    active_adapters: Whole
    out_len: Count
    itl_ms: Annotated[float, Field(gt=0)] | None = None
    ttft_ms: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _has_slots_for_its_adapters(self) -> Self:
        if self.active_adapters > self.max_loras:
            msg = f"active_adapters: {self.active_adapters} are more than the {self.max_loras} slots of max_loras"
            raise ValueError(msg)
        return self

    @property
    def words(self) -> str:
        """Return what tells this row from others of the table."""
        lora = f"{self.active_adapters} adapters in {self.max_loras} slots of rank {self.max_rank}"
        told = lora if self.max_loras else "no LoRA"
        return f"{self.model}, {self.set}, {told}, batch {self.batch}, {self.out_len} tokens"


@dataclass(frozen=True)
class MicroCase:
    """One published decode time."""

    row: MicroRow

    @property
    def name(self) -> str:
        """The row, in words that no other of its set has."""
        return self.row.words

    @property
    def requests(self) -> int:
        """One: nothing is served."""
        return 1

    def measures(self) -> list[Measure]:
        """Return the step of the cost model beside the published time between tokens."""
        if self.row.itl_ms is None:
            return []
        name = f"{SET}-fit" if self.row.model == FITTED else SET
        return [Measure(name, self.row.words, NO_LOAD, "itl_ms", self.row.itl_ms, 1e3 * step_s(self.row))]


def micro_cases(path: Path) -> list[MicroCase]:
    """Return the published decode times; runs that failed are left out.

    Raises:
        ConfigError: if the table is wrong.
        FileNotFoundError: if there is none.
    """
    return [MicroCase(row) for row in read_rows(path, MicroRow) if row.itl_ms is not None]


def expected_distinct(adapters: int, batch: int) -> float:
    """Return how many distinct adapters a batch has on average, each request's being any of them."""
    return adapters * (1 - (1 - 1 / adapters) ** batch) if adapters else 0.0


def step_s(row: MicroRow, trial: Trial = PACKAGED) -> float:
    """Return seconds of a decode step in the middle of the answers; prompts were not published and count as nothing.

    Args:
        row: what decodes.
        trial: the profile and the engine's costs; by default as packaged.
    """
    costs = trial.engine or load_config(SYSTEM).config.costs
    engine = costs if row.max_loras else EngineCosts.model_validate(_without_lora(costs))
    gpu, model = trial.gpu or load_hardware(HARDWARE), load_model(MODELS[row.model])
    slots = Slots(row.max_loras, row.max_rank, ALL_MODULES)
    law = CostModel(gpu, model, engine, modules=ALL_MODULES, slots=slots)
    expected = expected_distinct(row.active_adapters, row.batch)
    below = int(expected)
    return _decode_s(law, row, below) + (expected - below) * (
        _decode_s(law, row, below + 1) - _decode_s(law, row, below)
    )


def _decode_s(law: CostModel, row: MicroRow, distinct: int) -> float:
    rank = row.max_rank if distinct else 0
    context = row.batch * row.out_len // 2
    return to_seconds(law.decode(row.batch, context, rank * row.batch, distinct, rank * distinct, rank).first)


def _without_lora(costs: EngineCosts) -> dict[str, object]:
    return {name: value for name, value in costs.model_dump().items() if name not in LORA_COSTS}
