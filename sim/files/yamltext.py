"""YAML text to plain values with a mark for each, and located errors. Files and models are not here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

Key = str | int | float
KeyPath = tuple[Key, ...]


class Mark(NamedTuple):
    """Where a value came from; line and column count from 1, and line 0 means that `file` says it all."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


Marks = dict[KeyPath, Mark]


class Document(NamedTuple):
    """A tree of plain values, and the mark of every key path in it; the path () is the whole."""

    tree: Any
    marks: Marks


class Problem(NamedTuple):
    """One line of a `ConfigError`."""

    path: KeyPath
    message: str
    mark: Mark | None = None

    def __str__(self) -> str:
        key = ".".join(map(str, self.path))
        return ": ".join(str(part) for part in (self.mark, key, self.message) if part)


class ConfigError(ValueError):
    """Everything that is wrong with a configuration, one line a problem: `file:line:column: key: message`."""

    def __init__(self, problems: Iterable[Problem | str]) -> None:
        self.problems: list[Problem] = [Problem((), item) if isinstance(item, str) else item for item in problems]
        super().__init__(self.problems)

    @property
    def lines(self) -> list[str]:
        """The problems as text."""
        return [str(problem) for problem in self.problems]

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def under(self, path: KeyPath, marks: Marks) -> ConfigError:
        """Return the same problems as seen from further up the tree, located by its marks."""
        return ConfigError(
            Problem((*path, *item.path), item.message, item.mark or find_mark(marks, (*path, *item.path)))
            for item in self.problems
        )


def find_mark(marks: Marks, path: KeyPath) -> Mark | None:
    """Return the mark of a key path or, where it has none, of the nearest key around it."""
    return next((marks[path[:end]] for end in range(len(path), -1, -1) if path[:end] in marks), None)


def folder_of(marks: Marks, path: KeyPath) -> Path:
    """Return the folder of the file that a value came from, to which paths in it are relative."""
    mark = find_mark(marks, path)
    return Path(mark.file).parent if mark is not None and mark.line else Path()


def parse(text: str, file: str) -> Document:
    """Return the values in YAML text; `file` is the name that its marks carry.

    Raises:
        ConfigError: for bad syntax, repeated keys, keys that are no text or number, tags of Python objects.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except yaml.YAMLError as error:
        raise ConfigError([_syntax_problem(error, file)]) from None
    reader = _Reader(loader, file)
    tree = None if node is None else reader.value(node, (), ())
    if reader.problems:
        raise ConfigError(reader.problems)
    return Document(tree, reader.marks)


def write(tree: Any) -> str:
    """Return YAML text that `parse` reads back to an equal tree of plain values."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False)


class _Loader(yaml.SafeLoader):
    """Plain values only, no Python objects."""


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader` would not read back as text."""


# YAML 1.1 wants a point and a sign in a float: without this, 1e-3 and 1e9 would be texts.
_EXPONENT = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))


class _Reader:
    """Turns YAML nodes into plain values, notes where each came from and collects what is wrong."""

    def __init__(self, loader: _Loader, file: str) -> None:
        self.loader = loader
        self.file = file
        self.marks: Marks = {(): Mark(file, 1, 1)}
        self.problems: list[Problem] = []
        self.flat: set[yaml.Node] = set()

    def value(self, node: yaml.Node, path: KeyPath, around: tuple[yaml.Node, ...]) -> Any:
        if node in around:
            self.complain(node, path, "a value cannot contain itself")
            return None
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path, (*around, node))
        if isinstance(node, yaml.SequenceNode):
            return self.sequence(node, path, (*around, node))
        return self.scalar(node, path)

    def mapping(self, node: yaml.MappingNode, path: KeyPath, around: tuple[yaml.Node, ...]) -> dict[Key, Any]:
        self.flatten(node, path)
        tree: dict[Key, Any] = {}
        for key_node, value_node in node.value:
            key = self.key(key_node, path)
            self.marks[*path, key] = self.mark(key_node)
            tree[key] = self.value(value_node, (*path, key), around)
        return tree

    def sequence(self, node: yaml.SequenceNode, path: KeyPath, around: tuple[yaml.Node, ...]) -> list[Any]:
        for i, item in enumerate(node.value):
            self.marks[*path, i] = self.mark(item)
        return [self.value(item, (*path, i), around) for i, item in enumerate(node.value)]

    def flatten(self, node: yaml.MappingNode, path: KeyPath) -> None:
        """Put what `<<` brings in before the mapping's own keys; once, for an alias shares its node."""
        if node in self.flat:
            return
        self.flat.add(node)
        self.reject_repeats(node, path)
        try:
            self.loader.flatten_mapping(node)
        except yaml.constructor.ConstructorError as error:
            self.complain(node, path, str(error.problem))

    def reject_repeats(self, node: yaml.MappingNode, path: KeyPath) -> None:
        first: dict[str, yaml.Node] = {}
        for key_node, _ in node.value:
            text = str(key_node.value)
            known = first.setdefault(text, key_node)
            if known is not key_node:
                line = self.mark(known).line
                self.complain(key_node, (*path, text), f"this key is already given in line {line}")

    def key(self, node: yaml.Node, path: KeyPath) -> Key:
        key = self.scalar(node, path) if isinstance(node, yaml.ScalarNode) else node.tag
        if isinstance(key, bool) or not isinstance(key, str | int | float):
            self.complain(node, path, f"YAML reads the key {node.value} as {key!r}; put it in quotes")
            return str(node.value)
        return key

    def scalar(self, node: yaml.Node, path: KeyPath) -> Any:
        try:
            return self.loader.construct_object(node)
        except yaml.constructor.ConstructorError as error:
            self.complain(node, path, str(error.problem))
        except ValueError as error:  # a date such as 2024-02-31
            self.complain(node, path, f"{node.value}: {error}")
        return None

    def complain(self, node: yaml.Node, path: KeyPath, message: str) -> None:
        self.problems.append(Problem(path, message, self.mark(node)))

    def mark(self, node: yaml.Node) -> Mark:
        return Mark(self.file, node.start_mark.line + 1, node.start_mark.column + 1)


def _syntax_problem(error: yaml.YAMLError, file: str) -> Problem:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return Problem((), f"not YAML: {' '.join(str(error).split())}", Mark(file))
    mark = error.problem_mark
    why = ", ".join(part for part in (error.context, error.problem) if part)
    return Problem((), f"not YAML: {why}", Mark(file, mark.line + 1, mark.column + 1))
