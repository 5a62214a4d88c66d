"""Fits to published runs: known coefficients come back, priors hold the rest, halves predict each other."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from policies.base import FloatArray
from sim.fidelity import slora
from sim.fidelity.fit_progress import Part, Watch
from sim.fidelity.fitting import Coefficient, Outcome, Trial, Values, counts, fit, misses, with_costs, with_values
from sim.fidelity.measures import Measure
from sim.fidelity.plans import Evaluation, Plan, carried_out, carry_out, splits
from sim.fidelity.slora_fit import card_plans, engine_plan, runs_to_fit
from sim.fidelity.slora_h100 import H100Case, RunRow
from sim.fidelity.slora_profiles import profile, system_text
from sim.files.yamlfile import load
from sim.hardware import load_hardware
from sim.hardware_file import profile_text, write_profile

FREE = Coefficient("a.x", 1.0, 1.0)


def test_coefficients_that_runs_show_come_back() -> None:
    def off(values: Values) -> FloatArray:
        return np.array([np.log(values["a.x"] / 3.0) / 0.001, np.log(values["b.y"] / 0.5) / 0.001])

    assert fit([FREE, Coefficient("b.y", 1.0, 1.0)], off) == pytest.approx({"a.x": 3.0, "b.y": 0.5}, rel=1e-2)


def test_a_coefficient_that_runs_do_not_show_stays_at_its_prior() -> None:
    found = fit([FREE, Coefficient("b.y", 7.0, 1.0)], lambda values: np.array([np.log(values["a.x"] / 2.0) / 0.001]))
    assert found["b.y"] == 7.0
    assert found["a.x"] == pytest.approx(2.0, rel=1e-2)


def test_a_narrow_prior_holds_against_a_vague_miss() -> None:
    found = fit([FREE._replace(spread=0.01)], lambda values: np.array([np.log(values["a.x"] / 2.0)]))
    assert found["a.x"] == pytest.approx(1.0, rel=0.02)


def test_a_coefficient_never_exceeds_its_upper_bound() -> None:
    found = fit([FREE._replace(upper=1.5)], lambda values: np.array([np.log(values["a.x"] / 3.0) / 0.001]))
    assert found["a.x"] <= 1.5


def test_a_rate_above_the_peak_is_no_profile() -> None:
    with pytest.raises(ValueError, match="above"):
        with_values(load_hardware("a10g"), {"dense.flops_per_s": 1e15})


def row(**cells: float) -> slora.RunRow:
    """Return a short run on an A10G."""
    base: dict[str, object] = {
        "file": "x/synthetic_req_rate_a10g_S1_slora.jsonl", "num_adapters": 4, "alpha": 1, "req_rate": 1, "cv": 1,
        "duration": 30, "in_lo": 8, "in_hi": 256, "out_lo": 8, "out_hi": 64,
        "throughput": 1, "avg_latency": 1, "avg_first_token_latency": 1,
    }  # fmt: skip
    return slora.RunRow.model_validate(base | cells)


def made_up(rates: tuple[float, ...], trial: Trial) -> list[slora.SloraCase]:
    """Return runs whose published numbers are what a trial simulates."""
    found = []
    for rate in rates:
        case = slora.SloraCase(row(req_rate=rate), "req_rate", "a10g", "S1")
        numbers = {name: value for name, value in case.simulated(trial).items() if name in slora.PUBLISHED}
        found.append(slora.SloraCase(case.row.model_copy(update=numbers), "req_rate", "a10g", "S1"))
    return found


def truth(factor: float) -> Trial:
    """Return an A10G whose host is so slow."""
    return Trial(with_values(load_hardware("a10g"), {"host.factor": factor, "host.api_factor": 1.0}))


PLAN = Plan(
    "slora-a10g",
    "a10g",
    (Coefficient("host.factor", 1.0, 1.0),),
    lambda values: Trial(with_values(load_hardware("a10g"), {"host.api_factor": 1.0, **values})),
)


def test_the_host_of_made_up_runs_is_found_and_predicts_runs_that_the_fit_has_not_seen() -> None:
    runs = made_up((0.5, 1.0, 1.5, 2.0), truth(4.0))
    outcome = carry_out(splits(PLAN, runs)[1])
    assert outcome.values["host.factor"] == pytest.approx(4.0, rel=0.03)
    assert {one.row for one in outcome.fitted}.isdisjoint(one.row for one in outcome.unseen)
    assert len(outcome.unseen) == 2 * 3
    assert max(abs(one.relative_error) for one in outcome.unseen) < 0.03


def test_misses_are_counted_in_aims_and_leave_out_first_tokens_that_queued() -> None:
    def missed(run: slora.SloraCase) -> FloatArray:
        return misses(Evaluation((run,), truth(2.0)).measures())

    (run,) = made_up((1.0,), truth(2.0))
    assert missed(run) == pytest.approx([0, 0, 0], abs=1e-12)
    queued = slora.SloraCase(run.row.model_copy(update={"avg_first_token_latency": 2.5}), "req_rate", "a10g", "S1")
    assert len(missed(queued)) == 2
    late = slora.SloraCase(run.row.model_copy(update={"avg_latency": run.row.avg_latency / 1.03}), "r", "a10g", "S1")
    assert missed(late)[1] == pytest.approx(np.log(1.03) / 0.03)


class Counted:
    """How often runs have been simulated; it interrupts what asks too often.

    Args:
        monkeypatch: undoes it.
        most: simulations that are allowed.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: float = math.inf) -> None:
        self.count = 0
        real = slora.SloraCase.simulated

        def simulated(case: slora.SloraCase, trial: Trial) -> dict[str, float]:
            if self.count >= most:
                raise KeyboardInterrupt
            self.count += 1
            return real(case, trial)

        monkeypatch.setattr(slora.SloraCase, "simulated", simulated)


def test_a_fit_that_was_stopped_goes_on_and_finds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (whole, *_) = splits(PLAN, made_up((0.5, 1.0), truth(4.0)))
    with monkeypatch.context() as patch:
        everything = Counted(patch)
        at_once = carry_out(whole)
    with monkeypatch.context() as patch:
        Counted(patch, most=9)
        with pytest.raises(KeyboardInterrupt):
            carry_out(whole, tmp_path)
    with monkeypatch.context() as patch:
        rest = Counted(patch)
        assert carry_out(whole, tmp_path) == at_once
        assert rest.count <= everything.count - 8  # both runs with each of four choices of coefficients
    with monkeypatch.context() as patch:
        again = Counted(patch)
        assert carry_out(whole, tmp_path) == at_once
        assert again.count == 0


def test_fits_are_told_in_their_order_and_their_work_adds_up(tmp_path: Path) -> None:
    told = splits(PLAN, made_up((0.5, 1.0, 2.0), truth(1.0)))
    done: list[float] = []
    found = carried_out(told, 1, tmp_path, done.append)
    assert [len(outcome.fitted) for outcome in found] == [9, 6, 3]
    assert sum(done) == pytest.approx(sum(split.work for split in told))
    assert {path.name for path in tmp_path.iterdir()} == {"a10g-all", "a10g-half", "a10g-other"}
    assert carried_out(told, 1, None, done.append) == found


def test_a_fit_takes_as_long_as_its_runs_have_requests() -> None:
    work = [split.work for split in splits(PLAN, made_up((0.5, 1.0, 2.0), truth(1.0)))]
    assert [one / work[-1] for one in work] == [3.5, 2.5, 1.0]


def test_a_fit_under_way_counts_by_what_it_has_left_and_never_as_done(tmp_path: Path) -> None:
    done: list[float] = []
    watch = Watch([Part(tmp_path / "a", 4, 10.0), Part(tmp_path / "b", 4, 30.0)], done.append)
    watch.look()
    assert done == []
    (tmp_path / "b").mkdir()
    for name in range(9):
        (tmp_path / "b" / f"{name}.json").touch()
        watch.look()
    assert done[:3] == [7.5, 7.5, 7.5]
    assert sum(done) == pytest.approx(30 * 0.95)
    watch.finish(0)
    watch.finish(1)
    watch.look()
    assert sum(done) == pytest.approx(40.0)


def test_one_run_cannot_be_halved() -> None:
    with pytest.raises(ValueError, match="1 runs are of slora-a10g"):
        splits(PLAN, made_up((1.0,), truth(1.0)))


def test_runs_at_the_capacity_of_the_h100_are_not_fitted() -> None:
    def at(rate: float) -> H100Case:
        return H100Case(RunRow(n_lora=32, rate_per_lora=rate, req_thr=1, ttft_p50_ms=1, tpot_mean_ms=1))

    runs = runs_to_fit([at(0.2), at(0.4), slora.SloraCase(row(), "req_rate", "a10g", "S1")])
    assert [run.name.split(",")[0] for run in runs] == ["req_rate S1: 4 adapters", "32 adapters"]
    assert runs[1].name == "32 adapters, 6.4 req/s"


def test_runs_of_one_workload_stay_in_one_half() -> None:
    runs = made_up((0.5, 0.5, 1.0, 1.5, 1.5), truth(1.0))
    _, first, second = splits(PLAN, runs)
    rates = [[run.name.split(", ")[1] for run in half.fitted] for half in (first, second)]
    assert rates == [["0.5 req/s", "0.5 req/s", "1.5 req/s", "1.5 req/s"], ["1 req/s"]]


def test_the_engine_is_fitted_before_the_cards_and_with_its_host_times_they_are() -> None:
    engine = engine_plan()
    assert engine.is_of_an_engine
    assert {one.key.split(".")[0] for one in engine.coefficients} == {"costs"}
    for plan in card_plans({"costs.host_s": 0.123}):
        assert not plan.is_of_an_engine
        costs = plan.trial({one.key: one.prior for one in plan.coefficients}).engine
        assert costs is not None
        assert costs.host_s == 0.123


def test_no_prior_is_above_what_it_may_reach() -> None:
    for plan in (engine_plan(), *card_plans({})):
        assert all(one.prior < one.upper for one in plan.coefficients)


def outcome(error: float) -> Outcome:
    """Return a fit whose every metric is off by so much."""
    values = {one.key: one.prior for one in card_plans({})[0].coefficients}
    told = Measure("slora-a10g", "a run", "", "throughput", 1.0, 1.0 + error)
    return Outcome(values, (told,), (told._replace(row="another"),))


def test_a_fitted_profile_states_its_origins_sources_and_errors(tmp_path: Path) -> None:
    plan = card_plans({})[0]
    made = profile(plan, [outcome(0.01), outcome(0.02), outcome(0.04)])
    assert made.origins == dict.fromkeys(("dense", "attention", "link", "lora", "host"), "fitted")
    assert made.dense.fit_mape == pytest.approx(0.01)
    assert made.dense.held_out_mape == pytest.approx(0.03)
    assert "c1ddf48" in made.attention.source
    assert "priors" in made.attention.source
    assert load_hardware(write_profile(made, tmp_path, "chameleon fit slora")) == made


def test_the_profile_s_text_reads_like_a_person_s() -> None:
    text = profile_text(load_hardware("a40"), "a command")
    assert text.startswith("# Written by `a command`.\nname: a40\n")
    assert "peak_flops: 1.497e+14\n" in text
    assert "source: >-\n" in text


def test_a_fitted_engine_is_the_packaged_system_with_other_host_times(tmp_path: Path) -> None:
    path = tmp_path / "system.yaml"
    path.write_text(system_text({"costs.host_s": 1.5e-3, "costs.api_s": 0.5}))
    costs = load(path).tree["costs"]
    packaged = load(Path(slora.__file__).parents[1] / "data" / "systems" / f"{slora.SYSTEM}.yaml").tree["costs"]
    assert costs == {**packaged, "host_s": 1.5e-3, "api_s": 0.5}


def test_costs_of_an_engine_change_by_key() -> None:
    costs = engine_plan().trial({"costs.host_s": 0.5}).engine
    assert costs is not None
    assert costs.host_s == 0.5
    assert with_costs(costs, {}) == costs


def test_only_metrics_with_an_aim_count() -> None:
    told = Measure("slora-a10g", "a run", "", "avg_attainment", 1.0, 1.0)
    assert not counts(told)
    assert counts(told._replace(metric="throughput"))
