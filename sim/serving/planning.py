"""The next step of an engine: whole prompts by themselves, chunks beside the decode batch, or a run of decode steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.serving.inputs import take_input_ticks
from sim.serving.job import Job
from sim.serving.pacing import run_length
from sim.serving.steps import Chunk, Decode, Horizon, Mixed, Prefill, Step, run_ticks

if TYPE_CHECKING:
    from sim.core import Core


def plan_step(core: Core, now: int, horizon: Horizon) -> Step | None:
    """Return the next step, or None if the engine can only wait."""
    if core.options.reuses_blocks:
        core.kv.make_room_for_adapters()
    ready: list[Job] = []
    if core.joining:
        ready = startable(core, now)
        if _stands_still(core, ready, now):
            return None
        ready = _resumed(core, ready)
    if core.merged is not None:
        _check_merged(core, ready)
    if ready and core.options.prefill == "separate":
        return _prefill(core, _one_iteration(core, ready), now)
    if core.running and not (core.kv.has_room(core.step) or core.seats.can_grow(now)):
        return None
    if ready:
        ready = [job for job in ready if job.is_admitted]  # some may have been turned back to let the batch grow
    if ready:
        return _mixed(core, ready, now)
    return _decode(core, now, horizon) if core.running else None


def _stands_still(core: Core, ready: list[Job], now: int) -> bool:
    stands_still = core.options.blocks_on_load and len(ready) < len(core.joining)
    core.ledger.stands_still(now, stands_still=stands_still)
    return stands_still


def _resumed(core: Core, ready: list[Job]) -> list[Job]:
    """Let those go on decoding whose KV is there, and return the others."""
    core.seats.resume([job for job in ready if not job.needs_prefill])
    return [job for job in ready if job.needs_prefill]


def startable(core: Core, now: int) -> list[Job]:
    """Return the joining requests that could start now, in order of admission."""
    return [job for job in core.joining if not job.kv_lands and _has_adapter(core, job, now)]


def _has_adapter(core: Core, job: Job, now: int) -> bool:
    if job.slot is None or job.slot.ready:
        return True
    # A prefill may start ahead of its adapter; decoding may not.
    starts_early = core.options.early_start is not None and job.needs_prefill
    return starts_early and core.left_ticks(job, now) is not None


def prefill_arguments(core: Core, chunks: list[Chunk]) -> tuple[int, int, int, int, int, int, int]:
    """Return what `Costs.prefill` is asked for one iteration over these chunks."""
    tokens = squared = 0
    for _, before, count in chunks:
        tokens += count
        squared += count * (2 * before + count)
    load = core.shape.load_of(((job, count) for job, _, count in chunks), beside_decode=False)
    return len(chunks), tokens, squared, *load


def whole(job: Job) -> Chunk:
    """Return all that is left of a request's prefill as one chunk."""
    return Chunk(job, job.prefilled, job.base_tokens - job.prefilled)


def _one_iteration(core: Core, ready: list[Job]) -> list[Job]:
    """Return those, in order of admission, whose whole prompts one iteration may take, at least the first."""
    left, taken = core.options.batch_prompt_tokens, 0
    for taken, job in enumerate(ready):
        left -= job.base_tokens - job.prefilled
        if left < 0 and taken:
            return ready[:taken]
    return ready


def _prefill(core: Core, jobs: list[Job], now: int) -> Prefill:
    core.seats.leave_joining(jobs)
    chunks = [whole(job) for job in jobs]
    ticks = core.costs.prefill(*prefill_arguments(core, chunks))
    core.ledger.prefill_starts(jobs, now, waited_together=core.options.blocks_on_load)
    return Prefill(now, _with_loads(core, chunks, ticks, now, decodes=False) + core.take_extra_ticks(), jobs)


def _mixed(core: Core, ready: list[Job], now: int) -> Mixed:
    chunks = _chunks(core, ready)
    shape = core.shape
    requests, context = shape.requests, shape.context_tokens + shape.requests
    prompts, tokens, squared, *_ = prefill_arguments(core, chunks)
    load = shape.load_of(((job, count) for job, _, count in chunks), beside_decode=bool(requests))
    ticks = core.costs.mixed(requests, context, prompts, tokens, squared, load)
    core.ledger.prefill_starts([chunk.job for chunk in chunks], now, waited_together=False)
    core.kv.take(core.kv.growth_bytes(core.step, 1))
    return Mixed(now, _with_loads(core, chunks, ticks, now, decodes=True) + core.take_extra_ticks(), chunks)


def _chunks(core: Core, ready: list[Job]) -> list[Chunk]:
    options = core.options
    ready = ready[: options.prefills_per_step]
    if options.prefill == "mixed":
        return [whole(job) for job in _one_iteration(core, ready)]
    left = options.step_tokens - len(core.running)
    chunks: list[Chunk] = []
    for job in ready:
        rest = whole(job)
        tokens = min(rest.tokens, left)
        # A batch that fills the budget must not starve the prompts for ever.
        if tokens < 1 and chunks:
            break
        chunks.append(rest._replace(tokens=max(tokens, 1)))
        left -= tokens
    return chunks


def _with_loads(core: Core, chunks: list[Chunk], ticks: int, now: int, *, decodes: bool) -> int:
    """Return the ticks of an iteration from now on, with what it waits for on the link."""
    early, inputs = core.options.early_start, take_input_ticks(core, now, chunks, decodes=decodes)
    if early is None:
        return inputs + ticks
    missing = [chunk for chunk in chunks if chunk.job.slot is not None and not chunk.job.slot.ready]
    if not missing:
        return inputs + ticks
    left = max(core.left_ticks(chunk.job, now + inputs) or 0 for chunk in missing)
    load = max(core.adapters.load_ticks(chunk.job.slot) for chunk in missing if chunk.job.slot is not None)
    return inputs + early.ticks(ticks, sum(chunk.tokens for chunk in missing), load, left)


def _decode(core: Core, now: int, horizon: Horizon) -> Decode:
    cost = core.shape.decode_cost(core.costs)
    extra = core.take_extra_ticks() + take_input_ticks(core, now, decodes=True)
    is_single = extra or core.options.asks_every_step or _may_wait_later(core, now)
    steps = 1 if is_single else run_length(core, cost, now, horizon)
    core.kv.take(core.kv.growth_bytes(core.step, steps))
    return Decode(now, run_ticks(cost, steps) + extra, steps, cost.first + extra, cost.growth)


def _may_wait_later(core: Core, now: int) -> bool:
    """Whether the inputs of a later step of the same batch, which grow with its block tables, may wait on the link."""
    return core.options.inputs is not None and core.link.busy_ticks(now) > 0


def _check_merged(core: Core, ready: list[Job]) -> None:
    merged = core.merged
    if merged is None:
        return
    for job in (*core.running, *ready):
        if job.slot is not merged:
            msg = f"{job.request!r} is in the batch while {merged.adapter!r} is merged into the weights"
            raise RuntimeError(msg)
