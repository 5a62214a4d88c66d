"""Predictors of output length, right or wrong in a stated way, drawn from one uniform number per request."""

from __future__ import annotations

from statistics import NormalDist
from typing import Literal, NamedTuple, get_args

import numpy as np

from policies.arguments import at_least, one_of
from policies.base import FloatArray, IntArray, Predictor

Classes = Literal[3, 5]


class _Table(NamedTuple):
    """Percentiles that part the classes, and P(predicted | true) by row."""

    percentiles: tuple[float, ...]
    matrix: tuple[tuple[float, ...], ...]


# Derived from the released predictions of uServe (85,482 requests, vicuna-13b).
_TABLES = {
    3: _Table(
        (50, 99),
        (
            (0.832, 0.163, 0.005),
            (0.167, 0.793, 0.041),
            (0.078, 0.700, 0.222),
        ),
    ),
    5: _Table(
        (25, 50, 75, 99),
        (
            (0.798, 0.152, 0.030, 0.016, 0.004),
            (0.155, 0.566, 0.194, 0.076, 0.010),
            (0.030, 0.216, 0.456, 0.276, 0.021),
            (0.013, 0.070, 0.256, 0.590, 0.071),
            (0.017, 0.053, 0.158, 0.530, 0.243),
        ),
    ),
}


class Oracle(Predictor):
    """Predict the true length."""

    name = "oracle"
    source = "Chameleon (MICRO'25, arXiv 2411.17741), Figure 19 at 100 %"


class Confusion(Predictor):
    """Confuse length classes as the BERT proxy of uServe does, and predict the mean length of the predicted class.

    Classes are parted at percentiles of the trace (p50 and p99; with five, p25, p50, p75 and p99); a length at a cut
    belongs to the lower class. The mean is that of the true lengths of all requests for which the class is predicted.

    Attributes:
        classes: 3, about 80 % of which are right, or 5, of which 60 % are.
    """

    name = "confusion"
    source = "James-QiuHaoran/LLM-serving-with-proxy-models (uServe, ATC'24), released predictions"

    def __init__(self, *, classes: Classes = 3) -> None:
        self.classes = one_of("classes", classes, get_args(Classes))

    def predict(self, prompt_tokens: IntArray, output_tokens: IntArray, uniform: FloatArray) -> IntArray:  # noqa: ARG002
        """Return predicted output tokens; see `Predictor.predict`."""
        return _confused(output_tokens, uniform, _TABLES[self.classes].percentiles, self._matrix())

    def _matrix(self) -> FloatArray:
        matrix = np.array(_TABLES[self.classes].matrix)
        rows: FloatArray = matrix / matrix.sum(axis=1, keepdims=True)
        return rows


class Bucket(Confusion):
    """Predict the right length class with a given probability, else another in the proportions of `Confusion`.

    Attributes:
        accuracy: probability of the right class.
        classes: 3 or 5.
    """

    name = "bucket"
    source = "Chameleon (MICRO'25, arXiv 2411.17741), Figure 19"

    def __init__(self, *, accuracy: float = 0.8, classes: Classes = 3) -> None:
        super().__init__(classes=classes)
        self.accuracy = at_least("accuracy", accuracy, 0)
        if accuracy > 1:
            msg = f"accuracy must be at most 1, got {accuracy!r}"
            raise ValueError(msg)

    def _matrix(self) -> FloatArray:
        matrix = super()._matrix()
        np.fill_diagonal(matrix, 0.0)
        matrix *= (1 - self.accuracy) / matrix.sum(axis=1, keepdims=True)
        np.fill_diagonal(matrix, self.accuracy)
        return matrix


class Lognormal(Predictor):
    """Predict the true length times exp(sigma z), z standard normal: right in the median.

    Attributes:
        sigma: standard deviation of the logarithm; 0.45 puts about 80 % into the right one of three classes.
    """

    name = "lognormal"
    source = "multiplicative error, no paper"

    def __init__(self, *, sigma: float = 0.45) -> None:
        self.sigma = at_least("sigma", sigma, 0)

    def predict(self, prompt_tokens: IntArray, output_tokens: IntArray, uniform: FloatArray) -> IntArray:  # noqa: ARG002
        """Return predicted output tokens; see `Predictor.predict`."""
        inside = np.clip(uniform, 2.0**-54, 1 - 2.0**-53)  # the quantile of 0 is infinite
        z: FloatArray = np.fromiter(map(NormalDist().inv_cdf, inside.tolist()), np.float64, len(inside))
        return _whole(output_tokens.astype(np.float64) * np.exp(self.sigma * z))


class Constant(Predictor):
    """Predict the same length for every request.

    Attributes:
        tokens: that length; None for the mean of the trace.
    """

    name = "constant"
    source = "no knowledge of the request"

    def __init__(self, *, tokens: int | None = None) -> None:
        self.tokens = None if tokens is None else at_least("tokens", tokens, 1)

    def predict(self, prompt_tokens: IntArray, output_tokens: IntArray, uniform: FloatArray) -> IntArray:  # noqa: ARG002
        """Return predicted output tokens; see `Predictor.predict`."""
        if not len(output_tokens):
            return output_tokens
        tokens = output_tokens.mean() if self.tokens is None else self.tokens
        return _whole(np.full(len(output_tokens), tokens, dtype=np.float64))


def _confused(
    output_tokens: IntArray, uniform: FloatArray, percentiles: tuple[float, ...], matrix: FloatArray
) -> IntArray:
    """Draw a class from the row of the true class by the inverse of its distribution; return the classes' means."""
    if not len(output_tokens):
        return output_tokens
    true = np.searchsorted(np.percentile(output_tokens, percentiles), output_tokens)
    bounds = np.cumsum(matrix, axis=1)[:, :-1]
    predicted = (uniform[:, np.newaxis] >= bounds[true]).sum(axis=1)
    count = np.bincount(predicted, minlength=len(matrix))
    total = np.bincount(predicted, weights=output_tokens, minlength=len(matrix))
    return _whole((total / np.maximum(count, 1))[predicted])


def _whole(tokens: FloatArray) -> IntArray:
    whole: IntArray = np.maximum(np.rint(tokens), 1).astype(np.int64)
    return whole
