"""From the name of a policy to an instance: built-in, installed, or from a file. No policy is named here."""

from __future__ import annotations

import importlib
import inspect
import sys
import zlib
from collections.abc import Callable, Mapping
from functools import cached_property
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from policies.builtin import BUILTIN
from sim.files.yamlfile import ConfigError, KeyPath, Marks, Problem, folder_of
from sim.names import SEAMS, did_you_mean
from sim.plugins.classes import adopt, build, likely_seams, maker, parameters, policy_class
from sim.plugins.docstrings import parameter_docs

Table = Mapping[str, Mapping[str, str]]


class PolicyInfo(NamedTuple):
    """One policy that a configuration could name.

    Attributes:
        seam: scheduler, cache, prefetch, predictor or router.
        name: what to write in a configuration.
        origin: "built in", the installed package that brings it, or the module or file.
        summary: first line of the class's docstring.
        source: the paper or code that the class says it follows.
        parameters: constructor parameters, such as "decay: float = 0.5".
        docs: what the docstrings say about parameters, by name.
        broken: why it cannot be used; empty if it can.
    """

    seam: str
    name: str
    origin: str
    summary: str = ""
    source: str = ""
    parameters: tuple[str, ...] = ()
    docs: tuple[tuple[str, str], ...] = ()
    broken: str = ""


def resolve(
    spec: object,
    seam: str,
    *,
    base_dir: Path | None = None,
    key: KeyPath | None = None,
    marks: Marks | None = None,
    builtin: Table | None = None,
) -> Any:
    """Return a policy: an instance of the seam's base class in `policies.base`.

    Args:
        spec: an instance or class; a name; or a mapping of `kind` (name or class) and constructor parameters.
            A name is a built-in's, an installed entry point's, `module:Class` or `./file.py:Class`.
        seam: scheduler, cache, prefetch, predictor or router.
        base_dir: the folder to which `./file.py` is relative; by default, that of the file which names the policy.
        key: where the spec stands in the configuration, for errors; by default at the top, under the seam's name.
        marks: lines and columns of the configuration, for errors.
        builtin: seam -> short name -> "module:Class", in place of our own table.

    Raises:
        ConfigError: if the name, a parameter or the class itself is wrong.
    """
    at, marks = key or (seam,), marks or {}
    folder = folder_of(marks, (*at, "kind")) if base_dir is None else base_dir
    try:
        return _resolved(spec, _Places(seam, folder, builtin))
    except ConfigError as error:
        raise error.under(at, marks) from error.__cause__


def problems_of(specs: Mapping[str, Any], marks: Marks) -> list[Problem]:
    """Return what is wrong with the policies that a configuration names, of all seams together.

    Args:
        specs: by seam, among whatever else a configuration holds.
        marks: lines and columns of the configuration.
    """
    found: list[Problem] = []
    for seam in SEAMS:
        if isinstance(specs.get(seam), Mapping):
            try:
                resolve(specs[seam], seam, marks=marks)
            except ConfigError as error:
                found += error.problems
    return found


def factory(spec: object, seam: str, *, base_dir: Path | None = None) -> Callable[[], Any]:
    """Return what builds a fresh policy at every call, its name looked up and its parameters checked once.

    Args:
        spec: as for `resolve`, but no instance, since there is only one of it.
        seam: scheduler, cache, prefetch, predictor or router.
        base_dir: the folder to which `./file.py` is relative; by default, the current one.

    Raises:
        ConfigError: if the name, a parameter or the class itself is wrong.
    """
    places = _Places(seam, Path() if base_dir is None else base_dir, None)
    try:
        kind, values = _class_and_values(spec, places)
        if isinstance(kind, type):
            return maker(kind, seam, values)
    except ConfigError as error:
        raise error.under((seam,), {}) from error.__cause__
    message = f"{type(kind).__name__} is already built, and fresh ones are needed: give its class or its name"
    raise _wrong(message).under((seam,), {})


def class_of(kind: object, seam: str, *, marks: Marks | None = None) -> type:
    """Return the class of a policy that is named, or given as a class or an instance.

    Args:
        kind: as in `resolve`, without its parameters.
        seam: scheduler, cache, prefetch, predictor or router.
        marks: lines of the configuration; a file's path is relative to the one which names it.

    Raises:
        ConfigError: if it is no such thing.
    """
    found, _ = _class_and_values(kind, _Places(seam, folder_of(marks or {}, (seam, "kind")), None))
    return found if isinstance(found, type) else type(found)


def list_policies(seam: str | None = None, *, builtin: Table | None = None) -> list[PolicyInfo]:
    """Return every built-in and installed policy of one seam or of all, broken ones too."""
    seams = SEAMS if seam is None else (seam,)
    return [info for each in seams for info in _Places(each, Path(), builtin).infos()]


def describe(seam: str, name: str, *, base_dir: Path = Path(), builtin: Table | None = None) -> PolicyInfo:
    """Return what is known of one policy, under any name that a configuration may use.

    Raises:
        ConfigError: if there is none of that name, or it is broken.
    """
    return _Places(seam, base_dir, builtin).info(name)


def seams_of(name: str, *, base_dir: Path | None = None) -> list[str]:
    """Return the seams that have a policy of this name; of a class, those that it looks made for.

    Raises:
        ConfigError: if it names a class that cannot be imported.
    """
    folder = Path() if base_dir is None else base_dir
    if ":" in name:
        return likely_seams(_imported(name, folder))
    return [seam for seam in SEAMS if name in _Places(seam, folder, None).names()]


def _resolved(spec: object, places: _Places) -> object:
    kind, values = _class_and_values(spec, places)
    if isinstance(kind, type):
        return build(kind, places.seam, values)
    if values:
        raise _wrong(f"{type(kind).__name__} is already built and takes no parameters here: {', '.join(values)}")
    return adopt(kind, places.seam)


def _class_and_values(spec: object, places: _Places) -> tuple[Any, dict[str, Any]]:
    """Return a spec's class, or the instance that it is, and the constructor parameters beside it."""
    values: dict[str, Any] = dict(spec) if isinstance(spec, Mapping) else {"kind": spec}
    kind = values.pop("kind", None)
    if isinstance(kind, str):
        kind = places.find(kind)
    if kind is None or isinstance(kind, bool | int | float | list | Mapping):
        raise _wrong(f"expected the name of a {places.seam}, got {kind!r}")
    return kind, values


class _Places:
    """Where the policies of one seam are found, by name."""

    def __init__(self, seam: str, folder: Path, builtin: Table | None) -> None:
        if seam not in SEAMS:
            message = f"no seam is named {seam!r}{did_you_mean(seam, SEAMS)}"
            raise ConfigError([message])
        self.seam = seam
        self.folder = folder
        self.builtin = dict((BUILTIN if builtin is None else builtin).get(seam, {}))

    @cached_property
    def installed(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=f"chameleon_sim.{self.seam}")}  # takes a while

    def names(self) -> list[str]:
        return [*self.builtin, *(name for name in self.installed if name not in self.builtin)]

    def find(self, name: str) -> type:
        if ":" in name:
            return _imported(name, self.folder)
        if name in self.builtin:
            return _imported(self.builtin[name], self.folder)
        if name in self.installed:
            return _loaded(self.installed[name])
        hint = did_you_mean(name, self.names())
        raise _wrong(f"no {self.seam} is named {name!r}{hint} (your own: module:Class or ./file.py:Class)")

    def origin(self, name: str) -> str:
        if name in self.builtin:
            return "built in"
        return _package(self.installed[name]) if name in self.installed else name.rpartition(":")[0]

    def info(self, name: str) -> PolicyInfo:
        cls = policy_class(self.find(name), self.seam)
        return PolicyInfo(
            seam=self.seam,
            name=name,
            origin=self.origin(name),
            summary=(cls.__doc__ or "").strip().partition("\n")[0],
            source=cls.source,
            parameters=tuple(str(parameter) for parameter in parameters(cls)),
            docs=tuple(parameter_docs(cls).items()),
        )

    def infos(self) -> list[PolicyInfo]:
        return [self._info_or_break(name) for name in self.names()]

    def _info_or_break(self, name: str) -> PolicyInfo:
        try:
            return self.info(name)
        except ConfigError as error:
            why = "; ".join(problem.message for problem in error.problems)
            return PolicyInfo(self.seam, name, self.origin(name), broken=why)


def _imported(target: str, folder: Path) -> type:
    """Return the class named by `module:Class` or `file.py:Class`."""
    where, _, name = target.rpartition(":")
    try:
        module = _file_module(folder / where) if where.endswith(".py") else importlib.import_module(where)
    except Exception as error:  # a stranger's module may raise anything
        raise _wrong(f"{where} cannot be imported: {type(error).__name__}: {error}") from error
    found = getattr(module, name, None)
    if not isinstance(found, type):
        classes = [
            n for n, value in vars(module).items() if inspect.isclass(value) and value.__module__ == module.__name__
        ]
        raise _wrong(f"{where} has no class {name!r}{did_you_mean(name, classes)}")
    return found


def _file_module(path: Path) -> ModuleType:
    """Import a file under a name of its own, anew whenever it has changed."""
    identity = f"{path.resolve()} {path.stat().st_mtime_ns}"
    name = f"_{path.stem}_{zlib.crc32(identity.encode()):08x}"
    if name in sys.modules:
        return sys.modules[name]
    loader = SourceFileLoader(name, str(path))
    module = sys.modules[name] = module_from_spec(ModuleSpec(name, loader))  # dataclasses look their module up
    module.__file__ = str(path)
    if (folder := str(path.resolve().parent)) not in sys.path:
        sys.path.append(folder)  # as for a script: it may import what lies beside it, now or in a hook
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _loaded(entry: EntryPoint) -> type:
    try:
        found = entry.load()
    except Exception as error:  # a stranger's package may raise anything
        raise _wrong(f"{_package(entry)} is broken: {type(error).__name__}: {error}") from error
    if not isinstance(found, type):
        raise _wrong(f"{_package(entry)} is broken: {entry.value} is no class")
    return found


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value


def _wrong(message: str) -> ConfigError:
    return ConfigError([Problem(("kind",), message)])
