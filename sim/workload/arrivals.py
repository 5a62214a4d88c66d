"""When requests arrive: renewal processes, a slowly moving rate, bursts. No lengths, no adapters here.

Every process is drawn free of the rate and brought to it afterwards, so that two runs at different rates are paired.
The numbers of `conv` and `code` are fitted to the Azure LLM Inference Dataset 2023
(github.com/Azure/AzurePublicDataset, CC-BY-4.0; described in Splitwise, ISCA 2024); changed: summarised as rate and
burst processes.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

FloatArray = npt.NDArray[np.float64]

ALIASES: dict[str, dict[str, object]] = {"vllm_normalized": {"family": "poisson", "vllm_normalized": True}}


class _Arrivals(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    vllm_normalized: bool = Field(
        default=False,
        description="stretch all gaps so that the last request arrives at requests/rate, as vLLM's client does",
    )

    def draw(self, requests: int, rate_per_s: float, rng: np.random.Generator) -> FloatArray:
        """Return arrival times in seconds, shape (requests,), not decreasing, the first after the first gap."""
        arrival_s = self._arrivals_s(requests, rate_per_s, rng)
        if self.vllm_normalized and requests:
            arrival_s *= requests / rate_per_s / arrival_s[-1]
        return arrival_s

    @abstractmethod
    def _arrivals_s(self, requests: int, rate_per_s: float, rng: np.random.Generator) -> FloatArray:
        """Return arrival times in seconds, shape (requests,), not decreasing."""


class PoissonArrivals(_Arrivals):
    """Exponential gaps."""

    family: Literal["poisson"] = Field(default="poisson", description="independent exponential gaps")

    def _arrivals_s(self, requests: int, rate_per_s: float, rng: np.random.Generator) -> FloatArray:
        return np.cumsum(rng.standard_exponential(requests)) / rate_per_s


class GammaArrivals(_Arrivals):
    """Gamma gaps of a given coefficient of variation; vLLM's burstiness is 1/cv^2."""

    family: Literal["gamma"] = Field(default="gamma", description="independent gamma gaps")
    cv: float = Field(default=1.0, gt=0, le=100, description="coefficient of variation of the gaps; 1 is Poisson")

    def _arrivals_s(self, requests: int, rate_per_s: float, rng: np.random.Generator) -> FloatArray:
        return np.cumsum(rng.standard_gamma(self.cv**-2, requests)) * (self.cv**2 / rate_per_s)


class ConvArrivals(_Arrivals):
    """Poisson inside each minute, at rate * exp(z - sd^2/2) where z is a first-order autoregression over minutes.

    Minutes stay minutes at every rate: only the unit exponentials are divided by it.
    """

    family: Literal["conv"] = Field(default="conv", description="Poisson at a rate that moves from minute to minute")
    phi: float = Field(default=0.85, ge=0, lt=1, description="correlation of the log-rate of neighbouring minutes")
    sd: float = Field(default=0.22, ge=0, le=3, description="standard deviation of the log-rate of minutes")

    def _arrivals_s(self, requests: int, rate_per_s: float, rng: np.random.Generator) -> FloatArray:
        gaps, minutes = rng.spawn(2)
        work = np.cumsum(gaps.standard_exponential(requests)) / rate_per_s
        done_s = self._integrated_rate_s(float(work[-1]) if requests else 0.0, minutes)
        arrival_s: FloatArray = np.interp(work, done_s, 60.0 * np.arange(len(done_s)))
        return arrival_s

    def _integrated_rate_s(self, needed_s: float, rng: np.random.Generator) -> FloatArray:
        """Return seconds at the mean rate worked off by each full minute, from 0 to at least `needed_s`."""
        innovation = self.sd * math.sqrt(1 - self.phi**2)
        log_rate = self.sd * rng.standard_normal()
        done_s = [0.0]
        while done_s[-1] < needed_s or len(done_s) < 2:
            done_s.append(done_s[-1] + 60.0 * math.exp(log_rate - self.sd**2 / 2))
            log_rate = self.phi * log_rate + innovation * rng.standard_normal()
        return np.array(done_s)


class CodeArrivals(_Arrivals):
    """Bursts: lognormal sizes, lognormal pauses between them, exponential gaps inside.

    Another rate rescales the whole process, pauses included; at `natural_rate_per_s` the pauses are those given.
    """

    family: Literal["code"] = Field(default="code", description="bursts of requests with pauses between them")
    size_mu: float = Field(default=4.701, description="mean of ln(requests in a burst)")
    size_sigma: float = Field(default=0.862, ge=0, le=3, description="standard deviation of ln(requests in a burst)")
    pause_mu: float = Field(default=3.275, description="mean of ln(seconds between bursts)")
    pause_sigma: float = Field(
        default=0.988, ge=0, le=3, description="standard deviation of ln(seconds between bursts)"
    )
    inside_per_s: float = Field(default=9.0, gt=0, description="requests per second inside a burst")

    @property
    def natural_rate_per_s(self) -> float:
        """Mean requests per second of the process before it is brought to the asked rate."""
        size = math.exp(self.size_mu + self.size_sigma**2 / 2)
        pause_s = math.exp(self.pause_mu + self.pause_sigma**2 / 2)
        return size / (max(size - 1, 0) / self.inside_per_s + pause_s)

    def _arrivals_s(self, requests: int, rate_per_s: float, rng: np.random.Generator) -> FloatArray:
        inside, sizes, pauses = rng.spawn(3)
        gaps_s = inside.standard_exponential(requests) / self.inside_per_s
        starts = self._burst_starts(requests, sizes)
        gaps_s[starts] = pauses.lognormal(self.pause_mu, self.pause_sigma, len(starts))
        return np.cumsum(gaps_s) * (self.natural_rate_per_s / rate_per_s)

    def _burst_starts(self, requests: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Return the row of the first request of each burst."""
        starts = [0]
        while starts[-1] < requests:
            starts.append(starts[-1] + max(1, round(rng.lognormal(self.size_mu, self.size_sigma))))
        return np.array(starts[:-1], dtype=np.int64)


class TraceArrivals(BaseModel):
    """The stamps of a trace file, all stretched alike to another rate: its bursts and lulls stay what they are."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    family: Literal["trace"] = Field(default="trace", description="a trace file's own stamps, brought to the rate")

    def factor(self, own_s: FloatArray, rate_per_s: float) -> float:
        """Return what stamps are multiplied by for this mean rate from the first to the last.

        Raises:
            ValueError: if the stamps have no rate.
        """
        span_s = float(own_s[-1] - own_s[0])
        if not span_s > 0:
            msg = "arrivals are those of the trace, and all of its stamps are equal; choose another family"
            raise ValueError(msg)
        return (len(own_s) - 1) / span_s / rate_per_s


def _spell_out(value: object) -> object:
    """Accept a family's bare name or a client's word for it."""
    if isinstance(value, str):
        return ALIASES.get(value, {"family": value})
    return value


DrawnArrivals = PoissonArrivals | GammaArrivals | ConvArrivals | CodeArrivals
Arrivals = Annotated[
    Annotated[DrawnArrivals | TraceArrivals, Field(discriminator="family")],
    BeforeValidator(_spell_out),
]
