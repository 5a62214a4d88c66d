"""A trace's own stamps at another rate: stretched alike, so that bursts stay bursts."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from sim.readers.describe import describe, gap_cv
from sim.workload.making import WorkloadConfig, make_trace

BURSTS = "arrived_at,num_prefill_tokens,num_decode_tokens\n" + "".join(
    f"{100 * burst + 0.1 * row:.1f},10,10\n" for burst in range(5) for row in range(20)
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "bursts.csv"
    file.write_text(BURSTS)
    return file


def made(path: Path, **options: object) -> tuple[list[float], tuple[tuple[str, int], ...]]:
    trace = make_trace(WorkloadConfig.model_validate({"trace": path, **options}), 0)
    return trace.arrival_s.tolist(), trace.notes


def test_stamps_are_multiplied_by_the_time_scale_and_nothing_else_changes(path: Path) -> None:
    own, _ = made(path)
    half, notes = made(path, time_scale=0.5)
    assert half == pytest.approx([0.5 * time for time in own])
    assert notes[0] == ("the trace's own stamps times 0.5, 0.4927 requests/s", 100)


def test_a_trace_at_another_rate_keeps_its_bursts(path: Path) -> None:
    trace = make_trace(WorkloadConfig.model_validate({"trace": path, "rate_per_s": 9, "arrivals": "trace"}), 0)
    own = make_trace(WorkloadConfig(trace=path), 0)
    assert describe(trace)["rate_per_s"] == pytest.approx(9)
    assert gap_cv(trace.arrival_s) == pytest.approx(gap_cv(own.arrival_s))
    assert trace.prompt_tokens.tolist() == own.prompt_tokens.tolist()
    assert trace.notes[0][0].startswith("the trace's own stamps times 0.0273")


def test_without_the_word_a_rate_still_draws_poisson_arrivals(path: Path) -> None:
    first, _ = made(path, rate_per_s=9)
    second, _ = made(path, rate_per_s=9, arrivals="poisson")
    assert first == second


def test_stamps_that_are_all_equal_have_no_rate(path: Path) -> None:
    path.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0,1,1\n0,1,1\n")
    with pytest.raises(ValueError, match="all of its stamps are equal"):
        made(path, rate_per_s=9, arrivals="trace")


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"trace": "x.csv", "time_scale": 2.0, "rate_per_s": 9}, "time_scale keeps the file's own stamps"),
        ({"time_scale": 2.0}, "need `trace`"),
        ({"arrivals": "trace"}, "arrivals of the family `trace` need `trace`"),
        ({"trace": "x.csv", "arrivals": "trace"}, "arrivals need `rate_per_s`"),
        ({"trace": "x.csv", "time_scale": 0.0}, "greater than 0"),
        ({"adapter_column": "model"}, "need `trace`"),
        ({"text_tokens": "words"}, "need `trace`"),
    ],
)
def test_options_about_stamps_that_do_not_go_together_are_refused(options: dict[str, object], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        WorkloadConfig.model_validate(options)
