"""Adapters as PEFT saves them, `adapter_config.json` and `adapter_model.safetensors`, in and out of the flat layout."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from gpu_validate.engine.tensorfile import read_tensors, write_tensors
from gpu_validate.lora.layout import Layout, Place

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
_KEY = re.compile(r"base_model\.model\.model\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)_proj\.lora_([AB])\.weight")
# What would change the outputs in ways that A and B alone do not say; any other value than these is refused.
_HARMLESS: dict[str, tuple[object, ...]] = {
    "use_dora": (False, None),
    "lora_bias": (False, None),
    "fan_in_fan_out": (False, None),
    "bias": ("none", None),
    "modules_to_save": (None, []),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, [], {}),
    "layer_replication": (None, []),
    "alora_invocation_tokens": (None, []),
}


class PeftError(ValueError):
    """An adapter directory that cannot be represented; the message names file and key."""


class PeftAdapter(NamedTuple):
    """One adapter in the flat layout."""

    rank: int
    scale: float
    flat: torch.Tensor  # (layout.elements(rank),), on the host


class _Config:
    """`adapter_config.json`, checked."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._keys: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            msg = f"{path}: {error}"
            raise PeftError(msg) from None
        if self._keys.get("peft_type") != "LORA":
            raise self.error("peft_type", "LORA")
        for key, allowed in _HARMLESS.items():
            if self._keys.get(key) not in allowed:
                raise self.error(key, " or ".join(repr(value) for value in allowed))
        if not (isinstance(self._keys.get("r"), int) and self._keys["r"] > 0):
            raise self.error("r", "a positive integer")
        if not isinstance(self._keys.get("lora_alpha"), int | float):
            raise self.error("lora_alpha", "a number")

    def error(self, key: str, allowed: str) -> PeftError:
        """Return an error that names a key, its value and the allowed ones."""
        return PeftError(f"{self._path}: {key} is {self._keys.get(key)!r}; only {allowed} can be represented")

    def rank(self, module: str) -> int:
        """Return the rank of a module named as in the base model."""
        return int(self._of(module, "rank_pattern", "r"))

    def scale(self, module: str) -> float:
        """Return the factor of a module."""
        rank = self.rank(module)
        return float(self._of(module, "alpha_pattern", "lora_alpha")) / (
            rank**0.5 if self._keys.get("use_rslora") else rank
        )

    def _of(self, module: str, pattern_key: str, default_key: str) -> Any:
        # PEFT takes the first pattern that the module's name ends with.
        for pattern, value in (self._keys.get(pattern_key) or {}).items():
            try:
                is_meant = re.match(rf"(.*\.)?({pattern})$", module)
            except re.error:
                raise self.error(pattern_key, "regular expressions") from None
            if is_meant:
                return value
        return self._keys[default_key]


def read_adapter(folder: Path, layout: Layout, dtype: torch.dtype) -> PeftAdapter:
    """Return the adapter of a directory, cast to the serving type.

    Modules of the layout that the adapter does not have stay zero; a module's own alpha is folded into its B.

    Raises:
        PeftError: if the directory is incomplete or holds what one rank and one factor cannot express.
    """
    config, path = _Config(folder / CONFIG_FILE), folder / WEIGHTS_FILE
    tensors = _placed(path, layout)
    modules = {place: _module(place) for place in tensors}
    ranks = {config.rank(module) for module in modules.values()}
    if len(ranks) != 1:
        raise config.error("rank_pattern", "one rank for all adapted modules")
    rank, scale = ranks.pop(), config.scale(next(iter(modules.values())))
    flat = torch.zeros(layout.elements(rank), dtype=dtype)
    views = layout.views(flat, rank)
    for place, tensor in tensors.items():
        if tensor.shape != views[place].shape:
            shape, wanted = tuple(tensor.shape), tuple(views[place].shape)
            msg = f"{path}: {_key(place)} has shape {shape}, the model and rank {rank} need {wanted}"
            raise PeftError(msg)
        factor = config.scale(modules[place]) / scale if place.matrix == "B" else 1.0
        views[place].copy_(tensor.float() * factor)
    return PeftAdapter(rank, scale, flat)


def write_adapter(
    folder: Path,
    layout: Layout,
    flat: torch.Tensor,
    *,
    rank: int,
    alpha: float,
    dtype: torch.dtype = torch.float32,
    extra: Mapping[str, object] | None = None,
) -> None:
    """Write an adapter as PEFT would; `extra` is laid over its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {_key(place): matrix.to(dtype) for place, matrix in layout.views(flat, rank).items()}
    write_tensors(folder / WEIGHTS_FILE, tensors)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": [f"{module.name}_proj" for module in layout.modules],
        "bias": "none",
        "lora_dropout": 0.0,
        "use_rslora": False,
        "use_dora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "modules_to_save": None,
        "inference_mode": True,
    }
    text = json.dumps(config | dict(extra or {}), indent=2)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")


def _placed(path: Path, layout: Layout) -> dict[Place, torch.Tensor]:
    try:
        tensors = read_tensors(path)
    except (OSError, ValueError) as error:
        raise PeftError(str(error)) from None
    placed = {}
    names = [module.name for module in layout.modules]
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        place = None if match is None else Place(int(match[1]), match[2], match[3])
        if place is None or place.layer >= layout.layers or place.module not in names or _key(place) != key:
            msg = f"{path}: {key} has no place in {layout.layers} layers of {', '.join(names)}"
            raise PeftError(msg)
        placed[place] = tensor
    for place in placed:
        if place._replace(matrix="B" if place.matrix == "A" else "A") not in placed:
            msg = f"{path}: {_key(place)} stands without its other half"
            raise PeftError(msg)
    if not placed:
        msg = f"{path}: holds no LoRA matrices"
        raise PeftError(msg)
    return placed


def _module(place: Place) -> str:
    parent = "self_attn" if place.module in "qkvo" else "mlp"
    return f"model.layers.{place.layer}.{parent}.{place.module}_proj"


def _key(place: Place) -> str:
    return f"base_model.model.{_module(place)}.lora_{place.matrix}.weight"
