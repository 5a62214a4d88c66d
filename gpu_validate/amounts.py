"""Floating-point operations and bytes that a shape cannot do without, by which a time is called impossible."""

from __future__ import annotations

from collections.abc import Callable

from gpu_validate.rows import Amount, Config
from gpu_validate.shapes import COPIES, PARAMETER_BYTES


def amount_of(kind: str, config: Config) -> Amount:
    """Return the floating-point operations and bytes that a shape cannot do without; zeros where none are known."""
    count = AMOUNTS.get(kind)
    return count(config) if count else Amount()


def _of_probe(config: Config) -> Amount:
    return Amount(config.get("flops", 0.0), config.get("memory_bytes", 0.0), config.get("link_bytes", 0.0))


def _of_load(config: Config) -> Amount:
    return Amount(link_bytes=config["bytes"] * config["concurrent"] * COPIES.get(config["mode"], 1))


def _of_dense(config: Config) -> Amount:
    parameters = config["hidden"] * (config["qkv_out"] + config["hidden"] + 3 * config["ffn"]) * config["layers"]
    return Amount(2 * config["tokens"] * parameters, parameters * PARAMETER_BYTES[config["dtype"]])


def _of_lm_head(config: Config) -> Amount:
    parameters = config["hidden"] * config["vocab"]
    return Amount(2 * config["sequences"] * parameters, 2 * parameters)


def _of_prefill(config: Config) -> Amount:
    width = config["heads"] * config["head_dim"] * config["layers"]
    return Amount(flops=2 * width * config["chunk"] * (2 * config["cached"] + config["chunk"]))


def _of_decode(config: Config) -> Amount:
    token_bytes = 2 * config["kv_heads"] * config["head_dim"] * 2 * config["layers"]
    return Amount(memory_bytes=config["context_tokens"] * token_bytes)


def _of_lora(config: Config) -> Amount:
    width = (config["in_features"] + config["out_features"]) * config["projections"]
    ranks, tokens = config["ranks"], config["tokens"]
    # Tokens are dealt out to the adapters in turn, so the first ones get one more.
    token_rank = sum(rank * len(range(index, tokens, len(ranks))) for index, rank in enumerate(ranks))
    return Amount(2 * token_rank * width, 2 * sum(ranks) * width)


AMOUNTS: dict[str, Callable[[Config], Amount]] = {
    "probe": _of_probe,
    "load": _of_load,
    "dense": _of_dense,
    "lm_head": _of_lm_head,
    "attention_prefill": _of_prefill,
    "attention_decode": _of_decode,
    "attention_paged": _of_decode,
    "lora": _of_lora,
}
