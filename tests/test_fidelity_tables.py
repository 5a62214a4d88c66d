"""Published tables as CSV: rows by a model, faults with their line and column."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import BaseModel, Field

from sim.fidelity.tables import MAX_PROBLEMS, read_rows
from sim.files.yamltext import ConfigError


class Row(BaseModel):
    """A small table."""

    name: str
    rate: Annotated[float, Field(gt=0)]
    slots: int | None = None


def table(folder: Path, text: str) -> Path:
    """Write a table."""
    path = folder / "t.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_empty_cells_are_absent_and_further_columns_are_left_alone(tmp_path: Path) -> None:
    path = table(tmp_path, "name,other,rate,slots\na,x,1.5,\nb,y,2,3\n")
    assert read_rows(path, Row) == [Row(name="a", rate=1.5), Row(name="b", rate=2, slots=3)]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    assert read_rows(table(tmp_path, "\ufeffname,rate\na,1\n"), Row)[0].name == "a"


def test_every_wrong_cell_is_told_with_line_and_column(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_rows(table(tmp_path, "name,rate,slots\na,0,1\nb,2,many\n,3,1\n"), Row)
    first, second, third = caught.value.lines
    assert "t.csv:2: rate: " in first
    assert "got '0'" in first
    assert "t.csv:3: slots: " in second
    assert "got 'many'" in second
    assert "t.csv:4: name: " in third


def test_a_missing_column_is_told_with_the_closest_match(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"t.csv:1: column 'rate' is missing.*'rates'"):
        read_rows(table(tmp_path, "name,rates\na,1\n"), Row)


def test_a_row_with_a_cell_too_many_or_too_few_is_told_and_not_shifted(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_rows(table(tmp_path, "name,rate\na,1,2\nb\n"), Row)
    assert [line.split(": ")[0][-1] for line in caught.value.lines] == ["2", "3"]


def test_a_column_that_stands_there_twice_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="column 'rate' stands there twice"):
        read_rows(table(tmp_path, "name,rate,rate\na,1,2\n"), Row)


def test_reading_stops_after_many_faults(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_rows(table(tmp_path, "name,rate\n" + "a,0\n" * 100), Row)
    assert len(caught.value.lines) == MAX_PROBLEMS


def test_a_table_without_rows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no rows"):
        read_rows(table(tmp_path, "name,rate\n"), Row)
