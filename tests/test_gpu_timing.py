"""Timing: how many runs, which clock, and when a row is called noisy. No test here asks how long anything took."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, replace
from itertools import cycle
from pathlib import Path

import pytest

from gpu_validate.capture import capture
from gpu_validate.rows import Peaks, Row, Sheet, Stamp
from gpu_validate.runner import FATAL, DeviceLostError, Tally, run_shapes
from gpu_validate.shapes import Shape
from gpu_validate.timing import CPU_NOTE, MAX_RUNS, Measured, Timing, captured, measure, measure_beside, summarise

STAMP = Stamp("card", "1.2", "2.13", "2026-01-02", 0)
ROW = Row("launch", {}, 1.0, 1.0, 1.0, 20, "device", **asdict(STAMP))
SHAPES_LEFT = [Shape("dense", {"tokens": 1}), Shape("dense", {"tokens": 2}), Shape("lora", {"kernel": "bgmv"})]
STEADY = Timing(1.0, 1.0, 1.0, 20, "device")


class Clock:
    """A clock that stands still unless told to go on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, *seconds: float) -> Callable[[], None]:
        """Return work that takes these times, over and over."""
        times: Iterator[float] = cycle(seconds)

        def run() -> None:
            self.now += next(times)

        return run


def timed(clock: Clock, *seconds: float, budget_s: float = 1.0, min_runs: int = 20) -> Timing:
    return measure(clock.work(*seconds), device="cpu", budget_s=budget_s, min_runs=min_runs, now=clock)


def shapes(*sizes: int) -> list[Shape]:
    return [Shape("launch", {"kernels": size, "graph": False, "split": "fit"}) for size in sizes]


def test_the_median_is_that_of_the_clock() -> None:
    found = timed(Clock(), 0.01)
    assert found.p20_s == found.p50_s == found.p80_s == pytest.approx(0.01)
    assert found.why == ""


def test_a_cpu_has_only_the_hosts_clock_and_says_that_it_is_no_evidence() -> None:
    found = measure(lambda: None, device="cpu", budget_s=0.001, clock="device")
    assert (found.clock, found.note) == ("host", CPU_NOTE)


def test_the_budget_gives_the_number_of_runs() -> None:
    assert timed(Clock(), 0.01, budget_s=1.001).n == 100


def test_the_fewest_runs_are_made_whatever_the_budget() -> None:
    assert timed(Clock(), 1.0, budget_s=0.1, min_runs=7).n == 7


def test_there_is_a_highest_number_of_runs() -> None:
    assert timed(Clock(), 1e-6, budget_s=1.0).n == MAX_RUNS


def test_work_that_takes_no_time_ends_and_is_invalid() -> None:
    found = timed(Clock(), 0.0)
    assert (found.n, found.why) == (20, "too short for the clock")


def test_runs_that_differ_are_called_noisy() -> None:
    assert timed(Clock(), 0.010, 0.013).why.startswith("noisy: the quartiles are ")


def test_a_single_slow_run_is_not_noise() -> None:
    assert timed(Clock(), *[0.01] * 30, 0.5).why == ""


def test_the_first_call_is_not_counted() -> None:
    clock = Clock()
    times = iter([5.0])

    def work() -> None:
        clock.now += next(times, 0.01)

    assert measure(work, device="cpu", budget_s=0.5, now=clock).p80_s == pytest.approx(0.01)


def test_a_share_of_repeated_work_keeps_its_noise() -> None:
    whole = summarise([1.0, 2.0, 3.0, 4.0], "device")
    share = whole.per(4)
    assert share.p50_s == pytest.approx(whole.p50_s / 4)
    assert share.why == whole.why != ""


def test_issue_time_is_told_apart() -> None:
    assert summarise([1.0], "device", issue=[0.25]).issue_s == 0.25
    assert summarise([1.0], "device").issue_s is None


def test_a_cpu_has_no_graphs() -> None:
    def work() -> None:
        return None

    assert captured(work, device="cpu") is work


def test_the_summary_counts_reasons_and_not_rows() -> None:
    whys = ("noisy: 20%", "noisy: 30%", "2 FLOP/s is above 1.05 times the peak of 1", "failed: out of memory", "")
    rows = [replace(ROW, valid=not why, why=why) for why in whys]
    first, *reasons = Tally("load", rows, resumed=2, left_out=SHAPES_LEFT).lines()
    assert first.startswith("load: 5 rows measured, 4 of them invalid, 2 already there, 2 dense, 1 lora bgmv dropped ")
    assert reasons == [
        "  invalid: noisy (2)",
        "  invalid: a rate above the peak (1)",
        "  invalid: failed: out of memory (1)",
    ]


def run(sizes: list[Shape], took: Callable[[Shape], Timing], **options: object) -> list[Row]:
    given: dict[str, object] = {"sheet": None, "stamp": STAMP, "peaks": Peaks(), "budget_s": 10.0, **options}
    return run_shapes("test", sizes, lambda shape, _: Measured(took(shape)), **given).rows  # type: ignore[arg-type]


def test_a_noisy_row_is_written_and_marked() -> None:
    (row,) = run(shapes(1), lambda _: Timing(1.0, 1.0, 1.0, 20, "device", iqr_s=0.2))
    assert (row.valid, row.why) == (False, "noisy: the quartiles are 20% of the median apart")


def test_a_row_above_the_peak_is_marked() -> None:
    shape = Shape("probe", {"ceiling": "gemm", "flops": 10.0, "split": "fit"})
    (row,) = run([shape], lambda _: STEADY, peaks=Peaks(flops=5.0))
    assert not row.valid
    assert "above 1.05 times the peak" in row.why


@pytest.mark.parametrize("error", [RuntimeError, ValueError, NotImplementedError, Exception])
def test_a_shape_that_fails_is_a_row_and_the_others_go_on(error: type[Exception]) -> None:
    def took(shape: Shape) -> Timing:
        if shape.config["kernels"] == 1:
            msg = "out of memory\nand a long tale"
            raise error(msg)
        return STEADY

    failed, fine = run(shapes(1, 2), took)
    assert (failed.valid, failed.n, failed.why) == (False, 0, "failed: out of memory")
    assert fine.valid


def test_a_spent_budget_drops_what_is_last() -> None:
    clock = Clock()

    def took(_: Shape) -> Timing:
        clock.now += 4.0
        return STEADY

    rows = run(shapes(1, 2, 3, 4, 5), took, now=clock)
    assert [row.config["kernels"] for row in rows] == [1, 2, 3]


def test_an_interrupt_keeps_what_was_measured(tmp_path_factory: pytest.TempPathFactory) -> None:
    sheet = Sheet(tmp_path_factory.mktemp("sweep") / "sweep.jsonl")

    def took(shape: Shape) -> Timing:
        if shape.config["kernels"] == 2:
            raise KeyboardInterrupt
        return STEADY

    with pytest.raises(KeyboardInterrupt):
        run(shapes(1, 2), took, sheet=sheet)
    assert len(sheet.rows()) == 1
    resumed = run(shapes(1, 2), lambda _: STEADY, sheet=sheet)
    assert [row.config["kernels"] for row in resumed] == [2]


class FakeCuda:
    """Stands in for `torch.cuda`: events take the time from a clock, everything else is noted."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.log = clock, list[str]()

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        torch = pytest.importorskip("torch")
        fake = self

        class Event:
            def __init__(self, *, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                self.at = fake.clock()
                fake.log.append("record")

            def elapsed_time(self, end: Event) -> float:
                return (end.at - self.at) * 1e3

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: fake.log.append("synchronise"))

        class Stream:
            def __init__(self, _device: object = None) -> None:
                pass

            def wait_stream(self, _other: object) -> None:
                fake.log.append("wait")

        class Graph:
            def replay(self) -> None:
                fake.log.append("replay")

        class Capture(nullcontext[None]):
            def __init__(self, _graph: Graph, pool: object) -> None:
                assert pool is None
                super().__init__()
                self.capture_stream = Stream()

        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "current_stream", Stream)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "graph", Capture)
        monkeypatch.setattr(torch.cuda, "stream", lambda _stream: nullcontext())


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda(Clock())
    fake.patch(monkeypatch)
    return fake


def test_events_are_all_recorded_before_the_one_wait(cuda: FakeCuda) -> None:
    found = measure(cuda.clock.work(0.01), device="cuda", budget_s=0.0, flush_l2=False)
    assert found.p50_s == pytest.approx(0.01)
    assert (found.n, found.clock, found.issue_s) == (20, "device", None)
    assert cuda.log[-41:] == ["record"] * 40 + ["synchronise"]


def test_runs_that_are_kept_apart_each_begin_on_an_idle_device(cuda: FakeCuda) -> None:
    found = measure(cuda.clock.work(0.01), device="cuda:0", budget_s=0.0, flush_l2=False, apart=True)
    assert cuda.log[-61:] == ["synchronise", "record", "record"] * 20 + ["synchronise"]
    assert found.issue_s is not None


def test_the_hosts_clock_waits_for_the_device(cuda: FakeCuda) -> None:
    clock = cuda.clock
    work = clock.work(0.01)
    found = measure(work, device="cuda", budget_s=0.0, flush_l2=False, clock="host", now=clock)
    assert found.p50_s == pytest.approx(0.01)
    assert (found.clock, found.note) == ("host", "")
    assert cuda.log[-2:] == ["synchronise"] * 2


def test_a_slowdown_is_told_per_copy_and_not_per_compute(cuda: FakeCuda) -> None:
    # The fake has one stream: the copy's 3 s come after the compute, so neither slows the other.
    alone = Timing(2.0, 2.0, 2.0, 20, "device", issue_s=0.5)
    work = cuda.clock.work
    found = measure_beside(work(3.0), work(1.0), alone, device="cuda", budget_s=0.0)
    assert found.timing.p50_s == pytest.approx(3.0)
    assert found.extra == {"issue_s": 0.5, "copy_slowdown": pytest.approx(1.5), "compute_slowdown": pytest.approx(1.0)}


def test_a_graph_is_captured_after_a_warm_up_and_replayed_without_the_work(cuda: FakeCuda) -> None:
    calls: list[int] = []
    replay = captured(lambda: calls.append(1), device="cuda")
    assert (len(calls), cuda.log) == (4, ["wait", "wait"])
    replay()
    assert (len(calls), cuda.log[-1]) == (4, "replay")


def test_a_graph_that_shares_the_memory_of_another_is_given_its_pool(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    given: list[object] = []
    without = torch.cuda.graph

    def counted(graph: object, pool: object) -> object:
        given.append(pool)
        return without(graph, pool=None)

    monkeypatch.setattr(torch.cuda, "graph", counted)
    capture(lambda: None, device="cuda", pool=(0, 1))
    assert given == [(0, 1)]


def test_a_graph_keeps_the_memory_of_its_work(cuda: FakeCuda) -> None:
    def work() -> None:
        return None

    alive = weakref.ref(work)
    replay = captured(work, device="cuda")
    del work
    gc.collect()
    assert alive() is not None
    del replay
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("words", FATAL)
def test_a_shape_that_costs_the_device_ends_the_sweep_and_is_tried_last(words: str, tmp_path: Path) -> None:
    sheet = Sheet(tmp_path / "sweep.jsonl")

    def took(shape: Shape) -> Timing:
        if shape.config["kernels"] == 1:
            msg = f"CUDA error: {words} was encountered"
            raise RuntimeError(msg)
        return STEADY

    with pytest.raises(DeviceLostError, match=r"launch \w+ failed: CUDA error"):
        run(shapes(1, 2, 3), took, sheet=sheet)
    again = run(shapes(1, 2, 3), lambda _: STEADY, sheet=sheet)
    assert [row.config["kernels"] for row in again] == [2, 3, 1]
