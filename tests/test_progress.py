"""The progress bar: what it counts, where it is drawn, and when it keeps quiet."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator

import pytest

from sim.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def watched(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Put a terminal on standard error; no fixture, for pytest captures anew between set-up and test."""
    stream = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_work_that_is_iterated_over_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watched(monkeypatch)
    with progress(["a", "b", "c"], "Runs") as steps:
        assert list(steps) == ["a", "b", "c"]
    assert "Runs" in terminal.getvalue()
    assert "3/3" in terminal.getvalue()


def test_work_of_a_known_amount_is_counted_by_advancing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watched(monkeypatch)
    with progress(10, "Steps") as steps:
        steps.advance(4)
        steps.advance()
    assert "5/10" in terminal.getvalue()


def test_an_amount_can_be_iterated_over_as_well() -> None:
    with progress(3, "Steps") as steps:
        assert list(steps) == [0, 1, 2]


def test_work_of_unknown_length_is_counted_without_a_total(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watched(monkeypatch)
    with progress((letter for letter in "ab"), "Letters") as steps:
        assert list(steps) == ["a", "b"]
    assert "2/?" in terminal.getvalue()


def test_the_time_left_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watched(monkeypatch)
    with progress(2, "Steps") as steps:
        list(steps)
    assert "0:00:00" in terminal.getvalue()


def test_results_printed_under_the_bar_stay_on_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = watched(monkeypatch)
    with progress(1, "Steps"):
        print("result")
    assert capsys.readouterr().out == "result\n"
    assert "result" not in terminal.getvalue()


def test_nothing_is_drawn_where_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress(2, "Steps") as steps:
        list(steps)
    assert stream.getvalue() == ""


def test_a_failure_under_the_bar_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watched(monkeypatch)

    def failing() -> Iterator[int]:
        yield 1
        raise LookupError

    with pytest.raises(LookupError), progress(failing(), "Steps") as steps:
        list(steps)
    assert "1/?" in terminal.getvalue()
