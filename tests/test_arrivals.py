"""Arrival processes: the gaps, counts and rates that were asked for, and what a change of the rate leaves alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import TypeAdapter, ValidationError

from sim.readers.describe import gap_cv, index_of_dispersion
from sim.workload.arrivals import Arrivals, CodeArrivals, ConvArrivals, DrawnArrivals, GammaArrivals, PoissonArrivals

REQUESTS = 40_000
ALL = [PoissonArrivals(), GammaArrivals(cv=3), ConvArrivals(), CodeArrivals()]


def draw(
    arrivals: DrawnArrivals, rate_per_s: float = 5.0, requests: int = REQUESTS, seed: int = 3
) -> npt.NDArray[np.float64]:
    return arrivals.draw(requests, rate_per_s, np.random.default_rng(seed))


def dispersion(arrivals: DrawnArrivals, rate_per_s: float) -> float:
    value = index_of_dispersion(draw(arrivals, rate_per_s), 60)
    assert value is not None
    return value


@pytest.mark.parametrize("cv", [0.5, 1, 2, 4])
def test_gamma_gaps_have_the_variation_asked_for(cv: float) -> None:
    assert gap_cv(draw(GammaArrivals(cv=cv))) == pytest.approx(cv, rel=0.05)


def test_poisson_gaps_have_a_variation_of_one() -> None:
    assert gap_cv(draw(PoissonArrivals())) == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize(
    ("arrivals", "cv"), [(PoissonArrivals(), 1), (GammaArrivals(cv=0.5), 0.5), (GammaArrivals(cv=3), 3)]
)
def test_the_realised_rate_is_within_three_standard_errors(arrivals: DrawnArrivals, cv: float) -> None:
    mean_gap_s = draw(arrivals, 5.0)[-1] / REQUESTS
    assert abs(mean_gap_s - 0.2) < 3 * 0.2 * cv / REQUESTS**0.5


@pytest.mark.parametrize(
    ("arrivals", "rate_per_s"),
    [(ConvArrivals(), 5.5), (ConvArrivals(phi=0.0, sd=1.0), 5.5), (CodeArrivals(), 2.5), (CodeArrivals(), 25.0)],
)
def test_a_moving_rate_has_the_mean_asked_for(arrivals: DrawnArrivals, rate_per_s: float) -> None:
    rates = [REQUESTS / draw(arrivals, rate_per_s, seed=seed)[-1] for seed in range(8)]
    assert np.mean(rates) == pytest.approx(rate_per_s, rel=0.08)


def test_counts_a_minute_are_dispersed_like_poisson_only_under_poisson() -> None:
    assert dispersion(PoissonArrivals(), 5.5) == pytest.approx(1, abs=0.4)
    assert 8 < dispersion(ConvArrivals(), 5.5) < 30
    assert dispersion(CodeArrivals(), 2.57) > 60


def test_conv_is_poisson_inside_a_minute() -> None:
    assert gap_cv(draw(ConvArrivals(), 5.5)) == pytest.approx(1.05, abs=0.05)


def test_bursts_leave_most_seconds_empty() -> None:
    arrival_s = draw(CodeArrivals(), 2.57)
    busy = len(np.unique(np.floor(arrival_s)))
    assert 1 - busy / arrival_s[-1] == pytest.approx(0.73, abs=0.06)


@pytest.mark.parametrize("arrivals", [PoissonArrivals(), GammaArrivals(cv=3), CodeArrivals()])
def test_another_rate_only_rescales(arrivals: DrawnArrivals) -> None:
    assert np.allclose(draw(arrivals, 2.0), draw(arrivals, 8.0) * 4, rtol=1e-12)


def test_minutes_of_conv_stay_minutes_at_another_rate() -> None:
    def by_minute(rate_per_s: float) -> npt.NDArray[np.float64]:
        minutes = np.floor(draw(ConvArrivals(sd=1.0), rate_per_s) / 60).astype(np.int64)
        return np.bincount(minutes)[:4] / rate_per_s

    assert by_minute(200) == pytest.approx(by_minute(400), rel=0.1)
    assert by_minute(200).max() > 1.5 * by_minute(200).min()


@pytest.mark.parametrize("arrivals", ALL)
def test_arrivals_never_go_back_in_time(arrivals: DrawnArrivals) -> None:
    arrival_s = draw(arrivals)
    assert arrival_s[0] > 0
    assert (np.diff(arrival_s) >= 0).all()


@pytest.mark.parametrize("arrivals", ALL)
def test_more_requests_leave_the_first_arrivals_as_they_were(arrivals: DrawnArrivals) -> None:
    assert draw(arrivals, requests=100).tolist() == draw(arrivals, requests=200)[:100].tolist()


@pytest.mark.parametrize("arrivals", [PoissonArrivals(vllm_normalized=True), GammaArrivals(vllm_normalized=True, cv=2)])
def test_vllm_normalised_arrivals_end_exactly_at_requests_over_rate(arrivals: DrawnArrivals) -> None:
    assert draw(arrivals, 5.0, requests=300)[-1] == pytest.approx(60.0, rel=1e-12)
    assert draw(PoissonArrivals(), 5.0, requests=300)[-1] != pytest.approx(60.0, rel=1e-6)


def test_a_bare_name_stands_for_a_family() -> None:
    accepts: TypeAdapter[Arrivals] = TypeAdapter(Arrivals)
    assert accepts.validate_python("code") == CodeArrivals()
    assert accepts.validate_python("vllm_normalized") == PoissonArrivals(vllm_normalized=True)


def test_an_unknown_family_is_refused_with_the_known_ones() -> None:
    accepts: TypeAdapter[Arrivals] = TypeAdapter(Arrivals)
    with pytest.raises(ValidationError, match="'poisson', 'gamma', 'conv', 'code'"):
        accepts.validate_python("weibull")
