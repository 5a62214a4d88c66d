"""Iterations in service: which are asked for, what is read off a run, and that a fit of the host listens to them."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from gpu_validate.commands import Options  # noqa: E402
from gpu_validate.engine.device import Iteration, Kind  # noqa: E402
from gpu_validate.engine_laws import iteration_law, kernel_fields  # noqa: E402
from gpu_validate.iterations import Iterations  # noqa: E402
from gpu_validate.service import LEAST_ITERATIONS, Asked, asked_of, read_off, service_shapes  # noqa: E402
from gpu_validate.sweep_rows import Row  # noqa: E402
from sim.build import deploy  # noqa: E402
from sim.config import load_config  # noqa: E402
from sim.costs import CostModel  # noqa: E402
from sim.engine_costs import EngineCosts  # noqa: E402
from sim.hardware import load_hardware  # noqa: E402
from sim.models import load_model  # noqa: E402
from sim.serving.ticks import to_ticks  # noqa: E402

ASKED = {0: Asked(100, 8, 3), 1: Asked(40, 32, 5), 2: Asked(7, 8, 3), 3: Asked(20, 0, None)}


def step(kind: Kind, requests: tuple[int, ...], seconds: float, tokens: int = 0) -> Iteration:
    decoded = len(requests) if kind == "decode" else 0
    return Iteration(
        kind, 0, to_ticks(seconds / 4), to_ticks(seconds), 0, requests, len(requests) - decoded, tokens, decoded
    )


def test_what_a_decode_step_is_asked_counts_the_tokens_that_were_said() -> None:
    run = [step("prefill", (0, 1), 1.0, 140), *[step("decode", (0, 1), 0.25)] * 5]
    found = read_off(run, ASKED, {"phase": "decode"})
    assert (found.timing.p50_s, found.timing.n) == (0.25, 5)
    assert found.extra == {
        "requests": 2,
        "tokens": 2,
        "squared_tokens": 0,
        "context_tokens": 100 + 40 + 2 * 3,  # one said by the prefill, then the middle of five steps
        "token_rank": 40,
        "sum_rank": 40,
        "distinct": 2,
        "distinct_rank": 40,
        "max_rank": 32,
        "longest_tokens": 100 + 3,
        "issue_s": 0.0625,
    }


def test_an_adapter_that_requests_share_is_counted_once_and_the_base_model_is_none() -> None:
    found = read_off([step("prefill", (0, 2, 3), 0.5, 127)] * 5, ASKED, {"phase": "prefill"}).extra
    assert (found["distinct"], found["distinct_rank"], found["sum_rank"]) == (1, 8, 16)
    assert found["token_rank"] == 8 * 107
    assert found["squared_tokens"] == 100**2 + 7**2 + 20**2


def test_pauses_of_the_host_are_left_out() -> None:
    lasted = [0.1, 0.9, 1.0, 1.1, 1.0, 9.0, 1.0, 1.0]
    timing = read_off([step("decode", (0,), one) for one in lasted], ASKED, {"phase": "decode"}).timing
    assert timing.p50_s == pytest.approx(1.0)
    assert timing.p20_s < timing.p50_s < timing.p80_s or timing.iqr_s == 0.0


@pytest.mark.parametrize(("part", "wanted"), [("short", 2.0), ("long", 4.0)])
def test_prefills_are_told_apart_by_their_tokens(part: str, wanted: float) -> None:
    sizes = ((512, 2.0), (700, 3.0), (1024, 4.0))
    run = [step("prefill", (0,), seconds, tokens) for tokens, seconds in sizes for _ in range(LEAST_ITERATIONS)]
    assert read_off(run, ASKED, {"phase": "prefill", "part": part}).timing.p50_s == wanted


def test_a_run_with_too_few_of_them_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"the run had 4 such iterations, at least 5 are needed"):
        read_off([step("decode", (0,), 1.0)] * 4, ASKED, {"phase": "decode"})


def test_every_rate_has_decode_steps_and_prefills_of_a_size_that_is_common_there() -> None:
    shapes = [shape.config for shape in service_shapes("llama-7b", "segmented", 0, graph=True)]
    by_rate: dict[float, set[str]] = {}
    for config in shapes:
        by_rate.setdefault(config["rate_per_s"], set()).add(config.get("part", config["phase"]))
    assert by_rate[10.0] == {"decode", "short"}
    assert by_rate[40.0] == {"decode", "short", "long"}
    assert by_rate[90.0] == {"decode", "long"}
    assert {config["split"] for config in shapes} == {"fit", "test"}


def test_requests_are_known_by_their_adapters() -> None:
    deployment = deploy(load_config("slora", (), {"workload": {"requests": 20, "adapters": 3}}))
    asked = asked_of(deployment)
    assert [one.prompt_tokens for one in asked.values()] == deployment.trace.prompt_tokens.tolist()
    ranks = [None if one is None else one.rank for one in deployment.adapters]
    assert all(one.rank == (ranks[one.adapter] if one.adapter is not None else 0) for one in asked.values())
    assert {one.adapter for one in asked.values()} == {0, 1, 2}


def test_a_workload_is_served_once_for_all_that_is_read_off_it(monkeypatch: pytest.MonkeyPatch) -> None:
    measure, served = Iterations(Options("cpu", models=("tiny",)), "torch_loop", uses_graphs=False), list[Any]()
    replayed = measure._replayed

    def counted(*arguments: Any) -> list[Iteration]:
        served.append(arguments)
        return replayed(*arguments)

    monkeypatch.setattr(measure, "_replayed", counted)
    monkeypatch.setattr("gpu_validate.service.SPAN_S", 0.2)
    monkeypatch.setattr("gpu_validate.service.LEAST_ITERATIONS", 1)
    shapes = list(service_shapes("tiny", "torch_loop", 0, graph=False))
    decode, short, _ = (shape for shape in shapes if shape.config["rate_per_s"] == 40.0)
    assert measure(decode, 0.0).extra["tokens"] >= 1
    assert measure(short, 0.0).extra["squared_tokens"] > 0
    assert len(served) == 1


def test_host_times_are_those_in_service_where_there_are_some() -> None:
    hardware, fields = load_hardware("h100"), kernel_fields("none", None)
    costs = CostModel(hardware, load_model("llama-7b"), EngineCosts.model_validate(fields))
    rows: list[Row] = []
    for kind, host_s in (("iteration", 1e-3), ("service", 4e-3)):
        for requests in (1, 8, 32, 64):
            sums = dict.fromkeys(("sum_rank", "distinct", "distinct_rank", "max_rank"), 0)
            counts = {"requests": requests, "tokens": requests, "context_tokens": 500 * requests, **sums}
            gpu = sum(costs.explain_decode(**{name: counts[name] for name in counts if name != "tokens"}).values())
            config = {"phase": "decode", "model": "llama-7b", "split": "fit"}
            given = {"config": config | counts} if kind == "iteration" else {"config": config, "extra": counts}
            rows.append(Row(len(rows), kind, split="fit", seconds=gpu + host_s, **given))
    law = iteration_law("iteration", hardware, fields, has_graph=True)
    assert law.solve(rows, None)["host_s"] == pytest.approx(4e-3, rel=0.02)
    assert law.solve(rows[:4], None)["host_s"] == pytest.approx(1e-3, rel=0.02)
    assert law.solve(rows[:6], None)["host_s"] == pytest.approx(1e-3, rel=0.1)  # two are too few
