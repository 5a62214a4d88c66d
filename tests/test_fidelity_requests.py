"""A real engine's log replayed: what is read, what is compared, and how faults are told."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.fidelity.cases import perform
from sim.fidelity.measures import Measure, errors
from sim.fidelity.requests import LOG, RTX4090, Engine, Latencies, LogCase, cases, metrics, read_log
from sim.files.yamltext import ConfigError

MEASURED = Path(__file__).parents[2] / "shared" / "data" / "measured"
SMALL = Engine("small", "vllm-base", ("hardware=a40", "model=llama-7b"))


def line(queued: float, first: float, last: float, prompt: int = 100, output: int = 11) -> dict[str, Any]:
    """Return one line of a log."""
    instants = {"queued_ts": queued, "first_token_ts": first, "last_token_ts": last}
    return {"request_id": "r", "input_toks": prompt, "output_toks": output, **instants}


def log(folder: Path, *lines: dict[str, Any] | str) -> Path:
    """Write a log."""
    path = folder / "some.jsonl"
    path.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines))
    return path


def case(path: Path, engine: Engine = SMALL) -> LogCase:
    (one,) = cases(path.parent, path, engine)
    return one


def by_metric(found: list[Measure]) -> dict[str, Measure]:
    return {one.metric: one for one in found}


def test_latencies_of_a_log_are_those_of_its_instants(tmp_path: Path) -> None:
    logged = case(log(tmp_path, line(100.0, 100.5, 101.5), line(102.0, 103.0, 105.0))).logged()
    assert logged.ttft_s.tolist() == pytest.approx([0.5, 1.0])
    assert logged.tpot_s.tolist() == pytest.approx([0.1, 0.2])
    assert logged.e2e_s.tolist() == pytest.approx([1.5, 3.0])
    assert logged.span_s == pytest.approx(5.0)


def test_metrics_are_means_percentiles_and_tokens_per_second() -> None:
    latencies = Latencies(np.arange(101.0), np.full(101, 0.1), np.full(101, 7.0), 50.0)
    assert metrics(latencies, 1000) == pytest.approx(
        {
            "ttft_mean": 50.0,
            "ttft_p50": 50.0,
            "ttft_p90": 90.0,
            "ttft_p99": 99.0,
            "tpot_mean": 0.1,
            "tpot_p50": 0.1,
            "tpot_p99": 0.1,
            "e2e_mean": 7.0,
            "throughput": 20.0,
        }
    )


def test_a_request_of_one_token_has_no_time_per_token(tmp_path: Path) -> None:
    logged = case(log(tmp_path, line(0.0, 0.5, 0.5, output=1), line(0.0, 1.0, 2.0))).logged()
    assert np.isnan(logged.tpot_s[0])
    assert metrics(logged, 12)["tpot_mean"] == pytest.approx(0.1)
    assert "tpot_mean" not in metrics(case(log(tmp_path, line(0.0, 0.5, 0.5, output=1))).logged(), 1)


def test_requests_are_replayed_at_their_own_instants(tmp_path: Path) -> None:
    # Far apart, so that each has the engine for itself, whatever the clock's zero.
    found = case(log(tmp_path, line(1000.0, 1001.0, 1002.0), line(1050.0, 1051.0, 1052.0))).simulated()
    assert found.ttft_s[0] == pytest.approx(found.ttft_s[1])
    assert found.span_s == pytest.approx(50.0 + found.e2e_s[1])
    together = case(log(tmp_path, line(1000.0, 1001.0, 1002.0), line(1000.0, 1051.0, 1052.0))).simulated()
    assert together.span_s < 5


def test_lengths_are_those_of_the_log(tmp_path: Path) -> None:
    short = case(log(tmp_path, line(0.0, 1.0, 2.0, output=10))).simulated()
    long = case(log(tmp_path, line(0.0, 1.0, 2.0, output=20))).simulated()
    assert (long.e2e_s[0] - long.ttft_s[0]) / (short.e2e_s[0] - short.ttft_s[0]) == pytest.approx(19 / 9, rel=0.01)
    wordy = case(log(tmp_path, line(0.0, 1.0, 2.0, prompt=2000))).simulated()
    assert wordy.ttft_s[0] > 2 * short.ttft_s[0]


def test_nothing_but_arrivals_and_lengths_reaches_the_simulator(tmp_path: Path) -> None:
    one = case(log(tmp_path, line(0.0, 1.0, 2.0), line(0.5, 1.5, 3.0)))
    other = case(log(tmp_path, line(0.0, 8.0, 9.0), line(0.5, 7.0, 8.0)))
    assert one.simulated().e2e_s.tolist() == other.simulated().e2e_s.tolist()
    assert one.logged().e2e_s.tolist() != other.logged().e2e_s.tolist()


def test_rows_are_taken_by_time_of_queueing_and_not_in_file_order(tmp_path: Path) -> None:
    later, sooner = line(2.0, 3.0, 4.0, prompt=7), line(1.0, 2.0, 3.0, prompt=9)
    assert [row.input_toks for row in case(log(tmp_path, later, sooner)).rows] == [9, 7]


def test_measures_set_the_log_beside_the_simulation(tmp_path: Path) -> None:
    one = case(log(tmp_path, line(0.0, 1.0, 2.0), line(40.0, 41.0, 42.0)))
    found = by_metric(one.measures())
    assert set(found) == set(metrics(one.logged(), 1))
    assert (found["ttft_mean"].set, found["ttft_mean"].row) == ("small", "some")
    assert found["ttft_mean"].measured == pytest.approx(1.0)
    assert found["ttft_mean"].simulated == pytest.approx(float(one.simulated().ttft_s.mean()))
    assert found["throughput"].measured == pytest.approx(22 / 42)


@pytest.mark.parametrize(("gap_s", "region"), [(1000.0, "below 0.7"), (1e-3, "above 0.95")])
def test_the_region_is_the_offered_rate_over_the_simulated_capacity(tmp_path: Path, gap_s: float, region: str) -> None:
    lines = [line(at * gap_s, at * gap_s + 1, at * gap_s + 2, output=10 + at) for at in range(20)]
    assert {one.region for one in case(log(tmp_path, *lines)).measures()} == {region}


def test_a_case_survives_being_sent_to_another_process(tmp_path: Path) -> None:
    one = case(log(tmp_path, line(0.0, 1.0, 2.0), line(0.5, 1.5, 3.0)))
    assert pickle.loads(pickle.dumps(one)).measures() == one.measures()  # noqa: S301 - our own bytes


def test_another_log_may_come_from_another_engine(tmp_path: Path) -> None:
    path = log(tmp_path, line(0.0, 1.0, 2.0, output=200))
    fast = case(path, Engine("fast", "vllm-base", ("hardware=h100", "model=llama-7b"))).simulated()
    assert fast.e2e_s[0] < 0.5 * case(path).simulated().e2e_s[0]


def test_a_request_that_the_simulated_engine_rejects_is_an_error(tmp_path: Path) -> None:
    path = log(tmp_path, line(0.0, 1.0, 2.0), line(0.5, 1.5, 3.0, prompt=5000))
    small = SMALL._replace(changes=(*SMALL.changes, "memory.kv_pool_tokens=1600"))
    with pytest.raises(ValueError, match="some: request 1 of the log is rejected in the simulation"):
        case(path, small).simulated()


def without(key: str) -> dict[str, Any]:
    kept = line(0.0, 1.0, 2.0)
    del kept[key]
    return kept


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (without("queued_ts"), r"some\.jsonl:2: key 'queued_ts' is missing"),
        (without("queued_ts") | {"queud_ts": 1.0}, r"some\.jsonl:2: key 'queued_ts' is missing.*'queud_ts'"),
        (line(0.0, 1.0, 2.0) | {"output_toks": 0}, r"some\.jsonl:2: output_toks: .*greater than or equal to 1, got 0"),
        (line(0.0, 1.0, 2.0) | {"input_toks": 1.5}, r"some\.jsonl:2: input_toks: .*integer, got 1\.5"),
        (line(0.0, 1.0, 2.0) | {"last_token_ts": "x"}, r"some\.jsonl:2: last_token_ts: .*number.*, got 'x'"),
        (line(0.0, 3.0, 2.0), r"some\.jsonl:2: need queued_ts <= first_token_ts <= last_token_ts, got 0\.0, 3\.0 and"),
        ("{", r"some\.jsonl:2: no JSON: .* at column 2"),
        ("[1]", r"some\.jsonl:2: a line must hold an object of keys and values, got list"),
    ],
)
def test_a_wrong_line_is_told_with_its_number_and_key(tmp_path: Path, wrong: dict[str, Any] | str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read_log(log(tmp_path, line(0.0, 1.0, 2.0), wrong))


def test_all_wrong_lines_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_log(log(tmp_path, "{", line(0.0, 1.0, 2.0), without("input_toks")))
    assert [one.split(":")[1] for one in str(caught.value).splitlines()] == ["1", "3"]


def test_an_empty_log_is_an_error_and_empty_lines_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"some\.jsonl: the log has no requests"):
        read_log(log(tmp_path, "", ""))
    assert len(read_log(log(tmp_path, "", line(0.0, 1.0, 2.0), ""))) == 1


@pytest.fixture(scope="module")
def published() -> LogCase:
    if not (MEASURED / LOG).is_file():
        pytest.skip("the measured data are not on this machine")
    (one,) = cases(MEASURED)
    return one


def test_the_published_log_is_the_one_that_its_readme_describes(published: LogCase) -> None:
    logged = metrics(published.logged(), 1)
    assert len(published.rows) == 300
    assert logged["tpot_mean"] == pytest.approx(0.0324, abs=1e-4)
    assert logged["ttft_p50"] == pytest.approx(60, abs=0.5)
    assert published.engine is RTX4090


def test_means_of_the_published_log_are_predicted_within_five_per_cent_and_p99_within_ten(published: LogCase) -> None:
    ((_, found),) = perform([published])
    told = by_metric(found)
    assert {one.region for one in found} == {"above 0.95"}
    assert errors(told[name] for name in ("ttft_mean", "tpot_mean", "e2e_mean", "throughput")).max_abs < 0.05
    assert errors(told[name] for name in ("ttft_p99", "tpot_p99")).max_abs < 0.10


def test_single_requests_of_the_published_log_are_predicted_within_ten_per_cent(published: LogCase) -> None:
    logged, simulated = published.logged(), published.simulated()
    for theirs, ours in ((logged.ttft_s, simulated.ttft_s), (logged.e2e_s, simulated.e2e_s)):
        assert np.median(np.abs(ours / theirs - 1)) < 0.10
