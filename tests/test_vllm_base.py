"""vLLM without LoRA: chunks, KV on demand, who stops and who goes on first, graphs of fixed sizes."""

from __future__ import annotations

import numpy as np
import pytest

import sim
from sim.config import load_config
from sim.costs import CostModel
from sim.hardware import load_hardware
from sim.models import load_model
from sim.results.result import Result
from sim.trace import Trace

CARD = ("hardware=rtx-4090", "model=llama-3.1-8b", "memory.reserve_bytes=2000000000")

Row = tuple[float, int, int]  # arrival seconds, prompt and output tokens


def served(*rows: Row, changes: tuple[str, ...] = ()) -> Result:
    """Return what the system does with a few requests of the base model."""
    arrival_s, prompt, output = (np.array(column) for column in zip(*rows, strict=True))
    trace = Trace("by hand", arrival_s.astype(float), prompt, output, (None,), np.zeros(len(rows), dtype=np.int64))
    return sim.run("vllm-base", trace=trace, changes=(*CARD, *changes))


def column(result: Result, name: str) -> list[float]:
    told: list[float] = result.requests[name].tolist()
    return told


def test_a_prompt_beyond_2048_tokens_is_worked_off_in_chunks_beside_the_decode_batch() -> None:
    (records,) = served((0.0, 100, 50), (0.5, 4100, 10)).run.records
    assert records.prefills["tokens"].tolist() == [100, 2047, 2047, 6]
    assert len(records.mixed) == 3


def test_a_request_takes_blocks_as_its_tokens_come_and_not_for_its_whole_length() -> None:
    rows = ((0.0, 400, 200), (0.0, 400, 200))
    result = served(*rows, changes=("memory.kv_pool_tokens=1040",))
    assert max(column(result, "admitted_s")) < 0.1
    assert sum(column(result, "n_preempt")) > 0


def test_the_last_admitted_stops_and_goes_on_before_those_that_have_not_started() -> None:
    rows = ((0.0, 400, 200), (0.0, 400, 200), (0.1, 900, 20))
    result = served(*rows, changes=("memory.kv_pool_tokens=1040",))
    assert column(result, "n_preempt") == [0, 1, 0]
    assert column(result, "finish_s") == sorted(column(result, "finish_s"))
    assert column(result, "first_token_s")[2] > column(result, "finish_s")[1]


@pytest.mark.parametrize(("requests", "graph"), [(3, 4), (9, 16), (33, 40), (250, 256)])
def test_decode_computes_the_linear_layers_of_its_graph_s_batch_size(requests: int, graph: int) -> None:
    costs = CostModel(load_hardware("rtx-4090"), load_model("llama-3.1-8b"), load_config("vllm-base").config.costs)

    def dense_s(batch: int) -> float:
        return costs.explain_decode(batch, 1000 * batch, 0, 0, 0, 0)["dense"]

    assert dense_s(requests // 2) < dense_s(requests) == dense_s(graph)


def test_no_adapter_is_ever_loaded() -> None:
    summary = served((0.0, 100, 50), (0.0, 100, 50)).summary
    assert summary["adapters"]["loads"] == 0
    assert summary["link"]["bytes"] == 0
