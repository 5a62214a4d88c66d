"""What machine this is, and how fast it can be at the most: the ceilings that every other number is held against."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from gpu_validate.layers import floats
from gpu_validate.rows import Stamp
from gpu_validate.shapes import Shape
from gpu_validate.timing import Measured, Work, measure

UNKNOWN = "unknown"


def find_device(name: str) -> torch.device:
    """Return the device that a user named, ready for use.

    Raises:
        ValueError: if it is not here.
    """
    if name == "cpu":
        torch.set_num_threads(1)  # tiny work on several threads is mostly waiting for them
        return torch.device("cpu")
    if not torch.cuda.is_available():
        msg = "no CUDA device is visible here (--device cpu tries the harness on tiny sizes, as no evidence)"
        raise ValueError(msg)
    device = torch.device("cuda", torch.cuda.current_device())
    torch.cuda.set_device(device)
    return device


def facts(device: torch.device) -> dict[str, Any]:
    """Return what can be known of a device: names, versions, bytes, MHz; None where it is not told."""
    versions = {"torch": torch.__version__, "triton": installed("triton"), "python": platform.python_version()}
    if device.type != "cuda":
        return {"device": f"cpu {platform.processor() or platform.machine()}", "driver": "none", **versions}
    given = torch.cuda.get_device_properties(device)
    return {
        "device": given.name,
        "cuda": torch.version.cuda,
        **versions,
        "compute_capability": f"{given.major}.{given.minor}",
        "multiprocessors": given.multi_processor_count,
        "memory_bytes": given.total_memory,
        "l2_bytes": getattr(given, "L2_cache_size", None),
        **_of_driver(str(getattr(given, "uuid", ""))),
    }


def stamp_of(found: dict[str, Any], seed: int) -> Stamp:
    """Return what every row says about this machine and run."""
    day = datetime.now(tz=UTC).date().isoformat()
    return Stamp(str(found["device"]), str(found["driver"]), str(found["torch"]), day, seed)


def installed(distribution: str) -> str | None:
    """Return the version of a distribution; None if it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _of_driver(uuid: str) -> dict[str, Any]:
    """Return what only the driver knows, through nvidia-ml-py if it is installed, else nvidia-smi."""
    try:
        import pynvml  # noqa: PLC0415 - optional
    except ImportError:
        return {"driver": _smi_driver()}
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return {"driver": _smi_driver()}
    try:
        return _of_nvml(pynvml, uuid)
    finally:
        pynvml.nvmlShutdown()


def _of_nvml(nvml: Any, uuid: str) -> dict[str, Any]:
    def ask(name: str, *arguments: Any) -> Any:
        try:
            return getattr(nvml, name)(*arguments)
        except (nvml.NVMLError, AttributeError):
            return None  # virtual machines and small cards do not tell everything

    # CUDA_VISIBLE_DEVICES renumbers devices for torch and not for the driver; the uuid is the same for both.
    handle = ask("nvmlDeviceGetHandleByUUID", f"GPU-{uuid}") or ask("nvmlDeviceGetHandleByIndex", 0)
    driver = ask("nvmlSystemGetDriverVersion") or UNKNOWN
    ecc = ask("nvmlDeviceGetEccMode", handle)
    return {
        "driver": driver.decode() if isinstance(driver, bytes) else driver,
        "pcie_generation": ask("nvmlDeviceGetMaxPcieLinkGeneration", handle),
        "pcie_width": ask("nvmlDeviceGetMaxPcieLinkWidth", handle),
        "pcie_generation_now": ask("nvmlDeviceGetCurrPcieLinkGeneration", handle),
        "pcie_width_now": ask("nvmlDeviceGetCurrPcieLinkWidth", handle),
        "sm_mhz": ask("nvmlDeviceGetClockInfo", handle, nvml.NVML_CLOCK_SM),
        "sm_max_mhz": ask("nvmlDeviceGetMaxClockInfo", handle, nvml.NVML_CLOCK_SM),
        "memory_mhz": ask("nvmlDeviceGetClockInfo", handle, nvml.NVML_CLOCK_MEM),
        "ecc": bool(ecc[0]) if ecc else None,
    }


def _smi_driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return UNKNOWN
    return said.partition("\n")[0].strip() or UNKNOWN


@dataclass(frozen=True)
class Size:
    """How large the ceilings are measured: bytes of a copy, and rows of a square matrix."""

    copy_bytes: int = 2**30
    matrix: int = 8192


TINY = Size(2**16, 64)


def ceilings(size: Size) -> list[Shape]:
    """Return what `probe` measures: a copy on the device, a matrix product, and pinned copies both ways."""
    gemm = {"flops": 2 * size.matrix**3, "memory_bytes": 6 * size.matrix**2, "matrix": size.matrix}
    configs: Iterator[dict[str, Any]] = iter(
        (
            {"ceiling": "d2d_copy", "memory_bytes": 2 * size.copy_bytes},  # read and written
            {"ceiling": "gemm", **gemm},
            {"ceiling": "h2d_pinned", "link_bytes": size.copy_bytes},
            {"ceiling": "d2h_pinned", "link_bytes": size.copy_bytes},
        )
    )
    return [Shape("probe", {**config, "split": "fit"}) for config in configs]


class Probe:
    """Measures the ceilings.

    Args:
        device: which one.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __call__(self, shape: Shape, budget_s: float) -> Measured:
        """Return how long a ceiling's work takes."""
        work = self._work(shape.config)
        return Measured(measure(work, device=self._device, budget_s=budget_s, flush_l2=False))

    def _work(self, config: dict[str, Any]) -> Work:
        if config["ceiling"] == "gemm":
            # Random data: a GPU multiplies zeros at a higher clock.
            sizes = config["matrix"], config["matrix"]
            a, b = (torch.randn(sizes, device=self._device, dtype=floats(self._device)) for _ in range(2))
            return partial(torch.mm, a, b, out=torch.empty_like(a))
        on_device = torch.device(self._device)
        ends = {
            "d2d_copy": (on_device, on_device),
            "h2d_pinned": (torch.device("cpu"), on_device),
            "d2h_pinned": (on_device, torch.device("cpu")),
        }[config["ceiling"]]
        size = config.get("link_bytes") or config["memory_bytes"] // 2
        source, target = (self._bytes(size, end) for end in ends)
        return partial(target.copy_, source, non_blocking=True)

    def _bytes(self, size: int, where: torch.device) -> torch.Tensor:
        pin = where.type == "cpu" and self._device.type == "cuda"
        return torch.ones(size, dtype=torch.uint8, device=where, pin_memory=pin)
