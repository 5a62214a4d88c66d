"""The dimensions that are really executed: the deployment's own on a GPU, tiny ones with as many layers on a CPU."""

from __future__ import annotations

from sim.models import Model

TINY_RANK_DIVISOR = 8
BLOCK_TOKENS = 16  # of a KV block
BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)  # batch sizes that a captured decode step is padded to


def tiny(model: Model) -> Model:
    """Return a decoder of hidden width 64 with the same layers, and with grouped queries if the model has them."""
    return Model(
        name=f"tiny-{model.name}",
        layers=model.layers,
        hidden=64,
        heads=4,
        kv_heads=4 if model.kv_heads == model.heads else 2,
        head_dim=16,
        ffn=128,
        vocab=256,
        context_window=model.context_window,
        dtype_bytes=4,
    )


def executed_rank(rank: int, divisor: int) -> int:
    """Return the rank that is executed for an adapter of this rank: a share of it, at least 1."""
    return max(1, rank // divisor)
