"""Base models by their dimensions: parameter counts, KV and adapter sizes, matrix shapes. No seconds here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from sim.files.yamlfile import validate
from sim.files.yamltext import parse
from sim.names import closest

Count = Annotated[int, Field(gt=0)]
DEFAULT_MODULES = ("q", "k", "v", "o")
ALL_MODULES = ("q", "k", "v", "o", "gate", "up", "down")
SUFFIXES = (".yaml", ".yml", ".json")


class Model(BaseModel):
    """A Llama-shaped decoder: gated MLP, two norms a layer, no biases.

    Attributes:
        name: the key in `models.yaml`, or what a file of its own calls it.
        layers: decoder layers.
        hidden: width of the residual stream.
        heads: query heads.
        kv_heads: key and value heads (fewer than `heads`: grouped queries).
        head_dim: width of one head.
        ffn: width of the MLP.
        vocab: rows of the embedding.
        context_window: longest sequence in tokens.
        tied_embeddings: whether the LM head is the embedding.
        dtype_bytes: bytes of one parameter, also of KV and of adapters.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    layers: Count
    hidden: Count
    heads: Count
    kv_heads: Count
    head_dim: Count
    ffn: Count
    vocab: Count
    context_window: Count
    tied_embeddings: bool = False
    dtype_bytes: Count = 2

    @model_validator(mode="after")
    def _shares_keys_and_values_evenly(self) -> Self:
        if self.heads % self.kv_heads:
            msg = f"kv_heads is {self.kv_heads}; a divisor of heads, {self.heads}, is allowed"
            raise ValueError(msg)
        return self

    @property
    def gemms(self) -> dict[str, tuple[int, int]]:
        """Return (outputs n, inputs k) of the four fused matrices of one layer: qkv, o, gate_up, down."""
        q_dim, kv_dim = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "qkv": (q_dim + 2 * kv_dim, self.hidden),
            "o": (self.hidden, q_dim),
            "gate_up": (2 * self.ffn, self.hidden),
            "down": (self.hidden, self.ffn),
        }

    @property
    def parameters(self) -> int:
        """Return the exact number of parameters, embeddings and norms included."""
        layer = sum(n * k for n, k in self.gemms.values()) + 2 * self.hidden
        embeddings = self.vocab * self.hidden * (1 if self.tied_embeddings else 2)
        return self.layers * layer + self.hidden + embeddings

    @property
    def weight_bytes(self) -> int:
        """Return bytes of all parameters."""
        return self.parameters * self.dtype_bytes

    @property
    def kv_token_bytes(self) -> int:
        """Return bytes of K and V of one token over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.dtype_bytes

    def adapter_bytes(self, rank: int, modules: Iterable[str] = DEFAULT_MODULES) -> int:
        """Return bytes of a LoRA adapter: A [rank, in] and B [out, rank] for each module of each layer.

        Raises:
            ValueError: if a module is unknown or named twice, or the rank is negative.
        """
        if rank < 0:
            msg = f"a rank must not be negative, got {rank}"
            raise ValueError(msg)
        shapes = self.module_shapes
        values = sum(sum(shapes[module]) for module in canonical_modules(modules))
        return self.dtype_bytes * rank * self.layers * values

    def tensors(self, modules: Iterable[str] = DEFAULT_MODULES) -> int:
        """Return the number of tensors of an adapter: A and B for each module of each layer.

        Raises:
            ValueError: if a module is unknown or named twice.
        """
        return 2 * self.layers * len(canonical_modules(modules))

    @property
    def module_shapes(self) -> dict[str, tuple[int, int]]:
        """Return (inputs, outputs) of each projection that an adapter can target."""
        q_dim, kv_dim = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q": (self.hidden, q_dim),
            "k": (self.hidden, kv_dim),
            "v": (self.hidden, kv_dim),
            "o": (q_dim, self.hidden),
            "gate": (self.hidden, self.ffn),
            "up": (self.hidden, self.ffn),
            "down": (self.ffn, self.hidden),
        }


def canonical_modules(modules: Iterable[str]) -> tuple[str, ...]:
    """Return module names without PEFT's `_proj`.

    Raises:
        ValueError: if a module is unknown or named twice.
    """
    short = tuple(module.removesuffix("_proj") for module in modules)
    for module in short:
        if module not in ALL_MODULES:
            raise ValueError(unknown("module", module, ALL_MODULES))
    if len(set(short)) < len(short):
        msg = f"each module may be named once, got {', '.join(short)}"
        raise ValueError(msg)
    return short


def unknown(kind: str, name: str, allowed: Sequence[str]) -> str:
    """Return the sentence that names the allowed values and the closest one."""
    match = closest(name, allowed)
    hint = f" - did you mean {match!r}?" if match else ""
    return f"unknown {kind} {name!r}: expected one of {', '.join(allowed)}{hint}"


def model_names() -> list[str]:
    """Return the names that `load_model` knows."""
    return list(_table())


def load_model(name_or_path: str | Path) -> Model:
    """Return a model of the packaged table, or the one in a YAML or JSON file with the fields of `Model`.

    Raises:
        ValueError: if the name is unknown; the message lists the known ones and the closest. As a `ConfigError` with
            file, line and key if a file's content is wrong.
        FileNotFoundError: if the path does not exist.
    """
    if isinstance(name_or_path, Path) or name_or_path.endswith(SUFFIXES):
        return _from_file(Path(name_or_path))
    table = _table()
    if name_or_path not in table:
        raise ValueError(unknown("model", name_or_path, [*table, "a file that ends in .yaml"]))
    return Model(name=name_or_path, **table[name_or_path])


def _from_file(path: Path) -> Model:
    document = parse(path.read_text(encoding="utf-8"), str(path))
    return validate(Model, document.tree, document.marks)


@cache
def _table() -> dict[str, dict[str, Any]]:
    text = files("sim").joinpath("data", "models.yaml").read_text(encoding="utf-8")
    table: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return table
