"""docs/paper.md: verdicts by rule, rows that a reader can repeat, and the page as it was written."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest

from sim.config import load_config

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(DOCS))
    return importlib.import_module("paper")


@pytest.fixture
def verdicts(paper: ModuleType) -> ModuleType:
    return importlib.import_module("paper_verdicts")


def text() -> str:
    return (DOCS / "paper.md").read_text(encoding="utf-8")


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def told_rows(until: str = "## The runs") -> list[list[str]]:
    """Return the rows of the page's tables by figure, up to a heading."""
    body = text().split("## Figure by figure")[1].split(f"\n{until}")[0]
    lines = [line for line in body.splitlines() if line.startswith("| ")]
    return [cells_of(line) for line in lines if not line.startswith(("| ---", "| quantity |"))]


# --- the rule ---


def test_a_printed_value_inside_the_interval_is_reproduced(verdicts: ModuleType) -> None:
    assert verdicts.judge(verdicts.Equal(13.0), [[10.0, 11.0, 9.0, 14.0]]) == "reproduced"


def test_a_printed_value_within_a_tenth_of_the_mean_is_reproduced_and_beyond_it_is_not(verdicts: ModuleType) -> None:
    steady = [100.0, 100.1, 99.9]
    assert verdicts.judge(verdicts.Equal(109.0), [steady]) == "reproduced"
    assert verdicts.judge(verdicts.Equal(111.0), [steady]) == "not reproduced"


def test_an_effect_on_the_printed_side_is_a_direction_and_on_the_other_a_miss(verdicts: ModuleType) -> None:
    expect = verdicts.Equal(80.0, 0.0)
    assert verdicts.judge(expect, [[3.0, 3.1, 2.9]]) == "direction only"
    assert verdicts.judge(expect, [[-3.0, -3.1, -2.9]]) == "not reproduced"
    assert verdicts.judge(expect, [[3.0, -3.1, 0.2]]) == "not reproduced"


def test_an_effect_on_the_other_side_is_a_miss_however_near(verdicts: ModuleType) -> None:
    assert verdicts.judge(verdicts.Equal(1.05, 1.0), [[0.98, 0.981, 0.979]]) == "not reproduced"
    assert verdicts.judge(verdicts.Equal(1.05, 1.0), [[1.02, 1.021, 1.019]]) == "reproduced"


def test_an_interval_that_holds_the_printed_effect_and_none_at_all_decides_nothing(verdicts: ModuleType) -> None:
    assert verdicts.judge(verdicts.Equal(12.0, 0.0), [[-20.0, 30.0, 10.0]]) == "undecided"


def test_a_bound_is_kept_by_the_whole_interval_by_a_part_or_not_at_all(verdicts: ModuleType) -> None:
    expect = verdicts.Bound(None, 150.0)
    assert verdicts.judge(expect, [[100.0, 101.0, 99.0]]) == "reproduced"
    assert verdicts.judge(expect, [[140.0, 165.0, 140.0]]) == "undecided"
    assert verdicts.judge(expect, [[200.0, 201.0, 199.0]]) == "not reproduced"


def test_an_order_asks_all_neighbours_seed_by_seed(verdicts: ModuleType) -> None:
    low, high = [10.0, 20.0, 30.0], [11.0, 21.0, 31.2]
    between = [[10.0, 20.0, 30.1], [10.1, 19.9, 30.0]]
    assert verdicts.judge(verdicts.Rising(), [low, high]) == "reproduced"
    assert verdicts.judge(verdicts.Rising(), [low, *between, high]) == "direction only"
    assert verdicts.judge(verdicts.Rising(), [high, low]) == "not reproduced"


def test_the_end_of_an_axis_is_never_called_reproduced(verdicts: ModuleType) -> None:
    assert verdicts.judge(verdicts.Axis(4.0), [[1.0, 1.0]]) == "within the axis"
    assert verdicts.judge(verdicts.Axis(4.0), [[5.0, 5.0]]) == "beyond the axis"


# --- rows ---


def test_the_command_of_every_cell_names_its_whole_configuration(paper: ModuleType) -> None:
    runs_of = importlib.import_module("paper_runs")
    for cell in paper.cells_of(paper.all_rows()):
        words = shlex.split(cell.command)
        flags = list(zip(words[2::2], words[3::2], strict=True))
        given = dict(flags)
        sets = [value for flag, value in flags if flag == "--set"]
        low_per_s = given["--rates"].partition(":")[0] if cell.probe == "knee" else given["--rate"]
        workload = {"preset": "paper", "requests": int(given["--requests"]), "rate_per_s": float(low_per_s)}
        named = {"hardware": given.get("--hardware", "a40"), "model": given.get("--model", "llama-7b"), "seed": 0}
        repeated = load_config(given["--system"], sets, {"workload": workload, **named}).config
        assert repeated == runs_of.loaded(cell, 0).config


def test_a_baseline_keeps_its_own_memory_where_a_scenario_gives_the_cache_another(paper: ModuleType) -> None:
    claims, runs_of = importlib.import_module("paper_claims"), importlib.import_module("paper_runs")
    region = claims.REGIONS[0]
    assert region.of(runs_of.Cell("slora")).changes == (claims.POOL,)
    assert "adapters.memory=reserved" in region.of(runs_of.Cell("chameleon")).changes


def test_a_cut_pairs_runs_by_seed(paper: ModuleType) -> None:
    rows_of, runs_of = importlib.import_module("paper_rows"), importlib.import_module("paper_runs")
    full, base = (runs_of.Cell(name, seeds=2) for name in ("chameleon", "slora"))
    made = {full.key(0): 1.0, full.key(1): 9.0, base.key(0): 2.0, base.key(1): 10.0}
    runs = {key: {"p99_ms": value} for key, value in made.items()}
    assert rows_of.Value("p99_ms", full, base, "cut").series(runs) == pytest.approx([50.0, 10.0])


def test_a_run_that_failed_is_no_number(paper: ModuleType) -> None:
    rows_of, runs_of = importlib.import_module("paper_rows"), importlib.import_module("paper_runs")
    cell = runs_of.Cell("slora", changes=("memory.kv_pool_tokens=0",), seeds=1)
    runs = {cell.key(0): runs_of.measure(cell, 0)}
    with pytest.raises(ValueError, match="kv_pool_tokens"):
        rows_of.Value("p99_ms", cell).series(runs)


def test_a_page_is_made_anew_from_tiny_runs(
    paper: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--quick", "--jobs", "1", "--store", str(tmp_path / "runs.jsonl"), "--out", str(tmp_path / "paper.md")]
    monkeypatch.setattr(sys, "argv", ["paper.py", *words])
    paper.main()
    made = (tmp_path / "paper.md").read_text(encoding="utf-8")
    assert "| TTFT, rank 128 | 144 ms | unloaded | 144.1 ms | **reproduced** (fitted to it) | 40 x 1 | R1 |" in made
    assert "<!--" not in made
    assert "{{" not in made
    kept = (tmp_path / "runs.jsonl").read_bytes()
    paper.main()
    assert (tmp_path / "paper.md").read_text(encoding="utf-8") == made
    assert (tmp_path / "runs.jsonl").read_bytes() == kept


# --- the page as it was written ---


def test_every_row_stands_on_the_page_with_what_is_printed(paper: ModuleType) -> None:
    told = {(line[0], line[1], line[2]) for line in told_rows()}
    assert {(row.what, row.printed, row.scenario) for row in paper.all_rows()} <= told


def test_every_miss_has_a_reason() -> None:
    misses = [
        line for line in told_rows() if not line[4].startswith(("**reproduced**", "no number", "within the axis"))
    ]
    assert misses
    assert [line for line in misses if len(line[4].partition(": ")[2]) < 15] == []


def test_every_reason_is_of_a_row(paper: ModuleType) -> None:
    rows = paper.all_rows()
    for figure, by_quantity in paper.read_reasons().items():
        for begin, by_scenario in by_quantity.items():
            of = {row.scenario for row in rows if row.figure == figure and row.what.startswith(begin)}
            assert of, (figure, begin)
            assert set(by_scenario) - {""} <= of, (figure, begin)


def test_the_verdicts_are_counted_right() -> None:
    (line,) = [line for line in text().splitlines() if line.startswith("| all |")]
    shown = [one[4] for one in told_rows("### Headline") if "(fitted to it)" not in one[4]]
    names = ("**reproduced**", "direction only", "undecided", "not reproduced", "not simulated")
    assert [int(count) for count in cells_of(line)[2:7]] == [
        sum(one.startswith(name) for one in shown) for name in names
    ]


def test_every_command_that_a_row_refers_to_is_listed() -> None:
    listed = set(re.findall(r"^chameleon .*# (R\d+)$", text(), flags=re.MULTILINE))
    referred = {name for line in told_rows() for name in line[6].split()}
    assert referred == listed


def test_no_number_of_the_words_is_missing() -> None:
    assert "(not run)" not in text()
    assert "{{" not in text()


def test_every_table_has_rows_of_one_width() -> None:
    for table in re.findall(r"(?:^\|.*\n)+", text(), flags=re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1
