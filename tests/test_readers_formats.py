"""Formats beside the first four: one small file by hand for each, its unit, its traps, and what it lacks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from sim.readers.reading import FORMATS, TraceError, describe, read_trace
from sim.trace import AdapterSpec, Trace
from sim.workload.config import TraceFormat
from sim.workload.making import WorkloadConfig, make_trace


def put(folder: Path, text: str, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def lines_of(*objects: Mapping[str, object]) -> str:
    return "".join(json.dumps(each) + "\n" for each in objects)


def put_lines(folder: Path, *objects: Mapping[str, object]) -> Path:
    return put(folder, lines_of(*objects), "t.jsonl")


def problem(path: Path, **options: object) -> str:
    with pytest.raises(TraceError) as caught:
        read_trace(path, **options)  # type: ignore[arg-type]
    return caught.value.problems[0]


def rows(trace: Trace) -> list[tuple[float, int, int]]:
    columns = (trace.arrival_s, trace.prompt_tokens, trace.output_tokens)
    return list(zip(*(column.tolist() for column in columns), strict=True))


TWO_ROWS = [(0.0, 10, 20), (1.5, 30, 40)]


def csv_of(names: str, *cells: str) -> str:
    return "\n".join([names, *cells]) + "\n"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (
            "burstgpt",
            csv_of(
                "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
                "5,ChatGPT,10,20,30,API log",
                "6.5,GPT-4,30,40,70,API log",
            ),
        ),
        (
            "burstgpt",
            csv_of(
                "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type",
                "5,s1,3,ChatGPT,10,20,30,API log",
                "6.5,s2,4,GPT-4,30,40,70,API log",
            ),
        ),
        (
            "splitwise-sim",
            csv_of(
                "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size",
                "0,2,0,0.0,1,10,20",
                "1,2,0,1.5,1,30,40",
            ),
        ),
        ("slora", csv_of("req_id,req_time,adapter_dir,input_len,output_len", "0,0.0,a,10,20", "1,1.5,b,30,40")),
        ("slora", csv_of("req_id,req_time,adapter_id,input_len,output_len", "0,0.0,a,10,20", "1,1.5,b,30,40")),
        (
            "llmservingsim",
            lines_of(
                {"input_toks": 10, "output_toks": 20, "arrival_time_ns": 0},
                {"input_toks": 30, "output_toks": 40, "arrival_time_ns": 1500000000},
            ),
        ),
        (
            "bailian",
            lines_of(
                {"chat_id": 1, "timestamp": 3.0, "input_length": 10, "output_length": 20, "turn": 1, "hash_ids": [1]},
                {"chat_id": 2, "timestamp": 4.5, "input_length": 30, "output_length": 40, "turn": 2, "hash_ids": [1]},
            ),
        ),
    ],
    ids=["burstgpt 1", "burstgpt 3", "splitwise-sim", "slora dir", "slora id", "llmservingsim", "bailian"],
)
def test_a_format_is_recognised_by_its_columns_and_has_its_unit(kind: str, text: str, tmp_path: Path) -> None:
    path = put(tmp_path, text)
    assert rows(read_trace(path)) == TWO_ROWS
    assert rows(read_trace(path, format=kind)) == TWO_ROWS


@pytest.mark.parametrize(("kind", "unit_per_s"), [("guidellm", 1), ("aiperf", 1000)])
def test_a_format_with_mooncakes_names_must_be_named_and_has_its_own_unit(
    kind: str, unit_per_s: int, tmp_path: Path
) -> None:
    lengths = ({"input_length": 10, "output_length": 20}, {"input_length": 30, "output_length": 40})
    stamped = [{"timestamp": at * unit_per_s, **each} for at, each in zip((2, 3.5), lengths, strict=True)]
    path = put_lines(tmp_path, *stamped)
    assert rows(read_trace(path, format=kind)) == TWO_ROWS
    assert "formats that must be named are guidellm, aiperf" in problem(path)


def test_every_format_can_be_named_in_a_workload() -> None:
    assert TraceFormat.__args__ == (*FORMATS, "servegen", "gentd26")  # type: ignore[attr-defined]


def test_zero_responses_of_burstgpt_are_failures(tmp_path: Path) -> None:
    path = put(tmp_path, csv_of("Timestamp,Model,Request tokens,Response tokens", "0,GPT-4,10,0", "1,GPT-4,10,1"))
    assert ("rows with zero output tokens dropped", 1) in read_trace(path).notes


def test_a_column_can_be_taken_for_adapters_with_ranks_dealt_in_order_of_first_use(tmp_path: Path) -> None:
    names = "Timestamp,Model,Request tokens,Response tokens"
    path = put(tmp_path, csv_of(names, "0,GPT-4,10,1", "1,ChatGPT,10,1", "2,,10,1", "3,GPT-4,10,1"))
    trace = read_trace(path, adapter_column="Model", ranks=(8, 64))
    assert trace.palette == (AdapterSpec("ChatGPT", 64), AdapterSpec("GPT-4", 8), None)
    assert trace.adapter.tolist() == [1, 0, 2, 1]
    assert not trace.lacks
    dealt = "rows whose adapter has a rank dealt in turn from `ranks`, because the file names none"
    assert trace.notes == ((dealt, 3),)


def test_a_column_that_is_not_there_cannot_be_taken_for_adapters(tmp_path: Path) -> None:
    path = put(tmp_path, csv_of("Timestamp,Model,Request tokens,Response tokens", "0,GPT-4,10,1"))
    told = problem(path, adapter_column="modl")
    assert ":1: no column 'modl' for the format 'burstgpt'" in told
    assert told.endswith("closest match: 'model'")


def test_s_loras_adapters_are_kept_and_null_is_the_base_model(tmp_path: Path) -> None:
    base = {"req_time": 0.0, "input_len": 1, "output_len": 1}
    path = put_lines(tmp_path, {**base, "adapter_dir": "a"}, {**base, "adapter_dir": None})
    trace = make_trace(WorkloadConfig(trace=path, ranks=(32,), scale=1), 0)
    assert [trace.palette[row] for row in trace.adapter] == [AdapterSpec("a", 32), None]


def test_stamps_in_nanoseconds_of_an_epoch_lose_no_digit(tmp_path: Path) -> None:
    path = put_lines(
        tmp_path,
        {"input_toks": 1, "output_toks": 1, "arrival_time_ns": 1787267980000000001},
        {"input_toks": 1, "output_toks": 1, "arrival_time_ns": 1787267980000000002},
    )
    assert read_trace(path).arrival_s.tolist() == [0.0, 1e-9]


@pytest.mark.parametrize("stamp", [1.5, -1, "9223372036854775808"])
def test_a_stamp_in_nanoseconds_that_is_no_whole_number_is_refused(stamp: object, tmp_path: Path) -> None:
    path = put_lines(tmp_path, {"input_toks": 1, "output_toks": 1, "arrival_time_ns": stamp})
    assert f"t.jsonl:1: arrival_time_ns is '{stamp}'; a whole number from 0" in problem(path)


def test_chains_of_calls_are_left_out_and_counted(tmp_path: Path) -> None:
    plain = {"input_toks": 1, "output_toks": 1, "arrival_time_ns": 0, "sub_requests": []}
    chain = {"arrival_time_ns": 0, "sub_requests": [{"input_toks": 5, "output_toks": 5, "tool_duration_ns": 9}]}
    trace = read_trace(put_lines(tmp_path, chain, plain))
    assert len(trace) == 1
    assert trace.notes[0][0].startswith("rows with sub_requests dropped, because")
    assert trace.notes[0][1] == 1


def turn(**given: object) -> dict[str, object]:
    return {"input_length": 10, "output_length": 20, "hash_ids": [0], **given}


def test_a_turn_with_a_delay_comes_that_long_after_the_turn_before(tmp_path: Path) -> None:
    path = put_lines(
        tmp_path,
        turn(timestamp=0, session_id="a"),
        turn(timestamp=500, session_id="b"),
        turn(delay=2000, session_id="a"),
        turn(delay=1000, session_id="a"),
        turn(timestamp=None, delay=1000, session_id="b"),
    )
    trace = read_trace(path)
    assert trace.arrival_s.tolist() == [0.0, 0.5, 1.5, 2.0, 3.0]
    assert [rows for what, rows in trace.notes if what.startswith("rows with a delay placed")] == [3]


@pytest.mark.parametrize("given", [{"delay": 5}, {"delay": 5, "session_id": "new"}, {"delay": "x", "session_id": "a"}])
def test_a_delay_that_follows_nothing_is_refused_with_its_line(given: dict[str, object], tmp_path: Path) -> None:
    path = put_lines(tmp_path, turn(timestamp=0, session_id="a"), turn(**given))
    assert f"t.jsonl:2: delay is {given['delay']!r} and session_id is" in problem(path)


PROMPT: dict[str, object] = {"prompt": "one two three four five", "output_len": 7}
SAID: list[dict[str, str]] = [{"content": "one two three"}, {"content": "four"}]
VALUES = [{"from": "human", "value": "one two three"}, {"from": "gpt", "value": "four"}]


@pytest.mark.parametrize(
    ("given", "estimate", "lengths"),
    [
        (PROMPT, "words", (5, 7)),
        (PROMPT, "characters", (6, 7)),
        ({"conversations": SAID}, "words", (3, 1)),
        ({"conversations": VALUES}, "characters", (4, 1)),
        ({"conversations": VALUES, "output_len": 9}, "words", (3, 9)),
    ],
)
def test_tokens_of_texts_are_estimated_as_declared(
    given: dict[str, object], estimate: str, lengths: tuple[int, int], tmp_path: Path
) -> None:
    trace = read_trace(put_lines(tmp_path, given), text_tokens=estimate)  # type: ignore[arg-type]
    assert rows(trace) == [(0.0, *lengths)]
    assert trace.lacks == {"arrivals", "adapters"}
    assert trace.notes == ((f"rows whose tokens are estimated from the {estimate} of a text", 1),)


def test_texts_are_refused_without_an_estimate(tmp_path: Path) -> None:
    told = problem(put_lines(tmp_path, PROMPT))
    assert "t.jsonl:1: the file holds texts and no token counts; an estimate must be named: words, or" in told


@pytest.mark.parametrize("given", [{"prompt": "text"}, {"conversations": SAID[:1]}, {"prompt": 5, "output_len": 1}])
def test_a_text_without_an_answer_or_its_length_is_refused(given: dict[str, object], tmp_path: Path) -> None:
    told = problem(put_lines(tmp_path, given), text_tokens="words")
    assert "a prompt with output_len, or conversations of two turns" in told


def test_turns_after_the_first_answer_are_counted(tmp_path: Path) -> None:
    trace = read_trace(put_lines(tmp_path, {"conversations": [*SAID, *SAID]}), text_tokens="words")
    assert ("rows whose turns after the first answer are not used", 1) in trace.notes


def test_a_payload_with_a_text_in_place_of_a_length_is_estimated(tmp_path: Path) -> None:
    path = put_lines(tmp_path, {"timestamp": 0, "text_input": "a b c", "output_length": 4})
    assert rows(read_trace(path, format="aiperf", text_tokens="words")) == [(0.0, 3, 4)]
    assert "an estimate must be named" in problem(path, format="aiperf")


def test_a_trace_without_stamps_needs_a_rate(tmp_path: Path) -> None:
    path = put_lines(tmp_path, *[PROMPT] * 50)
    trace = make_trace(WorkloadConfig(trace=path, text_tokens="words", rate_per_s=5), 0)
    assert len(set(trace.arrival_s.tolist())) == 50
    assert not trace.lacks
    with pytest.raises(ValueError, match="has no stamps; say `rate_per_s`"):
        make_trace(WorkloadConfig(trace=path, text_tokens="words"), 0)
    with pytest.raises(ValueError, match="has no stamps"):
        make_trace(WorkloadConfig(trace=path, text_tokens="words", rate_per_s=5, arrivals={"family": "trace"}), 0)  # type: ignore[arg-type]


def test_what_a_file_lacks_is_described(tmp_path: Path) -> None:
    assert describe(read_trace(put_lines(tmp_path, PROMPT), text_tokens="words"))["lacks"] == ["adapters", "arrivals"]


def test_one_json_array_is_refused_with_what_is_allowed(tmp_path: Path) -> None:
    assert "the file is one JSON array; JSON lines, one object on each" in problem(put(tmp_path, "[{}]"))


def test_an_unknown_estimate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="text_tokens is 'letters'; 'words' and 'characters' are allowed"):
        read_trace(put_lines(tmp_path, PROMPT), text_tokens="letters")  # type: ignore[arg-type]
