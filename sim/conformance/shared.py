"""What lies on a policy's class and in its module, where one run would leave it to the next."""

from __future__ import annotations

import itertools
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from policies import base
from sim.plugins.provenance import is_ours, source_file

NOT_LOOKED_AT = {base.__name__, "builtins", "abc", "typing"}
DEEPEST = 20  # containers inside one another
Image = dict[tuple[str, str], object]  # (what it lies on, its name) -> something that is equal if nothing was changed


def shared_state(cls: type) -> Image:
    """Return what an instance shares with others through its class, those that this derives from, and their modules.

    Functions and methods are left out, and with them what `functools.cache` remembers for them: it is no state.
    """
    classes = [one for one in cls.__mro__ if one.__module__ not in NOT_LOOKED_AT]
    found = {(f"the class {one.__name__}", name): _image(value) for one in classes for name, value in _data(vars(one))}
    for module in {one.__module__: sys.modules.get(one.__module__) for one in classes}.values():
        file = None if module is None else source_file(module)
        if module is not None and not (file and is_ours(file)):
            place = f"the module {module.__name__ if file is None else file.name}"
            found |= {(place, name): _image(value) for name, value in _data(vars(module)) if _is_plain(value)}
    return found


def what_changed(before: Image, after: Image) -> str:
    """Return a sentence on what is another than before; empty if nothing is."""
    for place, name in sorted(before.keys() | after.keys()):
        if before.get((place, name), ...) != after.get((place, name), ...):
            return (
                f"`{name}` is on {place} and was changed: it outlives the run, and every replica and seed of one "
                "process shares it; keep it in the instance (self), made in __init__ or start"
            )
    return ""


def _data(names: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in tuple(names.items()):
        is_code = callable(value) or isinstance(value, ModuleType) or hasattr(type(value), "__get__")
        if not (name.startswith("__") or is_code):
            yield name, value


def _is_plain(value: object) -> bool:
    """Whether a module's variable is surely its own: a logger there, for one, may change by itself."""
    return isinstance(value, dict | list | set | deque | bytearray | np.ndarray | itertools.count | int | float)


def _image(value: Any, depth: int = 0) -> object:
    """Return something that equals the image of the same value later, if that was not changed in between."""
    if value is None or isinstance(value, str | bytes | bool | int | float | complex | itertools.count):
        return type(value), repr(value)
    if isinstance(value, np.ndarray | bytearray):
        return bytes, bytes(value)
    return _image_of_parts(value, depth) if depth < DEEPEST else id(value)


def _image_of_parts(value: Any, depth: int) -> object:
    if isinstance(value, dict):
        return dict, tuple((_image(key, depth + 1), _image(one, depth + 1)) for key, one in value.items())
    if isinstance(value, set | frozenset):
        return set, frozenset(_image(one, depth + 1) for one in value)
    if isinstance(value, list | tuple | deque):
        return list, tuple(_image(one, depth + 1) for one in value)
    is_of_python = type(value).__module__.partition(".")[0] in sys.stdlib_module_names
    fields = {} if is_of_python or callable(value) else getattr(value, "__dict__", {})
    return id(value), _image(fields, depth + 1) if fields else None
