"""The demo at a tiny size: both readings, four systems, the paper's claims, intervals, assumptions."""

from __future__ import annotations

from functools import cache

import pytest

from sim.demo import PRINTED, SCENARIOS, SYSTEMS, Size, do, jobs, lines
from sim.statistics import relative_reduction
from tests.commands import Said, chameleon


@cache
def tiny() -> Said:
    return chameleon("demo", "--requests", "200", "--reps", "2", "--jobs", "1")


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


def test_a_p99_comes_with_its_n() -> None:
    labels = [line.strip() for line in tiny().out.splitlines() if line.startswith("P99 TTFT")]
    assert labels
    assert all("n = 200" in label for label in labels)


def test_it_says_what_the_gain_depends_on() -> None:
    last = tiny().out.rstrip().splitlines()[-1]
    assert "kv pool" in last.lower()
    assert "lengths divided by 7" in last


def test_systems_are_paired_by_seed() -> None:
    work = [job for job in jobs(Size(requests=150, reps=2, search_reps=0)) if not isinstance(job.work[0], tuple)]
    outcomes = [do(job) for job in work if job.scenario == "paper-fit"]
    line = {one.system: one for one in lines(outcomes_with_rates(outcomes), "paper-fit")}
    p50 = {
        system: [one.found["metrics"]["ttft_ms"]["p50"] for one in outcomes if one.system == system and isinstance(one.found, dict)]
        for system in SYSTEMS
    }
    assert line["chameleon"].p50_cut == relative_reduction(p50["slora"], p50["chameleon"])
    assert line["slora"].p50_cut is None
