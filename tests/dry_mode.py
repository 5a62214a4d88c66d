"""The mode under which torch takes some host memory for a CUDA device's, and graphs of what was done under it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode, _pop_mode_temporarily
from torch.utils._pytree import tree_flatten

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
WAITS = {"item", "tolist", "__bool__", "__int__", "__float__", "__index__", "nonzero", "equal", "allclose"}
MIXES = {"copy_", "__getitem__", "__setitem__", "to", "set_"}  # may be given tensors of both sides
FROM_HOST = {"from_numpy", "is_tensor", "set_default_device"}


class Entry(NamedTuple):
    """One operation in a graph."""

    run: Callable[[], Any]
    outputs: list[torch.Tensor]  # of its own, which a replay overwrites


def tensors_of(*trees: Any) -> list[torch.Tensor]:
    """Return all tensors but those of a subclass, which only mark something, as torch's causal masks do."""
    return [one for one in tree_flatten(trees)[0] if type(one) is torch.Tensor]


class Places(dict[int, StorageWeakRef]):
    """Which memory is somewhere else than it seems; a weak reference keeps an address from being used again."""

    def put(self, tensor: torch.Tensor) -> None:
        if len(self) > 4096:
            for key in [key for key, reference in self.items() if reference.expired()]:  # type: ignore[no-untyped-call]
                del self[key]
        storage = tensor.untyped_storage()
        self[storage._cdata] = StorageWeakRef(storage)  # type: ignore[no-untyped-call]

    def has(self, tensor: torch.Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self


class DryCuda(TorchFunctionMode):
    """Sees every operation of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.on_device, self.pinned = Places(), Places()
        self.capture: DryGraph | None = None
        self.captures = self.replays = self.launches = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name == "__get__":
            return self._attribute(func, args[0])
        special: Callable[..., Any] | None = getattr(self, f"_{name}", None)
        if special is not None and args and isinstance(args[0], torch.Tensor):
            return special(*args, **kwargs)
        return self._operation(func, name, args, kwargs)

    def _attribute(self, func: Any, tensor: torch.Tensor) -> Any:
        is_on = self.on_device.has(tensor)
        told = {"device": CUDA if is_on else CPU, "is_cuda": is_on, "is_cpu": not is_on}
        name = func.__self__.__name__
        return told[name] if name in told else func(tensor)

    def _operation(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        given = tensors_of(args, kwargs)
        sides = {self.on_device.has(one) for one in given if one.dim() or self.on_device.has(one)}
        self._check(name, sides)
        where, is_pinned = kwargs.pop("device", None), kwargs.pop("pin_memory", False)
        is_on = torch.device(where).type == "cuda" if where is not None else self._inherits(name, given)
        run = partial(func, *args, **kwargs)  # what a graph repeats
        changed = self._changed(name, args, kwargs)
        if self.capture is not None and True in {*sides, is_on}:
            found = self.capture.take(run, given, changed)
        else:
            found = run()
        self._settle(found, given, is_on=is_on, is_pinned=is_pinned)
        return found

    def _inherits(self, name: str, given: list[torch.Tensor]) -> bool:
        return name not in FROM_HOST and any(self.on_device.has(one) for one in given)

    def _check(self, name: str, sides: set[bool]) -> None:
        if len(sides) > 1 and name not in MIXES:
            msg = f"Expected all tensors to be on the same device, but {name} got some of cuda:0 and some of cpu"
            raise RuntimeError(msg)
        if self.capture is not None and ((True in sides and name in WAITS) or (len(sides) > 1 and name != "copy_")):
            msg = f"CUDA error: operation not permitted when stream is capturing: {name}"
            raise RuntimeError(msg)

    def _settle(self, found: Any, given: list[torch.Tensor], *, is_on: bool, is_pinned: bool) -> None:
        known = {one.untyped_storage()._cdata for one in given}
        for one in tensors_of(found):
            if one.untyped_storage()._cdata in known:
                continue
            if is_on:
                self.on_device.put(one)
            if is_pinned:
                self.pinned.put(one)

    @staticmethod
    def _changed(name: str, args: Any, kwargs: dict[str, Any]) -> list[torch.Tensor]:
        is_in_place = (name.endswith("_") and not name.endswith("__")) or name == "__setitem__"
        return [*tensors_of(args[:1] if is_in_place else ()), *tensors_of(kwargs.get("out"))]

    def _to(self, tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        where = kwargs.pop("device", None)
        rest = [one for one in args if not isinstance(one, str | torch.device)]
        where = next((one for one in args if isinstance(one, str | torch.device)), where)
        is_on = self.on_device.has(tensor)
        goes_on = is_on if where is None else torch.device(where).type == "cuda"
        if goes_on == is_on:
            same: torch.Tensor = self._operation(torch.Tensor.to, "to", (tensor, *rest), kwargs)
            return same
        self._crosses(tensor, "to", may_be_captured=goes_on and self.pinned.has(tensor))
        found: torch.Tensor = tensor.to(*rest, **{**kwargs, "copy": True})
        if goes_on:
            self.on_device.put(found)
        return found

    def _crosses(self, tensor: torch.Tensor, name: str, *, may_be_captured: bool) -> None:
        if self.capture is not None and not may_be_captured:
            msg = f"CUDA error: operation not permitted when stream is capturing: {name} of {tuple(tensor.shape)}"
            raise RuntimeError(msg)

    def _cpu(self, tensor: torch.Tensor) -> torch.Tensor:
        return self._to(tensor, CPU)

    def _cuda(self, tensor: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return self._to(tensor, CUDA)

    def _numpy(self, tensor: torch.Tensor) -> Any:
        if self.on_device.has(tensor):
            msg = "can't convert cuda:0 device type tensor to numpy"
            raise TypeError(msg)
        return tensor.numpy()

    def _is_pinned(self, tensor: torch.Tensor) -> bool:
        return self.pinned.has(tensor)

    def _pin_memory(self, tensor: torch.Tensor) -> torch.Tensor:
        found = tensor.clone()
        self.pinned.put(found)
        return found


class DryGraph:
    """Repeats the operations that were captured, on the same memory; a capture itself changes nothing."""

    mode: DryCuda

    def __init__(self) -> None:
        self._entries: list[Entry] = []

    def take(self, run: Callable[[], Any], given: list[torch.Tensor], changed: list[torch.Tensor]) -> Any:
        """Take an operation in, and return what stands for its results."""
        if changed:
            self._entries.append(Entry(run, []))
            return changed[0]
        found = run()
        known = {one.untyped_storage()._cdata for one in given}
        own = [one for one in tensors_of(found) if one.untyped_storage()._cdata not in known]
        if own:
            self._entries.append(Entry(run, own))
        return found

    def launch(self, run: Callable[[], Any]) -> None:
        """Take in a kernel."""
        self._entries.append(Entry(run, []))

    def pool(self) -> object:
        return self._entries

    def replay(self) -> None:
        self.mode.replays += 1
        with _pop_mode_temporarily(), torch.inference_mode():
            for run, outputs in self._entries:
                found = tensors_of(run()) if outputs else run()
                for held, new in zip(outputs, found if outputs else (), strict=True):
                    held.copy_(new)
