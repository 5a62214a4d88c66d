"""The requests of a published vLLM run, drawn anew by the rules of the benchmark that sent them."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from policies.base import FloatArray, IntArray
from sim.fidelity.vllm_rows import RunRow
from sim.trace import AdapterSpec, Trace

# vLLM's ShareGPT sampler keeps prompts of 4 to 1024 tokens whose sum with the answer is at most 2048. The shape between
# is ours: lognormal, as wide as chat lengths are, cut at the same bounds. Only the means were published.
SHORTEST_TOKENS, LONGEST_TOKENS = 4, 1024
INPUT_SIGMA, OUTPUT_SIGMA = 1.2, 1.0
_NORMAL = NormalDist()


def workload(row: RunRow, seed: int = 0) -> Trace:
    """Return every request that arrives in the window of a run: each adapter is a Poisson source of its own.

    The sources are drawn given their number of requests, which is the expected one: where servers kept up, those that
    were published are close to it, while a draw of a five-minute run may be off by ten per cent. Arrivals, lengths and
    the order of the rates come from streams of their own, so that rows with equal rates, such as those that differ in
    their slots only, get the same requests.
    """
    arrivals, lengths, order = (np.random.default_rng((seed, stream)) for stream in range(3))
    rates = order.permutation(np.array(row.dealt_per_s))
    count = max(row.arrivals, 1)
    arrival_s = np.sort(arrivals.uniform(0, row.dur, count))
    adapter = arrivals.choice(len(rates), count, p=rates / rates.sum()).astype(np.int64)
    prompt_tokens, output_tokens = _lengths(row, count, lengths)
    palette = tuple(AdapterSpec(f"lora-{index:03d}", row.rank) for index in range(len(rates)))
    return Trace(row.server.set, arrival_s, prompt_tokens, output_tokens, palette, adapter)


def _lengths(row: RunRow, count: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    fixed = row.server.fixed_lengths
    if fixed is not None:
        return np.full(count, fixed[0], dtype=np.int64), np.full(count, fixed[1], dtype=np.int64)
    return (
        drawn_tokens(row.in_tok / row.ok, INPUT_SIGMA, rng.random(count)),
        drawn_tokens(row.out_tok / row.ok, OUTPUT_SIGMA, rng.random(count)),
    )


def drawn_tokens(mean: float, sigma: float, uniform: FloatArray) -> IntArray:
    """Return lengths of a lognormal law cut at 4 and 1024 tokens, by inversion.

    Args:
        mean: of the law after the cut, tokens.
        sigma: of the logarithm before the cut.
        uniform: shape (n,), in [0, 1).

    Raises:
        ValueError: if no such law has that mean.
    """
    grid = np.log(np.linspace(SHORTEST_TOKENS, LONGEST_TOKENS, 4081))
    mu = _mu_of(mean, sigma)
    share = np.array([_NORMAL.cdf((x - mu) / sigma) for x in grid.tolist()])
    tokens = np.interp(uniform, (share - share[0]) / (share[-1] - share[0]), np.exp(grid))
    return np.rint(tokens).astype(np.int64)


def cut_mean(mu: float, sigma: float) -> float:
    """Return the mean of a lognormal law cut at 4 and 1024 tokens."""
    low, high = ((math.log(bound) - mu) / sigma for bound in (SHORTEST_TOKENS, LONGEST_TOKENS))
    inside = _NORMAL.cdf(high) - _NORMAL.cdf(low)
    return math.exp(mu + sigma**2 / 2) * (_NORMAL.cdf(high - sigma) - _NORMAL.cdf(low - sigma)) / inside


def _mu_of(mean: float, sigma: float) -> float:
    low, high = math.log(SHORTEST_TOKENS), math.log(LONGEST_TOKENS) + sigma
    if not cut_mean(low, sigma) < mean < cut_mean(high, sigma):
        msg = f"no lognormal length between {SHORTEST_TOKENS} and {LONGEST_TOKENS} tokens has a mean of {mean:g}"
        raise ValueError(msg)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if cut_mean(middle, sigma) < mean else (low, middle)
    return (low + high) / 2
