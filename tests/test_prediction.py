"""Predicted output lengths and how wrong they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.base import FloatArray, IntArray, Predictor
from policies.prediction import Bucket, Confusion, Constant, Lognormal, Oracle

N = 50_000
OUTPUT = np.rint(np.random.default_rng(1).lognormal(5.0, 1.0, N)).astype(np.int64) + 1
UNIFORM = np.random.default_rng(2).random(N)


def predict(predictor: Predictor, output: IntArray = OUTPUT, uniform: FloatArray = UNIFORM) -> IntArray:
    return predictor.predict(np.full(len(output), 7, dtype=np.int64), output, uniform)


def classes(predicted: IntArray) -> IntArray:
    """Return the predicted class of each request, by the rank of the value that stands for it."""
    return np.searchsorted(np.unique(predicted), predicted)


def true_classes(*percentiles: float) -> IntArray:
    return np.searchsorted(np.percentile(OUTPUT, percentiles), OUTPUT)


def test_the_oracle_is_right() -> None:
    assert predict(Oracle()).tolist() == OUTPUT.tolist()


def test_three_classes_are_confused_as_published() -> None:
    predicted, true = classes(predict(Confusion())), true_classes(50, 99)
    shares = [[float((predicted[true == row] == column).mean()) for column in range(3)] for row in range(3)]
    published = [[0.832, 0.163, 0.005], [0.167, 0.793, 0.041], [0.078, 0.700, 0.222]]
    assert np.abs(np.subtract(shares, published)).max() < 0.05
    assert np.abs(np.subtract(shares, published)[:2]).max() < 0.01
    assert (predicted == true).mean() == pytest.approx(0.8066, abs=0.01)


def test_five_classes_are_right_in_sixty_per_cent() -> None:
    predicted, true = classes(predict(Confusion(classes=5))), true_classes(25, 50, 75, 99)
    assert (predicted == true).mean() == pytest.approx(0.60, abs=0.01)
    assert (np.abs(predicted - true) <= 1).mean() == pytest.approx(0.931, abs=0.01)


def test_a_class_is_predicted_as_the_mean_length_of_those_put_into_it() -> None:
    predicted = predict(Confusion())
    for value in np.unique(predicted):
        assert value == round(OUTPUT[predicted == value].mean())


def test_the_uniform_number_picks_the_class_by_the_inverse_of_its_distribution() -> None:
    output = np.array([10, 10, 10, 10, 90], dtype=np.int64)  # 10 is the median, and at a cut belongs below it
    uniform = np.array([0.0, 0.831, 0.833, 0.996, 0.0])
    assert predict(Confusion(), output, uniform).tolist() == [37, 37, 10, 10, 37]


def test_a_bucket_is_right_as_often_as_it_is_told() -> None:
    for accuracy in (0.6, 0.8):
        predicted = classes(predict(Bucket(accuracy=accuracy)))
        assert (predicted == true_classes(50, 99)).mean() == pytest.approx(accuracy, abs=0.01)


def test_a_perfect_bucket_knows_the_class_but_not_the_length() -> None:
    predicted = predict(Bucket(accuracy=1.0))
    assert classes(predicted).tolist() == true_classes(50, 99).tolist()
    assert len(np.unique(predicted)) == 3


def test_a_wrong_bucket_is_spread_as_the_confusion_is() -> None:
    true = true_classes(50, 99)
    predicted = classes(predict(Bucket(accuracy=0.5)))[true == 1]
    assert (predicted == 0).mean() / (predicted == 2).mean() == pytest.approx(0.167 / 0.041, rel=0.1)


def test_the_lognormal_error_has_its_sigma_and_is_right_in_the_median() -> None:
    error = np.log(predict(Lognormal(sigma=0.45), np.full(N, 10**6)) / 10**6)
    assert error.std() == pytest.approx(0.45, abs=0.01)
    assert np.median(error) == pytest.approx(0.0, abs=0.01)


def test_the_lognormal_error_rises_with_the_uniform_number_even_at_its_ends() -> None:
    uniform = np.array([0.0, 0.1, 0.5, 0.9, 1 - 2.0**-53])
    predicted = predict(Lognormal(), np.full(5, 1000), uniform).tolist()
    assert predicted == sorted(predicted)
    assert predicted[2] == 1000


def test_a_lognormal_without_spread_is_right() -> None:
    assert predict(Lognormal(sigma=0.0)).tolist() == OUTPUT.tolist()


def test_a_constant_is_the_mean_of_the_trace_unless_it_is_given() -> None:
    output = np.array([1, 2, 9], dtype=np.int64)
    assert predict(Constant(), output, UNIFORM[:3]).tolist() == [4, 4, 4]
    assert predict(Constant(tokens=7), output, UNIFORM[:3]).tolist() == [7, 7, 7]


PREDICTORS = [Oracle(), Confusion(), Confusion(classes=5), Bucket(), Bucket(accuracy=0.0), Lognormal(), Constant()]


@given(
    drawn=st.lists(st.tuples(st.integers(1, 5000), st.floats(0, 1, exclude_max=True)), max_size=20),
)
def test_every_prediction_is_a_whole_number_of_at_least_one_token(drawn: list[tuple[int, float]]) -> None:
    output = np.array([tokens for tokens, _ in drawn], dtype=np.int64)
    uniform = np.array([share for _, share in drawn], dtype=np.float64)
    for predictor in PREDICTORS:
        predicted = predict(predictor, output, uniform)
        assert predicted.dtype == np.int64
        assert predicted.shape == output.shape
        assert (predicted >= 1).all()


@pytest.mark.parametrize(
    ("cls", "keywords"),
    [
        (Confusion, {"classes": 4}),
        (Bucket, {"accuracy": 1.1}),
        (Bucket, {"accuracy": -0.1}),
        (Lognormal, {"sigma": -1.0}),
        (Constant, {"tokens": 0}),
    ],
)
def test_a_bad_keyword_is_named_with_what_is_allowed(cls: type[Predictor], keywords: dict[str, Any]) -> None:
    (name, value), *_ = keywords.items()
    with pytest.raises(ValueError, match=rf"{name} must be .*got {value!r}"):
        cls(**keywords)
