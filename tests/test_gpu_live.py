"""A check end to end on a CPU: real runs of the mini engine against simulated ones, their files, their honesty."""

from __future__ import annotations

import json
import weakref
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.commands import chameleon

pytest.importorskip("torch")

from gpu_validate.live import Setup, _copy_left, copy_mode, predicted_anew, serve
from gpu_validate.lora.backends import is_capturable
from sim.build import deploy
from sim.config import load_config
from sim.serving.records import Records

ONE = ("loading.copies=1",)
FLAT = (*ONE, "loading.ops_per_layer=0")


@pytest.mark.parametrize(
    ("changes", "mode"),
    [
        ((), "slora_double"),
        (ONE, "per_layer"),
        (FLAT, "flat"),
        ((*FLAT, "loading.pinned=false"), "pageable"),
        (("loading.pinned=false",), "slora_double"),
        (("adapters.memory=slots", "adapters.slots=4"), "vllm_slots"),
    ],
)
def test_adapters_are_copied_as_the_configuration_says(changes: tuple[str, ...], mode: str) -> None:
    assert copy_mode(load_config("slora", changes, {})) == mode


def test_an_engine_is_gone_when_its_run_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu_validate.engine import build  # noqa: PLC0415 - needs torch
    from gpu_validate.engine.worker import Worker  # noqa: PLC0415

    workers: list[weakref.ref[Worker]] = []

    class Watched(Worker):
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            self.me = self  # as graphs make it
            workers.append(weakref.ref(self))

    monkeypatch.setattr(build, "Worker", Watched)
    changes = {"workload": {"requests": 2, "rate_per_s": 50.0, "scale": 60.0}}
    served = serve(load_config("slora", (), changes), Setup("cpu", "torch_loop"))
    assert len(served.result.requests) == 2
    assert [one() for one in workers] == [None]


def test_a_check_serves_simulates_and_reports_every_system(tmp_path: Path) -> None:
    words = ["gpu", "check", "--device", "cpu", "--hardware", "a40", "--out", str(tmp_path)]
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
    assert json.loads((tmp_path / "slora-at-8-measured" / "summary.json").read_text())["simulated"] is False


def test_kept_iterations_are_predicted_anew_as_they_were_when_nothing_changed(tmp_path: Path) -> None:
    words = ["gpu", "check", "--device", "cpu", "--hardware", "a40", "--rate", "8", "-n", "8", "--set"]
    words += ["workload.scale=60", "--out"]
    assert chameleon(*words, str(tmp_path / "served")).code == 0
    table = pd.read_parquet(tmp_path / "served" / "slora-at-8-measured.iterations.parquet")
    costs = deploy(load_config("slora", ("workload.scale=60",), {"hardware": "a40", "model": "llama-7b"})).costs
    assert {"prefill", "decode"} == set(table["kind"])
    assert (table["copy_left_s"] >= 0).all()
    decodes = table[table["kind"] == "decode"]
    blocks = -(-decodes["longest_tokens"] // 16)
    assert (decodes["input_bytes"] == 8 * decodes["requests"] * (4 + blocks)).all()
    assert (table["input_bytes"] > 0).all()
    assert predicted_anew(table, costs).tolist() == pytest.approx(table["predicted_s"].tolist())
    said = chameleon(*words, str(tmp_path / "judged"), "--runs", str(tmp_path / "served"))
    assert said.code == 0, said.err
    told = [json.loads((tmp_path / one / "slora-at-8.json").read_text())["sim_vs_real"] for one in ("served", "judged")]
    assert told[0]["iterations"] == told[1]["iterations"]
    assert told[0]["metrics"] == told[1]["metrics"]


def test_a_check_without_a_gpu_says_so_in_one_sentence(tmp_path: Path) -> None:
    import torch  # noqa: PLC0415

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    said = chameleon("gpu", "check", "--hardware", "a40", "--out", str(tmp_path / "check"))
    assert said.code == 2
    assert len(said.err.strip().splitlines()) == 1
    assert not (tmp_path / "check").exists()


@pytest.mark.parametrize(
    ("kernels", "reason"),
    [
        ("segmented", "LoRA kernels 'segmented' cannot be used here: there is no CUDA device"),
        ("segmentd", "unknown LoRA kernels 'segmentd' - did you mean 'segmented'?"),
    ],
)
def test_kernels_that_cannot_be_used_are_told_before_anything_runs(tmp_path: Path, kernels: str, reason: str) -> None:
    said = chameleon(
        "gpu", "check", "--device", "cpu", "--lora", kernels, "--hardware", "a40", "--out", str(tmp_path / "out")
    )
    assert said.code == 2
    assert reason in " ".join(said.err.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("setup", "has_graphs"),
    [
        (Setup(), True),
        (Setup(backend="bgmv"), True),
        (Setup(backend="grouped"), False),
        (Setup(uses_graphs=False), False),
        (Setup("cpu"), False),
    ],
)
def test_only_kernels_that_can_be_captured_have_graphs(setup: Setup, *, has_graphs: bool) -> None:
    assert setup.has_graphs == has_graphs
    backends = import_module(f"gpu_validate.lora.{setup.backend}")
    assert getattr(backends, setup.backend.capitalize()).capturable == is_capturable(setup.backend)


def test_what_is_left_of_a_copy_is_that_of_the_one_under_way() -> None:
    records = Records()
    for start, end in ((100, 150), (150, 180), (400, 500)):
        records.transfers.add((start, start, end, 0, 1, 0))
    records.swaps.add((200, 200, 260, 0, 1, 0))
    records.swaps.add((270, 270, 290, 0, 1, 1))  # to the host: the other direction
    at = np.array([99, 100, 149, 150, 179, 180, 210, 275, 499, 500])
    assert _copy_left(records, at).tolist() == [0, 50, 1, 30, 1, 0, 50, 0, 1, 0]
    assert _copy_left(Records(), at).tolist() == [0] * 10
