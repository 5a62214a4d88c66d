"""What one run is: engine, policies, workload, GPU and model. Every key that a YAML file may hold is here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from sim.costs import EngineCosts
from sim.models import DEFAULT_MODULES
from sim.names import POLICY_SEAMS
from sim.workload import WorkloadConfig
from sim.yamlfile import ConfigError, KeyPath, Mark, Marks, find, folder_of, load, set_values, validate

Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Unknown keys are errors; instances do not change."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Admission(Section):
    """When and how requests join the batch."""

    every_steps: int = Field(1, ge=0, description="decode steps between admission rounds")
    reserve: Literal["peak"] = Field(
        "peak", description="peak: S-LoRA's test that KV cannot overflow if all run to their end"
    )
    idle_poll_s: float = Field(0.0, ge=0, description="an empty engine looks for work only this often; 0: at once")


class Limits(Section):
    """Caps on a batch."""

    running_requests: Count = Field(1000, description="admitted requests at once")
    batch_prompt_tokens: Count | None = Field(
        None,
        description="prompt tokens of one prefill; None: a sixth of the pool, at least 3072 and any one prompt",
    )
    distinct_adapters: Count | None = Field(None, description="distinct adapters of admitted requests; None: no limit")


class Memory(Section):
    """How much of the GPU serves KV."""

    kv_pool_tokens: Count | None = Field(None, description="tokens of the KV pool; None: all memory that is left over")
    reserve_bytes: int | None = Field(
        None, ge=0, description="activations and the like; None: as the hardware profile says"
    )


class Adapters(Section):
    """Where adapters live on the GPU."""

    memory: Literal["unified", "idle", "reserved"] = Field(
        "unified",
        description="unified: inside the KV pool; idle: in memory that KV leaves over; reserved: a region of its own",
    )
    reserved_bytes: int | None = Field(
        None, ge=1, description="size of the reserved region; only with memory: reserved"
    )
    modules: tuple[str, ...] = Field(
        DEFAULT_MODULES, min_length=1, description="projections that every adapter targets"
    )


class Loading(Section):
    """How an adapter gets from host memory to the GPU."""

    mode: Literal["blocking", "overlapped"] = Field(
        "blocking",
        description="blocking: the engine stands still until it is there; overlapped: others go on meanwhile",
    )
    copies: float = Field(1.0, gt=0, description="bytes moved over the link per adapter byte (the released S-LoRA: 2)")
    ops_per_layer: int = Field(1, ge=0, description="copy operations issued per layer")


def _spelt_out(given: object) -> object:
    return {"kind": given} if isinstance(given, str) else given


PolicySpec = Annotated[dict[str, Any], BeforeValidator(_spelt_out)]


class RunConfig(Section):
    """A system and what it serves."""

    name: str = Field(description="what the system is called in results")
    description: str = Field("", description="one sentence on what it is")
    source: str = Field("", description="paper or code that its rules come from")
    admission: Admission = Admission()
    limits: Limits = Limits()
    memory: Memory = Memory()
    adapters: Adapters = Adapters()
    loading: Loading = Loading()
    costs: EngineCosts = EngineCosts()
    scheduler: PolicySpec = Field({"kind": "fcfs"}, description="who joins the batch")
    cache: PolicySpec = Field({"kind": "lru"}, description="which idle adapters leave")
    prefetch: PolicySpec = Field({"kind": "none"}, description="which adapters come ahead of need")
    predictor: PolicySpec = Field({"kind": "confusion"}, description="output lengths as policies see them")
    workload: WorkloadConfig = WorkloadConfig.model_validate({})
    hardware: str = Field("a40", description="packaged profile, or the path of one")
    model: str = Field("llama-7b", description="base model")
    seed: int = Field(0, ge=0, description="the same seed draws the same workload for every system and load")
    ttft_slo_s: float = Field(5.0, gt=0, description="service-level objective for time to first token")


class Loaded(NamedTuple):
    """A configuration and where each of its values stood, for errors found later."""

    config: RunConfig
    marks: Marks


def load_config(
    system: str | Path,
    assignments: Sequence[str] = (),
    extra: dict[str, Any] | None = None,
    *,
    marks_arguments: bool = False,
) -> Loaded:
    """Return the configuration of a packaged system or of a file, with changes on top.

    Args:
        system: a packaged name such as "chameleon", or a path.
        assignments: texts such as "cache.kind=lru".
        extra: values by top-level key, laid over the file and under the assignments; None values are left out.
        marks_arguments: whether a wrong value of `extra` is told as such, and not where the file has its key.

    Raises:
        ConfigError: with one located line for everything that is wrong.
    """
    document = load(find(str(system)) if isinstance(system, str) else system)
    tree = _overlaid(document.tree, extra or {})
    marks = document.marks | (_argument_marks(extra or {}) if marks_arguments else {})
    document = set_values(tree, assignments, marks)
    config = validate(RunConfig, document.tree, document.marks)
    return Loaded(config.model_copy(update=_anchored(config, document.marks)), document.marks)


def _anchored(config: RunConfig, marks: Marks) -> dict[str, PolicySpec]:
    """Return the policies from files, their paths made absolute, so that a resolved configuration can lie anywhere."""
    anchored = {}
    for seam in POLICY_SEAMS:
        spec = getattr(config, seam)
        kind = spec.get("kind")
        if isinstance(kind, str) and ".py:" in kind:
            anchored[seam] = {**spec, "kind": str((folder_of(marks, (seam, "kind")) / kind).absolute())}
    return anchored


def _argument_marks(extra: dict[str, Any], path: KeyPath = ()) -> Marks:
    marks: Marks = {}
    for key, value in extra.items():
        if isinstance(value, dict):
            marks |= _argument_marks(value, (*path, key))
        elif value is not None:
            marks[*path, key] = Mark(f"{key}={value!r}")
    return marks


def _overlaid(tree: Any, extra: dict[str, Any]) -> Any:
    """Return a tree with nested values that are not None laid on top."""
    if not isinstance(tree, dict):
        raise ConfigError([f"a system file must hold a mapping of keys to values, got {type(tree).__name__}"])
    merged = dict(tree)
    for key, value in extra.items():
        if isinstance(value, dict):
            merged[key] = _overlaid(merged.get(key) or {}, value)
        elif value is not None:
            merged[key] = value
    return merged
