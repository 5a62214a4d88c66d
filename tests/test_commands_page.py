"""What `docs/commands.md` tells a reader to do is done here, in an empty directory; and it says what the code does."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from sim.cli.capacity import REQUESTS
from sim.results.block_bootstrap import BLOCKS, DRAWS
from tests.commands import chameleon

PAGE = (Path(__file__).parents[1] / "docs" / "commands.md").read_text(encoding="utf-8")
FAST = {"run": [], "compare": [], "sweep": ["-j", "1"], "capacity": ["-j", "1", "--precision", "0.1"]}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def test_every_command_of_the_page_succeeds_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (grid,) = blocks("yaml")
    Path("grid.yaml").write_text(grid)
    assert {words[0] for words in commands()} == {*FAST, "report", "timeline"}
    for words in commands():
        said = chameleon(*words, *FAST.get(words[0], []))
        assert said.code == 0, (words, said.err)
        assert said.out
    assert {path.name for path in Path("runs").iterdir()} == {
        "adapters.svg",
        "capacity.json",
        "chameleon",
        "night",
        "slora",
        "sweep",
    }


@pytest.mark.parametrize("name", list(FAST))
def test_every_flag_of_the_page_is_one(name: str) -> None:
    section = re.search(rf"^## {name}$(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert section
    text = chameleon(name, "--help").out
    known = set(re.findall(r"--[a-z0-9-]+", text))
    told = set(re.findall(r"--[a-z][a-z0-9-]+", re.sub(r"^chameleon .*$", "", section[1], flags=re.MULTILINE)))
    assert told <= known | {"--reps"}


def test_the_page_and_the_code_agree_on_numbers() -> None:
    assert f"cut into {BLOCKS} blocks" in PAGE
    assert f"drawn again {DRAWS} times" in PAGE
    assert REQUESTS == 4000
