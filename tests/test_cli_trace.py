"""`chameleon trace`: what a file holds, what was done to its rows, and files written whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sim.readers.reading import read_trace
from tests.commands import AZURE_HEADER, azure_file, chameleon


def odd_file(path: Path) -> Path:
    """Write what spreadsheets and real traces do to a file: BOM, CRLF, 7-digit fractions, separators, disorder."""
    rows = ('46.6805900,"1,374",44', "52.1000000,10,0", "50.9951690,396,109", "48.0000000,7,8")
    text = AZURE_HEADER + "".join(f"2023-11-16 18:15:{row}\n" for row in rows)
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    return path


def test_what_spreadsheets_do_to_a_file_is_read_and_counted(tmp_path: Path) -> None:
    said = chameleon("trace", "describe", odd_file(tmp_path / "odd.csv"))
    facts = json.loads(said.out)
    assert facts["rows"] == 3
    assert facts["input_tokens"]["max"] == 1374
    assert facts["notes"] == [["rows with zero output tokens dropped", 1], ["rows moved to their place in time", 2]]


def test_a_run_tells_what_was_done_to_the_rows_of_its_trace(tmp_path: Path) -> None:
    said = chameleon("run", "--trace", odd_file(tmp_path / "odd.csv"), "--scale", "2")
    assert "note: odd: 1 row with zero output tokens dropped" in said.err
    assert "note: odd: 2 rows moved to their place in time" in said.err
    assert "note: odd: lengths divided by 2 (3 rows)" in said.err
    assert "note" not in said.out


def test_a_file_with_fewer_requests_than_asked_for_is_told(tmp_path: Path) -> None:
    trace = azure_file(tmp_path / "one.csv", "46.6805900,374,44", "50.9951690,396,109")
    asked = "note: one: 2 requests, because the file holds no more; 3 were asked for"
    assert asked in chameleon("run", "--trace", trace, "--requests", "3").err
    assert "asked for" not in chameleon("run", "--trace", trace, "--requests", "2").err


def test_a_conversion_leaves_lengths_and_stamps_as_they_are(tmp_path: Path) -> None:
    source = azure_file(tmp_path / "one.csv", "46.6805900,374,44", "50.9951690,396,109")
    said = chameleon("trace", "convert", source, tmp_path / "deep" / "two.csv")
    trace = read_trace(tmp_path / "deep" / "two.csv")
    assert said.code == 0
    assert trace.prompt_tokens.tolist() == [374, 396]
    assert trace.arrival_s.tolist() == pytest.approx([0, 4.314579])


def test_a_conversion_does_not_overwrite_its_source(tmp_path: Path) -> None:
    source = azure_file(tmp_path / "one.csv", "46.6805900,374,44")
    before = source.read_bytes()
    said = chameleon("trace", "convert", source, source)
    assert said.code == 2
    assert "is the trace itself" in said.err
    assert source.read_bytes() == before


def test_a_made_trace_reads_back_with_its_adapters(tmp_path: Path) -> None:
    chameleon("trace", "make", tmp_path / "made.csv", "--num-prompts", "50", "--request-rate", "3")
    trace = read_trace(tmp_path / "made.csv")
    assert len(trace) == 50
    assert all(spec is not None for spec in trace.palette)


def test_a_preset_is_described_without_a_file() -> None:
    facts = json.loads(chameleon("trace", "describe", "--workload", "uniform").out)
    assert (facts["rows"], facts["adapters_named"]) == (600, 200)


@pytest.mark.parametrize("flags", [["--workload", "paper"], ["--rate", "3"]])
def test_flags_that_a_file_makes_useless_are_refused(flags: list[str], tmp_path: Path) -> None:
    file = azure_file(tmp_path / "one.csv", "46.6805900,374,44")
    said = chameleon("trace", "describe", file, *flags)
    assert said.code == 2
    assert f"{flags[0]}: not allowed with a trace file" in said.err


def test_flags_about_a_file_are_refused_without_one() -> None:
    said = chameleon("trace", "describe", "--format", "azure")
    assert said.code == 2
    assert "--format: allowed only with a trace file" in said.err


def test_a_trace_is_held_against_the_window_of_a_model(tmp_path: Path) -> None:
    file = azure_file(tmp_path / "one.csv", "46.6805900,2000,49", "50.9951690,396,109")
    facts = json.loads(chameleon("trace", "describe", file, "--model", "llama-7b").out)
    assert facts["notes"] == [["rows over the context window of llama-7b, 2048 tokens, served as they are", 1]]
    assert json.loads(chameleon("trace", "describe", file).out)["notes"] == []


def test_any_key_of_a_workload_can_be_set_for_a_made_trace(tmp_path: Path) -> None:
    chameleon("trace", "make", tmp_path / "made.csv", "--requests", "20", "--set", "workload.adapters=0")
    assert read_trace(tmp_path / "made.csv").palette == (None,)


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("cache.kind=lru", "only keys of the workload are allowed here"),
        ("workload.adaptors=3", "--set workload.adaptors=3: adaptors: "),
        ("workload.adapters=-3", "--set workload.adapters=-3: adapters: "),
    ],
)
def test_a_key_that_cannot_be_set_is_told(key: str, what: str, tmp_path: Path) -> None:
    said = chameleon("trace", "make", tmp_path / "made.csv", "--set", key)
    assert said.code == 2
    assert what in said.err
    assert not (tmp_path / "made.csv").exists()


def test_a_column_is_taken_for_adapters_and_texts_are_estimated(tmp_path: Path) -> None:
    models = tmp_path / "models.csv"
    models.write_text("Timestamp,Model,Request tokens,Response tokens\n0,GPT-4,10,1\n1,ChatGPT,10,1\n")
    assert json.loads(chameleon("trace", "describe", models, "--adapter-column", "model").out)["adapters_named"] == 2
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"prompt": "one two three", "output_len": 7}\n')
    chameleon("trace", "convert", texts, tmp_path / "out.csv", "--text-tokens", "words", "--rate", "1")
    assert read_trace(tmp_path / "out.csv").prompt_tokens.tolist() == [3]


def test_a_folder_of_clients_is_described_and_converted_by_the_seed(tmp_path: Path) -> None:
    folder = tmp_path / "clients"
    folder.mkdir()
    (folder / "chunk-3-trace.csv").write_text("0,0.5,1,Gamma,1,2\n")
    lengths = {"input_tokens": "{100: 1.0}", "output_tokens": "{10: 1.0}"}
    (folder / "chunk-3-dataset.json").write_text(json.dumps({"0": lengths}))
    facts = [json.loads(chameleon("trace", "describe", folder, "--seed", seed).out) for seed in "112"]
    assert facts[0] == facts[1] != facts[2]
    assert (facts[0]["rows"], facts[0]["lacks"]) == (300, ["adapters"])
    chameleon("trace", "convert", folder, tmp_path / "out.csv", "--adapter-column", "client")
    assert [spec and spec.id for spec in read_trace(tmp_path / "out.csv").palette] == ["client-3"]
