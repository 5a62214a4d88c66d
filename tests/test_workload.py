"""Workloads as they are declared: presets, trace files, pairing across rates, and S-LoRA's generator bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel, ValidationError

from sim.readers.reading import describe, read_trace, write_canonical
from sim.trace import AdapterSpec, Trace
from sim.workload.arrivals import GammaArrivals, PoissonArrivals
from sim.workload.locality import Locality
from sim.workload.making import PRESETS, STREAMS, WorkloadConfig, make_trace, slora_synthetic, streams
from sim.workload.popularity import RankZipfPopularity, ZipfPopularity

DATA = Path(__file__).parents[2] / "shared" / "data"
CONV = DATA / "azure-llm-2023" / "AzureLLMInferenceTrace_conv.csv"
SAMPLES = Path(__file__).parents[1] / "traces"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the public traces are not on this machine")


def config(**options: object) -> WorkloadConfig:
    return WorkloadConfig.model_validate({"requests": 500, **options})


def columns(trace: Trace) -> list[list[float]]:
    return [each.tolist() for each in (trace.arrival_s, trace.prompt_tokens, trace.output_tokens, trace.adapter)]


def own_file(folder: Path) -> Path:
    trace = Trace(
        name="own",
        arrival_s=np.array([1.0, 2.0, 4.0]),
        prompt_tokens=np.array([700, 70, 7]),
        output_tokens=np.array([70, 7, 1]),
        palette=(None,),
        adapter=np.zeros(3, dtype=np.int64),
    )
    write_canonical(trace, folder / "own.csv")
    return folder / "own.csv"


@pytest.mark.parametrize("preset", PRESETS)
def test_the_same_seed_gives_the_same_trace_and_another_seed_another(preset: str) -> None:
    first, again, other = (columns(make_trace(config(preset=preset), seed)) for seed in (1, 1, 2))
    assert first == again
    assert all(mine != theirs for mine, theirs in zip(first, other, strict=True))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("locality", [None, {}])
def test_another_rate_leaves_lengths_and_adapters_of_every_request(preset: str, locality: object) -> None:
    slow, fast = (columns(make_trace(config(preset=preset, rate_per_s=rate, locality=locality), 5)) for rate in (2, 20))
    assert slow[1:] == fast[1:]
    assert slow[0] != fast[0]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_makes_a_lawful_trace(preset: str) -> None:
    trace = make_trace(PRESETS[preset], 0)
    assert len(trace) == PRESETS[preset].requests
    assert (np.diff(trace.arrival_s) >= 0).all()
    assert trace.prompt_tokens.min() >= 1
    assert trace.output_tokens.min() >= 1
    assert trace.adapter.min() >= 0
    assert trace.adapter.max() < len(trace.palette)


def test_the_paper_preset_is_chameleons_workload() -> None:
    told = describe(make_trace(PRESETS["paper"], 0))
    assert told["rate_per_s"] == pytest.approx(9, rel=0.03)
    assert told["input_tokens"]["mean"] == pytest.approx(1154.7 / 7, rel=0.03)
    assert told["output_tokens"]["mean"] == pytest.approx(211.1 / 7, rel=0.03)
    assert told["top1_share"] == pytest.approx(0.056, abs=0.01)
    assert told["top10_share"] == pytest.approx(0.42, abs=0.01)
    assert list(told["rank_mix"].values()) == pytest.approx([0.2] * 5, abs=0.01)


def test_adapters_are_dealt_the_ranks_in_turn() -> None:
    trace = make_trace(config(adapters=3, ranks=[8, 16]), 0)
    assert trace.palette == (AdapterSpec("lora-0", 8), AdapterSpec("lora-1", 16), AdapterSpec("lora-2", 8))


def test_what_was_done_to_lengths_stands_in_the_notes() -> None:
    notes = dict(make_trace(config(drop_over_tokens=400, truncate_tokens=200), 0).notes)
    assert list(notes) == [
        "lengths divided by 7",
        "rows with a length clamped to 1 after that",
        "rows over 400 tokens dropped",
        "rows truncated to 200 tokens",
    ]
    assert notes["rows over 400 tokens dropped"] > 0
    assert notes["rows truncated to 200 tokens"] > 0


def test_locality_says_what_its_gaps_are_at_the_simulated_rate() -> None:
    (_, _, note) = make_trace(config(locality={"at_rate_per_s": 0.9}, rate_per_s=9), 0).notes
    assert note == ("adapters follow sessions; their median gap, 120 s at 0.9 requests/s, is 12 s at 9", 500)


def test_a_stream_does_not_depend_on_the_streams_after_it() -> None:
    seen = {name: rng.random() for name, rng in streams(7).items()}
    alone = np.random.default_rng(np.random.SeedSequence(entropy=7, spawn_key=(STREAMS.index("ranks"),))).random()
    assert seen["ranks"] == alone
    assert len(set(seen.values())) == len(STREAMS)


def test_the_order_of_the_streams_is_fixed_for_ever() -> None:
    assert STREAMS[:7] == ("arrivals", "lengths", "ranks", "adapters", "prediction", "sessions", "drift")


@pytest.mark.parametrize(("alpha", "cv"), [(1, 1), (0.3, 4)])
def test_s_loras_workload_is_reproduced_bit_for_bit(alpha: float, cv: float) -> None:
    trace = slora_synthetic(200, alpha, 2, cv, 300, (8, 512), (8, 512), (64, 32, 16, 8))
    rng = np.random.RandomState(42)
    adapters = [int(u * 200) for u in rng.power(alpha, 600)]
    inputs, outputs = rng.randint(8, 512, 600).tolist(), rng.randint(8, 512, 600).tolist()
    time_s, arrivals_s = 0.0, []
    for gap_s in rng.gamma(1 / (cv * cv), cv * cv / 2, 600):
        time_s += gap_s
        arrivals_s.append(time_s)
    assert columns(trace) == [arrivals_s, inputs, outputs, adapters]
    assert [trace.palette[index].rank for index in range(5)] == [64, 32, 16, 8, 64]  # type: ignore[union-attr]


def test_s_loras_first_draws_are_those_of_numpys_seed_42() -> None:
    trace = slora_synthetic(200, 1, 2, 1, 300, (8, 512), (8, 512), (64, 32, 16, 8))
    assert trace.adapter[:3].tolist() == [74, 190, 146]


def test_the_uniform_preset_is_s_loras_default_run() -> None:
    own = slora_synthetic(200, 1, 2, 1, 300, (8, 512), (8, 512), (64, 32, 16, 8))
    preset = make_trace(PRESETS["uniform"], 42)
    assert columns(preset) == columns(own)
    assert preset.palette == own.palette


def test_the_uniform_preset_with_another_popularity_keeps_its_own_laws() -> None:
    told = describe(make_trace(config(preset="uniform", popularity="zipf", requests=20_000), 42))
    assert told["top1_share"] > 0.1
    assert told["input_tokens"]["mean"] == pytest.approx(259.5, rel=0.02)
    assert told["iat_cv"] == pytest.approx(1, rel=0.05)


def test_a_trace_file_keeps_its_own_stamps_unless_a_rate_is_asked_for(tmp_path: Path) -> None:
    path = own_file(tmp_path)
    own = make_trace(WorkloadConfig(trace=path), 0)
    drawn = make_trace(WorkloadConfig(trace=path, rate_per_s=100), 0)
    assert own.arrival_s.tolist() == [1.0, 2.0, 4.0]
    assert drawn.arrival_s[-1] < 1
    assert own.prompt_tokens.tolist() == drawn.prompt_tokens.tolist() == [700, 70, 7]
    assert own.adapter.tolist() == drawn.adapter.tolist()


def test_a_trace_file_at_a_rate_arrives_as_poisson(tmp_path: Path) -> None:
    settings = WorkloadConfig(trace=own_file(tmp_path), rate_per_s=100, preset="azure-code")
    assert settings.arrivals == PoissonArrivals()


def test_adapters_that_a_trace_names_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "named.csv"
    path.write_text("arrival_s,input_tokens,output_tokens,adapter_id,rank\n0,10,10,mine,8\n1,10,10,,\n")
    trace = make_trace(WorkloadConfig(trace=path, scale=1), 0)
    assert [trace.palette[row] for row in trace.adapter] == [AdapterSpec("mine", 8), None]
    assert trace.notes[-1][0].startswith("rows that keep the adapter named in the trace")


def test_the_options_about_a_trace_file_reach_its_reader(tmp_path: Path) -> None:
    path = tmp_path / "grid.jsonl"
    path.write_text('{"timestamp": 0, "input_length": 5, "output_length": 0}\n' * 4)
    settings = WorkloadConfig(trace=path, format="mooncake", zero_output="clamp", spread_ticks_s=3, scale=1)
    first, other = make_trace(settings, 1), make_trace(settings, 2)
    assert first.output_tokens.tolist() == [1, 1, 1, 1]
    assert len(set(first.arrival_s.tolist())) == 4
    assert first.arrival_s.tolist() != other.arrival_s.tolist()


def test_requests_limits_the_rows_of_a_trace_file(tmp_path: Path) -> None:
    assert len(make_trace(WorkloadConfig(trace=own_file(tmp_path), requests=2), 0)) == 2


@needs_data
def test_the_real_conversations_run_at_the_papers_rate_and_scale() -> None:
    trace = make_trace(WorkloadConfig(trace=CONV, rate_per_s=9, scale=7), 0)
    raw = read_trace(CONV)
    told = describe(trace)
    assert len(trace) == 19_366
    assert trace.prompt_tokens.tolist() == np.maximum(1, np.rint(raw.prompt_tokens / 7)).tolist()
    assert told["rate_per_s"] == pytest.approx(9, rel=0.03)
    assert told["top10_share"] == pytest.approx(0.42, abs=0.01)
    assert list(told["rank_mix"].values()) == pytest.approx([0.2] * 5, abs=0.01)


@needs_data
def test_dropping_long_conversations_moves_the_means_as_known() -> None:
    trace = make_trace(WorkloadConfig(trace=CONV, scale=1, drop_over_tokens=2048), 0)
    assert trace.prompt_tokens.mean() == pytest.approx(754, abs=1)
    assert trace.output_tokens.mean() == pytest.approx(232, abs=1)
    assert len(trace) / 19_366 == pytest.approx(1 - 0.147, abs=0.001)


def test_options_that_are_not_given_come_from_the_preset() -> None:
    settings = WorkloadConfig(preset="azure-code", rate_per_s=4)
    assert settings.rate_per_s == 4
    assert settings.requests == 8_819
    assert settings.popularity == ZipfPopularity()
    assert settings.scale == 1
    assert WorkloadConfig() == PRESETS["paper"]


def test_a_nested_option_without_a_family_keeps_the_presets_family() -> None:
    assert config(popularity={"s": 1.5}).popularity == RankZipfPopularity(s=1.5)
    assert config(preset="uniform", arrivals={"cv": 4.0}).arrivals == GammaArrivals(cv=4)


@pytest.mark.parametrize("locality", [None, Locality()])
def test_a_resolved_workload_is_read_back_as_itself(locality: Locality | None, tmp_path: Path) -> None:
    drawn = WorkloadConfig(locality=locality)
    from_file = WorkloadConfig(trace=own_file(tmp_path), locality=locality)
    for settings in (drawn, from_file):
        assert WorkloadConfig.model_validate(settings.model_dump()) == settings
        assert WorkloadConfig.model_validate_json(settings.model_dump_json()) == settings


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"rate": 9}, "rate"),
        ({"rate_per_s": 0}, "greater than 0"),
        ({"rate_per_s": "9"}, "valid number"),
        ({"ranks": []}, "at least 1 item"),
        ({"preset": "azure"}, "'paper', 'azure-conv', 'azure-code' or 'uniform'"),
        ({"format": "azure"}, "need `trace`"),
        ({"trace": "x.csv", "lengths": "conv"}, "lengths come from the trace file"),
        ({"trace": "x.csv", "arrivals": "poisson"}, "arrivals need `rate_per_s`"),
        ({"popularity": "round_robin", "locality": {}}, "round_robin fixes the order"),
    ],
)
def test_options_that_are_unknown_out_of_range_or_at_odds_are_refused(options: dict[str, object], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        WorkloadConfig.model_validate(options)


@pytest.mark.parametrize("model", [WorkloadConfig, Locality, RankZipfPopularity, GammaArrivals])
def test_every_option_says_what_it_is(model: type[BaseModel]) -> None:
    assert model.model_fields
    assert all(each.description for each in model.model_fields.values())


@pytest.mark.parametrize("preset", ["paper", "azure-conv"])
def test_the_sample_traces_are_what_the_generator_makes(preset: str) -> None:
    sample = read_trace(SAMPLES / f"{preset}-300.csv")
    made = make_trace(WorkloadConfig.model_validate({"preset": preset, "requests": 300}), 0)
    assert columns(sample)[:3] == columns(made)[:3]
    assert [sample.palette[row] for row in sample.adapter] == [made.palette[row] for row in made.adapter]


def test_lines_of_a_file_go_with_their_requests_through_a_limit_a_cut_and_a_drop(tmp_path: Path) -> None:
    file = tmp_path / "three.csv"
    file.write_text("arrival_s,input_tokens,output_tokens\n3,50,5\n1,900,5\n2,70,5\n9,1,1\n")
    config = WorkloadConfig(trace=file, requests=3, drop_over_tokens=500, adapters=0)
    trace = make_trace(config, 0)
    assert trace.line is not None
    assert trace.line.tolist() == [4, 2]
    assert trace.prompt_tokens.tolist() == [70, 50]
