"""The command as a whole: what it loads, which stream it speaks on, and that a mistake is one message."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import chameleon, python

SLOW = ("pandas", "matplotlib", "scipy", "torch")
COMMANDS = ("demo", "run", "compare", "sweep", "capacity", "systems", "policies", "config", "trace", "data", "gpu")


@pytest.mark.parametrize("arguments", [["--help"], [], ["--version"], ["run", "--help"]])
def test_help_and_version_load_nothing_slow(arguments: list[str], tmp_path: Path) -> None:
    code = (
        f"import sys; sys.argv = ['chameleon', *{arguments!r}]\n"
        "from sim.__main__ import main\n"
        "try: main()\n"
        f"except SystemExit: print([name for name in {SLOW!r} if name in sys.modules])"
    )
    assert python(code, tmp_path).out.splitlines()[-1] == "[]"


def test_importing_the_package_loads_nothing_slow(tmp_path: Path) -> None:
    code = f"import sim, sys; sim.__all__; print([name for name in {SLOW!r} if name in sys.modules])"
    assert python(code, tmp_path).out == "[]\n"


def test_help_names_every_command() -> None:
    said = chameleon("--help")
    assert said.code == 0
    assert [name for name in COMMANDS if f"\n  {name} " not in said.out] == []


def test_without_arguments_it_shows_its_help() -> None:
    said = chameleon()
    assert "Usage: chameleon" in said.out + said.err
    assert said.code == 2


def test_help_shows_the_defaults_that_only_the_text_knows() -> None:
    text = chameleon("run", "--help").out
    assert [
        default for default in ("[default: a40]", "[default: llama-7b]", "[default: paper]") if default not in text
    ] == []


def test_the_version_is_that_of_the_distribution() -> None:
    said = chameleon("--version")
    assert said.code == 0
    assert said.out.startswith("chameleon-sim ")


def test_a_misspelt_command_is_answered_with_the_close_one() -> None:
    said = chameleon("rnu")
    assert said.code == 2
    assert "Did you mean 'run'?" in said.err
    assert said.out == ""


@pytest.mark.parametrize("arguments", [["compare"], ["policies", "show"], ["trace", "convert", "one.csv"]])
def test_a_missing_argument_is_named_without_a_traceback(arguments: list[str]) -> None:
    said = chameleon(*arguments)
    assert said.code == 2
    assert "Missing argument" in said.err
    assert "Traceback" not in said.err


def test_json_is_all_that_standard_output_holds() -> None:
    said = chameleon("run", "--requests", "40", "--json")
    assert json.loads(said.out)["requests"]["offered"] == 40
    assert "cost coefficients" in said.err


def test_an_error_in_a_users_own_policy_is_told_with_its_line_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from policies.base import Cache\n"
        "class Mine(Cache):\n"
        "    def used(self, adapter, now):\n"
        "        raise ValueError('of my own making')\n"
    )
    out = tmp_path / "run"
    said = chameleon("run", "--requests", "40", "--set", f"cache.kind={tmp_path}/mine.py:Mine", "--out", str(out))
    assert said.code == 2
    what, *where = said.err.splitlines()[-4:]
    assert what.startswith(f"error: cache {tmp_path}/mine.py:Mine failed: ValueError: of my own making; at 0.")
    assert what.endswith(" s of the run with seed 0")
    assert where == [
        f"  {tmp_path}/mine.py:4, in used",
        "    raise ValueError('of my own making')",
        f"`chameleon policies check cache {tmp_path}/mine.py:Mine` looks for the smallest world in which it fails",
    ]
    assert not out.exists()
