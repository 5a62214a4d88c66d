"""Drawn lengths against the quantiles of the data they were fitted to, and what is declared to be done to lengths.

Quantiles: computed from the Azure LLM Inference Dataset 2023 (github.com/Azure/AzurePublicDataset, CC-BY-4.0) and the
Mooncake conversation trace (github.com/kvcache-ai/Mooncake, Apache-2.0).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import ValidationError

from sim.trace import Trace
from sim.workload.lengths import FixedLengths, LognormalLengths, MixtureLengths, UniformLengths
from sim.workload.shorten import fitted

DRAWS = 50_000
Q = (0, 1, 5, 10, 25, 40, 50, 60, 75, 90, 95, 99, 100)
QUANTILES = {
    ("conv", 0): (2, 29, 181, 207, 396, 703, 1020, 1071, 1189, 2734, 4083, 4142, 14050),
    ("conv", 1): (7, 16, 41, 54, 85, 103, 129, 177, 395, 424, 451, 601, 1000),
    ("code", 0): (3, 17, 75, 147, 578, 1075, 1469, 1909, 2744, 5187, 7303, 7436, 7437),
    ("code", 1): (6, 6, 6, 7, 9, 11, 13, 16, 24, 55, 90, 251, 1899),
    ("mooncake", 0): (891, 894, 901, 964, 2306, 4993, 6909, 9570, 15367, 27367, 39550, 85400, 126195),
    ("mooncake", 1): (1, 3, 10, 24, 156, 291, 350, 399, 472, 597, 698, 1118, 2000),
}
Family = Literal["conv", "code", "mooncake"]


def drawn(family: Family) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    return MixtureLengths(family=family).draw(DRAWS, np.random.default_rng(5))


@pytest.mark.parametrize(("family", "column"), QUANTILES)
def test_a_mixture_follows_the_quantiles_of_its_data(family: Family, column: int) -> None:
    tokens = drawn(family)[column]
    # where the table has ties only the last of equal values is on the curve
    table = dict(zip(QUANTILES[family, column], Q, strict=True))
    gaps = [abs((tokens <= value).mean() - q / 100) for value, q in table.items()]
    assert max(gaps) < 0.04


@pytest.mark.parametrize(
    ("family", "means", "medians", "tolerances"),
    [
        ("conv", (1154.7, 211.1), (1020, 129), (0.03, 0.06)),
        ("code", (2047.8, 27.9), (1469, 13), (0.05, 0.06)),
        ("mooncake", (12035, 342.6), (6909, 350), (0.05, 0.06)),
    ],
)
def test_a_mixture_has_the_mean_and_median_of_its_data(
    family: Family, means: tuple[float, float], medians: tuple[float, float], tolerances: tuple[float, float]
) -> None:
    columns = drawn(family)
    assert [column.mean() for column in columns] == pytest.approx(means, rel=tolerances[0])
    assert [np.median(column) for column in columns] == pytest.approx(medians, rel=tolerances[1])


def test_outputs_of_conversations_depend_on_the_input_as_in_the_data() -> None:
    prompt, output = drawn("conv")
    edges = [0, 256, 1024, 2048, 4096]
    medians = [np.median(output[(prompt > low) & (prompt <= high)]) for low, high in pairwise(edges)]
    assert medians == pytest.approx([153, 99, 396, 68], rel=0.15)


def test_among_inputs_of_about_400_tokens_longer_ones_have_longer_outputs_as_in_the_data() -> None:
    prompt, output = drawn("conv")
    about_400 = (prompt >= 360) & (prompt <= 440)
    logs = np.log(prompt[about_400]), np.log(output[about_400])
    assert np.corrcoef(*logs)[0, 1] == pytest.approx(0.417, abs=0.1)


@pytest.mark.parametrize(
    ("family", "most"), [("conv", (14050, 1000)), ("code", (7437, 1899)), ("mooncake", (126195, 2000))]
)
def test_a_mixture_stays_within_the_range_of_its_data(family: Family, most: tuple[int, int]) -> None:
    for column, limit in zip(drawn(family), most, strict=True):
        assert column.min() >= 1
        assert column.max() <= limit


@pytest.mark.parametrize("lengths", [MixtureLengths(), UniformLengths()])
def test_more_requests_leave_the_first_ones_as_they_were(lengths: MixtureLengths | UniformLengths) -> None:
    few = lengths.draw(10, np.random.default_rng(1))
    many = lengths.draw(20, np.random.default_rng(1))
    assert [column.tolist() for column in few] == [column[:10].tolist() for column in many]


def test_uniform_lengths_reach_every_value_below_the_upper_bound() -> None:
    lengths = UniformLengths(input_low_tokens=3, input_high_tokens=6, output_low_tokens=250, output_high_tokens=251)
    prompt, output = lengths.draw(20_000, np.random.default_rng(0))
    assert np.bincount(prompt)[3:].tolist() == pytest.approx([20_000 / 3] * 3, rel=0.05)
    assert set(output.tolist()) == {250}


def test_an_empty_range_of_lengths_is_refused() -> None:
    with pytest.raises(ValidationError, match="output_low_tokens is 9; less than output_high_tokens, 9, is allowed"):
        UniformLengths(output_low_tokens=9, output_high_tokens=9)


def world(*pairs: tuple[int, int]) -> Trace:
    prompt, output = np.array(pairs).T
    return Trace(
        "world", np.arange(len(pairs), dtype=np.float64), prompt, output, (None,), np.zeros(len(pairs), dtype=np.int64)
    )


def pairs_of(trace: Trace) -> list[tuple[int, int]]:
    return list(zip(trace.prompt_tokens.tolist(), trace.output_tokens.tolist(), strict=True))


def test_scaled_lengths_are_rounded_and_at_least_one() -> None:
    trace = fitted(world((70, 11), (3, 700), (1, 1)), 7, None, None)
    assert pairs_of(trace) == [(10, 2), (1, 100), (1, 1)]
    assert trace.notes == (("lengths divided by 7", 3), ("rows with a length clamped to 1 after that", 2))


def test_rows_that_are_too_long_after_scaling_are_dropped_with_their_stamps() -> None:
    trace = fitted(world((100, 100), (400, 10), (50, 50)), 2, 100, None)
    assert pairs_of(trace) == [(50, 50), (25, 25)]
    assert trace.arrival_s.tolist() == [0.0, 2.0]
    assert trace.notes[-1] == ("rows over 100 tokens dropped", 1)


def test_dropping_every_row_is_refused() -> None:
    with pytest.raises(ValueError, match="drop_over_tokens is 5, and no request is that short"):
        fitted(world((100, 100)), 1, 5, None)


def test_truncating_cuts_the_input_first_and_leaves_it_one_token() -> None:
    trace = fitted(world((90, 20), (10, 500), (60, 40)), 1, None, 100)
    assert pairs_of(trace) == [(80, 20), (1, 99), (60, 40)]
    assert trace.notes == (("rows truncated to 100 tokens", 2),)


def test_a_declared_option_is_noted_even_where_it_touches_no_row() -> None:
    assert fitted(world((1, 1)), 1, 10, 10).notes == (
        ("rows over 10 tokens dropped", 0),
        ("rows truncated to 10 tokens", 0),
    )


LMSYS = LognormalLengths(  # its printed statistics: P90 of the input is 1678
    input_mean_tokens=786, input_median_tokens=417, output_mean_tokens=215, output_sigma=0.8
)


def test_two_of_mean_median_and_sigma_tell_the_third() -> None:
    prompt, output = LMSYS.draw(200_000, np.random.default_rng(1))
    assert np.median(prompt) == pytest.approx(417, rel=0.02)
    assert prompt.mean() == pytest.approx(786, rel=0.03)
    assert np.percentile(prompt, 90) == pytest.approx(1678, rel=0.07)
    assert output.mean() == pytest.approx(215, rel=0.02)
    assert np.log(output).std() == pytest.approx(0.8, rel=0.02)
    given = LognormalLengths(input_median_tokens=100, input_sigma=0.0, output_mean_tokens=50, output_median_tokens=50)
    assert [column.tolist() for column in given.draw(2, np.random.default_rng(1))] == [[100, 100], [50, 50]]


def test_lognormal_lengths_are_independent_of_one_another_and_clipped() -> None:
    long = LMSYS.model_copy(update={"max_input_tokens": 900, "max_output_tokens": 300})
    prompt, output = long.draw(50_000, np.random.default_rng(1))
    assert (prompt.max(), output.max()) == (900, 300)
    assert min(prompt.min(), output.min()) >= 1
    assert abs(np.corrcoef(prompt, output)[0, 1]) < 0.02


def test_more_lognormal_requests_leave_the_first_as_they_were() -> None:
    few, many = (LMSYS.draw(count, np.random.default_rng(1)) for count in (10, 1000))
    assert few[0].tolist() == many[0][:10].tolist()
    assert few[1].tolist() == many[1][:10].tolist()


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({}, "of input_mean_tokens, input_median_tokens and input_sigma, two are needed"),
        ({"input_mean_tokens": 9.0}, "two are needed"),
        ({"input_mean_tokens": 9.0, "input_median_tokens": 9.0, "input_sigma": 1.0}, "two are needed"),
        ({"input_mean_tokens": 9.0, "input_median_tokens": 10.0}, "at least the median, 10, is allowed"),
        ({"input_mean_tokens": 9.0, "input_sigma": 1.0, "output_sigma": 1.0}, "of output_mean_tokens"),
    ],
)
def test_lognormal_lengths_need_two_numbers_that_agree(given: dict[str, float], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        LognormalLengths.model_validate(given)


def test_fixed_lengths_are_alike() -> None:
    prompt, output = FixedLengths(input_tokens=7, output_tokens=3).draw(4, np.random.default_rng(1))
    assert (prompt.tolist(), output.tolist()) == ([7] * 4, [3] * 4)
