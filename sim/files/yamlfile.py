"""Configuration files: `extends:`, `--set`, strict validation by any pydantic model. No meaning of keys here."""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from sim.files.yamltext import (
    ConfigError,
    Document,
    Key,
    KeyPath,
    Mark,
    Marks,
    Problem,
    find_mark,
    folder_of,
    parse,
    write,
)
from sim.names import SEAMS, closest, did_you_mean

__all__ = [
    "ConfigError", "Document", "KeyPath", "Mark", "Marks", "Problem",
    "dump", "find", "find_mark", "folder_of", "json_schema", "load", "merge", "packaged_names", "set_values",
    "validate",
]  # fmt: skip

TELLS_ALL = {"extra_forbidden", "missing", "value_error"}  # kinds of error whose message needs no value beside it

Model = TypeVar("Model", bound=BaseModel)


def packaged_names() -> list[str]:
    """Return the names of the systems that come with the simulator."""
    return sorted(path.stem for path in _packaged_folder().glob("*.yaml"))


def find(name: str, folder: Path = Path()) -> Path:
    """Return the file meant by a packaged system's name, or by a path relative to `folder`.

    Raises:
        ConfigError: if a name without suffix and slash is not a packaged one.
    """
    if "/" in name or Path(name).suffix in {".yaml", ".yml"}:
        return folder / name
    known = packaged_names()
    if name not in known:
        message = f"no packaged system is named {name!r}{did_you_mean(name, known)} (a path ends in .yaml)"
        raise ConfigError([message])
    return _packaged_folder() / f"{name}.yaml"


def load(source: Path | str, *, folder: Path = Path()) -> Document:
    """Read a file (a Path) or YAML text (a str), on top of what it extends.

    A seam's policy given as a bare name is spelt out as {kind: name}.

    Args:
        source: the file, or the text itself.
        folder: what relative paths in a text are relative to; a file's are relative to its own folder.

    Raises:
        ConfigError: if something cannot be read, is not YAML, repeats a key or extends itself.
    """
    if isinstance(source, Path):
        return _load_file(source, ())
    return _on_parent(_checked(parse(source, str(folder / "<text>"))), folder, ())


def merge(base: Document, over: Document) -> Document:
    """Return `base` with the values of `over` on top, mapping by mapping; every value keeps its mark.

    A mapping whose `kind` changes is replaced whole: the parameters of one kind mean nothing to another.
    """
    tree = _merged(base.tree, over.tree)
    marks = base.marks | over.marks
    return Document(tree, {path: mark for path, mark in marks.items() if _present(path, tree) == path})


def set_values(tree: Any, assignments: Sequence[str], marks: Marks | None = None) -> Document:
    """Return the tree with assignments such as "cache.kind=lru" on top, their values read as YAML.

    Raises:
        ConfigError: naming every assignment that cannot be read.
    """
    over, problems = Document({}, {}), list[Problem]()
    for text in assignments:
        try:
            over = merge(over, _assigned(text))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return merge(Document(tree, marks or {}), over)


def validate(model: type[Model], tree: Any, marks: Marks | None = None) -> Model:
    """Return the model built from a tree.

    Raises:
        ConfigError: with one located line for every key that is wrong, and close names for what is unknown.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        messages: dict[KeyPath, list[str]] = {}
        given: dict[KeyPath, object] = {}
        for details in error.errors(include_url=False):
            for path, message in _explained(model, tree, details):
                messages.setdefault(path, []).append(message)
                given[path] = None if details["type"] in TELLS_ALL else details["input"]
    # Several complaints about one key come from the arms of a union: it may be this or that.
    found = ConfigError(Problem(path, _with_value(" or ".join(said), given[path])) for path, said in messages.items())
    located = found.under((), marks or {}).problems
    located.sort(key=lambda problem: problem.mark or Mark(""))
    raise ConfigError(located)


def dump(model: BaseModel) -> str:
    """Return the model as YAML text that loads back to an equal model, defaults written out."""
    return write(model.model_dump(mode="json", by_alias=True, round_trip=True))


def json_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return the model's JSON schema, by which editors complete and check YAML."""
    return model.model_json_schema()


def _packaged_folder() -> Path:
    return Path(str(importlib.resources.files("sim"))) / "data" / "systems"


def _load_file(path: Path, chain: tuple[Path, ...]) -> Document:
    chain = (*chain, path.resolve())
    if chain[-1] in chain[:-1]:
        message = f"files extend one another in a circle: {' -> '.join(file.name for file in chain)}"
        raise ConfigError([message])
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        message = f"cannot read {path}: {getattr(error, 'strerror', None) or error}"
        raise ConfigError([message]) from None
    return _on_parent(_checked(parse(text, str(path))), path.parent, chain)


def _checked(document: Document) -> Document:
    """Return the document with an empty tree for no text at all, and {kind: name} for a seam's bare name."""
    tree = {} if document.tree is None else document.tree
    if not isinstance(tree, dict):
        message = f"expected `key: value` lines, got {tree!r} (a file's name must be given as a Path)"
        raise ConfigError([Problem((), message, document.marks[()])])
    bare = {seam: {"kind": tree[seam]} for seam in SEAMS if isinstance(tree.get(seam), str)}
    return Document(tree | bare, document.marks | {(seam, "kind"): document.marks[seam,] for seam in bare})


def _on_parent(document: Document, folder: Path, chain: tuple[Path, ...]) -> Document:
    parent = document.tree.get("extends")
    if parent is None:
        return document
    try:
        base = _load_file(find(str(parent), folder), chain)
    except ConfigError as error:
        raise error.under((), {(): document.marks["extends",]}) from None
    del document.tree["extends"]
    return merge(base, document)


def _merged(base: Any, over: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    if "kind" in base and "kind" in over and base["kind"] != over["kind"]:
        return over
    return base | {key: _merged(base[key], value) if key in base else value for key, value in over.items()}


def _assigned(text: str) -> Document:
    """Return what one `key.key=value` says, as a tree of its own."""
    mark = Mark(f"--set {text}")
    dotted, equals, value = text.partition("=")
    keys = tuple(dotted.strip().split("."))
    if not equals or not all(keys):
        message = "expected KEY=VALUE or KEY.KEY=VALUE"
        raise ConfigError([Problem((), message, mark)])
    parsed = parse(value, mark.file)
    tree = parsed.tree
    for key in reversed(keys):
        tree = {key: tree}
    paths = [keys[:end] for end in range(len(keys))] + [(*keys, *path) for path in parsed.marks]
    return _checked(Document(tree, dict.fromkeys(paths, mark)))


def _present(path: Sequence[Key], tree: Any) -> KeyPath:
    """Return the part of a path that leads through a tree; what a union adds to a pydantic path falls out."""
    kept: list[Key] = []
    for key in path:
        inside = range(len(tree)) if isinstance(tree, list) else tree if isinstance(tree, dict) else ()
        if key in inside:
            tree = tree[key]
            kept.append(key)
    return tuple(kept)


def _explained(model: type[BaseModel], tree: Any, details: ErrorDetails) -> Iterator[tuple[KeyPath, str]]:
    """Yield the key path and the message of a pydantic error: usually one."""
    kind, location, context = details["type"], details["loc"], details.get("ctx", {})
    path = _present(location, tree)
    cause = context.get("error")
    if isinstance(cause, ConfigError):
        yield from (((*path, *problem.path), problem.message) for problem in cause.problems)
    elif kind == "extra_forbidden":
        yield path, details["msg"] + did_you_mean(str(location[-1]), _allowed(model, location[:-1]))
    elif kind == "missing":
        yield (*path, location[-1]), details["msg"]
    elif kind == "union_tag_invalid":
        yield (*path, context["discriminator"].strip("'")), details["msg"] + _choice(context, context["tag"])
    else:
        message = details["msg"].removeprefix("Value error, ")
        yield path, message + _choice(context, details["input"]) + _quoting(kind, details["input"])


def _with_value(message: str, given: object) -> str:
    """Return a message with the wrong value at its end, unless it is there already or is none that fits into a line."""
    is_short = isinstance(given, str | int | float) and len(str(given)) <= 60
    return f"{message} (got {given!r})" if is_short and repr(given) not in message else message


def _choice(context: dict[str, Any], given: object) -> str:
    """Return the close one of the values that pydantic expected, to end a message that lists them."""
    expected = re.findall(r"'([^']*)'", str(context.get("expected_tags", context.get("expected", ""))))
    match = closest(str(given), expected)
    return f" - did you mean {match!r}?" if match else ""


def _quoting(kind: str, given: object) -> str:
    """Return a hint for a text such as `no`, which YAML takes for something else."""
    if kind not in {"string_type", "literal_error", "enum"} or isinstance(given, str | dict | list | None):
        return ""
    return f" - YAML reads this value as {given!r}; put it in quotes"


def _allowed(model: type[BaseModel], location: Sequence[Key]) -> set[str]:
    """Return the keys that may be given at a place inside a model."""
    models = {model}
    for key in location:
        found = [field.annotation for name, field in _fields(models) if key in (name, field.alias)]
        models = {nested for annotation in found for nested in _models_in(annotation)} or models
    return {field.alias or name for name, field in _fields(models)}


def _fields(models: set[type[BaseModel]]) -> Iterator[tuple[str, FieldInfo]]:
    for model in models:
        yield from model.model_fields.items()


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models that an annotation is made of: those of a union, a list's, a dictionary's."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
