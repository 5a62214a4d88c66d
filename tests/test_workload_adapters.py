"""Requests for the base model: a trace that names none, a share of them, or all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

import sim
from sim.readers.reading import read_trace, write_canonical
from sim.trace import AdapterSpec, Trace
from sim.workload.making import PRESETS, WorkloadConfig, make_trace


def config(**options: object) -> WorkloadConfig:
    return WorkloadConfig.model_validate({"requests": 400, **options})


def on_base(trace: Trace) -> list[bool]:
    return [trace.palette[row] is None for row in trace.adapter]


def put(folder: Path, text: str) -> Path:
    path = folder / "own.csv"
    path.write_text(text)
    return path


def test_a_trace_with_an_empty_column_of_adapters_is_for_the_base_model(tmp_path: Path) -> None:
    path = put(tmp_path, "arrival_s,input_tokens,output_tokens,adapter_id,rank\n0,10,10,,\n1,10,10,,\n")
    trace = make_trace(WorkloadConfig(trace=path, scale=1), 0)
    assert on_base(trace) == [True, True]
    assert trace.notes == (("rows for the base model, as the trace names no adapter in its column of adapters", 2),)


def test_a_trace_without_a_column_of_adapters_gets_them_drawn(tmp_path: Path) -> None:
    path = put(tmp_path, "arrival_s,input_tokens,output_tokens\n0,10,10\n1,10,10\n")
    assert read_trace(path).lacks == {"adapters"}
    trace = make_trace(WorkloadConfig(trace=path, scale=1), 0)
    assert on_base(trace) == [False, False]
    assert not trace.lacks


@pytest.mark.parametrize("preset", PRESETS)
def test_a_share_of_base_requests_changes_nothing_else(preset: str) -> None:
    plain, shared = (make_trace(config(preset=preset, base_share=share), 3) for share in (0.0, 0.4))
    base = np.array(on_base(shared))
    assert 0.3 < base.mean() < 0.5
    assert plain.arrival_s.tolist() == shared.arrival_s.tolist()
    assert plain.prompt_tokens.tolist() == shared.prompt_tokens.tolist()
    assert plain.output_tokens.tolist() == shared.output_tokens.tolist()
    assert plain.adapter[~base].tolist() == shared.adapter[~base].tolist()
    assert ("rows for the base model, as `base_share: 0.4` asks", base.sum()) in shared.notes


def test_a_larger_share_of_base_requests_keeps_those_that_were_base_already() -> None:
    few, many = (np.array(on_base(make_trace(config(base_share=share), 3))) for share in (0.2, 0.6))
    assert few.sum() < many.sum()
    assert many[few].all()


def test_base_requests_come_all_over_the_workload_and_not_first() -> None:
    base = np.array(on_base(make_trace(config(base_share=0.4), 3)))
    quarters = base.reshape(4, 100).mean(axis=1)
    assert ((quarters > 0.2) & (quarters < 0.6)).all()


@pytest.mark.parametrize("preset", PRESETS)
def test_no_adapters_mean_the_same_requests_for_the_base_model(preset: str) -> None:
    plain, bare = (make_trace(config(preset=preset, **given), 3) for given in ({}, {"adapters": 0}))
    assert bare.palette == (None,)
    assert set(on_base(bare)) == {True}
    assert plain.arrival_s.tolist() == bare.arrival_s.tolist()
    assert plain.prompt_tokens.tolist() == bare.prompt_tokens.tolist()
    assert ("rows for the base model, as `adapters: 0` asks", 400) in bare.notes


def test_no_adapters_take_away_those_that_a_trace_names(tmp_path: Path) -> None:
    path = put(tmp_path, "arrival_s,input_tokens,output_tokens,adapter_id,rank\n0,10,10,mine,8\n")
    assert make_trace(WorkloadConfig(trace=path, scale=1, adapters=0), 0).palette == (None,)


def test_a_share_of_base_requests_is_refused_where_the_trace_says_which_they_are(tmp_path: Path) -> None:
    path = put(tmp_path, "arrival_s,input_tokens,output_tokens,adapter_id,rank\n0,10,10,mine,8\n")
    with pytest.raises(ValueError, match=r"base_share is 0\.5, but the trace itself says"):
        make_trace(WorkloadConfig(trace=path, scale=1, base_share=0.5), 0)


@pytest.mark.parametrize("options", [{"adapters": 0, "locality": {}}, {"base_share": 1.5}, {"adapters": -1}])
def test_options_about_base_requests_that_make_no_sense_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        config(**options)


@pytest.mark.parametrize("system", ["chameleon", "vllm"])
def test_requests_for_the_base_model_alone_are_served(system: str) -> None:
    result = sim.run(system, "paper", requests=50, changes="workload.adapters=0")
    assert result.summary["requests"]["completed"] == 50
    assert result.summary["adapters"]["loads"] == 0
    assert result.requests["adapter_id"].isna().all()


def test_a_trace_that_lacks_adapters_is_written_without_their_columns(tmp_path: Path) -> None:
    source = put(tmp_path, "arrival_s,input_tokens,output_tokens\n0,10,10\n")
    write_canonical(read_trace(source), tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_text() == "request_id,arrival_s,input_tokens,output_tokens\n0,0.0,10,10\n"
    assert read_trace(tmp_path / "again.csv").lacks == {"adapters"}


@pytest.mark.parametrize("part", ["arrivals", "lengths"])
def test_a_trace_that_lacks_stamps_or_lengths_is_not_written(part: str, tmp_path: Path) -> None:
    nothing = np.zeros(1, dtype=np.int64)
    trace = Trace("bare", np.zeros(1), nothing, nothing, (AdapterSpec("a", 8),), nothing, lacks=frozenset({part}))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"bare has no {part} of its own"):
        write_canonical(trace, tmp_path / "never.csv")
    assert not (tmp_path / "never.csv").exists()
