"""What a load must keep to: how many of its requests must be completed, and where P99 and attainment must lie."""

from __future__ import annotations

import numpy as np
import pytest

from sim.config import Loaded, load_config
from sim.experiments import objective
from sim.experiments.objective import Objective, probe
from sim.results.result import Result, Run
from sim.serving.records import NEVER, REQUEST_COLUMNS, STATUSES, Records
from sim.trace import Trace

S = 10**12
SLORA = load_config("slora", (), {"workload": {"requests": 100}})


def served(completed: int, late: int = 0, offered: int = 100) -> Result:
    """One request a second; some get their first token 1 s after it came, late ones after 10 s, the others never."""
    records = Records()
    for request in range(offered):
        came = request * S
        first_token = came + (10 * S if request < late else S)
        row = dict.fromkeys(REQUEST_COLUMNS, 0) | {"request": request, "arrival": came, "admitted": came}
        row |= {"ready": came, "prefill_start": came, "first_segment": NEVER, "last_segment": NEVER}
        row |= {"first_token": first_token, "finish": first_token}
        if request >= completed:
            row |= {"status": STATUSES.index("unfinished"), "first_token": NEVER, "finish": NEVER}
        records.requests.add(row.values())
    records.end = (offered + 10) * S
    ones = np.ones(offered, dtype=np.int64)
    trace = Trace("seconds", np.arange(float(offered)), ones, ones, (None,), 0 * ones)
    return Result(Run(trace, (records,), [0], ones, "slora", "a40", "llama", 1))


def is_met(result: Result, asked: Objective, monkeypatch: pytest.MonkeyPatch) -> bool:
    def made_up(_: Loaded) -> Result:
        return result

    monkeypatch.setattr(objective, "execute", made_up)
    return probe(SLORA, asked).is_met


@pytest.mark.parametrize(("completed", "met"), [(100, True), (99, True), (98, False), (0, False)])
def test_99_percent_of_the_offered_requests_must_be_completed(
    completed: int, met: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_met(served(completed), Objective(ttft_s=2.0), monkeypatch) is met


@pytest.mark.parametrize(("bound_s", "met"), [(2.0, False), (9.0, False), (10.0, True)])
def test_the_p99_of_the_completed_requests_must_lie_within_the_bound(
    bound_s: float, met: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_met(served(100, late=2), Objective(ttft_s=bound_s), monkeypatch) is met


@pytest.mark.parametrize(("share", "met"), [(0.5, True), (0.9, True), (0.91, False)])
def test_an_attainment_counts_late_and_unfinished_requests_among_the_offered(
    share: float, met: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Objective(ttft_s=2.0, attainment=share)
    assert is_met(served(96, late=6), asked, monkeypatch) is met
