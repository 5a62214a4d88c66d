"""The same seed gives the same bytes; what is drawn for one purpose does not move with another."""

from __future__ import annotations

from pathlib import Path

import pytest

import sim
from sim.results.result import Result

FILES = ("summary.json", "requests.parquet")
DRAWN = ["adapter_id", "adapter_rank", "prompt_tokens", "output_tokens", "predicted_output_tokens"]


def ran(seed: int = 5, rate: float = 9.0, system: str = "chameleon", requests: int = 300) -> Result:
    changes = ["memory.kv_pool_tokens=6000"]
    return sim.run(system, "paper", rate=rate, requests=requests, seed=seed, changes=changes)


def saved(result: Result, folder: Path) -> list[bytes]:
    directory = result.save(folder)
    return [(directory / file).read_bytes() for file in FILES]


@pytest.mark.parametrize("system", ["slora", "chameleon"])
def test_the_same_seed_writes_the_same_bytes(system: str, tmp_path: Path) -> None:
    first, second = (saved(ran(system=system), tmp_path / name) for name in ("first", "second"))
    assert first == second


def test_another_seed_writes_other_bytes(tmp_path: Path) -> None:
    first, second = saved(ran(seed=5), tmp_path / "first"), saved(ran(seed=6), tmp_path / "second")
    assert all(one != other for one, other in zip(first, second, strict=True))


def test_another_seed_draws_other_requests() -> None:
    first, second = ran(seed=5).requests, ran(seed=6).requests
    assert all((first[column] != second[column]).any() for column in [*DRAWN, "arrival_s"])


def test_the_rate_changes_when_requests_come_and_nothing_else_of_them() -> None:
    slow, fast = ran(rate=4.0).requests, ran(rate=12.0).requests
    assert slow[DRAWN].equals(fast[DRAWN])
    assert slow["arrival_s"].to_numpy() == pytest.approx(3 * fast["arrival_s"].to_numpy(), rel=1e-9)
    assert (slow["ttft_s"] != fast["ttft_s"]).any()


def test_the_system_changes_nothing_of_what_is_offered() -> None:
    one, other = ran(system="slora").requests, ran(system="chameleon").requests
    offered = [*DRAWN, "arrival_s"]
    assert one[offered].equals(other[offered])
    assert (one["ttft_s"] != other["ttft_s"]).any()
