"""Lines that only run on CUDA, on a device that is not there; `dry_cuda` says what this can show and what it cannot."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from gpu_validate import commands, iterations, live, runner, timing  # noqa: E402 - torch may be missing
from gpu_validate.capture import capture  # noqa: E402
from gpu_validate.commands import Options  # noqa: E402
from gpu_validate.engine import build  # noqa: E402
from gpu_validate.engine.decoder import Decoder  # noqa: E402
from gpu_validate.engine.padding import EngineInputs  # noqa: E402
from gpu_validate.engine.staging import Staging  # noqa: E402
from gpu_validate.order import in_turn  # noqa: E402
from gpu_validate.shapes import TINY  # noqa: E402
from sim.build import deploy  # noqa: E402
from sim.config import load_config  # noqa: E402
from sim.serving.planning import whole  # noqa: E402
from sim.serving.steps import Chunk  # noqa: E402
from tests.dry_cuda import dry_cuda  # noqa: E402
from tests.dry_mode import DryCuda  # noqa: E402
from tests.engine_world import job_of, said, worker_of  # noqa: E402

CUDA = torch.device("cuda")
ASKED = [(0, 5, 0), (1, 17, 1), (2, 1, 4), (3, 33, 2), (4, 16, 3)]  # id, prompt, adapter


@pytest.fixture
def dry(monkeypatch: pytest.MonkeyPatch) -> Iterator[DryCuda]:
    """Return a dry device on which the harness measures tiny shapes and engines."""
    monkeypatch.setattr(Options, "tiny", True)
    monkeypatch.setattr(timing, "FLUSH_BYTES", 2**10)
    monkeypatch.setattr(runner, "MOST_S", 0.0)  # the fewest runs
    monkeypatch.setattr(timing, "WARM_UP_S", 0.0)
    monkeypatch.setattr(live, "MOST_WARMED", 4)
    monkeypatch.setattr(live, "MOST_PREFILLED", 128)
    monkeypatch.setattr(build, "open_engine", partial(build.open_engine, dims=TINY, rank_divisor=8))
    with dry_cuda() as mode:
        yield mode


def first_shapes(monkeypatch: pytest.MonkeyPatch, where: Any, count: int) -> None:
    monkeypatch.setattr(where, "in_turn", lambda shapes: in_turn(shapes)[:count])


def test_every_kind_of_kernel_is_measured(dry: DryCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first_shapes(monkeypatch, commands, 60)
    tally = commands.main_kernels(Options("cuda", tmp_path, budget_s=600.0))
    assert [row.why for row in tally.rows if not row.n] == []
    kinds = {row.kind for row in tally.rows}
    attention = {"attention_prefill", "attention_decode", "attention_paged"}
    assert kinds == {"dense", "lm_head", *attention, "launch", "lora"}
    assert [row.note for row in tally.rows if "not captured" in row.note] == []
    assert dry.captures > 20
    assert dry.replays > 20 * dry.captures


def test_every_way_of_copying_is_measured(dry: DryCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first_shapes(monkeypatch, commands, 40)
    tally = commands.main_load(Options("cuda", tmp_path, budget_s=600.0))
    assert [row.why for row in tally.rows if not row.n] == []
    assert {row.config["beside"] for row in tally.rows} == {"idle", "decode", "prefill"}
    assert {row.config["pinned"] for row in tally.rows} == {True, False}
    assert {row.clock for row in tally.rows} == {"device"}


def test_iterations_of_the_engine_are_measured(dry: DryCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first_shapes(monkeypatch, iterations, 6)
    tally = iterations.main_iterations(Options("cuda", tmp_path, budget_s=600.0))
    assert [row.why for row in tally.rows if not row.n] == []
    assert {(row.config["phase"], row.config["kernel"]) for row in tally.rows} == {
        ("decode", "segmented"),
        ("prefill", "segmented"),
    }
    assert dry.captures > 0


@pytest.mark.parametrize(
    ("system", "settings"),
    [
        ("slora", ()),
        ("chameleon", ()),
        ("vllm", ("limits.step_tokens=64",)),
        ("fastserve", ("memory.kv_pool_tokens=2000",)),
        ("fastserve", ("memory.kv_pool_tokens=2000", "admission.preempted=keep")),
        ("dlora", ("limits.running_requests=4", "workload.adapters=3")),
    ],
)
def test_an_engine_serves_every_request_in_real_time(dry: DryCuda, system: str, settings: tuple[str, ...]) -> None:
    workload = {"requests": 8, "rate_per_s": 200.0, "scale": 20.0}
    served = live.serve(load_config(system, settings, {"workload": workload}), live.Setup("cuda"))
    assert served.observed.counters["requests.completed"] + served.observed.counters["requests.rejected"] == 8
    assert served.observed.iterations is not None
    assert len(served.observed.iterations) > 8
    assert dry.replays > dry.captures > 0


@pytest.mark.parametrize("kernel", ["segmented", "bgmv"])
def test_a_graph_says_what_a_cpu_says(dry: DryCuda, kernel: str) -> None:
    on_cpu, captured = worker_of(), worker_of(kernel=kernel, device=CUDA, uses_graphs=True)
    for worker in (on_cpu, captured):
        jobs = [job_of(worker, *one) for one in ASKED]
        worker.prefill(jobs)
        for batch in (jobs, jobs[1:], jobs[:1]):
            for _ in range(3):
                worker.decode(batch)
    assert said(captured) == said(on_cpu)
    assert dry.captures == 3


def test_arrays_that_are_sent_together_begin_at_multiples_of_16_bytes() -> None:
    staging = Staging(torch.device("cpu"))
    sent = staging.send([1, 2, 3], [], [4], [5, 6])
    assert [part.tolist() for part in sent] == [[1, 2, 3], [], [4], [5, 6]]
    assert [8 * part.storage_offset() % 16 for part in sent] == [0, 0, 0, 0]


@pytest.mark.parametrize(("system", "requests"), [("slora", ()), ("vllm", (16, 64))])
def test_mixed_iterations_are_warmed_up_where_an_engine_has_them(
    dry: DryCuda, monkeypatch: pytest.MonkeyPatch, system: str, requests: tuple[int, ...]
) -> None:
    said, made = [], deploy(load_config(system, (), {"workload": {"requests": 1, "scale": 20.0}}), asks_every_step=True)
    engine = build.open_engine(made, device="cuda", backend="segmented", clock="real")
    monkeypatch.setattr(live, "BUCKETS", (8, 16, 64))
    monkeypatch.setattr(live, "MOST_WARMED", 64)
    monkeypatch.setattr("gpu_validate.engine.paged.PROGRAMS", 16 * 16 * TINY.kv_heads)  # 16 parts up to 16 requests
    mixed = Decoder.mixed

    def noted(decoder: Any, batch: Any, prompts: Any, *rest: Any) -> Any:
        said.append(tuple(batch.tables.shape))
        assert (len(batch.tokens) + len(prompts.tokens)) % 64 == 0  # as in service
        return mixed(decoder, batch, prompts, *rest)

    monkeypatch.setattr(Decoder, "mixed", noted)
    live.warm(engine, 40)
    assert said == [(count, width) for count in requests for width in live.MIXED_WIDTHS]
    assert dry.captures > 0


@pytest.mark.parametrize("uses_graphs", [True, False])
def test_a_step_sends_as_many_bytes_as_the_simulator_takes_it_to(
    dry: DryCuda, monkeypatch: pytest.MonkeyPatch, uses_graphs: bool
) -> None:
    worker, sent = worker_of(kernel="segmented", device=CUDA, uses_graphs=uses_graphs), []
    filled = worker._staging._filled

    def noted(*arguments: Any) -> Any:
        buffer = filled(*arguments)
        sent.append(buffer.numel() * buffer.element_size())
        return buffer

    monkeypatch.setattr(worker._staging, "_filled", noted)
    first, second = ([job_of(worker, *one) for one in part] for part in (ASKED[:4], ASKED[4:]))
    worker.prefill(first)  # 56 tokens; with graphs 64
    worker.decode(first)  # the longest has 34 tokens then
    worker.mixed(first, [whole(job) for job in second])  # 16 tokens beside
    begun = job_of(worker, 5, 20, 2)
    worker.mixed(first, [Chunk(begun, 0, 7)])
    worker.mixed((), [Chunk(begun, 7, 13)])
    steps = [(0, 0, 4, 56, 0), (4, 34, 0, 0, 0), (4, 35, 1, 16, 0), None, (0, 0, 1, 13, 7)]
    inputs = EngineInputs(uses_graphs)
    for size, asked in zip(sent, steps, strict=True):
        assert asked is None or size == inputs.size_bytes(*asked)  # of a prompt that goes on two places are too many
    assert sent[3] == inputs.size_bytes(4, 36, 1, 7, 0) - 2 * 16
    assert dry.captures == uses_graphs


def test_a_capture_that_fails_leaves_the_stream_as_it_was(dry: DryCuda) -> None:
    before, numbers = torch.cuda.current_stream(), torch.zeros(3, device="cuda")
    runs = []

    def work() -> None:
        runs.append(1)
        if len(runs) > 1:  # the first run warms up
            numbers.tolist()

    with pytest.raises(RuntimeError, match="capture"):
        capture(work, device=CUDA)
    assert torch.cuda.current_stream() is before
    assert dry.captures == 0
