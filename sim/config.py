"""What one run is: engine, policies, workload, GPU and model. Every key that a YAML file may hold is here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field, PlainSerializer

from sim.costs import EngineCosts
from sim.files.yamlfile import ConfigError, KeyPath, Mark, Marks, find, folder_of, load, set_values, validate
from sim.mechanism import Adapters, Admission, Limits, LoadGenerator, Loading, Memory, Parallelism, Section
from sim.names import SEAMS
from sim.plugins.named import problems_of
from sim.serving.options import PrefillMode
from sim.workload.making import WorkloadConfig

Count = Annotated[int, Field(ge=1)]


def _spelt_out(given: object) -> object:
    is_no_policy = given is None or isinstance(given, Mapping | list | tuple | bool | int | float)
    return given if is_no_policy else {"kind": given}


def _by_name(spec: dict[str, Any]) -> dict[str, Any]:
    """Return what can be written down of a policy that was given as a class or an instance: its class's path."""
    kind = spec.get("kind")
    if kind is None or isinstance(kind, str):
        return spec
    cls = kind if isinstance(kind, type) else type(kind)
    return {**spec, "kind": f"{cls.__module__}:{cls.__qualname__}"}


# In files a name, or a mapping of kind and parameters; in Python also a class or an instance.
PolicySpec = Annotated[dict[str, Any], BeforeValidator(_spelt_out), PlainSerializer(_by_name, when_used="json")]


class RunConfig(Section):
    """A system and what it serves."""

    name: str = Field(description="what the system is called in results")
    description: str = Field("", description="one sentence on what it is")
    source: str = Field("", description="paper or code that its rules come from")
    admission: Admission = Admission()
    prefill: PrefillMode = Field(
        "separate",
        description="separate: decode pauses; mixed: whole prompts beside decode; chunked: up to limits.step_tokens",
    )
    limits: Limits = Limits()
    memory: Memory = Memory()
    adapters: Adapters = Adapters()
    loading: Loading = Loading()
    parallel: Parallelism = Parallelism()
    costs: EngineCosts = EngineCosts()
    scheduler: PolicySpec = Field({"kind": "fcfs"}, description="who joins the batch")
    cache: PolicySpec = Field({"kind": "lru"}, description="which idle adapters leave")
    prefetch: PolicySpec = Field({"kind": "none"}, description="which adapters come ahead of need")
    predictor: PolicySpec = Field({"kind": "confusion"}, description="output lengths as policies see them")
    replicas: int = Field(1, ge=1, le=1000, description="engines alike, each with its own GPU, link and policies")
    router: PolicySpec = Field({"kind": "round-robin"}, description="which replica serves a request")
    client: LoadGenerator = LoadGenerator()
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
    # As in files, a policy's name becomes its `kind` here, so that assignments can add parameters to it.
    laid = {key: _spelt_out(value) if key in SEAMS else value for key, value in (extra or {}).items()}
    tree = _overlaid(document.tree, laid)
    marks = document.marks | (_argument_marks(extra or {}) if marks_arguments else {})
    document = set_values(tree, assignments, marks)
    try:
        config = validate(RunConfig, document.tree, document.marks)
    except ConfigError as error:
        raise ConfigError([*error.problems, *problems_of(document.tree, document.marks)]) from error.__cause__
    return Loaded(config.model_copy(update=_anchored(config, document.marks)), document.marks)


def _anchored(config: RunConfig, marks: Marks) -> dict[str, PolicySpec]:
    """Return the policies from files, their paths made absolute, so that a resolved configuration can lie anywhere."""
    anchored = {}
    for seam in SEAMS:
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
        if isinstance(value, dict) and not _is_of_another_kind(value, merged.get(key)):
            merged[key] = _overlaid(merged.get(key) or {}, value)
        elif value is not None:
            merged[key] = value
    return merged


def _is_of_another_kind(value: dict[str, Any], known: Any) -> bool:
    """Whether a mapping names another policy than the one before, whose parameters then mean nothing to it."""
    return "kind" in value and isinstance(known, dict) and value["kind"] != known.get("kind")
