"""A check end to end on a CPU: real runs of the mini engine against simulated ones, their files, their honesty."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import chameleon

pytest.importorskip("torch")


def test_a_check_serves_simulates_and_reports_every_system(tmp_path: Path) -> None:
    words = ["gpu", "check", "--device", "cpu", "--lora", "torch_loop", "--hardware", "a40", "--out", str(tmp_path)]
    words += ["--system", "slora", "--system", "chameleon", "--rate", "8", "-n", "8", "--set", "workload.scale=60"]
    said = chameleon(*words, "--repeat")
    assert said.code == 0, said.err
    assert "executed on a CPU with tiny dimensions: this shows that it works, no more" in said.out
    assert "not supported" in said.out
    for system in ("slora", "chameleon"):
        report = json.loads((tmp_path / f"{system}-at-8.json").read_text())
        assert report["evidence"] is False
        assert report["sim_vs_real"]["requests"]["paired"] == 8
        assert report["real_vs_real"] is not None
        assert (tmp_path / f"{system}-at-8-measured" / "DONE").exists()
        assert (tmp_path / f"{system}-at-8.png").exists()
    assert len(json.loads((tmp_path / "profile.frozen.json").read_text())["sha256"]) == 64
    assert json.loads((tmp_path / "policies-at-8.json").read_text())["gains"]


def test_a_check_without_a_gpu_says_so_in_one_sentence(tmp_path: Path) -> None:
    import torch  # noqa: PLC0415

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    said = chameleon("gpu", "check", "--hardware", "a40", "--out", str(tmp_path / "check"))
    assert said.code == 2
    assert len(said.err.strip().splitlines()) == 1
    assert not (tmp_path / "check").exists()
