"""Words of a command line that need a look before they are parsed: lists of goodput bounds, and files of flags."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

_BOUND = re.compile(r"[A-Za-z0-9]+:\S+")
_PLAIN = re.compile(r"[A-Za-z_./][\w./:+-]*")


class GoodputWords(TyperCommand):
    """A command whose `--goodput` takes several words, as that of `vllm bench serve` does."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give every word its own flag: --goodput ttft:500 tpot:50 is --goodput ttft:500 --goodput tpot:50."""
        spread: list[str] = []
        is_list = False
        for word in args:
            is_list = word == "--goodput" or (is_list and _BOUND.fullmatch(word) is not None)
            if is_list and word != "--goodput" and spread[-1] != "--goodput":
                spread.append("--goodput")
            spread.append(word)
        return super().parse_args(ctx, spread)


class FlagsFile(TyperCommand):
    """A command that takes a YAML file of its own flags; those of the command line win, repeatable ones are added."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the flags of a file in place of its name."""
        place = next((at for at, word in enumerate(args) if self._is_file(word, args[:at])), None)
        if place is not None:
            args = [*flags_in(Path(args[place]), self._flags()), *args[:place], *args[place + 1 :]]
        return super().parse_args(ctx, args)

    def _is_file(self, word: str, before: list[str]) -> bool:
        if word.startswith("-") or not word.endswith((".yaml", ".yml")):
            return False
        takes_value = {name for one in self.params if not getattr(one, "is_flag", False) for name in one.opts}
        return not before or before[-1] not in takes_value

    def _flags(self) -> list[str]:
        return [name.removeprefix("--") for one in self.params for name in one.opts if name.startswith("--")]


def flags_in(path: Path, known: list[str]) -> list[str]:
    """Return the flags that a YAML file stands for.

    Keys are flags without their dashes. A list repeats its flag, but for `rates`, which are one list; `vary` and `set`
    may be mappings of keys of the configuration.

    Raises:
        ConfigError: if the file is none, or names an unknown flag.
    """
    from sim.files.yamlfile import ConfigError, Problem  # noqa: PLC0415
    from sim.files.yamltext import parse  # noqa: PLC0415
    from sim.names import did_you_mean  # noqa: PLC0415 - yaml is slow to import

    text = path.read_text(encoding="utf-8")
    document = parse(text, str(path))
    if not isinstance(document.tree, dict):
        raise ConfigError([Problem((), "expected flags such as `rates: 6:12:2`, one a line", document.marks.get(()))])
    unknown = [
        Problem((key,), f"no flag is named so{did_you_mean(str(key), known)}", document.marks.get((key,)))
        for key in document.tree
        if key not in known
    ]
    if unknown:
        raise ConfigError(unknown)
    rates = _as_written(text, "rates")
    told = document.tree if rates is None else {**document.tree, "rates": rates}
    return [word for key, value in told.items() for word in _words(key, value)]


def _as_written(text: str, key: str) -> str | None:
    """Return the plain value of a key as it is written, for YAML 1.1 takes 6:12:2 for a number to base 60."""
    import yaml  # noqa: PLC0415 - slow to import

    node = yaml.compose(text, Loader=yaml.SafeLoader)
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    value = next((value for name, value in pairs if name.value == key), None)
    if isinstance(value, yaml.SequenceNode):
        return ",".join(str(one.value) for one in value.value)
    return value.value if isinstance(value, yaml.ScalarNode) else None


def _words(key: str, value: Any) -> Iterator[str]:
    flag = f"--{key}"
    if isinstance(value, Mapping):
        for name, one in value.items():
            yield from (flag, f"{name}={_listed(one) if key == 'vary' else _text(one)}")
    elif isinstance(value, bool):
        yield from [flag] if value else []
    elif key == "rates" and isinstance(value, list):
        yield from (flag, ",".join(map(str, value)))
    else:
        for one in value if isinstance(value, list) else [value]:
            yield from (flag, str(one))


def _listed(values: Any) -> str:
    return ",".join(map(_text, values)) if isinstance(values, list) else _text(values)


def _text(value: Any) -> str:
    """Return a value as `--set` takes it: JSON is YAML; a plain word stays as it is, unless YAML reads it otherwise."""
    import yaml  # noqa: PLC0415 - slow to import

    is_plain = isinstance(value, str) and _PLAIN.fullmatch(value) and yaml.safe_load(value) == value
    return value if is_plain else json.dumps(value)
