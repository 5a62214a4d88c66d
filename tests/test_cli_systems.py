"""`chameleon systems`: the list, one system, and the generated page that puts all side by side."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from unittest import mock

import pytest

from sim.cli import systems
from sim.config import load_config
from sim.experiments import field
from sim.experiments.field import Setting, alike, blocks, plan
from sim.experiments.replications import perform
from sim.files.yamlfile import packaged_names
from tests.commands import chameleon

PAGE = Path(__file__).parents[1] / "docs" / "systems.md"
TINY = ("table", "--system", "slora", "--system", "chameleon", "--requests", "20", "--reps", "2", "--jobs", "1")


class Terminal(io.StringIO):
    """Where a person reads."""

    def isatty(self) -> bool:
        return True


def rows_of(text: str) -> list[list[str]]:
    """Return the systems of each Markdown table whose first column holds systems."""
    tables = re.split(r"^\| system .*\n", text, flags=re.MULTILINE)[1:]
    return [re.findall(r"^\| `([^`]+)` ", table.split("\n\n")[0], flags=re.MULTILINE) for table in tables]


def test_a_pipe_gets_one_line_for_each_system() -> None:
    lines = chameleon("systems", "list").out.splitlines()
    assert [line.split()[0] for line in lines] == packaged_names()


def test_a_line_of_the_list_says_what_a_system_is_and_where_its_rules_come_from() -> None:
    (line,) = [line for line in chameleon("systems", "list").out.splitlines() if line.startswith("lorax ")]
    assert "whole lengths reserved [predibase/lorax (Apache-2.0)" in line


def test_a_terminal_gets_lines_of_80_columns() -> None:
    out = Terminal()
    size = os.terminal_size((80, 24))
    with mock.patch("sys.stdout", out), mock.patch("shutil.get_terminal_size", return_value=size):
        systems.app(["list"], standalone_mode=False)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == packaged_names()


@pytest.mark.parametrize("name", packaged_names())
def test_every_packaged_system_bears_its_file_s_name_and_says_what_it_is_and_follows(name: str) -> None:
    config = load_config(name).config
    assert config.name == name
    assert config.description
    assert config.source


def test_no_two_systems_are_described_alike() -> None:
    told = [load_config(name).config.description for name in packaged_names()]
    assert len(set(told)) == len(told)


def test_a_shown_system_says_what_it_extends_and_loads_back_to_the_same(tmp_path: Path) -> None:
    text = chameleon("systems", "show", "fastserve").out
    assert "# extends vllm-v0, which extends vllm\n" in text
    assert text.startswith("# fastserve\n# skip-join")
    shown = tmp_path / "shown.yaml"
    shown.write_text(text)
    assert load_config(shown).config == load_config("fastserve").config


def test_an_unknown_system_is_answered_with_the_close_one() -> None:
    said = chameleon("systems", "show", "slorra")
    assert said.code == 2
    assert "did you mean 'slora'" in said.err


def test_a_table_is_written_byte_by_byte_the_same_again(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    files = [tmp_path / name for name in ("one.md", "other.md", "again.md")]
    for file, keep in zip(files, ((), ("--keep", kept), ("--keep", kept)), strict=True):
        assert chameleon("systems", *TINY, "--out", file, *keep).code == 0
    text = files[0].read_text()
    assert [file.read_text() for file in files] == [text] * 3
    assert rows_of(text) == [["slora", "chameleon"]] * (1 + 2 * len(field.RATES_PER_S) + 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.md", "kept", "one.md", "other.md"]


def test_finished_runs_are_kept_and_not_simulated_again(tmp_path: Path) -> None:
    chameleon("systems", *TINY, "--keep", tmp_path)
    done = list(tmp_path.rglob("DONE"))
    assert len(done) == 2 * 2 * (2 * len(field.RATES_PER_S) + 1)
    with mock.patch("sim.experiments.replications.execute", side_effect=AssertionError("simulated again")):
        assert chameleon("systems", *TINY, "--keep", tmp_path).code == 0


def test_an_interrupted_table_leaves_no_page(tmp_path: Path) -> None:
    with mock.patch("sim.experiments.replications.execute", side_effect=KeyboardInterrupt):
        said = chameleon("systems", *TINY, "--out", tmp_path / "page.md")
    assert said.code == 130
    assert not list(tmp_path.iterdir())


def test_every_p99_of_a_table_stands_beside_its_n() -> None:
    lines = chameleon("systems", *TINY).out.splitlines()
    (header, *_) = [line for line in lines if "P99" in line and line.startswith("|")]
    names = [cell.strip() for cell in header.split("|")]
    assert names[names.index("P99 TTFT, ms") + 1] == "n"
    assert {line.split("|")[4].strip() for line in lines if line.startswith("| `slora` | 3")} <= {"40"}


def test_systems_that_did_the_same_are_told_to_be_the_same() -> None:
    setting = Setting("by-hand", "by hand", (5.0,))
    cells = plan(setting, ("slora", "slora-sjf", "vllm"), 1, 20, None)
    (block,) = blocks(setting, [(cell, perform(cell.task)) for cell in cells])
    assert alike(block) == [["slora", "slora-sjf"]]  # twenty requests never wait for one another


def test_all_systems_of_the_table_have_the_same_card_and_memory() -> None:
    found = field.configs(packaged_names()).values()
    assert {(config.hardware, config.model, config.memory.reserve_bytes) for config in found} == {
        ("a40", "llama-7b", 27_000_000_000)
    }


def test_the_page_lists_exactly_the_packaged_systems() -> None:
    tables = rows_of(PAGE.read_text(encoding="utf-8"))
    assert len(tables) == 1 + 2 * len(field.RATES_PER_S) + 1
    assert tables == [packaged_names()] * len(tables)
