"""The policies of a configuration as plain words: a name for each seam, and all parameters, defaults included."""

from __future__ import annotations

import math
from typing import Any

from sim.config import RunConfig
from sim.names import SEAMS
from sim.plugins.classes import parameters
from sim.plugins.named import class_of


def policy_words(config: RunConfig) -> dict[str, Any]:
    """Return a name by seam and, under `params`, the parameters by seam; they can be written as JSON."""
    specs = {seam: getattr(config, seam) for seam in SEAMS}
    return {seam: _name(spec["kind"]) for seam, spec in specs.items()} | {
        "params": {seam: _parameters(spec, seam) for seam, spec in specs.items()}
    }


def _name(kind: object) -> str:
    if isinstance(kind, str):
        return kind
    cls = kind if isinstance(kind, type) else type(kind)
    return f"{cls.__module__}:{cls.__qualname__}"


def _parameters(spec: dict[str, Any], seam: str) -> dict[str, Any]:
    kind = spec["kind"]
    known = {one.name: one.default for one in parameters(class_of(kind, seam)) if one.default is not one.empty}
    if not isinstance(kind, str | type):  # an instance: what it was built with is told by its attributes, if at all
        return {name: _plain(getattr(kind, name, default)) for name, default in known.items()}
    given = {name: value for name, value in spec.items() if name != "kind"}
    return {name: _plain(value) for name, value in (known | given).items()}


def _plain(value: object) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return {str(key): _plain(one) for key, one in value.items()} if isinstance(value, dict) else str(value)
