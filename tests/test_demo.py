"""The demo at a tiny size: both readings, four systems, the paper's claims, intervals, assumptions."""

from __future__ import annotations

from functools import cache
from unittest import mock

import pytest

from sim.experiments.demo import PRINTED, SCENARIOS, SYSTEMS, Outcome, Size, do, jobs, lines
from sim.experiments.replications import Task
from sim.statistics import relative_reduction
from tests.commands import Said, chameleon


def carries(_: object, rate_per_s: float) -> bool:
    """Stand in for the simulations of a search, which are most of the demo's work."""
    return rate_per_s <= 7.5


@cache
def tiny(*flags: str) -> Said:
    with mock.patch("sim.experiments.capacity.is_within", carries):
        return chameleon("demo", "--requests", "200", "--reps", "2", "--jobs", "1", *flags)


def table(name: str) -> list[str]:
    text = tiny().out.partition(f"\n{name}: ")[2]
    return text.split("\n\n")[0].splitlines()[1:]


def test_it_succeeds() -> None:
    assert tiny().code == 0


@pytest.mark.parametrize("name", [scenario.name for scenario in SCENARIOS])
def test_each_reading_has_a_column_for_each_system(name: str) -> None:
    assert table(name)[0].split() == list(SYSTEMS)


@pytest.mark.parametrize("name", [scenario.name for scenario in SCENARIOS])
def test_the_papers_claims_stand_beside_ours(name: str) -> None:
    claims = [line for line in table(name) if line.startswith("  the paper")]
    assert [PRINTED["chameleon"][place] in line for place, line in enumerate(claims)] == [True, True, True]


@pytest.mark.parametrize("label", ["P50 TTFT (ms)", "P99 TTFT (ms), n = 200", "  change", "adapter hit rate (%)"])
def test_numbers_come_with_intervals(label: str) -> None:
    row = next(line for line in table("physical") if line.startswith(label))
    assert row.count("±") >= 3


def test_the_highest_rate_is_the_one_that_was_found() -> None:
    row = next(line for line in table("paper-fit") if line.startswith("highest rate within SLO"))
    assert row.split()[4:] == ["7.500", "±", "0.000"] * len(SYSTEMS)


def test_a_p99_comes_with_its_n() -> None:
    labels = [line.strip() for line in tiny().out.splitlines() if line.startswith("P99 TTFT")]
    assert labels
    assert all("n = 200" in label for label in labels)


def test_it_says_what_the_gain_depends_on() -> None:
    last = tiny().out.rstrip().splitlines()[-1]
    assert "kv pool" in last.lower()
    assert "lengths divided by 7" in last


def test_it_says_before_the_first_number_how_long_it_takes() -> None:
    assert tiny().err.startswith("24 simulations and searches")


def test_changes_are_those_of_pairs_of_the_same_seed() -> None:
    work = [job for job in jobs(Size(requests=150, reps=2)) if isinstance(job.work, Task)]
    runs = [do(job) for job in work if job.scenario == "paper-fit"]
    rates = [Outcome("paper-fit", system, [4.0, place + 4.0]) for place, system in enumerate(SYSTEMS)]
    found = {line.system: line for line in lines([*runs, *rates], "paper-fit")}
    p50 = {
        system: [
            run.found["metrics"]["ttft_ms"]["p50"]
            for run in runs
            if run.system == system and isinstance(run.found, dict)
        ]
        for system in SYSTEMS
    }
    assert found["chameleon"].p50_cut == relative_reduction(p50["slora"], p50["chameleon"])
    assert found["slora"].p50_cut is None
    assert found["chameleon"].rate_ratio == (4.0 + 7.0) / (4.0 + 4.0)


def test_both_readings_and_all_systems_see_the_same_seeds() -> None:
    work = [job for job in jobs(Size(reps=3), seed=5) if isinstance(job.work, Task)]
    seeds: dict[tuple[str, str], list[int]] = {(job.scenario, job.system): [] for job in work}
    for job in work:
        assert isinstance(job.work, Task)
        seeds[job.scenario, job.system].append(job.work.loaded.config.seed)
    assert len(seeds) == len(SCENARIOS) * len(SYSTEMS)
    assert set(map(tuple, seeds.values())) == {(5, 6, 7)}


def test_a_queue_that_is_not_stable_is_pointed_out() -> None:
    assert "percentiles from a queue that is not stable depend on how long the run was" in tiny("--rate", "60").out


@pytest.mark.parametrize(("flag", "value"), [("--requests", "99"), ("--reps", "1"), ("--rate", "0"), ("--jobs", "0")])
def test_a_size_that_says_nothing_is_refused(flag: str, value: str) -> None:
    said = chameleon("demo", flag, value)
    assert said.code == 2
    assert f"'{value}' is not allowed" in said.err
