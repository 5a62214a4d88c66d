"""Step inputs that grow with a request's length, as block tables do."""

from __future__ import annotations

from typing import NamedTuple


class Tables(NamedTuple):
    """A byte for every block of so many tokens, as many for each request as the longest has."""

    block_tokens: int

    def size_bytes(self, requests: int, longest_tokens: int, prompts: int, tokens: int, earlier_tokens: int) -> int:
        """Return the bytes of one step."""
        return requests * -(-longest_tokens // self.block_tokens) + prompts + tokens + earlier_tokens
