"""What `probe` knows of a device and what it measures."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from gpu_validate import probe  # noqa: E402 - after the skip
from gpu_validate.amounts import amount_of  # noqa: E402
from gpu_validate.probe import TINY, Probe, Size, ceilings, facts, find_device, installed, stamp_of  # noqa: E402
from gpu_validate.shapes import Shape  # noqa: E402

CPU = torch.device("cpu")


class Nvml:
    """A driver's library that knows a clock, a driver, and nothing else."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM = 1, 2

    class NVMLError(Exception):
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802 - the library's own name
        return f"handle of {uuid}"

    def nvmlSystemGetDriverVersion(self) -> bytes:  # noqa: N802
        return b"570.1"

    def nvmlDeviceGetClockInfo(self, handle: str, which: int) -> int:  # noqa: N802
        assert handle == "handle of GPU-abc"
        return 1000 + which

    def nvmlDeviceGetEccMode(self, handle: str) -> Any:  # noqa: N802
        raise self.NVMLError


def test_a_cpu_says_what_it_is() -> None:
    found = facts(CPU)
    assert found["device"].startswith("cpu ")
    assert found["torch"] == torch.__version__


def test_the_stamp_has_a_day_and_the_seed() -> None:
    stamp = stamp_of(facts(CPU), 5)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", stamp.date)
    assert stamp.seed == 5


def test_without_cuda_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"^no CUDA device is visible here .*--device cpu"):
        find_device("cuda")


def test_a_distribution_that_is_not_installed_has_no_version() -> None:
    assert installed("torch") is not None
    assert installed("no-such-distribution-here") is None


def test_what_the_driver_does_not_tell_is_none() -> None:
    found = probe._of_nvml(Nvml(), "abc")
    assert (found["driver"], found["sm_mhz"], found["memory_mhz"]) == ("570.1", 1001, 1002)
    assert (found["ecc"], found["pcie_generation"]) == (None, None)


def test_without_the_drivers_tool_the_driver_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_arguments: Any, **_options: Any) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", missing)
    assert probe._smi_driver() == "unknown"


def test_the_ceilings_say_how_much_they_move_and_compute() -> None:
    amounts = {shape.config["ceiling"]: amount_of("probe", shape.config) for shape in ceilings(Size())}
    assert amounts["gemm"].flops == 2 * 8192**3
    assert amounts["d2d_copy"].memory_bytes == 2 * 2**30
    assert amounts["h2d_pinned"].link_bytes == amounts["d2h_pinned"].link_bytes == 2**30


@pytest.mark.parametrize("shape", ceilings(TINY), ids=lambda shape: str(shape.config["ceiling"]))
def test_every_ceiling_is_measured(shape: Shape) -> None:
    torch.set_num_threads(1)
    assert Probe(CPU)(shape, 0.001).timing.n >= 20


def test_a_copy_of_a_ceiling_has_the_size_that_it_says() -> None:
    shape = next(shape for shape in ceilings(TINY) if shape.config["ceiling"] == "d2d_copy")
    copied = Probe(CPU)._work(shape.config)()
    assert isinstance(copied, torch.Tensor)
    assert copied.numel() == TINY.copy_bytes
