"""What the engine holds of each request, against what the core believes."""

from __future__ import annotations

from collections.abc import Mapping

from sim.core import Core


def check_tokens(core: Core, on_gpu: Mapping[int, int], on_host: Mapping[int, int]) -> None:
    """Raise RuntimeError with the numbers if KV is not where the core believes it to be; between steps only.

    Args:
        core: the state machine.
        on_gpu: tokens of KV by request.
        on_host: the same.
    """
    _compare(on_gpu, _on_gpu(core), "of KV")
    _compare(on_host, _on_host(core), "of KV on the host")


def _on_gpu(core: Core) -> dict[int, int]:
    running = {job.request.id: core.held_tokens(job) for job in core.running}
    starting = (job for job in core.live.values() if job not in core.running)  # or just planned to
    others = (*starting, *core.kept.values())
    whole = {job.request.id: job.base_tokens for job in others if job.kv == "gpu"}
    left = {id_: tokens for id_, job in core.waiting.items() if (tokens := core.kv.surviving_tokens(job))}
    return {job.request.id: job.prefilled for job in others if job.prefilled} | left | whole | running


def _on_host(core: Core) -> dict[int, int]:
    jobs = (*core.joining, *core.waiting.values())
    return {job.request.id: job.base_tokens for job in jobs if job.kv == "host"}


def _compare(held: Mapping[int, int], believed: Mapping[int, int], what: str) -> None:
    for id_ in {**held, **believed}:
        if held.get(id_) != believed.get(id_):
            msg = f"request {id_} holds {held.get(id_)} tokens {what}, the core believes {believed.get(id_)}"
            raise RuntimeError(msg)
