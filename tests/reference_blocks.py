"""Blocks of KV by number, free ones in a queue as in vLLM V1: another account of what stopped requests find again."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Blocks:
    """Which blocks are whose, and what free ones still hold."""

    free: list[int] = field(default_factory=list)  # the next to be taken first
    held: dict[int, list[int]] = field(default_factory=dict)  # by request, in order of its tokens
    content: dict[int, tuple[int, int]] = field(default_factory=dict)  # full ones: whose they were, and the how manieth

    def found(self, request: int) -> int:
        """Return how many of its first blocks a request would find among the free ones."""
        return len(self._found(request))

    def admit(self, request: int, blocks: int) -> None:
        """Give a request so many blocks: its own as far as they are there, then those that were free for longest."""
        self.held[request] = self._found(request)
        for block in self.held[request]:
            self.free.remove(block)
        self.grow(request, blocks)

    def grow(self, request: int, blocks: int) -> None:
        own = self.held[request]
        while len(own) < blocks:
            own.append(self.free.pop(0))
            self.content.pop(own[-1], None)

    def give_back(self, request: int, full: int = 0) -> None:
        """Free a request's blocks, the last one first; so many of the first may be found again."""
        own = self.held.pop(request)
        for place in reversed(range(len(own))):
            self.free.append(own[place])
            self.content.pop(own[place], None)
            if place < full:
                self.content[own[place]] = (request, place)

    def _found(self, request: int) -> list[int]:
        at = {self.content[block]: block for block in self.free if block in self.content}
        blocks: list[int] = []
        while (request, len(blocks)) in at:
            blocks.append(at[request, len(blocks)])
        return blocks
