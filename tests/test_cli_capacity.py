"""`chameleon capacity`: its table, its file, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sim.experiments import capacity_study
from tests.commands import azure_file, chameleon

COARSE = ("capacity", "-n", "150", "--reps", "2", "--precision", "0.2", "-j", "1")
TRACE = Path(__file__).resolve().parents[1] / "traces" / "paper-300.csv"


def test_a_row_for_each_system_has_its_rate_its_ratio_and_its_seeds() -> None:
    said = chameleon(*COARSE, "-s", "slora", "-s", "chameleon", "--set", "memory.kv_pool_tokens=6000")
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    assert lines[0] == "workload paper, lengths / 7; 150 requests per run; 2 paired seeds; llama-7b on a simulated a40"
    assert lines[1].startswith("P99 TTFT <= 5 s; highest rate on a grid of 20 %")
    assert lines[2].split("  ")[0] == "system"
    assert "x slora" in lines[2]
    assert [line.split()[0] for line in lines[4:]] == ["slora", "chameleon"]


def test_json_holds_every_load_that_was_tried_and_is_what_is_written(tmp_path: Path) -> None:
    said = chameleon(*COARSE, "--slo-ttft-s", "1", "--attainment", "0.9", "--json", "--out", tmp_path / "c.json")
    told = json.loads(said.out)
    assert told == json.loads((tmp_path / "c.json").read_text())
    assert told["complete"]
    assert (told["objective"]["text"], told["unit"]) == ("TTFT <= 1 s for 90 % of requests", "requests/s")
    (system,) = told["systems"]
    assert [one["seed"] for one in system["seeds"]] == [0, 1]
    for seed in system["seeds"]:
        met = [one["rate_per_s"] for one in seed["probes"] if one["is_met"]]
        missed = [one["rate_per_s"] for one in seed["probes"] if not one["is_met"]]
        assert max(met) == seed["value"] < min(missed)
        assert all((one["attainment"] >= 0.9) == one["is_met"] for one in seed["probes"])


def test_a_second_start_with_more_seeds_searches_only_those(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = chameleon(*COARSE, "--json", "--out", tmp_path / "c.json")
    seeds = []
    search = capacity_study.search

    def counted(question: capacity_study.Question, key: str) -> capacity_study.Answer:
        seeds.append(question.loaded.config.seed)
        return search(question, key)

    monkeypatch.setattr(capacity_study, "search", counted)
    second = chameleon(*COARSE, "--reps", "3", "--json", "--out", tmp_path / "c.json")
    assert seeds == [2]
    assert "2 of 3 searches are read from" in second.err
    kept = json.loads(second.out)["systems"][0]["seeds"][:2]
    assert kept == json.loads(first.out)["systems"][0]["seeds"]


def test_an_interrupted_study_keeps_the_searches_that_are_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = capacity_study.search

    def interrupted(question: capacity_study.Question, key: str) -> capacity_study.Answer:
        if question.loaded.config.seed == 1:
            raise KeyboardInterrupt
        return search(question, key)

    monkeypatch.setattr(capacity_study, "search", interrupted)
    said = chameleon(*COARSE, "--out", tmp_path / "c.json")
    assert said.code == 130
    kept = json.loads((tmp_path / "c.json").read_text())
    assert not kept["complete"]
    assert [one["seed"] for one in kept["systems"][0]["seeds"]] == [0]


def test_an_interrupt_does_not_lose_what_an_earlier_start_has_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chameleon(*COARSE, "-s", "slora", "--reps", "3", "--out", tmp_path / "c.json")
    search = capacity_study.search
    asked: list[tuple[str, int]] = []

    def interrupted(question: capacity_study.Question, key: str) -> capacity_study.Answer:
        if asked:
            raise KeyboardInterrupt
        asked.append((question.loaded.config.name, question.loaded.config.seed))
        return search(question, key)

    monkeypatch.setattr(capacity_study, "search", interrupted)
    both = ("-s", "slora", "-s", "chameleon", "--reps", "3", "--out", tmp_path / "c.json")
    assert chameleon(*COARSE, *both).code == 130
    assert asked == [("chameleon", 0)]
    asked.clear()
    monkeypatch.setattr(capacity_study, "search", search)
    assert "4 of 6 searches are read from" in chameleon(*COARSE, *both).err


def test_replicas_for_a_rate_are_counted() -> None:
    one = chameleon(*COARSE, "--replicas-for", "2", "--json")
    many = chameleon(*COARSE, "--replicas-for", "60", "--p99-ttft-s", "0.5", "--json")
    values = [[seed["value"] for seed in json.loads(said.out)["systems"][0]["seeds"]] for said in (one, many)]
    assert values[0] == [1, 1]
    assert min(values[1]) > 1


def test_a_trace_file_is_played_at_every_rate() -> None:
    said = chameleon(*COARSE[:1], "--reps", "1", "--precision", "0.5", "-j", "1", "--trace", TRACE, "--json")
    rates = {one["rate_per_s"] for one in json.loads(said.out)["systems"][0]["seeds"][0]["probes"]}
    assert len(rates) > 3


def test_the_stretch_of_a_file_that_is_searched_with_is_told(tmp_path: Path) -> None:
    trace = azure_file(tmp_path / "two.csv", "46.0000000,374,44", "47.0000000,374,44")
    flags = ("capacity", "--trace", trace, "--reps", "1", "-j", "1", "--max-rate", "2", "--precision", "0.5")
    assert "note: the first 1 requests of the file at most" in chameleon(*flags, "--requests", "1").err
    assert "of the file at most" not in chameleon(*flags).err


def test_an_objective_that_cannot_be_met_is_told(tmp_path: Path) -> None:
    trace = azure_file(tmp_path / "one.csv", "46.0000000,374,44")
    said = chameleon("capacity", "--trace", trace, "--reps", "1", "-j", "1", "--p99-ttft-s", "0.0001")
    assert said.code == 0
    assert "< 0.01" in said.out
    assert "warning: chameleon: even 0.01 requests/s is too much" in said.err


def test_what_an_answer_rests_on_is_told_and_kept(tmp_path: Path) -> None:
    out = tmp_path / "capacity.json"
    odd = ("--hardware", "a100-80", "--set", "adapters.reserved_bytes=5", "--out", out)
    told = [chameleon(*COARSE, "--p99-ttft-s", "1", *odd).err for _ in range(2)]  # the second reads the file
    for said in told:
        assert "cost coefficients of a100-80: dense fitted" in said
        assert said.count("warning: host times are x 2.997") == 1
        assert "warning: adapters.reserved_bytes has no effect with adapters.memory" in said


def test_a_queue_that_grows_at_the_answer_is_warned_of() -> None:
    said = chameleon(*COARSE, "--p99-ttft-s", "500", "--max-rate", "100")
    assert "which then depends on how long the run is" in said.err


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--slo-ttft-s", "1", "--p99-tpot-s", "2"], "either the tails are bounded"),
        (["--attainment", "0.9", "--p99-ttft-s", "2"], "either the tails are bounded"),
        (["--attainment", "95"], "'95' is not allowed; a share above 0 and at most 1 is"),
        (["--min-rate", "5", "--max-rate", "5"], "--min-rate 5 must be below --max-rate 5"),
        (["--max-rate", "inf"], "both finite"),
        (["--precision", "0.9"], "at most 0.5 is allowed"),
        (["-s", "chamelion"], "did you mean 'chameleon'?"),
        (["-s", "slora", "-s", "slora"], "different names, got slora, slora"),
        (["--set", "chache.kind=lru"], "did you mean 'cache'?"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_simulated(
    flags: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity_study, "probe", lambda *_: pytest.fail("simulated in vain"))
    said = chameleon("capacity", *flags)
    assert said.code == 2
    assert told in said.err
    assert said.out == ""


def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"mine": 1}')
    said = chameleon(*COARSE, "--out", tmp_path / "mine.json")
    assert said.code == 2
    assert "is left alone" in said.err
    assert (tmp_path / "mine.json").read_text() == '{"mine": 1}'


def test_a_closed_loop_has_no_capacity_in_requests_a_second() -> None:
    said = chameleon(*COARSE, "-s", "slora", "--set", "client.max_concurrency=4")
    assert said.code == 2
    assert "with client.max_concurrency requests come no faster than they leave" in said.err


def test_answers_of_more_seeds_are_kept_for_whoever_asks_again(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    for reps in (2, 1, 2):
        said = chameleon(*COARSE, "--reps", str(reps), "-s", "slora", "--out", file)
        assert said.code == 0
    assert "2 of 2 searches are read" in said.err


BURSTS = "arrival_s,input_tokens,output_tokens\n" + "".join(f"{10 * burst},400,50\n" * 8 for burst in range(5))


def test_a_search_over_a_file_says_that_its_stamps_are_not_used_unless_they_are_and_what_seeds_vary(
    tmp_path: Path,
) -> None:
    (tmp_path / "bursts.csv").write_text(BURSTS)
    given = ("-s", "slora", "--trace", tmp_path / "bursts.csv", "--set", "workload.adapters=0")
    search = ("capacity", *given, "--reps", "2", "-j", "1", "--precision", "0.5")
    drawn = chameleon(*search).err
    assert "note: arrivals are drawn (poisson), not those of the file" in drawn
    assert "note: seeds of a trace file vary only" in drawn
    assert "arrivals are drawn" not in chameleon(*search, "--set", "workload.arrivals=trace").err
