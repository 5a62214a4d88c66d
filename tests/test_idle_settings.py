"""A setting that nothing looks at is told, so that nobody concludes that it does not matter."""

from __future__ import annotations

import pytest

import sim
from sim.config import load_config
from sim.files.yamlfile import packaged_names
from sim.idle_settings import idle_settings
from tests.commands import chameleon


@pytest.mark.parametrize("system", packaged_names())
def test_no_packaged_system_has_a_setting_that_idles(system: str) -> None:
    assert idle_settings(load_config(system).config) == []


ALL_IN_HOST = "host RAM for all adapters (adapters.host_bytes, adapters.host_adapters)"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("adapters.slots=8", "adapters.slots has no effect with adapters.memory: unified"),
        ("adapters.reserved_bytes=1000000", "adapters.reserved_bytes has no effect with adapters.memory: unified"),
        ("limits.step_tokens=64", "limits.step_tokens has no effect with prefill: separate"),
        ("limits.prefills_per_step=1", "limits.prefills_per_step has no effect with prefill: separate"),
        ("admission.watermark=0.1", "admission.watermark has no effect with admission.reserve: peak"),
        ("router=affinity", "router has no effect with replicas: 1"),
        ("loading.disk_bytes_per_s=2e7", f"loading.disk_bytes_per_s has no effect with {ALL_IN_HOST}"),
        ("adapters.host_starts_warm=false", f"adapters.host_starts_warm has no effect with {ALL_IN_HOST}"),
        ("adapters.slot_modules=[q,k,v,o]", "adapters.slot_modules has no effect with adapters.memory: unified"),
        ("adapters.max_rank=128", "adapters.max_rank has no effect with adapters.memory: unified"),
        ("loading.slowdown=1.5", "loading.slowdown has no effect with loading.mode: blocking"),
        ("parallel.all_reduce_s=1e-5", "parallel.all_reduce_s has no effect with parallel.tensor: 1"),
        ("admission.victim=least_generated", "admission.victim has no effect with admission.reserve: peak"),
    ],
)
def test_a_setting_that_idles_is_told_with_the_reason(change: str, said: str) -> None:
    assert idle_settings(load_config("slora", [change]).config) == [said]


@pytest.mark.parametrize(
    ("system", "others", "change"),
    [
        ("vllm", ("adapters.memory=unified",), "adapters.slots=64"),
        ("vllm", ("adapters.memory=idle",), "adapters.slots=64"),
        ("slora", (), "adapters.slots=8"),
        ("slora", (), "adapters.reserved_bytes=1000000"),
        ("slora", (), "limits.step_tokens=64"),
        ("slora", (), "admission.watermark=0.1"),
        ("slora", (), "loading.disk_bytes_per_s=2e7"),
        ("slora", (), "adapters.host_starts_warm=false"),
        ("slora", (), "loading.cpu_token_s=1e-3"),
        ("vllm", (), "parallel.all_reduce_bytes_per_s=1e9"),
    ],
)
def test_a_setting_that_idles_changes_nothing(system: str, others: tuple[str, ...], change: str) -> None:
    other = sim.run(system, requests=60, rate=6, changes=[*others, change])
    assert any(one.startswith(change.split("=", maxsplit=1)[0]) for one in other.summary["idle_settings"])
    assert other.requests.equals(sim.run(system, requests=60, rate=6, changes=others).requests)


def test_a_setting_that_acts_is_not_told() -> None:
    assert idle_settings(load_config("vllm", ["adapters.slots=4", "limits.step_tokens=64"]).config) == []
    assert idle_settings(load_config("slora", ["adapters.host_adapters=4", "loading.disk_latency_s=1"]).config) == []
    kept = ["scheduler=fastserve", "admission.preempted=keep", "admission.shortage=swap"]  # what waits keeps its KV
    assert idle_settings(load_config("slora", kept).config) == []


def test_the_command_warns_and_the_summary_keeps_it() -> None:
    said = chameleon("run", "--system", "slora", "--requests", "20", "--set", "adapters.slots=8")
    assert "warning: adapters.slots has no effect with adapters.memory: unified" in said.err
    assert sim.run("slora", requests=5, rate=1, changes="adapters.slots=8").summary["idle_settings"] == [
        "adapters.slots has no effect with adapters.memory: unified"
    ]


@pytest.mark.parametrize("change", ["limits.running_requests=true", "loading.fixed_s=no", "memory.swap_bytes=false"])
def test_true_and_false_are_no_numbers(change: str) -> None:
    said = chameleon("run", "--requests", "5", "--set", change)
    assert said.code == 2
    key = change.partition("=")[0]
    assert f"--set {change}: {key}: true and false are not allowed here" in " ".join(said.err.split())
