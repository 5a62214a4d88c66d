"""What a workload may be asked for: presets, options, and which of them do not go together. Nothing is drawn here.

Rates and counts of the presets are those of the Azure LLM Inference Dataset 2023 (github.com/Azure/AzurePublicDataset,
CC-BY-4.0; described in Splitwise, ISCA 2024; changed: summarised as statistics), of Chameleon (MICRO 2025) and of
S-LoRA (MLSys 2024).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sim.readers.prepare import TextTokens
from sim.workload.arrivals import Arrivals, TraceArrivals
from sim.workload.lengths import Lengths
from sim.workload.locality import Locality
from sim.workload.popularity import Popularity, RankZipfPopularity
from sim.workload.shorten import OverWindow

# not taken from the preset where a trace file brings lengths and stamps of its own
_OF_A_SYNTHETIC_RUN = ("rate_per_s", "requests", "scale", "lengths", "arrivals")


def _families(lengths: str, arrivals: str, popularity: str) -> dict[str, object]:
    return {"lengths": {"family": lengths}, "arrivals": {"family": arrivals}, "popularity": {"family": popularity}}


NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=False)]
TraceFormat = Literal[
    "canonical", "azure", "vidur", "mooncake", "bailian", "burstgpt", "splitwise-sim", "slora", "llmservingsim",
    "guidellm", "aiperf", "vllm", "servegen", "gentd26",
]  # fmt: skip
ABOUT_A_FILE = "format, zero_output, spread_ticks_s, time_scale, between_s, adapter_column and text_tokens"
NOT_BETWEEN = "ServeGen's rates are drawn from their start on; leave out between_s"
WITHOUT_LENGTHS = ("servegen", "gentd26")  # formats whose files may have no lengths

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
    format: TraceFormat | None = Field(default=None, description="format of the trace file; None recognises it")
    zero_output: Literal["drop", "clamp"] = Field(
        default="drop", description="whether the file's requests without output are dropped or get 1 token"
    )
    spread_ticks_s: float | None = Field(
        default=None,
        gt=0,
        description="grid of the file's stamps, s; its rows are spread inside their tick (Mooncake: 3)",
    )
    time_scale: float | None = Field(
        default=None, gt=0, description="factor on the file's own stamps: 2 halves the rate, bursts as they are"
    )
    between_s: Annotated[tuple[NotNegative, NotNegative], Field(strict=False)] | None = Field(
        default=None,
        description="only rows of the file that come in these seconds after its first that can be used, [from, to[, "
        "such as its busiest hour; `requests` counts what is left",
    )
    adapter_column: str | None = Field(
        default=None,
        min_length=1,
        description="column of the file to take as adapter ids, such as BurstGPT's `Model` or ServeGen's `client`",
    )
    text_tokens: TextTokens | None = Field(
        default=None,
        description="estimate of the tokens of texts: a word each, or 4 characters each; None refuses texts",
    )
    rate_per_s: float | None = Field(
        default=None, gt=0, description="requests per second; None with a trace file keeps the file's own stamps"
    )
    requests: int | None = Field(
        default=None, ge=1, le=10**9, description="requests to draw, or rows of the trace file to read at most"
    )
    scale: float = Field(
        default=1.0, ge=1e-4, description="both lengths are divided by this, then rounded, and are at least 1"
    )
    drop_over_tokens: int | None = Field(
        default=None, ge=2, description="drop requests whose input + output tokens, after scaling, are more than this"
    )
    truncate_tokens: int | None = Field(
        default=None,
        ge=2,
        description="cut input, then output, until input + output tokens, after scaling, are at most this",
    )
    lengths: Lengths | None = Field(
        default=None, description="how lengths are drawn; None with a trace file, unless its format has none"
    )
    arrivals: Arrivals | None = Field(
        default=None,
        description="how stamps are drawn; None with a trace file's own stamps, `trace` with those at another rate",
    )
    over_window: OverWindow = Field(
        default="serve",
        description="what becomes of requests whose input + output tokens, after scaling, exceed the model's context "
        "window: served as they are, dropped, or cut (input, then output); counted in the notes in any case",
    )
    adapters: int = Field(
        default=100, ge=0, le=10**7, description="number of adapters; 0: every request is for the base model"
    )
    ranks: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False)] = Field(
        default=(8, 16, 32, 64, 128), min_length=1, description="ranks, dealt to the adapters in turn"
    )
    popularity: Popularity = Field(default=RankZipfPopularity(), description="how often each adapter is asked for")
    base_share: float = Field(
        default=0.0, ge=0, le=1, description="share of requests without an adapter, drawn one by one"
    )
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
        if value is not None or key not in WorkloadConfig.model_fields:  # a misspelt key is told, whatever it is given
            filled[key] = _nested(filled.get(key), value)
    return filled


def _nested(default: object, value: object) -> object:
    """Return a nested option, with the preset's family and numbers where it names no family."""
    if isinstance(value, dict) and isinstance(default, dict) and "family" not in value:
        return {**default, **value}
    return value


def _contradictions(config: WorkloadConfig) -> list[tuple[bool, str]]:
    from_file = config.trace is not None
    without_rate = config.arrivals is not None and config.rate_per_s is None
    in_turn = config.popularity.family == "round_robin" and config.locality is not None
    return [
        *_contradictions_of_file(config),
        (without_rate, "arrivals need `rate_per_s`; without it the trace file's own stamps are used"),
        (
            config.time_scale is not None and config.rate_per_s is not None,
            "time_scale keeps the file's own stamps; leave it out, or `rate_per_s`",
        ),
        (
            config.adapters == 0 and config.locality is not None,
            "without adapters there is none to come back to; leave out `locality` or `adapters: 0`",
        ),
        (in_turn, "round_robin fixes the order of adapters; leave out `locality` or choose another popularity"),
        (
            isinstance(config.arrivals, TraceArrivals) and not from_file,
            "arrivals of the family `trace` need `trace`, the file whose stamps they are",
        ),
    ]


def _contradictions_of_file(config: WorkloadConfig) -> list[tuple[bool, str]]:
    from_file = config.trace is not None
    about_file = ("format", "spread_ticks_s", "time_scale", "between_s", "adapter_column", "text_tokens")
    file_only = config.zero_output != "drop" or any(getattr(config, option) is not None for option in about_file)
    first_s, last_s = config.between_s or (0.0, 1.0)
    has_lengths = from_file and config.format not in WITHOUT_LENGTHS
    return [
        (
            has_lengths and config.lengths is not None,
            "lengths come from the trace file; leave them out, or say `format: servegen` or `format: gentd26`",
        ),
        (
            file_only and not from_file,
            f"{ABOUT_A_FILE} need `trace`, the file that they are about",
        ),
        (first_s >= last_s, f"between_s is [{first_s:g}, {last_s:g}]; its first number must be below its second"),
        (
            config.between_s is not None and config.format == "servegen",
            NOT_BETWEEN,
        ),
    ]


PRESETS: dict[str, WorkloadConfig] = {name: WorkloadConfig.model_validate({"preset": name}) for name in _DEFAULTS}


def notes_to_tell(config: WorkloadConfig, notes: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """Return the notes of a trace that say more than its configuration does: rows touched, and gaps rescaled.

    A preset's own scale is no news: what was done for it is left out, as are notes about no row.
    """
    is_presets_scale = config.trace is None and config.scale == PRESETS[config.preset].scale
    own = ("lengths divided by ", "rows with a length clamped to 1 ") if is_presets_scale else ()
    return [(what, rows) for what, rows in notes if rows and not what.startswith(own)]
