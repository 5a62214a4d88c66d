"""Who is slow, when and why, on tables small enough to check by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from sim.results.summary import PARTS
from sim.results.tails import during, episodes, portrait, slowest, ttft_parts


def table(ttft_s: list[float], **columns: Any) -> pd.DataFrame:
    """Return requests that arrive once a second and only wait in the queue, unless columns say otherwise."""
    n = len(ttft_s)
    arrival_s = np.asarray(columns.get("arrival_s", np.arange(float(n))))
    defaults: dict[str, Any] = {
        "request_id": np.arange(n),
        "arrival_s": arrival_s,
        "first_token_s": arrival_s + np.asarray(ttft_s),
        "ttft_s": ttft_s,
        "adapter_id": ["lora-0"] * n,
        "adapter_rank": [8] * n,
        "adapter_source": ["gpu"] * n,
        "prompt_tokens": [100] * n,
        "output_tokens": [10] * n,
        **{f"{part}_s": [0.0] * n for part in PARTS},
        "queue_s": ttft_s,
    }
    return pd.DataFrame({**defaults, **columns})


def test_the_slowest_come_first_and_ties_go_by_id() -> None:
    assert list(slowest(table([1.0, 3.0, 2.0, 3.0]), 0.75)["request_id"]) == [1, 3, 2]


def test_at_least_one_request_is_the_slowest() -> None:
    assert len(slowest(table([1.0, 2.0]), 0.01)) == 1


def test_a_request_without_a_first_token_is_not_among_the_slowest() -> None:
    assert list(slowest(table([1.0, float("nan")]), 1.0)["request_id"]) == [0]


@pytest.mark.parametrize(("values", "share"), [([1.0], 0.0), ([1.0], 1.5), ([float("nan")], 0.5)])
def test_no_slowest_is_an_error(values: list[float], share: float) -> None:
    with pytest.raises(ValueError, match="got"):
        slowest(table(values), share)


def test_groups_by_wait_are_the_half_the_tenths_and_the_hundredth() -> None:
    parts = ttft_parts(table([float(one) for one in range(200)]))
    assert dict(parts["n"]) == {
        "all": 200,
        "fastest half": 100,
        "50 to 90 %": 80,
        "90 to 99 %": 18,
        "slowest 1 %": 2,
    }
    assert parts.loc["slowest 1 %", "queue"] == pytest.approx(198_500)


def test_parts_are_means_in_ms() -> None:
    requests = table([1.0, 3.0], queue_s=[0.5, 1.0], prefill_s=[0.5, 2.0])
    every = ttft_parts(requests).loc["all"]
    assert dict(every) == {"queue": 750, "adapter_wait": 0, "prefill": 1250, "preempt": 0, "overhead": 0, "n": 2}


def test_groups_by_rank_are_in_order_of_rank() -> None:
    parts = ttft_parts(table([1.0, 2.0, 4.0], adapter_rank=[128, 0, 8]), by="rank")
    assert list(parts.index) == ["all", "base model", "rank 8", "rank 128"]
    assert list(parts["queue"][1:]) == [2000, 4000, 1000]


def test_a_trait_of_the_slow_stands_beside_that_of_all() -> None:
    traits = portrait(table([1.0, 9.0], prompt_tokens=[100, 300]), 0.5)
    assert list(traits.loc["prompt tokens"]) == [200, 300, 1.5]


def test_requests_that_had_to_load_their_adapter_are_counted() -> None:
    requests = table([1.0, 2.0, 3.0, 9.0], adapter_source=["gpu", "prefetched", "inflight", "host"])
    assert list(portrait(requests, 0.25).loc["adapter had to be loaded (%)", ["all", "slowest"]]) == [50, 100]


def test_popularity_is_the_adapters_share_of_all_requests() -> None:
    requests = table([1.0, 1.0, 1.0, 9.0], adapter_id=["a", "a", "a", "b"])
    assert portrait(requests, 0.25).loc["adapter's share of traffic (%)", "slowest"] == 25


def test_arrivals_before_a_request_count_those_in_the_window_and_itself() -> None:
    requests = table([1.0, 1.0, 1.0, 9.0], arrival_s=[0.0, 8.0, 9.0, 10.0])
    traits = portrait(requests, 0.25, window_s=2.0)
    assert traits.loc["arrivals/s, 2 s before", "slowest"] == 1.0  # 9 and 10: a window is open at its start
    assert traits.loc["tokens/s asked, 2 s before", "slowest"] == 110.0


def test_slow_requests_close_together_are_one_episode() -> None:
    requests = table([5.0, 6.0, 1.0, 7.0], arrival_s=[0.0, 10.0, 15.0, 30.0])
    spells = episodes(requests, 0.75, gap_s=10.0)
    assert spells[["start_s", "end_s", "n", "worst_s"]].to_numpy().tolist() == [[0, 16, 2, 6], [30, 37, 1, 7]]


def test_the_engines_state_is_averaged_over_episodes_and_over_all() -> None:
    series = pd.DataFrame({"t_s": [1.0, 2.0, 3.0, 4.0], "waiting": [0, 10, 20, 2]})
    spells = pd.DataFrame({"start_s": [1.5, 2.5], "end_s": [3.0, 3.5]})
    assert list(during(series, spells).loc["waiting"]) == [8, 15]
