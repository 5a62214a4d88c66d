"""S-LoRA's published runs: their workload, their settings, the numbers a client would have taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sim.fidelity import slora, slora_h100
from sim.fidelity.fitting import Trial, with_values
from sim.files.yamltext import ConfigError
from sim.hardware import load_hardware

MEASURED = Path(__file__).parents[2] / "shared" / "data" / "measured"
published = pytest.mark.skipif(not MEASURED.is_dir(), reason="the published tables are not here")

HEAD = (
    "file,num_adapters,alpha,req_rate,cv,duration,in_lo,in_hi,out_lo,out_hi,num_abort,throughput,avg_latency,"
    "avg_first_token_latency"
)


def run(file: str = "paper/synthetic_cv_a10g_S2_slora.jsonl", cells: str = "8,1,2,1,20,8,64,8,32,0,1,1,1") -> str:
    """Return a row of a table."""
    return f"{file},{cells}"


def cases(folder: Path, *rows: str) -> list[slora.SloraCase]:
    """Return the cases of a table."""
    path = folder / "t.csv"
    path.write_text("\n".join([HEAD, *rows]) + "\n")
    return slora.cases(path)


def test_a_file_s_name_says_card_setting_and_suite(tmp_path: Path) -> None:
    (case,) = cases(tmp_path, run())
    assert (case.set, case.suite, case.setting) == ("slora-a10g", "cv", "S2")
    assert case.name == "cv S2: 8 adapters, 2 req/s, alpha 1, cv 1, 20 s, 8-64 tokens in, 8-32 out"
    assert case.server.ranks == (64, 32, 16, 8)


def test_a_workload_is_drawn_as_the_released_generator_draws_it(tmp_path: Path) -> None:
    (case,) = cases(tmp_path, run(cells="8,0.5,2,3,20,8,64,8,32,0,1,1,1"))
    rng = np.random.RandomState(42)
    adapter = (rng.power(0.5, 40) * 8).astype(int)
    prompt, output = rng.randint(8, 64, 40), rng.randint(8, 32, 40)
    arrival_s = np.cumsum(rng.gamma(1 / 9, 9 / 2, 40))
    trace = case.trace
    assert trace.adapter.tolist() == adapter.tolist()
    assert trace.prompt_tokens.tolist() == prompt.tolist()
    assert trace.output_tokens.tolist() == output.tolist()
    assert trace.arrival_s.tolist() == arrival_s.tolist()
    assert [spec.rank for spec in trace.palette if spec] == [64, 32, 16, 8] * 2


def test_a_run_of_the_published_span_and_lengths_does_not_repeat_them_in_its_name(tmp_path: Path) -> None:
    usual = run(cells="8,1,2,1,300,8,512,8,512,0,1,1,1")
    names = [case.name for case in cases(tmp_path, usual, usual)]
    assert names == [f"cv S2: 8 adapters, 2 req/s, alpha 1, cv 1{again}" for again in ("", " #2")]


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        ("8,1,2,1,20,64,64,8,32,0,1,1,1", "in_lo < in_hi"),
        ("8,1,0.01,1,20,8,64,8,32,0,1,1,1", "2 requests at least"),
    ],
)
def test_a_run_without_requests_or_lengths_is_refused_with_its_line(cells: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"t.csv:2: .*{told}"):
        cases(tmp_path, run(cells=cells))


def test_a_run_with_requests_that_the_server_cannot_hold_is_refused(tmp_path: Path) -> None:
    (case,) = cases(tmp_path, run(cells="8,1,2,1,20,8,30000,8,32,0,1,1,1"))
    with pytest.raises(ValueError, match="requests do not fit the simulated server"):
        case.measures()


def test_light_and_heavy_runs_are_of_different_regions(tmp_path: Path) -> None:
    light, heavy = cases(tmp_path, *(run(cells=f"8,1,{rate},1,60,8,512,8,512,0,1,1,1") for rate in (0.5, 4)))
    assert [{one.region for one in case.measures()} for case in (light, heavy)] == [{"below 0.7"}, {"above 0.95"}]


def test_light_and_heavy_runs_on_the_h100_are_of_different_regions() -> None:
    rates = {0.05: "below 0.7", 1.0: "above 0.95"}
    for rate, region in rates.items():
        row = slora_h100.RunRow(n_lora=32, rate_per_lora=rate, req_thr=1, ttft_p50_ms=1, tpot_mean_ms=1)
        short = slora_h100.H100Case(row)
        assert short.region() == region


def test_an_h100_run_with_other_lengths_is_refused() -> None:
    with pytest.raises(ValueError, match="in_tok_mean: every request of these runs has 250 tokens, got a mean of 1000"):
        slora_h100.RunRow(n_lora=1, rate_per_lora=1, req_thr=1, ttft_p50_ms=1, tpot_mean_ms=1, in_tok_mean=1000)


def test_the_server_has_the_published_pool_and_the_released_rules(tmp_path: Path) -> None:
    (case,) = cases(tmp_path, run())
    config = case.loaded.config
    assert config.memory.kv_pool_tokens == 14_500
    assert config.admission.every_steps == 10
    assert config.admission.idle_poll_s == 0.01
    assert config.prefetch["kind"] == "none"
    assert config.loading.copies == 2


def test_an_unknown_setting_is_told_with_what_is_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"row 1: file: no server is known for 'a10g_S3'.*a10g_S2.*a100-80_S4"):
        cases(tmp_path, run("synthetic_cv_a10g_S3_slora.jsonl"))


def test_a_run_with_aborted_requests_cannot_be_rebuilt(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="num_abort: 3 requests were aborted"):
        cases(tmp_path, run(), run(cells="8,1,2,1,20,8,64,8,32,3,1,1,1"))


def test_a_client_s_times_contain_what_passes_outside_the_engine(tmp_path: Path) -> None:
    (case,) = cases(tmp_path, run())
    card = load_hardware("a10g")
    slow, fast = (
        case.simulated(Trial(with_values(card, {"host.factor": 1.0, "host.api_factor": factor})))
        for factor in (9.0, 1.0)
    )
    api_s = case.loaded.config.costs.api_s
    assert api_s > 0
    for metric in ("avg_latency", "avg_first_token_latency"):
        assert slow[metric] - fast[metric] == pytest.approx(8 * api_s)
    assert slow["throughput"] < fast["throughput"]


def test_a_metric_that_was_not_published_is_not_compared(tmp_path: Path) -> None:
    (case,) = cases(tmp_path, run())
    assert [one.metric for one in case.measures()] == ["throughput", "avg_latency", "avg_first_token_latency"]


def test_an_h100_run_deals_its_adapters_evenly() -> None:
    case = slora_h100.H100Case(
        slora_h100.RunRow(n_lora=4, rate_per_lora=0.05, req_thr=1, ttft_p50_ms=1, tpot_mean_ms=1)
    )
    trace = case.trace
    assert len(trace) == case.requests == int(1.2 * 0.2 * 1200)
    assert np.bincount(trace.adapter).tolist() == [72] * 4
    assert trace.arrival_s[-1] == pytest.approx(len(trace) / 0.2, rel=0.2)
    assert set(trace.prompt_tokens.tolist()) == {250}
    assert set(trace.output_tokens.tolist()) == {230}


@published
def test_the_published_workload_has_the_published_rate() -> None:
    for case in slora.cases(MEASURED / slora.FILE):
        last_s = case.trace.arrival_s[-1]
        assert len(case.trace) == int(case.row.req_rate * 300)
        assert len(case.trace) / case.row.throughput > last_s  # the run ended after its last request came


@published
def test_light_published_runs_are_met_within_the_aims() -> None:
    light = [case for case in slora.cases(MEASURED / slora.FILE) if case.device == "a10g" and case.row.req_rate <= 1.5]
    assert len(light) == 4
    for case in light:
        found = {one.metric: abs(one.relative_error) for one in case.measures()}
        assert found["throughput"] < 0.01
        assert found["avg_latency"] < 0.03
        assert found["avg_first_token_latency"] < 0.07


@published
def test_light_runs_on_the_h100_are_met() -> None:
    light = slora_h100.cases(MEASURED / slora_h100.FILE)[:2]
    for case in light:
        found = {one.metric: abs(one.relative_error) for one in case.measures()}
        assert found["tpot_mean_ms"] < 0.05
        assert found["ttft_p50_ms"] < 0.07
