"""Cases share the cores, and what is finished is kept for the next start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from sim.fidelity import kept
from sim.fidelity.cases import perform
from sim.fidelity.measures import Measure


@dataclass(frozen=True)
class Noted:
    """A case that leaves a mark in a folder each time it is simulated."""

    folder: Path
    requests: int

    @property
    def name(self) -> str:
        return f"run {self.requests}"

    def measures(self) -> list[Measure]:
        with (self.folder / "order").open("a", encoding="utf-8") as file:
            file.write(f"{self.requests} ")
        if not self.requests:
            msg = "nothing to simulate"
            raise ValueError(msg)
        return [Measure("a set", self.name, "below 0.7", "rps", 0.1, self.requests / 3)]


def order(folder: Path) -> list[int]:
    """Return which cases were simulated."""
    path = folder / "order"
    return [int(word) for word in path.read_text(encoding="utf-8").split()] if path.exists() else []


def test_the_largest_cases_start_first_and_each_tells_its_place(tmp_path: Path) -> None:
    found = dict(perform([Noted(tmp_path, size) for size in (1, 3, 2)]))
    assert order(tmp_path) == [3, 2, 1]
    assert [found[place][0].row for place in range(3)] == ["run 1", "run 3", "run 2"]


def test_what_is_finished_is_not_simulated_again_and_is_the_same_to_the_last_bit(tmp_path: Path) -> None:
    keep = tmp_path / "kept"
    first = dict(perform([Noted(tmp_path, size) for size in (1, 2)], keep=keep))
    again = dict(perform([Noted(tmp_path, size) for size in (1, 2, 7)], keep=keep))
    assert order(tmp_path) == [2, 1, 7]
    assert {place: again[place] for place in first} == first


def test_a_start_that_was_stopped_has_kept_what_it_finished(tmp_path: Path) -> None:
    keep = tmp_path / "kept"
    with pytest.raises(ValueError, match="nothing to simulate"):
        list(perform([Noted(tmp_path, size) for size in (0, 6)], keep=keep))
    assert kept.load(keep, Noted(tmp_path, 6)) is not None


def test_without_a_folder_everything_is_simulated(tmp_path: Path) -> None:
    for _ in range(2):
        list(perform([Noted(tmp_path, 4)]))
    assert order(tmp_path) == [4, 4]


def test_measures_of_another_source_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Noted(tmp_path, 4)
    kept.save(tmp_path, case, case.measures())
    monkeypatch.setattr(kept, "source_sha256", lambda: "another")
    assert kept.load(tmp_path, case) is None


def test_measures_are_made_once_where_there_is_a_folder_and_each_time_where_there_is_none(tmp_path: Path) -> None:
    case = Noted(tmp_path, 4)
    assert kept.made(tmp_path, case, case.measures) == kept.made(tmp_path, case, case.measures)
    assert order(tmp_path) == [4]
    assert kept.made(None, case, case.measures) == kept.made(None, case, case.measures)
    assert order(tmp_path) == [4, 4, 4]


def test_a_case_that_fails_is_told_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run 0: nothing to simulate"):
        list(perform([Noted(tmp_path, 0)]))
