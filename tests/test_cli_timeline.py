"""`run --timeline`, `report` and `timeline` on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import chameleon


def test_a_run_is_written_with_its_timeline_and_made_anew_where_that_is_missing(tmp_path: Path) -> None:
    given = ("run", "slora", "--requests", "20", "--out", tmp_path / "run")
    assert "read from an earlier start" not in chameleon(*given).err
    assert not (tmp_path / "run" / "timeline.json.gz").exists()
    assert "read from an earlier start" not in chameleon(*given, "--timeline").err
    assert (tmp_path / "run" / "timeline.json.gz").exists()
    assert "read from an earlier start" in chameleon(*given, "--timeline").err


def test_a_timeline_needs_a_place_to_be_written_to() -> None:
    said = chameleon("run", "slora", "--requests", "5", "--timeline")
    assert (said.code, said.out) == (2, "")
    assert "--timeline is about a file that is written, timeline.json.gz, and needs --out" in said.err


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder in which nobody can write")
def test_a_timeline_or_report_that_cannot_be_written_is_told_before_anything_is_read() -> None:
    said = chameleon("timeline", "/proc/self")
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("error: /proc/self/timeline.json.gz cannot be written: /proc/self: ")
    said = chameleon("report", "/proc/self")
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("error: /proc/self/report.html cannot be written: /proc/self: ")


def test_replications_that_were_reported_go_on(tmp_path: Path) -> None:
    given = ("run", "slora", "--requests", "20", "--reps", "2", "--out", tmp_path / "runs")
    assert chameleon(*given).code == 0
    said = chameleon("report", tmp_path / "runs")
    assert (said.code, said.out) == (0, f"written to {tmp_path / 'runs' / 'report.html'}\n")
    assert "2 of 2 runs are read from an earlier start" in chameleon(*given).err


def test_what_requests_take_alone_is_known_of_every_run(tmp_path: Path) -> None:
    assert chameleon("run", "slora", "--requests", "20", "--out", tmp_path / "run").code == 0
    from sim.results.rundir import read_run  # noqa: PLC0415

    assert (read_run(tmp_path / "run").requests["isolated_s"] > 0).all()


def test_the_timeline_of_replications_is_that_of_the_first_seed(tmp_path: Path) -> None:
    given = ("run", "slora", "--requests", "20", "--reps", "2", "--seed", "9", "--out", tmp_path / "runs")
    assert chameleon(*given).code == 0
    assert (
        f"written to {tmp_path / 'runs' / 'seed-9' / 'timeline.json.gz'}"
        in chameleon("timeline", tmp_path / "runs").out
    )
