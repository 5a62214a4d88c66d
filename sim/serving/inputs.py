"""What a step sends to the GPU before it can start, and how long that waits for a transfer under way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from sim.serving.steps import Chunk

if TYPE_CHECKING:
    from sim.core import Core


class StepInputs(Protocol):
    """How much an engine sends with a step: token ids, positions, block tables."""

    def size_bytes(self, requests: int, longest_tokens: int, prompts: int, tokens: int, earlier_tokens: int) -> int:
        """Return the bytes of one step.

        Args:
            requests: that decode.
            longest_tokens: of the longest of them, with the token that the step adds; 0 if there is none.
            prompts: of which a part is prefilled.
            tokens: of these parts.
            earlier_tokens: of the same prompts, prefilled before.
        """


class PlainInputs(NamedTuple):
    """So much for each request or prompt, and so much for each token that goes through the decoder."""

    request_bytes: int
    token_bytes: int

    def size_bytes(self, requests: int, longest_tokens: int, prompts: int, tokens: int, earlier_tokens: int) -> int:
        """Return the bytes of one step."""
        del longest_tokens, earlier_tokens
        return (requests + prompts) * self.request_bytes + (requests + tokens) * self.token_bytes


def take_input_ticks(core: Core, now: int, chunks: Sequence[Chunk] = (), *, decodes: bool) -> int:
    """Return how long the inputs of a step that starts now wait, and note it.

    Copies to the device share one engine, whatever their streams: inputs wait for the transfer under way. Those that
    are no larger than `inline_bytes` travel with the driver's commands and wait for nothing.

    Args:
        core: plans the step.
        now: ticks.
        chunks: what it prefills.
        decodes: whether the decode batch takes part.
    """
    inputs = core.options.inputs
    if inputs is None or not (busy := core.link.busy_ticks(now)):
        return 0
    batch = core.running if decodes else {}
    longest = max((core.held_tokens(job) + 1 for job in batch), default=0)
    tokens, earlier = sum(chunk.tokens for chunk in chunks), sum(chunk.before for chunk in chunks)
    size = inputs.size_bytes(len(batch), longest, len(chunks), tokens, earlier)
    if size <= core.options.inline_bytes:
        return 0
    core.ledger.inputs_wait(now, busy)
    return busy
