"""What docs/policies.md tells an author to do is done here, in an empty directory."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
import typer.main

from sim.cli.app import app
from sim.names import SEAMS
from tests.commands import chameleon

GUIDE = (Path(__file__).parents[1] / "docs" / "policies.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    """Return every `chameleon ...` line of the guide, as words."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("chameleon ")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the guide's files and go where they are."""
    for text in [*blocks("python"), *blocks("yaml")]:
        (tmp_path / text.split()[1]).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("words", [words for words in commands() if words[0] != "gpu"], ids=" ".join)
def test_every_command_of_the_guide_succeeds(words: list[str], folder: Path) -> None:
    said = chameleon(*words)
    assert (said.code, said.err if said.code else "") == (0, "")
    assert said.out


def test_every_policy_of_the_guide_is_checked_there() -> None:
    checked = {words[2] for words in commands() if words[:2] == ["policies", "check"]}
    assert {name.partition(":")[0] for name in checked} == {
        f"./my_{name}.py" for name in ("cache", "scheduler", "prefetch", "router")
    }


def test_the_gpu_command_of_the_guide_has_words_that_there_are() -> None:
    (words,) = [words for words in commands() if words[0] == "gpu"]
    command = typer.main.get_command(app).commands["gpu"].commands[words[1]]  # type: ignore[attr-defined]
    given = command.make_context("check", list(words[2:])).params
    assert given["system"] == ["slora", "my_system.yaml"]
    assert given["rate"] == [9.0]


def test_the_python_of_the_guide_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile((folder / "my_run.py").read_text(), "my_run.py", "exec"), {})  # noqa: S102 - our own page
    assert 0 < float(capsys.readouterr().out) <= 1
    exec(compile((folder / "my_comparison.py").read_text(), "my_comparison.py", "exec"), {})  # noqa: S102
    assert capsys.readouterr().out.startswith("Interval(estimate=")
    tests: dict[str, object] = {}
    exec(compile((folder / "test_my_cache.py").read_text(), "test_my_cache.py", "exec"), tests)  # noqa: S102
    tests["test_my_cache_keeps_the_laws"]()  # type: ignore[operator]
    sys.modules.pop("my_cache")


def test_the_guide_names_the_group_of_every_seam() -> None:
    assert {seam for seam in SEAMS if f"`chameleon_sim.{seam}`" in GUIDE} == set(SEAMS)
