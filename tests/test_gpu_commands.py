"""`chameleon gpu`: exit codes, streams and files; none of it needs a GPU, and some of it no torch."""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import pytest

from gpu_validate import commands, iterations
from gpu_validate.rows import SWEEP, Peaks, read_rows
from gpu_validate.runner import DeviceLostError
from tests.commands import chameleon, python

MEASURING = ("probe", "load", "kernels", "calibrate")


def tiny(command: str, out: Path, *more: str, budget_s: float = 0.5) -> tuple[str | Path, ...]:
    return ("gpu", command, "--device", "cpu", "--budget-s", str(budget_s), "--out", out, *more)


def without_cuda() -> mock._patch[mock.Mock]:
    torch = pytest.importorskip("torch")
    return mock.patch.object(torch.cuda, "is_available", return_value=False)


@pytest.mark.parametrize("arguments", [["gpu", "--help"], ["gpu", "load", "--help"], ["--help"]])
def test_help_needs_no_torch(arguments: list[str], tmp_path: Path) -> None:
    code = (
        f"import sys; sys.modules['torch'] = None; sys.argv = ['chameleon', *{arguments!r}]\n"
        "from sim.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as left: print(left.code, [m for m in ('pandas', 'scipy') if m in sys.modules])"
    )
    assert python(code, tmp_path).out.splitlines()[-1] == "0 []"


def test_importing_the_commands_does_not_import_torch(tmp_path: Path) -> None:
    code = "import gpu_validate.commands, sys; print('torch' in sys.modules)"
    assert python(code, tmp_path).out == "False\n"


def test_the_module_can_be_run(tmp_path: Path) -> None:
    code = "import runpy, sys; sys.argv = ['x', '--help']; runpy.run_module('gpu_validate', run_name='__main__')"
    assert "Usage: chameleon gpu" in python(code, tmp_path).out


def test_help_names_the_commands() -> None:
    said = chameleon("gpu", "--help")
    assert [name for name in (*MEASURING, "fit", "compare") if f"\n  {name} " not in said.out] == []


@pytest.mark.parametrize("command", MEASURING)
def test_without_a_gpu_there_is_one_sentence_and_exit_code_2(command: str, tmp_path: Path) -> None:
    with without_cuda():
        said = chameleon("gpu", command, "--out", tmp_path / "new")
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("error: no CUDA device is visible here")
    assert said.err.count("\n") == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", MEASURING)
def test_without_torch_there_is_one_sentence_and_exit_code_2(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "find_spec", lambda _name: None)
    said = chameleon("gpu", command, "--out", tmp_path)
    assert (said.code, said.out) == (2, "")
    assert said.err == "error: this command needs torch: pip install -e '.[gpu]' in a checkout\n"


def test_probe_says_what_the_device_is_and_writes_it_down(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    said = chameleon(*tiny("probe", tmp_path, budget_s=5))
    assert said.code == 0
    assert said.out.startswith("device: cpu ")
    assert "\nprobe: 4 rows measured" in said.out
    assert json.loads((tmp_path / commands.FACTS).read_text())["driver"] == "none"
    rows = read_rows(tmp_path / SWEEP)
    assert [row.config["ceiling"] for row in rows] == ["d2d_copy", "gemm", "h2d_pinned", "d2h_pinned"]
    assert {(row.clock, row.note[:14]) for row in rows} == {("host", "timed on a CPU")}


def test_probe_without_a_folder_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    assert chameleon("gpu", "probe", "--device", "cpu", "--budget-s", "0.2").code == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["load", "kernels"])
def test_a_second_start_goes_on_where_the_first_ended(command: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    first = chameleon(*tiny(command, tmp_path, budget_s=0.2))
    assert first.code == 0
    before = read_rows(tmp_path / SWEEP)
    assert before
    again = chameleon(*tiny(command, tmp_path, budget_s=0.2))
    after = read_rows(tmp_path / SWEEP)
    assert f"{len(before)} already there" in again.out
    assert after[: len(before)] == before
    assert len({row.key for row in after}) == len(after)


def test_what_there_was_no_time_for_is_told(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    assert "dropped for lack of time" in chameleon(*tiny("kernels", tmp_path, budget_s=0.01)).out


def test_an_interrupt_leaves_the_rows_and_its_own_exit_code(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from gpu_validate.transfers import Loader  # noqa: PLC0415 - needs torch

    whole, calls = Loader.__call__, []

    def stop_at_third(self: Loader, *arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(self, *arguments)  # type: ignore[arg-type]

    with mock.patch.object(Loader, "__call__", stop_at_third):
        said = chameleon(*tiny("load", tmp_path))
    assert (said.code, len(read_rows(tmp_path / SWEEP))) == (130, 2)
    assert "what was finished is kept" in said.err


def test_peaks_that_are_given_judge_the_rows(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    said = chameleon(*tiny("probe", tmp_path, "--peaks", "1e-9,1e-9,1e-9", budget_s=5))
    rows = read_rows(tmp_path / SWEEP)
    assert not any(row.valid for row in rows)
    assert any("times the peak" in row.why for row in rows)
    assert "4 of them invalid" in said.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("load",), "Missing option '--out'"),
        (("probe", "--device", "tpu"), "'tpu' is not allowed; cuda or cpu is"),
        (("probe", "--device", "cpu", "--peaks", "1,2"), "'1,2' is not allowed; three numbers are"),
        (("probe", "--device", "cpu", "--peaks", "1,2,fast"), "'fast' is not allowed; a number above 0 is"),
        (("probe", "--budget-s", "0"), "a number above 0 is"),
        (("load", "--device", "cpu", "--out", "new", "--model", "lama-7b"), "did you mean 'llama-7b'"),
        (("fit", "--out", "new"), "there is no sweep.jsonl in new"),
    ],
)
def test_a_mistake_is_one_message_and_writes_nothing(
    arguments: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = chameleon("gpu", *arguments)
    assert answer.code == 2
    assert said in " ".join(answer.err.replace("│", " ").split())
    assert "Traceback" not in answer.err
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_that_is_broken_is_located(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / SWEEP).write_text("nonsense\n")
    said = chameleon(*tiny("load", tmp_path))
    assert said.code == 2
    assert f"{SWEEP}:1: not JSON" in said.err


def parts(monkeypatch: pytest.MonkeyPatch, done: list[tuple[str, commands.Options]]) -> None:
    """Have every part of a calibration only tell that it ran."""
    for name in ("probe", "load", "kernels"):
        monkeypatch.setattr(commands, f"main_{name}", lambda given, name=name: done.append((name, given)))
    monkeypatch.setattr(iterations, "main_iterations", lambda given: done.append(("iterations", given)))


def test_calibrate_gives_each_part_its_share_and_then_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, commands.Options]] = []
    fitted = tmp_path / "profile.yaml"
    parts(monkeypatch, done)
    monkeypatch.setattr(commands, "main_fit", lambda _options, base: fitted if base == "h100" else None)
    options = commands.Options("cpu", tmp_path, budget_s=1000.0)
    assert commands.main_calibrate(options, "h100") == fitted
    assert [name for name, _ in done] == ["probe", "load", "kernels", "iterations", "kernels", "iterations"]
    assert [round(given.budget_s / 1000, 2) for _, given in done] == [part.share for part in commands.PARTS]


def test_calibrate_measures_the_engine_s_own_kernels_before_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, commands.Options]] = []
    parts(monkeypatch, done)
    monkeypatch.setattr(commands, "main_fit", lambda _options, _base: tmp_path)
    commands.main_calibrate(commands.Options("cuda", tmp_path))
    asked = [given for name, given in done if name in {"kernels", "iterations"}]
    assert [given.kernels for given in asked] == [("segmented",), ("segmented",), (), ()]
    assert [given.wants("bgmv") for given in asked] == [False, False, True, True]


def test_known_peaks_fill_in_what_was_not_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(Peaks, "of_device", lambda _name: Peaks(1.0, 2.0, 3.0))
    ready = commands.bench(commands.Options("cpu", tmp_path, peaks=Peaks(link_bytes=9.0)))
    assert ready.peaks == Peaks(1.0, 2.0, 9.0)


def test_fit_takes_the_rows_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / SWEEP).touch()
    asked: list[object] = []

    def run_fit(*given: object) -> Path:
        asked.append(given)
        return tmp_path / "profile.yaml"

    monkeypatch.setattr("gpu_validate.fit.run_fit", run_fit)
    said = chameleon("gpu", "fit", "--out", tmp_path, "--base", "h100")
    assert asked == [(tmp_path / SWEEP, tmp_path, "h100")]
    assert said.out == f"fitted: {tmp_path / 'profile.yaml'}; use it with --hardware {tmp_path / 'profile.yaml'}\n"


def test_a_part_that_fails_does_not_cost_the_fit_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[tuple[str, commands.Options]] = []

    def out_of_memory(_options: object) -> None:
        msg = "CUDA out of memory.\nTried to allocate"
        raise RuntimeError(msg)

    parts(monkeypatch, done)
    monkeypatch.setattr(commands, "main_load", out_of_memory)
    monkeypatch.setattr(commands, "main_fit", lambda _options, _base: tmp_path)
    assert commands.main_calibrate(commands.Options("cpu", tmp_path)) == tmp_path
    assert [name for name, _ in done] == ["probe", "kernels", "iterations", "kernels", "iterations"]
    assert capsys.readouterr().out == "load: failed: CUDA out of memory.\n"


def test_calibrate_fits_what_it_has_before_it_says_that_the_device_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def lose(_options: commands.Options) -> None:
        msg = "lora 1 failed: CUDA error: an illegal memory access was encountered"
        raise DeviceLostError(msg)

    monkeypatch.setattr(commands, "main_probe", lambda _options: done.append("probe"))
    monkeypatch.setattr(commands, "main_load", lose)
    monkeypatch.setattr(commands, "main_kernels", lambda _options: done.append("kernels"))
    monkeypatch.setattr(commands, "main_fit", lambda _options, _base: done.append("fit"))
    with pytest.raises(DeviceLostError, match="illegal memory access"):
        commands.main_calibrate(commands.Options("cpu", tmp_path))
    assert done == ["probe", "fit"]


@pytest.mark.parametrize("as_json", [False, True])
def test_compare_prints_the_report_of_a_log(*, as_json: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    def run_compare(*given: object, **options: object) -> dict[str, object]:
        asked.update(options, log=given)
        return {"schema_version": 1, "text": "a table"}

    monkeypatch.setattr("gpu_validate.compare.run_compare", run_compare)
    said = chameleon("gpu", "compare", tmp_path, "--set", "cache.kind=lru", "--rank", "8", *["--json"] * as_json)
    assert (asked["log"], asked["system"], asked["changes"]) == ((tmp_path, None), "chameleon", ("cache.kind=lru",))
    assert (asked["ranks"], asked["load"], asked["out"]) == (8, None, None)
    assert said.out == ('{\n  "schema_version": 1\n}\n' if as_json else "a table\n")
