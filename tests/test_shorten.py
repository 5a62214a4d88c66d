"""Requests over the model's context window: always counted; served, dropped or cut. Which notes are told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sim.models import load_model
from sim.trace import Trace
from sim.workload.making import WorkloadConfig, make_trace, notes_to_tell
from sim.workload.shorten import taken_as_given, windowed

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
