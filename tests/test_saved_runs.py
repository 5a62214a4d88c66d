"""Runs that were saved: what made them repeats them, and both ways of saving write the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

import sim
from tests.commands import chameleon

MEASURED = ["ttft_s", "e2el_s", "adapter_id", "adapter_load_bytes", "adapter_source"]
SMALL = ("--requests", "40", "--rate", "9")


def system_with_seed(folder: Path, seed: int, name: str = "mine") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(f"extends: slora\nname: {name}\nseed: {seed}\n")
    return path


def told(directory: Path) -> dict[str, Any]:
    """Return what two files of a run say, but for the date."""
    bench = json.loads((directory / "vllm_bench.json").read_text())
    return {"bench": bench | {"date": None}, "summary": json.loads((directory / "summary.json").read_text())}


def test_the_configuration_of_a_saved_run_repeats_it_with_its_seed(tmp_path: Path) -> None:
    chameleon("run", "slora", *SMALL, "--reps", "2", "--out", tmp_path / "two")
    saved = tmp_path / "two" / "seed-1"
    assert chameleon("run", saved / "config.yaml", "--out", tmp_path / "again").code == 0
    one, other = ((where / "requests.parquet").read_bytes() for where in (saved, tmp_path / "again"))
    assert one == other
    assert told(saved) == told(tmp_path / "again")


def test_a_seed_that_is_given_stands_in_place_of_the_files(tmp_path: Path) -> None:
    mine = system_with_seed(tmp_path, 7)
    seeds = [
        json.loads(chameleon("run", mine, *SMALL, *flags, "--json").out)["seed"]
        for flags in ((), ("--seed", "2"), ("--set", "seed=5"))
    ]
    assert seeds == [7, 2, 5]


@pytest.mark.parametrize("command", [("sweep", "--rates", "5"), ("capacity", "--p99-ttft-s", "1")])
def test_systems_of_different_seeds_are_not_compared(tmp_path: Path, command: tuple[str, ...]) -> None:
    mine = system_with_seed(tmp_path, 7)
    said = chameleon(*command, "--system", "slora", "--system", mine, "--requests", "40")
    assert said.code == 2
    assert "have different ones: slora 0, mine 7; --seed sets all" in said.err


@pytest.mark.parametrize(
    "words",
    [
        {"rate": 9.0, "requests": 40, "seed": 3},
        {"rate": 9.0, "requests": 40, "changes": ["workload.arrivals={family: gamma, cv: 2}"]},
        {"rate": 9.0, "requests": 40, "changes": ["client.max_concurrency=4"]},
    ],
)
def test_a_result_saves_what_the_command_writes(tmp_path: Path, words: dict[str, Any]) -> None:
    sim.run("slora", **words).save(tmp_path / "python")
    changes = [text for change in words.get("changes", ()) for text in ("--set", change)]
    chameleon("run", "slora", *SMALL, "--seed", str(words.get("seed", 0)), *changes, "--out", tmp_path / "command")
    assert told(tmp_path / "python") == told(tmp_path / "command")
    assert told(tmp_path / "python")["bench"]["request_rate"] == 9.0


def test_a_trace_that_was_written_and_read_back_is_served_alike(tmp_path: Path) -> None:
    drawn = ("--requests", "300", "--rate", "9")
    chameleon("trace", "make", tmp_path / "made.csv", *drawn)
    few = ("slora", "--set", "memory.kv_pool_tokens=4000")  # adapters leave, and ties between them are many
    chameleon("run", *few, *drawn, "--out", tmp_path / "drawn")
    chameleon("run", *few, "--trace", tmp_path / "made.csv", "--out", tmp_path / "read")
    one, other = (pd.read_parquet(tmp_path / name / "requests.parquet") for name in ("drawn", "read"))
    assert one["adapter_load_bytes"].sum() > 0
    assert_frame_equal(one[MEASURED], other[MEASURED], rtol=0, atol=1e-9)
