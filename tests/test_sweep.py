"""Latency against load: which runs, what a row says, and the command that makes them."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import sim.replications
import sim.sweep
from sim.cli.app import app
from sim.experiment import execute
from sim.summary import Summary
from sim.sweep import Cell, cells, parse_rates, perform_cells, rows, write_csv

SMALL = {"workload": {"preset": "paper", "requests": 40}}
FLAGS = ["--rates", "4,8", "--reps", "2", "-n", "40", "-j", "1"]


def ran(cell: Cell, *, p50: float | None = 100.0, p99: float | None, verdict: str = "stable") -> tuple[Cell, Summary]:
    return cell, {
        "requests": {"offered": 40, "completed": 40},
        "metrics": {"ttft_ms": {"p50": p50, "p99": p99}},
        "slo": {"ttft_s": 5.0, "attainment": 1.0},
        "adapters": {"hit_rate": 0.5},
        "stability": {"verdict": verdict},
    }


def plan(systems: Sequence[str] = ("slora", "chameleon"), reps: int = 2, **given: Any) -> list[Cell]:
    return cells(systems, (4.0,), reps, extra=SMALL, **given)


def sweep(*flags: str) -> Any:
    return CliRunner().invoke(app, ["sweep", *FLAGS, *flags])


def test_rates_may_be_listed() -> None:
    assert parse_rates("9, 5,8.5,5") == (5.0, 8.5, 9.0)


def test_a_range_of_rates_has_both_ends_and_no_rounding() -> None:
    assert parse_rates("5:5.4:0.1") == (5.0, 5.1, 5.2, 5.3, 5.4)


def test_ranges_and_single_rates_mix() -> None:
    assert parse_rates("5:7:1,6.5") == (5.0, 6.0, 6.5, 7.0)


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "nan", "inf", "5:6", "6:5:1", "5:6:0", "5:6:1:2"])
def test_rates_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="got"):
        parse_rates(text)


def test_a_range_of_too_many_rates_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 1000"):
        parse_rates("1:100000:0.001")


def test_all_systems_get_the_same_seeds() -> None:
    found = [(cell.system, cell.task.loaded.config.seed) for cell in plan()]
    assert found == [("slora", 0), ("chameleon", 0), ("slora", 1), ("chameleon", 1)]


def test_each_run_has_a_directory_of_its_own(tmp_path: Path) -> None:
    found = [cell.task.directory for cell in cells(["slora"], (4.0, 8.5), 2, extra=SMALL, out=tmp_path)]
    names = ["rate-4/seed-0", "rate-8.5/seed-0", "rate-4/seed-1", "rate-8.5/seed-1"]
    assert found == [tmp_path / "slora" / name for name in names]


def test_without_a_folder_nothing_is_kept() -> None:
    assert [cell.task.directory for cell in plan(["slora"])] == [None, None]


def test_a_systems_name_does_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    (cell,) = plan(["slora"], 1, changes=["name=../../mine"], out=tmp_path)
    assert cell.task.directory == tmp_path / "-..-mine" / "rate-4" / "seed-0"


def test_two_systems_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="different names, got slora, slora"):
        plan(["slora", "slora"])


def test_a_change_that_fixes_the_rate_is_refused() -> None:
    with pytest.raises(ValueError, match=r"workload\.rate_per_s=3\.0 is fixed"):
        plan(changes=["workload.rate_per_s=3"])


def test_a_row_is_the_mean_over_seeds_with_its_interval() -> None:
    first, second = plan(["slora"])
    (row,) = rows([ran(first, p99=100.0), ran(second, p99=300.0)])
    assert row.p99_ms is not None
    assert row.p99_ms.low is not None
    assert (row.p99_ms.estimate, row.p99_ms.n) == (200.0, 2)
    assert row.p99_ms.low < 100


def test_a_system_is_compared_with_the_first_seed_by_seed() -> None:
    values = zip(plan(), (100.0, 80.0, 1000.0, 800.0), strict=True)
    baseline, other = rows([ran(cell, p99=value) for cell, value in values])
    assert baseline.p99_cut is None
    assert other.p99_cut is not None
    assert other.p99_cut.low == pytest.approx(0.2)  # the spread between seeds is gone
    assert other.p99_cut.high == pytest.approx(0.2)


def test_a_run_without_a_finished_request_leaves_the_row_without_a_percentile() -> None:
    first, second = plan(["slora"])
    (row,) = rows([ran(first, p99=100.0), ran(second, p99=None)])
    assert row.p99_ms is None
    assert row.p50_ms is not None


def test_one_queue_that_is_not_stable_makes_the_row_unstable() -> None:
    first, second = plan(["slora"])
    (calm,) = rows([ran(first, p99=1.0), ran(second, p99=1.0)])
    (row,) = rows([ran(first, p99=1.0), ran(second, p99=1.0, verdict="backlogged")])
    assert calm.is_stable
    assert not row.is_stable
    assert row.verdicts == {"stable": 1, "backlogged": 1}


def test_a_failed_write_leaves_the_old_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sweep.csv").write_text("old")

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        write_csv(rows([ran(plan()[0], p99=1.0)]), tmp_path / "sweep.csv")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("sweep.csv", "old")]


def test_the_command_prints_a_row_per_rate_and_system() -> None:
    result = sweep()
    assert result.exit_code == 0, result.output
    table = result.stdout.splitlines()[3:]
    assert [line.split()[:2] for line in table[::2]] == [["4", "slora"], ["8", "slora"]]
    assert [line.split()[0] for line in table[1::2]] == ["chameleon", "chameleon"]


def test_the_command_says_what_was_run() -> None:
    said = sweep("--set", "memory.kv_pool_tokens=6000").stdout.splitlines()[0]
    words = "workload paper", "40 requests per run", "2 paired seeds", "a40", "memory.kv_pool_tokens=6000", "n = 40"
    assert [word for word in words if word not in said] == []


def test_json_and_csv_hold_the_same_rows(tmp_path: Path) -> None:
    result = sweep("--json", "--out", str(tmp_path))
    told = json.loads(result.stdout)
    with (tmp_path / "sweep.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert told["complete"] is True
    assert [row["system"] for row in written] == ["slora", "chameleon"] * 2
    assert [float(row["ttft_p99_ms"]) for row in written] == [row["ttft_p99_ms"] for row in told["rows"]]


def test_a_second_start_simulates_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = json.loads(sweep("--rates", "4", "--json", "--out", str(tmp_path)).stdout)
    simulated = []

    def counted(loaded: Any) -> Any:
        simulated.append(loaded.config.workload.rate_per_s)
        return execute(loaded)

    monkeypatch.setattr(sim.replications, "execute", counted)
    second = json.loads(sweep("--rates", "4,6", "--json", "--out", str(tmp_path)).stdout)
    assert simulated == [6.0] * 4
    assert second["rows"][:2] == first["rows"]


def test_an_interrupted_sweep_shows_what_is_finished_and_keeps_its_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(plan: Sequence[Cell], jobs: int) -> Iterator[tuple[Cell, Summary]]:
        yield from perform_cells(plan[:2], jobs)
        raise KeyboardInterrupt

    monkeypatch.setattr(sim.sweep, "perform_cells", interrupted)
    result = sweep("--out", str(tmp_path))
    assert result.exit_code == 130
    assert "2 of 8 runs are finished" in result.stderr
    assert "6 runs are missing" in result.stdout
    assert len(list(tmp_path.rglob("DONE"))) == 2
    assert not (tmp_path / "sweep.csv").exists()


def test_a_picture_of_an_unknown_kind_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sim.sweep, "perform_cells", None)
    result = sweep("--figure", "curve.bmp")
    assert result.exit_code == 2
    assert ".svg, .png, .pdf" in result.stderr


def test_the_command_draws_the_curves(tmp_path: Path) -> None:
    picture = tmp_path / "pictures" / "curve.svg"
    assert sweep("--figure", str(picture)).exit_code == 0
    assert picture.read_text().startswith("<?xml")


def test_a_trace_file_is_played_at_every_rate() -> None:
    trace = Path(__file__).resolve().parents[1] / "traces" / "paper-300.csv"
    told = json.loads(sweep("--trace", str(trace), "-s", "slora", "--json").stdout)
    assert told["note"].startswith("workload paper-300.csv")
    slow, fast = told["rows"]
    assert slow["offered"] == fast["offered"] == 2 * 40
    assert slow["ttft_p99_ms"] < fast["ttft_p99_ms"]


def test_importing_the_command_loads_neither_pandas_nor_matplotlib() -> None:
    import subprocess  # noqa: PLC0415

    code = "import sys, sim.sweep, sim.cli.sweep, sim.plots; print({'pandas', 'matplotlib'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
