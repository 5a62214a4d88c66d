"""The cost laws against published numbers, and as laws. The tested engine is the one that docs/costs.md prints."""

import contextlib
import csv
import functools
import io
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sim.costs import MEDIUM_PROMPT_TOKENS, CostModel, EngineCosts, LoadingCosts
from sim.files.yamltext import parse
from sim.hardware import load_hardware
from sim.models import ALL_MODULES, load_model
from sim.parallel import Parallel
from sim.serving.shape import NO_LOAD, Load
from sim.serving.ticks import TICKS_PER_S, to_seconds, to_ticks
from sim.slot_kernels import Slots, kernel_blocks

DOC = (Path(__file__).parents[1] / "docs" / "costs.md").read_text(encoding="utf-8")
MEASURED = Path(__file__).parents[2] / "shared" / "data" / "measured"
LAYERS_CSV = MEASURED / "linear_layers_llama2_7b_ms.csv"
VLLM_CSV = MEASURED / "vllm_lora_h100_microbench.csv"
FITTED = {"a40": "a40", "a100-80": "a100", "h100": "h100"}  # profile -> name in the table
MIB = 1 << 20

profile_of = functools.cache(load_hardware)  # read once, not for every random example
unhurried = settings(deadline=None, max_examples=60)

needs_layers = pytest.mark.skipif(not LAYERS_CSV.exists(), reason="the table of linear layers is not at hand")
needs_vllm = pytest.mark.skipif(not VLLM_CSV.exists(), reason="vLLM's table of step times is not at hand")


def blocks(language: str) -> list[str]:
    """Return the code blocks of the documentation in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", DOC, flags=re.DOTALL | re.MULTILINE)


SLORA = EngineCosts.model_validate(parse(blocks("yaml")[0], "docs/costs.md").tree)


def model(
    engine: EngineCosts | str = SLORA, *, hardware: str = "a40", base: str = "llama-7b", **others: Any
) -> CostModel:
    """Build a cost model; an engine given as a text is that kernel without host costs."""
    if isinstance(engine, str):
        engine = EngineCosts.model_validate({"kernel": engine})
    loading = LoadingCosts(**{key: others.pop(key) for key in LoadingCosts._fields if key in others})
    return CostModel(profile_of(hardware), load_model(base), engine, loading=loading, **others)


def slora(hardware: str = "a40") -> CostModel:
    return model(hardware=hardware, copies=2, ops_per_adapter=128)


def first_token_s(costs: CostModel, rank: int) -> tuple[float, dict[str, float]]:
    """Return load seconds and the terms of the prefill of one medium prompt on an idle engine."""
    n = MEDIUM_PROMPT_TOKENS
    return to_seconds(costs.load(rank * 2 * MIB)), costs.explain_prefill(1, n, n * n, n * rank, 1, rank, rank)


def layer_rows(profile: str) -> list[tuple[int, float]]:
    """Return (tokens, seconds) of the table for one GPU without tensor parallelism, by tokens."""
    with LAYERS_CSV.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["gpu"] == FITTED[profile] and row["tp"] == "1"]
    pairs = [(int(row["num_tokens"]), float(row["linear_ops_32_layers_ms"]) / 1e3) for row in rows]
    return sorted(pairs, key=lambda pair: pair[0])


def mape(profile: str, rows: list[tuple[int, float]]) -> float:
    costs = model("none", hardware=profile, base="llama-2-7b")
    return sum(abs(costs.dense_s(tokens) / seconds - 1) for tokens, seconds in rows) / len(rows)


# --- published numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rank", "printed_ms"), [(8, 74), (16, 78), (32, 88), (64, 107), (128, 144)])
def test_an_unloaded_first_token_on_the_a40_takes_what_chameleon_printed(rank: int, printed_ms: int) -> None:
    load_s, prefill = first_token_s(slora(), rank)
    assert 1e3 * (load_s + sum(prefill.values())) == pytest.approx(printed_ms, rel=0.015)


def test_load_and_adapter_compute_have_the_printed_shares_of_the_first_token() -> None:
    load_s, prefill = first_token_s(slora(), 128)
    total_s = load_s + sum(prefill.values())
    assert load_s / total_s == pytest.approx(0.175, abs=0.002)
    assert (load_s + prefill["lora_tokens"] + prefill["lora_rank"]) / total_s == pytest.approx(0.60, abs=0.01)


def test_decode_of_slora_on_the_a40_is_26_9_ms_and_0_94_us_per_token_of_context() -> None:
    first, growth, steps = slora().decode(1, 0, 0, 0, 0, 0)
    assert to_seconds(first) == pytest.approx(26.9e-3, rel=0.005)
    assert to_seconds(growth) == pytest.approx(0.94e-6, rel=0.005)
    assert steps is None


def test_decode_of_slora_on_the_h100_is_bound_by_its_launches() -> None:
    costs = slora("h100")
    assert to_seconds(costs.decode(1, 365, 32, 1, 32, 32).first) == pytest.approx(15.5e-3, rel=0.02)
    assert costs.explain_decode(1, 365, 32, 1, 32, 32)["launch_wait"] > 8e-3


@needs_layers
@pytest.mark.parametrize("profile", FITTED)
def test_the_dense_law_follows_the_table_of_linear_layers(profile: str) -> None:
    assert mape(profile, layer_rows(profile)) < 0.06


@needs_layers
@pytest.mark.parametrize("profile", FITTED)
def test_a_profile_states_the_errors_that_its_law_has(profile: str) -> None:
    rows, dense = layer_rows(profile), load_hardware(profile).dense
    assert dense.fit_mape == pytest.approx(mape(profile, rows[::2]), abs=1e-4)
    assert dense.held_out_mape == pytest.approx(mape(profile, rows[1::2]), abs=1e-4)


@needs_layers
@pytest.mark.parametrize("profile", FITTED)
def test_the_documented_fit_finds_the_packaged_coefficients(profile: str) -> None:
    pd = pytest.importorskip("pandas")
    scope: dict[str, Any] = {}
    exec(next(block for block in blocks("python") if "def fit(" in block), scope)  # noqa: S102 - our own text
    (flops, weights, floors, elementwise), _, held_out = scope["fit"](pd.read_csv(LAYERS_CSV), FITTED[profile], profile)
    dense = load_hardware(profile).dense
    assert dense.flops_per_s == pytest.approx(flops, rel=0.002)
    assert dense.weight_bytes_per_s == pytest.approx(weights, rel=0.002)
    assert dense.kernels_per_layer * dense.kernel_floor_s == pytest.approx(floors, rel=0.005)
    assert dense.elementwise_s_per_token == pytest.approx(elementwise, rel=0.005, abs=1e-12)
    assert dense.held_out_mape == pytest.approx(held_out, abs=1e-3)


@needs_vllm
def test_vllms_lora_kernels_add_the_measured_time_for_1_to_300_adapters() -> None:
    with VLLM_CSV.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["model"] == "llama" and row["itl_ms"]]
    base_ms = [float(row["itl_ms"]) for row in rows if row["set"] == "overhead_base"]
    slots = Slots(300, 8, ALL_MODULES)
    costs = model("vllm_v1", hardware="h100", base="llama-3.1-8b", modules=ALL_MODULES, slots=slots)
    errors = []
    for row in (row for row in rows if row["set"] == "overhead_lora"):
        adapters, batch = int(row["active_adapters"]), int(row["batch"])
        distinct = round(adapters * (1 - (1 - 1 / adapters) ** batch))
        terms = costs.explain_decode(batch, 0, 8 * batch, distinct, 8 * distinct, 8)
        added_ms = 1e3 * sum(seconds for name, seconds in terms.items() if name.startswith("lora"))
        errors.append(added_ms / (float(row["itl_ms"]) - sum(base_ms) / len(base_ms)) - 1)
    assert len(errors) > 20
    assert sum(map(abs, errors)) / len(errors) < 0.03


def test_the_first_example_of_the_documentation_prints_what_it_says() -> None:
    block, output = blocks("python")[0], io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(block, {})  # noqa: S102 - our own text
    (said,) = re.findall(r"# (\S+ ms)$", block, flags=re.MULTILINE)
    assert output.getvalue().splitlines()[0] == said


# --- decode is exactly affine -----------------------------------------------------------------------------------------

# Requests, context tokens, sum of ranks, distinct adapters; the largest rank is 64.
batches = st.tuples(st.integers(1, 300), st.integers(0, 200_000), st.integers(0, 50)).map(
    lambda world: (world[0], world[1] + world[0], 32 * world[0], min(world[2], world[0]))
)
engines = st.fixed_dictionaries(
    {
        "kernel": st.sampled_from(["bgmv", "mbgmv", "segmented", "vllm_v1", "torch_loop", "merged", "none"]),
        "host_s": st.floats(0, 0.01),
        "host_per_running_s": st.floats(0, 0.001),
        "launch_s": st.floats(0, 0.1),
        "enabled_factor": st.floats(1, 3),
        "graph_buckets": st.sampled_from([[], [1, 8, 64, 512]]),
        "sample_s": st.floats(0, 1e-4),
        "batched_s": st.floats(0, 0.01),
        "prompt_s": st.floats(0, 0.01),
        "lora_sequence_s": st.floats(0, 1e-4),
        "slot_block_s": st.floats(0, 1e-8),
    }
).map(EngineCosts.model_validate)


@unhurried
@given(engines, batches, st.integers(0, 10**6))
@example(EngineCosts(launch_s=0.027), (1, 10, 0, 0), 901)
def test_a_later_step_costs_the_same_asked_now_or_then(
    engine: EngineCosts, batch: tuple[int, int, int, int], step: int
) -> None:
    requests, context, sum_rank, distinct = batch
    costs = model(engine)
    first, growth, steps = costs.decode(requests, context, sum_rank, distinct, 64 * distinct, 64)
    if steps is not None:
        step %= steps
    later = costs.decode(requests, context + step * requests, sum_rank, distinct, 64 * distinct, 64)
    assert later.first == first + step * growth
    assert later.growth == growth
    assert later.steps == (None if steps is None else steps - step)


def test_hidden_gpu_work_costs_nothing_until_the_context_has_outgrown_the_launches() -> None:
    costs = model(EngineCosts(launch_s=0.027))
    first, growth, steps = costs.decode(4, 100, 0, 0, 0, 0)
    assert (to_seconds(first), growth) == (0.027, 0)
    assert steps is not None
    assert costs.decode(4, 100 + 4 * (steps - 1), 0, 0, 0, 0).first == first
    assert costs.decode(4, 100 + 4 * steps, 0, 0, 0, 0).first > first


def test_a_batch_of_nothing_never_changes() -> None:
    assert model(EngineCosts(launch_s=0.5)).decode(0, 0, 0, 0, 0, 0) == (TICKS_PER_S // 2, 0, None)


# --- terms ------------------------------------------------------------------------------------------------------------


@unhurried
@given(engines, batches)
def test_the_terms_of_a_decode_step_sum_to_it(engine: EngineCosts, batch: tuple[int, int, int, int]) -> None:
    requests, context, sum_rank, distinct = batch
    costs, work = model(engine, slots=Slots(8, 64)), (requests, context, sum_rank, distinct, 64 * distinct, 64)
    terms = costs.explain_decode(*work)
    assert min(terms.values()) >= 0
    assert math.fsum(terms.values()) == pytest.approx(to_seconds(costs.decode(*work).first), rel=1e-12)


@unhurried
@given(engines, batches)
def test_the_terms_of_a_prefill_sum_to_it(engine: EngineCosts, batch: tuple[int, int, int, int]) -> None:
    requests, tokens, _, distinct = batch
    costs = model(engine, slots=Slots(8, 64))
    work = (requests, tokens, tokens**2, 64 * tokens, distinct, 64 * distinct, 64)
    terms = costs.explain_prefill(*work)
    assert min(terms.values()) >= 0
    assert math.fsum(terms.values()) == pytest.approx(to_seconds(costs.prefill(*work)), rel=1e-12)


def test_a_small_batch_of_tokens_costs_the_stream_of_the_weights() -> None:
    costs, dense, llama = model("none"), load_hardware("a40").dense, load_model("llama-7b")
    stream_s = 2 * 32 * sum(n * k for n, k in llama.gemms.values()) / dense.weight_bytes_per_s
    floors_s = 32 * dense.kernels_per_layer * dense.kernel_floor_s
    assert costs.dense_s(1) == pytest.approx(stream_s + floors_s + 32 * dense.elementwise_s_per_token)


def test_a_large_batch_of_tokens_costs_whole_tiles_of_arithmetic() -> None:
    costs, dense, llama = model("none"), load_hardware("a40").dense, load_model("llama-7b")
    tile_s = 2 * 128 * 32 * sum(n * k for n, k in llama.gemms.values()) / dense.flops_per_s
    assert costs.dense_s(1025) - costs.dense_s(1024) == pytest.approx(tile_s + 32 * dense.elementwise_s_per_token)


def test_elementwise_work_scales_with_the_hidden_size() -> None:
    dense = load_hardware("a40").dense
    for base, layers, hidden in (("llama-7b", 32, 4096), ("llama-13b", 40, 5120)):
        costs = model("none", base=base)
        expected = layers * 100 * dense.elementwise_s_per_token * hidden / 4096  # both sides of it in the first tile
        assert costs.dense_s(101) - costs.dense_s(1) == pytest.approx(expected)


def test_attention_of_a_prefill_grows_with_the_square_of_each_prompt() -> None:
    costs = model("none")
    one_prompt = costs.explain_prefill(1, 1000, 1000**2, 0, 0, 0, 0)["attention"]
    two_prompts = costs.explain_prefill(1, 1000, 2 * 500**2, 0, 0, 0, 0)["attention"]
    flops = 2 * 32 * 4096 * (1000**2 - 2 * 500**2)
    assert one_prompt - two_prompts == pytest.approx(flops / load_hardware("a40").attention.prefill_flops_per_s)


@pytest.mark.parametrize("rank", [8, 128])
def test_the_per_token_kernel_costs_31_35_us_and_a_reread_of_the_adapter_per_token(rank: int) -> None:
    costs, expected_s = model("bgmv"), 370 * (31.35e-6 + rank * 2 * MIB / 2.0e12)
    for terms in (
        costs.explain_prefill(1, 370, 370**2, 370 * rank, 1, rank, rank),
        costs.explain_decode(370, 370, 370 * rank, 1, rank, rank),
    ):
        assert terms["lora_tokens"] + terms["lora_rank"] == pytest.approx(expected_s, rel=1e-6)


def test_the_per_token_kernel_reads_each_distinct_adapter_in_decode_but_not_again_in_prefill() -> None:
    costs = model("bgmv", hardware="a10g")
    read_s = 16 * 2 * MIB / load_hardware("a10g").lora.weight_bytes_per_s
    assert costs.explain_decode(4, 0, 32, 2, 16, 8)["lora_read"] == pytest.approx(read_s, rel=1e-6)
    assert costs.explain_prefill(2, 9, 41, 72, 2, 16, 8)["lora_read"] == 0


def test_the_tiled_kernel_reads_each_distinct_adapter_once_in_any_iteration() -> None:
    costs = model("segmented")
    read_s = 24 * 2 * MIB / load_hardware("a40").lora.weight_bytes_per_s
    assert costs.explain_decode(4, 0, 64, 2, 24, 16)["lora_read"] == pytest.approx(read_s)
    assert costs.explain_prefill(2, 9, 41, 100, 2, 24, 16)["lora_read"] == pytest.approx(read_s)


def test_the_engine_may_override_the_hardwares_reread_rate() -> None:
    fast = model(EngineCosts.model_validate({"kernel": "mbgmv", "l2_bytes_per_s": 4.0e12}))
    slow_s = model("mbgmv").explain_decode(2, 0, 64, 1, 32, 32)["lora_rank"]
    assert fast.explain_decode(2, 0, 64, 1, 32, 32)["lora_rank"] == pytest.approx(slow_s / 2, rel=1e-5)


def test_only_the_padding_kernel_charges_every_token_at_the_largest_rank() -> None:
    def rank_s(kernel: str) -> float:
        return model(kernel).explain_decode(2, 0, 8 + 128, 2, 8 + 128, 128)["lora_rank"]

    assert rank_s("bgmv") / rank_s("mbgmv") == pytest.approx(2 * 128 / (8 + 128), rel=1e-5)


def test_a_batch_of_base_requests_pays_for_no_adapter() -> None:
    assert model("mbgmv").decode(8, 500, 0, 0, 0, 0) == model("none").decode(8, 500, 0, 0, 0, 0)


def test_merged_weights_make_adapters_free() -> None:
    assert model("merged").decode(8, 500, 512, 4, 256, 64) == model("none").decode(8, 500, 0, 0, 0, 0)


def test_configured_slots_cost_even_when_idle() -> None:
    few, many = (model("vllm_v1", slots=Slots(slots, 16)).decode(1, 0, 0, 0, 0, 0).first for slots in (8, 308))
    blocks = kernel_blocks(load_model("llama-7b"), Slots(300 - 1, 16), 1)
    assert to_seconds(many - few) == pytest.approx(blocks * 0.89e-9)


@pytest.mark.parametrize("tokens", [50, 500])
def test_slots_cost_each_kind_of_iteration_the_blocks_of_its_tokens(tokens: int) -> None:
    without, slotted = model("none"), model(EngineCosts(slot_block_s=1e-9), slots=Slots(16, 16))
    blocks_s = 1e-9 * kernel_blocks(load_model("llama-7b"), Slots(16, 16), tokens)

    def more_s(ask: Callable[[CostModel], int]) -> float:
        return to_seconds(ask(slotted) - ask(without))

    assert more_s(lambda costs: costs.decode(tokens, 0, 0, 0, 0, 0).first) == pytest.approx(blocks_s)
    assert more_s(lambda costs: costs.prefill(1, tokens, tokens**2, 0, 0, 0, 0)) == pytest.approx(blocks_s)
    assert more_s(lambda costs: costs.mixed(8, 0, 1, tokens - 8, 100, NO_LOAD)) == pytest.approx(blocks_s)


@pytest.mark.parametrize(("tokens", "is_paid"), [(512, True), (513, False)])
def test_without_any_adapter_slots_cost_only_steps_that_are_graphs(tokens: int, is_paid: bool) -> None:
    slotted = model(EngineCosts(slot_block_s=1e-9), slots=Slots(16, 16))
    without = slotted.explain_prefill(1, tokens, tokens**2, 0, 0, 0, 0)["lora_slots"]
    beside = slotted.explain_prefill(1, tokens, tokens**2, 0, 1, 16, 16)["lora_slots"]
    assert without == (beside if is_paid else 0)
    steps = [slotted.decode(tokens, 0, 0, distinct, 0, 0).first for distinct in (0, 1)]
    assert to_seconds(steps[1] - steps[0]) == pytest.approx(0 if is_paid else beside)
    mixed = [slotted.mixed(tokens - 9, 0, 1, 9, 81, Load(0, distinct, 0, 0)) for distinct in (0, 1)]
    assert to_seconds(mixed[1] - mixed[0]) == pytest.approx(0 if is_paid else beside)


def test_vllms_kernels_read_whole_slots_whatever_an_adapter_fills() -> None:
    small, full = (
        model("vllm_v1", modules=modules, slots=Slots(8, 64, ALL_MODULES)).decode(4, 0, 4 * rank, 2, 2 * rank, 64)
        for modules, rank in ((("q", "v"), 8), (ALL_MODULES, 64))
    )
    assert small == full


def test_gpus_that_work_as_one_share_the_blocks_of_slots() -> None:
    one, four = (model(EngineCosts(slot_block_s=1e-6), slots=Slots(16, 16), parallel=Parallel(gpus)) for gpus in (1, 4))
    llama = load_model("llama-7b")
    blocks = [kernel_blocks(llama, Slots(16, 16), 1, gpus) for gpus in (1, 4)]
    told = [costs.explain_decode(1, 0, 0, 0, 0, 0)["lora_slots"] for costs in (one, four)]
    assert told == pytest.approx([1e-6 * count for count in blocks])


def test_a_sequence_beside_an_adapter_costs_alike_in_a_step_of_its_own_and_in_a_mixed_one() -> None:
    dear, free = (model(EngineCosts(lora_sequence_s=cost)) for cost in (1e-3, 0.0))
    assert to_seconds(dear.decode(5, 0, 0, 1, 0, 0).first - free.decode(5, 0, 0, 1, 0, 0).first) == pytest.approx(5e-3)
    load = Load(0, 1, 0, 0)
    more = dear.mixed(5, 0, 1, 9, 81, load) - free.mixed(5, 0, 1, 9, 81, load)
    assert to_seconds(more) == pytest.approx(5e-3)


def test_sampling_costs_each_sequence_in_proportion_to_the_vocabulary() -> None:
    def sampling_s(base: str, requests: int) -> float:
        return model(EngineCosts(sample_s=8e-6), base=base).explain_decode(requests, 0, 0, 0, 0, 0)["sampling"]

    assert sampling_s("llama-3.1-8b", 30) == pytest.approx(30 * 8e-6)
    assert sampling_s("llama-7b", 30) == pytest.approx(30 * 8e-6 * 32000 / 128256)


def test_an_iteration_of_several_sequences_costs_a_constant_more_than_one_of_a_single_one() -> None:
    def extra_s(requests: int, prompts: int) -> float:
        batched, plain = (model(EngineCosts(batched_s=seconds)) for seconds in (2e-3, 0.0))
        work = (requests, 0, prompts, prompts, prompts, Load(0, 0, 0, 0))
        return to_seconds(batched.mixed(*work) - plain.mixed(*work))

    assert extra_s(0, 1) == 0
    assert [extra_s(1, 1), extra_s(0, 2), extra_s(40, 3)] == [2e-3] * 3
    decode = model(EngineCosts(batched_s=2e-3))
    assert [decode.explain_decode(n, 0, 0, 0, 0, 0)["sampling"] for n in (1, 2, 50)] == [0, 2e-3, 2e-3]


def test_every_prompt_that_joins_costs_host_time_alone_or_beside_a_decode_batch() -> None:
    joining, plain = model(EngineCosts(prompt_s=3e-3)), model("none")
    work = (2, 9, 41, 0, 0, 0, 0)
    assert to_seconds(joining.prefill(*work) - plain.prefill(*work)) == pytest.approx(6e-3)
    beside = (8, 900, 2, 9, 41, Load(0, 0, 0, 0))
    assert to_seconds(joining.mixed(*beside) - plain.mixed(*beside)) == pytest.approx(6e-3)
    assert joining.decode(8, 900, 0, 0, 0, 0) == plain.decode(8, 900, 0, 0, 0, 0)


def test_time_outside_the_engine_is_in_no_iteration() -> None:
    outside, plain = model(EngineCosts(api_s=1.0)), model("none")
    assert outside.decode(8, 900, 0, 0, 0, 0) == plain.decode(8, 900, 0, 0, 0, 0)
    assert outside.prefill(2, 9, 41, 0, 0, 0, 0) == plain.prefill(2, 9, 41, 0, 0, 0, 0)


def test_each_distinct_adapter_has_its_own_cost() -> None:
    costs = model("torch_loop")
    difference = costs.decode(8, 0, 64, 3, 8, 8).first - costs.decode(8, 0, 64, 1, 8, 8).first
    assert to_seconds(difference) == pytest.approx(2 * 6.4e-3)


def test_lora_launches_scale_with_the_number_of_adapted_projections() -> None:
    two = model("mbgmv", modules=("q", "v")).explain_decode(9, 0, 72, 1, 8, 8)["lora_tokens"]
    four = model("mbgmv").explain_decode(9, 0, 72, 1, 8, 8)["lora_tokens"]
    assert four == pytest.approx(2 * two)


def test_launches_of_the_tiled_kernel_scale_with_the_number_of_adapted_projections() -> None:
    assert model("segmented").explain_decode(9, 0, 72, 1, 8, 8)["lora_tokens"] == pytest.approx(1.05e-3)
    all_linear = model("segmented", modules=ALL_MODULES).explain_decode(9, 0, 72, 1, 8, 8)
    assert all_linear["lora_tokens"] == pytest.approx(1.05e-3 * 7 / 4)


def test_the_tiled_kernel_does_two_operations_per_parameter_and_token() -> None:
    terms = model("segmented").explain_prefill(1, 1000, 10**6, 1000 * 64, 1, 64, 64)
    parameters = 64 * 2 * MIB / 2
    assert terms["lora_rank"] == pytest.approx(2 * 1000 * parameters / load_hardware("a40").dense.flops_per_s, rel=1e-4)


def test_enabling_adapters_may_cost_a_constant() -> None:
    extra = (
        model(EngineCosts(enabled_s=0.25)).decode(1, 0, 0, 0, 0, 0).first - model("none").decode(1, 0, 0, 0, 0, 0).first
    )
    assert to_seconds(extra) == 0.25


def test_enabling_adapters_may_slow_the_base_model_by_a_factor() -> None:
    plain, slowed = model("none"), model(EngineCosts(enabled_factor=2.0))
    once, twice = (costs.decode(3, 900, 0, 0, 0, 0) for costs in (plain, slowed))
    assert (twice.first, twice.growth) == pytest.approx((2 * once.first, 2 * once.growth), rel=1e-6)
    assert slowed.prefill(1, 50, 2500, 0, 0, 0, 0) == pytest.approx(2 * plain.prefill(1, 50, 2500, 0, 0, 0, 0))


def test_decode_pays_the_linear_layers_of_its_graph_bucket() -> None:
    costs = model(EngineCosts(graph_buckets=(1, 8, 32)))
    dense = {n: costs.explain_decode(n, 0, 0, 0, 0, 0)["dense"] for n in (2, 8, 9, 32, 33)}
    assert dense[2] == dense[8] < dense[9] == dense[32] < dense[33] == pytest.approx(costs.dense_s(33))


def test_host_time_is_added_to_gpu_time_and_grows_with_running_requests() -> None:
    engine = EngineCosts(host_s=0.002, host_per_running_s=0.001, prefill_host_s=0.005)
    extra = model(engine).decode(3, 0, 0, 0, 0, 0).first - model("none").decode(3, 0, 0, 0, 0, 0).first
    assert to_seconds(extra) == pytest.approx(0.005)
    extra = model(engine).prefill(3, 9, 27, 0, 0, 0, 0) - model("none").prefill(3, 9, 27, 0, 0, 0, 0)
    assert to_seconds(extra) == pytest.approx(0.005)


def test_a_prefill_lasts_at_least_as_long_as_its_launches() -> None:
    assert to_seconds(model(EngineCosts(launch_s=0.5)).prefill(1, 9, 81, 0, 0, 0, 0)) == 0.5


def test_launches_scale_with_the_layers() -> None:
    deep = model(EngineCosts(launch_s=0.5), base="llama-13b")
    assert to_seconds(deep.decode(1, 9, 0, 0, 0, 0).first) == pytest.approx(0.5 * 40 / 32)


works = st.tuples(*[st.integers(0, 5000)] * 7)


@unhurried
@given(engines, works, works)
def test_more_work_never_takes_less_time(engine: EngineCosts, work: tuple[int, ...], more: tuple[int, ...]) -> None:
    costs = model(engine)
    small = (1 + work[0], *work[1:])
    large = tuple(a + b for a, b in zip(small, more, strict=True))
    assert costs.decode(*large[:6]).first >= costs.decode(*small[:6]).first
    assert costs.prefill(*large) >= costs.prefill(*small)


# --- loads ------------------------------------------------------------------------------------------------------------


def test_a_load_is_bound_by_bytes_times_copies() -> None:
    once, twice = (model(copies=copies).load(256 * MIB) for copies in (1, 2))
    assert to_seconds(once) == pytest.approx(256 * MIB / 21.3e9 + 1e-5)
    assert to_seconds(twice) == pytest.approx(2 * 256 * MIB / 21.3e9 + 1e-5)


def test_a_load_of_many_small_copies_is_bound_by_issuing_them() -> None:
    costs = model(ops_per_adapter=896)
    assert costs.load(1 * MIB) == costs.load(16 * MIB)
    assert to_seconds(costs.load(MIB)) == pytest.approx(896 * 6e-6 + 1e-5)


@pytest.mark.parametrize(
    "wrong", [{"copies": 0.0}, {"copies": math.inf}, {"ops_per_adapter": -1}, {"slots": Slots(-1)}]
)
def test_a_cost_model_rejects_copies_and_counts_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="need copies > 0, ops_per_adapter and slots >= 0, got"):
        model(**wrong)


# --- the engine's section ---------------------------------------------------------------------------------------------


def test_a_given_coefficient_wins_over_the_kernels_default() -> None:
    engine = EngineCosts.model_validate({"kernel": "bgmv", "lora_token_s": 1e-6})
    assert (engine.lora_token_s, engine.padded_share) == (1e-6, 1.0)


def test_graph_buckets_may_come_as_a_list() -> None:
    assert EngineCosts.model_validate({"graph_buckets": [1, 2, 4]}).graph_buckets == (1, 2, 4)


def test_an_engine_survives_a_round_trip_through_its_fields() -> None:
    assert EngineCosts.model_validate(SLORA.model_dump(mode="json")) == SLORA


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda: EngineCosts.model_validate({"kernel": "bgvm"}), "kernel"),
        (lambda: EngineCosts.model_validate({"host_ms": 1.0}), "host_ms"),
        (lambda: EngineCosts(host_s=-1.0), "host_s"),
        (lambda: EngineCosts(launch_s=math.nan), "launch_s"),
        (lambda: EngineCosts(padded_share=1.5), "padded_share"),
        (lambda: EngineCosts(enabled_factor=0.5), "enabled_factor"),
    ],
)
def test_an_engine_rejects_unknown_keys_and_impossible_values(change: Callable[[], object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        change()


def test_times_are_whole_ticks() -> None:
    costs = model(SLORA, copies=1.5)
    for ticks in (
        costs.load(12_345_677),
        costs.prefill(3, 333, 12_321, 999, 2, 24, 16),
        *costs.decode(3, 5, 0, 0, 0, 0)[:2],
    ):
        assert type(ticks) is int
        assert 0 < ticks < TICKS_PER_S


def test_a_prefill_may_have_launches_of_its_own_where_decode_runs_from_a_graph() -> None:
    costs, plain = model(EngineCosts(prefill_launch_s=0.5)), model(EngineCosts())
    prompt, load = (1, 10, 100, 0, 0, 0, 0), Load(0, 0, 0, 0)
    assert costs.prefill(*prompt) == TICKS_PER_S // 2 > plain.prefill(*prompt)
    assert costs.mixed(1, 10, 1, 10, 100, load) == TICKS_PER_S // 2
    assert costs.decode(1, 10, 0, 0, 0, 0) == plain.decode(1, 10, 0, 0, 0, 0)
    assert sum(costs.explain_prefill(*prompt).values()) == pytest.approx(0.5)


def test_a_mixed_iteration_beside_decode_graphs_takes_the_host_s_time_of_a_prefill() -> None:
    host = EngineCosts(host_s=0.1, prefill_host_s=0.2, host_per_running_s=0.01)
    graphs, eager = (model(host.model_copy(update={name: 0.5})) for name in ("prefill_launch_s", "launch_s"))
    step = (2, 10, 1, 10, 100, Load(0, 0, 0, 0))
    assert graphs.mixed(*step) == to_ticks(0.2 + 2 * 0.01 + 0.5)
    assert eager.mixed(*step) == to_ticks(0.1 + 2 * 0.01 + 0.5)
