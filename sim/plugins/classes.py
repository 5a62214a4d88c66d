"""What makes a class a policy of a seam: its hooks, its parameters, its missing halves. Nothing is looked up here."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from policies import base
from sim.files.yamlfile import ConfigError, Problem, validate
from sim.names import SEAMS, closest
from sim.plugins.signatures import misfits

BASES: dict[str, type[base.Policy]] = {seam: getattr(base, seam.capitalize(), base.Policy) for seam in SEAMS}


def build(cls: type, seam: str, values: Mapping[str, Any]) -> base.Policy:
    """Return an instance of a class, or of its completion, with constructor parameters checked by their annotations.

    Raises:
        ConfigError: if the class is no policy of the seam, or a parameter is wrong.
    """
    return maker(cls, seam, values)()


def maker(cls: type, seam: str, values: Mapping[str, Any]) -> Callable[[], base.Policy]:
    """Return what builds a fresh instance each time that it is called; see `build`."""
    policy = policy_class(cls, seam)
    model = parameter_model(cls)
    checked = validate(model, dict(values))
    given = checked.model_fields_set
    keywords = {f.alias or name: getattr(checked, name) for name, f in model.model_fields.items() if name in given}

    def make() -> base.Policy:
        try:
            return policy(**keywords)
        except (TypeError, ValueError) as error:
            raise ConfigError([str(error)]) from error
        except Exception as error:  # a stranger's constructor may raise anything
            raise ConfigError([f"{cls.__name__} cannot be built: {type(error).__name__}: {error}"]) from error

    return make


def adopt(policy: Any, seam: str) -> base.Policy:
    """Return the very instance, given the hooks that it lacks.

    Raises:
        ConfigError: if it is no policy of the seam, or its class cannot be extended.
    """
    cls = policy_class(type(policy), seam)
    if cls is not type(policy):
        try:
            policy.__class__ = cls
        except TypeError as error:
            message = f"{cls.__name__} cannot be given the hooks it lacks ({error}); derive it from {_path(seam)}"
            raise ConfigError([Problem(("kind",), message)]) from error
    return policy  # type: ignore[no-any-return]


def policy_class(cls: type, seam: str) -> type[base.Policy]:
    """Return the class, or a subclass with the seam's harmless defaults for the hooks and the name that it lacks.

    Raises:
        ConfigError: if it has no hook of the seam, is made for another seam, has a hook's name misspelt, or a hook that
            takes other arguments than it is given.
    """
    wrong = [*_misspelt(cls, seam), *misfits(cls, BASES[seam])]
    problems = _foreign(cls, seam) or wrong or _hookless(cls, seam)
    if problems:
        raise ConfigError(Problem(("kind",), f"{cls.__name__} {problem}") for problem in problems)
    return _completed(cls, seam)


def likely_seams(cls: type) -> list[str]:
    """Return the seam whose base a class derives from, or the seams of which it has most hooks; several if in doubt."""
    derived = [seam for seam in SEAMS if BASES[seam] is not base.Policy and issubclass(cls, BASES[seam])]
    if derived:
        return derived
    counts = {seam: sum(routine and hasattr(cls, hook) for hook, routine in _own(seam).items()) for seam in SEAMS}
    most = max(counts.values())
    return [seam for seam, count in counts.items() if count == most > 0]


def parameters(cls: type) -> list[inspect.Parameter]:
    """Return what a class's constructor takes by name, annotations evaluated.

    Raises:
        ConfigError: if it needs something that has no name, or an annotation cannot be evaluated.
    """
    try:
        found = inspect.signature(cls, eval_str=True).parameters.values()
    except (NameError, TypeError, ValueError, AttributeError, SyntaxError) as error:
        message = f"the constructor of {cls.__name__} cannot be read: {error}"
        raise ConfigError([Problem(("kind",), message)]) from error
    nameless = [p.name for p in found if p.kind is p.POSITIONAL_ONLY and p.default is p.empty]
    if nameless:
        message = f"{cls.__name__} takes {nameless[0]!r} by position only; parameters are given by name"
        raise ConfigError([Problem(("kind",), message)])
    return [p for p in found if p.kind in {p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD}]


def parameter_model(cls: type) -> type[BaseModel]:
    """Return a strict model of a class's constructor parameters."""
    # Fields are numbered: a parameter may bear a name that pydantic keeps for itself, such as `copy`.
    fields: dict[str, Any] = {f"p{i}": _field(parameter) for i, parameter in enumerate(parameters(cls))}
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    return create_model(cls.__name__, __config__=config, **fields)


def _field(parameter: inspect.Parameter) -> tuple[Any, Any]:
    annotation = Any if parameter.annotation is parameter.empty else parameter.annotation
    default = ... if parameter.default is parameter.empty else parameter.default
    return annotation, Field(default, alias=parameter.name)


def _foreign(cls: type, seam: str) -> list[str]:
    if issubclass(cls, BASES[seam]):
        return []
    return [f"is a {other}, not a {seam}" for other in SEAMS if _own(other) and issubclass(cls, BASES[other])]


def _hookless(cls: type, seam: str) -> list[str]:
    hooks = [name for name, routine in _own(seam).items() if routine]
    if not hooks:
        return []
    if not issubclass(cls, BASES[seam]):
        return [] if any(hasattr(cls, hook) for hook in hooks) else [f"is no {seam}: it has none of {', '.join(hooks)}"]
    strange = [name for name, routine in _public(cls).items() if routine and not hasattr(BASES[seam], name)]
    if not strange or any(getattr(cls, hook) is not getattr(BASES[seam], hook) for hook in hooks):
        return []
    names = ", ".join(map(repr, strange))
    return [f"has {names}, which nothing asks, and none of {', '.join(hooks)} of its own"]


def _misspelt(cls: type, seam: str) -> Iterator[str]:
    seam_base = BASES[seam]
    hooks = _own(seam) | {"start": True}
    for name, routine in _public(cls).items():
        match = _similar(name, [hook for hook, is_routine in hooks.items() if is_routine == routine])
        if match and name not in hooks and getattr(cls, match, None) is getattr(seam_base, match):
            yield f"has {name!r}, which nothing asks - did you mean {match!r}? (a helper's name begins with _)"


def _similar(name: str, hooks: list[str]) -> str | None:
    beginning = [hook for hook in hooks if hook.startswith(name)]  # load for loaded, want for wanted
    transposed = [hook for hook in hooks if sorted(hook) == sorted(name)]  # scoer for score
    return closest(name, hooks, cutoff=0.81) or next(iter([*beginning, *transposed]), None)


def _own(seam: str) -> dict[str, bool]:
    """Return what a seam asks beyond what every policy has: hooks, and plain attributes such as `may_evict`."""
    return {name: routine for name, routine in _public(BASES[seam]).items() if not hasattr(base.Policy, name)}


def _public(cls: type) -> dict[str, bool]:
    """Return the public names of a class, and whether each is a method."""
    return {name: inspect.isroutine(getattr(cls, name)) for name in dir(cls) if not name.startswith("_")}


@cache
def _completed(cls: type, seam: str) -> type[base.Policy]:
    seam_base = BASES[seam]
    if issubclass(cls, seam_base) and hasattr(cls, "name"):
        return cls
    bases = (cls,) if issubclass(cls, seam_base) else (cls, seam_base)
    body = {"name": getattr(cls, "name", cls.__name__), "__module__": cls.__module__, "__doc__": cls.__doc__}
    return types.new_class(cls.__name__, bases, exec_body=lambda namespace: namespace.update(body))


def _path(seam: str) -> str:
    return f"policies.base.{BASES[seam].__name__}"
