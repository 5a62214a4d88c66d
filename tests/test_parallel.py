"""Several GPUs that work as one: what multiplies, what does not, and what holds them together."""

from __future__ import annotations

import pytest

import sim
from sim.config import load_config
from sim.costs import CostModel, EngineCosts, LoadingCosts
from sim.files.yamlfile import ConfigError
from sim.hardware import load_hardware
from sim.models import load_model
from sim.parallel import Parallel
from sim.serving.ticks import to_seconds
from sim.sizing import parallel_of
from tests.commands import chameleon

A40 = load_hardware("a40")
MIB = 1 << 20


def costs(parallel: Parallel, operations: int = 0) -> CostModel:
    return CostModel(
        A40,
        load_model("llama-7b"),
        EngineCosts(kernel="none"),
        loading=LoadingCosts(ops_per_adapter=operations),
        parallel=parallel,
    )


def test_one_gpu_is_the_gpu_itself() -> None:
    assert Parallel().as_one(A40) is A40


def test_memory_and_rates_multiply_and_kernel_floors_do_not() -> None:
    four = Parallel(4).as_one(A40)
    assert four.memory_bytes == 4 * A40.memory_bytes
    assert four.dense.flops_per_s == 4 * A40.dense.flops_per_s
    assert four.attention.kv_bytes_per_s == 4 * A40.attention.kv_bytes_per_s
    assert four.dense.kernel_floor_s == A40.dense.kernel_floor_s


def test_every_gpu_loads_its_slice_over_its_own_link_unless_a_switch_is_shared() -> None:
    alone, own, shared = (costs(one).load(256 * MIB) for one in (Parallel(), Parallel(4), Parallel(4, 4)))
    fixed = to_seconds(costs(Parallel()).load(0))
    assert to_seconds(own) - fixed == pytest.approx((to_seconds(alone) - fixed) / 4)
    assert shared == alone


def test_issuing_copies_takes_every_gpu_as_long_as_one() -> None:
    assert costs(Parallel(4), 896).load(MIB) == costs(Parallel(), 896).load(MIB)


def test_all_reduces_cost_latency_and_what_a_ring_moves() -> None:
    model = load_model("llama-7b")
    one = Parallel(2, 1, 10e9, 5e-6)
    assert one.layer_s(100, model) == pytest.approx(2 * (5e-6 + 100 * 4096 * 2 / 10e9))
    assert Parallel(1, 1, 10e9, 5e-6).layer_s(100, model) == 0


def test_more_gpus_without_all_reduces_never_make_a_prefill_slower() -> None:
    free = [costs(Parallel(n, 1, 1e15, 0.0)).prefill(1, 2048, 2048**2, 0, 0, 0, 0) for n in (1, 2, 4, 8)]
    assert free == sorted(free, reverse=True)


def test_a_model_that_one_card_cannot_hold_runs_on_four() -> None:
    with pytest.raises(ConfigError, match="does not fit a40"):
        sim.run("slora", model="llama-2-70b", requests=5, rate=1)
    result = sim.run("slora", model="llama-2-70b", requests=5, rate=1, changes="parallel.tensor=4")
    assert result.summary["requests"]["completed"] == 5


def gpus(hardware: str, *changes: str) -> Parallel:
    config = load_config("slora", ["parallel.tensor=4", *changes], {"hardware": hardware}).config
    return parallel_of(config, load_hardware(hardware))


def test_what_ties_gpus_together_is_the_card_s_unless_it_is_given_and_pcie_where_the_card_says_nothing() -> None:
    h100 = load_hardware("h100").interconnect
    assert h100 is not None
    assert gpus("h100")[2:] == (h100.all_reduce_bytes_per_s, h100.all_reduce_s)
    assert gpus("h100", "parallel.all_reduce_bytes_per_s=1e9")[2:] == (1e9, h100.all_reduce_s)
    assert gpus("h100", "parallel.all_reduce_s=0")[2:] == (h100.all_reduce_bytes_per_s, 0)
    assert load_hardware("l40s").interconnect is None
    assert gpus("l40s")[2:] == Parallel()[2:]


@pytest.mark.parametrize(
    ("hardware", "changes", "origin", "warns"),
    [
        ("h100", (), "prior", False),
        ("l40s", (), "prior", True),
        ("l40s", ("parallel.all_reduce_bytes_per_s=2e11",), "given, latency prior", False),
        ("h100", ("parallel.all_reduce_s=1e-6",), "given, rate prior", False),
        ("l40s", ("parallel.all_reduce_bytes_per_s=2e11", "parallel.all_reduce_s=1e-6"), "given", False),
    ],
)
def test_a_run_on_several_gpus_says_where_the_rate_of_its_all_reduces_comes_from(
    hardware: str, changes: tuple[str, ...], origin: str, *, warns: bool
) -> None:
    result = sim.run("slora", hardware=hardware, requests=5, rate=1, changes=["parallel.tensor=2", *changes])
    assert result.summary["costs"]["origins"]["interconnect"] == origin
    assert any("all-reduces at 20 GB/s" in one for one in result.summary["costs"]["warnings"]) == warns


def test_a_run_on_one_gpu_speaks_of_no_interconnect() -> None:
    assert "interconnect" not in sim.run("slora", hardware="h100", requests=5, rate=1).summary["costs"]["origins"]


def test_a_switch_holds_no_more_gpus_than_the_engine_has() -> None:
    with pytest.raises(ConfigError, match="gpus_per_switch"):
        sim.run("slora", requests=5, rate=1, changes=["parallel.tensor=2", "parallel.gpus_per_switch=4"])


def test_the_command_takes_a_model_that_only_several_cards_hold() -> None:
    big = ("run", "slora", "--model", "llama-2-70b", "--requests", "5", "--rate", "1")
    said = chameleon(*big)
    assert said.code == 2
    assert "does not fit a40" in said.err
    assert "Successful requests" in chameleon(*big, "--set", "parallel.tensor=4").out
