"""Tensor parallelism: several GPUs that hold a slice of everything each and work as one.

Weights, KV and adapters are sharded, every GPU loads its slice of an adapter over a link of its own, and two
all-reduces per layer put the slices together (Megatron-LM). What is symmetric needs no simulation of its own: rates and
memory multiply, kernel floors do not.
"""

from __future__ import annotations

from typing import NamedTuple

from sim.hardware import Hardware
from sim.models import Model

ALL_REDUCES_PER_LAYER = 2


class Parallel(NamedTuple):
    """How many GPUs work as one, and what holds them together.

    Attributes:
        degree: GPUs.
        gpus_per_switch: GPUs whose loads share the host link of one switch.
        bytes_per_s: rate of an all-reduce in one direction, per GPU (NVLink: hundreds of GB/s; PCIe 4: about 20, the
            default, a prior).
        latency_s: fixed time of one all-reduce.
    """

    degree: int = 1
    gpus_per_switch: int = 1
    bytes_per_s: float = 20e9
    latency_s: float = 20e-6

    def as_one(self, hardware: Hardware) -> Hardware:
        """Return the GPU that all of them make together."""
        n = self.degree
        if n == 1:
            return hardware
        dense, attention, link, lora = hardware.dense, hardware.attention, hardware.link, hardware.lora
        link_rate = link.h2d_bytes_per_s * n / min(self.gpus_per_switch, n)
        mixed_rate = attention.mixed_kv_bytes_per_s
        return hardware.model_copy(
            update={
                "memory_bytes": hardware.memory_bytes * n,
                "reserve_bytes": hardware.reserve_bytes * n,
                "dense": dense.model_copy(
                    update={
                        "flops_per_s": dense.flops_per_s * n,
                        "weight_bytes_per_s": dense.weight_bytes_per_s * n,
                        "elementwise_s_per_token": dense.elementwise_s_per_token / n,
                    }
                ),
                "attention": attention.model_copy(
                    update={
                        "kv_bytes_per_s": attention.kv_bytes_per_s * n,
                        "prefill_flops_per_s": attention.prefill_flops_per_s * n,
                        "mixed_kv_bytes_per_s": None if mixed_rate is None else mixed_rate * n,
                    }
                ),
                "link": link.model_copy(update={"h2d_bytes_per_s": link_rate}),
                "lora": lora.model_copy(
                    update={
                        "l2_bytes_per_s": lora.l2_bytes_per_s * n,
                        "weight_bytes_per_s": lora.weight_bytes_per_s * n,
                    }
                ),
            }
        )

    def layer_s(self, tokens: int, model: Model) -> float:
        """Return the seconds of one layer's all-reduces: a ring moves 2 (n - 1) / n of the activations."""
        if self.degree == 1:
            return 0.0
        moved_bytes = 2 * (self.degree - 1) / self.degree * tokens * model.hidden * model.dtype_bytes
        return ALL_REDUCES_PER_LAYER * (self.latency_s + moved_bytes / self.bytes_per_s)


ONE_GPU = Parallel()
