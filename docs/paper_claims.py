"""What Chameleon (arXiv 2411.17741) prints in Figures 2 to 14, and the runs that each number is compared with."""  # noqa: INP001

from __future__ import annotations

from collections.abc import Iterator

from paper_rows import Fact, Row, Scenario, Value
from paper_runs import Cell
from paper_verdicts import Axis, Bound, Equal, Rising, Silent

from sim.models import load_model

POOL = "memory.kv_pool_tokens=6000"
HOST = "costs.host_s=5.2e-3"
WHOLE, MEDIUM = 19_366, 6000  # requests: the trace's, and of runs at other loads than 9/s

FIT = Scenario("paper-fit", (POOL,), "S-LoRA's default pool holds KV and S-LoRA's adapters; Chameleon's lie outside it")
PHYSICAL = Scenario("physical", (), "all memory that a 48 GB A40 has beside the weights serves KV and adapters")
FIT_HOST = Scenario("paper-fit, host 5.2 ms", (POOL, HOST), "the same, with the host time of published S-LoRA servers")
PHYSICAL_HOST = Scenario("physical, host 5.2 ms", (HOST,), "all memory, with that host time")
BOTH, ALL = (FIT, PHYSICAL), (FIT, PHYSICAL, FIT_HOST, PHYSICAL_HOST)
ALONE = Scenario("unloaded", (), "one request of 370 tokens at a time, the adapters in turn; nobody waits for anybody")
SWITCHES = (
    Scenario("70B, a link for each GPU", (), "Llama-2-70B on A100-80, tensor parallel; `gpus_per_switch` is 1"),
    Scenario("70B, one link for all", (), "Llama-2-70B on A100-80; `gpus_per_switch` is the tensor-parallel degree"),
)


def region(gib: float) -> Scenario:
    """Return a scenario whose cache is a region of its own of so many GiB, and which loads on demand only."""
    limits = ("adapters.memory=reserved", f"adapters.reserved_bytes={round(gib * 2**30)}")
    told = f"paper-fit, but Chameleon's adapters have {gib:g} GiB and come on demand only"
    return Scenario(f"region {gib:g} GiB", (POOL, *limits, "prefetch=none"), told, baseline=(POOL,))


REGIONS, TIGHT = (region(8.0), region(8.25), region(8.5)), region(1.0)
FULL, NO_SCHED, NO_CACHE = "chameleon", "chameleon-no-sched", "chameleon-no-cache"


def load_cell(system: str, rate_per_s: float, *changes: str) -> Cell:
    """Return runs of a system at a load: of the whole trace's length at 9 requests/s, else shorter."""
    return Cell(system, rate_per_s, WHOLE if rate_per_s == 9 else MEDIUM, changes)


def cut(metric: str, scenario: Scenario, candidate: Cell, baseline: Cell) -> tuple[Value]:
    """Return by how many per cent a candidate is below a baseline."""
    return (Value(metric, scenario.of(candidate), scenario.of(baseline), "cut"),)


def ratio(metric: str, scenario: Scenario, candidate: Cell, baseline: Cell) -> tuple[Value]:
    """Return how many times a baseline a candidate is."""
    return (Value(metric, scenario.of(candidate), scenario.of(baseline), "ratio"),)


def mean(metric: str, scenario: Scenario, cell: Cell) -> tuple[Value]:
    """Return what is measured of one cell."""
    return (Value(metric, scenario.of(cell)),)


# --- dimensions, and one request at a time ---


def sizes() -> Iterator[Row]:
    """Yield what follows from the models' dimensions."""
    small, large = load_model("llama-7b"), load_model("llama-2-70b")
    for what, printed, value, told, unit in (
        ("adapter of rank 32 on Llama-7B", 64.0, small.adapter_bytes(32) / 2**20, "64 MB", "MiB"),
        ("adapter of rank 32 on Llama-70B", 256.0, large.adapter_bytes(32) / 2**20, "256 MB", "MiB"),
        ("adapter of rank 128 on Llama-70B", 1.0, large.adapter_bytes(128) / 1e9, '"order of GBs"', "GB"),
        ("weights of Llama-7B (Fig. 6, memory at rest)", 13.0, small.weight_bytes / 1e9, "~13 GB", "GB"),
    ):
        yield Row("Sizes", what, told, Equal(printed), (Fact(value),), f"2 {unit}", "dimensions")


def alone(*changes: str, prompt_tokens: int = 370) -> Cell:
    """Return runs of S-LoRA with so long between equal requests that each finds an idle engine."""
    lengths = (
        "workload.scale=1", "workload.lengths.family=uniform",
        f"workload.lengths.input_low_tokens={prompt_tokens}", f"workload.lengths.input_high_tokens={prompt_tokens + 1}",
        "workload.lengths.output_low_tokens=20", "workload.lengths.output_high_tokens=21",
    )  # fmt: skip
    ranks = () if any(change.startswith("workload.ranks") for change in changes) else ("workload.adapters=5",)
    return Cell("slora", 0.02, 100, (*lengths, *ranks, "workload.popularity=round_robin", *changes), seeds=1)


def figures_2_and_3() -> Iterator[Row]:
    """Yield the unloaded first tokens, which the A40's link and adapter rates were derived from."""
    name = ALONE.name
    for rank, printed in ((8, 74), (16, 78), (32, 88), (64, 107), (128, 144)):
        value = mean(f"r{rank}_p50_ms", ALONE, alone())
        yield Row("Fig. 2", f"TTFT, rank {rank}", f"{printed} ms", Equal(printed), value, "1 ms", name, seen=True)
    load = mean("r128_load_percent", ALONE, alone())
    yield Row("Fig. 2", "rank 128: load, share of TTFT", "17.5 %", Equal(17.5), load, "1 %", name, seen=True)
    both = (Value("r128_prefill_ms", alone("costs.kernel=none"), alone(), "cut", "r128_p50_ms"),)
    what = "rank 128: load and adapter compute, share of TTFT"
    yield Row("Fig. 2", what, "~60 %", Equal(60), both, "1 %", name, seen=True)
    resident = alone("workload.adapters=1", "workload.ranks=[128]", prompt_tokens=2000)._replace(system=NO_SCHED)
    what = "TTFT, 2000 tokens, rank 128, resident"
    yield Row("Fig. 3", what, "axis ends at 800 ms", Axis(800), mean("p50_ms", ALONE, resident), "0 ms", name)


def figure_4() -> Iterator[Row]:
    """Yield what many adapters of rank 32 do to S-LoRA's link."""

    def cell(adapters: int, rate_per_s: float) -> Cell:
        own = (f"workload.adapters={adapters}", "workload.ranks=[32]", "workload.popularity=uniform")
        return Cell("slora", rate_per_s, 3000, own)

    one = cell(1, 5)
    for scenario in BOTH:
        value = mean("link_percent", scenario, cell(500, 8))
        yield Row("Fig. 4", "500 adapters, 8/s: PCIe in use", '"saturated"', Bound(90), value, "1 %", scenario.name)
        value = ratio("link_gb_per_s", scenario, cell(500, 8), one)
        what = "500 adapters, 8/s: PCIe traffic, times that of 1 adapter at 5/s"
        yield Row("Fig. 4", what, "axis ends at 4x", Axis(4), value, "0 x", scenario.name)
        for adapters, rate_per_s in ((1, 8), (50, 5), (50, 8), (500, 5), (500, 8)):
            value = ratio("p99_ms", scenario, cell(adapters, rate_per_s), one)
            what = f"{adapters} adapters, {rate_per_s}/s: P99 TTFT, times that of 1 adapter at 5/s"
            yield Row("Fig. 4", what, "a curve", Silent(), value, "2 x", scenario.name)


def figure_5() -> Iterator[Row]:
    """Yield how tensor parallelism changes a load's share of the first token."""
    for scenario in SWITCHES:
        cells = {}
        for tensor in (2, 4, 8):
            shared = tensor if scenario is SWITCHES[1] else 1
            cell = alone(f"parallel.tensor={tensor}", f"parallel.gpus_per_switch={shared}")
            cells[tensor] = cell._replace(hardware="a100-80", model="llama-2-70b")
        values = tuple(Value("r128_load_percent", cell) for cell in cells.values())
        what = "rank 128: load, share of TTFT, TP 2, 4, 8"
        yield Row("Fig. 5", what, "rises", Rising(), values, "1 %", scenario.name)
        values = tuple(Value(f"r{rank}_load_percent", cells[4]) for rank in (8, 16, 32, 64, 128))
        yield Row("Fig. 5", "TP 4: load, share of TTFT, ranks", "rises", Rising(), values, "1 %", scenario.name)


# --- under load ---


def figure_8() -> Iterator[Row]:
    """Yield who waits under FIFO at high load, and chunked prefill."""
    for scenario in BOTH:
        name = scenario.name
        for own, printed in (("small", 28.6), ("large", 12.0)):
            value = mean(f"queue_output_{own}_percent", scenario, load_cell("slora", 9))
            what = f"FIFO, 9/s: {own} requests' time in the queue"
            yield Row("Fig. 8", what, f"{printed} %", Equal(printed), value, "1 %", name)
        for rate_per_s, axis in ((8, 6), (9, 200)):
            value = mean("slowdown_p99", scenario, Cell("slora", rate_per_s, 3000, probe="slowdown"))
            what = f"FIFO, {rate_per_s}/s: P99 of slowdown"
            yield Row("Fig. 8", what, f"axis ends at {axis}", Axis(axis), value, "1 x", name)
        chunked, separate = Cell("slora", 9, MEDIUM, ("prefill=chunked",)), Cell("slora", 9, MEDIUM)
        value = cut("p99_ms", scenario, chunked, separate)
        what = "chunked prefill, 9/s: cut of P99 TTFT"
        yield Row("Fig. 8", what, '"does not help"', Bound(None, 10), value, "1 %", name)


def knee(system: str) -> Cell:
    """Return searches for a system's highest rate within the objective."""
    return Cell(system, 0, 3000, probe="knee")


def figure_11() -> Iterator[Row]:
    """Yield the highest rates within the objective."""
    low = mean("e2e_mean_s", PHYSICAL, Cell("slora", 1, 3000))
    what = "slora, 1/s: mean time of a request (the SLO is five times it)"
    yield Row("Fig. 11", what, "1.0 s", Equal(1.0), low, "2 s", PHYSICAL.name, seen=True)
    for scenario in ALL:
        for system, printed in (("slora", 8.6), (FULL, 12.9)):
            value, is_seen = mean("knee_per_s", scenario, knee(system)), (system, scenario) == ("slora", FIT)
            what = f"{system}: highest rate with P99 TTFT within 5 s"
            yield Row("Fig. 11", what, f"{printed}/s", Equal(printed), value, "2 /s", scenario.name, seen=is_seen)
        for system, printed in ((FULL, 1.5), (NO_SCHED, 1.2), (NO_CACHE, 1.05)):
            if system == FULL or scenario in BOTH:
                value = ratio("knee_per_s", scenario, knee(system), knee("slora"))
                what = f"{system}: that rate, times S-LoRA's"
                yield Row("Fig. 11", what, f"{printed}x", Equal(printed, 1.0), value, "2 x", scenario.name)
    for scenario in BOTH:
        value = mean("pool_full_percent", scenario, Cell(FULL, 12.5, MEDIUM, probe="memory"))
        what = "chameleon, 12.5/s: time with 95 % of the memory for KV in use"
        yield Row("Fig. 11", what, '"most of the time"', Bound(50), value, "0 %", scenario.name)


CUTS = (("Fig. 11", "p99_ms", (14.7, 24.6, 80.7)), ("Fig. 13", "p50_ms", (13.9, 20.9, 48.1)))


def cuts() -> Iterator[Row]:
    """Yield the cuts of P99 and P50 TTFT."""
    for figure, metric, printed in CUTS:
        for scenario in ALL:
            for rate_per_s, percent in zip((6, 8, 9), printed, strict=True):
                value = cut(metric, scenario, load_cell(FULL, rate_per_s), load_cell("slora", rate_per_s))
                what = f"{rate_per_s}/s: cut of {metric[:3].upper()} TTFT"
                yield Row(figure, what, f"{percent} %", Equal(percent, 0.0), value, "1 %", scenario.name)


def figure_12() -> Iterator[Row]:
    """Yield time between tokens."""
    for scenario in ALL:
        for metric, told in (("tpot_p99_ms", "mean per request"), ("itl_p99_ms", "every gap")):
            for system in ("slora", FULL):
                value, what = mean(metric, scenario, load_cell(system, 9)), f"{system}, 9/s: P99 TBT, {told}"
                yield Row("Fig. 12", what, "< 150 ms", Bound(None, 150), value, "0 ms", scenario.name)
            value = cut(metric, scenario, load_cell(FULL, 9), load_cell("slora", 9))
            what = f"9/s: cut of P99 TBT, {told}"
            yield Row("Fig. 12", what, '"always lower"', Bound(0), value, "1 %", scenario.name)


WAITS = {
    "wait_p99_ms": "P99 of the",
    "warm_wait_p99_ms": "P99, first third of the run left out, of the",
    "wait_max_ms": "longest of the",
}


def figure_14() -> Iterator[Row]:
    """Yield hits, and loads on the critical path, at 8 requests/s."""
    for scenario in (*BOTH, *REGIONS):
        name, cell = scenario.name, Cell(FULL, 8, 3000)
        for metric, told in (("hit_percent", "requests that hit"), ("no_wait_percent", "requests that wait 0 ms")):
            value = mean(metric, scenario, cell)
            yield Row("Fig. 14", f"chameleon, 8/s: {told}", "75 %", Equal(75), value, "1 %", name)
        for metric, told in WAITS.items():
            value, what = mean(metric, scenario, cell), f"chameleon, 8/s: {told} loads on the critical path"
            yield Row("Fig. 14", what, "<= 6 ms", Bound(None, 6.5), value, "1 ms", name)
    for scenario in BOTH:
        for metric, told in WAITS.items():
            value = mean(metric, scenario, Cell("slora", 8, 3000))
            what = f"slora, 8/s: {told} loads on the critical path"
            yield Row("Fig. 14", what, "up to 30 ms", Equal(30), value, "1 ms", scenario.name)


def early_rows() -> Iterator[Row]:
    """Yield the rows of this module."""
    for part in (sizes, figures_2_and_3, figure_4, figure_5, figure_8, figure_11, cuts, figure_12, figure_14):
        yield from part()
