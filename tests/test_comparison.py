"""Comparisons: paired by seed, honest about what was not the same, and never a P99 without its n."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sim.experiments.comparison import compare, is_paired, p99_band_ms, read_side, read_sides, shared_seeds
from sim.statistics import compare_pairs
from tests.commands import azure_file, chameleon

RUN = ("run", "--requests", "150", "--rate", "6", "--set", "memory.kv_pool_tokens=6000")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for system in ("slora", "chameleon"):
        chameleon(*RUN, "--system", system, "--reps", "3", "--out", folder / system)
    chameleon(*RUN, "--system", "slora", "--seed", "1", "--out", folder / "one")
    chameleon(*RUN, "--system", "slora", "--seed", "9", "--out", folder / "nine")
    chameleon("run", "--requests", "100", "--rate", "50", "--seed", "1", "--out", folder / "fast")
    return folder


def test_rows_pair_the_runs_by_seed(runs: Path) -> None:
    sides = read_sides([runs / "slora", runs / "chameleon"])
    row = next(row for row in compare(sides) if row.label == "P99 TTFT (ms)")
    values = [
        [read_side(runs / system / f"seed-{seed}").value(seed, ("metrics", "ttft_ms", "p99")) for seed in range(3)]
        for system in ("slora", "chameleon")
    ]
    slora, cham = ([one for one in side if one is not None] for side in values)
    assert row.against_first == (None, compare_pairs(slora, cham))


def test_the_table_names_both_systems_and_the_requests_behind_it(runs: Path) -> None:
    said = chameleon("compare", runs / "slora", runs / "chameleon")
    lines = said.out.splitlines()
    assert lines[0] == "3 paired seeds; completed of offered requests: slora 450/450, chameleon 450/450"
    assert lines[1].split() == ["slora", "chameleon", "change"]
    assert said.err == ""


def test_every_p99_within_a_run_comes_with_its_n(runs: Path) -> None:
    said = chameleon("compare", runs / "one", runs / "chameleon" / "seed-1")
    assert said.code == 0
    assert [line for line in said.out.splitlines() if "P99 TTFT within" in line and "n = 150" not in line] == []
    within = "P99 TTFT within seed 1 alone, as if requests were independent (too narrow): too few for an interval"
    assert f"slora: queue stable; {within}, n = 150" in said.out


def test_shares_differ_by_points_and_times_by_per_cent(runs: Path) -> None:
    lines = chameleon("compare", runs / "slora", runs / "chameleon").out.splitlines()
    hits, median = (next(line for line in lines if line.startswith(label)) for label in ("Adapter hit", "P50 TTFT"))
    assert hits.endswith(" pp")
    assert median.endswith(" %]")


def test_a_run_compared_with_itself_shows_no_change(runs: Path) -> None:
    text = chameleon("compare", runs / "one", runs / "one").out
    changes = {line.split()[-2] for line in text.splitlines() if line.endswith((" %", " pp"))}
    assert changes == {"0.0"}


def test_runs_of_one_system_are_told_apart_by_directory(runs: Path) -> None:
    assert [side.label for side in read_sides([runs / "one", runs / "slora"])] == [
        str(runs / "one"),
        str(runs / "slora"),
    ]


def test_only_shared_seeds_are_compared_and_the_rest_is_named(runs: Path) -> None:
    said = chameleon("compare", runs / "slora", runs / "one")
    assert said.out.startswith("1 paired seed;")
    assert "warning: seeds that not all have are left out: 0, 2" in said.err


def test_runs_without_a_common_seed_are_refused(runs: Path) -> None:
    said = chameleon("compare", runs / "slora", runs / "nine")
    assert said.code == 2
    assert "share no seed" in said.err
    assert "[0, 1, 2]" in said.err
    assert "[9]" in said.err


def test_another_load_is_not_called_a_difference_of_systems(runs: Path) -> None:
    sides = read_sides([runs / "one", runs / "fast"])
    assert not is_paired(sides, shared_seeds(sides))
    assert "differ in more than the system" in chameleon("compare", runs / "one", runs / "fast").err


def test_a_queue_that_did_not_keep_up_is_warned_of(runs: Path) -> None:
    said = chameleon("compare", runs / "one", runs / "fast")
    assert "from a queue that is not stable" in said.err
    assert "backlogged" in said.err or "overloaded" in said.err


def test_json_holds_the_intervals_and_the_counts(runs: Path) -> None:
    content = json.loads(chameleon("compare", runs / "slora", runs / "chameleon", "--json").out)
    assert content["seeds"] == [0, 1, 2]
    assert content["systems"] == ["slora", "chameleon"]
    row = next(row for row in content["rows"] if row["metric"] == "P99 TTFT (ms)")
    assert row["systems"][0]["n"] == 3
    assert row["against_first"][1]["reduction"]["low"] <= row["against_first"][1]["reduction"]["high"]


def test_a_run_in_which_nothing_was_completed_is_shown_without_numbers(tmp_path: Path) -> None:
    for name, tokens in (("small", "30"), ("big", "900000")):
        trace = azure_file(tmp_path / f"{name}.csv", f"46.0000000,{tokens},4")
        chameleon("run", "--trace", trace, "--scale", "1", "--out", tmp_path / name)
    said = chameleon("compare", tmp_path / "small", tmp_path / "big")
    assert said.code == 0
    assert "no request was completed" in said.out


@pytest.mark.parametrize(
    ("name", "told"),
    [("nowhere", "holds no finished run"), (".", "runs of several systems (chameleon, slora)")],
)
def test_what_is_no_run_is_refused(name: str, told: str, runs: Path) -> None:
    said = chameleon("compare", runs / "one", runs / name)
    assert said.code == 2
    assert told in said.err
    assert said.out == ""


def test_the_band_of_a_p99_holds_it(runs: Path) -> None:
    side = read_side(runs / "slora")
    band = p99_band_ms(side, 0)
    assert band is not None
    assert band.estimate == pytest.approx(side.value(0, ("metrics", "ttft_ms", "p99")))
    assert band.n == 150


def test_seeds_of_a_trace_file_are_not_taken_for_other_traffic(tmp_path: Path, runs: Path) -> None:
    trace = azure_file(tmp_path / "one.csv", "46.0000000,374,44", "47.0000000,300,10")
    for system in ("slora", "chameleon"):
        chameleon("run", "--trace", trace, "-s", system, "--reps", "2", "--out", tmp_path / system)
    told = "warning: seeds of a trace file vary little of its traffic"
    assert told in chameleon("compare", tmp_path / "slora", tmp_path / "chameleon").err
    assert told not in chameleon("compare", runs / "slora", runs / "chameleon").err


def test_another_load_generator_is_not_called_a_difference_of_systems(runs: Path, tmp_path: Path) -> None:
    chameleon(*RUN, "--system", "slora", "--seed", "1", "--max-concurrency", "2", "--out", tmp_path / "closed")
    said = chameleon("compare", runs / "one", tmp_path / "closed").err
    assert "differ in more than the system (workload, load generator" in said
