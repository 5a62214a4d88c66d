"""A run directory appears whole, comes back as it was, and never costs anybody their files."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from pandas.testing import assert_frame_equal

from sim.results import rundir
from sim.results.rundir import environment, read_run, write_run

SUMMARY = {"system": "fifo", "workload": "tiny", "hit_rate": None}


def frames(rows: int = 3) -> dict[str, pd.DataFrame]:
    frame = pd.DataFrame({
        "request_id": np.arange(rows),
        "adapter_id": pd.Series(["a", None, "b"][:rows], dtype="str"),
        "replica": pd.Series([0, None, 1][:rows], dtype="Int16"),
        "tenant": pd.Series([None] * rows, dtype="str"),
        "ttft_s": np.array([0.1, np.nan, 0.3])[:rows],
        "slo_ok": pd.Series([True, None, False][:rows], dtype="boolean"),
    })  # fmt: skip
    return {"requests": frame, "adapters": pd.DataFrame({"rank": [8]}), "timeseries": pd.DataFrame({"t_s": [1.0]})}


def write(directory: Path, **changes: Any) -> Path:
    parts: dict[str, Any] = {
        "config": {"z": 1, "a": {"rate": 2.5}},
        "summary": SUMMARY,
        "frames": frames(),
        "bench": {"date": "20250101-000000"},
        "env": {"seed": 3},
    }
    return write_run(directory, **(parts | changes))


def test_a_run_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write(tmp_path / "runs" / "one")
    run = read_run(tmp_path / "runs" / "one")
    assert (run.summary, run.bench, run.env) == (SUMMARY, {"date": "20250101-000000"}, {"seed": 3})
    assert run.config == {"z": 1, "a": {"rate": 2.5}}
    assert_frame_equal(run.requests, frames()["requests"])
    assert_frame_equal(run.adapters, frames()["adapters"])
    assert_frame_equal(run.timeseries, frames()["timeseries"])


def test_a_run_directory_holds_the_declared_files_and_nothing_else(tmp_path: Path) -> None:
    path = write(tmp_path / "one")
    assert {file.name for file in path.iterdir()} == {
        "config.yaml",
        "summary.json",
        "requests.parquet",
        "adapters.parquet",
        "timeseries.parquet",
        "vllm_bench.json",
        "env.json",
        "DONE",
    }
    assert [file.name for file in tmp_path.iterdir()] == ["one"]


def test_equal_tables_give_equal_bytes(tmp_path: Path) -> None:
    first, second = write(tmp_path / "one"), write(tmp_path / "two")
    assert (first / "requests.parquet").read_bytes() == (second / "requests.parquet").read_bytes()


def test_nulls_keep_their_column_s_type_in_the_file(tmp_path: Path) -> None:
    schema = pq.read_schema(write(tmp_path / "one") / "requests.parquet")
    assert str(schema.field("replica").type) == "int16"
    assert str(schema.field("slo_ok").type) == "bool"
    assert "string" in str(schema.field("tenant").type)


def test_keys_keep_their_declared_order_in_files(tmp_path: Path) -> None:
    path = write(tmp_path / "one")
    assert list(json.loads((path / "summary.json").read_text())) == list(SUMMARY)
    assert (path / "config.yaml").read_text().startswith("z: 1\na:")


def test_an_earlier_run_is_replaced(tmp_path: Path) -> None:
    path = write(tmp_path / "one")
    (path / "report.html").write_text("old")
    write(path, summary=SUMMARY | {"system": "new"})
    assert read_run(path).summary["system"] == "new"
    assert not (path / "report.html").exists()
    assert [file.name for file in tmp_path.iterdir()] == ["one"]


def test_an_interrupted_run_is_replaced(tmp_path: Path) -> None:
    path = write(tmp_path / "one")
    (path / "DONE").unlink()
    write(path)
    assert read_run(path).summary == SUMMARY


def test_an_empty_directory_becomes_a_run(tmp_path: Path) -> None:
    write(tmp_path)
    assert read_run(tmp_path).summary == SUMMARY


def test_a_directory_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match=r"not a run directory and is left alone: it holds thesis\.tex"):
        write(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_not_overwritten_by_a_run(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("precious")
    with pytest.raises(ValueError, match="is a file"):
        write(tmp_path / "one")


def test_a_run_that_fails_to_write_leaves_the_earlier_one(tmp_path: Path) -> None:
    path = write(tmp_path / "one")
    with pytest.raises(ValueError, match="JSON"):
        write(path, bench={"p99": float("nan")})
    assert read_run(path).summary == SUMMARY
    assert [file.name for file in tmp_path.iterdir()] == ["one"]


def test_a_run_that_cannot_be_put_in_place_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "one")
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.suffix == ".draft":
            raise PermissionError
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PermissionError):
        write(path, summary=SUMMARY | {"system": "new"})
    assert read_run(path).summary == SUMMARY


@pytest.mark.parametrize(("is_named", "told"), [(False, "one"), (True, "one/summary.json")])
def test_a_full_disk_is_told_with_the_run_or_its_file(
    told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_named: bool
) -> None:
    def full(_: object, path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *([str(path)] if is_named else []))

    monkeypatch.setattr(rundir, "_write_json", full)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as caught:
        write(tmp_path / "one")
    assert caught.value.filename == str(tmp_path / told)
    assert list(tmp_path.iterdir()) == []


def test_a_run_goes_where_a_symbolic_link_leads(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for system in ("old", "new"):
        write(tmp_path / "link", summary=SUMMARY | {"system": system})
        assert (tmp_path / "link").is_symlink()
        assert read_run(tmp_path / "real").summary["system"] == system
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link", "real"]


def test_a_run_can_be_written_where_the_name_is_no_utf_8(tmp_path: Path) -> None:
    path = write(tmp_path / os.fsdecode(b"\xfc"))
    assert read_run(path).summary == SUMMARY


def test_done_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    write_text = Path.write_text

    def noted(self: Path, data: str, **options: Any) -> int:
        written.append(self.name)
        return write_text(self, data, **options)

    monkeypatch.setattr(Path, "write_text", noted)
    for writer in ("_write_parquet", "_write_json"):
        monkeypatch.setattr(rundir, writer, lambda content, path: written.append(path.name))
    write(tmp_path / "one")
    assert written[-1] == "DONE"
    assert len(written) == 8


def test_a_run_needs_its_three_tables(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tables requests, adapters, timeseries, got requests"):
        write(tmp_path / "one", frames={"requests": frames()["requests"]})


def test_reading_an_unfinished_run_names_what_is_missing(tmp_path: Path) -> None:
    path = write(tmp_path / "one")
    (path / "DONE").unlink()
    (path / "env.json").unlink()
    with pytest.raises(ValueError, match=r"not a finished run: it lacks env\.json, DONE"):
        read_run(path)


def test_reading_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere is not a directory"):
        read_run(tmp_path / "nowhere")


def test_the_environment_tells_seed_versions_and_platform() -> None:
    env = environment({}, seed=5, hardware="a40")
    assert (env["seed"], env["hardware"], env["packages"]["numpy"]) == (5, "a40", np.__version__)
    assert env["python"].startswith("3.")
    assert {"code_version", "git_sha", "platform"} <= set(env)
    assert json.loads(json.dumps(env)) == env


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not here")
@pytest.mark.parametrize("is_own", [True, False])
def test_the_commit_of_the_code_s_own_checkout_is_told_and_not_that_of_one_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_own: bool
) -> None:
    commit, code = "0123456789abcdef" * 2 + "01234567", tmp_path / "code"
    code.mkdir()
    checkout = code if is_own else tmp_path
    subprocess.run(["git", "init", "-q", checkout], check=True)
    (checkout / ".git" / "HEAD").write_text(f"{commit}\n")
    monkeypatch.setattr(rundir, "__file__", str(code / "sim" / "results" / "rundir.py"))
    assert environment({}, seed=5, hardware="a40")["git_sha"] == (commit if is_own else None)


def test_a_table_in_parts_is_written_part_by_part(tmp_path: Path) -> None:
    whole = frames()["requests"]
    made = []

    def parts() -> Iterator[pd.DataFrame]:
        for start in range(3):
            made.append(start)
            yield whole.iloc[start : start + 1].reset_index(drop=True)

    path = write(tmp_path / "one", frames=frames() | {"requests": parts()})
    assert made == [0, 1, 2]
    assert pq.ParquetFile(path / "requests.parquet").num_row_groups == 3
    assert_frame_equal(read_run(path).requests, whole)


def test_some_columns_are_read_without_the_others(tmp_path: Path) -> None:
    run = read_run(write(tmp_path / "one"))
    assert_frame_equal(run.columns("requests", ["ttft_s", "replica"]), frames()["requests"][["ttft_s", "replica"]])
    assert "requests" not in vars(run)


def test_a_further_file_is_written_with_the_run_before_it_is_done(tmp_path: Path) -> None:
    seen = []

    def extra(path: Path) -> None:
        seen.extend(sorted(file.name for file in path.parent.iterdir()))
        path.write_text("more")

    path = write(tmp_path / "one", extras={"timeline.json.gz": extra})
    assert (path / "timeline.json.gz").read_text() == "more"
    assert "requests.parquet" in seen
    assert "DONE" not in seen


def test_a_further_file_has_one_of_the_known_names(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a run may also hold timeline.json.gz, .*, got notes.txt"):
        write(tmp_path / "one", extras={"notes.txt": Path.touch})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["summary.json", "requests.parquet", "timeseries.parquet"])
@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1 and no end", b"\xff{"])
def test_a_damaged_file_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    run = write(tmp_path / "run")
    (run / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is damaged: remove {run} and run it again"):
        read_run(run)
