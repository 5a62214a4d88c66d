"""Measures whole iterations of the mini engine in service: what host and launches add to the kernels' own time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from gpu_validate.live import free_device, undisturbed, warm
from gpu_validate.order import in_turn
from gpu_validate.replay import Replay
from gpu_validate.service import Asked, asked_of, read_off, service_shapes
from gpu_validate.shapes import TEST_STREAM, TINY, Shape, Split
from gpu_validate.timing import Measured, summarise
from policies.base import Request
from sim.build import Deployment, deploy, jobs
from sim.config import Loaded, load_config
from sim.serving.job import AdapterSlot, Job
from sim.serving.records import Records
from sim.serving.ticks import TICKS_PER_S

if TYPE_CHECKING:
    from gpu_validate.commands import Options
    from gpu_validate.engine.device import Iteration
    from gpu_validate.engine.worker import Worker
    from gpu_validate.runner import Measure, Tally

LONGEST_TOKENS = 2048  # of a prompt
POOL_TOKENS = 40_000  # of the engine that is measured
POSITIONS = 2 * LONGEST_TOKENS  # of the longest sequence, more than any here
ADAPTERS = 100
DECODE_STEPS = 20
WARM_STEPS = 2  # before them, in which graphs are captured
PREFILL_RUNS = 10
LEAST_RUNS = 3  # even where the time is up: one run says nothing about its own noise
RANKS = (8, 16, 32, 64, 128)  # dealt to the adapters in turn


def iteration_shapes(model: str, kernel: str, seed: int, *, graph: bool, tiny: bool = False) -> Iterator[Shape]:
    """Yield prefills and decode batches: a grid to fit, random points inside it to test, one point beyond.

    Args:
        model: name of the base model.
        kernel: LoRA kernel, as rows call it.
        seed: of the test points and of the adapters.
        graph: whether decode runs from CUDA graphs.
        tiny: a handful of small shapes, which a CPU can do.
    """
    common = {"kernel": kernel, "graph": graph, "model": model, "seed": seed}
    widest, longest = (4, 32) if tiny else (64, LONGEST_TOKENS)
    seen: set[tuple[int, int, str]] = set()
    for requests, tokens, phase, split in _points(widest, longest, seed):
        if requests * tokens <= POOL_TOKENS // 2 and (requests, tokens, phase) not in seen:
            seen.add((requests, tokens, phase))
            config = {"phase": phase, "requests": requests, "tokens_each": tokens, "split": split, **common}
            yield Shape("iteration", _counted(config))


def _points(widest: int, longest: int, seed: int) -> Iterator[tuple[int, int, str, Split]]:
    rng = np.random.default_rng([seed, TEST_STREAM])
    yield 1, max(longest // 128, 1), "prefill", "fit"  # so short that launching it takes longer than its work
    for phase in ("decode", "prefill"):
        for requests in (1, max(widest // 4, 2), widest):
            for tokens in (longest // 16, longest // 4, longest):
                yield requests, tokens, phase, "fit"
        for _ in range(4):
            yield _between(rng, widest), _between(rng, longest), phase, "test"
        yield 2 * widest, longest // 16, phase, "extrapolation"


def _between(rng: np.random.Generator, most: int) -> int:
    return round(math.exp(rng.uniform(0, math.log(most))))


def _counted(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config with what the cost model is asked for, of the adapters that the requests will have."""
    tokens, requests = config["tokens_each"], config["requests"]
    used = [place % ADAPTERS for place in range(requests)]
    ranks = [RANKS[index % len(RANKS)] for index in used]
    is_prefill = config["phase"] == "prefill"
    return {
        **config,
        "tokens": tokens * requests if is_prefill else requests,
        "squared_tokens": tokens * tokens * requests if is_prefill else 0,
        # Each of the measured steps adds a token; the middle one stands for all.
        "context_tokens": 0 if is_prefill else requests * (tokens + 1 + WARM_STEPS + DECODE_STEPS // 2),
        "token_rank": sum(ranks) * (tokens if is_prefill else 1),
        "sum_rank": sum(ranks),
        "distinct": len(set(used)),
        "distinct_rank": sum(RANKS[index % len(RANKS)] for index in set(used)),
        "max_rank": max(ranks),
    }


class Iterations:
    """Serves the requests of a shape on one engine, all arriving at once, with the driver that a check runs.

    So an iteration lasts as long as it does in service, with all that driver, core and policies do between two.

    Args:
        options: of the command.
        backend: LoRA kernels.
        uses_graphs: whether decode is captured.
    """

    def __init__(self, options: Options, backend: str, *, uses_graphs: bool) -> None:
        from gpu_validate.engine.build import open_engine  # noqa: PLC0415 - needs torch

        model = options.models[0] if options.models else "llama-7b"
        self._model, self._seed = "llama-7b" if model == TINY.name else model, options.seed
        self._loaded = self._loaded_with({"requests": 1})
        engine = open_engine(
            deploy(self._loaded, asks_every_step=True),
            device="cuda" if options.device == "cuda" else "cpu",
            backend=backend,
            clock="real",
            distinct_bytes=2 << 30 if options.device == "cuda" else None,
            positions=POSITIONS,
            uses_graphs=uses_graphs,
            seed=options.seed,
        )
        self._engine = engine
        self._worker: Worker = engine.device.worker
        self._ids = iter(range(1 << 40))
        self._streams: dict[float, tuple[list[Iteration], dict[int, Asked]]] = {}

    def __call__(self, shape: Shape, left_s: float) -> Measured:
        """Measure one shape within the seconds that are left.

        Raises:
            RuntimeError: if the engine has no room for it.
        """
        config = shape.config
        if shape.kind == "service":
            return read_off(*self._stream(config["rate_per_s"], config["served"]), config)
        if config["phase"] == "decode":
            served = self._serve(config, 1 + WARM_STEPS + DECODE_STEPS)
            seconds = [_seconds(one) for one in served if one.decoded == config["requests"]][WARM_STEPS:]
        else:
            self._prefill(config)  # kernels are compiled before the first that counts
            seconds = self._prefills(config, left_s)
        return Measured(summarise(seconds, "host"))

    def _prefills(self, config: dict[str, Any], left_s: float) -> list[float]:
        begin, seconds = perf_counter(), list[float]()
        while len(seconds) < LEAST_RUNS or (len(seconds) < PREFILL_RUNS and perf_counter() - begin < left_s):
            seconds.append(self._prefill(config))
        return seconds

    def _prefill(self, config: dict[str, Any]) -> float:
        (prefill,) = (one for one in self._serve(config, 1) if one.prompts)
        return _seconds(prefill)

    def _serve(self, config: dict[str, Any], output_tokens: int) -> list[Iteration]:
        """Serve so many requests, each of so many tokens, with the adapters that the config counts."""

        def equal(palette: Sequence[AdapterSlot | None]) -> Iterator[Job]:
            for place in range(config["requests"]):
                yield _job(next(self._ids), config["tokens_each"], output_tokens, palette[place % ADAPTERS])

        return self._replayed(deploy(self._loaded, asks_every_step=True), equal)

    def _stream(self, rate_per_s: float, requests: int) -> tuple[list[Iteration], dict[int, Asked]]:
        """Serve the workload at a rate, once for all that is read off it; return the iterations and who asked."""
        if rate_per_s not in self._streams:
            from gpu_validate.engine.build import longest  # noqa: PLC0415 - needs torch

            workload = {"rate_per_s": rate_per_s, "requests": requests}
            deployment = deploy(self._loaded_with(workload), asks_every_step=True)
            if not self._streams:
                warm(self._engine, longest(deployment))
            self._streams[rate_per_s] = self._replayed(deployment, partial(jobs, deployment)), asked_of(deployment)
        return self._streams[rate_per_s]

    def _loaded_with(self, workload: dict[str, Any]) -> Loaded:
        pool = [f"memory.kv_pool_tokens={POOL_TOKENS}", f"limits.batch_prompt_tokens={POOL_TOKENS}"]
        pool += ["adapters.memory=idle", "limits.running_requests=256"]
        extra = {"workload": {"adapters": ADAPTERS, **workload}, "model": self._model, "hardware": "h200"}
        return load_config("slora", pool, {**extra, "seed": self._seed})

    def _replayed(
        self, deployment: Deployment, make: Callable[[list[AdapterSlot | None]], Iterator[Job]]
    ) -> list[Iteration]:
        from gpu_validate.engine.device import TorchDevice  # noqa: PLC0415 - needs torch

        device, records = TorchDevice(self._worker), Records()
        core = deployment.core(device, records)
        try:
            with undisturbed():
                Replay(core, device, make(core.adapters.palette), records).run()
        finally:
            for slot in core.adapters.palette:
                if slot is not None:
                    slot.held = False  # the next core knows nothing of what this one left in memory
            self._worker.release(core)
        return device.iterations


def _job(id_: int, prompt_tokens: int, output_tokens: int, slot: AdapterSlot | None) -> Job:
    adapter = None if slot is None else slot.adapter
    request = Request(id_, 0.0, prompt_tokens, output_tokens, adapter)
    return Job(request, 0, output_tokens, output_tokens, slot)


def _seconds(iteration: Iteration) -> float:
    return (iteration.end - iteration.start) / TICKS_PER_S


class OneAtATime:
    """Measures each shape on an engine of its kernel, made when it is first needed: two do not fit on one GPU.

    Args:
        make: returns what measures iterations with a kernel.
    """

    def __init__(self, make: Callable[[str], Measure]) -> None:
        self._make = make
        self._kernel: str | None = None
        self._measure: Measure | None = None

    def __call__(self, shape: Shape, left_s: float) -> Measured:
        """Measure one shape within the seconds that are left; an engine that cannot be made fails its shapes only."""
        if self._measure is None or self._kernel != shape.config["kernel"]:
            self._measure, self._kernel = None, shape.config["kernel"]
            free_device()
            self._measure = self._make(self._kernel)
        return self._measure(shape, left_s)


def main_iterations(options: Options) -> Tally:
    """Measure iterations of the mini engine with every LoRA kernel that can run here.

    Raises:
        ValueError: if torch or the device is not here, or the model is unknown.
    """
    from gpu_validate.commands import bench, told  # noqa: PLC0415 - it imports this module late, too

    ready = bench(options)
    from gpu_validate.lora.backends import available  # noqa: PLC0415

    on_gpu = options.device == "cuda"
    wanted = ("segmented", "bgmv") if on_gpu else ("torch_loop",)
    usable = [name for name in wanted if available()[name] is None and options.wants(name)]
    model = TINY.name if options.tiny else options.models[0] if options.models else "llama-7b"
    shapes = in_turn(
        shape
        for name in usable
        for shapes_of in (iteration_shapes, service_shapes)
        for shape in shapes_of(model, name, options.seed, graph=on_gpu, tiny=options.tiny)
    )
    measure = OneAtATime(lambda kernel: Iterations(options, kernel, uses_graphs=on_gpu))
    return told(ready.run("iterations", shapes, measure))
