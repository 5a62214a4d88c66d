"""Whose a source file is: ours, an installed package's, or that of whoever runs us."""

from __future__ import annotations

import ast
import inspect
import sysconfig
from collections.abc import Iterator
from importlib.util import find_spec, resolve_name
from pathlib import Path
from sys import modules
from types import ModuleType

OURS = tuple(Path(__file__).resolve().parents[2] / name for name in ("sim", "policies", "gpu_validate"))
STDLIB = Path(sysconfig.get_path("stdlib")).resolve()
SITE = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib"))


def is_ours(file: Path) -> bool:
    """Whether a file belongs to this project."""
    return any(file.is_relative_to(folder) for folder in OURS)


def is_users(file: Path) -> bool:
    """Whether a file is neither ours nor of Python or an installed package."""
    is_installed = bool({"site-packages", "dist-packages"} & set(file.parts))  # also those of a user, or of a system
    return not (is_installed or is_ours(file) or any(file.is_relative_to(folder) for folder in (STDLIB, *SITE)))


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
        file = _file_of(name)
        if file is not None and (is_users(file) or file in found):
            found.add(file)
            names |= {*_named_by(modules.get(name)), *_imported_in(name, file)} - seen
    return frozenset(found)


def _file_of(name: str) -> Path | None:
    """Return the source file of a module, also of one that only a function imports and nobody has called yet."""
    module, parent = modules.get(name), name.rpartition(".")[0]
    if module is not None:
        return source_file(module)
    if parent and ((folder := _file_of(parent)) is None or not is_users(folder)):
        return None  # to look for it would import what it lies in, which may be large and is not the user's
    try:
        spec = find_spec(name)
    except (ImportError, AttributeError, ValueError):  # a name in a module, or a module that is not there
        return None
    return Path(spec.origin).resolve() if spec is not None and spec.has_location and spec.origin else None


def _imported_in(name: str, file: Path) -> Iterator[str]:
    """Yield what a source file imports by its own words: a number that it takes from a module knows no module."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    tree = ast.parse(file.read_bytes()) if file.suffix == ".py" else ast.Module([], [])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom) and (package or not node.level):
            words = "." * node.level + (node.module or "")
            source = resolve_name(words, package) if node.level else words
            yield from (source, *(f"{source}.{one.name}" for one in node.names))


def source_file(thing: type | ModuleType) -> Path | None:
    """Return the file that defines a class or a module; None if nobody knows."""
    try:
        file = inspect.getsourcefile(thing)
    except (OSError, TypeError):  # of a notebook or a prompt; built in
        return None
    return None if file is None else Path(file).resolve()


def _is_python(file: Path) -> bool:
    return file.is_relative_to(STDLIB) and not any(file.is_relative_to(folder) for folder in SITE)


def _named_by(module: ModuleType | None) -> Iterator[str]:
    """Yield the names of the modules that a module has imported, whole or in part."""
    for value in () if module is None else tuple(vars(module).values()):
        if isinstance(value, ModuleType):
            yield value.__name__
        elif isinstance(owner := getattr(value, "__module__", None), str):
            yield owner
