"""Requests drawn from ServeGen's clients: each window has as many as in the data, with the client's law of gaps.

Unlike its own generator, one number does not drive both lengths of a request, which would tie them together, and the
last request of a window does not fall on its very end. Source: github.com/alibaba/ServeGen (Xiang et al.,
arXiv 2505.09999).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sim.readers.cells import FloatArray, IntArray, Problems
from sim.readers.servegen_files import Client, Window, is_servegen, read_clients
from sim.trace import AdapterSpec, Part, Trace

__all__ = ["is_servegen", "read_servegen"]

STREAM = 0x5E47E  # separates these draws from every other use of a seed
CLIENT = "client"  # what may be taken for an adapter
MOST_REQUESTS = 20_000_000
Columns = tuple[FloatArray, IntArray, IntArray, IntArray, npt.NDArray[np.bool_]]


def read_servegen(path: Path, limit: int | None, adapter_column: str | None, ranks: Sequence[int], seed: int) -> Trace:
    """Draw the requests of all clients; if none has lengths the trace lacks them.

    Args:
        path: a folder or tar archive of chunks, or one chunk's file of rates.
        limit: requests to draw at most, the first in time.
        adapter_column: "client" makes each client an adapter; None leaves adapters to be drawn.
        ranks: dealt in turn to such adapters.
        seed: of the draw.

    Raises:
        TraceError: if a file is missing or wrong, or there are too many requests to draw without a limit.
    """
    if adapter_column not in (None, CLIENT):
        Problems(path).fail(1, f"adapter_column is {adapter_column!r}; for servegen {CLIENT!r} is allowed")
    clients, left_out = _with_lengths(read_clients(path))
    total = sum(window.requests for client in clients for window in client.windows)
    if not total or (limit is None and total > MOST_REQUESTS):
        text = f"{total} requests; 1 to {MOST_REQUESTS} are allowed, or say how many of the first (`requests`)"
        Problems(path).fail(1, text)
    rng = np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=(STREAM,)))
    parts = list(_drawn(clients, limit, rng))
    time, owner, prompt, output, borrowed = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(time, kind="stable")[:limit]
    palette, owner, adapters_lacked = _adapters(clients, owner, adapter_column, ranks)
    lacks: set[Part] = adapters_lacked | (set() if clients[0].has_lengths else {"lengths"})
    notes = [
        ("rows drawn from the rates of ServeGen's clients", len(order)),
        ("rows with lengths of a neighbouring block, because the client's own has none", int(borrowed[order].sum())),
        ("requests of clients without lengths left out", left_out),
    ]
    return Trace(
        re.sub(r"\.(tar|tgz|tar\.gz)$", "", path.name),
        time[order] - time[order][0],
        prompt[order],
        output[order],
        palette,
        owner[order],
        notes=tuple((what, count) for what, count in notes if count),
        lacks=frozenset(lacks),
    )


def _adapters(
    clients: list[Client], owner: IntArray, column: str | None, ranks: Sequence[int]
) -> tuple[tuple[AdapterSpec | None, ...], IntArray, set[Part]]:
    """Return palette, adapter of each row, and whether adapters are still to be drawn."""
    if column is None:
        return (None,), np.zeros_like(owner), {"adapters"}
    named = [AdapterSpec(f"client-{each.number}", ranks[at % len(ranks)]) for at, each in enumerate(clients)]
    return tuple(named), owner, set()


def _with_lengths(clients: list[Client]) -> tuple[list[Client], int]:
    """Return the clients that have lengths, or all if none has, and how many requests those left out had."""
    known = [client for client in clients if client.has_lengths] or clients
    gone = [client for client in clients if client not in known]
    return known, sum(window.requests for client in gone for window in client.windows)


def _drawn(clients: list[Client], limit: int | None, rng: np.random.Generator) -> Iterator[Columns]:
    """Yield columns of one client's requests in one window, by start of the window and client, up to the limit."""
    queue = sorted((window.start_s, at, window) for at, client in enumerate(clients) for window in client.windows)
    ended, under_way = 0, list[tuple[float, int]]()
    for start_s, at, window in queue:
        while under_way and under_way[0][0] <= start_s:
            ended += heappop(under_way)[1]
        if limit is not None and ended >= limit:
            return  # all that have begun end after the last request that is wanted, and later ones begin after it
        heappush(under_way, (start_s + window.width_s, window.requests))
        yield _requests(clients[at], at, window, rng)


def _requests(client: Client, at: int, window: Window, rng: np.random.Generator) -> Columns:
    n = window.requests
    time = window.start_s + window.width_s * _places(window, rng)
    owner = np.full(n, at, dtype=np.int64)
    if not client.has_lengths:
        nothing = np.zeros(n, dtype=np.int64)
        return time, owner, nothing, nothing, np.zeros(n, dtype=np.bool_)
    laws, is_own = client.laws(window.start_s)
    prompt, output = (law.draw(n, rng) for law in laws)
    return time, owner, prompt, output, np.full(n, not is_own)


def _places(window: Window, rng: np.random.Generator) -> FloatArray:
    """Return where in the window each request arrives, in 0..1, shape (requests,), increasing."""
    law = rng.standard_gamma if window.pattern == "Gamma" else rng.weibull
    upto = np.cumsum(law(window.shape, window.requests + 1))
    if upto[-1] == 0:  # gaps of so small a shape that all of them round to nothing
        return np.zeros(window.requests)
    places: FloatArray = upto[:-1] / upto[-1]
    return places
