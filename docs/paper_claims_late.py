"""What Chameleon prints from Figure 15 on, what the headline depends on, and what cannot be simulated."""  # noqa: INP001

from __future__ import annotations

from collections.abc import Iterator

from paper_claims import (
    ALL,
    BOTH,
    FIT,
    FIT_HOST,
    FULL,
    HOST,
    MEDIUM,
    NO_CACHE,
    NO_SCHED,
    PHYSICAL,
    POOL,
    REGIONS,
    TIGHT,
    cut,
    knee,
    load_cell,
    mean,
    ratio,
)  # fmt: skip
from paper_rows import Hole, Row, Scenario, Value
from paper_runs import Cell
from paper_verdicts import Axis, Bound, Equal, Rising, Silent

SJF = "slora-sjf"
QUEUED = Scenario(
    "region 8.25 GiB, prefetch",
    (*REGIONS[1].changes, "prefetch=queued"),
    "paper-fit, but Chameleon's adapters have 8.25 GiB; its prefetch on",
    baseline=(POOL,),
)


def figure_15() -> Iterator[Row]:
    """Yield how P99 moves over a run of the whole trace's length at 9 requests/s."""
    for scenario in BOTH:
        name = scenario.name
        for system, told in (("slora", "grows"), (SJF, "grows"), (NO_CACHE, "flat")):
            expect = Bound(-1.0, 1.0) if told == "flat" else Bound(0.5)
            what = f"{system}: P99 of 50 s windows, last quarter less first"
            yield Row("Fig. 15", what, told, expect, mean("growth_s", scenario, load_cell(system, 9)), "2 s", name)
        for system in ("slora", SJF):
            value = mean("worst_window_s", scenario, load_cell(system, 9))
            what = f"{system}: P99 of the worst 50 s"
            yield Row("Fig. 15", what, "axis ends at 40 s", Axis(40), value, "1 s", name)
        for system in ("slora", SJF, NO_CACHE):
            value = cut("p99_ms", scenario, load_cell(FULL, 9), load_cell(system, 9))
            yield Row("Fig. 15", f"P99 TTFT, cut against {system}", "lowest", Bound(0), value, "1 %", name)


def figure_16() -> Iterator[Row]:
    """Yield mean queueing by class at 9 requests/s."""
    for scenario in BOTH:
        for by, told in (("output", "by output"), ("size", "by weighted size")):
            yield from _classes(scenario, by, told)


def _classes(scenario: Scenario, by: str, told: str) -> Iterator[Row]:
    name, fifo, sjf = scenario.name, scenario.of(load_cell("slora", 9)), scenario.of(load_cell(SJF, 9))
    even = (Value(f"queue_{by}_large_s", fifo, fifo, "ratio", f"queue_{by}_small_s"),)
    what = f"FIFO: queueing of large, times small ({told})"
    yield Row("Fig. 16", what, "about uniform", Bound(0.8, 1.25), even, "2 x", name)
    for own, printed in (("small", 1.5), ("large", 5.15)):
        value, what = (Value(f"queue_{by}_{own}_s", sjf),), f"SJF: queueing of {own} requests ({told})"
        yield Row("Fig. 16", what, f"{printed} s", Equal(printed), value, "2 s", name)
    values = tuple(Value(f"queue_{by}_{own}_s", sjf) for own in ("small", "large"))
    yield Row("Fig. 16", f"SJF: queueing, small, large ({told})", "worst for large", Rising(), values, "2 s", name)
    for own in ("small", "medium", "large"):
        value = mean(f"queue_{by}_{own}_percent", scenario, load_cell(FULL, 9))
        what = f"chameleon: {own} requests' time in the queue ({told})"
        yield Row("Fig. 16", what, "< 8 %", Bound(None, 8), value, "1 %", name)


CACHES = (("lru", 18), ("fairshare", 22), ("chameleon", 26))


def figure_17() -> Iterator[Row]:
    """Yield the eviction policies at 8 requests/s."""
    cells = {cache: Cell(FULL, 8, 3000, (f"cache={cache}",)) for cache, _ in CACHES}
    for scenario in (*BOTH, REGIONS[1], QUEUED):
        name = scenario.name
        for cache, printed in CACHES:
            value = cut("p99_ms", scenario, cells[cache], Cell("slora", 8, 3000))
            what = f"{cache}, 8/s: cut of P99 TTFT"
            yield Row("Fig. 17", what, f"{printed} %", Equal(printed, 0.0), value, "1 %", name)
        values = tuple(Value("p99_ms", scenario.of(cells[cache])) for cache in ("chameleon", "fairshare", "lru"))
        what = "8/s: P99 TTFT of chameleon, fairshare, lru"
        yield Row("Fig. 17", what, "in this order", Rising(), values, "0 ms", name)
        value = cut("r128_p99_ms", scenario, cells["chameleon"], cells["fairshare"])
        what = "8/s, rank 128: cut of P99 TTFT by chameleon against fairshare"
        yield Row("Fig. 17", what, "12 %", Equal(12, 0.0), value, "1 %", name)
        value = ratio("p99_ms", scenario, Cell(FULL, 9.5, 3000, ("cache=gdsf",)), Cell(FULL, 9.5, 3000))
        what = "9.5/s: P99 TTFT of gdsf, times chameleon's"
        yield Row("Fig. 17", what, '"substantially worse"', Bound(1.1), value, "2 x", name)
        if scenario not in BOTH:
            hits = {f"{cache}, 8/s": cell for cache, cell in cells.items()}
            for told, cell in (hits | {"gdsf, 9.5/s": Cell(FULL, 9.5, 3000, ("cache=gdsf",))}).items():
                what, value = f"{told}: requests that hit", mean("hit_percent", scenario, cell)
                yield Row("Fig. 17", what, "nothing", Silent(), value, "1 %", name)


def figure_18() -> Iterator[Row]:
    """Yield the histogram prefetcher at 8 requests/s."""
    histogram, queued = (Cell(FULL, 8, 3000, (f"prefetch={name}",)) for name in ("histogram", "queued"))
    for scenario in (*BOTH, QUEUED):
        value = cut("p99_ms", scenario, histogram, queued)
        what = "8/s: further cut of P99 TTFT by histogram prefetch"
        yield Row("Fig. 18", what, "8.8 %", Equal(8.8, 0.0), value, "1 %", scenario.name)


PREDICTORS = {
    "predictor right in 100 %": ("predictor=oracle",),
    "predictor right in 80 %": ("predictor.kind=bucket", "predictor.accuracy=0.8"),
    "predictor right in 60 %": ("predictor.kind=bucket", "predictor.accuracy=0.6"),
    "lanes by output alone": ("scheduler.size=output",),
}


def figure_19() -> Iterator[Row]:
    """Yield predictors and request sizes; nothing is printed but curves."""
    for scenario in BOTH:
        for told, changes in PREDICTORS.items():
            value = mean("p99_ms", scenario, Cell(FULL, 9, MEDIUM, changes))
            yield Row("Fig. 19", f"9/s, {told}: P99 TTFT", "a curve", Silent(), value, "0 ms", scenario.name)
    right = mean("right_percent", PHYSICAL, Cell(FULL, 9, MEDIUM, probe="predictor"))
    what = "default predictor: length classes right"
    yield Row("Fig. 19", what, "about 80 %", Equal(80), right, "1 %", PHYSICAL.name, seen=True)


ADAPTERS = (10, 50, 100, 150, 200)
MIXES = {"uniform ranks": 0.0, "power-law ranks": 1.0}


def adapters_cell(system: str, adapters: int, rank_s: float) -> Cell:
    """Return runs of Fig. 20."""
    return Cell(system, 9.5, 3000, (f"workload.adapters={adapters}", f"workload.popularity.rank_s={rank_s:g}"))


def figure_20() -> Iterator[Row]:
    """Yield P99 TTFT against the number of adapters, and by popularity."""
    for scenario in BOTH:
        pairs = {
            f"{adapters} adapters, {told}": [adapters_cell(system, adapters, rank_s) for system in (FULL, "slora")]
            for told, rank_s in MIXES.items()
            for adapters in ADAPTERS
        }
        pairs["100 adapters, all alike"] = [
            Cell(one, 9.5, 3000, ("workload.popularity.s=0",)) for one in (FULL, "slora")
        ]
        for told, (full, base) in pairs.items():
            value, what = cut("p99_ms", scenario, full, base), f"9.5/s, {told}: cut of P99 TTFT"
            yield Row("Fig. 20", what, "a bar", Silent(), value, "0 %", scenario.name)


def figure_22() -> Iterator[Row]:
    """Yield lanes that adapt against lanes that do not."""
    for scenario in (*BOTH, FIT_HOST):
        for rate_per_s, printed in ((6, 0), (8, 0), (9, 10)):
            static = load_cell(FULL, rate_per_s, "scheduler=static-lanes")
            value = cut("p99_ms", scenario, load_cell(FULL, rate_per_s), static)
            expect = Equal(printed, 0.0) if printed else Bound(-5, 5)
            what = f"{rate_per_s}/s: cut of P99 TTFT against static lanes"
            yield Row("Fig. 22", what, f"{printed} %" if printed else "about 0", expect, value, "1 %", scenario.name)


A100 = {7: ("llama-7b", 500), 13: ("llama-13b", 100), 30: ("llama-30b", 10)}


def _a100(system: str, size: int, *changes: str) -> Cell:
    model, adapters = A100[size]
    is_wide = any(change.startswith("parallel") for change in changes)
    # a faster engine needs more requests for a run of the same minutes
    requests, rates_per_s = (8000, (10.0, 130.0, 4.0)) if is_wide else (6000 if size == 7 else 2000, (2.0, 42.0, 1.0))
    own = (f"workload.adapters={adapters}", *changes)
    return Cell(system, 0, requests, own, "a100-80", model, seeds=3, probe="knee", rates_per_s=rates_per_s)


def _only(gb: int) -> str:
    return f"memory.reserve_bytes={3_500_000_000 + (80 - gb) * 10**9}"


def figures_23_to_25() -> Iterator[Row]:
    """Yield the highest rates on A100s, S-LoRA's and how many times that of the others."""
    limited = ((24, 7), (48, 7), (48, 13))
    settings: list[tuple[str, str, int, tuple[str, ...]]] = [
        *(("Fig. 23", f"A100-80, {size}B", size, ()) for size in A100),
        *(("Fig. 24", f"A100 limited to {gb} GB, {size}B", size, (_only(gb),)) for gb, size in limited),
        *(("Fig. 25", f"A100-80, 7B, TP {tensor}", 7, (f"parallel.tensor={tensor}",)) for tensor in (2, 4)),
    ]
    for figure, told, size, changes in settings:
        base = _a100("slora", size, *changes)
        what = f"{told}: S-LoRA's highest rate within the SLO"
        yield Row(figure, what, "a bar", Silent(), mean("knee_per_s", PHYSICAL, base), "1 /s", PHYSICAL.name)
        for system in (FULL,) if figure == "Fig. 25" else (FULL, NO_SCHED):
            value = ratio("knee_per_s", PHYSICAL, _a100(system, size, *changes), base)
            what = f"{told}: that of {system}, times S-LoRA's"
            yield Row(figure, what, "a bar", Silent(), value, "2 x", PHYSICAL.name)


def squashes() -> Iterator[Row]:
    """Yield how often the rules for a head whose adapter finds no room come into play."""
    for scenario in (*BOTH, FIT_HOST, *REGIONS, TIGHT):
        cell = Cell(FULL, 9, 3000) if scenario is TIGHT else load_cell(FULL, 9)
        squashed, bypasses = (mean(name, scenario, cell) for name in ("squashed_percent", "bypasses"))
        what = "chameleon, 9/s: squashed requests"
        yield Row("Text", what, "<= 5 %", Bound(None, 5), squashed, "2 %", scenario.name)
        what = "chameleon, 9/s: bypasses in a run"
        yield Row("Text", what, "no number", Silent(), bypasses, "0 ", scenario.name)


# --- what the headline depends on ---

SETTINGS: dict[str, tuple[str, ...]] = {
    "as shipped": (),
    "host 2 ms a decode step": ("costs.host_s=2e-3",),
    "host 5.2 ms a decode step": (HOST,),
    "pool 5500": ("memory.kv_pool_tokens=5500",),
    "pool 7000": ("memory.kv_pool_tokens=7000",),
    "pool 8000": ("memory.kv_pool_tokens=8000",),
    "pool 10,000": ("memory.kv_pool_tokens=10000",),
    "pool 6500, host 5.2 ms": ("memory.kv_pool_tokens=6500", HOST),
    "pool 7000, host 5.2 ms": ("memory.kv_pool_tokens=7000", HOST),
    "lengths / 6": ("workload.scale=6",),
    "lengths / 8": ("workload.scale=8",),
    "popularity Zipf 0.5": ("workload.popularity.s=0.5",),
    "popularity Zipf 1.5": ("workload.popularity.s=1.5",),
    "admission every step": ("admission.every_steps=1",),
    "one copy a load": ("loading.copies=1",),
}
OF_SLORA = {"S-LoRA without prefetch": ("prefetch=none", "cache={kind: drop-after-use, tag: none}")}
QUOTAS: dict[str, tuple[str, ...]] = {
    "total memory, lending pool (shipped)": (),
    "total memory, lending net": ("scheduler.lending=net",),
    "total kv, lending pool": ("scheduler.total=kv",),
    "total kv, lending net": ("scheduler.total=kv", "scheduler.lending=net"),
    "total kv, an adapter charged once": ("scheduler.total=kv", "scheduler.charge_adapter=once"),
}


def absolute() -> Iterator[Row]:
    """Yield what lies behind the cuts at 9 requests/s."""
    for scenario in ALL:
        for system in ("slora", FULL):
            for metric, what in (("p99_ms", "P99 TTFT"), ("tpot_p50_ms", "median time per token")):
                value = mean(metric, scenario, load_cell(system, 9))
                yield Row("Headline", f"{system}, 9/s: {what}", "a curve", Silent(), value, "0 ms", scenario.name)


def sensitivity() -> Iterator[Row]:
    """Yield the headline's cut under other assumptions, and under other readings of the quotas."""
    expect = Equal(80.7, 0.0)
    for told, changes in (SETTINGS | OF_SLORA).items():
        full = Cell(FULL, 9, MEDIUM, () if told in OF_SLORA else changes)
        value = cut("p99_ms", FIT, full, Cell("slora", 9, MEDIUM, changes))
        yield Row("Headline", f"{told}: cut of P99 TTFT at 9/s", "80.7 %", expect, value, "1 %", FIT.name)
    for told in ("pool 6500, host 5.2 ms", "pool 7000, host 5.2 ms"):
        value = mean("knee_per_s", FIT, knee("slora")._replace(changes=SETTINGS[told]))
        what = f"{told}: S-LoRA's highest rate"
        yield Row("Headline", what, "8.6/s", Equal(8.6), value, "2 /s", FIT.name)
    for scenario in BOTH:
        for told, changes in QUOTAS.items():
            full, base = Cell(FULL, 9, MEDIUM, changes), Cell("slora", 9, MEDIUM)
            value, what = mean("p99_ms", scenario, full), f"{told}: Chameleon's P99 TTFT at 9/s"
            yield Row("Quotas", what, "a curve", Silent(), value, "0 ms", scenario.name)
            value, what = cut("p99_ms", scenario, full, base), f"{told}: cut of P99 TTFT at 9/s"
            yield Row("Quotas", what, "80.7 %", expect, value, "1 %", scenario.name)


def late_rows() -> Iterator[Row]:
    """Yield the rows of this module."""
    parts = (figure_15, figure_16, figure_17, figure_18, figure_19, figure_20, figure_22, figures_23_to_25, squashes)
    for part in (*parts, absolute, sensitivity):
        yield from part()


HOLES = (
    Hole(
        "Fig. 19",
        "weighted size of degree 2 against a linear sum",
        "up to 10 % better",
        "no scheduler here ranks by a linear sum",
    ),
    Hole(
        "Fig. 21",
        "SLOs on WildChat-1M and LMSYS-Chat-1M",
        "3.3 s, 3.5 s",
        "of their lengths only means and a few percentiles are known here, which fix no distribution",
    ),
)
