"""How long prompts and outputs are: drawn from fitted mixtures, from named laws, or all alike.

The statistics of `conv` and `code` are fitted to the Azure LLM Inference Dataset 2023
(github.com/Azure/AzurePublicDataset, CC-BY-4.0; described in Splitwise, ISCA 2024); changed: summarised as mixtures.
Those of `mooncake` are fitted to the Mooncake conversation trace (github.com/kvcache-ai/Mooncake, Apache-2.0;
described in Mooncake, FAST 2025); changed likewise.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

IntArray = npt.NDArray[np.int64]
Tokens = Annotated[float, Field(ge=1, le=1e7)]
Sigma = Annotated[float, Field(ge=0, le=5)]

# each row: weight, mean of ln(input), mean of ln(output), standard deviations of both, their correlation
_CONV = (
    (0.2786, 6.974, 6.007, 0.067, 0.051, -0.015),
    (0.2433, 5.989, 4.538, 0.042, 0.254, 0.402),
    (0.1712, 7.373, 4.432, 0.577, 0.413, 0.066),
    (0.0983, 5.294, 4.959, 0.090, 0.425, -0.285),
    (0.0866, 7.080, 5.825, 0.112, 0.578, -0.811),
    (0.0755, 8.316, 4.035, 0.011, 0.500, 0.035),
    (0.0260, 3.860, 4.990, 1.166, 0.366, 0.329),
    (0.0205, 5.331, 2.745, 0.504, 0.203, 0.398),
)
_CODE = (
    (0.2809, 8.007, 2.256, 0.579, 0.326, 0.139),
    (0.2233, 7.033, 2.403, 0.533, 0.387, 0.066),
    (0.1790, 5.014, 2.466, 1.093, 0.439, -0.030),
    (0.1614, 7.715, 3.329, 0.719, 0.513, -0.055),
    (0.0901, 5.912, 3.818, 1.284, 0.837, -0.120),
    (0.0653, 7.709, 4.509, 0.716, 0.857, -0.015),
)
_MOONCAKE = (
    (0.2679, 9.479, 6.073, 0.682, 0.241, -0.045),
    (0.2367, 8.829, 3.627, 1.110, 1.549, -0.100),
    (0.2052, 8.456, 5.917, 0.616, 0.422, -0.354),
    (0.1177, 9.918, 5.903, 0.795, 0.671, 0.194),
    (0.0912, 6.809, 5.076, 0.019, 1.428, -0.126),
    (0.0813, 7.182, 5.885, 0.223, 0.473, 0.248),
)
# components, longest input, longest output of the data (tokens)
_MIXTURES = {"conv": (_CONV, 14050, 1000), "code": (_CODE, 7437, 1899), "mooncake": (_MOONCAKE, 126195, 2000)}


class _Lengths(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    @abstractmethod
    def draw(self, requests: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
        """Return input and output tokens, each of shape (requests,), at least 1; more requests keep the first ones."""


class MixtureLengths(_Lengths):
    """Input and output together from a Gaussian mixture in natural-log space, rounded, clipped to the data's range."""

    family: Literal["conv", "code", "mooncake"] = Field(
        default="conv",
        description="whose lengths: Azure 2023 conversation or code completion, or Mooncake conversation",
    )

    def draw(self, requests: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
        """Return input and output tokens, each of shape (requests,) and at least 1."""
        components, max_input, max_output = _MIXTURES[self.family]
        table = np.array(components)
        uniform = rng.random((requests, 3))
        weights = np.cumsum(table[:, 0])
        chosen = table[np.searchsorted(weights, uniform[:, 0] * weights[-1], side="right")]
        _, mu_in, mu_out, sd_in, sd_out, rho = chosen.T
        first, second = _normal_pair(uniform[:, 1], uniform[:, 2])
        log_in = mu_in + sd_in * first
        log_out = mu_out + sd_out * (rho * first + np.sqrt(1 - rho**2) * second)
        return _tokens(log_in, max_input), _tokens(log_out, max_output)


def _normal_pair(
    u: npt.NDArray[np.float64], v: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return two independent standard normals by Box and Muller: a fixed number of draws for each request."""
    radius = np.sqrt(-2 * np.log1p(-u))
    return radius * np.cos(2 * np.pi * v), radius * np.sin(2 * np.pi * v)


def _tokens(log_tokens: npt.NDArray[np.float64], most: int) -> IntArray:
    return np.clip(np.rint(np.exp(log_tokens)), 1, most).astype(np.int64)


class UniformLengths(_Lengths):
    """Independent uniform integers, as in S-LoRA's synthetic workload; the upper bounds are not reached."""

    family: Literal["uniform"] = Field(default="uniform", description="uniform integers")
    input_low_tokens: int = Field(default=8, ge=1, description="shortest prompt, tokens")
    input_high_tokens: int = Field(default=512, ge=2, description="one more than the longest prompt, tokens")
    output_low_tokens: int = Field(default=8, ge=1, description="shortest output, tokens")
    output_high_tokens: int = Field(default=512, ge=2, description="one more than the longest output, tokens")

    @model_validator(mode="after")
    def _ranges_are_not_empty(self) -> Self:
        for what, (low, high) in (("input", self.input_range), ("output", self.output_range)):
            if low >= high:
                msg = f"{what}_low_tokens is {low}; less than {what}_high_tokens, {high}, is allowed"
                raise ValueError(msg)
        return self

    @property
    def input_range(self) -> tuple[int, int]:
        """Shortest prompt, and one more than the longest, tokens."""
        return self.input_low_tokens, self.input_high_tokens

    @property
    def output_range(self) -> tuple[int, int]:
        """Shortest output, and one more than the longest, tokens."""
        return self.output_low_tokens, self.output_high_tokens

    def draw(self, requests: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
        """Return input and output tokens, each of shape (requests,)."""
        low = np.array([self.input_low_tokens, self.output_low_tokens])
        high = np.array([self.input_high_tokens, self.output_high_tokens])
        drawn = low + np.floor(rng.random((requests, 2)) * (high - low)).astype(np.int64)
        return drawn[:, 0], drawn[:, 1]


class LognormalLengths(_Lengths):
    """Independent lognormal lengths, rounded; of each, two of mean, median and sigma are given and tell the third."""

    family: Literal["lognormal"] = Field(default="lognormal", description="independent lognormal lengths")
    input_mean_tokens: Tokens | None = Field(default=None, description="mean input before it is clipped, tokens")
    input_median_tokens: Tokens | None = Field(default=None, description="median input, tokens")
    input_sigma: Sigma | None = Field(default=None, description="standard deviation of ln(input)")
    output_mean_tokens: Tokens | None = Field(default=None, description="mean output before it is clipped, tokens")
    output_median_tokens: Tokens | None = Field(default=None, description="median output, tokens")
    output_sigma: Sigma | None = Field(default=None, description="standard deviation of ln(output)")
    max_input_tokens: int = Field(default=131_072, ge=1, description="longer inputs are cut to this, tokens")
    max_output_tokens: int = Field(default=131_072, ge=1, description="longer outputs are cut to this, tokens")

    @model_validator(mode="after")
    def _two_of_three_are_given(self) -> Self:
        for what in ("input", "output"):
            given = self._given(what)
            mean, median, _ = given
            if sum(number is not None for number in given) != 2:
                names = f"{what}_mean_tokens, {what}_median_tokens and {what}_sigma"
                msg = f"of {names}, two are needed, and they tell the third"
                raise ValueError(msg)
            if mean is not None and median is not None and mean < median:
                msg = f"{what}_mean_tokens is {mean:g}; at least the median, {median:g}, is allowed"
                raise ValueError(msg)
        return self

    def _given(self, what: str) -> tuple[float | None, float | None, float | None]:
        if what == "input":
            return self.input_mean_tokens, self.input_median_tokens, self.input_sigma
        return self.output_mean_tokens, self.output_median_tokens, self.output_sigma

    def law(self, what: Literal["input", "output"]) -> tuple[float, float]:
        """Return the mean and the standard deviation of ln(tokens)."""
        mean, median, sigma = self._given(what)
        if sigma is None:
            mean, median = mean or 1.0, median or 1.0  # both are given then
            return math.log(median), math.sqrt(2 * math.log(mean / median))
        return (math.log(median) if median is not None else math.log(mean or 1.0) - sigma**2 / 2), sigma

    def draw(self, requests: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
        """Return input and output tokens, each of shape (requests,) and at least 1."""
        uniform = rng.random((requests, 2))
        normals = _normal_pair(uniform[:, 0], uniform[:, 1])
        (mu_in, sd_in), (mu_out, sd_out) = self.law("input"), self.law("output")
        prompt = _tokens(mu_in + sd_in * normals[0], self.max_input_tokens)
        return prompt, _tokens(mu_out + sd_out * normals[1], self.max_output_tokens)


class FixedLengths(_Lengths):
    """Every request alike."""

    family: Literal["fixed"] = Field(default="fixed", description="every request alike")
    input_tokens: int = Field(default=1024, ge=1, description="input of every request, tokens")
    output_tokens: int = Field(default=128, ge=1, description="output of every request, tokens")

    def draw(self, requests: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
        """Return input and output tokens, each of shape (requests,); nothing is drawn."""
        del rng
        return np.full(requests, self.input_tokens), np.full(requests, self.output_tokens)


def _spell_out(value: object) -> object:
    """Accept a family's bare name for the family with its defaults."""
    return {"family": value} if isinstance(value, str) else value


Lengths = Annotated[
    Annotated[MixtureLengths | UniformLengths | LognormalLengths | FixedLengths, Field(discriminator="family")],
    BeforeValidator(_spell_out),
]
