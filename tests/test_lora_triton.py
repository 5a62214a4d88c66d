"""The Triton kernels without a GPU: run in Triton's interpreter, and compiled for the cards we mean."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="Triton is not installed (it comes with torch for CUDA)")

from gpu_validate.lora.backends import backend  # noqa: E402 - torch may be missing
from gpu_validate.lora.triton_launch import check_device  # noqa: E402
from tests.lora_world import TOLERANCE  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
SHARED_BYTES = {80: 163 * 1024, 86: 99 * 1024, 89: 99 * 1024, 90: 227 * 1024}  # of one block, by compute capability
NAMES = pytest.mark.parametrize("name", ["segmented", "bgmv"])


def worker(folder: Path, *arguments: str, interpret: bool) -> dict[str, Any]:
    """Run `tests/triton_worker.py` and return what it found."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(folder)} | ({"TRITON_INTERPRET": "1"} if interpret else {})
    command = [sys.executable, "-W", "error", "-m", "tests.triton_worker", *arguments]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if "Cannot find ptxas" in run.stderr:
        pytest.skip("this Triton comes without ptxas")
    assert run.returncode == 0, run.stderr
    found: dict[str, Any] = json.loads(run.stdout)
    return found


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return worker(tmp_path_factory.mktemp("triton"), "interpret", interpret=True)


@NAMES
def test_the_kernels_agree_with_the_reference(interpreted: dict[str, Any], name: str) -> None:
    errors = {case: found for case, found in interpreted[name].items() if isinstance(found, float)}
    assert len(errors) == 5
    for case, error in errors.items():
        assert error <= TOLERANCE[torch.float16 if "float16" in case else torch.float32], case


@NAMES
def test_the_kernels_leave_a_batch_without_work_as_it_is(interpreted: dict[str, Any], name: str) -> None:
    assert interpreted[name]["untouched"] is True


@NAMES
def test_the_kernels_follow_tables_that_are_overwritten(interpreted: dict[str, Any], name: str) -> None:
    assert interpreted[name]["reuses padded tables"] is True


@NAMES
def test_bfloat16_is_refused_in_the_interpreter(interpreted: dict[str, Any], name: str) -> None:
    assert "bfloat16 wrongly" in interpreted[name]["bfloat16"]


@pytest.mark.parametrize("cc", SHARED_BYTES)
def test_the_kernels_compile_for_a_card(tmp_path: Path, cc: int) -> None:
    found = worker(tmp_path, "compile", str(cc), interpret=False)
    assert list(found) == ["segmented shrink", "segmented expand", "bgmv shrink", "bgmv expand"]
    for kernel, facts in found.items():
        assert facts["cubin_bytes"] > 0
        assert facts["shared_bytes"] <= SHARED_BYTES[cc]
        assert facts["wide_loads"], kernel
        assert facts["tensor_cores"] == kernel.startswith("segmented")


@NAMES
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_kernel_without_a_device_or_the_interpreter_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(RuntimeError, match="no CUDA device, and TRITON_INTERPRET=1 was not set"):
        backend(name)


def test_a_kernel_is_not_given_tensors_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(RuntimeError, match=r"need CUDA tensors .* got cpu"):
        check_device(torch.zeros(1))
