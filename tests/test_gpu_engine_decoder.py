"""The paged, batched decoder says what a dense one without a cache says, with any mixture of adapters."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from gpu_validate.engine.dims import executed_rank, tiny  # noqa: E402
from gpu_validate.engine.worker import Worker  # noqa: E402
from gpu_validate.lora.backends import available  # noqa: E402
from sim.models import load_model  # noqa: E402
from sim.serving.job import Job  # noqa: E402
from tests.engine_world import (  # noqa: E402
    CPU,
    MODEL,
    dense_logits,
    job_of,
    prompt_of,
    said,
    worker_of,
)

CPU_KERNELS = [name for name, reason in available().items() if reason is None and name not in {"segmented", "bgmv"}]
ASKED = [(0, 5, 0), (1, 17, 1), (2, 1, 4), (3, 33, 2), (4, 16, 3), (5, 8, 4), (6, 15, 0)]  # id, prompt, adapter


def jobs_of(worker: Worker, asked: list[tuple[int, int, int]]) -> list[Job]:
    return [job_of(worker, *one) for one in asked]


def spoken(worker: Worker, jobs: list[Job], steps: int) -> dict[int, list[int]]:
    worker.prefill(jobs)
    for _ in range(steps):
        worker.decode(jobs)
    return said(worker)


@pytest.mark.parametrize("kernel", CPU_KERNELS)
def test_a_mixed_batch_says_what_merged_weights_say_without_a_cache(kernel: str) -> None:
    worker = worker_of(kernel=kernel)
    jobs = jobs_of(worker, ASKED)
    steps = 20
    emitted = spoken(worker, jobs, steps)
    heard = vars(worker.decoder)["heard"]
    for place, job in enumerate(jobs):
        tokens = prompt_of(job) + emitted[job.request.id]
        index = 0 if job.slot is None else job.slot.index
        wanted = dense_logits(worker, tokens[:-1], index)[job.prompt_tokens - 1 :]
        found = np.stack([logits[place].numpy() for logits in heard])
        assert np.allclose(found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
        assert emitted[job.request.id] == wanted.argmax(axis=1).tolist()


def test_an_adapter_changes_what_is_said() -> None:
    base, adapted = (spoken(worker := worker_of(), [job_of(worker, 9, 20, index)], 10)[9] for index in (0, 4))
    assert base != adapted


def test_the_batch_does_not_change_what_a_request_is_told() -> None:
    together = spoken(worker := worker_of(), jobs_of(worker, ASKED), 12)
    for asked in ASKED:
        alone = spoken(worker := worker_of(), jobs_of(worker, [asked]), 12)
        assert alone[asked[0]] == together[asked[0]]


def test_a_request_that_joins_a_running_batch_is_told_the_same() -> None:
    worker = worker_of()
    early, late = jobs_of(worker, ASKED[:3]), jobs_of(worker, ASKED[3:])
    spoken(worker, early, 4)
    worker.prefill(late)
    for _ in range(6):
        worker.decode(early + late)
    whole = spoken(other := worker_of(), jobs_of(other, ASKED), 10)
    for job in early + late:
        told = said(worker)[job.request.id]
        assert told == whole[job.request.id][: len(told)]


def test_blocks_of_an_earlier_request_do_not_leak_into_a_later_one() -> None:
    worker = worker_of()
    spoken(worker, jobs_of(worker, ASKED), 5)
    for asked in ASKED:
        worker.kv.pool.free(asked[0])
        worker._told.forget(asked[0])
    worker.kv.pool.check()
    again = spoken(worker, [job_of(worker, 50, 40, 2)], 9)[50]
    assert again == spoken(fresh := worker_of(), [job_of(fresh, 50, 40, 2)], 9)[50]


def test_a_request_that_starts_again_starts_afresh() -> None:
    worker = worker_of()
    (job,) = jobs_of(worker, [(7, 18, 2)])
    once = list(spoken(worker, [job], 5)[7])
    assert spoken(worker, [job], 5)[7] == once * 2
    assert worker.kv.pool.tokens == {7: 23}
    worker.kv.pool.check()


def test_work_is_counted() -> None:
    worker = worker_of()
    spoken(worker, jobs_of(worker, ASKED), 4)
    assert (worker.prefilled_tokens, worker.decoded_tokens) == (sum(prompt for _, prompt, _ in ASKED), 4 * len(ASKED))


def test_only_the_modules_of_the_layout_are_adapted() -> None:
    worker = worker_of(modules=("q", "v"))
    emitted = spoken(worker, [job_of(worker, 1, 9, 4)], 6)[1]
    tokens = prompt_of(job_of(worker, 1, 9, 4)) + emitted
    assert dense_logits(worker, tokens[:-1], 4)[8:].argmax(axis=1).tolist() == emitted


def test_tied_embeddings_are_one_tensor() -> None:
    decoder = worker_of(MODEL.model_copy(update={"tied_embeddings": True})).decoder
    assert decoder.head is decoder.embedding


def test_tokens_without_their_adapter_on_the_device_are_refused() -> None:
    worker = worker_of()
    worker.adapters._free(2)
    with pytest.raises(RuntimeError, match=r"tokens need adapters \[2\], which are not on the device"):
        worker.prefill([job_of(worker, 1, 4, 2)])


def test_a_plan_is_made_once_for_an_unchanged_batch() -> None:
    worker = worker_of()
    indices = [1, None, 4]
    assert worker._plan(indices, CPU) is worker._plan(list(indices), CPU)
    assert worker._plan([None, None], CPU) is None


@pytest.mark.parametrize(("name", "groups"), [("llama-7b", 1), ("llama-3.1-8b", 2)])
def test_tiny_dimensions_keep_layers_and_the_kind_of_attention(name: str, groups: int) -> None:
    model = load_model(name)
    small = tiny(model)
    assert (small.layers, small.heads // small.kv_heads) == (model.layers, groups)
    assert small.parameters < 3_000_000


def test_executed_ranks_are_at_least_one() -> None:
    assert [executed_rank(rank, 8) for rank in (4, 8, 16, 128)] == [1, 1, 2, 16]
