"""docs/fidelity.md: written from measures and fits, and every published set stands on it."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sim.fidelity.aims import AIMS
from sim.fidelity.measures import NO_LOAD, REGIONS, Measure
from sim.hardware import load_hardware

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """Return the script as a module."""
    spec = importlib.util.spec_from_file_location("fidelity_script", DOCS / "fidelity.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WHOLE = {name: metrics for name, metrics in AIMS.items() if name != "vllm-v0-h100"}  # of which halves alone are told


def measures() -> Iterator[Measure]:
    """Yield one run of each promised set, its last metric far off."""
    for name, metrics in WHOLE.items():
        for metric in metrics:
            off = 2.0 if metric == list(metrics)[-1] else 1.0
            yield Measure(name, f"a run of {name}", REGIONS[0], metric, 1.0, off)
    yield Measure("vllm-h100-microbench", "a step", NO_LOAD, "itl_ms", 1.0, 1.0)


def fit() -> dict[str, Any]:
    """Return what a fit of two runs leaves behind."""
    told = Measure("slora-a10g", "a run", "", "throughput", 2.0, 1.9).as_dict()
    values = [{"host.factor": value} for value in (1.5, 1.4, 1.6)]
    return {
        "target": "a10g", "set": "slora-a10g", "priors": {"host.factor": 1.0}, "values": values, "fitted": [told],
        "unseen": [told | {"simulated": 2.2}],
    }  # fmt: skip


def test_every_set_has_a_line_and_a_table(script: ModuleType) -> None:
    text = script.page(list(measures()), [fit()])
    for name in WHOLE:
        assert f"\n### {name}\n" in text
        assert f"\n| `{name}` |" in text
    assert "<!--" not in text


def test_every_missed_aim_is_named_with_its_worst_run(script: ModuleType) -> None:
    text = script.page(list(measures()), [])
    missed = text.split("## Aims that were missed")[1].split("\n## ")[0]
    assert len(re.findall(r"^\| (?!set)\S", missed, flags=re.MULTILINE)) == len(WHOLE)


def test_a_half_that_is_predicted_badly_is_a_miss_too(script: ModuleType) -> None:
    missed = script.page(list(measures()), [fit()]).split("## Aims that were missed")[1]
    assert "| slora-a10g, halves | throughput |  | 1 % | 0 of 1 | a run: +10 % |" in missed


def test_a_page_without_one_of_the_sets_is_not_written(script: ModuleType) -> None:
    with pytest.raises(ValueError, match="no measure is of slora-h100"):
        script.page([one for one in measures() if one.set != "slora-h100"], [])


def test_the_worst_run_is_told_with_its_error(script: ModuleType) -> None:
    missed = script.page(list(measures()), [])
    assert "| vllm-rtx4090 | tpot_p99 | below 0.7 | 10 % | 0 of 1 | a run of vllm-rtx4090: +100 % |" in missed


def test_a_fit_shows_its_values_and_how_it_does_on_runs_that_it_has_not_seen(script: ModuleType) -> None:
    text = script.page(list(measures()), [fit()])
    assert "| `host.factor` | 1 | 1.5 | 1.4 | 1.6 |" in text
    assert "| throughput, all rows, fitted | 1 | 5.0 % | 5.0 % | -5.0 % |" in text
    assert "| throughput, halves, unseen | 1 | 10.0 % | 10.0 % | +10.0 % |" in text


def test_a_fit_tells_what_its_values_stand_beside(script: ModuleType) -> None:
    text = script.page(list(measures()), [fit(), fit() | {"target": "vllm", "beside": "shipped"}])
    assert re.findall(r"^\| coefficient \| (\w+) \|", text, flags=re.MULTILINE) == ["prior", "shipped"]


def test_rows_that_a_fit_has_seen_are_said_to_be(script: ModuleType) -> None:
    seen = [one._replace(set=f"{one.set}-fit") for one in measures() if one.set == "vllm-lora-h100-8b"]
    (line,) = [line for line in script.summary({"vllm-lora-h100-8b-fit": seen}, []) if "vllm-lora" in line]
    assert line.split(" | ")[3] == "yes"


def test_runs_that_differ_in_slots_only_are_told_from_the_most_to_the_fewest(script: ModuleType) -> None:
    told = [
        Measure(
            "vllm-lora-h100-8b", f"64 adapters, {slots} slots, 0.1/0.05/0.025 req/s each", "", metric, slots, 2 * slots
        )
        for slots in (8, 64, 16)
        for metric in ("ttft_p50", "ttft_p99", "ttft_mean", "tpot_mean")
    ]
    other = told[0]._replace(row="65 adapters, 8 slots, 0.1/0.05/0.025 req/s each")
    lines = list(script.cliff([*told, other]))
    assert [line.split(" | ")[0] for line in lines[2:5]] == ["| 64", "| 16", "| 8"]
    assert lines[3] == "| 16 | 16 / 32 | 16 / 32 | 16 / 32 | 16 / 32 |"


def test_every_table_of_the_page_has_rows_of_one_width() -> None:
    for table in re.findall(r"(?:^\|.*\n)+", (DOCS / "fidelity.md").read_text(encoding="utf-8"), flags=re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_the_page_holds_every_run_that_it_says_it_holds() -> None:
    text = (DOCS / "fidelity.md").read_text(encoding="utf-8")
    runs = dict(re.findall(r"^\| `([^`]+)` \| [^|]+ \| (\d+) \|", text, flags=re.MULTILINE))
    vllm = ("vllm-lora-h100-8b", "vllm-lora-h100-8b-fit", "vllm-lora-h100-7b", "vllm-lora-h100-7b-fit")
    assert sum(int(runs[name]) for name in vllm) == 251
    assert {name: int(runs[name]) for name in runs if name.startswith("slora") and "halves" not in name} == {
        "slora-a10g": 14,
        "slora-a100-80": 4,
        "slora-h100": 5,
    }
    cliff = text.split("## The slots cliff")[1].split("\n## ")[0]
    assert re.findall(r"^\| (\d+) \|", cliff, flags=re.MULTILINE) == ["64", "32", "16", "8"]


@pytest.mark.parametrize("name", ["a10g", "a100-80"])
def test_the_packaged_profiles_are_the_fits_of_the_page(name: str) -> None:
    text = (DOCS / "fidelity.md").read_text(encoding="utf-8")
    table = text.split(f"### `{name}`, from")[1].split("\n### ")[0]
    found = re.findall(r"^\| `(\w+)\.(\w+)` \| \S+ \| (\S+) \|", table, flags=re.MULTILINE)
    card = load_hardware(name)
    assert found
    for group, field, value in found:
        assert f"{getattr(getattr(card, group), field):.4g}" == value
