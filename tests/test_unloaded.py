"""One request alone, through the whole simulator: the first token takes what Chameleon printed for an A40."""

from __future__ import annotations

import numpy as np
import pytest

import sim
from sim.costs import MEDIUM_PROMPT_TOKENS
from sim.trace import AdapterSpec, Trace


def alone(rank: int, output_tokens: int = 2) -> Trace:
    return Trace(
        name="alone",
        arrival_s=np.array([1.0]),
        prompt_tokens=np.array([MEDIUM_PROMPT_TOKENS]),
        output_tokens=np.array([output_tokens]),
        palette=(AdapterSpec("only", rank),),
        adapter=np.array([0]),
    )


@pytest.mark.parametrize(("rank", "printed_ms"), [(8, 74), (16, 78), (32, 88), (64, 107), (128, 144)])
def test_the_first_token_of_a_lone_request_takes_what_was_printed(rank: int, printed_ms: float) -> None:
    result = sim.run(system="slora", trace=alone(rank), hardware="a40", model="llama-7b")
    assert 1e3 * result.requests["ttft_s"][0] == pytest.approx(printed_ms, rel=0.03)


def test_a_lone_request_waits_for_its_adapter_and_for_nothing_else() -> None:
    request = sim.run(system="slora", trace=alone(128)).requests.iloc[0]
    assert request["adapter_source"] == "host"
    assert request["adapter_wait_s"] == pytest.approx(request["adapter_load_s"], abs=1e-11)
    assert request["queue_s"] == request["overhead_s"] == 0
    assert request["adapter_wait_s"] + request["prefill_s"] == request["ttft_s"]
