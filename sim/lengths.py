"""How long prompts and outputs are: drawn from fitted mixtures or uniformly, then scaled, dropped or cut as declared.

The statistics of `conv` and `code` are fitted to the Azure LLM Inference Dataset 2023
(github.com/Azure/AzurePublicDataset, CC-BY-4.0; described in Splitwise, ISCA 2024); changed: summarised as mixtures.
Those of `mooncake` are fitted to the Mooncake conversation trace (github.com/kvcache-ai/Mooncake, Apache-2.0;
described in Mooncake, FAST 2025); changed likewise.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from sim.trace import Trace

IntArray = npt.NDArray[np.int64]

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


def _spell_out(value: object) -> object:
    """Accept a family's bare name for the family with its defaults."""
    return {"family": value} if isinstance(value, str) else value


Lengths = Annotated[
    Annotated[MixtureLengths | UniformLengths, Field(discriminator="family")],
    BeforeValidator(_spell_out),
]


def noted(trace: Trace, what: str, rows: int | np.int64) -> Trace:
    """Return the trace with one more note."""
    return replace(trace, notes=(*trace.notes, (what, int(rows))))


def _scaled(trace: Trace, scale: float) -> Trace:
    if scale == 1:
        return trace
    prompt, output = (np.rint(tokens / scale) for tokens in (trace.prompt_tokens, trace.output_tokens))
    clamped = ((prompt < 1) | (output < 1)).sum()
    shorter = replace(
        trace,
        prompt_tokens=np.maximum(prompt, 1).astype(np.int64),
        output_tokens=np.maximum(output, 1).astype(np.int64),
    )
    shorter = noted(shorter, f"lengths divided by {scale:g}", len(trace))
    return noted(shorter, "rows with a length clamped to 1 after that", clamped)


def _dropped(trace: Trace, most: int) -> Trace:
    keep = trace.prompt_tokens + trace.output_tokens <= most
    if not keep.any():
        msg = f"drop_over_tokens is {most}, and no request is that short"
        raise ValueError(msg)
    kept = replace(
        trace,
        arrival_s=trace.arrival_s[keep],
        prompt_tokens=trace.prompt_tokens[keep],
        output_tokens=trace.output_tokens[keep],
        adapter=trace.adapter[keep],
    )
    return noted(kept, f"rows over {most} tokens dropped", (~keep).sum())


def _truncated(trace: Trace, most: int) -> Trace:
    output = np.minimum(trace.output_tokens, most - 1)
    prompt = np.minimum(trace.prompt_tokens, most - output)
    over = (trace.prompt_tokens + trace.output_tokens > most).sum()
    return noted(replace(trace, prompt_tokens=prompt, output_tokens=output), f"rows truncated to {most} tokens", over)


def fitted(trace: Trace, scale: float, drop_over_tokens: int | None, truncate_tokens: int | None) -> Trace:
    """Return the trace with lengths divided by `scale`, then long rows dropped, then the rest truncated, all noted.

    Raises:
        ValueError: if no row is left.
    """
    trace = _scaled(trace, scale)
    if drop_over_tokens is not None:
        trace = _dropped(trace, drop_over_tokens)
    if truncate_tokens is not None:
        trace = _truncated(trace, truncate_tokens)
    return trace
