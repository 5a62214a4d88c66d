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

import sim.experiments.replications
import sim.experiments.sweep
from sim.cli.app import app
from sim.config import load_config
from sim.experiments.axes import Axis, parse_axes, parse_axis, parse_rates, parse_shard, settings
from sim.experiments.replications import Failure
from sim.experiments.run import execute
from sim.experiments.sweep import Cell, Outcome, _offered_rate, attempt_cells, cells, rows
from sim.experiments.sweep_table import records, write_table
from sim.results.summary import Summary
from tests.commands import azure_file, chameleon

SMALL = {"workload": {"preset": "paper", "requests": 40}}
FLAGS = ["--rates", "4,8", "--reps", "2", "-n", "40", "-j", "1"]


def ran(cell: Cell, *, p50: float | None = 100.0, p99: float | None, verdict: str = "stable") -> tuple[Cell, Summary]:
    return cell, {
        "requests": {"offered": 40, "completed": 40},
        "metrics": {"ttft_ms": {"p50": p50, "p99": p99}, "tpot_ms": {"mean": 30.0, "p99": 40.0}},
        "throughput": {"requests_per_s": 4.0},
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
    write_table(rows([ran(plan()[0], p99=1.0)]), tmp_path)
    old = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        write_table(rows([ran(plan()[0], p99=2.0)]), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == old


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

    monkeypatch.setattr(sim.experiments.replications, "execute", counted)
    second = json.loads(sweep("--rates", "4,6", "--json", "--out", str(tmp_path)).stdout)
    assert simulated == [6.0] * 4
    assert second["rows"][:2] == first["rows"]


def test_an_interrupted_sweep_shows_what_is_finished_and_keeps_its_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(plan: Sequence[Cell], jobs: int) -> Iterator[tuple[Cell, Outcome]]:
        yield from attempt_cells(plan[:2], jobs)
        raise KeyboardInterrupt

    monkeypatch.setattr(sim.experiments.sweep, "attempt_cells", interrupted)
    result = sweep("--out", str(tmp_path))
    assert result.exit_code == 130
    assert "2 of 8 runs are finished" in result.stderr
    assert "6 runs are missing" in result.stdout
    assert len(list(tmp_path.rglob("DONE"))) == 2
    assert not (tmp_path / "sweep.csv").exists()


def test_a_picture_of_an_unknown_kind_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sim.experiments.sweep, "attempt_cells", None)
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

    names = "sim.experiments.sweep, sim.cli.sweep, sim.plots"
    code = f"import sys, {names}; print({{'pandas', 'matplotlib'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


VARIED = ["-s", "slora", "--rates", "6", "--vary", "workload.adapters=10,50"]
FAILING = ["-s", "vllm", "--rates", "4", "--vary", "adapters.slots=8,900"]  # 900 slots are more than the card holds


def test_an_axis_is_a_key_and_its_values() -> None:
    assert parse_axis("adapters.slots=8, 16,32") == Axis("adapters.slots", ("8", "16", "32"))


def test_commas_in_brackets_and_quotes_part_no_values() -> None:
    assert parse_axis("k=[8,16],{a: 1, b: [2,3]},'x,y',[64]").values == ("[8,16]", "{a: 1, b: [2,3]}", "'x,y'", "[64]")


def test_a_bracket_in_quotes_opens_nothing() -> None:
    assert parse_axis("k='a[b',8,\"}\",9").values == ("'a[b'", "8", '"}"', "9")


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (["adapters.slots"], "expected KEY=VALUE"),
        (["=8"], "expected KEY=VALUE"),
        (["adapters.slots="], "expected KEY=VALUE"),
        (["adapters.slots=8,,9"], "expected KEY=VALUE"),
        (["adapters.slots=8,8"], "8 is there twice"),
        (["adapters.slots=8", "adapters.slots=9"], "adapters.slots is varied twice"),
        (["cache.kind=lru"], "both fixed by --set and varied"),
        (["workload.rate_per_s=8"], "--rates varies it"),
        (["seed=1,2"], "--reps counts it up"),
        (["name=a,b"], "several --system"),
    ],
)
def test_axes_that_make_no_sense_are_refused(texts: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_axes(texts, ["cache.kind=lfu"])


def test_every_combination_of_values_is_run() -> None:
    axes = parse_axes(["a=1,2", "b=x,y"])
    assert [",".join(value for _, value in one) for one in settings(axes)] == ["1,x", "1,y", "2,x", "2,y"]
    assert list(settings(())) == [()]


def test_a_setting_reaches_the_configuration_and_names_its_directory(tmp_path: Path) -> None:
    found = plan(["slora"], 1, axes=parse_axes(["workload.adapters=10,50"]), out=tmp_path)
    assert [cell.task.loaded.config.workload.adapters for cell in found] == [10, 50]
    folders = [cell.task.directory.relative_to(tmp_path).as_posix() for cell in found if cell.task.directory]
    assert folders == [f"slora/workload.adapters={n}/rate-4/seed-0" for n in (10, 50)]


def test_settings_that_no_folder_can_bear_do_not_share_one(tmp_path: Path) -> None:
    found = plan(["slora"], 1, axes=parse_axes(["workload.ranks=[8 ,64],[8, 64]"]), out=tmp_path)
    assert len({cell.task.directory for cell in found}) == 2


@pytest.mark.parametrize("values", ["[8],[8 ]", f"[{'8,' * 80}8],[{'8,' * 80}16]"])
def test_settings_whose_folders_would_be_named_alike_get_one_each(values: str, tmp_path: Path) -> None:
    found = plan(["slora"], 1, axes=parse_axes([f"workload.ranks={values}"]), out=tmp_path)
    folders = [cell.task.directory.relative_to(tmp_path).parts[1] for cell in found if cell.task.directory]
    assert len(set(folders)) == 2
    assert len({folder.rpartition("-")[0] for folder in folders}) == 1  # they differ in the hash alone


def test_a_system_is_compared_with_the_first_at_the_same_setting() -> None:
    found = plan(reps=1, axes=parse_axes(["workload.adapters=10,50"]))
    table = rows([ran(cell, p99=p99) for cell, p99 in zip(found, (100.0, 50.0, 1000.0, 900.0), strict=True)])
    cuts = [None if row.p99_cut is None else round(row.p99_cut.estimate, 9) for row in table]
    assert cuts == [None, 0.5, None, 0.1]


def test_a_single_system_is_compared_with_its_first_setting_at_the_same_rate() -> None:
    found = plan(["slora"], reps=1, axes=parse_axes(["workload.adapters=10,50"]))
    table = rows([ran(cell, p99=p99) for cell, p99 in zip(found, (100.0, 50.0), strict=True)])
    assert [None if row.p99_cut is None else round(row.p99_cut.estimate, 9) for row in table] == [None, 0.5]


def test_a_part_of_a_sweep_is_compared_as_the_whole_is() -> None:
    whole = plan(reps=1, axes=parse_axes(["workload.adapters=10,50"]))
    part = [cell for cell in whole if cell.system == "chameleon"]  # the first system's runs are elsewhere
    table = rows([ran(cell, p99=p99) for cell, p99 in zip(part, (100.0, 50.0), strict=True)], whole)
    assert [row.p99_cut for row in table] == [None, None]


def test_the_head_of_the_table_names_what_others_are_compared_with() -> None:
    said = sweep("--system", "slora", "--rates", "4", "--vary", "cache.kind=lru,lfu")
    assert "P99 vs lru" in said.output


def test_a_cell_that_failed_has_a_row_with_the_reason_and_no_numbers() -> None:
    good, bad = plan(reps=1)
    first, second = records(rows([ran(good, p99=1.0), (bad, Failure("out of luck"))]))
    assert (first["ttft_p99_ms"], first["error"]) == (1.0, None)
    assert (second["ttft_p99_ms"], second["error"], second["reps"], second["offered"]) == (None, "out of luck", 0, 0)


def test_of_several_reasons_for_a_failure_the_first_is_kept() -> None:
    (row,) = rows([(cell, Failure(f"seed {seed}")) for seed, cell in enumerate(plan(["slora"]))])
    assert row.error == "seed 0"


def test_seeds_that_failed_leave_the_others_their_numbers() -> None:
    good, bad = plan(["slora"])
    (row,) = rows([ran(good, p99=1.0), (bad, Failure("out of luck"))])
    assert (row.seeds, row.error) == ((0,), "out of luck")
    assert row.p99_ms is not None


def test_the_command_varies_any_key_and_has_a_column_for_it(tmp_path: Path) -> None:
    told = json.loads(sweep(*VARIED, "--vary", "cache.kind=lru,lfu", "--json", "--out", str(tmp_path)).stdout)["rows"]
    places = [(row["workload.adapters"], row["cache.kind"]) for row in told]
    assert places == [("10", "lru"), ("10", "lfu"), ("50", "lru"), ("50", "lfu")]
    assert len({row["hit_rate"] for row in told}) > 1
    with (tmp_path / "sweep.csv").open(newline="") as file:
        assert [row["cache.kind"] for row in csv.DictReader(file)] == ["lru", "lfu"] * 2


def test_parquet_holds_the_rows_of_csv(tmp_path: Path) -> None:
    import pandas as pd  # noqa: PLC0415

    sweep(*VARIED, "--out", str(tmp_path))
    parquet, text = pd.read_parquet(tmp_path / "sweep.parquet"), pd.read_csv(tmp_path / "sweep.csv")
    assert list(parquet.columns) == list(text.columns)
    assert parquet["ttft_p99_ms_ci95_high"].tolist() == text["ttft_p99_ms_ci95_high"].tolist()


def test_without_rates_the_workloads_own_is_kept_where_something_else_varies() -> None:
    told = json.loads(sweep(*[word for word in VARIED if word not in {"--rates", "6"}], "--json").stdout)["rows"]
    assert {row["rate_per_s"] for row in told} == {4.0, 8.0}  # of FLAGS
    alone = CliRunner().invoke(app, ["sweep", "-n", "40", "--reps", "1", "-j", "1", *VARIED[:2], *VARIED[4:], "--json"])
    assert {row["rate_per_s"] for row in json.loads(alone.stdout)["rows"]} == {9.0}


def test_without_rates_the_stamps_of_a_trace_file_are_replayed() -> None:
    trace = Path(__file__).resolve().parents[1] / "traces" / "paper-300.csv"
    flags = ["sweep", "-n", "40", "--reps", "1", "-j", "1", "-s", "slora", "--trace", str(trace), "--json"]
    own = json.loads(CliRunner().invoke(app, [*flags, "--vary", "cache.kind=lru"]).stdout)["rows"]
    assert len(own) == 1
    assert 5 < own[0]["rate_per_s"] < 15


def test_a_cell_that_fails_loses_no_other(tmp_path: Path) -> None:
    result = sweep(*FAILING, "--out", str(tmp_path))
    assert result.exit_code == 1
    failed = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(failed) == 1
    assert failed[0].startswith("error: vllm, adapters.slots=900, 4 requests/s, seeds 0, 1: adapters.slots: at most")
    assert "2 of 4 runs failed; the others are in the table" in result.stderr
    with (tmp_path / "sweep.csv").open(newline="") as file:
        good, bad = csv.DictReader(file)
    assert float(good["ttft_p99_ms"]) > 0
    assert (bad["ttft_p99_ms"], bad["error"][:14]) == ("", "adapters.slots")


def test_a_second_start_makes_only_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep(*FAILING, "--out", str(tmp_path))
    again = []

    def counted(loaded: Any) -> Any:
        again.append(loaded.config.adapters.slots)
        return execute(loaded)

    monkeypatch.setattr(sim.experiments.replications, "execute", counted)
    sweep(*FAILING, "--out", str(tmp_path))
    assert again == [900, 900]


def test_an_error_that_nobody_foresaw_is_one_cells_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(loaded: Any) -> Any:
        if loaded.config.seed == 1:
            raise AssertionError("the books do not balance")
        return execute(loaded)

    monkeypatch.setattr(sim.experiments.replications, "execute", breaks)
    result = sweep("-s", "slora", "--rates", "4")
    assert result.exit_code == 1
    assert "error: slora, 4 requests/s, seed 1: AssertionError: the books do not balance" in result.stderr


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--vary", "adapters.slotss=1"], "did you mean 'slots'?"),
        (["--vary", "cache.kind=lrru,lruu"], "did you mean"),
        (["--hardware", "a41"], "--hardware a41"),
        (["--shard", "1/2"], "needs --out"),
        (["--shard", "3/2", "--out", "x"], "expected I/N"),
        (["--rates", "4", "--heat-map", "m.svg"], "needs two axes of several values (--rates, --vary); there are 0"),
        (["--heat-map", "m.bmp", "--vary", "cache.kind=lru,lfu"], ".svg, .png, .pdf"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_does(
    flags: list[str], told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sim.experiments.sweep, "attempt_cells", None)
    result = sweep(*flags)
    assert result.exit_code == 2
    assert told in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder in which nobody can write")
@pytest.mark.parametrize(
    "flags", [["--out", "/proc/self/x"], ["--figure", "/proc/self/x.svg"], ["--heat-map", "/proc/self/x.svg"]]
)
def test_what_cannot_be_written_is_told_before_anything_runs(flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sim.experiments.sweep, "attempt_cells", None)
    result = sweep(*flags, "--vary", "cache.kind=lru,lfu")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {flags[1]} cannot be written: /proc/self: ")


def test_a_table_that_cannot_be_written_hides_no_cell_that_failed(tmp_path: Path) -> None:
    (tmp_path / "sweep.csv").mkdir()
    result = sweep(*FAILING, "--out", str(tmp_path))
    assert result.exit_code == 2
    failed, counted, told = result.stderr.splitlines()[-3:]
    assert failed.startswith("error: vllm, adapters.slots=900, 4 requests/s, seeds 0, 1: ")
    assert counted.startswith("2 of 4 runs failed")
    assert told == f"error: {tmp_path / 'sweep.csv'}: Is a directory"


def test_a_dry_run_lists_what_is_left_to_do_and_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep(*VARIED, "--reps", "1", "--out", str(tmp_path))
    monkeypatch.setattr(sim.experiments.replications, "execute", lambda _: pytest.fail("simulated"))
    result = sweep(*VARIED, "--dry-run", "--out", str(tmp_path))
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith("4 runs, 2 to run")
    assert [line.split()[3:5] for line in lines[3:5]] == [["0", "finished"]] * 2
    assert str(tmp_path / "slora" / "workload.adapters=50" / "rate-6" / "seed-1") in lines[-1]


def test_a_dry_run_says_which_cells_cannot_run() -> None:
    result = sweep(
        "-s", "slora", "--rates", "4", "--vary", "memory.kv_pool_tokens=6000,99999999", "--dry-run", "--json"
    )
    states = [line["state"] for line in json.loads(result.stdout)]
    assert states[0] == "to run"
    assert "99999999 tokens" in states[1]


def test_shards_make_all_runs_between_them_and_the_table_is_made_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shard in ("1/3", "2/3", "3/3"):
        assert sweep("--shard", shard, "--out", str(tmp_path)).exit_code == 0
        assert not (tmp_path / "sweep.csv").exists()
    assert len(list(tmp_path.rglob("DONE"))) == 8
    monkeypatch.setattr(sim.experiments.replications, "execute", lambda _: pytest.fail("simulated again"))
    assert sweep("--out", str(tmp_path)).exit_code == 0
    assert (tmp_path / "sweep.csv").exists()


def test_a_shard_is_one_of_so_many() -> None:
    assert parse_shard("2/16") == (2, 16)


def test_the_command_draws_a_heat_map(tmp_path: Path) -> None:
    picture = tmp_path / "map.svg"
    assert sweep("--vary", "workload.adapters=10,50", "--heat-map", str(picture)).exit_code == 0
    assert picture.read_text().startswith("<?xml")


def test_a_part_draws_no_picture_of_the_whole(tmp_path: Path) -> None:
    picture = tmp_path / "map.svg"
    flags = ("--vary", "workload.adapters=10,50", "--heat-map", str(picture), "--out", str(tmp_path / "runs"))
    assert sweep(*flags, "--shard", "1/4").exit_code == 0
    assert not picture.exists()


def test_runs_that_all_fail_are_told_in_place_of_a_picture(tmp_path: Path) -> None:
    result = sweep("--system", "vllm", "--vary", "adapters.slots=900,901", "--figure", str(tmp_path / "curves.svg"))
    assert result.exit_code == 1
    assert "adapters.slots: at most" in result.stderr
    assert not (tmp_path / "curves.svg").exists()


def test_a_folder_of_rates_has_a_rate_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "chunk-0-trace.csv").write_text("0,0.5,1,Gamma,1,1\n")
    (tmp_path / "chunk-0-dataset.json").write_text(
        '{"0": {"input_tokens": "{100: 1.0}", "output_tokens": "{10: 1.0}"}}'
    )
    config = load_config("slora", (f"workload.trace={tmp_path}",), {"workload": {"rate_per_s": None}})
    assert _offered_rate(config) == pytest.approx(0.5, rel=0.3)


def test_a_sweep_over_a_file_says_what_became_of_its_rows_and_what_its_seeds_vary(tmp_path: Path) -> None:
    trace = azure_file(tmp_path / "two.csv", "46.0000000,50,10", "47.0000000,50,10", "48.0000000,0,10")
    said = chameleon("sweep", "-s", "slora", "--rates", "2", "--trace", trace, "--reps", "2", "-j", "1")
    assert "note: two: 1 row with zero input tokens dropped" in said.err
    assert "2 rows with stamps drawn anew (poisson)" in said.err
    assert "note: seeds of a trace file vary only" in said.err


def test_a_wrong_key_that_is_varied_is_told_by_its_own_flag() -> None:
    said = sweep("--vary", "adapters.slts=3", "--set", "cache.kind=lruu")
    assert said.exit_code == 2
    assert "--vary adapters.slts=3: adapters.slts" in said.output
    assert "--set cache.kind=lruu: cache.kind" in said.output
