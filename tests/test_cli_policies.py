"""`chameleon policies` and `chameleon config`: what there is to choose from, and what a file would do."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from unittest import mock

import pytest

from policies.builtin import BUILTIN
from sim.cli import policies
from sim.config import load_config
from sim.conformance import suite
from sim.conformance.suite import OF_SEAM
from sim.files.yamlfile import packaged_names
from tests.commands import chameleon


class Terminal(io.StringIO):
    """Where a person reads."""

    def isatty(self) -> bool:
        return True


def on_a_terminal(*words: str, columns: int = 80) -> list[str]:
    """Return the lines that a person sees."""
    out = Terminal()
    size = os.terminal_size((columns, 24))
    with mock.patch("sys.stdout", out), mock.patch("shutil.get_terminal_size", return_value=size):
        policies.app([*words], standalone_mode=False)
    return out.getvalue().splitlines()


def test_a_pipe_gets_one_line_for_every_policy_and_system() -> None:
    rows = [line.split()[:2] for line in chameleon("policies", "list").out.splitlines()]
    named = [[seam, name] for seam, table in BUILTIN.items() for name in table]
    assert [row for row in rows if row[0] != "system"] == named
    assert [name for seam, name in rows if seam == "system"] == packaged_names()


def test_the_list_says_what_each_does_and_where_it_comes_from() -> None:
    (line,) = [line for line in chameleon("policies", "list").out.splitlines() if line.split()[1] == "gdsf"]
    assert "Greedy-Dual-Size-Frequency: evict" in line
    assert line.endswith("libCacheSim]")
    assert "[Cherkasova 1998" in line


def test_one_seam_may_be_listed_alone() -> None:
    text = chameleon("policies", "list", "cache").out
    assert {line.split()[0] for line in text.splitlines()} == {"cache"}
    assert "did you mean 'cache'" in chameleon("policies", "list", "cach").err


def test_a_terminal_gets_lines_that_fit() -> None:
    listed = on_a_terminal("list")
    assert max(map(len, listed)) <= 80
    assert sum(line.endswith(":") and not line.startswith(" ") for line in listed) == len(BUILTIN) + 1
    shown = on_a_terminal("show", "multi-queue")
    assert max(map(len, shown)) <= 80
    assert "      seconds between divisions, and the window of what they look at." in shown


def test_a_parameter_is_shown_with_what_it_means() -> None:
    lines = chameleon("policies", "show", "cache", "chameleon").out.splitlines()
    assert lines[lines.index("  window_s: float = 300.0") + 1] == "      seconds of use that count."


def test_a_policy_is_shown_with_its_parameters_and_defaults() -> None:
    text = chameleon("policies", "show", "cache", "chameleon").out
    assert "frequency: float = 0.45" in text
    assert "source: Chameleon" in text


def test_a_policy_is_shown_without_its_seam_too() -> None:
    assert chameleon("policies", "show", "lru").out.startswith("cache lru (built in)")


def test_a_name_that_a_system_shares_shows_both() -> None:
    text = chameleon("policies", "show", "chameleon").out
    assert "cache chameleon" in text
    assert "system chameleon" in text


def test_a_policy_of_ones_own_is_shown(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        'class Mine:\n    """Keep all."""\n    def __init__(self, *, fade_s: float = 3.0): pass\n'
        "    def score(self, adapter, now): return 0.0\n"
    )
    text = chameleon("policies", "show", f"{tmp_path}/mine.py:Mine").out
    assert "Keep all." in text
    assert "fade_s: float = 3.0" in text


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["lrru"], "did you mean 'lru'?"),
        (["cache", "lrru"], "error: no cache is named 'lrru' - did you mean 'lru'?"),
        (["cach", "lru"], "did you mean 'cache'?"),
        (["cache"], "drop-after-use, lru"),
        (["./mine.py:Mine"], "./mine.py cannot be imported: FileNotFoundError"),
        (["cache", "lru", "fifo"], "one policy at a time"),
    ],
)
def test_what_cannot_be_shown_is_answered_with_what_can(words: list[str], answer: str) -> None:
    said = chameleon("policies", "show", *words)
    assert said.code == 2
    assert answer in said.err


def test_a_valid_file_is_called_valid(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("extends: slora\nname: mine\n")
    assert chameleon("config", "check", file).out == f"{file}: ok, a valid system named 'mine'\n"


def test_every_wrong_name_in_a_file_is_told_with_its_place_and_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("extends: slora\nworkload: {trace: nowhere.csv}\nhardware: a41\n")
    said = chameleon("config", "check", file)
    assert said.code == 2
    assert f"{file}:3:1: hardware: unknown hardware 'a41'" in said.err
    assert f"{file}:2:12: nowhere.csv: no such trace file" in said.err
    assert "\n    hardware: a41\n" in said.err


def test_a_shown_configuration_loads_back_to_the_same(tmp_path: Path) -> None:
    shown = tmp_path / "shown.yaml"
    shown.write_text(chameleon("config", "show", "chameleon", "--set", "cache.size=0.3").out)
    assert load_config(shown).config == load_config("chameleon", ["cache.size=0.3"]).config


def test_the_schema_knows_the_keys_of_a_file() -> None:
    schema = json.loads(chameleon("config", "schema").out)
    assert {"cache", "scheduler", "workload"} <= set(schema["properties"])


@pytest.mark.parametrize("words", [["lru"], ["cache", "lru"], ["lru", "--seam", "cache"]])
def test_a_policy_that_keeps_the_laws_gets_one_line_for_each(words: list[str]) -> None:
    said = chameleon("policies", "check", *words, "--worlds", "2", "--seed", "5")
    assert said.code == 0
    *laws, summary = said.out.splitlines()
    assert [line[:8] for line in laws] == ["ok      "] * len(OF_SEAM["cache"])
    assert summary == f"cache lru keeps all {len(laws)} laws in 2 worlds (seed 5)"


def test_a_policy_that_breaks_a_law_is_shown_in_a_small_world(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import random\nclass Mine:\n    def key(self, *_): return random.random()\n")
    said = chameleon("policies", "check", f"{tmp_path}/mine.py:Mine", "--worlds", "3")
    assert said.code == 1
    assert said.out.endswith(" laws in 3 worlds (seed 0)\n")
    assert "BROKEN  asked twice in the same state, it answers the same\n        key(request " in said.out
    assert "the smallest world found that shows it:\n          memory " in said.out
    assert "Mine breaks " in said.out


@pytest.mark.skipif(sys.gettrace() is not None, reason="a debugger or coverage has the lines for itself")
def test_a_policy_that_never_ends_is_told_with_the_worlds_that_it_was_played_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "MAX_LINES", 1)
    text = "class Mine:\n    def fill(self, batch, waiting, now):\n        while True:\n            pass\n"
    (tmp_path / "mine.py").write_text(text)
    said = chameleon("policies", "check", f"{tmp_path}/mine.py:Mine", "--worlds", "3")
    assert said.code == 1
    assert "fill has run 1000000 lines and did not come to an end (in fill, mine.py:" in said.out
    assert "in 1 of 3 worlds (seed 0); in the others it would take as long" in said.out


def test_a_hook_that_takes_other_arguments_is_told_before_any_world_is_played(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("class Mine:\n    def score(self, adapter): return 0.0\n")
    said = chameleon("policies", "check", f"{tmp_path}/mine.py:Mine")
    assert said.code == 2
    assert "Mine has score(self, adapter), which should be score(self, adapter, now)" in said.err


@pytest.mark.parametrize("setting", ["ageing_s=-1", "scheduler.ageing_s=-1"])
def test_a_parameter_reaches_the_policy_with_or_without_its_seam(setting: str) -> None:
    said = chameleon("policies", "check", "sjf", "--worlds", "1", "--set", setting)
    assert (said.code, said.err) == (2, "error: ageing_s must be at least 0, got -1.0\n")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["lrru"], "did you mean 'lru'?"),
        (["cach", "lru"], "did you mean 'cache'?"),
        (["cache", "lrru"], "did you mean 'lru'?"),
        (["lru", "--seam", "scheduler"], "no scheduler is named 'lru'"),
        (["cache", "lru", "--seam", "cache"], "one policy at a time"),
        (["oracle"], "say which: --seam"),
        (["policies.base:Adapter"], "has no hook of any seam"),
        (["policies.eviction:LRUU"], "did you mean 'LRU'?"),
        (["fcfs", "--set", "x=1"], "scheduler.x: Extra inputs are not permitted"),
        (["lru", "--worlds", "0"], "a whole number of at least 1"),
    ],
)
def test_what_cannot_be_checked_is_told(words: list[str], told: str) -> None:
    said = chameleon("policies", "check", *words)
    assert said.code == 2
    assert told in said.err
