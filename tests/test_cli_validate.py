"""`chameleon validate` and `chameleon fit`: what they print, what they write, and how they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sim.cli.validate import SETS
from sim.fidelity.published import Asked, cases_of
from sim.fidelity.requests import LOG
from sim.hardware import load_hardware
from tests.commands import chameleon

MEASURED = Path(__file__).parents[2] / "shared" / "data" / "measured"
needs_tables = pytest.mark.skipif(not MEASURED.is_dir(), reason="the published tables are not here")

SLORA = (
    "file,num_adapters,alpha,req_rate,cv,duration,in_lo,in_hi,out_lo,out_hi,throughput,avg_latency,"
    "avg_first_token_latency\n"
    "synthetic_cv_a10g_S1_slora.jsonl,4,1,1,2,20,8,64,8,32,0.9,2,0.2\n"
    "synthetic_cv_a10g_S1_slora.jsonl,4,1,2,2,20,8,64,8,32,1.8,2,5\n"
)
H100 = "n_lora,rate_per_lora,req_thr,ttft_p50_ms,tpot_mean_ms\n4,0.01,0.04,60,16\n"


def rows(folder: Path, text: str = SLORA) -> Path:
    """Write a table."""
    path = folder / "rows.csv"
    path.write_text(text)
    return path


def test_a_table_of_one_s_own_is_compared_run_by_run_and_by_region(tmp_path: Path) -> None:
    said = chameleon("validate", "slora", "--rows", rows(tmp_path), "-j", "1")
    assert said.code == 0
    lines = said.out.splitlines()
    assert lines[0] == "slora-a10g"
    assert sum(line.startswith("cv S1: 4 adapters") for line in lines) == 2
    assert any(line.split()[:2] == ["throughput", "below"] for line in lines)
    assert lines[-1] == "* no aim was set. vLLM's workloads with LoRA: 1 seed; every other run: one."


def test_every_number_is_written_for_machines(tmp_path: Path) -> None:
    target = tmp_path / "new" / "out.json"
    said = chameleon("validate", "slora", "--rows", rows(tmp_path), "--json", target, "-j", "1", "--errors-only")
    assert said.code == 0
    assert "cv S1: 4 adapters" not in said.out
    found = json.loads(target.read_text())
    assert len(found) == 2 * 3
    assert set(found[0]) == {"set", "row", "region", "metric", "measured", "simulated", "relative_error"}
    assert found[0]["measured"] == 0.9
    assert found[0]["relative_error"] == found[0]["simulated"] / 0.9 - 1


def test_several_processes_find_the_same_in_the_same_order(tmp_path: Path) -> None:
    alone, together = tmp_path / "1.json", tmp_path / "2.json"
    for target, jobs in ((alone, "1"), (together, "2")):
        assert chameleon("validate", "slora", "--rows", rows(tmp_path), "--json", target, "-j", jobs).code == 0
    assert alone.read_text() == together.read_text()


def test_a_first_token_that_queued_is_marked_as_without_an_aim(tmp_path: Path) -> None:
    said = chameleon("validate", "slora", "--rows", rows(tmp_path), "-j", "1")
    ends = [line.split()[-2:] for line in said.out.splitlines() if line.startswith("cv S1")]
    assert [end[1] for end in ends] == ["%", "%*"]


def test_an_h100_table_is_known_by_its_columns(tmp_path: Path) -> None:
    said = chameleon("validate", "slora", "--rows", rows(tmp_path, H100), "-j", "1")
    assert said.out.startswith("slora-h100\n")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("slorra",), "no set is named 'slorra'"),
        (("slora",), "--data DIR is needed"),
        (("all", "--rows", "x.csv"), "--rows is a table of one kind"),
        (("slora", "--rows", "absent.csv"), "absent.csv"),
        (("slora", "--data", "absent"), "slora_a10g_a100_fit.csv"),
        (("slora", "--rows", "x.csv", "--seeds", "0"), "at least 1"),
    ],
)
def test_what_is_wrong_is_told_without_a_traceback(arguments: tuple[str, ...], told: str) -> None:
    said = chameleon("validate", *arguments)
    assert said.code == 2
    assert told in said.err
    assert "Traceback" not in said.err


def test_a_wrong_cell_is_told_with_its_line(tmp_path: Path) -> None:
    said = chameleon("validate", "slora", "--rows", rows(tmp_path, SLORA.replace(",0.9,", ",fast,")))
    assert said.code == 2
    assert "rows.csv:2: throughput" in said.err


@needs_tables
def test_each_published_table_has_cases_and_all_has_them_together() -> None:
    each = [cases_of(Asked(what, MEASURED)) for what in SETS[:-1]]
    assert all(each)
    assert len(cases_of(Asked("all", MEASURED))) == sum(map(len, each))


@needs_tables
def test_another_log_is_a_case_like_the_published_one(tmp_path: Path) -> None:
    log = tmp_path / "mine.jsonl"
    log.write_text("".join((MEASURED / LOG).read_text().splitlines(keepends=True)[:12]))
    said = chameleon("validate", "requests", "--rows", log, "-j", "1")
    assert said.code == 0
    assert "\nmine " in said.out


@needs_tables
def test_a_profile_of_layers_is_written_as_it_is_packaged(tmp_path: Path) -> None:
    said = chameleon("fit", "layers", "--data", MEASURED, "--out", tmp_path)
    assert said.code == 0
    assert "held-out" in said.out
    assert load_hardware(tmp_path / "rtx-4090.yaml") == load_hardware("rtx-4090")


@pytest.mark.parametrize(("flags", "is_told"), [((), True), (("--thorough",), False), (("--rows", "own.csv"), False)])
def test_a_selection_of_runs_is_told_as_one(
    flags: tuple[str, ...], is_told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sim.fidelity.published.cases_of", lambda _: [])
    said = chameleon("validate", "vllm", *flags)
    assert ("are a selection; over all of them errors are larger" in said.out) is is_told
