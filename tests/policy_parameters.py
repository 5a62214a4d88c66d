"""Every built-in policy with values of its parameters that matter within a run of seconds, by seam."""

from __future__ import annotations

from collections.abc import Mapping

Values = tuple[object, ...]
Parameters = Mapping[str, Values]

WINDOWS_S: Values = (0.05, 1.0)
OF_LANES: Parameters = {
    "size": ("wrs", "output"),
    "maxima": ("trace", "running"),
    "base_share": (0.0, 1.0),
    "charge_adapter": ("per_request", "once"),
    "lending": ("pool", "net"),
    "bypass": (True, False),
    "bypass_lookahead": (None, 1),
    "squash": (True, False),
    "total": ("memory", "kv"),
    "a": (0.0, 0.4),
    "b": (0.6, 1.0),
}
OF_SCORES: Parameters = {
    "window_s": WINDOWS_S,
    "window": ("sliding", "exponential"),
    "among": ("residents", "candidates"),
}

SCHEDULERS: Mapping[str, Parameters] = {
    "fcfs": {},
    "sjf": {"ageing_s": (0.0, 0.05, 1.0), "ageing_factor": (0.3, 10.0)},
    "multi-queue": {
        **OF_LANES,
        "max_lanes": (1, 2, 7),
        "choice": ("elbow", "argmin"),
        "elbow": (0.0, 0.9),
        "first_refresh": (1, 3, 10),
        "refresh_s": (0.05, 0.7, 5.0),
        "remainder": ("minimum", "equal"),
    },
    "static-lanes": {**OF_LANES, "lanes": (1, 2, 9)},
    "head-of-line": {},
    "skip": {},
    "sglang": {"resident_only": (True, False), "drain_wait_s": (None, 0.02, 0.5)},
    "cluster": {"adapters": (1, 2, 3)},
    "peft": {},
    "early-abort": {"slo_s": (0.51, 2.0), "margin_s": (0.0, 0.01)},
    "vtc": {"input_weight": (0.0, 0.3), "output_weight": (0.7, 1.0)},
    "lorax": {
        "max_active": (1, 2),
        "memory_share": (0.5, 1.0),
        "cycle_s": (0.05, 0.5),
        "waiting_ratio": (0.1, 1.5),
        "waiting_steps": (1, 5),
    },
    "dlora": {"merged_step_s": (0.05,), "unmerged_step_s": (0.005,), "switch_s": (0.0,)},
    "learning-to-rank": {"starvation_steps": (1, 5, 30), "promoted_steps": (1, 3)},
    "fastserve": {"quantum_s": (0.05, 1.0), "starvation_s": (0.05, 0.5), "starvation_steps": (1, 7, 50)},
}
CACHES: Mapping[str, Parameters] = {
    "lru": {},
    "drop-after-use": {"tag": ("bit", "latest", "none")},
    "lfu": {},
    "fifo": {},
    "chameleon": {**OF_SCORES, "frequency": (0.0, 1.0), "recency": (0.0, 1.0), "size": (0.0, 1.0)},
    "fairshare": OF_SCORES,
    "gdsf": {"cost": ("load_s", "one")},
    "random": {"seed": (0, 1)},
    "largest-first": {},
    "smallest-first": {},
    "lfu-da": {},
    "lru-k": {"k": (1, 3), "history": ("residents", "all")},
    "hyperbolic": {},
    "elora": {"age_unit_s": (0.01,)},
    "lhd": {"cost": ("load_s", "one"), "renew_uses": (1, 5), "fade": (0.0, 0.5)},
    "s3-fifo": {"small_share": (0.5,), "ghost_share": (0.0,), "move_hits": (1,)},
    "sieve": {},
    "w-tinylfu": {"window_share": (0.5,), "protected_share": (0.0,), "halving_uses": (1.0,)},
    "belady": {"by": ("count", "bytes", "cost")},
    "adaptive": {},
}
PREFETCHES: Mapping[str, Parameters] = {
    "none": {},
    "queued": {"lookahead": (1, 3)},
    "slora": {"at_steps": ((5, 7), (0, 1, 2), (1,))},
    "rate": {"per": ("byte", "adapter"), "top": (1, 3), "window_s": WINDOWS_S},
    "use-within": {"threshold": (0.01, 0.5), "margin_s": (0.0, 0.1), "window_s": WINDOWS_S},
    "p-lora": {"bin_s": (0.05, 0.5), "smoothing": (0.9,), "share": (0.5,)},
    "histogram": {
        "bin_s": (0.01, 0.05),
        "bins": (3, 50),
        "head": (0.5,),
        "tail": (0.6,),
        "margin": (0.0,),
        "variation": (0.0,),
        "gaps": (1, 2),
        "keep_alive_s": (0.1, 2.0),
    },
    "markov": {"lookback": (1,), "window_s": (0.1,), "threshold": (0.01, 0.5), "top": (1,), "memory": (2,)},
    "oracle": {"lookahead": (1, 3)},
    "adaptive": {},
}
PREDICTORS: Mapping[str, Parameters] = {
    "oracle": {},
    "confusion": {"classes": (5,)},
    "bucket": {"accuracy": (0.0, 0.5, 1.0), "classes": (5,)},
    "lognormal": {"sigma": (0.0, 3.0)},
    "constant": {"tokens": (1, 5, 100_000)},
}
ROUTERS: Mapping[str, Parameters] = {
    "round-robin": {},
    "random": {"seed": (0, 3)},
    "least-loaded": {},
    "affinity": {"escape": (None, 1.0, 3.0)},
    "punica": {"batch_requests": (1, 4)},
    "toppings": {"decode_slo_s": (None, 0.02), "response_tokens": (10.0,)},
    "dlora": {"batch_requests": (1, 4), "merged_cost": (0.0,)},
    "loraserve": {"window_s": (0.2, 2.0), "drift": (0.0,), "batch_requests": (1,)},
}
POLICIES: Mapping[str, Mapping[str, Parameters]] = {
    "scheduler": SCHEDULERS,
    "cache": CACHES,
    "prefetch": PREFETCHES,
    "predictor": PREDICTORS,
    "router": ROUTERS,
}
