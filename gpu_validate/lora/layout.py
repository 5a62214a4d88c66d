"""Where the matrices of one adapter lie in a flat arena, at the adapter's own rank. No padding to a largest rank."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from sim.models import DEFAULT_MODULES, Model, canonical_modules
from sim.names import did_you_mean

if TYPE_CHECKING:
    import torch


class Module(NamedTuple):
    """A linear map that adapters change."""

    name: str
    in_features: int
    out_features: int


class Place(NamedTuple):
    """Key of one matrix in `Layout.views`: `matrix` is "A" or "B"."""

    layer: int
    module: str
    matrix: str


class Layout:
    """Flat layout of one adapter: per layer `[A_m0 | A_m1 ... | B_m0 | B_m1 ...]`.

    A is [rank, in], B is [out, rank], both row-major; y += scale * (x A^T) B^T. Every size is proportional to the rank,
    so an offset is `rank * units` with units that depend on the layer and the module only. Counts are elements.

    Args:
        layers: decoder layers.
        modules: (name, in_features, out_features) of the adapted modules, in the order of storage.

    Raises:
        ValueError: if there is no layer or module, a size is not positive, or a name occurs twice.
    """

    def __init__(self, layers: int, modules: Sequence[tuple[str, int, int]]) -> None:
        self.layers = layers
        self.modules = tuple(Module(*module) for module in modules)
        _check(layers, self.modules)
        sizes = [m.in_features for m in self.modules] + [m.out_features for m in self.modules]
        *starts, self.layer_units = accumulate(sizes, initial=0)
        names = [module.name for module in self.modules]
        self._a_units = dict(zip(names, starts, strict=False))
        self._b_units = dict(zip(names, starts[len(names) :], strict=True))
        self._modules = dict(zip(names, self.modules, strict=True))

    @classmethod
    def of(cls, model: Model, modules: Iterable[str] = DEFAULT_MODULES) -> Layout:
        """Return the layout of a model's adapters.

        Raises:
            ValueError: if a module is unknown or named twice.
        """
        shapes = _shapes(model)
        return cls(model.layers, [(name, *shapes[name]) for name in canonical_modules(modules)])

    def module(self, name: str) -> Module:
        """Return a module by its name.

        Raises:
            ValueError: if the layout has no such module.
        """
        if name not in self._modules:
            msg = f"unknown module {name!r}{did_you_mean(name, self._modules)}"
            raise ValueError(msg)
        return self._modules[name]

    def elements(self, rank: int) -> int:
        """Return the elements of a whole adapter."""
        return rank * self.layers * self.layer_units

    def a_units(self, layer: int, module: str) -> int:
        """Return the offset of A per unit of rank.

        Raises:
            ValueError: if the layout has no such layer or module.
        """
        return self._layer_start(layer) + self._a_units[self.module(module).name]

    def b_units(self, layer: int, module: str) -> int:
        """Return the offset of B per unit of rank; errors as for `a_units`."""
        return self._layer_start(layer) + self._b_units[self.module(module).name]

    def a_offset(self, rank: int, layer: int, module: str) -> int:
        """Return the first element of A, counted from the adapter's first; errors as for `a_units`."""
        return rank * self.a_units(layer, module)

    def b_offset(self, rank: int, layer: int, module: str) -> int:
        """Return the first element of B, counted from the adapter's first; errors as for `a_units`."""
        return rank * self.b_units(layer, module)

    def a(self, arena: torch.Tensor, base: int, rank: int, layer: int, module: str) -> torch.Tensor:
        """Return A [rank, in] of the adapter at `base` as a view of the arena."""
        start, width = base + self.a_offset(rank, layer, module), self.module(module).in_features
        return arena[start : start + rank * width].view(rank, width)

    def b(self, arena: torch.Tensor, base: int, rank: int, layer: int, module: str) -> torch.Tensor:
        """Return B [out, rank] of the adapter at `base` as a view of the arena."""
        start, height = base + self.b_offset(rank, layer, module), self.module(module).out_features
        return arena[start : start + rank * height].view(height, rank)

    def views(self, flat: torch.Tensor, rank: int) -> dict[Place, torch.Tensor]:
        """Return all matrices of an adapter, in the order of storage, as views of its flat tensor.

        Raises:
            ValueError: if `flat` is not a vector of `elements(rank)`.
        """
        if tuple(flat.shape) != (self.elements(rank),):
            msg = f"an adapter of rank {rank} has {self.elements(rank)} elements, got shape {tuple(flat.shape)}"
            raise ValueError(msg)
        views = {}
        for layer in range(self.layers):
            for name in self._modules:
                views[Place(layer, name, "A")] = self.a(flat, 0, rank, layer, name)
            for name in self._modules:
                views[Place(layer, name, "B")] = self.b(flat, 0, rank, layer, name)
        return views

    def _layer_start(self, layer: int) -> int:
        if not 0 <= layer < self.layers:
            msg = f"a layer must be in 0..{self.layers - 1}, got {layer}"
            raise ValueError(msg)
        return layer * self.layer_units


def _check(layers: int, modules: Sequence[Module]) -> None:
    if layers < 1 or not modules:
        msg = f"a layout needs a layer and a module, got {layers} layers and {len(modules)} modules"
        raise ValueError(msg)
    for module in modules:
        if module.in_features < 1 or module.out_features < 1:
            msg = f"features must be positive, got {module}"
            raise ValueError(msg)
    names = [module.name for module in modules]
    if len(set(names)) < len(names):
        msg = f"each module may be named once, got {', '.join(names)}"
        raise ValueError(msg)


def _shapes(model: Model) -> dict[str, tuple[int, int]]:
    gemms = model.gemms
    hidden, q_dim = gemms["o"]
    kv_dim = (gemms["qkv"][0] - q_dim) // 2
    ffn = gemms["down"][1]
    return {
        "q": (hidden, q_dim),
        "k": (hidden, kv_dim),
        "v": (hidden, kv_dim),
        "o": (q_dim, hidden),
        "gate": (hidden, ffn),
        "up": (hidden, ffn),
        "down": (ffn, hidden),
    }
