"""`chameleon policies` and `chameleon config`: what there is to choose from, and what a file would do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from policies.builtin import BUILTIN
from sim.config import load_config
from sim.yamlfile import packaged_names
from tests.commands import chameleon


def test_the_list_holds_every_built_in_policy_and_every_system() -> None:
    text = chameleon("policies", "list").out
    names = {line.split()[0] for line in text.splitlines() if line.startswith("  ") and line.strip()}
    assert {*packaged_names(), *(name for table in BUILTIN.values() for name in table)} <= names


def test_the_list_says_where_each_comes_from() -> None:
    assert "[Cherkasova 1998" in chameleon("policies", "list").out


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
    text = chameleon("policies", "show", "cache", f"{tmp_path}/mine.py:Mine").out
    assert "Keep all." in text
    assert "fade_s: float = 3.0" in text


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["lrru"], "did you mean 'lru'?"),
        (["cache", "lrru"], "error: no cache is named 'lrru' - did you mean 'lru'?"),
        (["cach", "lru"], "did you mean 'cache'?"),
        (["cache"], "drop-after-use, lru"),
        (["./mine.py:Mine"], "chameleon policies show cache ./mine.py:Mine"),
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


@pytest.mark.parametrize(("seam", "name"), [("cache", "lru"), ("scheduler", "multi-queue"), ("prefetch", "slora")])
def test_a_built_in_policy_keeps_the_rules(seam: str, name: str) -> None:
    said = chameleon("policies", "check", seam, name)
    assert said.code == 0
    assert [line[:6] for line in said.out.splitlines()] == ["ok    "] * 4


@pytest.mark.parametrize(
    ("body", "broken"),
    [
        ("return random.random()", "a second run gives the same"),
        ("self.asked = getattr(self, 'asked', 0) + 1; return self.asked % 7", "being asked at every step"),
    ],
)
def test_a_policy_that_breaks_a_rule_is_found_out(body: str, broken: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(f"import random\nclass Mine:\n    def key(self, request, now): {body}\n")
    said = chameleon("policies", "check", "scheduler", f"{tmp_path}/mine.py:Mine")
    assert said.code == 1
    assert f"BROKEN  {broken}" in said.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["lru"], "a seam and a name are needed"),
        (["cach", "lru"], "did you mean 'cache'?"),
        (["cache", "lrru"], "did you mean 'lru'?"),
    ],
)
def test_what_cannot_be_checked_is_told(words: list[str], told: str) -> None:
    said = chameleon("policies", "check", *words)
    assert said.code == 2
    assert told in said.err
