"""The fit of vLLM's V0 engine to servers that kept up."""

from __future__ import annotations

from typing import Any

import pytest

from sim.fidelity.aims import AIMS
from sim.fidelity.plans import Evaluation, splits
from sim.fidelity.vllm import sets_of
from sim.fidelity.vllm_rows import RunRow
from sim.fidelity.vllm_v0_fit import FIRST_LOAD, PRIORS, V0Run, v0_plan, v0_runs

PLAN = v0_plan()
BELIEVED = {key: prior for key, (prior, _) in PRIORS.items()}


def run(at: int = 0, **cells: Any) -> RunRow:
    """Return a run of V0's servers: half a minute with two requests for each of sixteen adapters, about."""
    rate = 0.07 + at / 100
    return RunRow.model_validate(
        {
            "model": "llama-2-7b", "max_loras": 16, "max_lora_rank": 16, "n_adapters": 16, "rates": f"{rate}",
            "ok": 30, "dur": 30.0, "in_tok": 7500, "out_tok": 6930, "rps": 16 * rate, "ttft_p50": 60.0,
            "ttft_p99": 300.0, "ttft_mean": 90.0, "tpot_mean": 17.0, "itl_mean": 17.0, **cells,
        }
    )  # fmt: skip


def simulated(**changes: float) -> dict[str, float]:
    return V0Run(run()).simulated(PLAN.trial(BELIEVED | {key.replace("__", "."): at for key, at in changes.items()}))


def test_only_v0s_servers_that_kept_up_are_fitted() -> None:
    behind, waiting = run(1, rps=0.5), run(2, ttft_p50=5000.0)
    other = run(3, model="llama-3.1-8b-instruct")
    assert [one.name for one in v0_runs([run(), behind, waiting, other])] == [run().words]


def test_the_first_half_is_the_set_that_is_called_fitted() -> None:
    rows = [run(at) for at in range(5)]
    named = [row.words for row, name in sets_of(rows).items() if name.endswith("-fit")]
    assert [one.name for one in splits(PLAN, v0_runs(rows))[1].fitted] == named


def test_each_number_moves_what_it_is_the_cost_of() -> None:
    base = simulated()
    assert simulated(costs__lora_sequence_s=1e-3)["tpot_mean"] > 1.2 * base["tpot_mean"]
    assert simulated(costs__prefill_launch_s=0.05)["ttft_p50"] > base["ttft_p50"] + 20
    assert simulated(**{FIRST_LOAD: 1.0})["ttft_mean"] > base["ttft_mean"] + 200


def test_a_run_is_held_against_every_aim_of_its_set() -> None:
    measures = Evaluation((V0Run(run()),), PLAN.trial(BELIEVED)).measures()
    assert {one.metric for one in measures} == set(AIMS["vllm-v0-h100"]) == {"ttft_p50", "ttft_mean", "tpot_mean"}
    assert {(one.set, one.row) for one in measures} == {("vllm-v0-h100", run().words)}


def test_a_metric_that_was_not_measured_is_not_compared() -> None:
    assert "itl_p99" not in V0Run(run()).published
    assert V0Run(run(itl_p99=40.0)).published["itl_p99"] == pytest.approx(40.0)
