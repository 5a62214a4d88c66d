"""Capacity over seeds and systems: where searches begin, what is kept of them, and how systems are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sim.config import Loaded, load_config
from sim.experiments import capacity_study
from sim.experiments.capacity_file import as_json, read, write
from sim.experiments.capacity_study import Answer, Dial, Question, answers, lines, search
from sim.experiments.objective import Objective, Probe, at_rate, probe
from sim.experiments.replications import with_seed

SMALL = load_config("chameleon", (), {"workload": {"requests": 200}})
WITHIN = Objective(ttft_s=5.0)
RATES = Dial(0.1, 1000.0, 0.01)
KNEES = {"slora": 8.0, "chameleon": 12.0}  # requests/s of one replica, in the made-up world below


def made_up(loaded: Loaded, objective: Objective) -> Probe:
    """Carry what lies below the knee, which a seed shifts by a twentieth and which grows with the replicas."""
    config = loaded.config
    rate = config.workload.rate_per_s
    assert rate is not None
    knee = KNEES[config.name] * (1 + config.seed / 20) * config.replicas
    return Probe(rate, config.replicas, rate <= knee, 1.0, 1.0, 1.0, "stable")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> list[Probe]:
    asked: list[Probe] = []

    def counted(loaded: Loaded, objective: Objective) -> Probe:
        asked.append(made_up(loaded, objective))
        return asked[-1]

    monkeypatch.setattr(capacity_study, "probe", counted)
    return asked


def systems() -> list[Loaded]:
    return [load_config(name, (), {"workload": {"requests": 200}}) for name in KNEES]


def found(value: float, system: str = "slora", seed: int = 0, **given: Any) -> Answer:
    return Answer("key", system, seed, value, **{"end": "found", "queue": "stable", "probes": (), **given})


@pytest.mark.parametrize("start", [None, 0.5, 8.0, 500.0])
def test_the_answer_is_carried_and_one_step_more_is_not(start: float | None, world: list[Probe]) -> None:
    slora, _ = systems()
    answer = search(Question(slora, WITHIN, RATES, start))
    assert answer.value <= 8.0 < 1.01 * answer.value
    assert answer.end == "found"


def test_no_rate_is_tried_twice(world: list[Probe]) -> None:
    search(Question(SMALL, WITHIN, RATES))
    assert len({one.rate_per_s for one in world}) == len(world)


def test_the_first_seed_begins_at_the_workloads_own_rate(world: list[Probe]) -> None:
    search(Question(at_rate(SMALL, 3.0), WITHIN, RATES))
    assert world[0].rate_per_s == pytest.approx(3.0, rel=0.005)  # half a step of the dial


def test_rates_have_six_digits() -> None:
    assert RATES.value(100) == 0.270481  # 0.1 * 1.01^100 = 0.27048138...


def test_a_highest_rate_that_lies_on_the_grid_is_tried_whatever_logarithms_lose() -> None:
    dial = Dial(1.0, 1.331, 0.1)  # log(1.331) / log(1.1) = 2.999999999999999
    assert dial.value(dial.steps) == 1.331


def test_other_seeds_begin_at_the_first_seeds_answer_and_ask_less(world: list[Probe]) -> None:
    first, second = answers([SMALL], 2, WITHIN, RATES)
    assert second.probes[0].rate_per_s == first.value
    assert len(second.probes) < len(first.probes)


def test_the_answers_are_the_same_over_processes() -> None:
    small = Dial(1.0, 200.0, 0.3)
    alone, together = (
        sorted(answers([SMALL], 3, Objective(ttft_s=1.0), small, jobs=jobs), key=lambda one: one.seed)
        for jobs in (1, 2)
    )
    assert alone == together


def test_a_rate_outside_the_bounds_is_said_to_be_outside(world: list[Probe]) -> None:
    ends = [search(Question(SMALL, WITHIN, Dial(low, high, 0.01))).end for low, high in ((20, 50), (1, 5), (1, 50))]
    assert ends == ["below", "above", "found"]


@pytest.mark.parametrize(("rate", "needed"), [(1.0, 1), (12.0, 1), (12.1, 2), (100.0, 9)])
def test_replicas_are_the_fewest_that_carry_the_rate(rate: float, needed: int, world: list[Probe]) -> None:
    answer = search(Question(SMALL, WITHIN, Dial(1, 50, 0.01, rate)))
    assert (answer.value, answer.end, answer.queue) == (needed, "found", "stable")


def test_replicas_are_counted_from_one_fewer_than_the_first_seed_needed(world: list[Probe]) -> None:
    search(Question(SMALL, WITHIN, Dial(1, 50, 0.01, 100.0), 9))
    assert [one.replicas for one in world] == [8, 9]


def test_replicas_that_never_suffice_are_said_not_to(world: list[Probe]) -> None:
    answer = search(Question(SMALL, WITHIN, Dial(1, 4, 0.01, 1000.0)))
    assert (answer.value, answer.end, answer.queue) == (4, "above", None)


def test_systems_are_compared_seed_by_seed(world: list[Probe]) -> None:
    table = lines(list(answers(systems(), 3, WITHIN, Dial(0.1, 1000.0, 1e-4))), list(KNEES))
    assert table[0].ratio is None
    ratio = table[1].ratio
    assert ratio is not None
    assert ratio.low == pytest.approx(1.5, rel=1e-3)  # the spread between seeds is gone
    assert ratio.high == pytest.approx(1.5, rel=1e-3)
    value = table[1].value
    assert value is not None
    assert value.low is not None
    assert value.low < 12.6 < (value.high or 0.0)  # knees of 12, 12.6 and 13.2


def test_a_seed_whose_first_system_lies_outside_the_bounds_leaves_no_ratio() -> None:
    first = [found(8.0), found(0.1, seed=1, end="below", queue=None)]
    _, line = lines([*first, found(12.0, "chameleon"), found(13.0, "chameleon", 1)], list(KNEES))
    assert line.value is not None
    assert line.ratio is None


def test_answers_stand_in_order_of_their_seeds_however_they_came_in() -> None:
    (line,) = lines([found(9.0, seed=2), found(7.0), found(8.0, seed=1)], ["slora"])
    assert [one.value for one in line.answers] == [7.0, 8.0, 9.0]


def test_a_system_without_an_answer_has_no_line_yet() -> None:
    assert [line.system for line in lines([found(8.0)], list(KNEES))] == ["slora"]


def test_an_answer_outside_the_bounds_leaves_no_mean() -> None:
    (line,) = lines([found(8.0), found(0.1, seed=1, end="below", queue=None)], ["slora"])
    assert line.value is None
    assert line.queues == {"stable": 1}


def test_what_is_kept_is_not_searched_again(tmp_path: Path, world: list[Probe]) -> None:
    file = tmp_path / "capacity.json"
    first = list(answers(systems(), 2, WITHIN, RATES))
    write(file, as_json(lines(first, list(KNEES)), WITHIN, RATES, is_whole=True))
    world.clear()
    again = list(answers(systems(), 2, WITHIN, RATES, kept=read(file)))
    assert world == []
    assert again == first


@pytest.mark.parametrize(
    "other",
    [
        Question(SMALL, Objective(ttft_s=4.0), RATES),
        Question(SMALL, WITHIN, Dial(0.1, 1000.0, 0.02)),
        Question(with_seed(SMALL, 1), WITHIN, RATES),
        Question(load_config("chameleon", ["cache.kind=lru"], {"workload": {"requests": 200}}), WITHIN, RATES),
        Question(SMALL, WITHIN, RATES, 3.0),
    ],
)
def test_another_search_has_another_key(other: Question) -> None:
    assert other.key != Question(SMALL, WITHIN, RATES).key


def test_another_source_has_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    key = Question(SMALL, WITHIN, RATES).key
    monkeypatch.setattr(capacity_study, "source_sha256", lambda: "edited")
    assert Question(SMALL, WITHIN, RATES).key != key


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"systems": [{"seeds": [{"key": 1}]}]}'])
def test_a_file_that_is_something_else_is_left_alone(text: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"mine\.json is no result of `chameleon capacity`"):
        read(file)


def test_a_file_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert read(tmp_path / "none.json") == {}


def test_a_share_within_bounds_counts_all_offered_requests() -> None:
    too_long = load_config("chameleon", ["memory.kv_pool_tokens=400"], {"workload": {"requests": 200, "rate_per_s": 1}})
    strict, lax = (probe(too_long, Objective(5.0, None, share)) for share in (1.0, 0.05))
    assert 0.05 < strict.attainment < 1  # what is rejected misses its objective
    assert (strict.is_met, lax.is_met) == (False, True)


def test_a_bound_on_the_pace_of_tokens_is_one_more_bound() -> None:
    calm = at_rate(SMALL, 2.0)
    told = probe(calm, Objective(5.0, 10.0))
    assert told.is_met
    assert told.p99_tpot_ms is not None
    tight = told.p99_tpot_ms / 1e3 * 0.99
    assert not probe(calm, Objective(5.0, tight)).is_met
    assert probe(calm, Objective(5.0, tight, 0.5)).is_met


def test_objectives_read_as_sentences() -> None:
    assert str(Objective(2.0, 0.1)) == "P99 TTFT <= 2 s and P99 TPOT <= 0.1 s"
    assert str(Objective(2.0, None, 0.95)) == "TTFT <= 2 s for 95 % of requests"
