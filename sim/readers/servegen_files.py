"""Files of ServeGen's clients: rates and burstiness by window of time, token lengths by block. Nothing is drawn here.

A folder or archive with `chunk-N-trace.csv` (no header: start of the window in s, requests/s, CV, Gamma or Weibull,
shape, scale) and, beside each, `chunk-N-dataset.json` (by start of a block: field -> text of a Python dictionary
{tokens: probability}). Source: github.com/alibaba/ServeGen (Xiang et al., arXiv 2505.09999).
"""

from __future__ import annotations

import ast
import csv
import itertools
import json
import math
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sim.readers.cells import FloatArray, IntArray, Problems, TraceError

ARCHIVES = (".tar", ".tar.gz", ".tgz")
COLUMNS = 6
MOST_PER_S = 1e5  # of one client; more is a mistake and would not fit into memory
ONE_WINDOW_S = 600.0  # the data's own, for a file of one row
_CHUNK = re.compile(r"(?:.*/)?chunk-(\d+)-(trace\.csv|dataset\.json)")
Text = tuple[tuple[int, str], tuple[str, str]]


class Window(NamedTuple):
    """One client in one window: how many requests, and the law of the gaps between them."""

    start_s: float
    width_s: float
    requests: int
    pattern: str
    shape: float


class Law(NamedTuple):
    """Token counts and the cumulated probability of each."""

    tokens: IntArray
    upto: FloatArray

    def draw(self, count: int, rng: np.random.Generator) -> IntArray:
        """Return token counts, shape (count,), by inverse CDF."""
        drawn: IntArray = self.tokens[np.searchsorted(self.upto, rng.random(count) * self.upto[-1], side="right")]
        return drawn


@dataclass
class Client:
    """One chunk: its windows with requests, and lengths by start of their block, None where a block has none."""

    number: int
    windows: list[Window]
    blocks: dict[float, tuple[Law, Law] | None] = field(default_factory=dict)

    def laws(self, start_s: float) -> tuple[tuple[Law, Law], bool]:
        """Return the lengths of the block that a window is in, or else of the nearest with any; and whether so."""
        begun = [at for at in self.blocks if at <= start_s]
        own = self.blocks[max(begun)] if begun else None
        if own is not None:
            return own, True
        known = {at: laws for at, laws in self.blocks.items() if laws is not None}
        return known[min(known, key=lambda at: (abs(at - start_s), at))], False

    @property
    def has_lengths(self) -> bool:
        """Whether any block has lengths."""
        return any(self.blocks.values())


def read_clients(path: Path) -> list[Client]:
    """Return the clients by number.

    Raises:
        TraceError: if there is none, or a file is wrong.
    """
    texts = dict(_texts(path))
    rates = sorted((number, name) for (number, kind), (name, _) in texts.items() if kind == "trace.csv")
    if not rates:
        Problems(path).fail(1, "no chunk-N-trace.csv; a folder or archive of ServeGen's chunks is needed")
    clients = []
    holder = path if path.is_dir() or path.name.endswith(ARCHIVES) else path.parent
    for number, name in rates:
        client = Client(number, list(_windows(texts[number, "trace.csv"][1], Problems(holder / name))))
        if (number, "dataset.json") in texts:
            other, text = texts[number, "dataset.json"]
            client.blocks = _blocks(text, Problems(holder / other))
        clients.append(client)
    return clients


def _texts(path: Path) -> Iterator[Text]:
    """Yield (number, kind) and (name, text) of every file of every chunk, whatever holds them."""
    try:
        if path.is_dir():
            yield from _chosen((file.name, file.read_text) for file in sorted(path.glob("chunk-*")))
        elif path.name.endswith(ARCHIVES):
            with tarfile.open(path) as archive:
                yield from _chosen((member.name, partial(_member_text, archive, member)) for member in archive)
        else:
            yield from _chosen((file.name, file.read_text) for file in servegen_files(path))
    except (tarfile.TarError, OSError, EOFError, UnicodeDecodeError) as error:
        raise TraceError([f"{path}:1: the file cannot be read: {error}"]) from None


def _chosen(files: Iterable[tuple[str, Callable[[], str]]]) -> Iterator[Text]:
    for name, text in files:
        match = _CHUNK.fullmatch(name)
        if match:
            yield (int(match[1]), match[2]), (name, text())


def _member_text(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    content = archive.extractfile(member)
    return "" if content is None else content.read().decode("utf-8")


def _windows(text: str, problems: Problems) -> Iterator[Window]:
    """Yield the windows that have requests."""
    rows = [(line, cells) for line, cells in enumerate(csv.reader(text.splitlines()), start=1) if cells]
    starts = [_number(cells[0]) for _, cells in rows]
    widths = {after - before for before, after in itertools.pairwise(starts)} or {ONE_WINDOW_S}
    if len(widths) > 1 or not 0 < min(widths) < math.inf:
        problems.fail(1, f"windows of {', '.join(f'{width:g}' for width in sorted(widths))} s; equal ones are allowed")
    for line, cells in rows:
        window = _window(cells, min(widths))
        if window is None:
            text = "start in s, requests/s, CV, Gamma or Weibull, shape, scale are needed, all 0 without requests"
            problems.add(line, f"the row is {','.join(cells)[:60]!r}; {text}")
        elif window.requests:
            yield window
    problems.settle()


def _window(cells: list[str], width_s: float) -> Window | None:
    if len(cells) != COLUMNS:
        return None
    start_s, rate_per_s, shape = (_number(cells[place]) for place in (0, 1, 4))
    if not (0 <= start_s < math.inf and 0 <= rate_per_s <= MOST_PER_S):
        return None
    # the rate is a count over the window; nothing is lost by rounding
    requests, pattern = round(rate_per_s * width_s), cells[3].strip()
    if requests and (pattern not in ("Gamma", "Weibull") or not 0 < shape < math.inf):
        return None
    return Window(start_s, width_s, requests, pattern, shape)


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _blocks(text: str, problems: Problems) -> dict[float, tuple[Law, Law] | None]:
    try:
        tree = json.loads(text)
        return {float(start): _both(fields) for start, fields in tree.items()}
    except (ValueError, KeyError, TypeError, AttributeError, SyntaxError, RecursionError, MemoryError) as error:
        told = f"{type(error).__name__}: {error}"
        problems.fail(1, f"{told}; starts of blocks, each with input_tokens and output_tokens as text, are needed")


def _both(fields: dict[str, str]) -> tuple[Law, Law] | None:
    laws = [_law(fields[name]) for name in ("input_tokens", "output_tokens")]
    first, second = laws
    return None if first is None or second is None else (first, second)


def _law(text: str) -> Law | None:
    """Return the law that the text of a Python dictionary states; None where it is empty. Counts below 1 are left out.

    Raises:
        ValueError: if a probability is no number from 0 up.
    """
    shares = {int(count): float(share) for count, share in ast.literal_eval(text).items() if count >= 1}
    if not all(0 <= share < math.inf for share in shares.values()):
        msg = "a probability is negative or infinite"
        raise ValueError(msg)
    counts = sorted(shares)
    upto = np.cumsum([shares[count] for count in counts])
    return Law(np.array(counts, dtype=np.int64), upto) if counts and upto[-1] > 0 else None


def is_servegen(path: Path) -> bool:
    """Whether a path is a folder or an archive of chunks, or one chunk's file of rates."""
    if path.is_dir():
        return any(path.glob("chunk-*-trace.csv"))
    return path.name.endswith(ARCHIVES) or _CHUNK.fullmatch(path.name) is not None


def servegen_files(path: Path) -> list[Path]:
    """Return the files that a folder, an archive or one chunk's file of rates stands for."""
    if path.is_dir():
        return sorted(path.glob("chunk-*"))
    if path.name.endswith(ARCHIVES):
        return [path]
    beside = path.with_name(path.name.replace("trace.csv", "dataset.json"))
    return [file for file in dict.fromkeys((path, beside)) if file.is_file()]
