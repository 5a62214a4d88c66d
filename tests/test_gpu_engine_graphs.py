"""Decode steps of fixed shape: padding changes nothing that is said; what is captured on a GPU is what runs eagerly."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

import pytest

torch = pytest.importorskip("torch")

from gpu_validate.engine.adapters import COPY_MODES  # noqa: E402
from gpu_validate.engine.attention import Packed, prompt_attention  # noqa: E402
from gpu_validate.engine.build import open_engine  # noqa: E402
from gpu_validate.engine.dims import tiny  # noqa: E402
from gpu_validate.engine.graphs import Captured, DecodeGraphs, idle_metadata  # noqa: E402
from gpu_validate.engine.kv import NOBODYS_BLOCK, BlockPool  # noqa: E402
from gpu_validate.engine.packing import pack_chunks  # noqa: E402
from gpu_validate.engine.padding import padded_blocks, padded_requests, padding_of, widths_to  # noqa: E402
from gpu_validate.engine.warming import warm_decode, warm_mixed, warm_prefill  # noqa: E402
from gpu_validate.engine.worker import Worker  # noqa: E402
from gpu_validate.lora.plan import LoraPlan  # noqa: E402
from gpu_validate.replay import Replay  # noqa: E402
from sim.build import deploy, jobs  # noqa: E402
from sim.config import load_config  # noqa: E402
from sim.serving.steps import Chunk  # noqa: E402
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
        metadata = idle_metadata(requests, size)
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


def pool_with(worker: Worker, id_: int, tokens: int) -> BlockPool:
    """Return the worker's pool, in which a request has blocks."""
    worker.kv.pool.allocate(id_, tokens)
    return worker.kv.pool


def graphed() -> Worker:
    """Return a worker whose decode steps have fixed shapes."""
    worker = worker_of()
    worker._graphs = EagerGraphs(worker._step, worker.adapters.max_rank, is_aligned=worker.adapters.is_aligned)
    return worker


def test_padding_changes_nothing_that_is_said() -> None:
    padded = graphed()
    assert told(padded) == told(worker_of())
    assert padded._graphs is not None
    assert len(padded._graphs) > 3
    assert torch.isfinite(padded.kv.cache).all()


def test_padded_chunks_say_what_whole_prompts_say() -> None:
    whole, chunked = worker_of(), graphed()
    for worker in (whole, chunked):
        batch, job = job_of(worker, 0, 5, 1), job_of(worker, 1, 90, 3)
        worker.prefill([batch])
        for chunk in [Chunk(job, 0, 90)] if worker is whole else [Chunk(job, 0, 40), Chunk(job, 40, 50)]:
            worker.mixed([batch], [chunk])
        worker.decode([batch])
    heard = said(chunked)
    assert (heard[0][:3], heard[1]) == (said(whole)[0], said(whole)[1])
    assert chunked.prefilled_tokens == whole.prefilled_tokens == 95
    assert torch.isfinite(chunked.kv.cache).all()


def test_padding_has_a_position_that_the_shortest_model_has() -> None:
    worker = worker_of()
    packed = pack_chunks([Chunk(job_of(worker, 0, 3, 0), 0, 3)], pool_with(worker, 0, 3), worker._ids, padding=61)
    _, positions, rows, *_ = packed.arrays
    assert list(positions) == [0, 1, 2, *[0] * 61]
    assert list(rows[3:]) == [NOBODYS_BLOCK] * 61
    assert (packed.lengths, packed.padding) == ((3, 61), 61)


@pytest.mark.parametrize(("tokens", "padding"), [(1, 63), (64, 0), (65, 63)])
def test_prompts_are_padded_to_a_few_sizes(tokens: int, padding: int) -> None:
    assert padding_of(tokens) == padding


@pytest.mark.parametrize("has_graphs", [True, False])
def test_warming_up_changes_nothing_that_is_said(has_graphs: bool) -> None:
    worker = graphed() if has_graphs else worker_of()
    warm_decode(worker, [1, 4], [1, 2])
    warm_prefill(worker, [1, 20])
    warm_mixed(worker, [3, 64], [1, 2])
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
    warm_decode(captured, [1, 2], [1])
    warm_prefill(captured, [16])
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


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize(
    ("system", "settings"),
    [
        ("vllm", ("limits.step_tokens=64",)),
        ("fastserve", ("memory.kv_pool_tokens=2000",)),
        ("fastserve", ("memory.kv_pool_tokens=2000", "admission.preempted=keep")),
        ("dlora", ("limits.running_requests=4", "workload.adapters=3")),
    ],
)
def test_other_engines_account_for_every_request_on_the_gpu(system: str, settings: tuple[str, ...]) -> None:
    workload = {"requests": 40, "rate_per_s": 500.0, "scale": 20.0}
    made = deploy(load_config(system, settings, {"workload": workload}), asks_every_step=True)
    engine = open_engine(
        made, device="cuda", backend="segmented", dims=tiny(made.model), rank_divisor=8, clock="real", keeps_tokens=True
    )
    Replay(engine.core, engine.device, jobs(made, engine.core.adapters.palette), engine.records).run()
    torch.cuda.synchronize()
    worker = engine.device.worker
    worker.check(engine.core)
    assert not worker.kv.pool.tables
    served = {id_: len(tokens) for id_, tokens in (worker.emitted or {}).items()}
    wanted = enumerate(made.trace.output_tokens.tolist())
    assert served == {id_: output for id_, output in wanted if id_ not in engine.records.rejections}


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("kv_heads", [2, 8])
def test_chunks_attend_to_what_came_before_on_the_gpu(kv_heads: int) -> None:
    queries, keys = (3, 20, 1), (40, 20, 7)
    packed = [
        Packed(torch.tensor([0, *accumulate(lengths)], dtype=torch.int32), lengths) for lengths in (queries, keys)
    ]
    q = torch.randn(sum(queries), 8, 64, dtype=torch.bfloat16)
    k, v = (torch.randn(sum(keys), kv_heads, 64, dtype=torch.bfloat16) for _ in "kv")
    wanted = prompt_attention(q.float(), k.float(), v.float(), packed[0], packed[1])
    on_gpu = [Packed(one.bounds.cuda(), one.lengths) for one in packed]
    found = prompt_attention(q.cuda(), k.cuda(), v.cuda(), on_gpu[0], on_gpu[1])
    assert torch.allclose(found.float().cpu(), wanted, rtol=2e-2, atol=2e-2)


def test_the_queries_of_a_prompt_are_its_last_tokens() -> None:
    q, k, v = torch.randn(12, 4, 8), torch.randn(12, 2, 8), torch.randn(12, 2, 8)
    whole = Packed(torch.tensor([0, 5, 12]), (5, 7))
    last = Packed(torch.tensor([0, 2, 9]), (2, 7))
    wanted = prompt_attention(q, k, v, whole, whole)[3:]
    assert torch.allclose(prompt_attention(q[3:], k, v, last, whole), wanted, atol=1e-6)
