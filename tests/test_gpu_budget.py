"""A check within a budget: what fits is served and kept, what does not is named, and a second start goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

pytest.importorskip("torch")

from gpu_validate import checking
from gpu_validate.checking import Plan, run_check
from gpu_validate.kept import Shelf
from gpu_validate.live import Served, Setup
from gpu_validate.observed import from_result
from gpu_validate.pace import Pace
from sim.build import deploy
from sim.config import Loaded, load_config
from sim.experiments.run import execute
from sim.hardware import Hardware
from sim.serving.ticks import TICKS_PER_S

NOW = deploy(load_config("slora", (), {"workload": {"requests": 1}, "hardware": "a40", "model": "llama-7b"}))
BUILD_S = 50.0  # of the fake engine
FIRST, AGAIN = ["slora measured", "chameleon measured"], ["slora measured again", "chameleon measured again"]


class Bench:
    """Serves by simulating, on a clock of its own."""

    def __init__(self) -> None:
        self.time_s = 0.0
        self.served: list[str] = []
        self.stops_at: int | None = None

    def now(self) -> float:
        return self.time_s

    def serve(self, loaded: Loaded, setup: Setup, label: str = "measured", *, gpu: Hardware | None = None) -> Served:
        del setup, gpu
        if len(self.served) == self.stops_at:
            raise KeyboardInterrupt
        self.served.append(f"{loaded.config.name} {label}")
        result = execute(loaded)
        self.time_s += BUILD_S + float((result.requests["arrival_s"] + result.requests["e2el_s"]).max())
        return Served(result, from_result(result, label))


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench()
    monkeypatch.setattr(checking, "serve", made.serve)
    return made


def plan_of(out: Path, budget_s: float | None = None, *, requests: int = 30, repeats: bool = True) -> Plan:
    return Plan(
        systems=("slora", "chameleon"),
        rates=(8.0,),
        requests=requests,
        hardware="a40",
        model=None,
        changes=(),
        seed=1000,
        capacity=None,
        repeats=repeats,
        setup=Setup("cpu", "torch_loop"),
        out=out,
        budget_s=budget_s,
    )


def texts(bench: Bench, plan: Plan) -> list[str]:
    return list(run_check(plan, bench.now))


def content(path: Path) -> Any:
    return json.loads(path.read_text())


def test_without_a_budget_everything_is_served_first_runs_first(tmp_path: Path, bench: Bench) -> None:
    said = texts(bench, plan_of(tmp_path))
    assert bench.served == FIRST + AGAIN
    assert not any("left out" in text for text in said)
    told = content(tmp_path / "check.json")
    assert (told["served"], told["repeated"], told["left_out"]) == (
        ["slora-at-8", "chameleon-at-8"],
        ["slora-at-8", "chameleon-at-8"],
        [],
    )
    assert content(tmp_path / "slora-at-8.json")["real_vs_real"] is not None


def test_runs_that_would_not_end_in_time_are_named_and_the_others_reported(tmp_path: Path, bench: Bench) -> None:
    said = texts(bench, plan_of(tmp_path, 2.5 * BUILD_S))
    assert bench.served == FIRST
    assert "left out, because they would not have ended within 125 s" in said[-1]
    assert "slora-at-8-repeated, chameleon-at-8-repeated; the same command goes on from here" in said[-1]
    assert content(tmp_path / "policies-at-8.json")["gains"]
    assert content(tmp_path / "check.json")["left_out"] == ["slora-at-8-repeated", "chameleon-at-8-repeated"]


def test_a_second_start_serves_only_what_is_missing(tmp_path: Path, bench: Bench) -> None:
    texts(bench, plan_of(tmp_path, 2.5 * BUILD_S))
    before = content(tmp_path / "slora-at-8.json")
    bench.served.clear()
    said = texts(bench, plan_of(tmp_path))
    assert bench.served == AGAIN
    assert not any("left out" in text for text in said)
    after = content(tmp_path / "slora-at-8.json")
    assert after["real_vs_real"] is not None
    assert {name: before[name] for name in ("sim_vs_real", "in_situ")} == {
        name: after[name] for name in ("sim_vs_real", "in_situ")
    }


def test_a_run_that_was_cut_off_is_served_again_and_a_finished_one_is_not(tmp_path: Path, bench: Bench) -> None:
    bench.stops_at = 1
    with pytest.raises(KeyboardInterrupt):
        texts(bench, plan_of(tmp_path))
    (tmp_path / "chameleon-at-8-measured.iterations.parquet").write_bytes(b"half")
    bench.stops_at = None
    bench.served.clear()
    texts(bench, plan_of(tmp_path))
    assert bench.served == [FIRST[1], *AGAIN]


def test_the_time_of_kept_runs_counts_for_the_next_start(tmp_path: Path, bench: Bench) -> None:
    texts(bench, plan_of(tmp_path, repeats=False))
    bench.served.clear()
    said = texts(bench, plan_of(tmp_path, BUILD_S / 2))
    assert bench.served == []
    assert "slora-at-8-repeated" in said[-1]


def test_runs_of_another_question_are_not_taken_for_this_one(tmp_path: Path, bench: Bench) -> None:
    texts(bench, plan_of(tmp_path, repeats=False))
    with pytest.raises(ValueError, match="slora-at-8-measured is of another profile, configuration, engine or device"):
        texts(bench, plan_of(tmp_path, requests=31))


def test_one_system_twice_is_told() -> None:
    plan = plan_of(Path("nowhere"))
    with pytest.raises(ValueError, match="called 'slora' at 8 requests/s"):
        next(run_check(Plan(**{**vars(plan), "systems": ("slora", "slora")})))
    assert not Path("nowhere").exists()


def ticking(*times: float) -> Iterator[float]:
    yield from times


def test_a_run_is_expected_to_take_its_span_and_what_others_took_beyond_theirs() -> None:
    clock = ticking(0.0, 0.0, 60.0, 60.0)
    pace = Pace(100.0, lambda: next(clock))
    assert pace.fits(40.0)
    pace.note(60.0, 40.0)
    pace.note(30.0, 40.0)
    assert pace.fits(20.0)
    assert not pace.fits(20.1)


def test_without_a_budget_every_run_fits() -> None:
    assert Pace(None).fits(1e12)


def test_runs_of_an_earlier_check_are_judged_by_the_simulator_as_it_is_now(tmp_path: Path, bench: Bench) -> None:
    texts(bench, plan_of(tmp_path / "served"))
    bench.served.clear()
    judged = replace(plan_of(tmp_path / "as-it-was"), runs=tmp_path / "served")
    changed = replace(judged, out=tmp_path / "changed", changes=("costs.host_s=0.05",))
    errors = []
    for plan in (judged, changed):
        texts(bench, plan)
        errors.append(content(plan.out / "slora-at-8.json")["sim_vs_real"]["metrics"]["ttft_s"]["p50"]["error"])
        assert content(plan.out / "slora-at-8.json")["real_vs_real"] is not None
    assert bench.served == []
    assert errors[0] == 0 < errors[1]


def test_runs_that_an_earlier_check_does_not_have_are_named(tmp_path: Path, bench: Bench) -> None:
    texts(bench, plan_of(tmp_path / "served", repeats=False))
    said = texts(bench, replace(plan_of(tmp_path / "judged"), runs=tmp_path / "served"))
    assert said[-1].startswith(f"left out, because {tmp_path / 'served'} has no such runs: slora-at-8-repeated, ")


def test_runs_of_other_requests_are_not_judged(tmp_path: Path, bench: Bench) -> None:
    texts(bench, plan_of(tmp_path / "served"))
    plan = replace(plan_of(tmp_path / "judged", requests=31), runs=tmp_path / "served")
    with pytest.raises(ValueError, match=r"slora-at-8-measured was served with workload.requests 30, asked is 31$"):
        texts(bench, plan)


def test_what_was_predicted_with_other_costs_is_left_out(tmp_path: Path, bench: Bench) -> None:
    texts(bench, plan_of(tmp_path))
    name = "slora-at-8-measured"
    path, told = tmp_path / f"{name}.iterations.parquet", content(tmp_path / f"{name}.json")
    pd.read_parquet(path).assign(predicted_s=1.0).to_parquet(path)
    for profile, is_kept in ((told["profile_sha256"], True), ("another", False)):
        kept = Shelf(tmp_path).read(name, "measured", told | {"profile_sha256": profile}, NOW)
        assert kept is not None
        assert (kept.observed.iterations is not None) == is_kept
    other = told | {"config": told["config"] | {"prefill": "chunked"}}
    kept = Shelf(tmp_path).read(name, "measured", other, NOW)
    assert kept is not None
    assert kept.observed.iterations is None


def test_what_an_older_note_does_not_have_is_as_by_default(tmp_path: Path, bench: Bench) -> None:
    texts(bench, plan_of(tmp_path))
    name = "slora-at-8-measured"
    note = tmp_path / f"{name}.json"
    told = content(note)
    older = {**told, "config": {key: value for key, value in told["config"].items() if key != "parallel"}}
    note.write_text(json.dumps(older))
    kept = Shelf(tmp_path).read(name, "measured", told, NOW)
    assert kept is not None
    assert kept.changed == ()
    other = {**told, "config": {**told["config"], "parallel": {**told["config"]["parallel"], "tensor": 2}}}
    kept = Shelf(tmp_path).read(name, "measured", other, NOW)
    assert kept is not None
    assert kept.changed == ("parallel.tensor 1, asked is 2",)


def test_iterations_that_say_what_was_asked_are_predicted_anew(tmp_path: Path, bench: Bench) -> None:
    texts(bench, plan_of(tmp_path))
    name = "slora-at-8-measured"
    path, told = tmp_path / f"{name}.iterations.parquet", content(tmp_path / f"{name}.json")
    ranks = {"distinct": 2, "distinct_rank": 40, "max_rank": 32}
    counts = {"squared_tokens": 5000, "context_tokens": 900, "token_rank": 3000, "sum_rank": 40, **ranks}
    rows = [{"kind": "decode", "requests": 2, "tokens": 2, "asked_tokens": 2, **counts}]
    rows += [{"kind": "prefill", "requests": 2, "tokens": 100, "asked_tokens": whole, **counts} for whole in (100, 120)]
    table = pd.DataFrame(rows).assign(predicted_s=9.0, duration_s=1.0, copy_left_s=0.5)
    table.assign(input_bytes=[24577, 24576, 24576]).to_parquet(path)
    kept = Shelf(tmp_path).read(name, "measured", told | {"profile_sha256": "another"}, NOW)
    assert kept is not None
    assert kept.observed.iterations is not None
    decode, whole, part = kept.observed.iterations["predicted_s"].tolist()
    assert decode == NOW.costs.decode(2, 900, 40, 2, 40, 32).first / TICKS_PER_S
    assert whole == NOW.costs.prefill(2, 100, 5000, 3000, 2, 40, 32) / TICKS_PER_S
    assert math.isnan(part)
    assert kept.observed.iterations["wait_s"].tolist() == [0.5, 0.0, 0.0]


def test_reports_as_they_came_are_not_overwritten(tmp_path: Path, bench: Bench) -> None:
    texts(bench, plan_of(tmp_path))
    with pytest.raises(ValueError, match=r"--runs and --out are both .*reports as they came would be lost"):
        texts(bench, replace(plan_of(tmp_path), runs=tmp_path))


@pytest.mark.parametrize(
    ("runs", "told"),
    [
        ("served", "has none of slora-at-9-measured, .*it has .*slora-at-8-measured"),
        ("empty", "has none of slora-at-9-measured, .*it has no runs of a check"),
        ("nowhere", "nowhere: there is no such folder"),
    ],
)
def test_where_there_is_nothing_to_judge_it_says_what_is_there(
    tmp_path: Path, bench: Bench, runs: str, told: str
) -> None:
    texts(bench, plan_of(tmp_path / "served", repeats=False))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=told):
        texts(bench, replace(plan_of(tmp_path / "judged"), rates=(9.0,), runs=tmp_path / runs))


@pytest.mark.parametrize("part", ["slora-at-8-measured.json", "slora-at-8-measured.iterations.parquet"])
def test_a_run_of_which_a_part_is_missing_is_named(tmp_path: Path, bench: Bench, part: str) -> None:
    texts(bench, plan_of(tmp_path / "served"))
    (tmp_path / "served" / part).unlink()
    with pytest.raises(ValueError, match=rf"{part} is missing, a part of the run slora-at-8-measured"):
        texts(bench, replace(plan_of(tmp_path / "judged"), runs=tmp_path / "served"))


def test_a_profile_is_the_same_wherever_it_lies(tmp_path: Path, bench: Bench) -> None:
    texts(bench, plan_of(tmp_path))
    told = content(tmp_path / "slora-at-8-measured.json")
    moved = {**told, "config": {**told["config"], "hardware": "elsewhere/a40.yaml"}}
    kept = Shelf(tmp_path).read("slora-at-8-measured", "measured", moved, NOW)
    assert kept is not None
    assert kept.changed == ()
    assert kept.observed.iterations is not None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("client.max_concurrency=3", "was served with client.max_concurrency None, asked is 3"),
        (
            "loading.token_input_bytes=3",
            "slora: loading.token_input_bytes: a check counts what the mini engine sends with a step",
        ),
    ],
)
def test_what_would_judge_other_runs_or_nothing_is_refused(tmp_path: Path, bench: Bench, change: str, why: str) -> None:
    texts(bench, plan_of(tmp_path / "served"))
    with pytest.raises(ValueError, match=why):
        texts(bench, replace(plan_of(tmp_path / "judged"), runs=tmp_path / "served", changes=(change,)))


def test_a_note_that_was_cut_off_is_named(tmp_path: Path, bench: Bench) -> None:
    texts(bench, plan_of(tmp_path / "served"))
    (tmp_path / "served" / "slora-at-8-measured.json").write_text("{")
    with pytest.raises(ValueError, match=r"slora-at-8-measured\.json:1: .*not as a check wrote it"):
        texts(bench, replace(plan_of(tmp_path / "judged"), runs=tmp_path / "served"))


def test_a_report_says_which_steps_wait_behind_copies(tmp_path: Path, bench: Bench) -> None:
    texts(bench, plan_of(tmp_path / "one", repeats=False))
    told = content(tmp_path / "one" / "slora-at-8.json")["predicted_with"]
    assert "; a step's inputs wait behind the copy under way if they are larger than 24576 bytes" in told
    assert told.endswith(", without their waits for copies")  # the fake engine does not say what it sent
    texts(bench, replace(plan_of(tmp_path / "fair", repeats=False), changes=("loading.sharing=fair",)))
    assert "; a step's inputs wait for no copy" in content(tmp_path / "fair" / "slora-at-8.json")["predicted_with"]


def test_runs_that_were_kept_before_a_key_was_retired_are_read(tmp_path: Path, bench: Bench) -> None:
    texts(bench, plan_of(tmp_path))
    name = "slora-at-8-measured"
    told = content(tmp_path / f"{name}.json")
    older = {**told, "config": {**told["config"], "loading": {**told["config"]["loading"], "step_inputs": "behind"}}}
    (tmp_path / f"{name}.json").write_text(json.dumps(older))
    kept = Shelf(tmp_path).read(name, "measured", told, NOW)
    assert kept is not None
    assert kept.changed == ()


def test_a_profile_that_lacked_a_newer_key_is_still_the_same(tmp_path: Path, bench: Bench) -> None:
    texts(bench, plan_of(tmp_path))
    name, path = "slora-at-8-measured", tmp_path / "profile.frozen.json"
    told, frozen = content(tmp_path / f"{name}.json"), content(path)
    del frozen["profile"]["link"]["inline_bytes"]
    path.write_text(json.dumps({**frozen, "sha256": "then"}))
    (tmp_path / f"{name}.json").write_text(json.dumps({**told, "profile_sha256": "then"}))
    for sha256, is_same in ((told["profile_sha256"], True), ("another", False)):
        kept = Shelf(tmp_path).read(name, "measured", {**told, "profile_sha256": sha256}, NOW)
        assert kept is not None
        assert (kept.observed.iterations is not None) == is_same
