"""The laws of the core, as code: every byte, request and adapter user is accounted for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sim.core import Core


def check_requests(core: Core) -> None:
    """Raise RuntimeError with the numbers if requests do not add up to what is booked; holds between steps."""
    slots = core.adapters.slots.values()
    held = [*map(core.held_tokens, core.running), *(job.base_tokens for job in (*core.joining, *core.kept.values()))]
    swapped = [job.base_tokens for job in (*core.waiting.values(), *core.joining) if job.kv == "host"]
    counted = {
        "KV bytes": sum(map(core.kv.bytes_of, held)),
        "KV bytes on the host": sum(map(core.kv.bytes_of, swapped)),
        "KV bytes kept": sum(core.kv.bytes_of(job.base_tokens) for job in core.kept.values()),
        "growing requests": core.kv.requests,
        "admitted requests": len(core.running) + len(core.joining),
        "adapter users": sum(slot.users for slot in slots),
        "queued adapter users": sum(slot.queued for slot in slots),
        "missing adapters": sum(slot.queued > 0 and not slot.held for slot in slots),
        "adapters in use": sum(slot.users > 0 for slot in slots)
        + (core.options.base_slot and core.adapters.base_users > 0),
        "base users": sum(job.slot is None for job in core.live.values()),
        "decoding requests": core.shape.requests,
    }
    booked = {
        "KV bytes": core.memory.kv_bytes,
        "KV bytes on the host": core.stops.swapped_bytes,
        "KV bytes kept": core.stops.kept_bytes,
        "growing requests": len(core.running),
        "admitted requests": len(core.live),
        "adapter users": sum(job.slot is not None for job in core.live.values()) + (core.merged is not None),
        "queued adapter users": sum(job.slot is not None for job in core.waiting.values()),
        "missing adapters": core.adapters.missing,
        "adapters in use": core.adapters.active,
        "base users": core.adapters.base_users,
        "decoding requests": len(core.running),
    }
    kept = {id_: job for id_, job in core.waiting.items() if job.kv == "gpu"}
    if counted != booked or kept != core.kept or not core.waiting.keys().isdisjoint(core.live):
        msg = f"requests do not balance: counted {counted}, booked {booked}"
        raise RuntimeError(msg)
