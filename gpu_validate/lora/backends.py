"""The ways to add LoRA to a linear map, by name. Importing this needs neither torch nor Triton."""

from __future__ import annotations

import inspect
import os
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol, cast

from sim.names import did_you_mean

if TYPE_CHECKING:
    import torch

    from gpu_validate.lora.layout import Layout
    from gpu_validate.lora.plan import LoraPlan

_CLASSES = {
    "reference": "Reference",
    "torch_loop": "TorchLoop",
    "grouped": "Grouped",
    "segmented": "Segmented",
    "bgmv": "Bgmv",
}
_TRITON = frozenset({"segmented", "bgmv"})  # the capturable ones


class Backend(Protocol):
    """One way to compute y += scale * (x A^T) B^T, each token with its own adapter's A, B and scale.

    Attributes:
        name: as `backend` takes it.
        capturable: whether a CUDA graph of `apply` follows `LoraPlan.copy_from`; False where the host loops.
    """

    name: str
    capturable: bool

    def apply(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        arena: torch.Tensor,
        layout: Layout,
        layer: int,
        module: str,
        plan: LoraPlan,
    ) -> None:
        """Add the adapters' part of one module to y, in place; nothing is changed for tokens without an adapter.

        Products are accumulated in float32 or better. Rows of x and y may be strided, their columns may not.

        Args:
            y: [tokens, out], result of the base model.
            x: [tokens, in], of y's dtype.
            arena: vector of adapters, of y's dtype.
            layout: where the matrices lie from an adapter's base on.
            layer: of the layout.
            module: of the layout.
            plan: which token uses which adapter, on y's device.

        Raises:
            ValueError: if shapes, dtypes, devices or strides do not fit, or the layout has no such layer or module.
            RuntimeError: if the backend cannot serve the device, the dtype or the features.
        """


def available() -> dict[str, str | None]:
    """Return for each backend why it cannot be used here, or None if it can."""
    return {name: _reason(name) for name in _CLASSES}


def is_capturable(name: str) -> bool:
    """Whether steps with a backend's kernels can be CUDA graphs, as its `capturable` says."""
    return name in _TRITON


def backend(name: str) -> Backend:
    """Return a backend by name.

    Raises:
        ValueError: if the name is unknown; the message has the closest one.
        RuntimeError: if the backend cannot be used here; the message says why.
    """
    if name not in _CLASSES:
        msg = f"unknown LoRA backend {name!r}{did_you_mean(name, _CLASSES)}"
        raise ValueError(msg)
    reason = _reason(name)
    if reason is not None:
        msg = f"the LoRA backend {name!r} cannot be used here: {reason}"
        raise RuntimeError(msg)
    return cast("Backend", getattr(import_module(f"gpu_validate.lora.{name}"), _CLASSES[name])())


def _reason(name: str) -> str | None:
    if find_spec("torch") is None:
        return "torch is not installed"
    if name == "grouped":
        return _reason_against_grouped()
    return _reason_against_triton() if name in _TRITON else None


def _reason_against_grouped() -> str | None:
    import torch  # noqa: PLC0415 - so that this module can say that torch is missing

    function = getattr(torch.nn.functional, "grouped_mm", None)
    try:
        found = function is not None and "offs" in inspect.signature(function).parameters
    except ValueError:
        found = False
    return None if found else f"torch {torch.__version__} has no torch.nn.functional.grouped_mm(..., offs=...)"


def _reason_against_triton() -> str | None:
    import torch  # noqa: PLC0415

    if find_spec("triton") is None:
        return "Triton is not installed (it comes with torch for CUDA)"
    if torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1":
        return None
    return "there is no CUDA device, and TRITON_INTERPRET=1 was not set for Triton's interpreter"
