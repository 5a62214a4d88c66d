"""Whose a source file is: ours, an installed package's, or that of whoever runs us."""

from __future__ import annotations

import inspect
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from sys import modules
from types import ModuleType

OURS = tuple(Path(__file__).resolve().parents[1] / name for name in ("sim", "policies", "gpu_validate"))
STDLIB = Path(sysconfig.get_path("stdlib")).resolve()
SITE = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib"))


def is_ours(file: Path) -> bool:
    """Whether a file belongs to this project."""
    return any(file.is_relative_to(folder) for folder in OURS)


def is_users(file: Path) -> bool:
    """Whether a file is neither ours nor of Python or an installed package."""
    return not (is_ours(file) or any(file.is_relative_to(folder) for folder in (STDLIB, *SITE)))


def own_files(cls: type) -> frozenset[Path]:
    """Return the source files of a class and of those that it derives from, without ours and Python's own."""
    files = (source_file(one) for one in cls.__mro__)
    return frozenset(file for file in files if file and not is_ours(file) and not _is_python(file))


def users_files(cls: type) -> frozenset[Path]:
    """Return the source files that a class is made of: its own, and the user's files that these import, and so on."""
    found: set[Path] = set(own_files(cls))
    names = {one.__module__ for one in cls.__mro__}
    seen: set[str] = set()
    while names:
        name = names.pop()
        seen.add(name)
        module = modules.get(name)
        file = None if module is None else source_file(module)
        if module is not None and file is not None and (is_users(file) or file in found):
            found.add(file)
            names |= set(_named_by(module)) - seen
    return frozenset(found)


def source_file(thing: type | ModuleType) -> Path | None:
    """Return the file that defines a class or a module; None if nobody knows."""
    try:
        file = inspect.getsourcefile(thing)
    except TypeError:  # built in
        return None
    return None if file is None else Path(file).resolve()


def _is_python(file: Path) -> bool:
    return file.is_relative_to(STDLIB) and not any(file.is_relative_to(folder) for folder in SITE)


def _named_by(module: ModuleType) -> Iterator[str]:
    """Yield the names of the modules that a module has imported, whole or in part."""
    for value in vars(module).values():
        if isinstance(value, ModuleType):
            yield value.__name__
        elif isinstance(owner := getattr(value, "__module__", None), str):
            yield owner
