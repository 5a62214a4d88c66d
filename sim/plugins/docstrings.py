"""What a policy's docstrings say about its constructor parameters."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

from policies import base
from sim.plugins.classes import parameters

_SECTION = re.compile(r"^(Attributes|Args|Arguments|Parameters):$")
_ENTRY = re.compile(r"^(\w+(?:, \w+)*)(?: \([^)]*\))?: +(.*)$")


def parameter_docs(cls: type) -> dict[str, str]:
    """Return what the sections `Attributes:` and `Args:` of a class, its bases and its constructor say, by name."""
    said: dict[str, str] = {}
    for text in _texts(cls):
        for name, words in _entries(text):
            said.setdefault(name, words)
    names = [parameter.name for parameter in parameters(cls)]
    return {name: said[name] for name in names if name in said}


def undocumented(cls: type) -> list[str]:
    """Return the constructor parameters that no docstring of a class, its bases or its constructor so much as names."""
    text = "\n".join(_texts(cls))
    return [parameter.name for parameter in parameters(cls) if not re.search(rf"\b{parameter.name}\b", text)]


def _texts(cls: type) -> Iterator[str]:
    for one in cls.__mro__:
        if one.__module__ not in {base.__name__, "builtins", "typing"}:
            yield inspect.cleandoc(one.__doc__ or "")
            yield inspect.cleandoc(getattr(vars(one).get("__init__"), "__doc__", None) or "")


def _entries(text: str) -> Iterator[tuple[str, str]]:
    """Yield (name, words) of the entries of all sections; an entry goes on as long as its lines are indented deeper."""
    names: list[str] = []
    words: list[str] = []
    for line in [*_section_lines(text), "end: "]:
        entry = None if line.startswith(" ") else _ENTRY.match(line)
        if entry is None:
            words.append(line.strip())
            continue
        yield from ((name, " ".join(words)) for name in names)
        names, words = entry[1].split(", "), [entry[2]]


def _section_lines(text: str) -> Iterator[str]:
    """Yield the lines of all sections, without the indentation that their entries share."""
    indent: int | None = None
    is_inside = False
    for line in text.splitlines():
        if line and not line.startswith(" "):
            is_inside, indent = bool(_SECTION.match(line)), None
        elif is_inside and line.strip():
            indent = len(line) - len(line.lstrip()) if indent is None else indent
            yield line[indent:]
