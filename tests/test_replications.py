"""Replications: a seed each, intervals over them, and a store from which a second start goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sim.config import Loaded, load_config
from sim.experiments import replications
from sim.experiments.bench_words import config_hash
from sim.experiments.replications import (
    Task,
    Wanted,
    aggregate,
    attempt_all,
    finished,
    perform,
    perform_all,
    replication_tasks,
    varied_parts,
)
from sim.experiments.run import execute
from sim.results.result import Result
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


@pytest.mark.parametrize("where", ["sim.experiments.replications.execute", "sim.results.rundir._write_parquet"])
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
    assert said.err.endswith("interrupted; with --out, what was finished is kept\n")
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


TRACE = Path(__file__).resolve().parents[1] / "traces" / "paper-300.csv"
BARE = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2023-11-16 18:15:{second:02}.0000000,{100 + second},10\n" for second in range(40)
)


@pytest.mark.parametrize(
    ("earlier", "later", "is_read"),
    [
        (Wanted(), Wanted(), True),
        (Wanted("mine"), Wanted("mine"), True),
        (Wanted(), Wanted("mine"), False),
        (Wanted("mine"), Wanted(), False),
        (Wanted(), Wanted(parts=frozenset({"detailed"})), False),
        (Wanted(parts=frozenset({"detailed"})), Wanted(), True),  # more than is wanted
        (Wanted(), Wanted(parts=frozenset({"bootstrap"})), False),
        (Wanted(), Wanted(slos_ms=(("ttft", 500.0),)), False),
        (Wanted(), Wanted(slos_ms=(("ttft", 5000.0),)), False),  # the bound of the configuration, but no goodput
        (Wanted(slos_ms=(("ttft", 500.0),)), Wanted(slos_ms=(("ttft", 500.0),)), True),
    ],
)
def test_a_run_is_read_only_if_it_tells_what_is_wanted(
    earlier: Wanted, later: Wanted, is_read: bool, tmp_path: Path
) -> None:
    perform(Task(SMALL, tmp_path / "run", earlier))
    assert (finished(Task(SMALL, tmp_path / "run", later)) is not None) == is_read


def test_the_arrays_of_vllm_are_written_where_they_are_wanted(tmp_path: Path) -> None:
    said = chameleon("run", "-n", "40", "--save-detailed", "--label", "night", "--out", tmp_path / "run")
    bench = json.loads((tmp_path / "run" / "vllm_bench.json").read_text())
    assert said.code == 0
    assert bench["label"] == "night"
    assert len(bench["ttfts"]) == len(bench["itls"]) == 40


@pytest.mark.parametrize("flags", [["--save-detailed"], ["--label", "night"]])
def test_what_is_about_a_file_needs_one(flags: list[str]) -> None:
    said = chameleon("run", *flags)
    assert said.code == 2
    assert f"{flags[0]} is about a file" in said.err


def test_the_bench_file_names_every_policy_and_its_parameters(tmp_path: Path) -> None:
    loaded = load_config("chameleon", ["cache.frequency=3.5"], {"workload": {"requests": 20}, "predictor": "oracle"})
    perform(Task(loaded, tmp_path / "run"))
    told = json.loads((tmp_path / "run" / "vllm_bench.json").read_text())["sim"]["policy"]
    assert (told["cache"], told["scheduler"]) == ("chameleon", "multi-queue")
    assert set(told["params"]) == {"scheduler", "cache", "prefetch", "predictor", "router"}
    assert told["params"]["cache"]["frequency"] == 3.5  # given
    assert "recency" in told["params"]["cache"]  # a default
    assert "kind" not in told["params"]["cache"]


def test_seeds_of_a_synthetic_workload_vary_all_of_it() -> None:
    assert varied_parts(SMALL) == ["arrivals", "lengths", "adapters"]


def test_seeds_of_a_trace_file_vary_what_it_does_not_hold(tmp_path: Path) -> None:
    (tmp_path / "bare.csv").write_text(BARE)

    def varied(trace: Path, **workload: float) -> list[str]:
        return varied_parts(load_config("chameleon", (), {"workload": {"trace": str(trace), **workload}}))

    assert varied(TRACE) == []
    assert varied(tmp_path / "bare.csv") == ["adapters"]
    assert varied(tmp_path / "bare.csv", rate_per_s=2.0) == ["arrivals", "adapters"]


def test_replications_of_a_trace_file_say_that_they_are_hardly_any(tmp_path: Path) -> None:
    (tmp_path / "bare.csv").write_text(BARE)
    said = chameleon("run", "--trace", tmp_path / "bare.csv", "--reps", "2", "--out", tmp_path / "runs")
    assert "note: seeds of a trace file vary only adapters and predictions: their intervals say nothing" in said.err
    assert "2 replications, which vary only adapters, predictions" in said.out
    told = json.loads((tmp_path / "runs" / "replications.json").read_text())
    assert told["seeds_vary_only"] == ["adapters", "predictions"]


def test_other_replications_say_nothing_of_the_kind() -> None:
    said = chameleon(*RUN)
    assert "seeds of a trace file" not in said.err
    assert "vary only" not in said.out


def test_a_bootstrap_is_told_as_what_it_is(tmp_path: Path) -> None:
    one = chameleon("run", "--trace", TRACE, "--bootstrap")
    lines = one.out.splitlines()
    head = next(
        at for at, line in enumerate(lines) if line.startswith("seed 0 alone, 95 % intervals by drawing its 30")
    )
    assert lines[head + 4].startswith("P99 TTFT (ms):")
    assert "[" in lines[head + 4]
    assert "--bootstrap" not in one.err
    two = chameleon("run", "--trace", TRACE, "--bootstrap", "--reps", "2", "--out", tmp_path / "runs")
    told = json.loads((tmp_path / "runs" / "replications.json").read_text())["bootstrap"]
    assert (told["method"], told["seed"]) == ("block bootstrap over time, one run", 0)
    assert "seed 0 alone" in two.out


def test_a_run_that_fails_is_told_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(loaded: Loaded) -> Result:
        if loaded.config.seed == 1:
            raise ZeroDivisionError("one by none")
        return execute(loaded)

    monkeypatch.setattr(replications, "execute", breaks)
    first, second, third = attempt_all(replication_tasks(SMALL, 3, None))
    assert isinstance(first, dict)
    assert isinstance(third, dict)
    assert second == replications.Failure("ZeroDivisionError: one by none")


def test_of_several_seeds_only_the_first_draws_its_blocks_again() -> None:
    wanted = Wanted(parts=frozenset({"detailed", "bootstrap"}))
    parts = [task.wanted.parts for task in replication_tasks(SMALL, 3, None, wanted)]
    assert parts == [{"detailed", "bootstrap"}, {"detailed"}, {"detailed"}]


def test_blocks_that_are_alike_are_warned_of() -> None:
    said = chameleon("run", "-n", "600", "--rate", "40", "--bootstrap")
    assert "warning: neighbouring blocks of the run are alike" in said.err
    assert "neighbouring blocks" not in chameleon("run", "-n", "600", "--rate", "3", "--bootstrap").err


@pytest.mark.parametrize("name", ["requests.parquet", "summary.json"])
def test_a_run_that_has_lost_a_file_is_made_anew(name: str, tmp_path: Path) -> None:
    flags = ("run", "--system", "slora", "-n", "20", "--out", str(tmp_path / "run"))
    chameleon(*flags)
    (tmp_path / "run" / name).unlink()
    said = chameleon(*flags)
    assert said.code == 0
    assert "earlier start" not in said.err
    assert (tmp_path / "run" / name).exists()


def test_a_run_that_will_be_replaced_is_said_to_be(tmp_path: Path) -> None:
    flags = ("run", "--system", "slora", "-n", "20", "--out", str(tmp_path / "run"))
    assert "will be replaced" not in chameleon(*flags).err
    assert (
        "note: 1 finished run of another configuration or source will be replaced"
        in chameleon(*flags, "--rate", "3").err
    )
