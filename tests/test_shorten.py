"""Requests over the model's context window: always counted; served, dropped or cut. Which notes are told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sim.models import load_model
from sim.readers.describe import busiest_hour
from sim.trace import Trace
from sim.workload.making import WorkloadConfig, make_trace, notes_to_tell
from sim.workload.shorten import between, taken_as_given, windowed

LLAMA = load_model("llama-7b")  # a window of 2048 tokens
WINDOW = "the context window of llama-7b, 2048 tokens"


def three() -> Trace:
    rows = np.zeros(3, dtype=np.int64)
    prompt, output = np.array([2000, 2000, 3000]), np.array([48, 49, 2100])
    return Trace("three", np.arange(3.0), prompt, output, (None,), rows)


def test_requests_over_the_window_are_served_and_counted() -> None:
    trace = windowed(three(), LLAMA)
    assert trace.prompt_tokens.tolist() == [2000, 2000, 3000]
    assert trace.notes == ((f"rows over {WINDOW}, served as they are", 2),)


def test_requests_over_the_window_are_dropped_if_asked() -> None:
    trace = windowed(three(), LLAMA, "drop")
    assert trace.arrival_s.tolist() == [0.0]
    assert trace.notes == ((f"rows over {WINDOW}, dropped", 2),)


def test_requests_over_the_window_are_cut_to_it_if_asked() -> None:
    trace = windowed(three(), LLAMA, "truncate")
    assert trace.prompt_tokens.tolist() == [2000, 1999, 1]
    assert trace.output_tokens.tolist() == [48, 49, 2047]
    assert trace.notes == ((f"rows truncated to {WINDOW}", 2),)


def test_a_trace_inside_the_window_is_left_alone() -> None:
    trace = three()
    assert windowed(trace, load_model("llama-3.1-8b"), "drop") is trace


def test_a_trace_all_over_the_window_cannot_be_dropped() -> None:
    tiny = LLAMA.model_copy(update={"context_window": 10})
    with pytest.raises(ValueError, match="context window of llama-7b is 10, and no request is that short"):
        windowed(three(), tiny, "drop")


@pytest.mark.parametrize("preset", ["azure-conv", "uniform"])
def test_a_workload_is_held_against_the_window_of_its_model(preset: str) -> None:
    given = {"preset": preset, "requests": 300, "over_window": "drop"}
    small = LLAMA.model_copy(update={"context_window": 600})
    trace = make_trace(WorkloadConfig.model_validate(given), 0, small)
    assert (trace.prompt_tokens + trace.output_tokens).max() <= 600
    assert len(trace) < 300


def test_the_window_is_that_of_the_lengths_after_scaling() -> None:
    given = {"preset": "azure-conv", "requests": 2000}
    raw, scaled = (make_trace(WorkloadConfig.model_validate({**given, "scale": scale}), 0, LLAMA) for scale in (1, 7))
    told = dict(raw.notes)[f"rows over {WINDOW}, served as they are"]
    assert told / 2000 == pytest.approx(0.147, abs=0.03)
    assert not any(what.startswith("rows over") for what, _ in scaled.notes)


def test_dropping_over_the_window_needs_a_model() -> None:
    with pytest.raises(ValueError, match="over_window is 'drop', and no model"):
        make_trace(WorkloadConfig(over_window="drop"), 0)


def test_a_trace_taken_as_it_is_has_its_long_requests_counted_and_needs_lengths() -> None:
    assert taken_as_given(three(), LLAMA).notes == ((f"rows over {WINDOW}, served as they are", 2),)
    assert taken_as_given(replace(three(), lacks=frozenset({"adapters"})), LLAMA).prompt_tokens.tolist()[0] == 2000
    with pytest.raises(ValueError, match="three has no lengths of its own"):
        taken_as_given(replace(three(), lacks=frozenset({"adapters", "lengths"})), LLAMA)


def test_what_a_presets_own_scale_did_is_not_told() -> None:
    settings = WorkloadConfig(drop_over_tokens=400)
    told = notes_to_tell(settings, make_trace(settings, 0).notes)
    assert [what for what, _ in told] == ["rows over 400 tokens dropped"]


def test_what_another_scale_did_is_told_and_notes_about_no_row_are_not() -> None:
    settings = WorkloadConfig(scale=3)
    notes = [("lengths divided by 3", 5), ("rows over 4000 tokens dropped", 0)]
    assert notes_to_tell(settings, notes) == [("lengths divided by 3", 5)]


@pytest.mark.parametrize("preset", ["azure-conv", "uniform"])
def test_models_with_other_windows_get_the_same_of_what_both_take(preset: str) -> None:
    config = WorkloadConfig.model_validate({"preset": preset, "requests": 300, "over_window": "drop", "scale": 1})
    small, large = (LLAMA.model_copy(update={"context_window": most}) for most in (700, 100_000))
    less, whole = make_trace(config, 0, small), make_trace(config, 0, large)
    told = {(at, int(n), spec) for at, n, spec in zip(less.arrival_s, less.prompt_tokens, less.adapter, strict=True)}
    assert 0 < len(told) < len(whole)
    rows = zip(whole.arrival_s, whole.prompt_tokens, whole.adapter, strict=True)
    assert told < {(at, int(n), spec) for at, n, spec in rows}


def canonical(folder: Path, stamps: Sequence[float]) -> Path:
    path = folder / "five.csv"
    rows = [f"{stamp},{100 + at},10" for at, stamp in enumerate(stamps)]
    path.write_text("\n".join(["arrival_s,input_tokens,output_tokens", *rows]) + "\n")
    return path


def test_rows_between_two_instants_are_taken_the_second_left_out(tmp_path: Path) -> None:
    path = canonical(tmp_path, (5.0, 15.0, 16.5, 24.9, 25.0))
    config = WorkloadConfig(trace=path, between_s=(10, 20), adapters=0)
    trace = make_trace(config, 0)
    assert trace.prompt_tokens.tolist() == [101, 102, 103]
    assert trace.arrival_s.tolist() == pytest.approx([0.0, 1.5, 9.9])
    assert ("rows outside of seconds 10 to 20 of the file left out", 2) in trace.notes


def test_requests_count_within_what_is_between(tmp_path: Path) -> None:
    path = canonical(tmp_path, (0.0, 15.0, 16.5, 17.0))
    config = WorkloadConfig(trace=path, between_s=(10, 20), requests=2, adapters=0)
    assert make_trace(config, 0).prompt_tokens.tolist() == [101, 102]


def test_a_time_without_rows_is_told_with_the_file_s_own() -> None:
    with pytest.raises(ValueError, match=r"no row of three comes then: its 3 rows come within 2 s"):
        between(three(), 5.0, 9.0, None)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"between_s": (0, 5)}, "need `trace`"),
        ({"between_s": (5, 5), "trace": "x.csv"}, "its first number must be below its second"),
        ({"between_s": (0, 5), "trace": "x.csv", "format": "servegen", "lengths": {"family": "conv"}}, "leave out"),
    ],
)
def test_a_time_that_makes_no_sense_is_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        WorkloadConfig.model_validate(given)


def test_the_busiest_hour_is_the_one_with_the_most_rows() -> None:
    stamps = np.array([10.0, 4000.0, 5000.0, 7599.0, 7601.0, 12_000.0])
    assert busiest_hour(stamps) == {"from_s": 3990.0, "to_s": 7590.0, "rows": 3}
    assert busiest_hour(stamps[:3]) is None


def test_a_time_of_rates_that_are_recognised_by_their_names_is_refused_before_they_are_read(tmp_path: Path) -> None:
    (tmp_path / "chunk-0-trace.csv").write_text("")
    with pytest.raises(ValueError, match="ServeGen's rates are drawn from their start on"):
        make_trace(WorkloadConfig(trace=tmp_path, between_s=(0, 5)), 0)
