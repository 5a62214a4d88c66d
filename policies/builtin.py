"""The short names of the built-in policies, by seam. A plain table: a policy of your own needs no entry here."""

from __future__ import annotations

BUILTIN: dict[str, dict[str, str]] = {
    "scheduler": {
        "fcfs": "policies.scheduling:FCFS",
        "sjf": "policies.scheduling:SJF",
        "multi-queue": "policies.multi_queue:MultiQueue",
        "static-lanes": "policies.multi_queue:StaticLanes",
    },
    "cache": {
        "drop-after-use": "policies.eviction:DropAfterUse",
        "lru": "policies.eviction:LRU",
        "lfu": "policies.eviction:LFU",
        "fifo": "policies.eviction:FIFO",
        "chameleon": "policies.eviction:ChameleonScore",
        "fairshare": "policies.eviction:FairShare",
        "gdsf": "policies.eviction:GDSF",
    },
    "prefetch": {
        "none": "policies.prefetch:NoPrefetch",
        "queued": "policies.prefetch:Queued",
        "slora": "policies.prefetch:SLoRAPrefetch",
    },
    "predictor": {
        "oracle": "policies.prediction:Oracle",
        "confusion": "policies.prediction:Confusion",
        "bucket": "policies.prediction:Bucket",
        "lognormal": "policies.prediction:Lognormal",
        "constant": "policies.prediction:Constant",
    },
}
