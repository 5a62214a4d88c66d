"""Numbers that the pages give: how long a time series is, how many requests are drawn, what a file is cut into."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import sim
from sim.experiments.comparison import read_sides
from sim.report.data import arms_of
from sim.report.page import report
from sim.results.block_bootstrap import block_intervals, bootstrap, time_blocks
from sim.results.frames import requests_in_parts
from sim.results.result import Result, Run
from sim.results.rundir import write_run
from sim.results.timeline import timeline_events
from sim.serving.records import REQUEST_COLUMNS, Records
from sim.trace import Trace
from tests.test_results import S, tiny

DOCS = Path(__file__).parents[1] / "docs"


def at_once(requests: int) -> Run:
    """So many requests that all came at once, each of which was served in its own time, the later the slower."""
    records = Records()
    for request in range(requests):
        row = dict.fromkeys(REQUEST_COLUMNS, 0) | {"request": request}
        row |= {"first_token": (request + 1) * S, "finish": (request + 2) * S}
        records.requests.add(row.values())
    return unserved(requests, records)


def unserved(requests: int, records: Records | None = None) -> Run:
    """So many requests, of which nothing is known unless it is given."""
    ones = np.ones(requests, dtype=np.int64)
    trace = Trace("many", np.zeros(requests), ones, ones + 1, (None,), 0 * ones)
    return Run(trace, (records or Records(),), [0], ones, "fifo", "a40", "llama", 1)


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("results.md", "row groups of 65,536 requests"),
        ("results.md", "fewer where there would be more than 100,000"),
        ("commands.md", "of more than 5000 requests those with the longest TTFT"),
        ("commands.md", "drawn again 1000 times"),
    ],
)
def test_the_pages_give_the_numbers_that_are_tested_here(page: str, words: str) -> None:
    assert words in (DOCS / page).read_text(encoding="utf-8")


@pytest.mark.parametrize(("end_s", "rows", "step_s"), [(100_000, 100_000, 1.0), (100_001, 50_001, 2.0)])
def test_a_time_series_has_a_row_a_second_up_to_100_000_rows(end_s: int, rows: int, step_s: float) -> None:
    run = tiny()
    run.records[0].end = end_s * S
    frame = Result(run).timeseries
    assert (len(frame), frame["t_s"][0]) == (rows, step_s)


def test_a_time_series_whose_step_was_chosen_may_be_longer() -> None:
    assert len(Result(tiny(), timeseries_step_s=8 / 100_002).timeseries) == pytest.approx(100_002, abs=1)


@pytest.mark.parametrize(("requests", "first"), [(5000, 0), (5001, 1)])
def test_a_timeline_shows_up_to_5000_requests_one_by_one(requests: int, first: int) -> None:
    shown = {one["id"] for one in timeline_events(at_once(requests)) if one.get("cat") == "request"}
    assert (len(shown), min(shown)) == (5000, first)


def test_a_table_of_requests_is_made_in_parts_of_65_536() -> None:
    assert [len(part) for part in requests_in_parts(unserved(65_537))] == [65_536, 1]


def test_a_whole_table_is_written_in_row_groups_of_65_536(tmp_path: Path) -> None:
    frames = {"requests": pd.DataFrame({"request_id": np.arange(65_537)})}
    frames |= {name: pd.DataFrame({"t_s": [1.0]}) for name in ("adapters", "timeseries")}
    path = write_run(tmp_path / "one", {}, {}, frames, {}, {})
    file = pq.ParquetFile(path / "requests.parquet")
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [65_536, 1]


def test_blocks_are_drawn_again_1000_times_unless_another_number_is_asked_for() -> None:
    values, blocks = np.random.default_rng(0).exponential(1.0, 300), time_blocks(np.arange(300.0))
    same, fewer = (block_intervals(values, blocks, {}, draws=draws) for draws in (1000, 999))
    assert block_intervals(values, blocks, {}) == same != fewer


def test_a_run_s_intervals_say_from_how_many_draws_they_are() -> None:
    told = bootstrap(sim.run("slora", rate=2, requests=20))
    assert told is not None
    assert told["draws"] == 1000


def test_a_report_lists_what_is_not_modelled(tmp_path: Path) -> None:
    sim.run("slora", "paper", rate=2, requests=20).save(tmp_path / "run")
    text = re.sub(r"<[^>]+>", " ", report(arms_of(read_sides([tmp_path / "run"]))))
    listed = re.search(r"Not modelled: ([^.]+)\.", text)
    assert listed
    parts = re.split(r", | and ", listed[1])
    wanted = {"prefix caches across requests", "pipeline parallelism", "migration between replicas"}
    assert wanted | {"tokenisation", "network", "early end of sequence"} <= set(parts)
