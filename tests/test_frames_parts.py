"""The table of requests made in parts is the whole table, to the bit, and gives the same file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from pandas.testing import assert_frame_equal

import sim
from sim.results.frames import requests_frame, requests_in_parts
from sim.results.result import Result, Run
from sim.serving.records import Records
from sim.serving.ticks import TICKS_PER_S
from sim.trace import Trace


def served_by_two(requests: int = 150) -> Run:
    """A run on two replicas with preemptions and rejections, and times alone."""
    changes = ("replicas=2", "admission.reserve=on_demand", "memory.kv_pool_tokens=900")
    run = sim.run("slora", "paper", rate=40, requests=requests, changes=changes).run
    return replace(run, isolated=lambda: np.arange(requests, dtype=np.int64) * TICKS_PER_S)


@pytest.mark.parametrize("rows", [1, 7, 64, 150, 1000])
def test_the_requests_table_in_parts_is_the_whole_table(rows: int) -> None:
    run = served_by_two()
    whole, parts = requests_frame(run), list(requests_in_parts(run, rows))
    assert set(whole["status"]) == {"ok", "rejected"}
    assert whole["n_preempt"].sum() > 0
    assert [len(part) for part in parts[:-1]] == [rows] * (len(parts) - 1)
    for start, part in zip(range(0, 150, rows), parts, strict=True):
        piece = whole.iloc[start : start + rows].reset_index(drop=True)
        assert_frame_equal(part, piece, check_exact=True)


def test_a_run_is_saved_in_the_same_bytes_whether_its_table_was_made_before_or_is_made_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("sim.results.requests", "sim.results.rundir"):
        monkeypatch.setattr(f"{module}.PART_ROWS", 64)
    in_parts, whole = Result(served_by_two()), Result(served_by_two())
    assert len(whole.requests) == 150
    first, second = in_parts.save(tmp_path / "parts"), whole.save(tmp_path / "whole")
    assert "requests" not in vars(in_parts)
    assert (first / "requests.parquet").read_bytes() == (second / "requests.parquet").read_bytes()
    assert pq.ParquetFile(first / "requests.parquet").num_row_groups == 3
    assert_frame_equal(pd.read_parquet(first / "requests.parquet"), whole.requests)


def test_a_very_long_table_is_made_in_few_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sim.results.requests.PART_ROWS", 2)
    parts = list(requests_in_parts(served_by_two()))
    assert [len(part) for part in parts] == [10] * 15


def test_a_run_of_no_requests_has_an_empty_table_in_parts_too(tmp_path: Path) -> None:
    nothing = np.array([], dtype=np.int64)
    trace = Trace("none", np.array([]), nothing, nothing, (None,), nothing)
    run = Run(trace, (Records(),), [0], nothing, "fifo", "a40", "llama", 1)
    path = Result(run).save(tmp_path / "none")
    assert list(pd.read_parquet(path / "requests.parquet").columns) == list(requests_frame(run).columns)


def test_the_line_that_a_request_was_read_from_stands_in_its_row_and_is_null_where_there_is_none() -> None:
    run = served_by_two()
    assert requests_frame(run).trace_line.isna().all()
    line = np.arange(len(run.trace), dtype=np.int64) + 2
    read = replace(run, trace=replace(run.trace, line=line))
    parts = list(requests_in_parts(read, 40))
    assert pd.concat(parts).trace_line.tolist() == line.tolist()
