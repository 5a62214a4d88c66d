"""Formats of several files: GenTD26's stamps and adapters, and requests drawn from ServeGen's clients."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from sim.readers.describe import gap_cv
from sim.readers.reading import TraceError, describe, files_of, read_trace
from sim.readers.servegen_files import Client, Law, read_clients
from sim.workload.making import WorkloadConfig, make_trace

DATA = Path(__file__).parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the public traces are not on this machine")

STAMPS = "gmt_create,predict_status,groupId,num_lora\n"
IDS = "predict_type,lora_args\n"


def lora(*names: str) -> str:
    return '"' + str([{"modelVersionId": name, "scale": 1.0} for name in names]) + '"'


def gentd26(folder: Path, *rows: tuple[str, str, int, str], before: int = 2) -> Path:
    """Write both files; the one with the ids has rows of an earlier time before those that belong together."""
    stamps = [f"2024-11-15 16:57:{second},{status},G,{count}\n" for second, status, count, _ in rows]
    ids = [f"x,{cell}\n" for *_, cell in rows]
    (folder / "lora_request_trace.csv").write_text(STAMPS + "".join(stamps))
    (folder / "data_trace_processed.csv").write_text(IDS + f"x,{lora('old')}\n" * before + "".join(ids))
    return folder


ROWS = (("00", "SUCCEED", 1, lora("a")), ("10", "SUCCEED", 0, "[]"), ("30", "SUCCEED", 2, lora("b", "a")))


def problem(path: Path, **options: object) -> str:
    with pytest.raises(TraceError) as caught:
        read_trace(path, **options)  # type: ignore[arg-type]
    return caught.value.problems[0]


@pytest.mark.parametrize("name", ["", "lora_request_trace.csv"])
def test_gentd26_gives_stamps_and_first_adapters_and_lacks_lengths(name: str, tmp_path: Path) -> None:
    trace = read_trace(gentd26(tmp_path, *ROWS) / name, ranks=(16, 64))
    assert trace.arrival_s.tolist() == [0.0, 10.0, 30.0]
    named = [trace.palette[row] for row in trace.adapter]
    assert [None if spec is None else (spec.id, spec.rank) for spec in named] == [("a", 16), None, ("b", 64)]
    assert trace.lacks == {"lengths"}
    assert ("rows with several adapters, of which the first is kept", 1) in trace.notes


def test_requests_of_gentd26_that_failed_are_dropped_and_counted(tmp_path: Path) -> None:
    failed = ("20", "FAILED", 1, lora("c"))
    trace = read_trace(gentd26(tmp_path, *ROWS, failed))
    assert len(trace) == 3
    assert ("rows with predict_status FAILED dropped", 1) in trace.notes


def test_gentd26_in_its_archive_is_read_past_the_files_that_are_no_data(tmp_path: Path) -> None:
    gentd26(tmp_path, *ROWS)
    plain = tmp_path / "data_trace_processed.csv"
    (tmp_path / "._data_trace_processed.csv").write_bytes(b"\x00\x05\x16\x07")
    with tarfile.open(tmp_path / "data_trace_processed.tar.gz", "w:gz") as archive:
        for name in ("._data_trace_processed.csv", "data_trace_processed.csv"):
            archive.add(tmp_path / name, arcname=name)
    plain.unlink()
    assert len(read_trace(tmp_path)) == 3


def test_gentd26_without_the_file_of_ids_says_which_is_needed(tmp_path: Path) -> None:
    (gentd26(tmp_path, *ROWS) / "data_trace_processed.csv").unlink()
    assert "the adapters' ids are in data_trace_processed.csv (or" in problem(tmp_path)


def test_files_of_gentd26_that_do_not_belong_together_are_told_with_the_line(tmp_path: Path) -> None:
    wrong = (ROWS[0], ("10", "SUCCEED", 1, "[]"))
    assert "lora_request_trace.csv:3: num_lora is '1', and data_trace_processed.csv has 0" in problem(
        gentd26(tmp_path, *wrong)
    )


def test_a_cell_of_adapters_is_never_evaluated(tmp_path: Path) -> None:
    assert "lora_args of this request" in problem(gentd26(tmp_path, ("00", "SUCCEED", 1, "__import__('os')")))


def test_lengths_of_gentd26_are_drawn_and_its_base_requests_kept(tmp_path: Path) -> None:
    given = {"trace": gentd26(tmp_path, *ROWS), "format": "gentd26", "lengths": "conv"}
    trace = make_trace(WorkloadConfig.model_validate(given), 0)
    assert not trace.lacks
    assert trace.prompt_tokens.min() >= 1
    assert [trace.palette[row] is None for row in trace.adapter] == [False, True, False]
    assert ("rows with lengths drawn from conv, because the file has none", 3) in trace.notes


def test_a_trace_without_lengths_needs_them_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no token counts; say `lengths: conv`"):
        make_trace(WorkloadConfig(trace=gentd26(tmp_path, *ROWS)), 0)


LENGTHS = {"input_tokens": "{100: 0.5, 200: 0.5}", "output_tokens": "{10: 1.0}"}
NONE = {"input_tokens": "{}", "output_tokens": "{}"}
RATES = "0,0.5,2,Gamma,0.25,8\n600,0,0,,0,0\n1200,0.25,1,Weibull,1,4\n"


def chunk(folder: Path, number: int = 0, rates: str = RATES, blocks: dict[str, object] | None = None) -> Path:
    (folder / f"chunk-{number}-trace.csv").write_text(rates)
    if blocks is not None:
        (folder / f"chunk-{number}-dataset.json").write_text(json.dumps(blocks))
    return folder


def test_servegens_windows_have_as_many_requests_as_in_the_data(tmp_path: Path) -> None:
    trace = read_trace(chunk(tmp_path, blocks={"0": LENGTHS}))
    first = trace.arrival_s < 600
    assert (int(first.sum()), len(trace)) == (300, 450)
    assert not ((trace.arrival_s > 601) & (trace.arrival_s < 1199)).any()
    assert set(trace.prompt_tokens.tolist()) == {100, 200}
    assert set(trace.output_tokens.tolist()) == {10}
    assert gap_cv(trace.arrival_s[first]) == pytest.approx(2, rel=0.25)


def test_servegens_draw_is_seeded_and_a_limit_keeps_its_beginning(tmp_path: Path) -> None:
    folder = chunk(chunk(tmp_path, 0, blocks={"0": LENGTHS}), 1, blocks={"0": LENGTHS})
    whole, again, other = (read_trace(folder, seed=seed) for seed in (1, 1, 2))
    assert whole.arrival_s.tolist() == again.arrival_s.tolist() != other.arrival_s.tolist()
    part = read_trace(folder, limit=50, seed=1)
    assert part.arrival_s.tolist() == whole.arrival_s[:50].tolist()
    assert part.prompt_tokens.tolist() == whole.prompt_tokens[:50].tolist()


def test_input_and_output_of_servegens_requests_do_not_go_together(tmp_path: Path) -> None:
    spread = str(dict.fromkeys(range(1, 101), 0.01))
    blocks: dict[str, object] = {"0": {"input_tokens": spread, "output_tokens": spread}}
    trace = read_trace(chunk(tmp_path, rates="0,5,1,Gamma,1,1\n", blocks=blocks))
    assert abs(np.corrcoef(trace.prompt_tokens, trace.output_tokens)[0, 1]) < 0.1


def test_a_block_without_lengths_takes_the_nearest_ones(tmp_path: Path) -> None:
    trace = read_trace(chunk(tmp_path, blocks={"0": LENGTHS, "1200": NONE}))
    told = "rows with lengths of a neighbouring block, because the client's own has none"
    assert (told, 150) in trace.notes


def test_one_chunk_stands_for_its_client_alone(tmp_path: Path) -> None:
    chunk(chunk(tmp_path, 0, blocks={"0": LENGTHS}), 1, "0,0.5,Gamma\n")
    assert len(read_trace(tmp_path / "chunk-0-trace.csv")) == 450
    assert f"{tmp_path}/chunk-1-trace.csv:1: " in problem(tmp_path / "chunk-1-trace.csv")


def test_servegens_clients_can_be_adapters(tmp_path: Path) -> None:
    folder = chunk(chunk(tmp_path, 0, blocks={"0": LENGTHS}), 7, blocks={"0": LENGTHS})
    trace = read_trace(folder, adapter_column="client", ranks=(8, 16))
    assert [spec and (spec.id, spec.rank) for spec in trace.palette] == [("client-0", 8), ("client-7", 16)]
    assert not trace.lacks
    assert read_trace(folder).lacks == {"adapters"}


def test_clients_without_lengths_are_left_out_beside_others_and_lack_them_alone(tmp_path: Path) -> None:
    folder = chunk(tmp_path, 0)
    assert read_trace(folder).lacks == {"adapters", "lengths"}
    chunk(folder, 1, blocks={"0": LENGTHS})
    trace = read_trace(folder)
    assert len(trace) == 450
    assert ("requests of clients without lengths left out", 450) in trace.notes


@pytest.mark.parametrize(
    ("rates", "what"),
    [
        ("0,0.5,2,Pareto,0.25,8\n", "chunk-0-trace.csv:1: the row is '0,0.5,2,Pareto"),
        ("0,0.5,2,Gamma,0,8\n", "chunk-0-trace.csv:1: the row is"),
        ("0,-1,2,Gamma,1,8\n", "chunk-0-trace.csv:1: the row is"),
        ("0,1e6,2,Gamma,1,8\n", "chunk-0-trace.csv:1: the row is"),
        ("0,0,0,,0,0\n1e400,0.5,1,Gamma,1,1\n", "windows of inf s; equal ones are allowed"),
        ("0,0,0,,0,0\n600,0.5,Gamma\n", "chunk-0-trace.csv:2: the row is"),
        ("0,0,0,,0,0\n600,0,0,,0,0\n900,0,0,,0,0\n", "windows of 300, 600 s; equal ones are allowed"),
        ("0,0,0,,0,0\n", "0 requests; 1 to"),
    ],
)
def test_rates_that_make_no_sense_are_told_with_their_line(rates: str, what: str, tmp_path: Path) -> None:
    assert what in problem(chunk(tmp_path, rates=rates, blocks={"0": LENGTHS}))


@pytest.mark.parametrize("text", ["__import__('os')", "{1: -1.0}", "{1: 'x'}", "[1]"])
def test_lengths_that_make_no_sense_are_told_and_never_evaluated(text: str, tmp_path: Path) -> None:
    blocks: dict[str, object] = {"0": {**LENGTHS, "input_tokens": text}}
    assert "chunk-0-dataset.json:1: " in problem(chunk(tmp_path, blocks=blocks))


def test_every_file_that_a_trace_is_read_from_is_named(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    chunk(chunk(tmp_path / "s", 0, blocks={"0": LENGTHS}), 1)
    names = [path.name for path in files_of(tmp_path / "s")]
    assert names == ["chunk-0-dataset.json", "chunk-0-trace.csv", "chunk-1-trace.csv"]
    gentd26(tmp_path, *ROWS)
    both = ["lora_request_trace.csv", "data_trace_processed.csv"]
    assert [path.name for path in files_of(tmp_path)] == both
    assert [path.name for path in files_of(tmp_path / both[0])] == both
    assert files_of(tmp_path / both[1]) == [tmp_path / both[1]]


def test_too_many_requests_to_draw_need_a_limit(tmp_path: Path) -> None:
    folder = chunk(tmp_path, rates="0,50000,1,Gamma,1,1\n")
    assert "30000000 requests; 1 to 20000000 are allowed, or say how many" in problem(folder)


@needs_data
def test_the_real_loras_have_their_known_counts() -> None:
    told = describe(read_trace(DATA / "alibaba-gentd26"))
    assert told["rows"] == 26_392
    assert told["rate_per_s"] == pytest.approx(0.0133, abs=0.0002)
    assert told["base_model_rows"] + 4_494 == pytest.approx(26_392, abs=140)  # 431 failed, some with an adapter
    assert told["top1_share"] == pytest.approx(0.073, abs=0.01)


@needs_data
def test_the_real_clients_have_their_known_rates_and_shares() -> None:
    archive = DATA / "servegen" / "reason_deepseek-r1_full.tar.gz"
    told = describe(read_trace(archive, adapter_column="client", limit=100_000))
    assert told["rate_per_s"] > 10
    assert told["lacks"] == []
    assert 500 < told["input_tokens"]["mean"] < 2000


@needs_data
def test_clients_whose_lengths_are_not_at_hand_lack_them() -> None:
    trace = read_trace(DATA / "servegen" / "language_m-small_traces.tar.gz", limit=1000)
    assert trace.lacks == {"adapters", "lengths"}
    assert len(trace) == 1000


def test_one_chunk_is_read_from_its_lengths_too(tmp_path: Path) -> None:
    chunk(tmp_path, blocks={"0": LENGTHS})
    names = [path.name for path in files_of(tmp_path / "chunk-0-trace.csv")]
    assert names == ["chunk-0-trace.csv", "chunk-0-dataset.json"]


def test_a_limit_keeps_the_beginning_where_windows_are_of_unequal_width(tmp_path: Path) -> None:
    chunk(tmp_path, 0, rates="0,0.1,1,Gamma,1,1\n1000,0.1,1,Gamma,1,1\n", blocks={"0": LENGTHS})
    short = "".join(f"{start},0.1,1,Gamma,1,1\n" for start in range(0, 2000, 100))
    folder = chunk(tmp_path, 1, rates=short, blocks={"0": LENGTHS})
    whole, part = read_trace(folder, seed=1), read_trace(folder, limit=100, seed=1)
    assert part.arrival_s.tolist() == whole.arrival_s[:100].tolist()


def test_the_nearest_block_in_time_lends_its_lengths_and_of_two_the_earlier() -> None:
    early, late = (Law(np.array([tokens]), np.ones(1)) for tokens in (10, 20))
    client = Client(0, [], {0.0: (early, early), 600.0: None, 1200.0: (late, late)})
    lent = [client.laws(start_s) for start_s in (600.0, 700.0)]
    assert [(laws[0].tokens.tolist(), is_own) for laws, is_own in lent] == [([10], False), ([20], False)]


def test_lengths_of_no_token_are_left_out(tmp_path: Path) -> None:
    lengths = {"input_tokens": "{0: 0.5, 100: 0.25, 200: 0.25}", "output_tokens": "{0: 0.9, 10: 0.1}"}
    (client,) = read_clients(chunk(tmp_path, blocks={"0": lengths}))
    (prompts, outputs), _ = client.laws(0.0)
    assert (prompts.tokens.tolist(), prompts.upto.tolist()) == ([100, 200], [0.25, 0.5])
    assert outputs.tokens.tolist() == [10]
