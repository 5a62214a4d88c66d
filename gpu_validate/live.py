"""Serves a workload for real with the mini engine, and simulates the very same requests: the two sides of a check."""

from __future__ import annotations

import gc
import math
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from gpu_validate.engine.dims import BLOCK_TOKENS, BUCKETS
from gpu_validate.engine.padding import PROMPT_STEP, EngineInputs, widths_to
from gpu_validate.lora.backends import is_capturable
from gpu_validate.observed import Observed, counters_of, from_result
from gpu_validate.replay import Replay
from gpu_validate.service import Asked, asked_of, counts_of
from policies.base import FloatArray, IntArray
from sim.build import deploy, jobs, play
from sim.config import Loaded
from sim.costs import CostModel
from sim.experiments.faults import told_of_answers, told_of_code
from sim.experiments.run import result_of
from sim.results.result import Result
from sim.serving.inputs import StepInputs
from sim.serving.records import Records
from sim.serving.ticks import TICKS_PER_S, to_ticks

if TYPE_CHECKING:
    import pandas as pd

    from gpu_validate.engine.build import Engine
    from gpu_validate.engine.device import Iteration
    from sim.hardware import Hardware

# What a table of iterations keeps of the questions to the cost model.
COUNTS = ["squared_tokens", "context_tokens", "token_rank", "sum_rank", "distinct", "distinct_rank", "max_rank"]
INPUTS_WITHIN = to_ticks(2e-3)  # of a prefill's start, which goes on being issued after its inputs
MOST_WARMED = 256  # requests, all that are captured: one of 192 that was met in service stood still for 90 ms
MIXED_WIDTHS = (1, 2, 16)  # of tables beside prompts: Triton tells 1, multiples of 16 and all others apart
MOST_PREFILLED = 2048  # tokens of a warmed prefill; beyond, kernels take so long that launching them need not be quick
DISTINCT_BYTES = 2 << 30  # host adapters beyond this share memory: more distinct bytes than any cache holds


class Setup(NamedTuple):
    """How the engine executes.

    Attributes:
        device: cuda, or cpu with tiny dimensions, which shows that it works and says nothing about time.
        backend: LoRA kernels, a name that `gpu_validate.lora` knows.
        uses_graphs: whether decode steps are captured as CUDA graphs.
        seed: of the weights.
    """

    device: Literal["cpu", "cuda"] = "cuda"
    backend: str = "segmented"
    uses_graphs: bool = True
    seed: int = 0

    @property
    def has_graphs(self) -> bool:
        """Whether decode steps are captured on this device."""
        return self.uses_graphs and self.device == "cuda" and is_capturable(self.backend)


class Served(NamedTuple):
    """One real run: its results, and the run as the report wants it."""

    result: Result
    observed: Observed


def simulate(loaded: Loaded, setup: Setup, gpu: Hardware | None = None) -> Observed:
    """Return the simulated side.

    Args:
        loaded: the configuration.
        setup: how the engine executes, which decides how much it sends with a step.
        gpu: a profile in place of the configured one, such as one with the engine's own attention.

    Raises:
        PolicyError: if a policy from outside fails.
    """
    with told_of_code(loaded):
        deployment = deploy(loaded, gpu=gpu, inputs=EngineInputs(setup.has_graphs))
    with told_of_answers(loaded):
        records = play(deployment)
    return from_result(result_of(deployment, *records), "simulated")


def serve(loaded: Loaded, setup: Setup, label: str = "measured", *, gpu: Hardware | None = None) -> Served:
    """Serve the configured workload in real time and return what happened.

    The core, the policies, the memory limits and the requests are those that the simulator uses; only time is the
    device's. Arrivals are the trace's own: each is stamped with the instant at which it was due.

    Args:
        loaded: the configuration.
        setup: how the engine executes.
        label: of the run.
        gpu: as for `simulate`: what policies are told of costs, and what each iteration is predicted by.

    Raises:
        ValueError: if the engine cannot be built.
        RuntimeError: if the backend cannot be used here.
    """
    try:
        return _serve(loaded, setup, label, gpu)
    finally:
        free_device()


def _serve(loaded: Loaded, setup: Setup, label: str, gpu: Hardware | None) -> Served:
    from gpu_validate.engine.build import open_engine  # noqa: PLC0415 - needs torch

    deployment = deploy(loaded, gpu=gpu, asks_every_step=True)
    engine = open_engine(
        deployment,
        device=setup.device,
        backend=setup.backend,
        clock="real",
        copy_mode=copy_mode(loaded),
        distinct_bytes=DISTINCT_BYTES if setup.device == "cuda" else None,
        uses_graphs=setup.uses_graphs,
        seed=setup.seed,
    )
    warm(engine, int((deployment.trace.prompt_tokens + deployment.trace.output_tokens).max(initial=1)))
    poll = to_ticks(loaded.config.admission.idle_poll_s)
    with undisturbed():
        requests = jobs(deployment, engine.core.adapters.palette)
        most = loaded.config.client.max_concurrency
        Replay(engine.core, engine.device, requests, engine.records, idle_poll_ticks=poll, max_concurrency=most).run()
    result = result_of(deployment, engine.records, is_simulated=False)
    done = getattr(engine.device, "iterations", [])
    iterations = iterations_table(done, asked_of(deployment), engine.records, EngineInputs(setup.has_graphs))
    iterations = with_waits(iterations, deployment.options.inline_bytes)
    return Served(result, Observed(label, result.requests, iterations, counters_of(result.summary)))


def free_device() -> None:
    """Give back what a finished engine held: it is full of cycles, and a second one does not fit beside it."""
    import torch  # noqa: PLC0415 - slow to import, and optional

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def copy_mode(loaded: Loaded) -> str:
    """Return how the engine copies an adapter: S-LoRA's way if the configuration moves each twice, vLLM's into slots.

    Without page-locked memory (`loading.pinned`) copies are cut all the same; `pageable` is one copy from there.
    """
    loading = loaded.config.loading
    if loaded.config.adapters.memory == "slots":
        return "vllm_slots"
    if loading.copies >= 2:
        return "slora_double"
    if loading.ops_per_layer:
        return "per_layer"
    return "flat" if loading.pinned else "pageable"


def iterations_table(
    iterations: list[Iteration], asked: Mapping[int, Asked], records: Records, inputs: StepInputs
) -> pd.DataFrame:
    """Return a row per real iteration: the time that the cost model gave that very iteration, and what it was asked.

    `copy_left_s` is how long the copy to the device that was under way when its inputs were sent still took, and
    `input_bytes` is their size.

    Args:
        iterations: of a run, in order, from its first.
        asked: of each request by its id.
        records: of the run.
        inputs: of the engine.
    """
    import pandas as pd  # noqa: PLC0415 - takes seconds to import

    sent = np.array([min(one.issued, one.start + INPUTS_WITHIN) for one in iterations], dtype=np.int64)
    rows = [
        (
            one.start / TICKS_PER_S,
            (one.end - one.start) / TICKS_PER_S,
            (one.issued - one.start) / TICKS_PER_S,
            one.planned / TICKS_PER_S,
            one.kind,
            one.prompts + one.decoded,
            one.prompt_tokens + one.decoded,
        )
        for one in iterations
    ]
    columns = ["start_s", "duration_s", "issue_s", "predicted_s", "kind", "requests", "tokens"]
    counts = pd.DataFrame(counts_of(iterations, asked), columns=["tokens", *COUNTS, "longest_tokens"])
    asked_bytes = zip(iterations, counts["longest_tokens"], strict=True)
    sizes = [
        inputs.size_bytes(one.decoded, longest, one.prompts, one.prompt_tokens, one.earlier_tokens)
        for one, longest in asked_bytes
    ]
    left_s = _copy_left(records, sent) / TICKS_PER_S
    told = pd.DataFrame(rows, columns=columns).assign(copy_left_s=left_s, input_bytes=sizes)
    return pd.concat([told, counts.rename(columns={"tokens": "asked_tokens"})], axis=1)


def with_waits(iterations: pd.DataFrame, inline_bytes: int) -> pd.DataFrame:
    """Return a table with what each iteration's inputs should have waited for a copy, `wait_s`, if it says their size.

    Args:
        iterations: of `iterations_table`.
        inline_bytes: of inputs that wait for nothing.
    """
    if "input_bytes" not in iterations:
        return iterations
    return iterations.assign(wait_s=iterations["copy_left_s"].where(iterations["input_bytes"] > inline_bytes, 0.0))


def _copy_left(records: Records, at: IntArray) -> IntArray:
    """Return how many ticks the copy to the device that is under way at each instant still takes; 0 if none is."""
    back = records.swaps["way"] == 0
    starts, ends = (np.concatenate((records.transfers[name], records.swaps[name][back])) for name in ("start", "end"))
    order = np.argsort(starts, kind="stable")
    ends = np.concatenate(([0], ends[order]))  # one copy at a time: the latest to start is the one under way
    return np.maximum(ends[np.searchsorted(starts[order], at, side="right")] - at, 0)


def can_predict_anew(iterations: pd.DataFrame) -> bool:
    """Whether a table says what the cost model is asked about its iterations."""
    return {*COUNTS, "asked_tokens"} <= set(iterations)


def predicted_anew(iterations: pd.DataFrame, costs: CostModel) -> FloatArray:
    """Return the seconds that a cost model gives each iteration of a table; NaN for mixed ones and parts of prompts.

    Args:
        iterations: of `iterations_table`.
        costs: of the engine that ran them.
    """
    return np.array([_predicted_s(row, costs) for row in iterations.to_dict("records")])


def _predicted_s(row: Mapping[Hashable, Any], costs: CostModel) -> float:
    ranks = [int(row[name]) for name in ("distinct", "distinct_rank", "max_rank")]
    if row["kind"] == "decode":
        step = costs.decode(int(row["requests"]), int(row["context_tokens"]), int(row["sum_rank"]), *ranks)
        return step.first / TICKS_PER_S
    if row["kind"] == "prefill" and row["asked_tokens"] == row["tokens"]:
        asked = [int(row[name]) for name in ("requests", "tokens", "squared_tokens", "token_rank")]
        return costs.prefill(*asked, *ranks) / TICKS_PER_S
    return math.nan


def warm(engine: Engine, longest_tokens: int) -> None:
    """Run every shape that a run may meet once, so that kernels are compiled and graphs captured beforehand.

    Args:
        engine: nothing runs on it.
        longest_tokens: of a sequence.
    """
    import torch  # noqa: PLC0415 - slow to import, and optional

    from gpu_validate.engine.paged import splits_for  # noqa: PLC0415 - needs torch
    from gpu_validate.engine.warming import warm_decode, warm_mixed, warm_prefill  # noqa: PLC0415

    worker = engine.device.worker
    if worker.device.type != "cuda":
        return
    widths = widths_to(-(-longest_tokens // BLOCK_TOKENS))
    buckets = [bucket for bucket in BUCKETS if bucket <= MOST_WARMED]
    warm_decode(worker, buckets, widths)
    warm_prefill(worker, range(MOST_PREFILLED, 0, -PROMPT_STEP))  # the longest first: it makes room for all others
    if engine.core.options.prefill != "separate":
        by_splits = {splits_for(count, worker.decoder.model.kv_heads): count for count in buckets}
        warm_mixed(worker, by_splits.values(), MIXED_WIDTHS)
    torch.cuda.synchronize(worker.device)  # the run's clock starts when nothing is left to do


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep Python's collector out of a real-time run; it would show as stalls."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
