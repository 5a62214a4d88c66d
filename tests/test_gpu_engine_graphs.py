"""Decode steps of fixed shape: padding changes nothing that is said; what is captured on a GPU is what runs eagerly."""

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

from gpu_validate.engine.build import open_engine  # noqa: E402
from gpu_validate.engine.dims import tiny  # noqa: E402
from gpu_validate.engine.graphs import Captured, DecodeGraphs, padded_blocks, padded_requests  # noqa: E402
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


def test_padding_changes_nothing_that_is_said() -> None:
    padded = worker_of()
    padded._graphs = EagerGraphs(
        padded._step, idle_metadata, padded.adapters.max_rank, is_aligned=padded.adapters.is_aligned
    )
    assert told(padded) == told(worker_of())
    assert len(padded._graphs) > 3
    assert torch.isfinite(padded.kv.cache).all()


@pytest.mark.parametrize("has_graphs", [True, False])
def test_warming_up_changes_nothing_that_is_said(has_graphs: bool) -> None:
    worker = worker_of()
    if has_graphs:
        worker._graphs = EagerGraphs(
            worker._step, idle_metadata, worker.adapters.max_rank, is_aligned=worker.adapters.is_aligned
        )
    worker.warm([1, 4], [1, 2], [1, 20])
    assert worker._graphs is None or len(worker._graphs) == 8
    assert told(worker) == told(worker_of())
    assert torch.isfinite(worker.kv.cache).all()


@pytest.mark.parametrize(("requests", "bucket"), [(1, 1), (3, 4), (16, 16), (17, 24), (256, 256), (257, None)])
def test_batches_are_padded_to_the_next_bucket(requests: int, bucket: int | None) -> None:
    assert padded_requests(requests) == bucket


def test_tables_are_padded_to_powers_of_two() -> None:
    assert [padded_blocks(blocks) for blocks in (1, 2, 3, 5, 64, 65)] == [1, 2, 4, 8, 64, 128]


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
@pytest.mark.parametrize("mode", ["flat", "per_layer", "per_tensor", "slora_double"])
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
    for index in adapters.arena.offsets:
        weights = adapters.store.adapter(index)
        assert torch.equal(adapters.arena.slice(index, len(weights)).cpu(), weights)
