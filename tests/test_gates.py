"""The regression gate: what a rule says, when it fails, and that doubt is no failure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from sim.experiments.comparison import Side
from sim.experiments.gates import METRICS, Gate, judge, parse_gate
from sim.results.rundir import RunData
from tests.commands import chameleon

CLEAR = [100.0, 120.0, 140.0]


class FakeRun:
    """A run with one number, P99 TTFT."""

    def __init__(self, p99_ms: float | None) -> None:
        self.summary: dict[str, Any] = {"metrics": {"ttft_ms": {"p99": p99_ms}}}


def side(label: str, values: Sequence[float | None]) -> Side:
    return Side(label, {seed: cast("RunData", FakeRun(value)) for seed, value in enumerate(values)})


def outcome(rule: str, first: Sequence[float | None], other: Sequence[float | None]) -> str:
    (verdict,) = judge([parse_gate(rule)], [side("a", first), side("b", other)], range(len(first)))
    return verdict.outcome


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("p99_ttft_ms > +5%", Gate("p99_ttft_ms > +5%", "p99_ttft_ms", ">", 0.05, "relative")),
        ("p99_ttft_ms>+5%", Gate("p99_ttft_ms>+5%", "p99_ttft_ms", ">", 0.05, "relative")),
        ("hit_rate < -0.02", Gate("hit_rate < -0.02", "hit_rate", "<", -0.02, "absolute")),
        ("p99.9_itl_ms > 0", Gate("p99.9_itl_ms > 0", "p99.9_itl_ms", ">", 0.0, "absolute")),
        (" mean_e2el_ms > +.5 ", Gate(" mean_e2el_ms > +.5 ", "mean_e2el_ms", ">", 0.5, "absolute")),
    ],
)
def test_a_rule_is_a_metric_a_side_and_a_bound(text: str, expected: Gate) -> None:
    assert parse_gate(text) == expected


@pytest.mark.parametrize("text", ["", "p99_ttft_ms", "p99_ttft_ms + 5", "p99_ttft_ms > five", "> +5%", "a > +5 % b"])
def test_what_is_no_rule_is_refused_with_all_metrics(text: str) -> None:
    with pytest.raises(ValueError, match="cannot be read") as caught:
        parse_gate(text)
    assert [name for name in METRICS if name not in str(caught.value)] == []


def test_an_unknown_metric_is_answered_with_the_close_one_and_all_others() -> None:
    with pytest.raises(ValueError, match="did you mean 'p99_ttft_ms'") as caught:
        parse_gate("p99_tfft_ms > +5%")
    assert [name for name in METRICS if name not in str(caught.value)] == []


def test_a_bound_without_a_sign_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs a sign: hit_rate < \+0.05 or -0.05"):
        parse_gate("hit_rate < 0.05")


def test_a_rise_beyond_the_bound_in_every_seed_fails() -> None:
    assert outcome("p99_ttft_ms > +5%", CLEAR, [1.1 * one for one in CLEAR]) == "fails"


def test_a_rise_below_the_bound_holds() -> None:
    assert outcome("p99_ttft_ms > +15%", CLEAR, [1.1 * one for one in CLEAR]) == "holds"


def test_a_fall_is_no_rise() -> None:
    assert outcome("p99_ttft_ms > +5%", CLEAR, [0.5 * one for one in CLEAR]) == "holds"


def test_a_fall_beyond_the_bound_fails_the_other_way_round() -> None:
    assert outcome("p99_ttft_ms < -20%", CLEAR, [0.5 * one for one in CLEAR]) == "fails"


def test_a_rise_that_may_be_noise_holds_and_says_so() -> None:
    first, other = side("a", CLEAR), side("b", [101.0, 160.0, 141.0])
    (verdict,) = judge([parse_gate("p99_ttft_ms > +5%")], [first, other], range(3))
    assert verdict.outcome == "holds"
    assert "on average, but not with confidence" in str(verdict)


def test_noise_that_both_runs_share_hides_nothing() -> None:
    assert outcome("p99_ttft_ms > +5", [100.0, 1000.0, 5000.0], [110.0, 1010.0, 5010.0]) == "fails"


def test_the_edge_of_the_interval_decides_and_not_its_middle() -> None:
    first, other = [100.0] * 3, [109.0, 110.0, 111.0]  # mean +10, half width 2.484
    assert outcome("p99_ttft_ms > +7.5", first, other) == "fails"
    assert outcome("p99_ttft_ms > +7.6", first, other) == "holds"
    assert outcome("p99_ttft_ms < +12.5", first, other) == "fails"
    assert outcome("p99_ttft_ms < +12.4", first, other) == "holds"


def test_no_change_does_not_exceed_zero() -> None:
    assert outcome("p99_ttft_ms > 0", CLEAR, CLEAR) == "holds"


def test_a_run_that_completed_nothing_fails() -> None:
    assert outcome("p99_ttft_ms > +5%", CLEAR, [100.0, None, 140.0]) == "fails"


def test_a_baseline_without_the_number_decides_nothing() -> None:
    with pytest.raises(ValueError, match="a has no such number"):
        outcome("p99_ttft_ms > +5%", [None, 1.0], CLEAR[:2])


def test_one_seed_decides_nothing() -> None:
    with pytest.raises(ValueError, match="needs two shared seeds or more"):
        outcome("p99_ttft_ms > +5%", [100.0], [200.0])


def test_a_change_in_per_cent_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="without %"):
        outcome("p99_ttft_ms > +5%", [0.0, 1.0], [1.0, 1.0])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for name, rate in (("fast", "6"), ("slow", "9")):
        chameleon("run", "--requests", "150", "--reps", "3", "--rate", rate, "--out", folder / name)
    return folder


def test_every_metric_is_in_a_summary(runs: Path) -> None:
    summary = json.loads((runs / "fast" / "seed-0" / "summary.json").read_text())
    bench = json.loads((runs / "fast" / "seed-0" / "vllm_bench.json").read_text())
    flat = bench | bench["sim"]["lora"]
    for name, path in METRICS.items():
        value: Any = summary
        for key in path:
            value = value[key]
        assert value == flat[name], name


def test_the_command_leaves_with_1_where_a_rule_fails_and_shows_the_table_all_the_same(runs: Path) -> None:
    said = chameleon("compare", runs / "fast", runs / "slow", "--fail-if", "mean_ttft_ms > +5%")
    assert said.code == 1
    assert said.out.splitlines()[-1].startswith(f"FAILS: mean_ttft_ms > +5%: {runs / 'slow'}: +")
    assert "P99 TTFT (ms)" in said.out


def test_the_command_leaves_with_0_where_all_rules_hold(runs: Path) -> None:
    rules = ("--fail-if", "mean_ttft_ms > +900%", "--fail-if", "completed < 0")
    said = chameleon("compare", runs / "fast", runs / "slow", *rules)
    assert said.code == 0
    assert [line.split(":")[0] for line in said.out.splitlines()[-2:]] == ["HOLDS", "HOLDS"]


def test_json_holds_the_rules(runs: Path) -> None:
    said = chameleon("compare", runs / "fast", runs / "slow", "--fail-if", "mean_ttft_ms > +5%", "--json")
    (rule,) = json.loads(said.out)["rules"]
    assert (rule["metric"], rule["bound"], rule["outcome"]) == ("mean_ttft_ms", 0.05, "fails")
    assert rule["change"]["low"] > 0.05


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--fail-if", "p99_tfft_ms > +5%"], "did you mean 'p99_ttft_ms'"),
        (["--fail-if", "much slower"], "cannot be read"),
    ],
)
def test_a_wrong_rule_is_refused_with_2(flags: list[str], told: str, runs: Path) -> None:
    said = chameleon("compare", runs / "fast", runs / "slow", *flags)
    assert (said.code, said.out) == (2, "")
    assert told in said.err


def test_a_rule_needs_a_second_run(runs: Path) -> None:
    said = chameleon("compare", runs / "fast", "--fail-if", "p99_ttft_ms > +5%")
    assert said.code == 2
    assert "give one more" in said.err
