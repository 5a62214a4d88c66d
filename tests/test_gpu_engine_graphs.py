"""Decode steps of fixed shape: padding changes nothing that is said; what is captured on a GPU is what runs eagerly."""

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

from gpu_validate.engine.adapters import COPY_MODES  # noqa: E402
from gpu_validate.engine.build import open_engine  # noqa: E402
from gpu_validate.engine.dims import tiny  # noqa: E402
from gpu_validate.engine.graphs import Captured, DecodeGraphs, padded_blocks, padded_requests, widths_to  # noqa: E402
from gpu_validate.engine.worker import Worker, idle_metadata  # noqa: E402
from gpu_validate.lora.plan import LoraPlan  # noqa: E402
from gpu_validate.replay import Replay  # noqa: E402
from sim.build import deploy, jobs  # noqa: E402
from sim.config import load_config  # noqa: E402
from tests.engine_world import job_of, said, worker_of  # noqa: E402

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
ASKED = [(0, 5, 0), (1, 17, 1), (2, 1, 4), (3, 33, 2), (4, 16, 3)]  # id, prompt, adapter


class Repeat:
    """Does again what a graph would have captured."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.replay = work


class EagerGraphs(DecodeGraphs):
    """Graphs without CUDA: fixed shapes and tensors, run eagerly."""

    def _capture(self, requests: int, size: int, plan: LoraPlan | None) -> Captured:
        metadata = self._idle_metadata(requests, size)
        plan = None if plan is None else self._fixed(plan, requests)
        self._body(metadata, requests, plan)
        return Captured(Repeat(lambda: self._body(metadata, requests, plan)), metadata, plan)  # type: ignore[arg-type]


def told(worker: Worker, steps: int = 14) -> dict[int, list[int]]:
    """Return what a batch is told that first grows and then shrinks."""
    first, second = ([job_of(worker, *one) for one in part] for part in (ASKED[:2], ASKED[2:]))
    worker.prefill(first)
    worker.decode(first)
    worker.prefill(second)
    for batch in (first + second, second, [first[0]]):
        for _ in range(steps):
            worker.decode(batch)
    return said(worker)


def graphed() -> Worker:
    """Return a worker whose decode steps have fixed shapes."""
    worker = worker_of()
    worker._graphs = EagerGraphs(
        worker._step, idle_metadata, worker.adapters.max_rank, is_aligned=worker.adapters.is_aligned
    )
    return worker


def test_padding_changes_nothing_that_is_said() -> None:
    padded = graphed()
    assert told(padded) == told(worker_of())
    assert padded._graphs is not None
    assert len(padded._graphs) > 3
    assert torch.isfinite(padded.kv.cache).all()


@pytest.mark.parametrize("has_graphs", [True, False])
def test_warming_up_changes_nothing_that_is_said(has_graphs: bool) -> None:
    worker = graphed() if has_graphs else worker_of()
    worker.warm([1, 4], [1, 2], [1, 20])
    assert worker._graphs is None or len(worker._graphs) == 8
    assert told(worker) == told(worker_of())
    assert torch.isfinite(worker.kv.cache).all()


@pytest.mark.parametrize(("requests", "bucket"), [(1, 1), (3, 4), (16, 16), (17, 24), (256, 256), (257, None)])
def test_batches_are_padded_to_the_next_bucket(requests: int, bucket: int | None) -> None:
    assert padded_requests(requests) == bucket


def test_tables_are_padded_to_few_widths() -> None:
    assert [padded_blocks(blocks) for blocks in (1, 8, 9, 32, 33, 128, 129)] == [8, 8, 32, 32, 128, 128, 512]
    assert widths_to(33) == [8, 32, 128]


def test_a_plan_is_sent_to_a_graph_once_and_a_new_one_again(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[LoraPlan] = []
    whole = LoraPlan.copy_from

    def copy_from(self: LoraPlan, other: LoraPlan) -> None:
        sent.append(other)
        whole(self, other)

    monkeypatch.setattr(LoraPlan, "copy_from", copy_from)
    worker = graphed()
    jobs = [job_of(worker, *one) for one in ASKED[:2]]
    worker.prefill(jobs)
    for _ in range(5):
        worker.decode(jobs)
    assert len(sent) == 1
    worker.decode(jobs[::-1])
    assert len(sent) == 2


def test_a_backend_that_loops_on_the_host_is_not_captured() -> None:
    assert worker_of(uses_graphs=True)._graphs is None


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("kernel", ["segmented", "bgmv"])
def test_a_captured_step_says_what_an_eager_one_says(kernel: str) -> None:
    cuda = torch.device("cuda")
    captured, eager = (worker_of(kernel=kernel, device=cuda, uses_graphs=graphs) for graphs in (True, False))
    captured.warm([1, 2], [1], [16])
    assert told(captured) == told(eager)
    assert captured._graphs


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("system", ["slora", "chameleon"])
@pytest.mark.parametrize("mode", COPY_MODES)
def test_a_run_on_the_gpu_accounts_for_every_request(system: str, mode: str) -> None:
    made = deploy(
        load_config(system, (), {"workload": {"requests": 40, "rate_per_s": 50.0, "scale": 20.0}}), asks_every_step=True
    )
    engine = open_engine(
        made, device="cuda", backend="segmented", dims=tiny(made.model), rank_divisor=8, clock="real", copy_mode=mode
    )
    Replay(engine.core, engine.device, jobs(made, engine.core.adapters.palette), engine.records).run()
    torch.cuda.synchronize()
    assert sorted(engine.records.requests["request"].tolist()) == list(range(40))
    engine.device.worker.check(engine.core)
    adapters = engine.device.worker.adapters
    layout = adapters.store.layout
    for index in adapters.arena.offsets:
        rank, wide = adapters.store.ranks[index], adapters.ranks[index]
        there = layout.views(adapters.arena.slice(index, layout.elements(wide)).cpu(), wide)
        for place, tensor in layout.views(adapters.store.adapter(index), rank).items():
            assert torch.equal(there[place][: tensor.shape[0], : tensor.shape[1]], tensor)
