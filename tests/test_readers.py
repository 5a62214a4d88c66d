"""Trace files in and out: tiny files written by hand, and the public traces where they are at hand."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sim.readers import rows as readers_rows
from sim.readers.describe import index_of_dispersion, skew
from sim.readers.reading import TraceError, describe, read_trace, write_canonical
from sim.trace import AdapterSpec, Trace

DATA = Path(__file__).parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the public traces are not on this machine")

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
OWN = "request_id,arrival_s,input_tokens,output_tokens,adapter_id,rank\n"


def put(folder: Path, text: str | bytes, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def problems(path: Path, **options: str) -> tuple[str, ...]:
    with pytest.raises(TraceError) as caught:
        read_trace(path, format=options.get("format"))
    return caught.value.problems


def vidur(*rows: str) -> str:
    return "\n".join(["arrived_at,num_prefill_tokens,num_decode_tokens", *rows])


def test_azure_stamps_of_seven_digits_become_exact_seconds_from_the_first(tmp_path: Path) -> None:
    path = put(tmp_path, AZURE + "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n")
    trace = read_trace(path)
    assert trace.arrival_s.tolist() == [0.0, 4.314579]
    assert trace.prompt_tokens.tolist() == [374, 396]
    assert trace.output_tokens.tolist() == [44, 109]


def test_a_trace_without_adapters_points_at_the_base_model(tmp_path: Path) -> None:
    trace = read_trace(put(tmp_path, vidur("0,1,1", "1,1,1")))
    assert trace.palette == (None,)
    assert trace.adapter.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("stamp", "after_s"),
    [
        ("2024-05-10 00:00:01.123456789", 1.123456789),
        ("2024-05-10 00:00:01.5", 1.5),
        ("2024-05-10 00:00:02", 2.0),
        ("2024-05-10T00:00:02Z", 2.0),
        ("2024-05-10 00:00:02.250000+00:00", 2.25),
        ("2024-05-10 02:00:02+02:00", 2.0),
        ("2024-05-09 22:30:02-01:30", 2.0),
        ("2024-05-11 00:00:00", 86400.0),
    ],
)
def test_stamps_with_other_fractions_and_zones_mix_in_one_file(tmp_path: Path, stamp: str, after_s: float) -> None:
    trace = read_trace(put(tmp_path, f"{AZURE}2024-05-10 00:00:00.0000000,1,1\n{stamp},1,1\n"))
    assert trace.arrival_s.tolist() == [0.0, after_s]


@pytest.mark.parametrize(
    "stamp", ["2023-02-30 00:00:00", "2023-11-16", "1700000000", "16/11/2023 18:15", "2023-11-16 18:15:46.1234567890"]
)
def test_a_stamp_that_is_no_full_date_is_refused(tmp_path: Path, stamp: str) -> None:
    (problem,) = problems(put(tmp_path, f"{AZURE}{stamp},1,1\n"))
    assert f":2: timestamp is {stamp!r}; a date and time is needed" in problem


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + vidur("0.0,374,44", "1.5,2,3"),
        vidur("0.0,374,44", "1.5,2,3").replace("\n", "\r\n") + "\r\n",
        " Arrived_At , NUM_prefill_tokens,num_decode_tokens \n0.0,374,44\n1.5,2,3\n",
        vidur("0.0,374.0,44.0", "1.5,2.,3e0"),
        vidur(' 0.0, "374",44', "1.5 ,2, 3"),
        vidur("0.0,374,44", "", "1.5,2,3", ""),
    ],
    ids=["bom", "crlf", "header case and spaces", "floats", "quotes and spaces", "blank lines"],
)
def test_the_way_a_csv_is_written_does_not_matter(tmp_path: Path, text: str) -> None:
    trace = read_trace(put(tmp_path, text))
    assert trace.arrival_s.tolist() == [0.0, 1.5]
    assert trace.prompt_tokens.tolist() == [374, 2]
    assert trace.output_tokens.tolist() == [44, 3]


def test_thousands_separators_in_quotes_are_read(tmp_path: Path) -> None:
    assert read_trace(put(tmp_path, vidur('0,"1,374","1,000,000"'))).prompt_tokens.tolist() == [1374]


def test_thousands_separators_without_quotes_are_refused(tmp_path: Path) -> None:
    assert problems(put(tmp_path, vidur("0,1,374,5")))[0].endswith(
        ":2: 4 cells; 3 are needed, as many as in the header"
    )


def test_rows_with_an_empty_cell_are_dropped_and_counted(tmp_path: Path) -> None:
    trace = read_trace(put(tmp_path, vidur("0,1,1", ",2,2", "2,NaN,3", "3,4,null", "4,5,5")))
    assert trace.prompt_tokens.tolist() == [1, 5]
    assert ("rows with an empty cell dropped", 3) in trace.notes


def test_rows_without_input_are_dropped_and_counted(tmp_path: Path) -> None:
    trace = read_trace(put(tmp_path, vidur("0,0,1", "1,7,1")))
    assert trace.prompt_tokens.tolist() == [7]
    assert ("rows with zero input tokens dropped", 1) in trace.notes


def test_rows_without_output_are_dropped_by_default_and_counted(tmp_path: Path) -> None:
    trace = read_trace(put(tmp_path, vidur("0,1,0", "1,2,3")))
    assert trace.output_tokens.tolist() == [3]
    assert ("rows with zero output tokens dropped", 1) in trace.notes


def test_rows_without_output_can_be_clamped_to_one_token(tmp_path: Path) -> None:
    trace = read_trace(put(tmp_path, vidur("0,1,0", "1,2,3")), zero_output="clamp")
    assert trace.output_tokens.tolist() == [1, 3]
    assert ("rows with zero output tokens clamped to 1", 1) in trace.notes


@pytest.mark.parametrize("cell", ["-3", "2.5", "inf", "many", "1_000", "99999999999", "__import__('os')", "0x10"])
def test_a_length_that_is_no_whole_number_is_refused_with_its_line(tmp_path: Path, cell: str) -> None:
    (problem,) = problems(put(tmp_path, vidur("0,1,1", f"1,{cell},1")))
    assert f"trace.csv:3: num_prefill_tokens is {cell!r}; " in problem


def test_a_negative_time_is_refused(tmp_path: Path) -> None:
    (problem,) = problems(put(tmp_path, vidur("0,1,1", "-1,1,1")))
    assert problem.endswith(":3: arrived_at is '-1'; a finite time of at least 0 is allowed")


def test_unsorted_rows_are_sorted_with_equal_stamps_in_file_order(tmp_path: Path) -> None:
    trace = read_trace(put(tmp_path, vidur("5,1,1", "3,2,1", "5,3,1", "3,4,1")))
    assert trace.prompt_tokens.tolist() == [2, 4, 1, 3]
    assert trace.arrival_s.tolist() == [0.0, 0.0, 2.0, 2.0]
    assert dict(trace.notes) == {
        "rows moved to their place in time": 4,
        "rows with the stamp of the row before": 2,
        "rows shifted so that the first arrives at 0 s": 4,
    }


def test_every_request_knows_the_line_that_it_was_read_from(tmp_path: Path) -> None:
    trace = read_trace(put(tmp_path, vidur("5,1,1", "3,2,1", "4,3,0", "", "1,4,1")))
    assert trace.line is not None
    assert trace.line.tolist() == [6, 3, 2]
    assert trace.prompt_tokens.tolist() == [4, 2, 1]


def test_ids_that_requests_do_not_get_are_told_to_be_lost(tmp_path: Path) -> None:
    header, rows = "request_id,arrival_s,input_tokens,output_tokens", ("0,0,1,1", "1,1,1,1")
    assert read_trace(put(tmp_path, "\n".join((header, *rows)))).notes == ()
    ((told, count),) = read_trace(put(tmp_path, f"{header}\n7,0,1,1\n1,1,1,1\n7,2,1,1")).notes
    assert told.startswith("rows numbered by arrival, whatever their request_id")
    assert count == 2
    moved = dict(read_trace(put(tmp_path, f"{header}\n0,3,1,1\n1,1,1,1\n2,2,1,1")).notes)
    assert moved[told] == 3
    dropped = dict(read_trace(put(tmp_path, f"{header}\n0,0,1,1\n1,1,0,1\n2,2,1,1")).notes)
    assert dropped[told] == 1


def test_a_clean_file_has_no_notes(tmp_path: Path) -> None:
    assert read_trace(put(tmp_path, vidur("0,1,1", "1,1,1"))).notes == ()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "the file is empty"),
        ("\n \n", "the file is empty"),
        (AZURE, "a header and no rows"),
        (b"PK\x03\x04\xff\xfe\x00", "the file is not UTF-8 text"),
        (b"\x1f\x8b\x08\x00broken", "the file cannot be read: damaged gzip data"),
        (vidur("0,0,1"), "no row is left"),
    ],
    ids=["empty", "blank", "header only", "binary", "damaged gzip", "all dropped"],
)
def test_a_file_without_a_request_is_refused(tmp_path: Path, text: str | bytes, what: str) -> None:
    assert what in problems(put(tmp_path, text))[0]


def test_a_missing_file_is_named_in_the_error(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path / "absent.csv")
    assert problem == f"{tmp_path / 'absent.csv'}:1: the file cannot be read: No such file or directory"


def test_a_gzipped_file_is_recognised_whatever_its_name(tmp_path: Path) -> None:
    path = put(tmp_path, gzip.compress(vidur("0,374,44").encode()), "trace.bin")
    assert read_trace(path).prompt_tokens.tolist() == [374]


def test_columns_that_are_not_needed_are_passed_over_and_noted(tmp_path: Path) -> None:
    text = "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n2025-01-01 00:00:00,3,10,20\n"
    trace = read_trace(put(tmp_path, text))
    assert trace.prompt_tokens.tolist() == [10]
    assert trace.notes == (("column 'numimages' not used", 1),)


def test_a_missing_column_is_named_with_its_closest_match(tmp_path: Path) -> None:
    text = "TIMESTAMP,ContextToken,GeneratedTokens\n2025-01-01 00:00:00,3,10\n"
    (problem,) = problems(put(tmp_path, text), format="azure")
    assert ":1: no column 'contexttokens' for the format 'azure'" in problem
    assert problem.endswith("closest match: 'contexttoken'")


def test_an_unknown_header_lists_what_is_allowed_and_the_closest_match(tmp_path: Path) -> None:
    (problem,) = problems(put(tmp_path, "when,in,out\n0,1,1\n"))
    assert "no known format has the columns when, in, out; allowed" in problem
    (near,) = problems(put(tmp_path, "arrival_s,input_tokns,output_tokens\n0,1,1\n"))
    assert near.endswith("closest match: 'input_tokens'")


def test_an_unknown_format_lists_the_known_ones(tmp_path: Path) -> None:
    (problem,) = problems(put(tmp_path, vidur("0,1,1")), format="vidour")
    assert "allowed are canonical, azure, vidur, mooncake, bailian, " in problem
    assert problem.endswith("; closest match: 'vidur'")


def test_a_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    (problem,) = problems(put(tmp_path, "arrival_s,input_tokens,output_tokens,Input_tokens\n0,1,1,2\n"))
    assert "column 'input_tokens' stands 2 times in the header" in problem


def test_all_problems_of_a_file_are_told_at_once_in_order(tmp_path: Path) -> None:
    found = problems(put(tmp_path, vidur("0,x,1", "1,1", "2,1,-1")))
    assert [problem.split(":")[1] for problem in found] == ["2", "3", "4"]


def test_lines_are_counted_from_the_top_of_the_file_even_if_it_begins_with_blank_ones(tmp_path: Path) -> None:
    assert ":5: num_prefill_tokens is 'x'" in problems(put(tmp_path, "\n\n" + vidur("0,1,1", "1,x,1")))[0]


def test_no_more_than_twenty_problems_are_told(tmp_path: Path) -> None:
    assert len(problems(put(tmp_path, vidur(*["0,x,y"] * 100)))) == 20


MOONCAKE = '{"timestamp": 0, "input_length": 6, "output_length": 5, "hash_ids": [0]}\n'


def test_mooncake_stamps_are_milliseconds(tmp_path: Path) -> None:
    later = MOONCAKE.replace('"timestamp": 0', '"timestamp": 1500')
    trace = read_trace(put(tmp_path, MOONCAKE + later, "t.jsonl"))
    assert trace.arrival_s.tolist() == [0.0, 1.5]
    assert trace.notes == (("column 'hash_ids' not used", 2),)


def test_a_file_with_mooncakes_keys_and_without_its_mark_is_not_guessed(tmp_path: Path) -> None:
    path = put(tmp_path, MOONCAKE.replace('"hash_ids": [0]', '"duration": 1'), "t.jsonl")
    assert "no known format" in problems(path)[0]
    assert len(read_trace(path, format="mooncake")) == 1


def test_a_malformed_json_line_is_told_with_its_number(tmp_path: Path) -> None:
    found = problems(put(tmp_path, MOONCAKE + '{"timestamp": 1,\n[1]\n' + MOONCAKE, "t.jsonl"))
    assert "t.jsonl:2: not JSON" in found[0]
    assert "t.jsonl:3: the line is '[1]'" in found[1]


def test_a_json_object_without_a_key_is_told_with_the_closest_match(tmp_path: Path) -> None:
    found = problems(put(tmp_path, MOONCAKE + MOONCAKE.replace("timestamp", "timestamps"), "t.jsonl"))
    assert found[0].endswith("closest match: 'timestamps'")


def test_json_nulls_are_empty_cells(tmp_path: Path) -> None:
    trace = read_trace(put(tmp_path, MOONCAKE + MOONCAKE.replace(": 6", ": null"), "t.jsonl"))
    assert ("rows with an empty cell dropped", 1) in trace.notes


def test_a_csv_is_not_read_as_json_lines(tmp_path: Path) -> None:
    (problem,) = problems(put(tmp_path, vidur("0,1,1")), format="mooncake")
    assert "the file holds CSV; the format 'mooncake' is JSON lines" in problem


def test_rows_on_a_grid_are_spread_inside_their_tick_in_file_order(tmp_path: Path) -> None:
    rows = [f"{tick},{row + 1},1" for row, tick in enumerate([0] * 50 + [2.999] * 50)]
    path = put(tmp_path, vidur(*rows))
    spread = read_trace(path, spread_ticks_s=3, seed=1)
    assert (np.floor(spread.arrival_s / 3) * 3).tolist() == [0] * 50 + [3] * 50
    assert len(set(spread.arrival_s.tolist())) == 100
    assert (np.diff(spread.arrival_s) >= 0).all()
    assert spread.prompt_tokens.tolist() == list(range(1, 101))
    assert ("rows spread inside ticks of 3 s", 100) in spread.notes


def test_the_spreading_of_ticks_is_seeded(tmp_path: Path) -> None:
    path = put(tmp_path, vidur(*["0,1,1"] * 5))
    first, again, other = (read_trace(path, spread_ticks_s=3, seed=seed).arrival_s.tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_limit_reads_the_first_rows_only(tmp_path: Path) -> None:
    assert read_trace(put(tmp_path, vidur("0,1,1", "1,2,1", "nonsense")), limit=2).prompt_tokens.tolist() == [1, 2]


@pytest.mark.parametrize("options", [{"limit": 0}, {"spread_ticks_s": 0.0}, {"zero_output": "keep"}])
def test_options_out_of_range_are_refused(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="allowed"):
        read_trace(put(tmp_path, vidur("0,1,1")), **options)  # type: ignore[arg-type]


def test_a_file_of_many_chunks_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers_rows, "CHUNK_ROWS", 3)
    trace = read_trace(put(tmp_path, vidur(*[f"{row},{row + 1},1" for row in range(10)])))
    assert trace.prompt_tokens.tolist() == list(range(1, 11))


def small_trace() -> Trace:
    return Trace(
        name="small",
        arrival_s=np.array([0.1, 0.1 + 0.2, 1e-9 + 7]),
        prompt_tokens=np.array([1, 2, 3]),
        output_tokens=np.array([4, 5, 6]),
        palette=(AdapterSpec("a", 8), None, AdapterSpec("b, with a comma", 128)),
        adapter=np.array([2, 1, 0]),
    )


@pytest.mark.parametrize("name", ["small.csv", "small.csv.gz"])
def test_what_is_written_is_read_back_to_the_last_bit(tmp_path: Path, name: str) -> None:
    write_canonical(small_trace(), tmp_path / name)
    trace = read_trace(tmp_path / name)
    assert trace.name == "small"
    assert trace.arrival_s.tolist() == small_trace().arrival_s.tolist()
    assert trace.prompt_tokens.tolist() == [1, 2, 3]
    assert trace.output_tokens.tolist() == [4, 5, 6]
    assert [trace.palette[row] for row in trace.adapter] == [
        AdapterSpec("b, with a comma", 128),
        None,
        AdapterSpec("a", 8),
    ]
    assert trace.notes == ()


def test_the_same_trace_gives_the_same_gzip_bytes(tmp_path: Path) -> None:
    for name in ("one.csv.gz", "two.csv.gz"):
        write_canonical(small_trace(), tmp_path / name)
    written = (tmp_path / "one.csv.gz").read_bytes()
    assert written == (tmp_path / "two.csv.gz").read_bytes()
    assert written[4:8] == bytes(4), "a gzip header with the time of writing differs from one second to the next"


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = put(tmp_path, "old")
    broken = small_trace()
    broken.adapter[0] = 99
    with pytest.raises(IndexError):
        write_canonical(broken, path)
    assert [each.name for each in tmp_path.iterdir()] == ["trace.csv"]
    assert path.read_text() == "old"


def test_our_own_stamps_are_not_shifted(tmp_path: Path) -> None:
    assert read_trace(put(tmp_path, "arrival_s,input_tokens,output_tokens\n5,1,1\n")).arrival_s.tolist() == [5.0]


@pytest.mark.parametrize("rank", ["", "0", "8.5"])
def test_an_adapter_needs_a_rank(tmp_path: Path, rank: str) -> None:
    (problem,) = problems(put(tmp_path, f"{OWN}0,0,1,1,a,{rank}\n"))
    assert ":2: rank of adapter 'a' is" in problem


def test_an_adapter_has_one_rank(tmp_path: Path) -> None:
    (problem,) = problems(put(tmp_path, f"{OWN}0,0,1,1,a,8\n1,1,1,1,a,16\n"))
    assert problem.endswith(":3: rank of 'a' is 16; the rank of its first row, 8, is allowed")


def test_describe_counts_a_world_by_hand() -> None:
    told = describe(small_trace())
    assert told["rows"] == 3
    assert told["base_model_rows"] == 1
    assert told["adapters_used"] == 2
    assert told["top1_share"] == 0.5
    assert told["effective_adapters"] == 2.0
    assert told["rank_mix"] == {8: 0.5, 128: 0.5}
    assert told["input_tokens"]["p50"] == 2.0
    assert told["rate_per_s"] == pytest.approx(2 / 6.9)


def test_describe_of_one_row_leaves_out_what_needs_two(tmp_path: Path) -> None:
    told = describe(read_trace(put(tmp_path, vidur("0,1,1"))))
    unknown = ("rate_per_s", "iat_cv", "top1_share", "effective_adapters")
    assert [told[key] for key in unknown] == [None] * 4
    assert told["idc"] == {"1s": None, "10s": None, "60s": None}


def test_evenly_spaced_arrivals_have_no_dispersion_whatever_the_last_window_holds() -> None:
    assert index_of_dispersion(np.arange(0, 47, 0.5, dtype=np.float64), 10) == 0.0


def test_dispersion_is_variance_over_mean_of_all_whole_windows_empty_ones_too() -> None:
    arrival_s = np.cumsum(np.random.default_rng(1).exponential(7.0, 500))
    counts = np.bincount(np.floor(arrival_s - arrival_s[0]).astype(np.int64))[:-1]
    assert (counts == 0).any()
    assert index_of_dispersion(arrival_s, 1) == pytest.approx(counts.var() / counts.mean(), rel=1e-12)


@pytest.mark.parametrize("span_s", [1_761_352_200.0, 3.9e15])
def test_a_span_of_ages_costs_no_more_than_its_requests(span_s: float) -> None:
    assert index_of_dispersion(np.array([0.0, 0.0, 1.0, span_s]), 1) == pytest.approx(5 / 3 - 3 / span_s, rel=1e-15)


def test_uniform_counts_have_as_many_effective_adapters_as_there_are() -> None:
    assert skew(np.full(100, 7))["effective_adapters"] == pytest.approx(100)


@needs_data
@pytest.mark.parametrize(
    ("name", "rows", "rate_per_s", "iat_cv", "mean_input", "mean_output"),
    [("conv", 19_366, 5.530, 1.094, 1154.7, 211.1), ("code", 8_819, 2.567, 13.15, 2047.8, 27.9)],
)
def test_the_azure_traces_have_their_known_statistics(
    name: str, rows: int, rate_per_s: float, iat_cv: float, mean_input: float, mean_output: float
) -> None:
    trace = read_trace(DATA / "azure-llm-2023" / f"AzureLLMInferenceTrace_{name}.csv")
    told = describe(trace)
    assert told["rows"] == rows
    assert told["rate_per_s"] == pytest.approx(rate_per_s, rel=1e-3)
    assert told["iat_cv"] == pytest.approx(iat_cv, rel=1e-3)
    assert told["input_tokens"]["mean"] == pytest.approx(mean_input, abs=0.06)
    assert told["output_tokens"]["mean"] == pytest.approx(mean_output, abs=0.06)
    assert trace.notes == ()


@needs_data
def test_azure_and_vidur_hold_the_same_conversations() -> None:
    azure = read_trace(DATA / "azure-llm-2023" / "AzureLLMInferenceTrace_conv.csv")
    same = read_trace(DATA / "vidur-processed" / "splitwise_conv.csv")
    assert azure.prompt_tokens.tolist() == same.prompt_tokens.tolist()
    assert azure.output_tokens.tolist() == same.output_tokens.tolist()
    assert np.abs(azure.arrival_s - same.arrival_s).max() < 1e-6


@needs_data
def test_mooncake_conversations_lie_on_a_grid_of_three_seconds() -> None:
    path = DATA / "mooncake-fast25" / "conversation_trace.jsonl"
    trace = read_trace(path)
    assert len(trace) == 12_031
    assert ("rows with the stamp of the row before", 12_031 - 1_180) in trace.notes
    assert describe(read_trace(path, spread_ticks_s=3))["iat_cv"] == pytest.approx(1.0, abs=0.1)


def test_reading_and_making_workloads_does_not_import_pandas() -> None:
    code = (
        "import sys, sim.workload.making; assert not {'pandas', 'torch', 'matplotlib'} & set(sys.modules), 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=True)
