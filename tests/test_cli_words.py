"""Words that are looked at before a command line is parsed: vLLM's list after --goodput, and files of flags."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sim.cli.words import flags_in
from sim.files.yamlfile import ConfigError
from sim.results.rundir import read_run
from tests.commands import chameleon

RUN = ("run", "--requests", "60", "--rate", "5")
KNOWN = ["system", "rates", "vary", "set", "reps", "json", "title"]


@pytest.mark.parametrize(
    "flags",
    [
        ["--goodput", "ttft:500", "tpot:50"],
        ["--goodput", "ttft:500 tpot:50"],
        ["--goodput", "ttft:500", "--goodput", "tpot:50"],
    ],
)
def test_goodput_takes_its_bounds_as_vllm_does(flags: list[str], tmp_path: Path) -> None:
    assert chameleon(*RUN, *flags, "--out", tmp_path / "run", "slora").code == 0
    run = read_run(tmp_path / "run")
    assert run.bench["goodput_slos_ms"] == {"ttft": 500.0, "tpot": 50.0}
    assert run.summary["system"] == "slora"  # the word after the list is not one of it


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["tfft:500"], "did you mean 'ttft'? (ttft, tpot, e2el)"),
        (["ttft"], "KEY:MS is, such as ttft:500"),
        (["ttft:fast"], "a number above 0 is"),
        (["ttft:500", "ttft:600"], "ttft is there twice"),
    ],
)
def test_a_wrong_bound_is_refused(words: list[str], told: str) -> None:
    said = chameleon(*RUN, "--goodput", *words)
    assert said.code == 2
    assert told in said.err


def test_goodput_stands_under_the_throughput_and_is_that_of_the_file(tmp_path: Path) -> None:
    said = chameleon(*RUN, "--goodput", "ttft:150", "--out", tmp_path / "run")
    run = read_run(tmp_path / "run")
    lines = said.out.splitlines()
    place = next(at for at, line in enumerate(lines) if line.startswith("Request throughput"))
    assert lines[place + 1] == f"{'Request goodput (req/s):':<40} {run.bench['request_goodput']:<10.2f}"
    assert 0 < run.bench["request_goodput"] < run.bench["request_throughput"]
    assert run.summary["goodput"]["attainment"] == run.bench["slo_attainment"]


def test_without_bounds_no_goodput_is_printed() -> None:
    assert "goodput" not in chameleon(*RUN).out


def test_goodput_of_replications_has_an_interval() -> None:
    told = json.loads(chameleon(*RUN, "--reps", "2", "--goodput", "ttft:150", "--json").out)["goodput"]
    assert told["slos_ms"] == {"ttft": 150.0}
    assert told["requests_per_s"]["ci95_low"] < told["requests_per_s"]["mean"] < told["requests_per_s"]["ci95_high"]


def flags(text: str, folder: Path) -> list[str]:
    (folder / "flags.yaml").write_text(text)
    return flags_in(folder / "flags.yaml", KNOWN)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("reps: 3", ["--reps", "3"]),
        ("rates: 6:12:2", ["--rates", "6:12:2"]),
        ("rates: [6, 8.5]", ["--rates", "6,8.5"]),
        ("rates: [6:8:2, 100]", ["--rates", "6:8:2,100"]),
        ("system: [slora, ./mine.yaml]", ["--system", "slora", "--system", "./mine.yaml"]),
        ("json: true", ["--json"]),
        ("json: false", []),
        ("title: Two words", ["--title", "Two words"]),
        ("set: {cache.kind: lru, seed: 3}", ["--set", "cache.kind=lru", "--set", "seed=3"]),
        ("set: [cache.kind=lru]", ["--set", "cache.kind=lru"]),
        ("vary: {adapters.slots: [8, 16]}", ["--vary", "adapters.slots=8,16"]),
        ("vary: {workload.ranks: [[8], [8, 64]]}", ["--vary", "workload.ranks=[8],[8, 64]"]),
        ("vary: {cache.kind: ['no', 'a, b']}", ["--vary", 'cache.kind="no","a, b"']),
        ("vary: {cache.kind: [lru, ./mine.py:Mine]}", ["--vary", "cache.kind=lru,./mine.py:Mine"]),
    ],
)
def test_a_file_stands_for_flags(text: str, expected: list[str], tmp_path: Path) -> None:
    assert flags(text, tmp_path) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [("ratess: 5", r"flags\.yaml:1:1: ratess: no flag is named so - did you mean 'rates'"), ("- 5", "expected flags")],
)
def test_a_file_of_something_else_is_refused(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=told):
        flags(text, tmp_path)


def test_a_sweep_may_stand_in_a_file_and_flags_beside_it_win(tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text("system: [slora]\nrates: [4, 8]\nvary: {cache.kind: [lru, lfu]}\nrequests: 40\nreps: 1\njobs: 1\n")
    whole = json.loads(chameleon("sweep", file, "--json").out)["rows"]
    less = json.loads(chameleon("sweep", "--rates", "8", file, "--json").out)["rows"]
    assert [(row["rate_per_s"], row["cache.kind"]) for row in whole] == [
        (4.0, "lru"),
        (4.0, "lfu"),
        (8.0, "lru"),
        (8.0, "lfu"),
    ]
    assert less == whole[2:]


def test_a_system_file_is_no_file_of_flags(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: slora\nname: mine\n")
    said = chameleon("sweep", "-s", tmp_path / "mine.yaml", "--rates", "4", "-n", "40", "--reps", "1", "-j", "1")
    assert said.code == 0, said.err
    assert "mine" in said.out
