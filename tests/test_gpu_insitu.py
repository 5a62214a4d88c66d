"""The factor in situ: found on a run's first part, judged on the rest, and used for nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from gpu_validate.check import Observed, report_pair
from gpu_validate.errors import pair_iterations
from gpu_validate.insitu import behind_copies, host_speed, in_situ, waiting_inputs
from gpu_validate.report import text_of


def iterations(decode: list[float], prefill: list[float]) -> pd.DataFrame:
    """Return iterations that the model takes for 1 s each."""
    kinds = ["decode"] * len(decode) + ["prefill"] * len(prefill)
    return pd.DataFrame({"kind": kinds, "duration_s": [*decode, *prefill], "predicted_s": 1.0}).sample(
        frac=1.0, random_state=0
    )


def observed(table: pd.DataFrame) -> Observed:
    ttft = np.linspace(0.1, 1.0, 20)
    requests = {"request_id": np.arange(20), "arrival_s": np.arange(20.0), "ttft_s": ttft, "tpot_s": 0.1}
    return Observed("card", pd.DataFrame({**requests, "e2el_s": ttft + 1}), table)


def test_a_model_that_is_wrong_by_one_factor_would_be_mended_by_it() -> None:
    found = in_situ(pair_iterations(None, iterations([1.25] * 60, [1.0] * 60)))
    assert found is not None
    decode = found["decode"]
    assert decode["scale"] == pytest.approx(1.25)
    assert (decode["mape"], decode["mape_scaled"]) == (pytest.approx(0.2), pytest.approx(0.0))
    assert found["prefill"]["scale"] == pytest.approx(1.0)
    assert decode["n_fit"] + decode["n_test"] == 60


def test_a_factor_that_holds_in_the_first_part_only_is_seen_through() -> None:
    table = pd.DataFrame({"kind": "decode", "duration_s": [2.0] * 40 + [1.0] * 40, "predicted_s": 1.0})
    found = in_situ(pair_iterations(None, table))
    assert found is not None
    assert found["decode"]["scale"] == 2.0
    assert (found["decode"]["mape"], found["decode"]["mape_scaled"]) == (0.0, 1.0)


def test_too_few_iterations_give_no_factor() -> None:
    found = in_situ(pair_iterations(None, iterations([1.0] * 200, [1.0] * 5)))
    assert found is not None
    assert "scale" in found["decode"]
    assert "scale" not in found["prefill"]


def test_without_predictions_of_the_very_iterations_there_is_no_diagnosis() -> None:
    table = iterations([1.0] * 60, []).drop(columns="predicted_s")
    assert in_situ(pair_iterations(table, table)) is None
    assert in_situ(None) is None


def test_the_factor_is_told_as_a_diagnosis_and_changes_no_error() -> None:
    card = observed(iterations([1.25] * 60, [1.0] * 60))
    report = report_pair(card, card, draws=10)
    assert report["sim_vs_real"]["iterations"]["by_kind"]["decode"]["mape"] == pytest.approx(0.2)
    (line,) = (line for line in text_of(report).splitlines() if line.startswith("in situ, decode"))
    assert "a diagnosis that nothing here uses: measured / predicted 1.250" in line
    assert "mean absolute error +20.0 % would be +0.0 %" in line


def test_steps_that_begin_behind_a_copy_are_told_apart_from_all_others() -> None:
    table = pd.DataFrame({"kind": "decode", "duration_s": [1.5, 1.75, 1.0, 1.25], "predicted_s": 1.0})
    table["copy_left_s"] = [0.5, 1.0, 0.0, 0.0]
    found = behind_copies(pair_iterations(None, table))
    assert found == {
        "n": 2,
        "mean_left_s": 0.75,
        "mean_late_s": 0.625,
        "n_others": 2,
        "mean_late_others_s": 0.125,
    }
    text = text_of(report_pair(observed(table), observed(table), draws=10))
    assert (
        "still took 750.00 ms (mean): +625.00 ms against the prediction (n = 2); all others +125.00 ms (n = 2)" in text
    )


@pytest.mark.parametrize("left_s", [[0.0] * 4, [1.0] * 4, None])
def test_nothing_is_said_of_copies_where_there_is_nothing_to_compare(left_s: list[float] | None) -> None:
    table = pd.DataFrame({"kind": "decode", "duration_s": [1.0] * 4, "predicted_s": 1.0})
    assert behind_copies(pair_iterations(None, table if left_s is None else table.assign(copy_left_s=left_s))) is None


def decode_steps(late_s: list[float], **columns: list[float]) -> pd.DataFrame:
    """Return decode steps that the model takes for 1 s each."""
    return pd.DataFrame({"kind": "decode", "duration_s": [1 + one for one in late_s], "predicted_s": 1.0, **columns})


def test_the_size_from_which_inputs_wait_is_read_off_steps_that_did_and_did_not() -> None:
    sizes, left = [100.0, 200.0, 200.0, 200.0, 300.0, 400.0, 400.0], [0.01] * 6 + [0.001]
    table = decode_steps([0.0, 0.009, 0.001, 0.0, 0.011, 0.01, 0.0], input_bytes=sizes, copy_left_s=left)
    found = waiting_inputs(pair_iterations(None, table))
    assert found == {
        "free_bytes": 200,
        "n_free": 4,
        "share_free": 0.25,
        "waiting_bytes": 300,
        "n_waiting": 2,
        "share_waiting": 1.0,
    }
    text = text_of(report_pair(observed(table), observed(table), draws=10))
    assert "of up to 200 bytes 25 % waited for it (n = 4), of 300 bytes and more 100 % (n = 2)" in text


def test_inputs_of_one_size_tell_nothing_of_others() -> None:
    same = decode_steps([0.01, 0.0], input_bytes=[100, 100], copy_left_s=[0.01, 0.01])
    assert waiting_inputs(pair_iterations(None, same)) is None
    assert waiting_inputs(pair_iterations(None, same.drop(columns="input_bytes"))) is None


def test_steps_that_the_host_issued_slowly_are_told_apart_from_those_that_it_issued_quickly() -> None:
    late = [0.0] * 20 + [0.25] * 40 + [0.5] * 20 + [9.0]
    issue = [0.125] * 20 + [0.25] * 40 + [0.5] * 20 + [0.125]
    table = decode_steps(late, issue_s=issue, copy_left_s=[0.0] * 80 + [1.0])
    found = host_speed(pair_iterations(None, table))
    assert found is not None
    assert found == {
        "n": 80,
        "quick_issue_s": 0.125,
        "quick_late_s": 0.0,
        "slow_issue_s": 0.5,
        "slow_late_s": 0.5,
    }
    text = text_of(report_pair(observed(table), observed(table), draws=10))
    told = "decode steps (n = 80): +0.00 ms against the prediction where the host took 125.00 ms to issue them"
    assert told in text
    assert "+500.00 ms against the prediction where the host took 500.00 ms to issue them (the slowest)" in text


@pytest.mark.parametrize("dropped", ["issue_s", "predicted_s", None])
def test_nothing_is_said_of_the_host_where_little_is_known(dropped: str | None) -> None:
    table = decode_steps([0.0] * 79, issue_s=[0.1] * 79)
    assert host_speed(pair_iterations(table, table if dropped is None else table.drop(columns=dropped))) is None


def test_a_wait_that_was_to_be_expected_is_part_of_the_prediction() -> None:
    columns = {"input_bytes": [100.0, 300.0], "copy_left_s": [0.25, 0.25], "wait_s": [0.0, 0.25]}
    pairs = pair_iterations(None, decode_steps([0.0, 0.25], **columns))
    assert pairs is not None
    assert pairs["predicted_s"].tolist() == pairs["simulated_s"].tolist() == [1.0, 1.25]
    found = waiting_inputs(pairs)
    assert found is not None
    assert (found["share_free"], found["share_waiting"]) == (0.0, 1.0)
