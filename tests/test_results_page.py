"""docs/results.md names every column and key that a run's files have, with its type, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

import sim
from sim.results.rundir import OPTIONAL, WRITTEN

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "results.md").read_text(encoding="utf-8")
TYPES = {"large_string": "text", "string": "text", "double": "float64"}
WHOLE = {"costs.origins"}  # its keys are those of the hardware profile


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    result = sim.run("slora", "paper", rate=9, requests=40)
    return result.save(tmp_path_factory.mktemp("runs") / "one")


def tables(heading: str) -> list[list[list[str]]]:
    """Return the tables under a heading: rows of cells, without header and rule."""
    (part,) = (part for part in PAGE.split("\n## ") if part.startswith(heading))
    blocks = re.findall(r"(?:^\|.*\n)+", part, re.MULTILINE)
    return [
        [[cell.strip() for cell in line.strip("|").split(" | ")] for line in block.strip().splitlines()[2:]]
        for block in blocks
    ]


def names(rows: list[list[str]]) -> list[str]:
    return [row[0].strip("| `") for row in rows]


def keys(tree: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, value in tree.items():
        name = f"{path}{key}"
        if isinstance(value, Mapping) and "unit" not in value and name not in WHOLE:
            yield from keys(value, f"{name}.")
        else:
            yield name


@pytest.mark.parametrize("table", ["requests", "adapters", "timeseries"])
def test_the_page_has_the_columns_of_a_table_in_order_with_their_types(table: str, directory: Path) -> None:
    (rows,) = tables(f"Columns of `{table}.parquet`")
    schema = pq.read_schema(directory / f"{table}.parquet")
    told = [(field.name, TYPES.get(str(field.type), str(field.type))) for field in schema]
    assert [(name, row[1].strip("| ")) for name, row in zip(names(rows), rows, strict=True)] == told


def test_the_page_has_the_keys_of_the_summary_in_order() -> None:
    summary = sim.run("slora", "paper", rate=9, requests=40).summary
    rows, *_ = tables("Keys of `summary.json`")
    assert names(rows) == list(keys(summary))


def test_the_page_has_the_keys_of_the_rows_in_the_summary() -> None:
    summary = sim.run("slora", "paper", rate=9, requests=40).summary
    _, by_rank, by_class = tables("Keys of `summary.json`")
    assert names(by_rank) == list(summary["by_rank"][0])
    assert names(by_class) == list(summary["by_size"][0]) == list(summary["by_class"]["rows"][0])


def test_what_described_means_stands_on_the_page() -> None:
    described = sim.run("slora", "paper", rate=9, requests=40).summary["metrics"]["ttft_ms"]
    (line,) = (line for line in PAGE.splitlines() if "Described" in line)
    assert re.findall(r"`(\w+)`", line) == list(described)


def test_the_page_has_the_files_of_a_run() -> None:
    told = {name for row in tables("# The files of a run")[0] for name in [row[0].strip("| `")]}
    assert told == {*WRITTEN, *OPTIONAL} - {"DONE"}


def test_what_vllm_s_names_are_compared_with_is_there(directory: Path) -> None:
    (rows,) = tables("What vLLM calls it")
    columns = {name: set(pd.read_parquet(directory / f"{name}.parquet").columns) for name in ("requests", "adapters")}
    columns["timeseries"] = set(pd.read_parquet(directory / "timeseries.parquet").columns)
    columns["summary"] = set(keys(sim.run("slora", "paper", rate=9, requests=40).summary))
    assert len(rows) > 10
    for row in rows:
        for table, told in re.findall(r"(requests|adapters|timeseries|summary) ((?:`[^`]+`(?:, | [+-] )?)+)", row[1]):
            assert set(re.findall(r"`([^`]+)`", told)) <= columns[table]
