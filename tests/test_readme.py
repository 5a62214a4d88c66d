"""What the README and the docs tell a reader to do is done here, in an empty directory."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from sim.__main__ import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    """Return every `chameleon ...` line of the README, as words."""
    lines = [line for block in blocks(README, "sh") for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("chameleon ")]


def test_every_command_of_the_readme_succeeds_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    policy = next(block for block in blocks(README, "python") if block.startswith("# my_cache.py"))
    Path("my_cache.py").write_text(policy)
    assert len(commands()) >= 6
    for words in commands():
        monkeypatch.setattr(sys, "argv", ["chameleon", *words])
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr()
        assert left.value.code in (0, None), (words, said.err)
        assert said.out
    assert Path("runs/slora/DONE").exists()


def test_the_python_lines_of_the_readme_print_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = [block for block in blocks(README, "python") if block.startswith("import sim")]
    exec(compile(block, "README.md", "exec"), {})  # noqa: S102 - our own page
    assert len(re.findall(r"\d\.\d", capsys.readouterr().out)) >= 6


def test_every_file_that_the_pages_link_to_exists() -> None:
    for page in [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md"), ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


def test_the_makefile_has_every_target_that_the_readme_names() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"\bmake ([a-z]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
