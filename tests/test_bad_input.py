"""Mistakes that users make: exit code 2, one message with place, value and what is allowed, and nothing written."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from sim.files import textfile
from sim.results import output_folder
from sim.results.rundir import read_run
from tests.commands import AZURE_HEADER, azure_file, chameleon

FLAGS: list[tuple[list[str], list[str]]] = [
    (["--set", "chache.kind=lru"], ["--set chache.kind=lru", "chache", "did you mean 'cache'?"]),
    (["--set", "cache.kind=lrru"], ["--set cache.kind=lrru", "'lrru'", "did you mean 'lru'?"]),
    (["--set", "cache.frequencyy=1"], ["--set cache.frequencyy=1", "did you mean 'frequency'?"]),
    (["--set", "cache.frequency=much"], ["--set cache.frequency=much", "valid number"]),
    (["--set", "cache"], ["--set cache", "KEY=VALUE"]),
    (["--set", "scheduler.kind=multiqueue"], ["'multiqueue'", "did you mean 'multi-queue'?"]),
    (["--system", "chamelion"], ["'chamelion'", "did you mean 'chameleon'?"]),
    (["--system", "nowhere.yaml"], ["nowhere.yaml", "No such file"]),
    (["--model", "lama-7b"], ["--model lama-7b", "did you mean 'llama-7b'?"]),
    (["--model", "llama-2-70b"], ["--model llama-2-70b", "does not fit a40"]),
    (["--hardware", "a41"], ["--hardware a41", "did you mean 'a40'?"]),
    (["--hardware", "nowhere.yaml"], ["--hardware nowhere.yaml", "No such file"]),
    (["--set", "hardware=a41"], ["--set hardware=a41", "did you mean 'a40'?"]),
    (["--workload", "papr"], ["--workload", "'papr'", "did you mean 'paper'?"]),
    (["--rate", "0"], ["--rate", "'0'", "above 0"]),
    (["--rate", "-3"], ["--rate", "'-3'", "above 0"]),
    (["--rate", "nan"], ["--rate", "'nan'", "above 0"]),
    (["--request-rate", "fast"], ["--request-rate", "'fast'", "above 0"]),
    (["--scale", "0"], ["--scale", "'0'", "above 0"]),
    (["--reps", "0"], ["--reps", "'0'", "at least 1"]),
    (["--num-prompts", "0"], ["--num-prompts", "'0'", "at least 1"]),
    (["--num-prompts", "1.5"], ["--num-prompts", "'1.5'", "whole number"]),
    (["--seed", "-1"], ["--seed", "'-1'", "at least 0"]),
    (["--jobs", "0"], ["--jobs", "'0'", "-1 for all cores"]),
    (["--trce", "one.csv"], ["--trce", "--trace"]),
    (["--trace", "nowhere.csv"], ["nowhere.csv", "no such trace file"]),
    (["trace.csv"], ["trace.csv", "--trace trace.csv"]),
    (["slora", "--system", "chameleon"], ["'slora'", "'chameleon'", "one is allowed"]),
    (["--set", "memory.kv_pool_tokens=900000"], ["--set memory.kv_pool_tokens=900000", "leaves 59171 tokens"]),
    (["--set", "cache.kind=./nowhere.py:Mine"], ["nowhere.py cannot be imported", "No such file"]),
]


@pytest.mark.parametrize(("flags", "told"), FLAGS, ids=" ".join)
def test_a_wrong_flag_is_told_with_its_value_and_what_is_allowed(
    flags: list[str], told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = chameleon("run", "--requests", "20", "--out", "written", *flags)
    assert said.code == 2
    assert [part for part in told if part not in said.err] == []
    assert "Traceback" not in said.err
    assert said.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("extends: chameleon\nchache: lru\n", ":2:1: chache: ... did you mean 'cache'? ... chache: lru"),
        ("extends: chameleon\ncache:\n  kind: lru\n  szie: 1\n", ":4:3: cache.szie ... szie: 1"),
        ("extends: chameleon\nscheduler: fcfss\n", ":2:1: scheduler.kind ... 'fcfss' - did you mean 'fcfs'?"),
        ("extends: chamelion\n", ":1:1: ... 'chamelion' - did you mean 'chameleon'?"),
        ("extends: slora\nmodel: lama-7b\n", ":2:1: model: ... 'lama-7b' ... did you mean 'llama-7b'?"),
        ("extends: slora\nworkload: {rate_per_s: -3}\n", ":2:12: workload.rate_per_s: ... greater than 0 ... -3"),
        ("extends: slora\nmemory:\n  kv_pool_tokens: 99999999\n", ":3:3: memory.kv_pool_tokens: 99999999 tokens"),
        ("- one\n", ":1:1: expected `key: value` lines"),
    ],
)
def test_a_wrong_file_is_told_by_line_and_column(text: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    said = chameleon("run", file, "--out", tmp_path / "written")
    assert said.code == 2
    assert [part for part in f"{file}{told}".split(" ... ") if part not in said.err] == []
    assert "Traceback" not in said.err
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", ":1: the file is empty"),
        (AZURE_HEADER, ":1: a header and no rows"),
        (AZURE_HEADER + "2023-11-16 18:15:46.68,39x,1\n", ":2: contexttokens is '39x'"),
        (AZURE_HEADER + "2023-11-16 18:15:46.68,39\n", ":2: 2 cells; 3 are needed"),
        (AZURE_HEADER + "yesterday,39,1\n", ":2: timestamp is 'yesterday'"),
        (AZURE_HEADER + "2023-11-16 18:15:46.68,39,0\n", ":1: no row is left"),
    ],
)
@pytest.mark.parametrize("command", [["run", "--out", "written", "--trace"], ["trace", "describe"]])
def test_a_wrong_trace_is_told_by_its_line(
    command: list[str], text: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("trace.csv").write_text(text)
    said = chameleon(*command, "trace.csv")
    assert said.code == 2
    assert f"trace.csv{told}" in said.err
    assert "Traceback" not in said.err
    assert [path.name for path in tmp_path.iterdir()] == ["trace.csv"]


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import nowhere", "No module named 'nowhere'"),
        ("class Mine(:", "SyntaxError"),
        ("raise ValueError('not today')", "not today"),
        ("class Mien: pass", "has no class 'Mine' - did you mean 'Mien'?"),
        ("class Mine:\n    def scor(self, adapter, now): pass", "Mine is no cache"),
        (
            "from policies.base import Cache\nclass Mine(Cache):\n    def usedd(self, adapter, now): pass",
            "has 'usedd', which nothing asks - did you mean 'used'?",
        ),
    ],
)
def test_a_policy_file_that_is_no_policy_is_told_without_a_traceback(source: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(source)
    assignment = f"cache.kind={tmp_path}/mine.py:Mine"
    said = chameleon("run", "--requests", "20", "--set", assignment, "--out", tmp_path / "written")
    assert said.code == 2
    assert f"error: --set {assignment}: cache.kind: " in said.err
    assert told in said.err
    assert "Traceback" not in said.err
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize("reps", ["1", "2"])
def test_a_directory_with_other_files_is_left_alone_before_anything_is_simulated(
    reps: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sim.experiments.replications.execute", lambda _: pytest.fail("simulated in vain"))
    (tmp_path / "notes.txt").write_text("mine")
    said = chameleon("run", "--requests", "20", "--reps", reps, "--out", tmp_path)
    assert said.code == 2
    assert f"{tmp_path} does not hold" in said.err
    assert "notes.txt" in said.err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_single_run_does_not_replace_replications(tmp_path: Path) -> None:
    chameleon("run", "--requests", "20", "--reps", "2", "--out", tmp_path / "runs")
    said = chameleon("run", "--requests", "20", "--out", tmp_path / "runs")
    assert said.code == 2
    assert "seed-0" in said.err


def test_a_file_in_the_way_of_the_output_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    said = chameleon("run", "--requests", "20", "--out", tmp_path / "file" / "run")
    assert said.code == 2
    assert f"{tmp_path / 'file'} is a file" in said.err


def test_a_request_larger_than_memory_is_rejected_with_a_reason_and_counted(tmp_path: Path) -> None:
    trace = azure_file(tmp_path / "big.csv", "46.0000000,374,44", "50.0000000,900000,10")
    said = chameleon("run", "--trace", trace, "--scale", "1", "--out", tmp_path / "run")
    run = read_run(tmp_path / "run")
    assert said.code == 0
    assert (run.summary["requests"]["completed"], run.summary["requests"]["rejected"]) == (1, 1)
    assert run.requests["status"].tolist() == ["ok", "rejected"]
    reason = run.requests["error"].iloc[1]
    assert "900010 tokens" in reason
    assert f"warning: 1 of 2 requests were rejected; the first: {reason}" in said.err


def test_a_run_that_rejects_everything_says_so(tmp_path: Path) -> None:
    trace = azure_file(tmp_path / "big.csv", "46.0000000,900000,44", "50.0000000,900000,10")
    said = chameleon("run", "--trace", trace, "--scale", "1")
    assert said.code == 0
    assert "warning: all 2 requests were rejected; the first: 900044 tokens" in said.err


def test_mistakes_of_keys_policies_and_sizes_are_told_together(tmp_path: Path) -> None:
    (file := tmp_path / "mine.yaml").write_text(
        "extends: slora\nmemroy: 3\ncache: lruu\nscheduler: {kind: sjf, agein_s: 4}\n"
    )
    said = chameleon("config", "check", str(file))
    assert said.code == 2
    for told in ("2:1: memroy: Extra inputs", "3:1: cache.kind: no cache is named 'lruu'", "4:24: scheduler.agein_s"):
        assert f"{file}:{told}" in said.err
    file.write_text("extends: slora\ncache: lruu\nadapters: {memory: reserved}\n")
    told_later = chameleon("config", "check", str(file)).err
    assert "cache.kind: no cache is named 'lruu'" in told_later
    assert "adapters.reserved_bytes: adapters.memory: reserved needs it" in told_later


def test_a_wrong_name_of_hardware_hides_no_wrong_policy(tmp_path: Path) -> None:
    (file := tmp_path / "mine.yaml").write_text("extends: slora\nhardware: a41\ncache: lruu\n")
    told = chameleon("config", "check", str(file)).err
    assert "unknown hardware 'a41'" in told
    assert "no cache is named 'lruu'" in told


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder in which nobody can write")
def test_an_output_that_cannot_be_written_is_told_before_anything_is_simulated() -> None:
    said = chameleon("run", "--requests", "100000000", "--out", "/proc/self/run")
    assert said.code == 2
    assert said.err.startswith("error: /proc/self/run cannot be written: /proc/self: ")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder in which nobody can write")
@pytest.mark.parametrize(
    "command",
    [
        ("capacity", "-n", "100000000", "--out"),
        ("trace", "make", "-n", "100000000"),
        ("trace", "convert", "nowhere.csv"),
        ("systems", "table", "-n", "100000000", "--out"),
        ("systems", "table", "-n", "100000000", "--keep"),
        ("validate", "slora", "--json"),
        ("validate", "slora", "--keep"),
    ],
)
def test_every_commands_output_is_tried_before_anything_is_done(command: tuple[str, ...]) -> None:
    said = chameleon(*command, "/proc/self/out")
    assert said.code == 2
    assert said.err.startswith("error: /proc/self/out cannot be written: /proc/self: ")


def test_a_trace_goes_into_a_pipe_where_one_is_given(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True) as reader:
        try:
            assert chameleon("trace", "make", pipe, "-n", "3").code == 0
            assert len(reader.communicate()[0].splitlines()) == 1 + 3
        finally:
            reader.kill()
    assert pipe.is_fifo()


@pytest.mark.parametrize("reps", ["1", "2"])
def test_a_complete_run_is_read_where_nobody_can_write(
    reps: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("cannot be written")

    command = ("run", "slora", "-n", "120", "--reps", reps, "--out", tmp_path / "runs")
    first = chameleon(*command)
    monkeypatch.setattr(output_folder, "check_folder", refuse)
    monkeypatch.setattr(textfile, "write_text", refuse)
    again = chameleon(*command)
    assert (again.code, again.out) == (0, first.out)
    assert "read from an earlier start" in again.err
    other = chameleon(*command, "--seed", "7")
    assert (other.code, other.err) == (2, "error: cannot be written\n")


def test_a_workload_in_one_text_without_a_blank_is_no_workload() -> None:
    said = chameleon("run", "-n", "20", "--set", "workload={preset:azure-conv}")
    assert said.code == 2
    assert "workload.preset:azure-conv: Extra inputs are not permitted" in said.err
