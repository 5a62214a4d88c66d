"""Replications: a seed each, intervals over them, and a store from which a second start goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sim import replications
from sim.config import Loaded, load_config
from sim.experiment import execute
from sim.replications import Task, aggregate, config_hash, finished, perform, perform_all, replication_tasks
from sim.results import Result
from sim.statistics import mean_interval
from tests.commands import chameleon, python

RUN = ("run", "--requests", "80", "--rate", "5", "--reps", "3")
SMALL = load_config("chameleon", (), {"workload": {"requests": 60, "rate_per_s": 5.0}})


def finish_times(folder: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("seed-*/DONE")}


def test_each_seed_gets_a_directory_counted_up_from_the_first(tmp_path: Path) -> None:
    tasks = replication_tasks(SMALL, 3, tmp_path / "runs")
    assert [task.loaded.config.seed for task in tasks] == [0, 1, 2]
    assert [task.directory for task in tasks] == [tmp_path / "runs" / f"seed-{seed}" for seed in range(3)]


def test_seeds_see_different_requests() -> None:
    first, second = (perform(task) for task in replication_tasks(SMALL, 2, None))
    assert first["metrics"]["ttft_ms"]["mean"] != second["metrics"]["ttft_ms"]["mean"]


def test_intervals_are_those_of_the_mean_over_replications() -> None:
    summaries = list(perform_all(replication_tasks(SMALL, 3, None)))
    one = aggregate(summaries)["metrics"]["ttft_ms"]["p99"]
    expected = mean_interval([summary["metrics"]["ttft_ms"]["p99"] for summary in summaries])
    assert one == {"mean": expected.estimate, "ci95_low": expected.low, "ci95_high": expected.high, "n_reps": 3}


def test_requests_of_all_replications_are_added_up() -> None:
    summaries = list(perform_all(replication_tasks(SMALL, 3, None)))
    assert aggregate(summaries)["requests"] == {"offered": 180, "completed": 180, "rejected": 0, "unfinished": 0}


def test_processes_change_nothing_but_the_time() -> None:
    tasks = replication_tasks(SMALL, 2, None)
    assert list(perform_all(tasks, jobs=2)) == list(perform_all(tasks, jobs=1))


def test_the_command_prints_intervals_and_writes_them(tmp_path: Path) -> None:
    said = chameleon(*RUN, "--out", tmp_path / "runs")
    content = json.loads((tmp_path / "runs" / "replications.json").read_text())
    one = content["metrics"]["ttft_ms"]["p99"]
    assert content["seeds"] == [0, 1, 2]
    line = f"{'P99 TTFT (ms):':<40} {one['mean']:<10.2f} [{one['ci95_low']:.2f}, {one['ci95_high']:.2f}]"
    assert line in said.out.splitlines()
    assert f"{'Successful requests, all seeds:':<40} 240 of 240" in said.out


def test_json_of_replications_is_what_is_written(tmp_path: Path) -> None:
    said = chameleon(*RUN, "--json", "--out", tmp_path / "runs")
    assert json.loads(said.out) == json.loads((tmp_path / "runs" / "replications.json").read_text())


def test_a_second_start_simulates_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = chameleon(*RUN, "--out", tmp_path / "runs")
    before = finish_times(tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs" / "seed-1")
    simulated: list[int] = []

    def counted(loaded: Loaded) -> Result:
        simulated.append(loaded.config.seed)
        return execute(loaded)

    monkeypatch.setattr(replications, "execute", counted)
    second = chameleon(*RUN, "--out", tmp_path / "runs")
    assert simulated == [1]
    assert second.out == first.out
    assert "2 of 3 runs are read from an earlier start" in second.err
    after = finish_times(tmp_path / "runs")
    assert {name for name in after if after[name] == before[name]} == {"seed-0", "seed-2"}


def test_more_replications_keep_those_that_are_there(tmp_path: Path) -> None:
    chameleon("run", "--requests", "40", "--reps", "2", "--out", tmp_path / "runs")
    said = chameleon("run", "--requests", "40", "--reps", "3", "--out", tmp_path / "runs")
    assert "2 of 3 runs are read" in said.err


@pytest.mark.parametrize("where", ["sim.replications.execute", "sim.rundir._write_parquet"])
def test_an_interrupt_keeps_finished_runs_and_leaves_nothing_half_written(where: str, tmp_path: Path) -> None:
    module, _, name = where.rpartition(".")
    code = (
        f"import os, signal, sys, {module} as module\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job ignores it
        f"real = module.{name}\n"
        "def interrupted(*args):\n"
        "    if os.path.exists('runs/seed-0/DONE'): os.kill(os.getpid(), signal.SIGINT)\n"
        "    return real(*args)\n"
        f"module.{name} = interrupted\n"
        "sys.argv = ['chameleon', 'run', '--requests', '60', '--reps', '3', '--out', 'runs']\n"
        "from sim.__main__ import main\n"
        "main()\n"
    )
    said = python(code, tmp_path)
    assert said.code == 130
    assert said.err.endswith("interrupted; with --out or --keep, what was finished is kept\n")
    assert said.out == ""
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["seed-0"]
    assert (tmp_path / "runs" / "seed-0" / "DONE").exists()


def test_a_run_of_another_source_is_not_taken_for_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task(SMALL, tmp_path / "run")
    perform(task)
    assert finished(task) is not None
    monkeypatch.setattr(replications, "source_sha256", lambda: "edited")
    assert finished(task) is None


def test_a_run_read_back_tells_the_same(tmp_path: Path) -> None:
    task = Task(SMALL, tmp_path / "run")
    assert perform(task) == perform(task)


def test_the_same_values_have_the_same_hash() -> None:
    same = load_config("chameleon", ["workload.requests=60", "workload.rate_per_s=5.0"])
    assert config_hash(same.config) == config_hash(SMALL.config)
    assert config_hash(load_config("slora").config) != config_hash(SMALL.config)


def test_the_bench_file_tells_how_bursty_the_arrivals_were(tmp_path: Path) -> None:
    even = load_config("chameleon", (), {"workload": {"requests": 20}})
    bursts = load_config("chameleon", ["workload.arrivals={family: gamma, cv: 2.0}"], {"workload": {"requests": 20}})
    for name, loaded in (("even", even), ("bursts", bursts)):
        perform(Task(loaded, tmp_path / name))
    told = {
        name: json.loads((tmp_path / name / "vllm_bench.json").read_text())["burstiness"] for name in ("even", "bursts")
    }
    assert told == {"even": 1.0, "bursts": 0.25}
